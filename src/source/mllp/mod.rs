//! `mllp`: HL7 v2 messages over TCP.
//!
//! One frame is one message; each is journaled, then answered, in the order in which they came on their connection. Between two
//! connections there is no order. What is answered is decided in [`judge`], without I/O; `connection` does the talking;
//! `listener` lets peers in.

mod clients;
mod connection;
mod judge;
mod listener;

use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use self::clients::Clients;
use self::listener::{Doors, Handshake, Listener};
use super::{Source, SourceConfig, SourceKind};
use crate::config::{
    BuildError, ByteSize, Duration, Listen, Mistake, Place, Resource, Table, more_than, parsed, report, time_limit,
};
use crate::hl7::{Charset, Limits};
use crate::net;
use crate::net::networks::Networks;
use crate::net::tls::ServerTls;

pub use judge::{Judged, judge};

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Listens for HL7 v2 messages over MLLP: journals each, then acknowledges it.",
    example: "type = \"mllp\"\nlisten = \"127.0.0.1:2575\"\n",
    schema: |generator| generator.subschema_for::<Mllp>(),
    parse,
};

const NAME: &str = "mllp";

/// The options of an `mllp` source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mllp {
    /// Where to listen, as in "0.0.0.0:2575" (every address of this machine); port 0 picks a free one.
    listen: Listen,
    /// When to acknowledge.
    #[serde(default)]
    #[expect(dead_code, reason = "it has one value so far; `transformed` and `delivered` come later")]
    ack: AckWhen,
    /// The largest message taken, without its frame. A larger one is answered AR where its MSH can be read (16MiB if not given).
    #[serde(default = "default_max_frame", deserialize_with = "some_bytes")]
    #[schemars(with = "ByteSize")]
    max_frame: ByteSize,
    /// At most so many connections at a time; one more is closed at once, logged and counted (256 if not given).
    #[serde(default = "default_max_connections", deserialize_with = "some_connections")]
    #[schemars(with = "u32")]
    max_connections: u32,
    /// Closes a connection on which nothing comes for so long. Without it, quiet connections stay: quiet feeds are normal.
    #[serde(default, deserialize_with = "some_idle_time")]
    #[schemars(with = "Option<Duration>")]
    idle_timeout: Option<Duration>,
    /// Closes a connection when within a frame nothing comes for so long; what came of the frame is given up (10s if not
    /// given).
    #[serde(default = "default_byte_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    byte_timeout: Duration,
    /// Closes a connection when a frame takes longer than this from its first byte to its last (30s if not given).
    #[serde(default = "default_frame_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    frame_timeout: Duration,
    /// The character set of messages that name none in MSH-18 and are not UTF-8, as in "windows-1252" or "8859/1". Without it,
    /// only their ASCII values can be read. No byte is changed either way.
    charset: Option<FallbackCharset>,
    /// For how long a message is known again: the same bytes with the same MSH-3, MSH-4 and MSH-10 get the acknowledgement of the
    /// first time, and are not processed twice (72h if not given). "off" for devices that give out the same MSH-10 again and again.
    #[serde(default)]
    duplicate_window: DuplicateWindow,
    /// Certificate and key for TLS, and the authority of clients' certificates where clients need one. Without it, what comes in
    /// is in the clear.
    tls: Option<ServerTls>,
    /// The clients that may connect, by a name in their certificates (a host name, the common name where there is none, or "sha256:" and the
    /// fingerprint), with what they may write into MSH-3 and MSH-4. A message of another sender is answered AR. Without it, every
    /// client with a certificate of `client_ca` may connect and send in any name.
    #[schemars(with = "Option<Clients>")]
    clients: Option<Spanned<Clients>>,
    /// The addresses and networks from which peers may connect, as in ["10.20.0.0/16", "192.168.3.7"]; another is closed at once,
    /// logged and counted. Without it, from everywhere.
    allow: Option<Networks>,
}

fn default_max_frame() -> ByteSize {
    ByteSize::from_mib(16)
}

fn default_max_connections() -> u32 {
    256
}

fn default_byte_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_frame_timeout() -> Duration {
    Duration::from_secs(30)
}

/// When a message is acknowledged.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum AckWhen {
    /// As soon as the message is on disk. (`transformed` and `delivered` come in a later version.)
    #[default]
    Received,
}

fn some_idle_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let help = "leave the key out to keep quiet connections open";
    more_than(deserializer, Duration::from_millis(0), "every connection would be closed at once", help).map(Some)
}

fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let help = "a size larger than nothing, as in \"16MiB\"";
    more_than(deserializer, ByteSize::from_mib(0), "no message is that small", help)
}

