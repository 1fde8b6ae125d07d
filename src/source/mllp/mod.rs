//! `mllp`: HL7 v2 messages over TCP.
//!
//! One frame is one message; each is journaled, then answered, in the order in which they came on their connection. Between two
//! connections there is no order. What is answered is decided in [`judge`], without I/O; `connection` does the talking;
//! `listener` lets peers in, `caller` connects to a peer that sends to whoever calls.

mod batch;
mod caller;
mod clients;
mod connection;
mod judge;
mod listener;
mod policy;

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use self::caller::{Caller, Connect};
use self::clients::Clients;
use self::listener::{Doors, Handshake, Listener};
use self::policy::{Acknowledgements, Policy, Stale};
use super::ack::awaited;
use super::duplicates::DuplicateWindow;
use super::values::some_bytes;
use super::{AckWhen, CharsetOption, Source, SourceConfig, SourceKind};
use crate::config::{
    BuildError, ByteSize, Duration, Listen, Mistake, Place, Resource, Table, more_than, report, time_limit,
};
use crate::diagnostic::did_you_mean;
use crate::hl7::Limits;
use crate::net;
use crate::net::framing::{FramingBytes, Release};
use crate::net::networks::Networks;
use crate::net::tls::ServerTls;

pub use judge::{Judged, judge};

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Takes HL7 v2 messages in over MLLP, as a listener or from a peer that it calls: journals each, then acknowledges it.",
    example: "type = \"mllp\"\nlisten = \"127.0.0.1:2575\"\n",
    schema: |generator| generator.subschema_for::<Mllp>(),
    parse,
};

const NAME: &str = "mllp";

/// The options of an `mllp` source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mllp {
    /// Where to listen, as in "0.0.0.0:2575" (every address of this machine); port 0 picks a free one. Either this or `connect`.
    listen: Option<Listen>,
    /// The peer to call, as in "analyser.lab.example:4001", for one that listens and sends its messages to whoever connects: its
    /// address, or a table. Either this or `listen`.
    connect: Option<Connect>,
    /// When to acknowledge: "received" (as soon as the message is on disk), "transformed" (once the transformer is done with it:
    /// AE where it failed), "delivered" (once it was delivered, or will not be: the receiver's own answer).
    #[serde(default)]
    ack: AckWhen,
    /// With `ack = "delivered"`: the destination whose answer is passed on. Without it, the first one of the file.
    #[schemars(with = "Option<String>")]
    ack_from: Option<Spanned<String>>,
    /// With `ack = "transformed"` or `"delivered"`: how long is waited. Then AE is answered; the message stays and goes on, and who
    /// sends it again learns what became of it (30s if not given).
    #[schemars(with = "Option<Duration>")]
    ack_timeout: Option<Spanned<Duration>>,
    /// The largest message taken, without its frame. A larger one is answered AR where its MSH can be read.
    #[serde(default = "default_max_frame", deserialize_with = "some_bytes")]
    #[schemars(with = "ByteSize")]
    max_frame: ByteSize,
    /// At most so many connections at a time; one more is closed at once, logged and counted.
    #[serde(default = "default_max_connections", deserialize_with = "some_connections")]
    #[schemars(with = "u32")]
    max_connections: u32,
    /// At most so many of these connections from one address (IPv6: from one network of 64 bits); one more is closed at once,
    /// logged and counted. Without it, one address may have them all.
    #[serde(default, deserialize_with = "some_connections_of_one")]
    #[schemars(with = "Option<u32>")]
    max_connections_per_address: Option<u32>,
    /// Closes a connection on which nothing comes for so long. Without it, quiet connections stay: quiet feeds are normal.
    #[serde(default, deserialize_with = "some_idle_time")]
    #[schemars(with = "Option<Duration>")]
    idle_timeout: Option<Duration>,
    /// Closes a connection when within a frame nothing comes for so long; what came of the frame is given up.
    #[serde(default = "default_byte_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    byte_timeout: Duration,
    /// Closes a connection when a frame takes longer than this from its first byte to its last.
    #[serde(default = "default_frame_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    frame_timeout: Duration,
    /// The character set of messages that name none in MSH-18 and are not UTF-8, as in "windows-1252" or "8859/1". Without it,
    /// only their ASCII values can be read. No byte is changed either way.
    charset: Option<CharsetOption>,
    /// For how long a message is known again: the same bytes with the same MSH-3, MSH-4 and MSH-10 get the acknowledgement of the
    /// first time, and are not processed twice. "off" for devices that give out the same MSH-10 again and again.
    #[serde(default)]
    duplicate_window: DuplicateWindow,
    /// What is done with messages that are too old to be believed: they may have been recorded and played again. Without it, their
    /// time is not looked at.
    stale_timestamp: Option<Stale>,
    /// What becomes of an HL7 acknowledgement (MSH-9 is ACK or MCF) that comes in as a message: "reject" (it is kept, and not
    /// processed) or "process" (it goes on like any message: for peers that send their application acknowledgements here). It
    /// is never acknowledged.
    #[serde(default)]
    acknowledgements: Acknowledgements,
    /// The bytes that frame a message, for peers that use others than MLLP's.
    #[serde(default)]
    framing: FramingBytes,
    /// The release of MLLP: 2 answers each frame by a commit acknowledgement, in a frame of its own, before HL7's.
    #[serde(default)]
    release: Release,
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

fn some_idle_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let help = "leave the key out to keep quiet connections open";
    more_than(deserializer, Duration::from_millis(0), "every connection would be closed at once", help).map(Some)
}

