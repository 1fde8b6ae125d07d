//! `http`: sends each message as an HTTP request and reads what the answer means.
//!
//! | the server | class | the delivery |
//! |---|---|---|
//! | 2xx | | sent |
//! | 401, 403, 407; no token | `401`, `403`, `407`, `authentication` | the destination pauses |
//! | 408, 425, 429, 5xx | that status | tried again, not before what `Retry-After` says |
//! | other 4xx | that status | dead letter |
//! | 3xx | that status | the destination pauses: redirects are never followed |
//! | connection refused, reset or closed, no whole answer in time | `refused`, `reset`, `timeout` | tried again |
//! | its name is unknown, leads to a private address, no TLS, no HTTP | `dns`, `address`, `tls`, `protocol` | the destination pauses |
//!
//! The destination's `responses` go before that, then its `on`. Every attempt carries the same content under the same
//! `Idempotency-Key`, so that a server that knows the header does once what arrives twice. A redirect is never followed: it would
//! send content and login where nobody allowed it.

mod auth;
mod body;
mod rules;
mod sign;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration as StdDuration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use self::auth::{Auth, Login};
use self::body::{BodyKind, Part, Parts};
use self::rules::{Fit, Rule};
use self::sign::{Sign, Signer};
use super::{Delivered, Destination, DestinationConfig, DestinationKind, Disposition, FaultClass, SendError};
use crate::config::{
    BuildError, ByteSize, Duration, HostPort, Mistake, Network, Place, Secret, Table, report, time_limit,
};
use crate::expr::{ExprError, HeaderTemplate, Scope, Template, UrlTemplate};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::http::{Answer, Ask, Client, Fault, Proxy, Route, basic};
use crate::net::tls::{ClientTls, TlsError};

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "http",
    summary: "Sends each message as an HTTP request.",
    example: r#"type    = "http"
url     = "https://lis.example/api/results/{{ meta.id }}"
auth    = { bearer = { file = "secrets/lis_token" } }
headers = { "X-Lab" = "{{ meta.lab | default('none') }}" }
"#,
    schema: |generator| generator.subschema_for::<Options>(),
    faults: &[
        "refused",
        "reset",
        "timeout",
        "dns",
        "address",
        "tls",
        "authentication",
        "protocol",
        "answer",
        "3xx",
        "401",
        "403",
        "407",
        "408",
        "425",
        "429",
        "4xx",
        "503",
        "5xx",
        "content",
    ],
    parse,
};

/// What Labwire calls itself.
const AGENT: &str = concat!("labwire/", env!("CARGO_PKG_VERSION"));

/// Headers that have an option of their own, or that Labwire alone can know; and what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("authorization", "a login goes into `auth`, its secret into a file or the environment"),
    ("connection", "Labwire writes it"),
    ("content-length", "Labwire writes it"),
    ("content-type", "write `content_type`"),
    ("expect", "Labwire does not wait before it sends"),
    ("host", "it follows from `url`"),
    ("idempotency-key", "Labwire writes it: the same at every attempt"),
    ("proxy-authorization", "it belongs into `proxy`"),
    ("te", "Labwire writes it"),
    ("trailer", "Labwire writes it"),
    ("transfer-encoding", "Labwire writes it"),
    ("upgrade", "Labwire writes it"),
    ("webhook-id", "`sign` writes it"),
    ("webhook-signature", "`sign` writes it"),
    ("webhook-timestamp", "`sign` writes it"),
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    Get,
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

