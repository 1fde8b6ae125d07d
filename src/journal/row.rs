//! What the journal knows of one message: where its records lie, and where it and its deliveries stand. The one place where states
//! are decided.
//!
//! Pure: the same code runs when an event happens and when it is replayed.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::{Arrived, Attempted, Commanded, Outcome, Planned};
use super::record::Place;
use super::{DeliveryState, JournalError, MessageState, OrderKey, Transformed, Verb};

/// Errors and reasons are cut to so many characters: a row stays small.
const MAX_WORDS: usize = 500;

/// Names of channels and destinations, each kept once.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The one copy of a name.
    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    #[serde(rename = "c", with = "name")]
    pub(super) channel: Arc<str>,
    #[serde(rename = "s")]
    pub(super) state: MessageState,
    /// Its place in the order of arrival.
    #[serde(rename = "q")]
    pub(super) sequence: u64,
    #[serde(rename = "t")]
    pub(super) received_at: Timestamp,
    /// The record that holds its body.
    #[serde(rename = "a")]
    pub(super) arrived: Place,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Box<str>>,
    /// The record that holds what it sends.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(super) transformed: Option<Place>,
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) deliveries: Vec<DeliveryRow>,
    /// How many messages it was split into.
    #[serde(rename = "p", default, skip_serializing_if = "is_none")]
    pub(super) parts: u32,
}

fn is_none(parts: &u32) -> bool {
    *parts == 0
}

/// A delivery of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DeliveryRow {
    #[serde(rename = "d", with = "name")]
    pub(super) destination: Arc<str>,
    #[serde(rename = "s")]
    pub(super) state: DeliveryState,
    /// Its place in its lane.
    #[serde(rename = "q")]
    pub(super) sequence: u64,
    /// Somebody sent it to the end of its lane.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) retried: bool,
    #[serde(rename = "n", default)]
    pub(super) tries: u32,
    #[serde(rename = "c", default)]
    pub(super) counted: u32,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Box<str>>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(super) next_at: Option<Timestamp>,
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub(super) finished_at: Option<Timestamp>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<OrderKey>,
    /// Dead, and holds up what comes after it in its order.
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) holds: bool,
}

mod name {
    use std::borrow::Cow;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        Cow::<'de, str>::deserialize(deserializer).map(|name| Arc::from(&*name))
    }
}

impl Row {
    /// The message that an arrival is for one of its recipients. `intact` is false when its body is damaged.
    pub(super) fn arrived(event: &Arrived, number: usize, place: Place, intact: bool, names: &mut Names) -> Row {
        let (state, reason) = match &event.rejected {
            Some(reason) => (MessageState::Rejected, Some(cut(reason))),
            None if !intact => (MessageState::Errored, Some("its body is damaged on disk".into())),
            None => (MessageState::Received, None),
        };
        Row {
            channel: names.get(&event.recipients[number].channel),
            state,
            sequence: event.sequence + number as u64,
            received_at: event.received_at,
            arrived: place,
            reason,
            transformed: None,
            deliveries: Vec::new(),
            parts: 0,
        }
    }

    /// A transformer was done with it.
    pub(super) fn transformed(&mut self, event: &Outcome, place: Place, names: &mut Names) {
        self.transformed = Some(place);
        self.deliveries = (event.sequence..)
            .zip(&event.deliveries)
            .map(|(sequence, planned)| DeliveryRow::planned(planned, sequence, event.at, names))
            .collect();
        self.parts = if let Transformed::Split { parts } = event.result { parts } else { 0 };
        (self.state, self.reason) = match &event.result {
            Transformed::Filtered { place } => (MessageState::Filtered, Some(cut(place))),
            Transformed::Errored { place, error } => (MessageState::Errored, Some(cut(&format!("{place}: {error}")))),
            Transformed::Queued => (self.derived(), None),
            Transformed::Split { parts } => (MessageState::Split, Some(format!("split into {parts} messages").into())),
        };
    }

