//! What happens to messages whose roster is no longer in memory: changes to the index.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use super::index::{Index, Writes};
use super::lists::{Lists, Numbered};
use super::overlay::Change;
use super::record::Place;
use super::row::{DeliveryRow, Row, parse, render};
use super::{JournalError, MessageState, keys};
use crate::message::MessageId;

/// The index with changes on top that were not made yet.
pub(super) struct Late<'i> {
    index: &'i Index,
    writes: Writes,
    /// How the numbers of messages in a state change, and those of what waits in a lane.
    counts: HashMap<Vec<u8>, i64>,
}

impl<'i> Late<'i> {
    pub(super) fn new(index: &'i Index) -> Late<'i> {
        Late { index, writes: Writes::new(), counts: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.counts.is_empty()
    }

    /// Makes the changes, in the index's memory. True when much is there by now.
    pub(super) fn commit(&mut self) -> Result<bool, JournalError> {
        for (key, difference) in std::mem::take(&mut self.counts) {
            let before = self.get(&key)?.as_deref().and_then(keys::number).unwrap_or(0);
            self.put(key, before.saturating_add_signed(difference).to_be_bytes());
        }
        Ok(self.index.change(std::mem::take(&mut self.writes)))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        match self.writes.get(key) {
            Some(change) => Ok(change.value.clone()),
            None => self.index.get(key),
        }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.note(key, Some(value.into()), false);
    }

    /// Puts a key that is not there: no place or sequence is given out twice.
    fn put_new(&mut self, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        self.note(key, Some(value.into()), true);
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
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

    fn put_or_remove(&mut self, key: Vec<u8>, value: &[u8], is_there: bool) {
        if is_there { self.put_new(key, value) } else { self.remove(key) }
    }

    /// A message's row, where it changed since its roster was frozen.
    pub(super) fn row(&self, shelf: u64, id: MessageId) -> Result<Option<Row>, JournalError> {
        self.get(&keys::message(shelf, id))?.map(|row| parse(&row)).transpose()
    }

    /// A message changed since its roster was frozen.
    pub(super) fn put_row(&mut self, shelf: u64, id: MessageId, old: &Row, new: &Row) {
        self.put(keys::message(shelf, id), render(new));
        if old.state != new.state {
            self.remove(keys::state(&old.channel, old.state, shelf, id));
        }
        // Also where the state is the old one: the list names every row that changed.
        self.put(keys::state(&new.channel, new.state, shelf, id), []);
    }

    /// An attempt at a message's delivery, or a command for it.
    pub(super) fn put_event(&mut self, shelf: u64, id: MessageId, place: Place) {
        self.put_new(keys::event(shelf, id, place), []);
    }

    /// So many more messages of a channel are in a state.
    pub(super) fn add_count(&mut self, channel: &str, state: MessageState, difference: i64) {
        *self.counts.entry(keys::count(channel, state)).or_default() += difference;
    }
}

impl Lists for Late<'_> {
    fn count(&mut self, channel: &Arc<str>, state: MessageState, difference: i64) {
        self.add_count(channel, state, difference);
    }

    fn untransformed(&mut self, channel: &Arc<str>, sequence: u64, id: MessageId, waits: bool) {
        self.put_or_remove(keys::with(&keys::untransformed(channel), &sequence.to_be_bytes()), &id.to_bytes(), waits);
    }

    fn waits(&mut self, channel: &Arc<str>, row: &DeliveryRow, (id, number): Numbered, waits: bool) {
        let numbered = keys::to_numbered(id, number);
        let (sequence, destination) = (row.sequence.to_be_bytes(), &row.destination);
        self.put_or_remove(keys::with(&keys::lane(channel, destination), &sequence), &numbered, waits);
        if row.retried {
            self.put_or_remove(keys::with(&keys::retried(channel, destination), &numbered), &[], waits);
        }
        *self.counts.entry(keys::waiting(channel, destination)).or_default() += if waits { 1 } else { -1 };
    }

    fn holds(&mut self, channel: &Arc<str>, row: &DeliveryRow, (id, number): Numbered, holds: bool) {
        let key = keys::with(&keys::holding(channel, &row.destination), &row.sequence.to_be_bytes());
        self.put_or_remove(key, &keys::to_numbered(id, number), holds);
    }
}
