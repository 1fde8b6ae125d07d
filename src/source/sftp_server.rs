//! `sftp_server`: partners upload files to Labwire's own SFTP server.
//!
//! One channel is one folder of one user. A file is taken when the client closes it under its own name, or renames it to it; the
//! client's answer is OK once the message is in the journal, and not before (`hosted/folder.rs`).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use toml::Spanned;
use tracing::{debug, error, warn};

use super::duplicates::DuplicateWindow;
use super::{FormatOption, Incoming, Intake, Source, SourceConfig, SourceKind, Taken};
use crate::config::{BuildError, ByteSize, Duration, Mistake, Place, Resource, Table, more_than, report, time_limit};
use crate::hosted::{self, Capture, Captured, Glob, Listener, Rules, Verdict};
use crate::journal::{Identity, OtherBody, Repeat};
use crate::message::Origin;
use crate::net::drop::Door;

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Labwire's own SFTP server: a folder into which one partner uploads files; each is journaled before the upload is \
              answered.",
    example: r#"type   = "sftp_server"
listen = "127.0.0.1:2222"
user   = "acme"
keys   = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ acme"]
folder = "orders"
"#,
    schema: Door::schema_with::<Keys>,
    parse,
};

const NAME: &str = "sftp_server";

/// The keys of the source, beside those of the door.
const KEYS: &[&str] = &[
    "access",
    "capture",
    "names",
    "temporary",
    "format",
    "max_size",
    "quota_bytes",
    "quota_files",
    "keep_accepted",
    "keep_incomplete",
    "duplicate_window",
];

/// The options of an `sftp_server` source, beside those of the door.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// What the partner may do in the folder: "upload" (and see the names of what is there), or "both": also read what was accepted
    /// for as long as it is kept. A folder to download from belongs to a destination of this type.
    #[serde(default)]
    access: Access,
    /// When a file is taken: at its "close" (the default), or only when it is renamed from a temporary name ("rename"). A client that is
    /// interrupted may close what it has half sent, so "rename" is the safer one for partners who can.
    #[serde(default)]
    capture: CaptureAt,
    /// The names of files that are taken, as in ["*.hl7"]; `*` stands for any characters, `?` for one, and case does not matter.
    /// Without it, every name.
    names: Option<Patterns>,
    /// The names that clients give to what they are still uploading: such a file waits until it is renamed (if not given:
    /// "*.filepart", "*.part", "*.tmp", "*.temp", ".*").
    #[serde(default = "default_temporary")]
    temporary: Patterns,
    /// How files are to be read. One that cannot be is refused, and kept in the journal as rejected.
    #[serde(default)]
    format: FormatOption,
    /// The largest file taken (16MiB if not given).
    #[serde(default = "default_max_size", deserialize_with = "some_bytes")]
    #[schemars(with = "ByteSize")]
    max_size: ByteSize,
    /// What all files in the folder may take together, unfinished ones and those that are kept for a while after they were accepted
    /// (1GiB if not given).
    #[serde(default = "default_quota_bytes", deserialize_with = "some_bytes")]
    #[schemars(with = "ByteSize")]
    quota_bytes: ByteSize,
    /// How many files may be in the folder at a time (10000 if not given).
    #[serde(default = "default_quota_files", deserialize_with = "some_files")]
    #[schemars(with = "u32")]
    quota_files: u32,
    /// For how long the partner still sees a file that was accepted: read-only, and its name is taken meanwhile ("1h" if not given).
    /// "0s": it is gone at once, which some clients take for an error, because they look for it after the upload.
    #[serde(default = "default_keep_accepted")]
    keep_accepted: Duration,
    /// For how long an unfinished upload is kept, to be gone on with ("1d" if not given).
    #[serde(default = "default_keep_incomplete", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    keep_incomplete: Duration,
    /// For how long a file is known again: the same content under the same name is answered as the first time and not processed twice
    /// (72h if not given). "off" takes each as a new one.
    #[serde(default)]
    duplicate_window: DuplicateWindow,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Access {
    /// Upload alone.
    #[default]
    Upload,
    /// Upload, and read what was accepted.
    Both,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CaptureAt {
    /// When it is closed, or renamed.
    #[default]
    Close,
    /// When it is renamed.
    Rename,
}

/// Patterns of file names.
#[derive(Debug, Clone)]
struct Patterns(Vec<Glob>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Patterns, D::Error> {
        let items = Vec::<Spanned<String>>::deserialize(deserializer)?;
        let read = |item: &Spanned<String>| match Glob::new(item.get_ref()) {
            Ok(glob) => Some(glob),
            Err(help) => {
                report(item.span(), format!("`{}` is no pattern", item.get_ref()), "", Some(help.to_owned()));
                None
            }
        };
        Ok(Patterns(items.iter().filter_map(read).collect()))
    }
}

impl JsonSchema for Patterns {
    fn schema_name() -> Cow<'static, str> {
        "Patterns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "string" }, "description": "Patterns of file names." })
    }
}

fn default_temporary() -> Patterns {
    let patterns = ["*.filepart", "*.part", "*.tmp", "*.temp", ".*"];
    Patterns(patterns.iter().filter_map(|pattern| Glob::new(pattern).ok()).collect())
}

fn default_max_size() -> ByteSize {
    ByteSize::from_mib(16)
}

fn default_quota_bytes() -> ByteSize {
    ByteSize::from_mib(1024)
}