fn some_connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    more_than(deserializer, 0, "nobody could connect", "`enabled = false` keeps a channel out of service")
}

/// A character set by its name in HL7 table 0211, or by its common name.
#[derive(Debug, Clone, Copy)]
pub(super) struct FallbackCharset(pub(super) Charset);

impl FallbackCharset {
    fn parse(text: &str) -> Result<FallbackCharset, (String, String)> {
        let help = "for example \"windows-1252\", \"8859/1\" (Western Europe), \"8859/2\" (Central Europe), \"8859/5\" (Cyrillic)";
        match Charset::named(text) {
            Some(charset) if charset.is_readable() => Ok(FallbackCharset(charset)),
            Some(charset) => {
                Err((format!("{charset} cannot be read, only passed through"), "leave the key out".to_owned()))
            }
            None => Err((format!("`{text}` is not a character set"), help.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for FallbackCharset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FallbackCharset, D::Error> {
        parsed(deserializer, FallbackCharset(Charset::ASCII), FallbackCharset::parse)
    }
}

impl JsonSchema for FallbackCharset {
    fn schema_name() -> Cow<'static, str> {
        "Charset".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// For how long a message is known again; none: each is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DuplicateWindow(pub(super) Option<Duration>);

impl Default for DuplicateWindow {
    fn default() -> DuplicateWindow {
        DuplicateWindow(Some(Duration::from_secs(72 * 60 * 60)))
    }
}

impl DuplicateWindow {
    fn parse(text: &str) -> Result<DuplicateWindow, (String, String)> {
        let help = || "a duration as in \"72h\", or \"off\" to take every message as a new one".to_owned();
        if text == "off" {
            return Ok(DuplicateWindow(None));
        }
        match Duration::parse(text) {
            Some(window) if window == Duration::from_millis(0) => {
                Err(("no message comes again so soon".to_owned(), help()))
            }
            Some(window) => Ok(DuplicateWindow(Some(window))),
            None => Err((format!("`{text}` is not a duration"), help())),
        }
    }
}

impl<'de> Deserialize<'de> for DuplicateWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DuplicateWindow, D::Error> {
        parsed(deserializer, DuplicateWindow::default(), DuplicateWindow::parse)
    }
}

impl JsonSchema for DuplicateWindow {
    fn schema_name() -> Cow<'static, str> {
        "DuplicateWindow".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// Reads the options, and reports what does not go together.
fn parse(table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let config = table.read::<Mllp>()?;
    let knows_clients = config.tls.as_ref().is_some_and(ServerTls::wants_certificates);
    if let Some(clients) = config.clients.as_ref().filter(|_| !knows_clients) {
        let help = "add `client_ca` to `tls`: the authority that clients' certificates must come from".to_owned();
        report(clients.span(), "`clients` without `client_ca`", "clients need no certificate", Some(help));
    }
    Some(Box::new(config))
}

#[async_trait]
impl SourceConfig for Mllp {
    fn resources(&self) -> Vec<Resource> {
        vec![Resource::Port(self.listen.0)]
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.as_ref().map_or_else(Vec::new, ServerTls::mistakes)
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.warnings(now))
    }

    fn judge(&self, raw: &Bytes) -> Option<Judged> {
        let limit = self.max_frame.bytes();
        if raw.len() > limit {
            return Some(Judged::too_large(raw, limit));
        }
        let charset = self.charset.map(|FallbackCharset(charset)| charset);
        Some(judge::judge_with(raw, &Limits::default(), charset))
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError> {
        // Before the port is open: a listener that was meant to be encrypted never comes up in the clear.
        let tls = match &self.tls {
            Some(tls) => Some(Handshake { acceptor: tls.build(place)?, timeout: tls.handshake_timeout().get() }),
            None => None,
        };
        let address = self.listen.0;
        let failed = |error| BuildError::Listen { address, error };
        let socket = net::listen(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let options = connection::Options {
            max_frame_bytes: self.max_frame.bytes(),
            idle_timeout: self.idle_timeout.map(Duration::get),
            byte_timeout: self.byte_timeout.get(),
            frame_timeout: self.frame_timeout.get(),
            charset: self.charset.map(|FallbackCharset(charset)| charset),
            duplicate_window: self.duplicate_window.0.map(Duration::get),
        };
        let doors = Doors {
            max_connections: self.max_connections,
            allow: self.allow.clone(),
            tls,
            clients: self.clients.clone().map(Spanned::into_inner),
        };
        Ok(Box::new(Listener::new(socket, address, doors, options)))
    }
}
