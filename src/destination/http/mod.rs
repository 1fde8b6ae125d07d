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
mod explain;
mod options;
mod rules;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, StatusCode};
use jiff::Timestamp;

pub(super) use self::auth::{Auth, Login};
pub(super) use self::body::form_data;
pub(super) use self::explain::{describe, retry_after};
use self::options::{Options, Verb};
use self::rules::Fit;
use super::{Delivered, Destination, DestinationKind, Disposition, FaultClass, SendError};
use crate::journal::{Answered, Outgoing};
use crate::net::http::{Answer, Ask, Client};
use crate::net::webhook;

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
    parse: options::parse,
};

/// What Labwire calls itself.
pub(super) const AGENT: &str = concat!("labwire/", env!("CARGO_PKG_VERSION"));

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

/// The destination at work.
struct Sender {
    options: Options,
    /// The destination's name.
    name: String,
    client: Client,
    login: Option<Login>,
    signer: Option<webhook::Keys>,
    /// What is never kept of an answer: some servers repeat what they were sent. The longest first.
    secrets: Vec<String>,
    /// How the last request was answered.
    answered: Option<Answered>,
}

#[async_trait]
impl Destination for Sender {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        self.answered = None;
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
        // Whoever is granted the right later needs a token that says so.
        if let Some((value, _)) = token.filter(|_| answer.status == StatusCode::FORBIDDEN) {
            self.forget(&value).await;
        }
        self.answered = Some(Answered { status: answer.status.as_u16(), content_type: content_type_of(&answer) });
        self.judge(answer)
    }

    fn answered(&self) -> Option<Answered> {
        self.answered.clone()
    }
}

/// What the server says its answer is. Kept with the attempt, so it is kept short.
fn content_type_of(answer: &Answer) -> Option<String> {
    const LONGEST: usize = 100;
    let text = answer.headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.to_owned()).filter(|text| text.len() <= LONGEST)
}

impl Sender {
    /// The request, without the login.
    fn ask(&self, outgoing: &Outgoing) -> Result<Ask, SendError> {
        let unfit = |what: &str| SendError::new(FaultClass::Content, format!("{what} cannot be sent"));
        let property = |key: &str| outgoing.properties.get(key).map(String::as_str);
        let value = |text: &str, what: &str| HeaderValue::from_str(text).map_err(|_| unfit(what));
        let queued = property(property::TARGET).zip(property(property::ID));
        let (target, id) = queued.ok_or_else(|| {
            SendError::new(
                FaultClass::Content,
                "this delivery was queued for a destination of another kind: reprocess its message",
            )
        })?;
        let target = target.parse().map_err(|_| unfit("this path"))?;
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
        let id = format!("{id}-{}", self.name.replace('.', "~"));
        headers.insert(HeaderName::from_static("idempotency-key"), value(&id, "this id")?);
        if let Some(signer) = &self.signer {
            let timestamp = Timestamp::now().as_second();
            let signature = signer.signature(&id, timestamp, &outgoing.content);
            headers.insert(HeaderName::from_static(webhook::ID), value(&id, "this id")?);
            headers.insert(HeaderName::from_static(webhook::TIMESTAMP), HeaderValue::from(timestamp));
            headers.insert(HeaderName::from_static(webhook::SIGNATURE), value(&signature, "this signature")?);
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
                ask.headers.insert(AUTHORIZATION, token.0.clone());
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
        let token = ask.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
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
                    let unknown = fault(format!(
                        "{server} answered {status} with more than the {limit} bytes of `max_response`: rule {number} of `responses` cannot be judged"
                    ));
                    // It has the message, perhaps: the same answer would come for ever.
                    return Err(if status.is_success() { unknown.then(Disposition::Dead) } else { unknown });
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
                "{server} answered {status}: redirects are not followed; write the new address into `url`, and reprocess what waits: it keeps its path"
            ))),
            401 => Err(fault(format!("{server} answered {status}: look at `auth`"))),
            407 => Err(fault(format!("{server} answered {status}: look at `proxy`"))),
            _ => Err(fault(format!("{server} answered {status}"))),
        }
    }
}

/// The content without secrets.
pub(super) fn without(content: Bytes, secrets: &[&str]) -> Bytes {
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
