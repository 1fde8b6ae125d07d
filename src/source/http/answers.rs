//! What is answered: by default, or as the channel file says.
//!
//! | the message | status |
//! |---|---|
//! | is on disk (`ack = "received"`) | 202 |
//! | was transformed, filtered, or delivered, where that is waited for | 200 |
//! | could not be read | 400 |
//! | could not be transformed | 422 |
//! | is a dead letter, or its delivery was cancelled | 502 |
//! | nothing of this was known in time | 202: it is safe and goes on. Not 504, which says "send it again": without a key that would make another message |
//!
//! An answer on receipt is journaled with the message, as it stands on the wire, and given again. What is answered later follows
//! from what is in the journal.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use toml::Spanned;
use tracing::warn;

use crate::config::report;
use crate::expr::{AnswerHeader, AnswerTemplate, AnswerView, Escaping, ExprError, Scope};
use crate::hl7::Separators;
use crate::message::{Message, MessageId};
use crate::source::{End, Fate};

/// Who is refused for want of room may try again after so many seconds.
const RETRY_AFTER_SECONDS: u64 = 10;

/// Headers that Labwire writes itself.
const RESERVED: &[&str] = &["connection", "content-length", "content-type", "date", "transfer-encoding", "upgrade"];

/// What is answered instead of the usual.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Answers {
    /// When all is well: the message is on disk, or what `ack` waits for has happened.
    taken: Option<AnswerOptions>,
    /// When what `ack` waits for did not happen within `ack_timeout`.
    #[schemars(with = "Option<AnswerOptions>")]
    late: Option<Spanned<AnswerOptions>>,
    /// When it could not be transformed or delivered, where `ack` waits for that.
    #[schemars(with = "Option<AnswerOptions>")]
    failed: Option<Spanned<AnswerOptions>>,
}

/// An answer. Expressions see `msg` and `meta`, and of what became of the message `answer.state` and, with `ack = "delivered"`,
/// what the destination answered: `answer.status`, `answer.body`, `answer.json`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnswerOptions {
    /// The status, from 200 to 599.
    #[schemars(with = "Option<u16>")]
    status: Option<Spanned<u16>>,
    /// Further headers, with expressions.
    #[schemars(with = "Option<BTreeMap<String, AnswerHeader>>")]
    headers: Option<Spanned<BTreeMap<String, AnswerHeader>>>,
    /// What `body` is ("application/json" if not given): its values are escaped for JSON, XML or HL7 accordingly.
    #[schemars(with = "Option<String>")]
    content_type: Option<Spanned<String>>,
    /// The content, with expressions, as in '{ "id": {{ meta.id }} }': in JSON, a value comes with its quotes.
    #[schemars(with = "Option<String>")]
    body: Option<Spanned<String>>,
    #[serde(skip)]
    template: Option<AnswerTemplate>,
}

/// A part of a destination's answer that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// The status.
    Status,
    /// The content and its type.
    Body,
}

impl Answers {
    /// Compiles the templates, and reports what cannot be.
    pub(super) fn prepare(&mut self, waits: bool) {
        if let Some(answer) = [&self.late, &self.failed].into_iter().flatten().next().filter(|_| !waits) {
            let help = "write `ack = \"transformed\"` or `\"delivered\"`, or leave it out".to_owned();
            report(answer.span(), "this answer is never given", "the answer is given on receipt", Some(help));
        }
        let later = [&mut self.late, &mut self.failed].into_iter().flatten().map(Spanned::get_mut);
        self.taken.iter_mut().chain(later).for_each(AnswerOptions::prepare);
    }

    fn of(&self, end: End) -> Option<&AnswerOptions> {
        match end {
            End::Filtered | End::Transformed | End::Sent => self.taken.as_ref(),
            End::Pending => self.late.as_ref().map(Spanned::get_ref),
            End::Errored | End::Dead | End::Cancelled => self.failed.as_ref().map(Spanned::get_ref),
        }
    }

