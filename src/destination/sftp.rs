//! Puts each message as a file on a partner's SFTP server.
//!
//! A file is written under a temporary name in its folder, synced, measured, and then renamed, never over another. So a partner
//! sees whole files only, and sending again does no harm: the same content under the name is success, other content a conflict.

mod upload;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::files::{self, Companion, Compress, Exists, Naming, Packing, Parcel, Permissions, Temporary};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Duration, Place, Secret, Table, time_limit};
use crate::expr::{ExprError, FileNameTemplate, PathTemplate};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::ssh::{self, Host, HostKey, Keeping, LegacyAlgorithm, LoginKeys, Plug, Sharing, Target};

use upload::{Manner, Uploader};

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "sftp",
    summary: "Puts each message as a file on an SFTP server.",
    example: r#"type      = "sftp"
host      = "sftp.partner.example"
user      = "acme"
key       = { file = "secrets/acme_ed25519" }
host_key  = "SHA256:jQtPlP0yNe2C4Hc/ClJ58c3GO8fqsZhhwVwKBUDOKIg"
directory = "orders/in"
file_name = "{{ meta.id }}.hl7"
"#,
    schema: |generator| generator.subschema_for::<Options>(),
    faults: &[
        "refused",
        "reset",
        "timeout",
        "dns",
        "authentication",
        "host_key",
        "protocol",
        "answer",
        "folder",
        "permission",
        "full",
        "conflict",
        "content",
    ],
    parse,
};

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
    /// The password; either this or `key`.
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
    /// The folder on the server, with expressions; by default the one that the login starts in. It must exist, except with `mkdir`.
    directory: Option<PathTemplate>,
    /// The file's name, with expressions. It must not change from attempt to attempt, and should differ from message to message.
    file_name: FileNameTemplate,
    /// Whether missing folders are made. Default false: a folder that a partner does not know of is one that he does not look into.
    #[serde(default)]
    mkdir: bool,
    /// The permissions of files, as in "0640". Not given: 0640, less what the server withholds.
    permissions: Option<Permissions>,
    /// The permissions of folders that are made, as in "0750". Not given: 0750, less what the server withholds.
    folder_permissions: Option<Permissions>,
    /// The name of a file while it is written.
    #[serde(default)]
    temporary: Temporary,
    /// What is done about a file that is there already: "compare" (the default: the same content is success, other content a conflict),
    /// "overwrite", "number" (`a-1.hl7`, `a-2.hl7` …), "keep".
    #[serde(default)]
    exists: Exists,
    /// What a file means that was taken away under our hands: "sent" or "retry". Not given: one that may have had its final name
    /// counts as sent; one that was taken under its temporary name is sent again.
    taken_away: Option<TakenAway>,
    /// Files that are put beside this one, before it.
    #[serde(default)]
    companion: Vec<Companion>,
    /// How the file is packed: "gzip" or "zip". Companions are not. `file_name` should say it: `.gz`, `.zip`.
    compress: Option<Compress>,
    /// Longest wait: for the connection, and for each answer.
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    timeout: Duration,
    /// Most connections to this server as this user, of all channels together: with a higher `parallel`, more. Default 4.
    #[serde(default = "default_connections", deserialize_with = "some_connections")]
    #[schemars(with = "u32")]
    connections: usize,
    /// A connection that nobody needs for so long is closed. Default "30s".
    #[serde(default = "default_idle")]
    idle_timeout: Duration,
    /// While a connection waits to be needed, a sign of life is sent so often: routers forget silent connections. Default "15s".
    #[serde(default = "default_keep_alive", deserialize_with = "time_limit")]
    keep_alive: Duration,
}

/// What it means when a file is gone that nobody but us should have touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TakenAway {
    /// The partner has it.
    Sent,
    /// Somebody tidied up; it is sent again.
    Retry,
}

fn default_port() -> u16 {
    22
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_connections() -> usize {
    4
}

fn some_connections<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let help = "a small number, as the partner allows; 1 makes all wait for one another";
    crate::config::more_than(deserializer, 0_u32, "without a connection nothing arrives", help)
        .map(|count| count as usize)
}

fn default_idle() -> Duration {
    Duration::from_secs(30)
}

fn default_keep_alive() -> Duration {
    Duration::from_secs(15)
}

fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let (span, name) = (table.span(), table.name().to_owned());
    let options: Options = table.read_with_more(super::COMMON_KEYS)?;
    options.login().check(&span, &name);
    files::check(&span, &name, options.exists, &options.companion, &options.temporary);
    Some(Box::new(options))
}

impl Options {
    fn login(&self) -> LoginKeys {
        let Options { password, key, passphrase, .. } = self.clone();
        LoginKeys { password, key, passphrase }
    }
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let (directory, file_name) = (self.directory.as_ref(), &self.file_name);
        Naming { directory, file_name, temporary: &self.temporary, companions: &self.companion }.prepare(message)
    }

    fn warnings(&self, _: Timestamp) -> Vec<String> {
        ssh::warning(&self.host.0, &self.legacy_algorithms).into_iter().collect()
    }

    async fn build(&self, _: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let target = Target {
            host: self.host.0.clone(),
            port: self.port,
            user: self.user.clone(),
            login: self.login().fetch()?,
            host_key: self.host_key.clone(),
            legacy_algorithms: self.legacy_algorithms.clone(),
            timeout: self.timeout.get(),
        };
        let keeping =
            Keeping { connections: self.connections, idle: self.idle_timeout.get(), keep_alive: self.keep_alive.get() };
        let manner = Manner {
            mkdir: self.mkdir,
            permissions: self.permissions,
            folder_permissions: self.folder_permissions,
            prefix: self.temporary.prefix.clone(),
            suffix: self.temporary.suffix.clone(),
            exists: self.exists,
            taken_away: self.taken_away,
        };
        Ok(Box::new(Sftp {
            sharing: Sharing::new(target, keeping),
            packing: Packing { compress: self.compress },
            uploader: Arc::new(Mutex::new(Uploader::new(manner))),
        }))
    }
}

/// The destination at work.
struct Sftp {
    sharing: Sharing,
    packing: Packing,
    /// Locked by the thread that is uploading, so that there is never more than one.
    uploader: Arc<Mutex<Uploader>>,
}

/// Ends the connection when the future that waits for the upload is dropped.
struct Unplug(Option<Arc<Plug>>);

impl Drop for Unplug {
    fn drop(&mut self) {
        if let Some(plug) = self.0.take() {
            plug.pull();
        }
    }
}

#[async_trait]
impl Destination for Sftp {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let lease = self.sharing.lease().await;
        let plug = Arc::new(Plug::default());
        let mut unplug = Unplug(Some(plug.clone()));
        let (uploader, packing, outgoing) = (self.uploader.clone(), self.packing.clone(), outgoing.clone());
        let working = tokio::task::spawn_blocking(move || {
            let parcel = Parcel::of(&outgoing, &packing)?;
            uploader.lock().unwrap_or_else(PoisonError::into_inner).deliver(&parcel, &lease, &plug)
        });
        let result = working.await.unwrap_or_else(|_| {
            Err(SendError::new(FaultClass::Internal, "the upload stopped by a mistake of Labwire's own"))
        });
        unplug.0 = None;
        result
    }
}