/// The options of an `http` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Where to send, as in "https://lis.example/results/{{ meta.id }}". Path and query may hold expressions, whose output is
    /// encoded; the host may not.
    url: UrlTemplate,
    /// "GET", "POST" (the default), "PUT", "PATCH" or "DELETE".
    #[serde(default)]
    method: Verb,
    /// Further headers, their values with expressions: { "X-Lab" = "{{ meta.lab }}" }.
    #[serde(default)]
    headers: BTreeMap<String, HeaderTemplate>,
    /// What is sent: "raw" (the message as it is; the default), "json", "xml", "form" (`fields`), "multipart" (`fields`, and the
    /// message as the file of `part`), or "none" (the default with GET and DELETE).
    body: Option<BodyKind>,
    /// The content's type, where it is not the usual one of `body`; with "multipart" that of the file.
    content_type: Option<String>,
    /// The fields of a form, their values with expressions: { patient = "{{ msg['PID-3.1'] }}" }.
    #[serde(default)]
    fields: BTreeMap<String, Template>,
    /// How the message is named in a multipart body: { name = "file", file_name = "{{ meta.id }}.hl7" }.
    part: Option<Part>,
    /// How Labwire logs in: one of `basic`, `bearer`, `api_key` and `oauth2`.
    auth: Option<Auth>,
    /// How requests are signed.
    sign: Option<Sign>,
    /// What answers mean, where the status alone does not say it; the first rule that fits decides, before `on`:
    /// [{ pointer = "/status", equals = "error", then = "dead" }].
    #[serde(default)]
    responses: Vec<Rule>,
    /// The networks beside the public internet that may be connected to, as in ["10.0.0.0/8"]. Every other private address is
    /// refused, whatever name leads to it; with a proxy this concerns the proxy.
    #[serde(default)]
    networks: Vec<Network>,
    /// The proxy that requests go through. None is ever taken from the environment.
    proxy: Option<ProxyOptions>,
    /// How a server is verified whose URL begins with https: a table where its certificate comes from an authority of its own, is
    /// pinned, or where it wants to see ours. Not given: by the authorities that this system knows.
    #[serde(default)]
    tls: ClientTls,
    /// How long finding the name, connecting and TLS may take together (10s if not given).
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// How long sending the request and reading the whole answer may take together (30s if not given).
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    timeout: Duration,
    /// So much of an answer's content is read and kept in the journal, the rest is dropped (1MiB if not given).
    #[serde(default = "default_max_response")]
    max_response: ByteSize,
}

/// An HTTP proxy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProxyOptions {
    /// Where it is, as in "proxy.hospital.example:3128".
    address: HostPort,
    /// The login name, where it wants one.
    user: Option<String>,
    /// The password that belongs to it.
    password: Option<Secret>,
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_max_response() -> ByteSize {
    ByteSize::from_mib(1)
}

fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let (span, name) = (table.span(), table.name().to_owned());
    let mut given = table.clone();
    let options: Options = table.read_with_more(super::COMMON_KEYS)?;
    let headers = given.take("headers").and_then(|entry| entry.into_table("headers"));
    for entry in headers.into_iter().flat_map(Table::into_entries) {
        if let Some((problem, help)) = header_problem(entry.name()) {
            report(entry.key.span(), format!("header `{}` {problem}", entry.name()), "", Some(help.to_owned()));
        }
    }
    if let Some(tls) = given.take("tls").filter(|_| options.is_https() != options.tls.is_on()) {
        let (what, help) = if options.is_https() {
            ("cannot switch TLS off", "a URL in the clear begins with `http://`")
        } else {
            ("has `tls` that no URL speaks", "a URL with TLS begins with `https://`")
        };
        report(tls.key.span(), format!("{name} {what}"), "", Some(help.to_owned()));
    }
    for (key, problem, help) in options.problems() {
        let span = given.take(key).map_or(span.clone(), |entry| entry.key.span());
        report(span, format!("{name} {problem}"), "", Some(help.to_owned()));
    }
    Some(Box::new(options))
}

fn header_problem(name: &str) -> Option<(&'static str, &'static str)> {
    let lower = name.to_ascii_lowercase();
    if HeaderName::try_from(name).is_err() {
        return Some(("cannot be a header's name", "letters, digits and `-`, as in \"X-Lab\""));
    }
    RESERVED.iter().find(|(reserved, _)| *reserved == lower).map(|(_, help)| ("cannot be written here", *help))
}

