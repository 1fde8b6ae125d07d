//! What moves through the engine: ids, the envelope of a message, its body, and the references by which people look it up.
//!
//! `Debug` of anything in here prints no content: message content is PHI.

mod batch;
pub(crate) mod csv;
mod encoded;
mod refs;
pub(crate) mod xml;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hl7;

pub use batch::{Batch, MAX_PARTS};
pub use csv::{Csv, Dialect};
pub use encoded::{Encoded, Unencodable};
pub use refs::{Ref, RefKind, Refs};
pub use xml::{Element, Node, Xml, XmlPath};

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

    /// The id of one of the parts that this message is split into, by its number from 1: the same whenever it is split. It has
    /// this message's time, so that it sorts among those of its time.
    pub fn part(self, number: u32) -> MessageId {
        use sha2::Digest as _;
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.to_bytes());
        hasher.update(number.to_be_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut bytes = self.to_bytes();
        bytes[6..].copy_from_slice(&digest[..10]);
        MessageId::from_bytes(bytes)
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
    /// The character set to read it in, by its source's options: of HL7, where it names none and is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<Box<str>>,
    /// How its delimited text is written, where it is not comma-separated with a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csv: Option<Box<Dialect>>,
    /// The message that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Box<PartOf>>,
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
    /// The time in its header lies further back than its source believes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale_timestamp: bool,
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
    /// HL7 v2, ER7 encoding: one message, or a batch of them.
    Hl7,
    /// JSON.
    Json,
    /// Anything else that is text.
    Text,
    /// XML.
    Xml,
    /// Delimited text.
    Csv,
    /// Bytes of which nothing is known.
    Bytes,
}

impl Format {
    /// The word for it in channel files and in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Hl7 => "hl7",
            Format::Json => "json",
            Format::Text => "text",
            Format::Xml => "xml",
            Format::Csv => "csv",
            Format::Bytes => "bytes",
        }
    }

    /// The ending of a file that holds such a body.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::Bytes => "bin",
            other => other.as_str(),
        }
    }

    /// Its name for people, as in "the message is HL7".
    pub fn name(self) -> &'static str {
        match self {
            Format::Hl7 => "HL7",
            Format::Json => "JSON",
            Format::Text => "text",
            Format::Xml => "XML",
            Format::Csv => "CSV",
            Format::Bytes => "bytes",
        }
    }
}

/// What a message is a part of, when it was split off another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOf {
    /// The message that was split.
    pub of: MessageId,
    /// Which of its parts this is, from 1.
    pub number: u32,
    /// How many `split` steps it has behind it: it begins after so many.
    #[serde(default)]
    pub splits: u16,
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
    /// XML.
    Xml(Xml),
    /// Delimited text.
    Csv(Csv),
    /// Bytes.
    Bytes(Bytes),
    /// An HL7 batch, before it is taken apart: no step sees one.
    Batch(Batch),
    /// Text, XML or delimited text that leaves in another character set. It is read as what it holds.
    Encoded(Encoded),
}

impl Body {
    /// The format that this body is in.
    pub fn format(&self) -> Format {
        match self {
            Body::Hl7(_) | Body::Batch(_) => Format::Hl7,
            Body::Json(_) => Format::Json,
            Body::Text(_) => Format::Text,
            Body::Xml(_) => Format::Xml,
            Body::Csv(_) => Format::Csv,
            Body::Bytes(_) => Format::Bytes,
            Body::Encoded(encoded) => encoded.body.format(),
        }
    }

    /// The body's bytes as they would leave; HL7 that nobody edited is what came in, byte for byte.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Body::Hl7(message) => message.to_bytes(),
            Body::Json(value) => Bytes::from(value.to_string()),
            Body::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Body::Xml(xml) => Bytes::copy_from_slice(xml.text().as_bytes()),
            Body::Csv(csv) => Bytes::copy_from_slice(csv.text().as_bytes()),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Batch(batch) => batch.raw().clone(),
            Body::Encoded(encoded) => encoded.bytes().clone(),
        }
    }

    /// Reads bytes in a format. The body of HL7 is a batch where the bytes are no single message, and are one.
    pub fn read(raw: &Bytes, format: Format, origin: &Origin, limits: &hl7::Limits) -> Result<Body, UnreadableBody> {
        let charset = origin.charset.as_deref().and_then(hl7::Charset::named);
        let text = || decoded(raw, charset.unwrap_or(hl7::Charset::UTF_8));
        match format {
            Format::Hl7 => match hl7::Message::parse_with(raw.clone(), limits, charset) {
                Ok(_) if hl7::batch::second_message(raw).is_some() => {
                    Batch::read(raw, limits, charset).map(Body::Batch)
                }
                Ok(message) => Ok(Body::Hl7(message)),
                Err(error) if Batch::is_likely(&error) => Batch::read(raw, limits, charset).map(Body::Batch),
                Err(error) => Err(UnreadableBody::Hl7(error.to_string())),
            },
            Format::Json => {
                let text = text()?;
                let json = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text));
                json.map(Body::Json)
                    .map_err(|error| UnreadableBody::Json { line: error.line(), column: error.column() })
            }
            Format::Text => Ok(Body::Text(text()?.into_owned())),
            Format::Xml => {
                let declared = match (charset, xml::declared_encoding(raw)) {
                    (None, Some(name)) => Some(hl7::Charset::named(name).ok_or(UnreadableBody::Encoding)?),
                    (set, _) => set,
                };
                Xml::parse(&decoded(raw, declared.unwrap_or(hl7::Charset::UTF_8))?).map(Body::Xml)
            }
            Format::Csv => Csv::parse(&text()?, origin.csv.as_deref().copied().unwrap_or_default()).map(Body::Csv),
            Format::Bytes => Ok(Body::Bytes(raw.clone())),
        }
    }
}

/// Bytes as text; never with a character put in the place of another.
fn decoded(raw: &Bytes, charset: hl7::Charset) -> Result<std::borrow::Cow<'_, str>, UnreadableBody> {
    charset.decode(raw).map_err(|error| match error {
        hl7::CharsetError::Invalid { charset, offset } => UnreadableBody::Text { charset, offset },
        other => UnreadableBody::Charset(other),
    })
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
    /// Reads a body that came in. For JSON that an event source took in, the body is the event itself.
    pub fn read(meta: Meta, format: Format, raw: &Bytes, limits: &hl7::Limits) -> Result<Message, UnreadableBody> {
        let body = Body::read(raw, format, &meta.origin, limits)?;
        let event = match &body {
            // JSON that came another way is no event, and neither is a part of one.
            Body::Json(json) if meta.origin.action.is_some() && meta.origin.part.is_none() => Event::new(json.clone()),
            _ => Event::default(),
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
    /// Bytes that its character set does not have.
    #[error("the body is not {charset}: byte {offset} does not belong")]
    Text {
        /// The set's name.
        charset: &'static str,
        /// Offset of the byte.
        offset: usize,
    },
    /// A character set that cannot be read.
    #[error("{0}")]
    Charset(hl7::CharsetError),
    /// An XML declaration with an encoding that is not known.
    #[error("the encoding that the XML declaration names is not known")]
    Encoding,
    /// Not XML.
    #[error("the body is not XML that can be read: line {line}, column {column}: {problem}")]
    Xml {
        /// Line of the mistake, from 1.
        line: u32,
        /// Column of the mistake, from 1.
        column: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// Not delimited text.
    #[error("the body is not CSV that can be read: line {line}: {problem}")]
    Csv {
        /// Line of the mistake, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// A batch with a wrong count, or with something in it that is no message.
    #[error("the batch is refused: {0}")]
    Batch(String),
}
