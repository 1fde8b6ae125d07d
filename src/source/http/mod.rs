//! `http`: applications post messages.
//!
//! One request is one message; it is journaled, then answered. Requests on several connections have no order. Ports are shared
//! between channels by method and path (`port`); who may connect is the port's matter (`door`), who may post the channel's
//! (`auth`); `take` handles a request, `answers` says what is answered. HTTP/1.1 (RFC 9112), with or without TLS.

mod answers;
mod auth;
mod door;
mod port;
mod take;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::Method;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use toml::Spanned;
use tracing::warn;

use self::answers::{Answers, Part};
use self::auth::{Auth, Guard};
use self::door::Door;
use self::port::Seat;
use self::take::{Options, Taker};
use super::ack::awaited;
use super::duplicates::DuplicateWindow;
use super::{AckWhen, FormatOption, Intake, Source, SourceConfig, SourceKind};
use crate::config::{
    BuildError, ByteSize, Duration, Listen, Mistake, Place, Resource, SharedPath, Table, report, time_limit,
};
use crate::message::Format;
use crate::net::networks::Networks;
use crate::net::tls::ServerTls;

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Takes messages that are posted over HTTP: journals each, then answers.",
    example: "type = \"http\"\nlisten = \"127.0.0.1:8081\"\npath = \"/orders\"\n",
    schema: |generator| generator.subschema_for::<Http>(),
    parse,
};

const NAME: &str = "http";

/// Requests that were begun have so long to be answered once the source is to stop.
const STOP_GRACE: std::time::Duration = std::time::Duration::from_secs(5);
/// The longest path.
const MAX_PATH_BYTES: usize = 1000;

/// The options of an `http` source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Http {
    /// Where to listen, as in "127.0.0.1:8081"; port 0 picks a free one. Several channels may listen on the same address with
    /// different paths or methods; what they say of `tls`, `allow`, `max_connections` and `header_timeout` must be the same.
    #[schemars(with = "Listen")]
    listen: Spanned<Listen>,
    /// The path of requests that are taken, as in "/orders" ("/" if not given). What follows `?` does not matter.
    #[schemars(with = "Option<String>")]
    path: Option<Spanned<String>>,
    /// The method of requests that are taken: "POST" (the default), "PUT" or "PATCH".
    #[serde(default)]
    method: Verb,
    /// What is posted ("json" if not given). What is no such thing is answered 400, and kept as rejected.
    #[serde(default = "default_format")]
    format: FormatOption,
    /// Content types that are taken beside those of `format`, as in ["application/octet-stream"]. A request without a type is taken.
    #[serde(default)]
    content_types: Vec<String>,
    /// Who may post: credentials, or "none" for everybody who can connect. May be left out where only this machine can connect,
    /// and where clients need a certificate.
    auth: Option<Auth>,
    /// Certificate and key for TLS, and the authority of clients' certificates where clients need one. Without it, what comes in
    /// is in the clear.
    tls: Option<ServerTls>,
    /// The addresses and networks from which clients may connect; another is closed at once, logged and counted. Without it, from
    /// everywhere.
    allow: Option<Networks>,
    /// The largest content taken; a larger one is answered 413 (16MiB if not given).
    #[serde(default = "default_max_body")]
    #[schemars(with = "ByteSize")]
    max_body: ByteSize,
    /// At most so many connections at a time; one more is closed at once, logged and counted (256 if not given).
    #[schemars(with = "Option<u32>")]
    max_connections: Option<Spanned<u32>>,
    /// Closes a connection when the head of a request takes longer than this, or when it is quiet for so long between two
    /// requests (30s if not given).
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    header_timeout: Duration,
    /// Answers 408 and closes the connection when the content of a request takes longer than this (30s if not given).
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    body_timeout: Duration,
    /// For how long a request is known again: one with the same `Idempotency-Key` or `webhook-id` (HL7: the same MSH-3, MSH-4 and
    /// MSH-10) and the same content gets the same answer, and is not processed twice (72h if not given). "off": never.
    #[serde(default)]
    duplicate_window: DuplicateWindow,
    /// When to answer: "received" (202 as soon as the message is on disk; the default), "transformed" (once the transformer is
    /// done with it: 422 where it failed), "delivered" (once it was delivered, or will not be: 502).
    #[serde(default)]
    ack: AckWhen,
    /// With `ack = "delivered"`: the destination whose answer counts. Without it, the first one of the file.
    #[schemars(with = "Option<String>")]
    ack_from: Option<Spanned<String>>,
    /// With `ack = "transformed"` or `"delivered"`: how long is waited. Then 202 is answered: the message is kept and goes on (30s if
    /// not given).
    #[schemars(with = "Option<Duration>")]
    ack_timeout: Option<Spanned<Duration>>,
    /// With `ack = "delivered"`: what of the destination's answer is passed on: "status", "body" or both. Without it, nothing.
    #[schemars(with = "Option<Vec<Part>>")]
    pass_on: Option<Spanned<Vec<Part>>>,
    /// What is answered instead of the usual.
    #[serde(default)]
    answers: Answers,
}

fn default_format() -> FormatOption {
    FormatOption::of(Format::Json)
}

fn default_max_body() -> ByteSize {
    ByteSize::from_mib(16)
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

/// Methods by which something is posted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    #[default]
    Post,
    Put,
    Patch,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Patch => "PATCH",
        }
    }
}

