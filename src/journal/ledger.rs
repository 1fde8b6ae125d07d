//! What each event changes in the index: the one place where states are decided.
//!
//! Design constraints:
//! - The same code runs when an event happens and when it is replayed; so the index always equals the segments.
//! - Events are applied to the state just before them, once: what the store holds is the state at its checkpoint exactly, so
//!   counts move by the difference to the row that is replaced, and a key that must be new is not looked for.

use std::collections::hash_map::Entry as Slot;

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::{Arrived, Attempted, Commanded, Event, Outcome, Planned};
use super::index::{Index, Writes};
use super::overlay::Change;
use super::record::Place;
use super::{DeliveryState, JournalError, Lane, MessageState, OrderKey, Transformed, Verb, keys};
use crate::message::MessageId;

/// Errors and reasons are cut to so many characters: a row stays below 4 KB.
const MAX_WORDS: usize = 500;

/// What the index keeps of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MessageRow {
    #[serde(rename = "c")]
    pub(super) channel: String,
    #[serde(rename = "s")]
    pub(super) state: MessageState,
    #[serde(rename = "q")]
    pub(super) sequence: u64,
    #[serde(rename = "t")]
    pub(super) received_at: Timestamp,
    #[serde(rename = "a")]
    pub(super) arrived: Place,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(super) transformed: Option<Place>,
    #[serde(rename = "n", default)]
    pub(super) deliveries: u16,
}

/// What the index keeps of a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeliveryRow {
    #[serde(rename = "d")]
    pub(super) destination: String,
    #[serde(rename = "s")]
    pub(super) state: DeliveryState,
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
    pub(super) error: Option<String>,
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

/// The index with changes on top that were not made yet.
pub(super) struct Draft<'i> {
    index: &'i Index,
    writes: Writes,
    /// Events that name a message of which nothing is known.
    pub(super) orphans: u64,
}

