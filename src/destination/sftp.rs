//! Puts each message as a file on a partner's SFTP server.
//!
//! A file is written under a temporary name in its folder, synced, measured, and then renamed, never over another. So a partner
//! sees whole files only, and sending again does no harm: the same content under the name is success, other content a conflict.

mod upload;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::AbortHandle;

use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Duration, Place, Secret, Table, report};
use crate::expr::{ExprError, FileNameTemplate, PathTemplate, Scope};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::ssh::{Client, Host, HostKey, Login, Plug, Target};

use upload::{IDLE, Uploader};

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
    /// The folder on the server, with expressions; by default the one that the login starts in. It must exist.
    directory: Option<PathTemplate>,
    /// The file's name, with expressions. It must not change from attempt to attempt, and should differ from message to message.
    file_name: FileNameTemplate,
    /// Longest wait: for the connection, and for each answer.
    #[serde(default = "default_timeout")]
    timeout: Duration,
}

fn default_port() -> u16 {
    22
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let (span, name) = (table.span(), table.name().to_owned());
    let options: Options = table.read_with_more(super::COMMON_KEYS)?;
    let help = || Some("write `key = { file = \"path\" }` or `password = { env = \"NAME\" }`".to_owned());
    match (&options.password, &options.key) {
        (None, None) => report(span.clone(), format!("{name} needs `key` or `password`"), "", help()),
        (Some(_), Some(_)) => report(span.clone(), format!("{name} has both `key` and `password`"), "", help()),
        _ => {}
    }
    if options.passphrase.is_some() && options.key.is_none() {
        report(
            span,
            format!("{name} has `passphrase` without `key`"),
            "",
            Some("a passphrase belongs to a key".to_owned()),
        );
    }
    Some(Box::new(options))
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let directory = match &self.directory {
            Some(directory) => directory.render(&scope)?,
            None => ".".to_owned(),
        };
        let properties =
            [("directory".to_owned(), directory), ("file_name".to_owned(), self.file_name.render(&scope)?)];
        Ok(Outgoing { content: message.body.to_bytes(), properties: properties.into() })
    }

    async fn build(&self, _: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let login = match (&self.password, &self.key) {
            (Some(password), _) => Login::Password(password.fetch()?),
            (None, Some(key)) => {
                let passphrase = self.passphrase.as_ref().map(Secret::fetch).transpose()?;
                Login::Key { private: private_key(key)?, passphrase }
            }
            (None, None) => return Err(BuildError::Secret("neither `key` nor `password` is given".to_owned())),
        };
        let client = Client::new(Target {
            host: self.host.0.clone(),
            port: self.port,
            user: self.user.clone(),
            login,
            host_key: self.host_key.clone(),
            timeout: self.timeout.get(),
        });
        Ok(Box::new(Sftp { uploader: Arc::new(Mutex::new(Uploader::new(client))), idle: None }))
    }
}

/// The text of a private key; the mistakes that people make with key files are named.
fn private_key(key: &Secret) -> Result<String, BuildError> {
    let text = key.fetch()?;
    let wrong = |what: &str| Err(BuildError::Secret(format!("{key}: {what}")));
    if text.starts_with("PuTTY-User-Key-File") {
        wrong("this is a PuTTY key; `puttygen FILE -O private-openssh -o NEW` converts it")
    } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        wrong("this is a public key; the private one is in the file without `.pub`")
    } else if !text.contains("PRIVATE KEY-----") {
        wrong("this is no private key in OpenSSH or PEM format")
    } else {
        Ok(text + "\n")
    }
}

/// The destination at work.
struct Sftp {
    /// Locked by the thread that is uploading, so that there is never more than one.
    uploader: Arc<Mutex<Uploader>>,
    /// Closes the connection after a while without work.
    idle: Option<AbortHandle>,
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

fn locked(uploader: &Mutex<Uploader>) -> std::sync::MutexGuard<'_, Uploader> {
    uploader.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Destination for Sftp {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        if let Some(idle) = self.idle.take() {
            idle.abort();
        }
        let plug = Arc::new(Plug::default());
        let mut unplug = Unplug(Some(plug.clone()));
        let (uploader, outgoing) = (self.uploader.clone(), outgoing.clone());
        let working = tokio::task::spawn_blocking(move || locked(&uploader).deliver(&outgoing, &plug));
        let result = working.await.unwrap_or_else(|_| {
            Err(SendError::new(FaultClass::Internal, "the upload stopped by a mistake of Labwire's own"))
        });
        unplug.0 = None;
        let uploader = self.uploader.clone();
        let resting = tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            // A partner may allow one connection at a time: one that is not used is given back.
            let _ = tokio::task::spawn_blocking(move || locked(&uploader).hang_up()).await;
        });
        self.idle = Some(resting.abort_handle());
        result
    }
}

impl Drop for Sftp {
    fn drop(&mut self) {
        if let Some(idle) = self.idle.take() {
            idle.abort();
        }
    }
}