impl Options {
    /// What options together get wrong: the key to show, what is wrong, what to do.
    fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let mut wrong = |is_wrong: bool, key, problem: &str, help| {
            if is_wrong {
                found.push((key, problem.to_owned(), help));
            }
        };
        let kind = self.body_kind();
        let takes_fields = matches!(kind, BodyKind::Form | BodyKind::Multipart);
        let none =
            matches!(self.method, Verb::Get | Verb::Delete) && self.body.is_some_and(|kind| kind != BodyKind::None);
        wrong(
            none,
            "body",
            "has a body that GET and DELETE do not carry",
            "use POST, PUT or PATCH, or leave `body` out",
        );
        wrong(
            kind == BodyKind::Form && self.fields.is_empty(),
            "body",
            "sends a form without `fields`",
            "write `fields = { name = \"{{ … }}\" }`",
        );
        wrong(
            !takes_fields && !self.fields.is_empty(),
            "fields",
            "has `fields` that are sent nowhere",
            "they belong to `body = \"form\"` or `body = \"multipart\"`",
        );
        let part = "write `part = { name = \"file\", file_name = \"{{ meta.id }}.hl7\" }` with `body = \"multipart\"`";
        let is_multipart = kind == BodyKind::Multipart;
        wrong(is_multipart && self.part.is_none(), "body", "sends a multipart body without `part`", part);
        wrong(!is_multipart && self.part.is_some(), "part", "has a `part` that is sent nowhere", part);
        let typed = self.content_type.as_deref();
        let bad_type = typed.is_some_and(|text| HeaderValue::from_str(text).is_err() || !text.contains('/'));
        wrong(bad_type, "content_type", "has a `content_type` that is none", "as in \"application/fhir+json\"");
        wrong(
            typed.is_some() && matches!(kind, BodyKind::Form | BodyKind::None),
            "content_type",
            "has a `content_type` that is sent nowhere",
            "it belongs to bodies that are made from the message",
        );
        self.access_problems(&mut wrong);
        for rule in &self.responses {
            if let Some(problem) = rule.problem() {
                wrong(
                    true,
                    "responses",
                    &format!("has a rule in `responses` that {problem}"),
                    "one look for each rule",
                );
            }
        }
        found
    }

    fn access_problems(&self, wrong: &mut impl FnMut(bool, &'static str, &str, &'static str)) {
        let one = "one of `basic`, `bearer`, `api_key` and `oauth2`";
        let auth = self.auth.as_ref();
        wrong(auth.is_some_and(|auth| auth.count() != 1), "auth", "needs one kind of login in `auth`", one);
        let key = auth.and_then(|auth| auth.api_key.as_ref()).map(|key| key.header.to_ascii_lowercase());
        let bad = key.is_some_and(|key| key != "authorization" && header_problem(&key).is_some());
        wrong(bad, "auth", "has an `api_key` whose `header` cannot be", "a header's name, as in \"X-API-Key\"");
        let unsigned = self.sign.as_ref().is_some_and(|sign| sign.standard_webhooks.is_empty());
        wrong(unsigned, "sign", "signs with no secret", "write `sign = { standard_webhooks = [{ file = \"path\" }] }`");
        let half = self.proxy.as_ref().is_some_and(|proxy| proxy.user.is_some() != proxy.password.is_some());
        wrong(half, "proxy", "has a `proxy` with half a login", "`user` and `password` belong together");
        let private = self.proxy.is_none().then(|| self.url.origin.at.host.parse().ok()).flatten();
        let private = private.filter(|address| !Route::permits(&self.networks, *address));
        if let Some(address) = private {
            let problem = format!("sends to {address}, which is no public address");
            wrong(true, "url", &problem, "write it, or its network, into `networks` where it is meant");
        }
    }

    /// Whether anything here is reached by TLS.
    fn is_https(&self) -> bool {
        let token_url = self.auth.as_ref().and_then(|auth| auth.oauth2.as_ref()).map(|oauth2| &oauth2.token_url.origin);
        self.url.origin.is_https || token_url.is_some_and(|origin| origin.is_https)
    }

    fn body_kind(&self) -> BodyKind {
        self.body.unwrap_or(match self.method {
            Verb::Get | Verb::Delete => BodyKind::None,
            Verb::Post | Verb::Put | Verb::Patch => BodyKind::Raw,
        })
    }

    fn route(&self, place: &Place, secrets: &mut Vec<String>) -> Result<Route, BuildError> {
        let proxy = self.proxy.as_ref().map(|ProxyOptions { address, user, password }| {
            let password = password.as_ref().map(Secret::fetch).transpose()?;
            secrets.extend(password.clone());
            let authorization = user.as_ref().zip(password).map(|(user, password)| basic(user, &password));
            Ok(Proxy { at: address.clone(), authorization })
        });
        let usual = ClientTls::usual();
        let tls = if self.tls.is_on() { &self.tls } else { &usual };
        let tls = if self.is_https() { tls.build(place)? } else { None };
        Ok(Route {
            tls: tls.map(Arc::new),
            origin: self.url.origin.clone(),
            networks: self.networks.clone(),
            proxy: proxy.transpose()?,
            connect_timeout: self.connect_timeout.get(),
        })
    }
}

