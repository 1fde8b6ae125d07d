//! `sftp`: captures the files of a folder on a partner's SFTP server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::poll::{Means, PollOptions, Poller, Remote, Rules};
use super::{FormatOption, Judged, Schedule, Source, SourceConfig, SourceKind, judge};
use crate::config::{BuildError, Duration, Place, Secret, Table, time_limit};
use crate::hl7::Limits;
use crate::net::ssh::{self, Client, Host, HostKey, LegacyAlgorithm, LoginKeys, Plug, Target};

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Captures the files of a folder on an SFTP server, each once: journals it, then moves or deletes it.",
    example: r#"type      = "sftp"
host      = "sftp.partner.example"
user      = "acme"
key       = { file = "secrets/acme_ed25519" }
host_key  = "SHA256:jQtPlP0yNe2C4Hc/ClJ58c3GO8fqsZhhwVwKBUDOKIg"
directory = "results/out"
files     = "*.hl7"
after     = { move = "done" }
"#,
    schema: |generator| Schedule::add_to(PollOptions::schema_with::<Options>(generator)),
    parse,
};

const NAME: &str = "sftp";

/// How often the folder is looked at, if nothing else is said; and how much time is between two polls that count.
const EVERY: u64 = 30;

/// The options of an `sftp` source, beside those of every poller.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Name or address of the server.
    host: Host,
    /// TCP port.
    #[serde(default = "default_port")]
    port: u16,
    /// The login name.
    user: String,
    /// The password; either this or `key`. Also given where the server asks for it.
    password: Option<Secret>,
    /// The private key, in OpenSSH or PEM format; either this or `password`.
    key: Option<Secret>,
    /// What the private key is encrypted with.
    passphrase: Option<Secret>,
    /// The fingerprint of the server's key, "SHA256:…" as OpenSSH prints it; a list while the partner changes keys. A server with
    /// another key is refused.
    host_key: HostKey,
    /// Algorithms that are not safe any more and that this server needs all the same. Without this key none of them is used.
    #[serde(default)]
    legacy_algorithms: Vec<LegacyAlgorithm>,
    /// The folder on the server; by default the one that the login starts in.
    #[serde(default = "default_directory")]
    directory: PathBuf,
    /// Longest wait: for the connection, and for each answer.
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    timeout: Duration,
}

fn default_port() -> u16 {
    22
}

fn default_directory() -> PathBuf {
    PathBuf::from(".")
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

/// What this source has beside what every poller has.
const KEYS: &[&str] =
    &["host", "port", "user", "password", "key", "passphrase", "host_key", "legacy_algorithms", "directory", "timeout"];

#[derive(Debug)]
struct Config {
    options: Options,
    login: LoginKeys,
    rules: Rules,
}

fn parse(mut table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let (span, name) = (table.span(), table.name().to_owned());
    let schedule = Schedule::take(&mut table, Some(Duration::from_secs(EVERY)));
    let (poll, table) = PollOptions::read(table, &[KEYS, Schedule::KEYS].concat());
    let keys = PollOptions::keys();
    let more: Vec<&str> = keys.iter().map(String::as_str).chain(Schedule::KEYS.iter().copied()).collect();
    let options: Options = table.read_with_more(&more)?;
    let login = LoginKeys {
        password: options.password.clone(),
        key: options.key.clone(),
        passphrase: options.passphrase.clone(),
    };
    login.check(&span, &name);
    let rules = Rules {
        kind: NAME,
        host: Some(options.host.0.clone()),
        options: Arc::new(poll?),
        schedule: schedule?,
        settle: StdDuration::from_secs(EVERY),
    };
    Some(Box::new(Config { options, login, rules }))
}

#[async_trait]
impl SourceConfig for Config {
    fn format(&self) -> Option<&FormatOption> {
        Some(self.rules.options.format())
    }

    fn judge(&self, raw: &Bytes) -> Option<Judged> {
        Some(judge(raw, &Limits::default()))
    }

    fn warnings(&self, _: Timestamp) -> Vec<String> {
        ssh::warning(&self.options.host.0, &self.options.legacy_algorithms).into_iter().collect()
    }

    async fn build(&self, _: &Place) -> Result<Box<dyn Source>, BuildError> {
        let options = &self.options;
        let client = Client::new(Target {
            host: options.host.0.clone(),
            port: options.port,
            user: options.user.clone(),
            login: self.login.fetch()?,
            host_key: options.host_key.clone(),
            legacy_algorithms: options.legacy_algorithms.clone(),
            timeout: options.timeout.get(),
        });
        let plug = Arc::new(Plug::default());
        let folder = Remote::new(client, options.directory.clone(), plug.clone());
        let means = Means { folder: Box::new(folder), plug: Some(plug), watched: None };
        Ok(Box::new(Poller::new(self.rules.clone(), means)))
    }
}