/// Reads the options, and reports what does not go together.
fn parse(table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let mut config = table.read::<Http>()?;
    let help = |text: &str| Some(text.to_owned());
    if let Some(path) = &config.path
        && let Some(problem) = path_problem(path.get_ref())
    {
        report(path.span(), format!("this path {problem}"), "", help("a path as in \"/orders\""));
    }
    if config.max_connections.as_ref().is_some_and(|most| *most.get_ref() == 0) {
        let span = config.max_connections.as_ref().map_or(0..0, Spanned::span);
        report(span, "nobody could connect", "", help("`enabled = false` keeps a channel out of service"));
    }
    if config.max_body.bytes() == 0 {
        report(
            config.listen.span(),
            "`max_body` lets nothing in",
            "",
            help("a size larger than nothing, as in \"16MiB\""),
        );
    }
    config.tls.iter().for_each(ServerTls::report_stray_revocations);
    let with_certificates = config.tls.as_ref().is_some_and(ServerTls::wants_certificates);
    if config.auth.is_none() && !with_certificates && !config.listen.get_ref().0.ip().is_loopback() {
        let text = "write `auth = { … }`, `client_ca` into `tls`, or `auth = \"none\"` where everybody who can connect may post";
        let label = "other machines can connect here";
        report(config.listen.span(), "an `http` source without `auth`", label, help(text));
    }
    if let Some(pass_on) = config.pass_on.as_ref().filter(|_| config.ack != AckWhen::Delivered) {
        let label = "no destination is waited for";
        report(
            pass_on.span(),
            "`pass_on` needs `ack = \"delivered\"`",
            label,
            help("write that, or leave `pass_on` out"),
        );
    }
    awaited(config.ack, config.ack_from.as_ref(), config.ack_timeout.as_ref());
    config.answers.prepare(config.ack != AckWhen::Received);
    Some(Box::new(config))
}

fn path_problem(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("does not begin with `/`")
    } else if path.contains(['?', '#']) {
        Some("has a `?` or `#`, which begin what is no path any more")
    } else if path.len() > MAX_PATH_BYTES {
        Some("is longer than 1000 bytes")
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("has a blank or a letter that is not ASCII: write it as `%20`, as clients send it")
    } else {
        None
    }
}

impl Http {
    fn address(&self) -> SocketAddr {
        self.listen.get_ref().0
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("/", |path| path.get_ref())
    }

    fn max_connections(&self) -> usize {
        self.max_connections.as_ref().map_or(256, |most| *most.get_ref() as usize)
    }

    /// What it says of its port.
    fn door(&self) -> String {
        let tls = self.tls.as_ref().map(ServerTls::told);
        format!("{tls:?} {:?} {} {}", self.allow, self.max_connections(), self.header_timeout)
    }
}

#[async_trait]
impl SourceConfig for Http {
    fn resources(&self) -> Vec<Resource> {
        vec![Resource::Path(SharedPath {
            address: self.address(),
            method: self.method.as_str(),
            path: self.path().to_owned(),
            door: self.door(),
        })]
    }

    fn format(&self) -> Option<&FormatOption> {
        Some(&self.format)
    }

    fn acknowledges(&self) -> AckWhen {
        self.ack
    }

    fn answers_from(&self) -> Option<&Spanned<String>> {
        self.ack_from.as_ref()
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.as_ref().map_or_else(Vec::new, ServerTls::mistakes)
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.warnings(now))
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError> {
        let options = Options {
            format: self.format.clone(),
            content_types: self.content_types.iter().map(|kind| kind.trim().to_ascii_lowercase()).collect(),
            max_body_bytes: self.max_body.bytes(),
            body_timeout: self.body_timeout.get(),
            duplicate_window: self.duplicate_window.0.map(Duration::get),
            awaited: awaited(self.ack, self.ack_from.as_ref(), self.ack_timeout.as_ref()),
            answers: self.answers.clone(),
            pass_on: self.pass_on.as_ref().map_or_else(Vec::new, |parts| parts.get_ref().clone()),
            guard: Guard::new(self.auth.as_ref())?,
        };
        // Before the port is open: a listener that was meant to be encrypted never comes up in the clear.
        let tls = match &self.tls {
            Some(tls) => Some((tls.build(place)?, tls.handshake_timeout().get())),
            None => None,
        };
        let door = Door {
            told: self.door(),
            max_connections: self.max_connections(),
            header_timeout: self.header_timeout.get(),
            allow: self.allow.clone(),
            tls,
        };
        let seat = Seat::take(self.address(), door, self.method.method(), self.path())?;
        Ok(Box::new(Listener { seat, options }))
    }
}

struct Listener {
    seat: Seat,
    options: Options,
}

#[async_trait]
impl Source for Listener {
    fn listens_on(&self) -> Option<SocketAddr> {
        Some(self.seat.port.address)
    }

    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let Listener { seat, options } = *self;
        let taker = Arc::new(Taker::new(options, intake, stop.clone()));
        seat.serve(taker.clone());
        seat.let_in(&taker, &stop).await;
        if timeout(STOP_GRACE, taker.finish()).await.is_err() {
            warn!(channel = taker.channel(), "requests were still waiting for their answer when the source stopped");
        }
        seat.give_up().await;
    }
}