fn some_connections_of_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    more_than(deserializer, 0, "nobody could connect", "leave the key out where one address may have all connections")
        .map(Some)
}

fn some_connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    more_than(deserializer, 0, "nobody could connect", "`enabled = false` keeps a channel out of service")
}

/// Keys that say who is let in.
const OF_A_LISTENER: &[&str] = &["max_connections", "max_connections_per_address", "allow", "clients", "tls"];

/// Reads the options, and reports what does not go together.
fn parse(table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let (span, name, keys) = (table.span(), table.name().to_owned(), table.keys());
    let config = table.read::<Mllp>()?;
    match (&config.listen, &config.connect) {
        // A mistyped key is one mistake, not two.
        (None, None) if keys.iter().any(|(key, _)| did_you_mean(key, ["listen", "connect"]).is_some()) => {}
        (None, None) => {
            let help = "`listen`: where peers connect to; or `connect`: the peer to call".to_owned();
            report(span, format!("missing key `listen` in {name}"), "", Some(help));
        }
        (Some(_), Some(_)) => {
            let help = "a source either listens or calls: take one of the two out".to_owned();
            report(span, format!("{name} has both `listen` and `connect`"), "", Some(help));
        }
        (Some(_), None) => {}
        (None, Some(_)) => {
            for (key, span) in keys.into_iter().filter(|(key, _)| OF_A_LISTENER.contains(&key.as_str())) {
                let help = match key.as_str() {
                    "tls" => {
                        "write `connect = { address = \"HOST:PORT\", tls = true }`, or a table for `tls` as a destination has"
                    }
                    _ => "nobody connects to a source that calls: take it out",
                };
                report(span, format!("`{key}` beside `connect`"), "it is about who is let in", Some(help.to_owned()));
            }
        }
    }
    config.tls.iter().for_each(ServerTls::report_stray_revocations);
    let knows_clients = config.tls.as_ref().is_some_and(ServerTls::wants_certificates);
    if let Some(clients) = config.clients.as_ref().filter(|_| !knows_clients && config.connect.is_none()) {
        let help = "add `client_ca` to `tls`: the authority that clients' certificates must come from".to_owned();
        report(clients.span(), "`clients` without `client_ca`", "clients need no certificate", Some(help));
    }
    awaited(config.ack, config.ack_from.as_ref(), config.ack_timeout.as_ref());
    Some(Box::new(config))
}

impl Mllp {
    fn policy(&self) -> Policy {
        Policy { acknowledgements: self.acknowledgements, stale: self.stale_timestamp }
    }

    fn options(&self) -> connection::Options {
        connection::Options {
            max_frame_bytes: self.max_frame.bytes(),
            idle_timeout: self.idle_timeout.map(Duration::get),
            byte_timeout: self.byte_timeout.get(),
            frame_timeout: self.frame_timeout.get(),
            charset: self.charset.map(|CharsetOption(charset)| charset),
            duplicate_window: self.duplicate_window.0.map(Duration::get),
            framing: self.framing.0,
            release: self.release,
            policy: self.policy(),
            awaited: awaited(self.ack, self.ack_from.as_ref(), self.ack_timeout.as_ref()),
        }
    }

    /// Opens the port.
    fn listener(&self, address: SocketAddr, place: &Place) -> Result<Listener, BuildError> {
        // Before the port is open: a listener that was meant to be encrypted never comes up in the clear.
        let tls = match &self.tls {
            Some(tls) => Some(Handshake { acceptor: tls.build(place)?, timeout: tls.handshake_timeout().get() }),
            None => None,
        };
        let failed = |error| BuildError::Listen { address, error };
        let socket = net::listen(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let doors = Doors {
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            allow: self.allow.clone(),
            tls,
            clients: self.clients.clone().map(Spanned::into_inner),
        };
        Ok(Listener::new(socket, address, doors, self.options()))
    }
}

#[async_trait]
impl SourceConfig for Mllp {
    fn resources(&self) -> Vec<Resource> {
        self.listen.iter().map(|listen| Resource::Port(listen.0)).collect()
    }

    fn acknowledges(&self) -> AckWhen {
        self.ack
    }

    fn answers_from(&self) -> Option<&Spanned<String>> {
        self.ack_from.as_ref()
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let listening = self.tls.iter().flat_map(ServerTls::mistakes);
        listening.chain(self.connect.iter().flat_map(|connect| connect.tls.mistakes())).collect()
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        let listening = self.tls.iter().flat_map(|tls| tls.warnings(now));
        listening.chain(self.connect.iter().flat_map(|connect| connect.tls.warnings(now))).collect()
    }

    fn judge(&self, raw: &Bytes) -> Option<Judged> {
        let limit = self.max_frame.bytes();
        if raw.len() > limit {
            return Some(Judged::too_large(raw, limit));
        }
        let charset = self.charset.map(|CharsetOption(charset)| charset);
        let judged = judge::judge_with(raw, &Limits::default(), charset);
        // Tests of channel files have no clock: their messages are as old as they say.
        Some(Policy { stale: None, ..self.policy() }.judge(judged, Timestamp::UNIX_EPOCH).0)
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError> {
        if let Some(connect) = &self.connect {
            return Ok(Box::new(Caller::new(connect, connect.tls.build(place)?, self.options())));
        }
        let listen = self.listen.expect("`parse` lets through no source that neither listens nor calls");
        Ok(Box::new(self.listener(listen.0, place)?))
    }
}
