//! The records that a message is told by: of its arrival and of its outcome. Of a part of a message that was split, both are the
//! record of the split.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::JournalError;
use super::event::{Arrived, Attempted, Carried, Commanded, Event, Outcome, Part};
use super::plan::damaged;
use super::record::{Place, Record};
use super::segments::Segment;
use super::writer::Shared;
use crate::message::MessageId;

/// Attempts and commands of a message that goes on in another segment.
type Before = (Vec<Attempted>, Vec<Commanded>);

/// A message's arrival: what came, the number of its body, what had happened before, and the record.
type Origin = (Arrived, usize, Before, Arc<Record>, Arc<Segment>);

/// A split as it was read last: the lanes ask for one part of it after the other, and its record can be large.
pub(super) struct Parts {
    place: Place,
    record: Arc<Record>,
    file: Arc<Segment>,
    parts: HashMap<MessageId, Part>,
}

/// What a record tells of a message.
#[expect(clippy::large_enum_variant, reason = "one at a time is made, and taken apart at once")]
enum Told {
    Event(Event),
    /// That the message is a part of another one.
    Part(Box<Part>),
}

impl Shared {
    /// Lets go of the split that was read last, if it is in a segment that goes.
    pub(super) fn forget_parts(&self, segment: u64) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.as_ref().is_some_and(|parts| parts.place.segment == segment) {
            *parts = None;
        }
    }

    /// The record of a message's arrival, with the number of its body and with what had happened to it in segments that are
    /// gone.
    pub(super) fn origin(&self, place: Place, id: MessageId) -> Result<Origin, JournalError> {
        let (told, record, file) = self.told(place, Some(id))?;
        let (arrived, body, before) = match told {
            Told::Part(part) => (part.arrived, part.body, Before::default()),
            Told::Event(Event::Arrived(arrived)) => (*arrived, 0, Before::default()),
            Told::Event(Event::Carried(carried)) => {
                let Carried { arrived, attempts, commands, .. } = *carried;
                (arrived, 0, (attempts, commands))
            }
            Told::Event(_) => return Err(damaged(place)),
        };
        Ok((arrived, body, before, record, file))
    }

    /// The same without what happened to it. Without an id, the arrival is no part of anything.
    pub(super) fn arrived(
        &self,
        place: Place,
        id: Option<MessageId>,
    ) -> Result<(Arrived, usize, Arc<Record>, Arc<Segment>), JournalError> {
        let (told, record, file) = self.told(place, id)?;
        match told {
            Told::Part(part) => Ok((part.arrived, part.body, record, file)),
            Told::Event(Event::Arrived(arrived)) => Ok((*arrived, 0, record, file)),
            Told::Event(Event::Carried(carried)) => Ok((carried.arrived, 0, record, file)),
            Told::Event(_) => Err(damaged(place)),
        }
    }

    /// The record of a message's outcome.
    pub(super) fn outcome(
        &self,
        place: Place,
        id: MessageId,
    ) -> Result<(Outcome, Arc<Record>, Arc<Segment>), JournalError> {
        let (told, record, file) = self.told(place, Some(id))?;
        let outcome = match told {
            Told::Part(part) => Some(part.outcome),
            Told::Event(Event::Transformed(outcome)) => Some(outcome),
            Told::Event(Event::Carried(carried)) => carried.outcome,
            Told::Event(_) => None,
        };
        Ok((outcome.ok_or(damaged(place))?, record, file))
    }

    fn told(&self, place: Place, id: Option<MessageId>) -> Result<(Told, Arc<Record>, Arc<Segment>), JournalError> {
        if let Some((parts, id)) = self.last_read(place).zip(id)
            && let Some(part) = parts.parts.get(&id)
        {
            return Ok((Told::Part(Box::new(part.clone())), parts.record.clone(), parts.file.clone()));
        }
        let (record, file) = self.reader.record(place)?;
        let event = Event::from_meta(record.kind, record.meta()).ok_or(damaged(place))?;
        let record = Arc::new(record);
        match (event, id) {
            (Event::Transformed(outcome), Some(id)) if outcome.id != id => {
                let parts: HashMap<MessageId, Part> =
                    outcome.parts.into_iter().map(|part| (part.outcome.id, part)).collect();
                let part = parts.get(&id).cloned().ok_or(damaged(place))?;
                let read = Parts { place, record: record.clone(), file: file.clone(), parts };
                *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(read));
                Ok((Told::Part(Box::new(part)), record, file))
            }
            (event, _) => Ok((Told::Event(event), record, file)),
        }
    }

    /// The split that was read last, if it is this one. Its file must be the one that has the segment's name: where content was
    /// removed meanwhile, that is another one.
    fn last_read(&self, place: Place) -> Option<Arc<Parts>> {
        let read = self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let is_current = || self.reader.segment(place.segment).is_ok_and(|file| Arc::ptr_eq(&file, &read.file));
        (read.place == place && is_current()).then_some(read)
    }
}