impl<'i> Draft<'i> {
    pub(super) fn new(index: &'i Index) -> Draft<'i> {
        Draft { index, writes: Writes::new(), orphans: 0 }
    }

    /// Makes the changes, in the index's memory. True when much is there by now.
    pub(super) fn commit(&mut self) -> bool {
        self.index.change(std::mem::take(&mut self.writes))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        match self.writes.get(key) {
            Some(change) => Ok(change.value.clone()),
            None => self.index.get(key),
        }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.note(key, Some(value.into()), false);
    }

    /// Puts a key that is not there: no message, place or sequence is given out twice.
    fn put_new(&mut self, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.note(key, Some(value.into()), true);
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.note(key, None, false);
    }

    fn note(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, fresh: bool) {
        match self.writes.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(Change { value, fresh });
            }
            Slot::Occupied(slot) if value.is_none() && slot.get().fresh => {
                slot.remove();
            }
            Slot::Occupied(mut slot) => slot.get_mut().value = value,
        }
    }

    fn add(&mut self, key: Vec<u8>, difference: i64) -> Result<(), JournalError> {
        let before = self.get(&key)?.as_deref().and_then(keys::number).unwrap_or(0);
        self.put(key, before.saturating_add_signed(difference).to_be_bytes());
        Ok(())
    }

    pub(super) fn message(&self, id: MessageId) -> Result<Option<MessageRow>, JournalError> {
        self.get(&keys::message(id))?.map(|row| parse(&row)).transpose()
    }

    fn delivery(&self, id: MessageId, number: u16) -> Result<Option<DeliveryRow>, JournalError> {
        self.get(&keys::delivery(id, number))?.map(|row| parse(&row)).transpose()
    }

    /// The delivery to a destination, and its number.
    pub(super) fn find(
        &self,
        id: MessageId,
        message: &MessageRow,
        destination: &str,
    ) -> Result<Option<(u16, DeliveryRow)>, JournalError> {
        for number in 0..message.deliveries {
            if let Some(row) = self.delivery(id, number)?.filter(|row| row.destination == destination) {
                return Ok(Some((number, row)));
            }
        }
        Ok(None)
    }

    /// Changes what an event changes. `intact` is false when its bodies are damaged.
    pub(super) fn apply(&mut self, event: &Event, place: Place, intact: bool) -> Result<(), JournalError> {
        match event {
            Event::SegmentStart(_) => Ok(()),
            Event::Arrived(event) => self.arrived(event, place, intact),
            // Without its contents the outcome is worth nothing: the message waits for its transformer again.
            Event::Transformed(event) if intact => self.transformed(event, place),
            Event::Transformed(_) => Ok(()),
            Event::Attempted(event) => self.attempted(event, place),
            Event::Commanded(event) => self.commanded(event, place),
        }
    }

    fn arrived(&mut self, event: &Arrived, place: Place, intact: bool) -> Result<(), JournalError> {
        let (state, reason) = match &event.rejected {
            Some(reason) => (MessageState::Rejected, Some(cut(reason))),
            None if !intact => (MessageState::Errored, Some("its body is damaged on disk".to_owned())),
            None => (MessageState::Received, None),
        };
        for (sequence, recipient) in (event.sequence..).zip(&event.recipients) {
            let row = MessageRow {
                channel: recipient.channel.clone(),
                state,
                sequence,
                received_at: event.received_at,
                arrived: place,
                reason: reason.clone(),
                transformed: None,
                deliveries: 0,
            };
            self.put_message(recipient.id, None, &row)?;
            for reference in event.refs.iter() {
                let prefix = keys::reference(reference.kind, &reference.value);
                self.put_new(keys::with(&prefix, &recipient.id.to_bytes()), []);
            }
        }
        if let Some(idempotency) = &event.idempotency {
            let seen = Seen { body_sha256: idempotency.body_sha256, place };
            self.put(keys::idempotency(&sha256(idempotency.key.as_bytes())), seen.to_bytes());
        }
        Ok(())
    }

    fn transformed(&mut self, event: &Outcome, place: Place) -> Result<(), JournalError> {
        let Some(old) = self.message(event.id)? else {
            self.orphans += 1;
            return Ok(());
        };
        let mut message = old.clone();
        message.transformed = Some(place);
        message.deliveries = event.deliveries.len() as u16;
        let mut states = Vec::new();
        for (sequence, (number, planned)) in (event.sequence..).zip((0..).zip(&event.deliveries)) {
            let row = planned_row(planned, sequence, event.at);
            states.push(row.state);
            self.put_delivery(event.id, number, &message.channel, None, &row)?;
        }
        (message.state, message.reason) = match &event.result {
            Transformed::Filtered { place } => (MessageState::Filtered, Some(cut(place))),
            Transformed::Errored { place, error } => (MessageState::Errored, Some(cut(&format!("{place}: {error}")))),
            Transformed::Queued => (derive(&states), None),
        };
        self.put_message(event.id, Some(&old), &message)
    }

    fn attempted(&mut self, event: &Attempted, place: Place) -> Result<(), JournalError> {
        let attempt = &event.attempt;
        let took = SignedDuration::from_millis(i64::try_from(attempt.duration_ms).unwrap_or(0));
        let ended_at = attempt.started_at.checked_add(took).unwrap_or(attempt.started_at);
        self.change(&event.delivery, place, |row| {
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

    fn commanded(&mut self, event: &Commanded, place: Place) -> Result<(), JournalError> {
        self.change(&event.delivery, place, |row| {
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

    /// Changes a delivery's row and what follows from it for its message.
    fn change(
        &mut self,
        delivery: &super::DeliveryId,
        place: Place,
        change: impl FnOnce(&mut DeliveryRow),
    ) -> Result<(), JournalError> {
        let id = delivery.message;
        let found = match self.message(id)? {
            Some(message) => self.find(id, &message, &delivery.destination)?.map(|found| (message, found)),
            None => None,
        };
        let Some((old, (number, old_row))) = found else {
            self.orphans += 1;
            return Ok(());
        };
        let (mut message, mut row) = (old.clone(), old_row.clone());
        change(&mut row);
        self.put_delivery(id, number, &message.channel, Some(&old_row), &row)?;
        self.put_new(keys::event(id, place), []);
        let mut states = Vec::new();
        for other in 0..message.deliveries {
            let state = if other == number { Some(row.state) } else { self.delivery(id, other)?.map(|row| row.state) };
            states.extend(state);
        }
        message.state = derive(&states);
        if message.state == old.state { Ok(()) } else { self.put_message(id, Some(&old), &message) }
    }

    /// Puts a message's row, and moves the message from where it was listed to where it belongs.
    fn put_message(&mut self, id: MessageId, old: Option<&MessageRow>, row: &MessageRow) -> Result<(), JournalError> {
        let key = keys::message(id);
        match old {
            Some(_) => self.put(key, render(row)),
            None => self.put_new(key, render(row)),
        }
        if old.is_some_and(|old| old.state == row.state) {
            return Ok(());
        }
        if let Some(old) = old {
            self.remove(keys::with(&keys::state(&old.channel, old.state), &id.to_bytes()));
            self.add(keys::count(&old.channel, old.state), -1)?;
            if old.state == MessageState::Received {
                self.remove(keys::with(&keys::untransformed(&old.channel), &old.sequence.to_be_bytes()));
            }
        }
        self.put_new(keys::with(&keys::state(&row.channel, row.state), &id.to_bytes()), []);
        self.add(keys::count(&row.channel, row.state), 1)?;
        if row.state == MessageState::Received {
            self.put_new(keys::with(&keys::untransformed(&row.channel), &row.sequence.to_be_bytes()), id.to_bytes());
        }
        Ok(())
    }

    /// Puts a delivery's row, and the delivery into its lane or out of it.
    fn put_delivery(
        &mut self,
        id: MessageId,
        number: u16,
        channel: &str,
        old: Option<&DeliveryRow>,
        row: &DeliveryRow,
    ) -> Result<(), JournalError> {
        let key = keys::delivery(id, number);
        match old {
            Some(_) => self.put(key, render(row)),
            None => self.put_new(key, render(row)),
        }
        let place = |row: &DeliveryRow| (row.state.is_waiting(), row.sequence, row.retried, row.holds);
        if old.map(place) == Some(place(row)) {
            return Ok(());
        }
        let lane = Lane { channel: channel.to_owned(), destination: row.destination.clone() };
        let numbered = keys::to_numbered(id, number);
        if let Some(old) = old.filter(|old| old.holds) {
            self.remove(keys::with(&keys::holding(&lane), &old.sequence.to_be_bytes()));
        }
        if row.holds {
            self.put_new(keys::with(&keys::holding(&lane), &row.sequence.to_be_bytes()), numbered);
        }
        if let Some(old) = old.filter(|old| old.state.is_waiting()) {
            self.remove(keys::with(&keys::lane(&lane), &old.sequence.to_be_bytes()));
            if old.retried {
                self.remove(keys::with(&keys::retried(&lane), &numbered));
            }
            self.add(keys::waiting(&lane), -1)?;
        }
        if row.state.is_waiting() {
            self.put_new(keys::with(&keys::lane(&lane), &row.sequence.to_be_bytes()), numbered);
            if row.retried {
                self.put_new(keys::with(&keys::retried(&lane), &numbered), []);
            }
            self.add(keys::waiting(&lane), 1)?;
        }
        Ok(())
    }
}

/// What is known of an arrival with an idempotency key.
pub(super) struct Seen {
    pub(super) body_sha256: [u8; 32],
    pub(super) place: Place,
}

impl Seen {
    fn to_bytes(&self) -> Vec<u8> {
        let Place { segment, offset } = self.place;
        [&self.body_sha256[..], &segment.to_be_bytes(), &offset.to_be_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Seen> {
        let (body_sha256, place) = bytes.split_first_chunk::<32>()?;
        let (segment, offset) = place.split_first_chunk::<8>()?;
        let place = Place { segment: u64::from_be_bytes(*segment), offset: keys::number(offset)? };
        Some(Seen { body_sha256: *body_sha256, place })
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn planned_row(planned: &Planned, sequence: u64, at: Timestamp) -> DeliveryRow {
    let goes = planned.body.is_some();
    DeliveryRow {
        destination: planned.destination.clone(),
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

/// Where a message stands whose deliveries stand so.
fn derive(deliveries: &[DeliveryState]) -> MessageState {
    if deliveries.contains(&DeliveryState::Dead) {
        MessageState::Dead
    } else if deliveries.iter().any(|state| state.is_waiting()) {
        MessageState::Queued
    } else if deliveries.iter().all(|state| *state == DeliveryState::Filtered) {
        MessageState::Filtered
    } else {
        MessageState::Sent
    }
}

fn cut(words: &str) -> String {
    words.chars().take(MAX_WORDS).collect()
}

pub(super) fn render<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys only")
}

pub(super) fn parse<T: DeserializeOwned>(row: &[u8]) -> Result<T, JournalError> {
    serde_json::from_slice(row).map_err(|error| JournalError::Index { error: format!("a row is damaged: {error}") })
}
