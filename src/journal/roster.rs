//! A roster: the messages that arrived in one segment, with where they stand, in memory.
//!
//! The rosters of the newest segments are changed in place: a message's entries change a dozen times within its first second and
//! then never again. Older ones are frozen, sealed into a file beside their segment (`sealed.rs`), and let go of.

use std::collections::HashMap;

use jiff::Timestamp;

use super::MessageState;
use super::event::Known;
use super::record::Place;
use super::row::Row;
use crate::message::{MessageId, RefKind, Refs};

/// What the tables of a roster take for each message beside its row, in bytes, about.
const ENTRY_BYTES: usize = 112;
/// What one reference takes, in bytes.
const POSTING_BYTES: usize = 16;

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) row: Row,
    /// Where its attempts and commands stand.
    pub(super) events: Vec<Place>,
    /// It goes on in a later segment.
    moved: bool,
}

/// The messages of one segment, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) segment: u64,
    entries: Vec<Entry>,
    numbers: HashMap<MessageId, u32>,
    /// The references of its messages: a hash, and the number of the message.
    pub(super) postings: Vec<(u64, u32)>,
    /// The keys by which its arrivals are known when they come again, with the offset of the record.
    pub(super) known: HashMap<u64, u64>,
    /// Offsets of the records in this segment that are about messages of other segments.
    pub(super) foreign: Vec<u64>,
    memory: usize,
}

impl Roster {
    pub(super) fn new(segment: u64) -> Roster {
        Roster { segment, ..Roster::default() }
    }

    /// Adds a message.
    pub(super) fn add(&mut self, id: MessageId, row: Row, refs: &Refs) {
        let number = self.entries.len() as u32;
        for entry in refs.iter() {
            self.postings.push((reference_hash(entry.kind, &entry.value), number));
            self.memory += POSTING_BYTES;
        }
        self.memory += ENTRY_BYTES + row.memory();
        self.numbers.insert(id, number);
        self.entries.push(Entry { id, row, events: Vec::new(), moved: false });
    }

    /// Its messages, in order of arrival.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.moved)
    }

    /// The message with a number that stands in the postings.
    pub(super) fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize).filter(|entry| !entry.moved)
    }

    /// Lets go of a message that goes on in a later segment.
    pub(super) fn remove(&mut self, id: MessageId) {
        if let Some(number) = self.numbers.remove(&id) {
            self.entries[number as usize].moved = true;
        }
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Entry> {
        self.numbers.get(&id).map(|number| &self.entries[*number as usize])
    }

    /// A message, to be changed. Whoever adds to it says so by [`Roster::grew`].
    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        self.numbers.get(&id).map(|number| &mut self.entries[*number as usize])
    }

    pub(super) fn grew(&mut self, bytes: usize) {
        self.memory += bytes;
    }

    /// The memory that it takes, in bytes, about.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// When the newest of its messages was received; none where it has no message.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.entries().map(|entry| entry.row.received_at).max()
    }

    /// Whether nothing happens to its messages any more unless somebody asks for it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.entries().all(|entry| entry.row.is_at_rest())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The messages that have all these references, in any order.
    pub(super) fn with_all(&self, references: &[u64]) -> Vec<&Entry> {
        let Some((first, others)) = references.split_first() else { return self.entries().collect() };
        let mut numbers = self.numbers_with(*first);
        for other in others {
            let these = self.numbers_with(*other);
            numbers.retain(|number| these.binary_search(number).is_ok());
        }
        numbers.into_iter().filter_map(|number| self.entry(number)).collect()
    }

    /// The numbers of the messages that have a reference, in order.
    fn numbers_with(&self, reference: u64) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            self.postings.iter().filter(|(hash, _)| *hash == reference).map(|(_, number)| *number).collect();
        numbers.dedup();
        numbers
    }
}

/// A reference as a number: the same on every machine and in every version, because it is kept.
pub(super) fn reference_hash(kind: RefKind, value: &str) -> u64 {
    hash(&[kind.as_str(), value])
}

/// A channel's state as a number, to be found like a reference.
pub(super) fn state_hash(channel: &str, state: MessageState) -> u64 {
    hash(&["state", channel, state.as_str()])
}

/// An arrival's key as a number.
pub(super) fn known_hash(known: &Known) -> u64 {
    u64::from_be_bytes(*known.key.first_chunk().expect("a key has 16 bytes"))
}

/// FNV-1a over the parts, each ended by a byte that no UTF-8 text has, with the bits stirred at the end (the finalizer of
/// MurmurHash3). What it finds is looked at, so that a collision costs a look and no more.
fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