    /// The answer to a message that is to be put on disk.
    pub(super) fn received(&self, message: &Message) -> Reply {
        let usual = Reply::state(StatusCode::ACCEPTED, message.meta.id, "received", None);
        let view = AnswerView { state: Some("received"), ..AnswerView::default() };
        self.taken.as_ref().map_or(usual.clone(), |answer| answer.render(message, &view, usual))
    }

    /// The answer to a message of which it is known what became of it.
    pub(super) fn settled(&self, message: &Message, fate: &Fate, pass_on: &[Part]) -> Reply {
        let state = fate.end.as_str();
        let (status, error) = match fate.end {
            End::Filtered | End::Transformed | End::Sent => (StatusCode::OK, None),
            End::Pending => (StatusCode::ACCEPTED, None),
            End::Errored => (StatusCode::UNPROCESSABLE_ENTITY, Some("the message could not be transformed")),
            End::Dead => (StatusCode::BAD_GATEWAY, Some("the message could not be delivered")),
            End::Cancelled => (StatusCode::BAD_GATEWAY, Some("the delivery was cancelled by hand")),
        };
        let mut usual = Reply::state(status, fate.id, state, error);
        let said = fate.answered.as_ref();
        let theirs = said.and_then(|said| StatusCode::from_u16(said.status).ok());
        if pass_on.contains(&Part::Status)
            && let Some(theirs) = theirs.filter(|theirs| theirs.is_success() == (fate.end == End::Sent))
        {
            usual.status = theirs;
        }
        if pass_on.contains(&Part::Body)
            && let Some(body) = &fate.response
        {
            let content_type = said.and_then(|said| HeaderValue::from_str(said.content_type.as_ref()?).ok());
            let content_type = content_type.unwrap_or_else(|| HeaderValue::from_static(type_of(body)));
            (usual.headers, usual.body) = (vec![(CONTENT_TYPE, content_type)], body.clone());
        }
        let body = fate.response.as_deref().unwrap_or_default();
        let view = AnswerView { state: Some(state), status: said.map(|said| said.status), headers: &[], body };
        self.of(fate.end).map_or(usual.clone(), |answer| answer.render(message, &view, usual))
    }
}

/// What content is whose sender did not say it.
fn type_of(body: &[u8]) -> &'static str {
    if body.starts_with(b"MSH") {
        "application/hl7-v2"
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    }
}

impl AnswerOptions {
    fn prepare(&mut self) {
        if let Some(status) = self.status.as_ref().filter(|status| !(200..600).contains(status.get_ref())) {
            let help = "a status from 200 to 599, as in 202".to_owned();
            report(status.span(), "this is no status of an answer", "", Some(help));
        }
        let headers =
            self.headers.iter().flat_map(|headers| headers.get_ref().keys().map(|name| (headers.span(), name)));
        for (span, name) in headers {
            let lower = name.to_ascii_lowercase();
            if RESERVED.contains(&lower.as_str()) {
                let help = if lower == "content-type" { "write `content_type`" } else { "Labwire writes it" };
                report(span, format!("`{name}` cannot be set here"), "", Some(help.to_owned()));
            } else if HeaderName::try_from(lower).is_err() {
                report(span, format!("`{name}` cannot be a header's name"), "", None);
            }
        }
        let content_type = self.content_type.as_ref();
        if let Some(wrong) = content_type.filter(|text| HeaderValue::from_str(text.get_ref()).is_err()) {
            report(wrong.span(), "this is no content type", "", Some("as in \"application/json\"".to_owned()));
        }
        if let Some(body) = &self.body {
            let escaping = escaping_of(content_type.map_or("application/json", |text| text.get_ref()));
            self.template = Some(AnswerTemplate::compile(body.get_ref(), &body.span(), escaping));
        }
    }

    /// What the file says, and the usual where it says nothing. Also where an expression fails: the message is safe, so an answer is
    /// due.
    fn render(&self, message: &Message, view: &AnswerView<'_>, usual: Reply) -> Reply {
        let scope = Scope::new(message).with_answer(view);
        self.rendered(&scope, usual.clone()).unwrap_or_else(|error| {
            let (channel, message) = (&message.meta.channel, message.meta.id);
            warn!(channel, %message, %error, "the answer of the file cannot be made; the usual one is given");
            usual
        })
    }