/// Names of what a delivery keeps beside its content.
mod property {
    /// The message's id.
    pub(super) const ID: &str = "message_id";
    /// Path and query.
    pub(super) const TARGET: &str = "target";
    /// The content's type.
    pub(super) const CONTENT_TYPE: &str = "content_type";
    /// Before the name of each header.
    pub(super) const HEADER: &str = "header ";
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let parts = Parts {
            kind: self.body_kind(),
            content_type: self.content_type.as_deref(),
            fields: &self.fields,
            part: self.part.as_ref(),
        };
        let (content, content_type) = parts.write(message, &scope)?;
        let mut properties = BTreeMap::from([
            (property::ID.to_owned(), message.meta.id.to_string()),
            (property::TARGET.to_owned(), self.url.render(&scope)?),
        ]);
        properties.extend(content_type.map(|content_type| (property::CONTENT_TYPE.to_owned(), content_type)));
        for (name, value) in &self.headers {
            properties.insert(format!("{}{name}", property::HEADER), value.render(&scope)?);
        }
        Ok(Outgoing { content, properties })
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.mistakes()
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let mut secrets = Vec::new();
        let route = self.route(place, &mut secrets)?;
        let longest = self.timeout.get();
        let login = self.auth.as_ref().map(|auth| auth.login(&route, longest, &mut secrets)).transpose()?;
        let signer = self.sign.as_ref().map(Sign::signer).transpose()?;
        // The shortest ones last: one may be part of another. An empty one would be everywhere.
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Box::new(Sender {
            options: self.clone(),
            name: place.name.clone(),
            client: Client::new(route),
            login,
            signer,
            secrets,
        }))
    }
}

/// The destination at work.
struct Sender {
    options: Options,
    /// The destination's name.
    name: String,
    client: Client,
    login: Option<Login>,
    signer: Option<Signer>,
    /// What is never kept of an answer: some servers repeat what they were sent. The longest first.
    secrets: Vec<String>,
}

#[async_trait]
impl Destination for Sender {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let mut ask = self.ask(outgoing)?;
        let mut token = self.log_in(&mut ask).await?;
        let mut answer = self.exchange(&ask).await?;
        // A kept token that is refused may have been withdrawn; one that was fetched just now is not worth another try.
        if let Some((value, is_fresh)) = token.take_if(|_| answer.status == StatusCode::UNAUTHORIZED) {
            self.forget(&value).await;
            if !is_fresh {
                token = self.log_in(&mut ask).await?;
                answer = self.exchange(&ask).await?;
                if let Some((value, _)) = token.take_if(|_| answer.status == StatusCode::UNAUTHORIZED) {
                    self.forget(&value).await;
                }
            }
        }
        self.judge(answer)
    }
}

