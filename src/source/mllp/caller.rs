//! Calls a peer that sends its messages to whoever connects, and calls it again whenever the connection is gone.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use async_trait::async_trait;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use toml::Spanned;
use tracing::debug;

use super::connection::{Connection, Options, Peer};
use crate::config::{Duration, HostPort, report, time_limit};
use crate::net::dial::{ConnectError, DialError, connect};
use crate::net::tls::{Client, ClientTls, Stream};
use crate::source::{Intake, Source};

/// The longest wait after the first failure; it doubles with every further one.
const FIRST_PAUSE: StdDuration = StdDuration::from_millis(500);

/// The peer that is called.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// The peer, as in "analyser.lab.example:4001"; the name is looked up at every connection.
    address: HostPort,
    /// How long finding the name, connecting and the TLS handshake may take.
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    timeout: Duration,
    /// The longest wait before a peer that does not answer is called again: half a second at first, doubled each time, and up to a
    /// half less by chance, so that not everybody calls at once.
    #[serde(default = "default_longest_pause", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    longest_pause: Duration,
    /// Encrypts the connection and verifies the peer: `true` where the peer's certificate comes from an authority that this
    /// system knows, or a table. Without it, the connection is in the clear.
    #[serde(default)]
    pub(super) tls: ClientTls,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_longest_pause() -> Duration {
    Duration::from_secs(30)
}

/// The peer that is called: its address, or a table.
#[derive(Debug, Clone)]
pub(super) struct Connect(Keys);

impl std::ops::Deref for Connect {
    type Target = Keys;

    fn deref(&self) -> &Keys {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Connect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Connect, D::Error> {
        enum Read {
            Address(String),
            Keys(Box<Keys>),
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table")
            }

            fn visit_str<E>(self, text: &str) -> Result<Read, E> {
                Ok(Read::Address(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Read, A::Error> {
                Keys::deserialize(MapAccessDeserializer::new(map)).map(|keys| Read::Keys(Box::new(keys)))
            }
        }
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        let span = read.span();
        Ok(Connect(match read.into_inner() {
            Read::Keys(keys) => *keys,
            Read::Address(text) => Keys {
                address: HostPort::parse(&text).unwrap_or_else(|help| {
                    report(span, format!("`{text}` is not an address to connect to"), "", Some(help.to_owned()));
                    HostPort { host: "invalid".to_owned(), port: 1 }
                }),
                timeout: default_timeout(),
                longest_pause: default_longest_pause(),
                tls: ClientTls::default(),
            },
        }))
    }
}

impl JsonSchema for Connect {
    fn schema_name() -> Cow<'static, str> {
        "Connect".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [HostPort::json_schema(generator), Keys::json_schema(generator)] })
    }
}

/// A source that calls.
pub(super) struct Caller {
    keys: Keys,
    tls: Option<Client>,
    options: Arc<Options>,
}

impl Caller {
    pub(super) fn new(connect: &Connect, tls: Option<Client>, options: Options) -> Caller {
        Caller { keys: connect.0.clone(), tls, options: Arc::new(options) }
    }

    async fn open(&self) -> Result<Stream, String> {
        let (address, timeout) = (&self.keys.address, self.keys.timeout);
        let opened = connect(address, Instant::now() + timeout.get(), self.tls.as_ref()).await;
        opened.map_err(|error| match error {
            ConnectError::Dial(DialError::NoSuchName(error)) => {
                format!("{address}: the name cannot be resolved: {error}")
            }
            ConnectError::Dial(DialError::NotConnected(error)) => format!("{address}: cannot connect: {error}"),
            ConnectError::Dial(DialError::NotAllowed(_) | DialError::Timeout) => {
                format!("{address}: no connection within {timeout}")
            }
            ConnectError::HandshakeTimeout => {
                format!("{address}: connected, but no TLS within {timeout}; look whether this port speaks TLS")
            }
            ConnectError::Tls(error) => format!("{address}: {error}"),
        })
    }

    /// Serves one connection; true when something came over it, or it lasted for so long.
    async fn serve(&self, stream: Stream, intake: &Intake, stop: &CancellationToken, long: StdDuration) -> bool {
        let counted = || {
            let now = intake.counters().now();
            now.received + now.rejected + now.repeated
        };
        let (began, before) = (Instant::now(), counted());
        let peer = Peer { address: self.keys.address.to_string(), sender: None };
        Connection::new(stream, peer, self.options.clone(), intake.clone(), stop.clone()).serve().await;
        counted() != before || began.elapsed() >= long
    }
}

#[async_trait]
impl Source for Caller {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let longest = self.keys.longest_pause.get();
        let first = FIRST_PAUSE.min(longest / 2);
        let mut pause = first;
        loop {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = self.open() => opened,
            };
            match opened {
                Ok(stream) => {
                    intake.trouble(None);
                    if self.serve(stream, &intake, &stop, pause).await {
                        pause = first;
                    } else if !stop.is_cancelled() {
                        intake.trouble(Some(format!("{}: it closes every connection at once", self.keys.address)));
                    }
                }
                Err(why) => intake.trouble(Some(why)),
            }
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            debug!(channel = intake.channel(), wait_ms = wait.as_millis(), "the peer is called again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => pause = (pause * 2).min(longest),
            }
        }
    }
}
