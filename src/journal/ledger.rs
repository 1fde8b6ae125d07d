//! Where all messages stand: the newest in memory, older ones in sealed rosters with the index over them.
//!
//! Design constraints:
//! - The same code runs when an event happens and when it is replayed; so what is looked up always equals the segments.
//! - Only the writer changes the ledger, after the sync: nobody learns of anything that is not on disk.
//! - Memory is bounded: when the newest rosters take too much, the oldest of them is frozen and its unfinished messages move to
//!   the index, which holds any number.
//! - What is in memory is replayed at the next start. So a roster at rest is frozen sooner: it costs no more than later, and a
//!   start after a crash goes through little more than what was in motion.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Arrived, Carried, Event, Known, Part};
use super::late::Late;
use super::lists::{InMemory, relist};
use super::record::Place;
use super::roster::{Entry, Roster, known_hash};
use super::row::{Names, Row};
use super::sealed::{Sealed, SealedRow};
use super::{DeliveryId, JournalError};
use crate::message::MessageId;

/// A roster that is no longer changed, and is being sealed.
pub(super) struct Frozen {
    pub(super) roster: Roster,
    /// Everything before this place is in the rows.
    pub(super) as_of: Place,
}

/// Where all messages stand.
#[derive(Default)]
pub(super) struct Ledger {
    names: Names,
    /// The newest rosters, oldest first.
    window: VecDeque<Roster>,
    /// The lists of the messages in the window.
    pub(super) lists: InMemory,
    /// Rosters on their way to their files, oldest first.
    pub(super) frozen: VecDeque<Arc<Frozen>>,
    /// Sealed rosters, oldest first.
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// Events before this place are in the index as far as they are about messages outside of the window.
    pub(super) indexed: Place,
    /// What of that was so when the journal was opened: for the shelves before this segment.
    pub(super) found_indexed: (u64, Place),
    /// Events that name a message of which nothing is known.
    pub(super) orphans: u64,
}

/// Where a message that is not in the window is to be found.
pub(super) enum Shelf {
    Frozen(Arc<Frozen>),
    Sealed(Arc<Sealed>, u32),
}

impl Shelf {
    /// The segment in which the message arrived.
    pub(super) fn number(&self) -> u64 {
        match self {
            Shelf::Frozen(frozen) => frozen.roster.segment,
            Shelf::Sealed(sealed, _) => sealed.segment(),
        }
    }

    fn as_of(&self) -> Place {
        match self {
            Shelf::Frozen(frozen) => frozen.as_of,
            Shelf::Sealed(sealed, _) => sealed.as_of(),
        }
    }

    /// The message as it was when its roster was frozen.
    pub(super) fn row(&self, id: MessageId) -> Result<SealedRow, JournalError> {
        match self {
            Shelf::Frozen(frozen) => {
                let entry = frozen.roster.get(id).ok_or(JournalError::Unknown { id })?;
                Ok(SealedRow { row: entry.row.clone(), events: entry.events.clone() })
            }
            Shelf::Sealed(sealed, rank) => sealed.row(*rank),
        }
    }
}

impl Ledger {
    /// A message in the window.
    pub(super) fn recent(&self, id: MessageId) -> Option<&Entry> {
        self.window.iter().rev().find_map(|roster| roster.get(id))
    }

    /// The rosters in the window, oldest first.
    pub(super) fn window(&self) -> impl DoubleEndedIterator<Item = &Roster> {
        self.window.iter()
    }

    /// Where a message outside of the window is.
    pub(super) fn shelf_of(&self, id: MessageId) -> Result<Option<Shelf>, JournalError> {
        if let Some(frozen) = self.frozen.iter().rev().find(|frozen| frozen.roster.get(id).is_some()) {
            return Ok(Some(Shelf::Frozen(frozen.clone())));
        }
        for sealed in self.sealed.iter().rev() {
            if let Some(rank) = sealed.find(id)? {
                return Ok(Some(Shelf::Sealed(sealed.clone(), rank)));
            }
        }
        Ok(None)
    }

    /// The records of arrivals that may have this key, newest first, from a time on (milliseconds since 1970).
    pub(super) fn known(&self, known: &Known, since_ms: i64) -> Result<Vec<Place>, JournalError> {
        let hash = known_hash(known);
        let frozen = self.frozen.iter().map(|frozen| &frozen.roster);
        let rosters = frozen.chain(&self.window).rev();
        let place = |segment, offset| Place { segment, offset };
        let mut found: Vec<Place> =
            rosters.filter_map(|roster| Some(place(roster.segment, *roster.known.get(&hash)?))).collect();
        for sealed in self.sealed.iter().rev().filter(|sealed| sealed.newest_ms() >= since_ms) {
            found.extend(sealed.known(hash)?.map(|offset| place(sealed.segment(), offset)));
        }
        Ok(found)
    }

