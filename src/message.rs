//! What moves through the engine: ids, the envelope of a message, its body, and the references by which people look it up.
//!
//! `Debug` of anything in here prints no content: message content is PHI.

mod refs;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hl7;

pub use refs::{Ref, RefKind, Refs};

/// The id of one inbound message: a ULID, 26 characters of Crockford base 32, sortable by time of receipt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(ulid::Ulid);

impl MessageId {
    /// The id as 16 bytes, big-endian: sorts as the id does.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The id from its 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> MessageId {
        MessageId(ulid::Ulid::from_bytes(bytes))
    }

    /// The last 20 characters, for fields that hold no more (MSH-10 is ST(20) up to HL7 v2.6): 80 random bits and the time's
    /// low 20 bits.
    pub fn short(self) -> String {
        self.0.array_to_str(&mut [0; ulid::ULID_LEN])[6..].to_owned()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no message id.
#[derive(Debug, thiserror::Error)]
#[error("a message id has 26 letters and digits, as in 01KF3Z8V9Q4T6W2X5Y7A1B3C5D")]
pub struct NotAnId;

impl FromStr for MessageId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<MessageId, NotAnId> {
        ulid::Ulid::from_string(text).map(MessageId).map_err(|_| NotAnId)
    }
}

impl Serialize for MessageId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.array_to_str(&mut [0; ulid::ULID_LEN]))
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<MessageId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Gives out message ids that only grow, also within a millisecond and when the clock steps back.
#[derive(Debug, Default)]
pub struct MessageIds {
    last: Mutex<Option<ulid::Ulid>>,
}

impl MessageIds {
    /// The next id.
    pub fn next(&self) -> MessageId {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = ulid::Ulid::from_datetime(SystemTime::now());
        let id = match *last {
            Some(previous) if fresh <= previous => previous.increment().unwrap_or(fresh),
            _ => fresh,
        };
        *last = Some(id);
        MessageId(id)
    }
}

/// What is known of a message beside its content: `meta` in expressions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Meta {
    /// The message's own id.
    pub id: MessageId,
    /// The channel it came into.
    pub channel: String,
    /// When its last byte was received.
    pub received_at: Timestamp,
    /// How it came: the kind of the source, the peer, the event.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Where a message came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The source's kind: `mllp`, `event` …
    pub source: String,
    /// Address of the peer that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The action that fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<u16>,
    /// The lab for whom it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// The event's own id, as its sender gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The character set to read it in where it names none and is not UTF-8: its source's fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<Box<str>>,
    /// Name of the file it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// The time on the schedule for which a timer made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    /// The delivery of another channel that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Box<Parent>>,
    /// Another message with the same key came shortly before, with another body: a sender that gives out a control id twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reused_key: bool,
    /// The message that was run again to make this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reprocess_of: Option<MessageId>,
    /// Who had it run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Box<str>>,
    /// Why they did, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
}

impl Origin {
    /// The references by which a message that came so is found: those of its body, where that can be read, and its parent.
    pub fn refs(&self, body: Option<&Body>) -> Refs {
        let mut refs = Refs::default();
        if let Some(parent) = &self.parent {
            refs.add(RefKind::Parent, &parent.message.to_string());
        }
        for entry in body.map(Refs::of).unwrap_or_default().iter() {
            refs.add(entry.kind, &entry.value);
        }
        refs
    }
}

/// The delivery that became a message of another channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The message.
    pub message: MessageId,
    /// Its channel.
    pub channel: String,
    /// The destination there.
    pub destination: String,
}

/// How the bytes of a body are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// HL7 v2, ER7 encoding.
    Hl7,
    /// JSON.
    Json,
    /// Anything else that is text in UTF-8.
    Text,
}

/// A message's content, read.
#[derive(Clone)]
pub enum Body {
    /// HL7 v2.
    Hl7(hl7::Message),
    /// JSON.
    Json(serde_json::Value),
    /// Text.
    Text(String),
}

impl Body {
    /// The format that this body is in.
    pub fn format(&self) -> Format {
        match self {
            Body::Hl7(_) => Format::Hl7,
            Body::Json(_) => Format::Json,
            Body::Text(_) => Format::Text,
        }
    }

    /// The body's bytes as they would leave; HL7 that nobody edited is what came in, byte for byte.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Body::Hl7(message) => message.to_bytes(),
            Body::Json(value) => Bytes::from(value.to_string()),
            Body::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?})", self.format())
    }
}

/// A message on its way through a channel's transformer.
#[derive(Debug, Clone)]
pub struct Message {
    /// The envelope.
    pub meta: Meta,
    /// The content as the steps so far have left it. Shared: expressions look at it, `Arc::make_mut` edits it.
    pub body: Arc<Body>,
    /// The event that fired the channel.
    pub event: Arc<Event>,
}

impl Message {
    /// Reads a body that came in. For JSON that an event source took in, the body is the event's `data`.
    pub fn read(meta: Meta, format: Format, raw: &Bytes, limits: &hl7::Limits) -> Result<Message, UnreadableBody> {
        let mut event = Event::default();
        let body = match format {
            Format::Hl7 => {
                let fallback = meta.origin.charset.as_deref().and_then(hl7::Charset::named);
                let parsed = hl7::Message::parse_with(raw.clone(), limits, fallback);
                Body::Hl7(parsed.map_err(|error| UnreadableBody::Hl7(error.to_string()))?)
            }
            Format::Json => {
                let json: serde_json::Value = serde_json::from_slice(raw)
                    .map_err(|error| UnreadableBody::Json { line: error.line(), column: error.column() })?;
                event = Event::new(json.clone());
                Body::Json(json)
            }
            Format::Text => Body::Text(
                String::from_utf8(raw.to_vec())
                    .map_err(|error| UnreadableBody::Text(error.utf8_error().valid_up_to()))?,
            ),
        };
        Ok(Message { meta, body: Arc::new(body), event: Arc::new(event) })
    }
}

/// The event that fired a channel: `{action, lab, id, data}`; `null` for messages that came another way.
#[derive(Default)]
pub struct Event {
    json: serde_json::Value,
    view: OnceLock<minijinja::Value>,
}

impl Event {
    /// An event as it was posted.
    pub fn new(json: serde_json::Value) -> Event {
        Event { json, view: OnceLock::new() }
    }

    /// The event as JSON.
    pub fn json(&self) -> &serde_json::Value {
        &self.json
    }

    /// The event as expressions see it; made once.
    pub fn view(&self) -> minijinja::Value {
        self.view.get_or_init(|| minijinja::Value::from(minijinja::value::Serde(&self.json))).clone()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}

/// A body that is not what its format says. Names places, never content.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableBody {
    /// Not HL7.
    #[error("{0}")]
    Hl7(String),
    /// Not JSON.
    #[error("the body is not JSON: line {line}, column {column}")]
    Json {
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake, from 1.
        column: usize,
    },
    /// Not UTF-8.
    #[error("the body is not UTF-8: byte {0} does not belong")]
    Text(usize),
}