impl Sender {
    /// The request, without the login.
    fn ask(&self, outgoing: &Outgoing) -> Result<Ask, SendError> {
        let unfit = |what: &str| SendError::new(FaultClass::Content, format!("{what} cannot be sent"));
        let property = |key: &str| outgoing.properties.get(key).map(String::as_str);
        let value = |text: &str, what: &str| HeaderValue::from_str(text).map_err(|_| unfit(what));
        let target = property(property::TARGET).unwrap_or("/").parse().map_err(|_| unfit("this path"))?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (key, text) in &outgoing.properties {
            if let Some(name) = key.strip_prefix(property::HEADER) {
                let name = HeaderName::try_from(name).map_err(|_| unfit("this header"))?;
                headers.insert(name, value(text, "this header")?);
            }
        }
        if let Some(content_type) = property(property::CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, value(content_type, "this content type")?);
        }
        // Two destinations of one channel may be one server. A full stop would not be allowed in an id that is signed.
        let id = format!("{}-{}", property(property::ID).unwrap_or_default(), self.name.replace('.', "~"));
        headers.insert(HeaderName::from_static("idempotency-key"), value(&id, "this id")?);
        if let Some(signer) = &self.signer {
            let timestamp = Timestamp::now().as_second();
            let signature = signer.signature(&id, timestamp, &outgoing.content);
            headers.insert(HeaderName::from_static("webhook-id"), value(&id, "this id")?);
            headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(timestamp));
            headers.insert(HeaderName::from_static("webhook-signature"), value(&signature, "this signature")?);
        }
        let method = match self.options.method {
            Verb::Get => Method::GET,
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        };
        Ok(Ask { method, target, headers, body: outgoing.content.clone() })
    }

    /// Puts the login into the request. Gives the token, if it is one, and whether it was fetched just now.
    async fn log_in(&mut self, ask: &mut Ask) -> Result<Option<(HeaderValue, bool)>, SendError> {
        match &mut self.login {
            None => Ok(None),
            Some(Login::Fixed(name, value)) => {
                ask.headers.insert(name.clone(), value.clone());
                Ok(None)
            }
            Some(Login::Token(tokens)) => {
                let token = tokens.get().await?;
                ask.headers.insert(hyper::header::AUTHORIZATION, token.0.clone());
                Ok(Some(token))
            }
        }
    }

    async fn forget(&self, token: &HeaderValue) {
        if let Some(Login::Token(tokens)) = &self.login {
            tokens.forget(token).await;
        }
    }

    async fn exchange(&mut self, ask: &Ask) -> Result<Answer, SendError> {
        let token = ask.headers.get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let secrets: Vec<&str> = self.secrets.iter().map(String::as_str).chain(token).collect();
        let (longest, limit) = (self.options.timeout.get(), self.options.max_response.bytes());
        // So much more that a secret at the limit is seen whole.
        let more = secrets.iter().map(|secret| secret.len()).max().unwrap_or_default();
        let exchanged = self.client.exchange(ask, longest, limit.saturating_add(more)).await;
        let server = self.options.url.origin.to_string();
        let mut answer = exchanged.map_err(|fault| describe(&server, self.client.route(), longest, fault))?;
        answer.body = without(answer.body, &secrets);
        if answer.body.len() > limit {
            answer.body.truncate(limit);
            answer.is_cut = true;
        }
        Ok(answer)
    }

    /// What an answer means.
    fn judge(&self, answer: Answer) -> Result<Delivered, SendError> {
        let (server, status) = (&self.options.url.origin, answer.status);
        let class = if status.is_success() { FaultClass::Answer } else { FaultClass::Status(status.as_u16()) };
        let response = Some(answer.body.clone()).filter(|body| !body.is_empty());
        let fault = |said: String| {
            let wait = retry_after(&answer.headers);
            SendError { response: response.clone(), retry_after: wait, ..SendError::new(class, said) }
        };
        for (rule, number) in self.options.responses.iter().zip(1..) {
            let said = match rule.fits(&answer) {
                Fit::No => continue,
                Fit::Unknown => {
                    let limit = self.options.max_response.bytes();
                    return Err(fault(format!(
                        "{server} answered {status} with more than the {limit} bytes of `max_response`: rule {number} of `responses` cannot be judged"
                    )));
                }
                Fit::Yes => format!("{server} answered {status}, and rule {number} of `responses` fits"),
            };
            return match rule.then() {
                Disposition::Sent => Ok(Delivered { response }),
                then => Err(fault(said).then(then)),
            };
        }
        match status.as_u16() {
            200..=299 => Ok(Delivered { response }),
            300..=399 => Err(fault(format!(
                "{server} answered {status}: redirects are not followed; write the new address into `url`"
            ))),
            401 => Err(fault(format!("{server} answered {status}: look at `auth`"))),
            407 => Err(fault(format!("{server} answered {status}: look at `proxy`"))),
            _ => Err(fault(format!("{server} answered {status}"))),
        }
    }
}