    fn rendered(&self, scope: &Scope, usual: Reply) -> Result<Reply, ExprError> {
        let mut reply = usual;
        if let Some(template) = &self.template {
            let content_type = self.content_type.as_ref().map_or("application/json", |text| text.get_ref());
            reply.body = template.render(scope)?.into();
            reply.headers =
                HeaderValue::from_str(content_type).map(|value| (CONTENT_TYPE, value)).into_iter().collect();
        }
        if let Some(status) = self.status.as_ref().and_then(|status| StatusCode::from_u16(*status.get_ref()).ok()) {
            reply.status = status;
        }
        for (name, value) in self.headers.iter().flat_map(|headers| headers.get_ref()) {
            let value = HeaderValue::from_str(&value.render(scope)?).ok();
            reply.headers.extend(HeaderName::try_from(name.as_str()).ok().zip(value));
        }
        Ok(reply)
    }
}

fn escaping_of(content_type: &str) -> Escaping {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.ends_with("json") {
        Escaping::Json
    } else if kind.ends_with("xml") || kind.ends_with("html") {
        Escaping::Xml
    } else if kind.contains("hl7") {
        Escaping::Hl7(Separators::default())
    } else {
        Escaping::None
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl Reply {
    fn json(status: StatusCode, json: &serde_json::Value) -> Reply {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Reply { status, headers, body: json.to_string().into() }
    }

    fn state(status: StatusCode, id: MessageId, state: &str, error: Option<&str>) -> Reply {
        let mut json = json!({ "id": id, "state": state });
        if let Some(error) = error {
            json["error"] = error.into();
        }
        Reply::json(status, &json)
    }

    /// A request that was not taken, as the API says it.
    pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Reply {
        Reply::json(status, &json!({ "error": { "code": code, "message": message } }))
    }

    /// A message that is kept and goes nowhere.
    pub(super) fn rejected(id: MessageId, reason: &str) -> Reply {
        let error = json!({ "code": "unreadable", "message": reason });
        Reply::json(StatusCode::BAD_REQUEST, &json!({ "id": id, "state": "rejected", "error": error }))
    }

    /// Nothing can be taken for the moment.
    pub(super) fn unavailable(code: &str, message: &str) -> Reply {
        let refusal = Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, code, message);
        refusal.with(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Reply {
        self.headers.push((name, value));
        self
    }

    /// As it stands on the wire, but for what the connection adds: how it is journaled.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes.into()
    }

    /// The opposite of [`Reply::to_bytes`]; none for anything else: the channel may have had another source.
    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Reply> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
        let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next()?.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let header = |line: &[u8]| {
            let colon = memchr::memchr(b':', line)?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
        };
        Some(Reply {
            status: StatusCode::from_bytes(status).ok()?,
            headers: lines.map(header).collect::<Option<_>>()?,
            body: bytes.slice(end + 4..),
        })
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_as_it_was_given() {
        let id = "01KF0K8Y20TEST000000000001".parse().expect("an id");
        let plain = Reply::state(StatusCode::ACCEPTED, id, "received", None);
        let header = |value: &'static str| (HeaderName::from_static("x-a"), HeaderValue::from_static(value));
        for reply in [
            Reply { body: Bytes::new(), ..plain.clone() },
            Reply { headers: Vec::new(), body: "\r\n\r\na: b\r\n".into(), ..plain.clone() },
            Reply { headers: vec![header("1"), header(""), header("2: 3")], ..plain.clone() },
            Reply { status: StatusCode::from_u16(599).expect("a status"), ..plain },
        ] {
            assert_eq!(Reply::from_bytes(&reply.to_bytes()), Some(reply));
        }
        for other in ["", "MSH|^~\\&|\rMSA|AA|1\r", "HTTP/1.1 99\r\n\r\n", "HTTP/1.1 200 OK\r\nno header\r\n\r\n"] {
            assert_eq!(Reply::from_bytes(&Bytes::from(other)), None, "{other}");
        }
    }
}
