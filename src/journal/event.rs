//! What the journal writes down: the metadata of each kind of record.
//!
//! Every event is absolute: it says what holds after it, never "one more", so that applying it twice changes nothing.
//! The format is part of the promise to read every old journal: fields are added, never renamed or taken away.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Kind;
use super::{Attempt, Command, DeliveryId, DeliveryState, OrderKey, Recipient, Transformed};
use crate::message::{Format, MessageId, Origin, Refs};

/// Something that happened.
pub(super) enum Event {
    SegmentStart(SegmentStart),
    Arrived(Arrived),
    Transformed(Outcome),
    Attempted(Attempted),
    Commanded(Commanded),
}

/// A segment begins. No body.
#[derive(Serialize, Deserialize)]
pub(super) struct SegmentStart {
    pub(super) segment: u64,
    pub(super) created_at: Timestamp,
    /// The first sequence that was not given out when the segment was made.
    pub(super) sequence: u64,
}

/// A body came in. Body 0 is what came, body 1 the acknowledgement, if there is one.
#[derive(Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idempotency: Option<Idempotency>,
}

/// How to recognise the same arrival again.
#[derive(Serialize, Deserialize)]
pub(super) struct Idempotency {
    pub(super) key: String,
    #[serde(with = "hex")]
    pub(super) body_sha256: [u8; 32],
}

/// A transformer was done with a message. The bodies are the contents of its deliveries, each once.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) id: MessageId,
    pub(super) at: Timestamp,
    pub(super) result: Transformed,
    /// Of the first delivery; the others follow.
    pub(super) sequence: u64,
    #[serde(default)]
    pub(super) deliveries: Vec<Planned>,
}

/// One delivery of an [`Outcome`].
#[derive(Serialize, Deserialize)]
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

impl Event {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Event::SegmentStart(_) => Kind::SegmentStart,
            Event::Arrived(_) => Kind::Arrived,
            Event::Transformed(_) => Kind::Transformed,
            Event::Attempted(_) => Kind::Attempted,
            Event::Commanded(_) => Kind::Commanded,
        }
    }

    /// The metadata as JSON.
    pub(super) fn to_meta(&self) -> Vec<u8> {
        let meta = match self {
            Event::SegmentStart(event) => serde_json::to_vec(event),
            Event::Arrived(event) => serde_json::to_vec(event),
            Event::Transformed(event) => serde_json::to_vec(event),
            Event::Attempted(event) => serde_json::to_vec(event),
            Event::Commanded(event) => serde_json::to_vec(event),
        };
        meta.expect("events have string keys only")
    }

    /// The event of a record; none when the metadata is not what its kind should have.
    pub(super) fn from_meta(kind: Kind, meta: &[u8]) -> Option<Event> {
        let event = match kind {
            Kind::SegmentStart => serde_json::from_slice(meta).map(Event::SegmentStart),
            Kind::Arrived => serde_json::from_slice(meta).map(Event::Arrived),
            Kind::Transformed => serde_json::from_slice(meta).map(Event::Transformed),
            Kind::Attempted => serde_json::from_slice(meta).map(Event::Attempted),
            Kind::Commanded => serde_json::from_slice(meta).map(Event::Commanded),
        };
        event.ok()
    }

    /// The first sequence that is free after this event.
    pub(super) fn sequence_after(&self) -> u64 {
        match self {
            Event::SegmentStart(event) => event.sequence,
            Event::Arrived(event) => event.sequence + event.recipients.len() as u64,
            Event::Transformed(event) => event.sequence + event.deliveries.len() as u64,
            Event::Attempted(_) => 0,
            Event::Commanded(event) => event.sequence + 1,
        }
    }
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(D::Error::custom("a sha256 has 64 hexadecimal digits"));
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(D::Error::custom)?;
        }
        Ok(bytes)
    }
}
