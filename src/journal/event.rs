//! What the journal writes down: the metadata of each kind of record.
//!
//! Every event is absolute: it says what holds after it, never "one more", so that applying it twice changes nothing.
//! The format is part of the promise to read every old journal: fields are added, never renamed or taken away.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{Kind, Place};
use super::row::{Names, Row};
use super::{Attempt, Command, DeliveryId, DeliveryState, OrderKey, Recipient, Transformed};
use crate::message::{Format, MessageId, Origin, Refs};

/// Something that happened.
pub(super) enum Event {
    SegmentStart(SegmentStart),
    Arrived(Box<Arrived>),
    Transformed(Outcome),
    Attempted(Attempted),
    Commanded(Commanded),
    Carried(Box<Carried>),
}

/// A segment begins. No body.
#[derive(Serialize, Deserialize)]
pub(super) struct SegmentStart {
    pub(super) segment: u64,
    pub(super) created_at: Timestamp,
    /// The first sequence that was not given out when the segment was made.
    pub(super) sequence: u64,
    /// Where the segment before this one ended; unknown in journals of format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous_end: Option<u64>,
}

/// A body came in. Body 0 is what came, body 1 the acknowledgement, if there is one.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Arrived {
    /// Of the first recipient; the others follow.
    pub(super) sequence: u64,
    pub(super) recipients: Vec<Recipient>,
    pub(super) received_at: Timestamp,
    pub(super) origin: Origin,
    pub(super) format: Format,
    pub(super) refs: Refs,
    #[serde(default)]
    pub(super) acknowledged: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rejected: Option<String>,
    /// How to know the same arrival when it comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) known: Option<Known>,
    /// The same in journals of format 1.
    #[serde(default, skip_serializing)]
    pub(super) idempotency: Option<Idempotency>,
}

/// How to know an arrival when it comes again: the first 16 bytes of the SHA-256 of its key and of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    #[serde(with = "hex")]
    pub(super) key: [u8; 16],
    #[serde(with = "hex")]
    pub(super) body: [u8; 16],
}

impl Known {
    pub(super) fn new(key: &str, body: &[u8]) -> Known {
        Known { key: digest(key.as_bytes()), body: digest(body) }
    }
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    use sha2::Digest as _;
    let digest: [u8; 32] = sha2::Sha256::digest(bytes).into();
    *digest.first_chunk().expect("32 bytes begin with 16")
}

/// How format 1 kept it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Idempotency {
    key: String,
    body_sha256: String,
}

impl Arrived {
    /// How to know the same arrival when it comes again.
    pub(super) fn known(&self) -> Option<Known> {
        let old = || {
            let Idempotency { key, body_sha256 } = self.idempotency.as_ref()?;
            Some(Known { key: digest(key.as_bytes()), body: hex::parse(body_sha256.get(..32)?)? })
        };
        self.known.or_else(old)
    }
}

/// A transformer was done with a message. The bodies are the contents of its deliveries, each once; where it was split, the
/// bodies of its parts and the contents of theirs.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) id: MessageId,
    pub(super) at: Timestamp,
    pub(super) result: Transformed,
    /// Of the first delivery; the others follow.
    pub(super) sequence: u64,
    #[serde(default)]
    pub(super) deliveries: Vec<Planned>,
    /// What it was split into. A part is a message like any other, whose arrival and outcome this record is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parts: Vec<Part>,
}

/// A part of a message that was split. It has no parts itself: those of a part that was split stand behind it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) arrived: Arrived,
    /// The number of its own body among the bodies.
    pub(super) body: usize,
    pub(super) outcome: Outcome,
}

/// One delivery of an [`Outcome`].
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) destination: String,
    /// The number of its content among the bodies; none when the destination's `when` was false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<usize>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) properties: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<OrderKey>,
}

/// A delivery was tried. Body 0 is the response, if there is one.
#[derive(Serialize, Deserialize)]
pub(super) struct Attempted {
    pub(super) delivery: DeliveryId,
    pub(super) attempt: Attempt,
    #[serde(default)]
    pub(super) answered: bool,
    /// The delivery's state after it: not the attempt's own when somebody had given the delivery up meanwhile.
    pub(super) becomes: DeliveryState,
    /// Tries so far, with this one.
    pub(super) tries: u32,
    /// Tries so far that count.
    pub(super) counted: u32,
}