    /// A delivery was tried. False when there is no such delivery.
    pub(super) fn attempted(&mut self, event: &Attempted) -> bool {
        let attempt = &event.attempt;
        let took = SignedDuration::from_millis(i64::try_from(attempt.duration_ms).unwrap_or(0));
        let ended_at = attempt.started_at.checked_add(took).unwrap_or(attempt.started_at);
        self.change(&event.delivery.destination, |row| {
            let rested = !row.state.is_waiting() && row.state == event.becomes;
            row.state = event.becomes;
            row.tries = event.tries;
            row.counted = event.counted;
            row.holds = attempt.holds && event.becomes == DeliveryState::Dead;
            row.error = attempt.error.as_deref().map(cut);
            row.next_at = attempt.next_at.filter(|_| event.becomes.is_waiting());
            row.finished_at = match row.finished_at {
                _ if event.becomes.is_waiting() => None,
                Some(before) if rested => Some(before),
                _ => Some(ended_at),
            };
        })
    }

    /// Somebody asked for something. False when there is no such delivery.
    pub(super) fn commanded(&mut self, event: &Commanded) -> bool {
        self.change(&event.delivery.destination, |row| {
            row.state = event.becomes;
            row.retried |= row.sequence != event.sequence;
            row.sequence = event.sequence;
            row.next_at = None;
            row.holds = false;
            row.finished_at = Some(event.command.at).filter(|_| !event.becomes.is_waiting());
            if event.command.verb != Verb::Cancel {
                row.counted = 0;
            }
        })
    }

    fn change(&mut self, destination: &str, change: impl FnOnce(&mut DeliveryRow)) -> bool {
        let Some((_, number)) = self.find(destination) else { return false };
        change(&mut self.deliveries[usize::from(number)]);
        self.state = self.derived();
        true
    }

    /// The delivery to a destination, and its number.
    pub(super) fn find(&self, destination: &str) -> Option<(&DeliveryRow, u16)> {
        (0..).zip(&self.deliveries).find(|(_, row)| *row.destination == *destination).map(|(number, row)| (row, number))
    }

    /// Whether nothing is left to be done with it, by the engine or by somebody.
    pub(super) fn is_finished(&self) -> bool {
        !matches!(self.state, MessageState::Received | MessageState::Queued | MessageState::Dead)
            && self.deliveries.iter().all(|row| !row.state.is_waiting())
    }

    /// Whether nothing happens to it any more unless somebody asks for it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state != MessageState::Received && self.deliveries.iter().all(|row| !row.state.is_waiting())
    }

    /// Where it stands by its deliveries.
    fn derived(&self) -> MessageState {
        let mut states = self.deliveries.iter().map(|row| row.state);
        if states.clone().any(|state| state == DeliveryState::Dead) {
            MessageState::Dead
        } else if states.clone().any(DeliveryState::is_waiting) {
            MessageState::Queued
        } else if states.all(|state| state == DeliveryState::Filtered) {
            MessageState::Filtered
        } else {
            MessageState::Sent
        }
    }

    /// The memory that it takes, in bytes, about.
    pub(super) fn memory(&self) -> usize {
        let words = |words: &Option<Box<str>>| words.as_ref().map_or(0, |words| words.len());
        let deliveries = self.deliveries.iter().map(|row| size_of::<DeliveryRow>() + words(&row.error));
        size_of::<Row>() + words(&self.reason) + deliveries.sum::<usize>()
    }
}

impl DeliveryRow {
    fn planned(planned: &Planned, sequence: u64, at: Timestamp, names: &mut Names) -> DeliveryRow {
        let goes = planned.body.is_some();
        DeliveryRow {
            destination: names.get(&planned.destination),
            state: if goes { DeliveryState::Queued } else { DeliveryState::Filtered },
            sequence,
            retried: false,
            tries: 0,
            counted: 0,
            error: None,
            next_at: None,
            finished_at: Some(at).filter(|_| !goes),
            key: planned.key,
            holds: false,
        }
    }
}

fn cut(words: &str) -> Box<str> {
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => words[..end].into(),
        None => words.into(),
    }
}

pub(super) fn render<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys only")
}

pub(super) fn parse<T: DeserializeOwned>(row: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(row).map_err(|error| JournalError::Index { error: format!("a row is damaged: {error}") })
}