    /// Whether the oldest roster is to leave the window, which may take so much memory; the newest stays in any case.
    pub(super) fn is_to_let_go(&self, window_bytes: usize) -> bool {
        self.window.len() > 1
            && (self.memory() > window_bytes || self.window.front().is_some_and(|oldest| oldest.is_at_rest()))
    }

    /// The memory that the window takes, in bytes, about.
    fn memory(&self) -> usize {
        self.window.iter().map(Roster::memory).sum()
    }

    /// Changes what an event changes. `intact` is false when its bodies are damaged.
    pub(super) fn apply(
        &mut self,
        late: &mut Late<'_>,
        event: &Event,
        place: Place,
        intact: bool,
    ) -> Result<(), JournalError> {
        match event {
            Event::SegmentStart(_) => {
                self.roster(place.segment);
                Ok(())
            }
            Event::Arrived(event) => {
                self.arrived(event, place, intact);
                Ok(())
            }
            // Without its contents the outcome is worth nothing: the message waits for its transformer again.
            Event::Transformed(event) if intact => {
                self.parts(&event.parts, place);
                self.change(late, event.id, place, false, |row, names| {
                    row.transformed(event, place, names);
                    true
                })
            }
            Event::Transformed(_) => Ok(()),
            Event::Attempted(event) => {
                let DeliveryId { message, .. } = event.delivery;
                self.change(late, message, place, true, |row, _| row.attempted(event))
            }
            Event::Commanded(event) => {
                let DeliveryId { message, .. } = event.delivery;
                self.change(late, message, place, true, |row, _| row.commanded(event))
            }
            Event::Carried(event) => self.carried(late, event, place),
        }
    }

    /// A segment begins.
    pub(super) fn begin(&mut self, segment: u64) {
        self.roster(segment);
    }

    /// The roster of a segment that is not yet frozen; made when it is not there.
    fn roster(&mut self, segment: u64) -> &mut Roster {
        if self.window.back().is_none_or(|last| last.segment < segment) {
            self.window.push_back(Roster::new(segment));
        }
        let at = self.window.iter().rposition(|roster| roster.segment <= segment).unwrap_or(0);
        &mut self.window[at]
    }

    fn arrived(&mut self, event: &Arrived, place: Place, intact: bool) {
        for (number, recipient) in event.recipients.iter().enumerate() {
            let row = Row::arrived(event, number, place, intact, &mut self.names);
            relist(&mut self.lists, recipient.id, None, Some(&row));
            self.roster(place.segment).add(recipient.id, row, &event.refs);
        }
        if let Some(known) = event.known() {
            self.roster(place.segment).known.insert(known_hash(&known), place.offset);
        }
    }

    /// The parts of a message that was split arrive with its outcome, and with their own. A sealed roster knows its own already.
    fn parts(&mut self, parts: &[Part], place: Place) {
        if self.sealed.last().is_some_and(|last| last.segment() >= place.segment) {
            return;
        }
        for Part { arrived, outcome, .. } in parts {
            let mut row = Row::arrived(arrived, 0, place, true, &mut self.names);
            row.transformed(outcome, place, &mut self.names);
            relist(&mut self.lists, outcome.id, None, Some(&row));
            self.roster(place.segment).add(outcome.id, row, &arrived.refs);
        }
    }

    /// Changes a message's row and what follows from it.
    fn change(
        &mut self,
        late: &mut Late<'_>,
        id: MessageId,
        place: Place,
        is_event: bool,
        change: impl FnOnce(&mut Row, &mut Names) -> bool,
    ) -> Result<(), JournalError> {
        let Some(roster) = self.window.iter_mut().rev().find(|roster| roster.get(id).is_some()) else {
            return self.change_late(late, id, place, is_event, change);
        };
        let home = roster.segment;
        let entry = roster.get_mut(id).expect("the roster has it");
        let old = entry.row.clone();
        if !change(&mut entry.row, &mut self.names) {
            self.orphans += 1;
            return Ok(());
        }
        if is_event {
            entry.events.push(place);
        }
        relist(&mut self.lists, id, Some(&old), Some(&entry.row));
        let grown = entry.row.memory().saturating_sub(old.memory()) + size_of::<Place>();
        roster.grew(grown);
        if place.segment != home {
            self.note_foreign(place);
        }
        Ok(())
    }