/// The content without secrets.
fn without(content: Bytes, secrets: &[&str]) -> Bytes {
    let mut content = content;
    for secret in secrets {
        let finder = memchr::memmem::Finder::new(secret.as_bytes());
        if finder.find(&content).is_none() {
            continue;
        }
        let (mut kept, mut from) = (Vec::with_capacity(content.len()), 0);
        for at in finder.find_iter(&content) {
            kept.extend_from_slice(&content[from..at]);
            kept.extend_from_slice(b"***");
            from = at + secret.len();
        }
        kept.extend_from_slice(&content[from..]);
        content = Bytes::from(kept);
    }
    content
}

/// How long the server wants to be left alone: seconds or a date (RFC 9110 §10.2.3). The lane bounds it.
fn retry_after(headers: &HeaderMap) -> Option<StdDuration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(StdDuration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A fault in words, with what it means for the delivery.
fn describe(server: &str, route: &Route, longest: StdDuration, fault: Fault) -> SendError {
    let proxy = route.proxy.as_ref().map(|proxy| format!("proxy {}", proxy.at));
    // Who is connected to, and who speaks.
    let at = proxy.as_deref().unwrap_or(server);
    let (class, said) = match fault {
        Fault::NoSuchName(error) => (FaultClass::Dns, format!("{at}: the name cannot be resolved: {error}")),
        Fault::NotAllowed(address) => (
            FaultClass::Address,
            format!(
                "{at}: this is {address}, which is no public address; write it, or its network, into `networks` where it is meant"
            ),
        ),
        Fault::NotConnected(error) => (FaultClass::of_connecting(&error), format!("{at}: cannot connect: {error}")),
        Fault::ConnectTimeout => {
            (FaultClass::Timeout, format!("{at}: no connection within {} ms", route.connect_timeout.as_millis()))
        }
        Fault::NoTunnel(407) => (FaultClass::Status(407), format!("{at} refuses the login: look at `proxy`")),
        Fault::NoTunnel(status) => {
            (FaultClass::Refused, format!("{at} makes no connection to {server}: it answered {status}"))
        }
        Fault::HandshakeTimeout => (
            FaultClass::Timeout,
            format!(
                "{server}: connected, but no TLS within {} ms; look whether this port speaks TLS",
                route.connect_timeout.as_millis()
            ),
        ),
        Fault::Tls(error @ TlsError::Lost(_)) => (FaultClass::Reset, format!("{server}: {error}")),
        Fault::Tls(error) => (FaultClass::Tls, format!("{server}: {error}")),
        Fault::Closed(Some(error)) => {
            (FaultClass::Reset, format!("{server}: the connection was lost before an answer came: {error}"))
        }
        Fault::Closed(None) => {
            (FaultClass::Reset, format!("{server}: the server closed the connection before it answered"))
        }
        Fault::Broken => (FaultClass::Reset, format!("{server}: the connection was lost within the answer")),
        Fault::Timeout => (FaultClass::Timeout, format!("{server}: no whole answer within {} ms", longest.as_millis())),
        Fault::NotHttp => {
            (FaultClass::Protocol, format!("{server}: what it answered is no HTTP: look at scheme, host and port"))
        }
        Fault::LongHead => (FaultClass::Answer, format!("{server}: the head of its answer is longer than is read")),
    };
    SendError::new(class, said)
}
