//! The records that a message is told by: of its arrival and of its outcome. Of a part of a message that was split, both are the
//! record of the split.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::JournalError;
use super::event::{Arrived, Attempted, Carried, Commanded, Event, Outcome, Part};
use super::plan::damaged;
use super::record::{Kind, Place, Record};
use super::segments::Segment;
use super::writer::Shared;
use crate::message::MessageId;

/// Attempts and commands of a message that goes on in another segment.
type Before = (Vec<Attempted>, Vec<Commanded>);

/// The parts of one split, by their ids.
pub(super) struct Parts {
    place: Place,
    parts: HashMap<MessageId, Part>,
}

impl Shared {
    /// The record of a message's arrival, with the number of its body and with what had happened to it in segments that are
    /// gone.
    pub(super) fn origin(
        &self,
        place: Place,
        id: MessageId,
    ) -> Result<(Arrived, usize, Before, Record, Arc<Segment>), JournalError> {
        let (record, file) = self.reader.record(place)?;
        match record.kind {
            Kind::Transformed => {
                let Part { arrived, body, .. } = self.part(place, id, &record)?;
                Ok((arrived, body, Before::default(), record, file))
            }
            _ => match event_of(place, &record)? {
                Event::Arrived(arrived) => Ok((*arrived, 0, Before::default(), record, file)),
                Event::Carried(carried) => {
                    let Carried { arrived, attempts, commands, .. } = *carried;
                    Ok((arrived, 0, (attempts, commands), record, file))
                }
                _ => Err(damaged(place)),
            },
        }
    }

    /// The same without what happened to it. Without an id, the arrival is no part of anything.
    pub(super) fn arrived(
        &self,
        place: Place,
        id: Option<MessageId>,
    ) -> Result<(Arrived, usize, Record, Arc<Segment>), JournalError> {
        let (record, file) = self.reader.record(place)?;
        match (record.kind, id) {
            (Kind::Transformed, Some(id)) => {
                let Part { arrived, body, .. } = self.part(place, id, &record)?;
                Ok((arrived, body, record, file))
            }
            _ => match event_of(place, &record)? {
                Event::Arrived(arrived) => Ok((*arrived, 0, record, file)),
                Event::Carried(carried) => Ok((carried.arrived, 0, record, file)),
                _ => Err(damaged(place)),
            },
        }
    }

    /// The record of a message's outcome.
    pub(super) fn outcome(&self, place: Place, id: MessageId) -> Result<(Outcome, Record, Arc<Segment>), JournalError> {
        let (record, file) = self.reader.record(place)?;
        if let Some(part) = self.known_part(place, id) {
            return Ok((part.outcome, record, file));
        }
        match event_of(place, &record)? {
            Event::Transformed(outcome) if outcome.id == id => Ok((outcome, record, file)),
            Event::Transformed(_) => Ok((self.part(place, id, &record)?.outcome, record, file)),
            Event::Carried(carried) => carried.outcome.map(|outcome| (outcome, record, file)).ok_or(damaged(place)),
            _ => Err(damaged(place)),
        }
    }

    /// A part of the split that was looked at last: the lanes ask for one part of a split after the other.
    fn known_part(&self, place: Place, id: MessageId) -> Option<Part> {
        let known = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|parts| parts.place == place)?.parts.get(&id).cloned()
    }

    fn part(&self, place: Place, id: MessageId, record: &Record) -> Result<Part, JournalError> {
        if let Some(part) = self.known_part(place, id) {
            return Ok(part);
        }
        let Event::Transformed(outcome) = event_of(place, record)? else { return Err(damaged(place)) };
        let parts: HashMap<MessageId, Part> = outcome.parts.into_iter().map(|part| (part.outcome.id, part)).collect();
        let part = parts.get(&id).cloned().ok_or(damaged(place));
        *self.parts.lock().unwrap_or_else(PoisonError::into_inner) = Some(Parts { place, parts });
        part
    }
}

fn event_of(place: Place, record: &Record) -> Result<Event, JournalError> {
    Event::from_meta(record.kind, record.meta()).ok_or(damaged(place))
}