    /// An event is about a message of another segment. Sealed rosters know theirs already.
    fn note_foreign(&mut self, place: Place) {
        if self.sealed.last().is_none_or(|last| last.segment() < place.segment) {
            self.roster(place.segment).foreign.push(place.offset);
        }
    }

    /// Whether a replayed event about a message of a shelf is known already.
    fn is_indexed(&self, shelf: &Shelf, place: Place) -> bool {
        let (shelves, indexed) = self.found_indexed;
        place < shelf.as_of() || (shelf.number() < shelves && place < indexed)
    }

    /// The same for a message outside of the window.
    fn change_late(
        &mut self,
        late: &mut Late<'_>,
        id: MessageId,
        place: Place,
        is_event: bool,
        change: impl FnOnce(&mut Row, &mut Names) -> bool,
    ) -> Result<(), JournalError> {
        let Some(shelf) = self.shelf_of(id)? else {
            self.orphans += 1;
            return Ok(());
        };
        self.note_foreign(place);
        if self.is_indexed(&shelf, place) {
            return Ok(());
        }
        let old = match late.row(shelf.number(), id)? {
            Some(row) => row,
            None => shelf.row(id)?.row,
        };
        let mut row = old.clone();
        if !change(&mut row, &mut self.names) {
            self.orphans += 1;
            return Ok(());
        }
        late.put_row(shelf.number(), id, &old, &row);
        if is_event {
            late.put_event(shelf.number(), id, place);
        }
        relist(late, id, Some(&old), Some(&row));
        Ok(())
    }

    /// A message whose segment is to be removed goes on in this one.
    fn carried(&mut self, late: &mut Late<'_>, event: &Carried, place: Place) -> Result<(), JournalError> {
        let id = event.id;
        if let Some(roster) = self.window.iter_mut().rev().find(|roster| roster.get(id).is_some()) {
            relist(&mut self.lists, id, roster.get(id).map(|entry| &entry.row), None);
            roster.remove(id);
        } else if let Some(shelf) = self.shelf_of(id)?
            && !self.is_indexed(&shelf, place)
        {
            let old = match late.row(shelf.number(), id)? {
                Some(row) => row,
                None => shelf.row(id)?.row,
            };
            relist(late, id, Some(&old), None);
        }
        let row = event.row_at(place, &mut self.names);
        relist(&mut self.lists, id, None, Some(&row));
        self.roster(place.segment).add(id, row, &event.arrived.refs);
        Ok(())
    }

    /// Freezes the oldest roster of the window: its file is to be written next. What waits in it moves to the index. Everything
    /// before `as_of` has been applied.
    pub(super) fn freeze_oldest(&mut self, late: &mut Late<'_>, as_of: Place) {
        let Some(roster) = self.window.pop_front() else { return };
        for Entry { id, row, .. } in roster.entries() {
            relist(&mut self.lists, *id, Some(row), None);
            relist(late, *id, None, Some(row));
        }
        self.frozen.push_back(Arc::new(Frozen { roster, as_of }));
    }

    /// Takes in a sealed roster of which the index knows nothing yet.
    pub(super) fn adopt(&mut self, late: &mut Late<'_>, sealed: Arc<Sealed>) -> Result<(), JournalError> {
        for (channel, state, count) in sealed.counts()? {
            late.add_count(&channel, state, count as i64);
        }
        for rank in sealed.unfinished()? {
            let (id, SealedRow { row, .. }) = (sealed.id(rank)?, sealed.row(rank)?);
            // It is among the counts already.
            late.add_count(&row.channel, row.state, -1);
            relist(late, id, None, Some(&row));
        }
        self.sealed.push(sealed);
        Ok(())
    }

    /// A frozen roster has its file.
    pub(super) fn sealed(&mut self, sealed: Sealed) {
        self.frozen.retain(|frozen| frozen.roster.segment != sealed.segment());
        self.sealed.push(Arc::new(sealed));
    }

    /// The segment from which events must be replayed to make the window again.
    pub(super) fn replay_from(&self) -> Option<u64> {
        self.window.front().map(|roster| roster.segment)
    }

    /// How many rosters are in the window.
    pub(super) fn window_len(&self) -> usize {
        self.window.len()
    }
}