/// Somebody asked for something. No body.
#[derive(Serialize, Deserialize)]
pub(super) struct Commanded {
    pub(super) delivery: DeliveryId,
    pub(super) command: Command,
    pub(super) becomes: DeliveryState,
    /// The delivery's place in its lane from now on.
    pub(super) sequence: u64,
}

/// A message that is not finished goes on in this segment, because its own is to be removed. Body 0 is what came, then the
/// acknowledgement, if there is one, then the contents of its deliveries.
#[derive(Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) id: MessageId,
    pub(super) arrived: Arrived,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
    /// Where it and its deliveries stand. The places in it are those of records that may be gone.
    row: Row,
    /// What happened to it; responses are not kept.
    pub(super) attempts: Vec<Attempted>,
    pub(super) commands: Vec<Commanded>,
}

impl Carried {
    pub(super) fn new(id: MessageId, arrived: Arrived, outcome: Option<Outcome>, row: Row) -> Carried {
        Carried { id, arrived, outcome, row, attempts: Vec::new(), commands: Vec::new() }
    }

    /// The message's row, with this record as its place.
    pub(super) fn row_at(&self, place: Place, names: &mut Names) -> Row {
        let mut row = self.row.clone();
        (row.arrived, row.transformed) = (place, row.transformed.map(|_| place));
        row.channel = names.get(&row.channel);
        row.deliveries.iter_mut().for_each(|delivery| delivery.destination = names.get(&delivery.destination));
        row
    }
}

impl Event {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Event::SegmentStart(_) => Kind::SegmentStart,
            Event::Arrived(_) => Kind::Arrived,
            Event::Transformed(_) => Kind::Transformed,
            Event::Attempted(_) => Kind::Attempted,
            Event::Commanded(_) => Kind::Commanded,
            Event::Carried(_) => Kind::Carried,
        }
    }

    /// The metadata as JSON.
    pub(super) fn to_meta(&self) -> Vec<u8> {
        /// Most are shorter.
        const USUAL_BYTES: usize = 1 << 10;
        let mut meta = Vec::with_capacity(USUAL_BYTES);
        let written = match self {
            Event::SegmentStart(event) => serde_json::to_writer(&mut meta, event),
            Event::Arrived(event) => serde_json::to_writer(&mut meta, event),
            Event::Transformed(event) => serde_json::to_writer(&mut meta, event),
            Event::Attempted(event) => serde_json::to_writer(&mut meta, event),
            Event::Commanded(event) => serde_json::to_writer(&mut meta, event),
            Event::Carried(event) => serde_json::to_writer(&mut meta, event),
        };
        written.expect("events have string keys only");
        meta
    }

    /// The event of a record; none when the metadata is not what its kind should have.
    pub(super) fn from_meta(kind: Kind, meta: &[u8]) -> Option<Event> {
        let event = match kind {
            Kind::SegmentStart => serde_json::from_slice(meta).map(Event::SegmentStart),
            Kind::Arrived => serde_json::from_slice(meta).map(Event::Arrived),
            Kind::Transformed => serde_json::from_slice(meta).map(Event::Transformed),
            Kind::Attempted => serde_json::from_slice(meta).map(Event::Attempted),
            Kind::Commanded => serde_json::from_slice(meta).map(Event::Commanded),
            Kind::Carried => serde_json::from_slice(meta).map(Event::Carried),
        };
        event.ok()
    }

    /// Whether nothing is to be done after it, and the same comes of it when it happens again.
    pub(super) fn leads_nowhere(&self) -> bool {
        matches!(
            self,
            Event::Transformed(Outcome { result: Transformed::Filtered { .. } | Transformed::Errored { .. }, .. })
        )
    }

    /// The first sequence that is free after this event.
    pub(super) fn sequence_after(&self) -> u64 {
        match self {
            Event::SegmentStart(event) => event.sequence,
            Event::Arrived(event) => event.sequence + event.recipients.len() as u64,
            Event::Transformed(event) => {
                let last = event.parts.last().map_or(event, |part| &part.outcome);
                last.sequence + last.deliveries.len() as u64
            }
            Event::Attempted(_) | Event::Carried(_) => 0,
            Event::Commanded(event) => event.sequence + 1,
        }
    }
}

mod hex {
    use std::borrow::Cow;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        serializer.serialize_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("this has 32 hexadecimal digits"))
    }

    pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).ok()?;
        }
        Some(bytes)
    }
}