fn default_quota_files() -> u32 {
    10_000
}

fn default_keep_accepted() -> Duration {
    Duration::from_secs(60 * 60)
}

fn default_keep_incomplete() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let help = "a size larger than nothing, as in \"16MiB\"";
    more_than(deserializer, ByteSize::from_mib(0), "no file is that small", help)
}

fn some_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    more_than(deserializer, 0, "nothing could be uploaded", "`enabled = false` keeps a channel out of service")
}

#[derive(Debug, Clone)]
struct SftpServer {
    door: Door,
    keys: Keys,
}

fn parse(mut table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let door = Door::take(&mut table, KEYS);
    let keys = table.read_with_more::<Keys>(Door::keys());
    Some(Box::new(SftpServer { door: door?, keys: keys? }))
}

impl SftpServer {
    fn rules(&self) -> Rules {
        let keys = &self.keys;
        Rules {
            access: match keys.access {
                Access::Upload => hosted::Access::Upload,
                Access::Both => hosted::Access::Both,
            },
            by_rename: matches!(keys.capture, CaptureAt::Rename),
            names: keys.names.clone().map(|Patterns(names)| names),
            temporary: keys.temporary.0.clone(),
            max_bytes: keys.max_size.bytes() as u64,
            quota_bytes: keys.quota_bytes.bytes() as u64,
            quota_files: keys.quota_files.into(),
            keep: Some(keys.keep_accepted.get()),
            keep_incomplete: keys.keep_incomplete.get(),
            may_delete: false,
        }
    }
}

#[async_trait]
impl SourceConfig for SftpServer {
    fn resources(&self) -> Vec<Resource> {
        self.door.resources(None)
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.door.mistakes()
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError> {
        let listener = self.door.listener(place).await?;
        Ok(Box::new(Drop { config: self.clone(), listener, disk: self.door.disk(place)? }))
    }
}

/// The source at work.
struct Drop {
    config: SftpServer,
    listener: Arc<Listener>,
    disk: PathBuf,
}

#[async_trait]
impl Source for Drop {
    fn listens_on(&self) -> Option<SocketAddr> {
        Some(self.listener.address())
    }

    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let channel = intake.channel().to_owned();
        let taker = Arc::new(Taker {
            intake,
            format: self.config.keys.format.clone(),
            window: self.config.keys.duplicate_window.0.map(Duration::get),
            runtime: Handle::current(),
        });
        let Drop { config, listener, disk } = *self;
        let name = channel.clone();
        let open = move || config.door.open(&listener, &name, disk, config.rules(), Some(taker));
        match tokio::task::spawn_blocking(open).await {
            Ok(Ok(granted)) => {
                stop.cancelled().await;
                granted.withdraw().await;
            }
            Ok(Err(error)) => error!(channel, %error, "the folder of the partner cannot be opened"),
            Err(_) => error!(channel, "the folder of the partner cannot be opened, which is a bug"),
        }
    }
}

/// Takes files into the channel.
struct Taker {
    intake: Intake,
    format: FormatOption,
    window: Option<std::time::Duration>,
    runtime: Handle,
}

impl Capture for Taker {
    fn capture(&self, file: Captured) -> Verdict {
        self.runtime.block_on(self.take(file))
    }
}

impl Taker {
    /// The same name and the same content: an upload that was answered, and whose answer was lost.
    fn identity(&self, name: &str, content: &[u8], looked: &Incoming) -> Option<Identity> {
        let window = self.window.filter(|_| looked.rejected.is_none())?;
        let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{}\r{name}\r{digest}", self.intake.channel());
        Some(Identity { key, window: Some(window), other_body: OtherBody::Kept })
    }

    async fn take(&self, file: Captured) -> Verdict {
        let received_at = Timestamp::now();
        let (id, channel) = (self.intake.next_id(), self.intake.channel());
        let body = Bytes::from(file.content);
        let looked = self.format.read(&body);
        let rejection = looked.rejected.clone();
        let identity = self.identity(&file.name, &body, &looked);
        let peer = format!("{}@{}", file.user, file.peer);
        let mut origin = Origin {
            source: NAME.to_owned(),
            peer: Some(peer.clone()),
            file_name: Some(file.name),
            ..Origin::default()
        };
        self.format.note(&mut origin);
        let accepted = self.intake.accept(Taken {
            id,
            received_at,
            body,
            read: looked.body,
            format: self.format.format(),
            origin,
            refs: looked.refs,
            acknowledgement: None,
            rejected: looked.rejected,
            identity,
        });
        match (accepted.await, rejection) {
            (Ok(_), Some(reason)) => {
                warn!(channel, peer, message = %id, reason, "rejected");
                Verdict::Rejected(reason)
            }
            (Ok(receipt), None) => {
                if receipt.repeat() == Repeat::No {
                    debug!(channel, peer, message = %id, "received");
                }
                Verdict::Taken
            }
            (Err(error), _) if error.is_full() => {
                debug!(channel, peer, %error, "a file could not be stored");
                Verdict::NotStored(
                    "there is no room in the journal; the file was not taken, send it again later".to_owned(),
                )
            }
            (Err(error), _) => {
                warn!(channel, peer, %error, "a file could not be stored");
                Verdict::NotStored("the file could not be stored; it was not taken, send it again later".to_owned())
            }
        }
    }
}
