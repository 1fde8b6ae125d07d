//! Reading: rows from the index, contents from the segments by place.

use std::fs::File;
use std::sync::Arc;

use super::event::{Arrived, Event, Outcome};
use super::ledger::{DeliveryRow, MessageRow, parse};
use super::record::{Place, Record};
use super::writer::Shared;
use super::{
    DeliveryId, DeliveryStory, DeliverySummary, Depth, Holding, JournalError, Lane, MessageState, Outgoing, Queued,
    Story, Summary, Untransformed, Waiting, keys,
};
use crate::message::{Format, MessageId};

impl Shared {
    pub(super) fn message(&self, id: MessageId) -> Result<Option<MessageRow>, JournalError> {
        self.index.get(&keys::message(id))?.map(|row| parse(&row)).transpose()
    }

    fn delivery(&self, id: MessageId, number: u16) -> Result<Option<DeliveryRow>, JournalError> {
        self.index.get(&keys::delivery(id, number))?.map(|row| parse(&row)).transpose()
    }

    pub(super) fn untransformed(
        &self,
        channel: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Untransformed>, JournalError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        let found = self.index.scan(&keys::untransformed(channel), &from.to_be_bytes(), limit)?;
        let found = found.iter().filter_map(|(key, id)| {
            Some(Untransformed { id: MessageId::from_bytes(*id.first_chunk()?), sequence: keys::number(key)? })
        });
        Ok(found.collect())
    }

    pub(super) fn queue(&self, lane: &Lane, after: u64, limit: usize) -> Result<Vec<Queued>, JournalError> {
        let mut queue = Vec::new();
        let mut after = after;
        while queue.len() < limit {
            let Some(from) = after.checked_add(1) else { break };
            let found = self.index.scan(&keys::lane(lane), &from.to_be_bytes(), limit - queue.len())?;
            let Some((last, _)) = found.last() else { break };
            after = keys::number(last).unwrap_or(u64::MAX);
            for (key, value) in &found {
                let Some(((id, number), sequence)) = keys::numbered(value).zip(keys::number(key)) else { continue };
                queue.extend(self.queued(lane, id, number, sequence)?);
            }
        }
        Ok(queue)
    }

    /// A delivery that waits; none when it left the lane while we looked.
    fn queued(&self, lane: &Lane, id: MessageId, number: u16, sequence: u64) -> Result<Option<Queued>, JournalError> {
        let (Some(message), Some(row)) = (self.message(id)?, self.delivery(id, number)?) else { return Ok(None) };
        if !row.state.is_waiting() || row.sequence != sequence {
            return Ok(None);
        }
        Ok(Some(Queued {
            id: DeliveryId { message: id, destination: lane.destination.clone() },
            sequence,
            key: row.key,
            attempts: row.counted,
            next_at: row.next_at,
            received_at: message.received_at,
        }))
    }

    pub(super) fn holding(&self, lane: &Lane) -> Result<Vec<Holding>, JournalError> {
        let mut holding = Vec::new();
        for (key, value) in self.index.scan(&keys::holding(lane), &[], usize::MAX)? {
            let Some(((id, number), sequence)) = keys::numbered(&value).zip(keys::number(&key)) else { continue };
            let Some(row) = self.delivery(id, number)?.filter(|row| row.holds) else { continue };
            let id = DeliveryId { message: id, destination: lane.destination.clone() };
            holding.push(Holding { id, sequence, key: row.key });
        }
        Ok(holding)
    }

    pub(super) fn outgoing_of(&self, delivery: &DeliveryId) -> Result<Outgoing, JournalError> {
        let unknown = JournalError::Unknown { id: delivery.message };
        let message = self.message(delivery.message)?.ok_or(unknown.clone())?;
        for number in 0..message.deliveries {
            let row = self.delivery(delivery.message, number)?;
            if row.is_some_and(|row| row.destination == delivery.destination) {
                return self.outgoing(&message, number);
            }
        }
        Err(unknown)
    }

    pub(super) fn depth(&self, lane: &Lane) -> Result<Depth, JournalError> {
        let waiting = self.index.get(&keys::waiting(lane))?.as_deref().and_then(keys::number).unwrap_or(0);
        // The head is the oldest, but for those that were sent to the end.
        let head = self.index.scan(&keys::lane(lane), &[], 1)?;
        let retried = self.index.scan(&keys::retried(lane), &[], 1)?;
        let head = head.first().and_then(|(_, value)| keys::numbered(value));
        let retried = retried.first().and_then(|(key, _)| keys::numbered(key));
        let mut oldest = None;
        for (id, _) in [head, retried].into_iter().flatten() {
            let received = self.message(id)?.map(|message| message.received_at);
            oldest = [oldest, received].into_iter().flatten().min();
        }
        Ok(Depth { waiting, oldest })
    }

    pub(super) fn waiting(&self) -> Result<Vec<Waiting>, JournalError> {
        let mut waiting = Vec::new();
        for (key, count) in self.index.scan(keys::COUNTS, &[], usize::MAX)? {
            let Some(((channel, state), count)) = keys::two_names(&key).zip(keys::number(&count)) else { continue };
            if state == MessageState::Received.as_str() && count > 0 {
                waiting.push(Waiting::Messages { channel, count });
            }
        }
        for (key, count) in self.index.scan(keys::WAITING, &[], usize::MAX)? {
            let Some(((channel, destination), count)) = keys::two_names(&key).zip(keys::number(&count)) else {
                continue;
            };
            if count > 0 {
                waiting.push(Waiting::Deliveries { lane: Lane { channel, destination }, count });
            }
        }
        Ok(waiting)
    }

    pub(super) fn counts(&self, channel: &str) -> Result<Vec<(MessageState, u64)>, JournalError> {
        let count = |state: &MessageState| {
            let count = self.index.get(&keys::count(channel, *state))?;
            Ok((*state, count.as_deref().and_then(keys::number).unwrap_or(0)))
        };
        MessageState::ALL.iter().map(count).collect()
    }

    /// The row of a list. Also when its record in the segment is damaged: it then lacks what only that record knew.
    pub(super) fn summary(&self, id: MessageId) -> Result<Option<Summary>, JournalError> {
        let Some((message, rows)) = self.rows(id)? else { return Ok(None) };
        match self.arrived(message.arrived) {
            Ok((arrived, record, _)) => Ok(Some(summary(id, message, rows, Some((arrived, record.body_bytes(0)))))),
            Err(JournalError::Damaged { .. }) => Ok(Some(summary(id, message, rows, None))),
            Err(error) => Err(error),
        }
    }

    pub(super) fn story(&self, id: MessageId) -> Result<Option<Story>, JournalError> {
        let Some((message, rows)) = self.rows(id)? else { return Ok(None) };
        let (arrived, record, file) = self.arrived(message.arrived)?;
        let body = self.reader.body(&record, &file, 0)?;
        let acknowledgement = match arrived.acknowledged {
            true => Some(self.reader.body(&record, &file, 1)?),
            false => None,
        };
        let mut deliveries = Vec::new();
        let mut transformed_at = None;
        if let Some(place) = message.transformed {
            let (outcome, record, file) = self.outcome(place)?;
            transformed_at = Some(outcome.at);
            for planned in outcome.deliveries {
                let content = planned.body.map(|number| self.reader.body(&record, &file, number)).transpose()?;
                let outgoing = content.map(|content| Outgoing { content, properties: planned.properties });
                deliveries.push(DeliveryStory { outgoing, attempts: Vec::new() });
            }
        }
        let bytes = record.body_bytes(0);
        let summary = summary(id, message, rows, Some((arrived, bytes)));
        let mut story = Story { summary, body, acknowledgement, transformed_at, deliveries, commands: Vec::new() };
        self.happened(id, &mut story)?;
        Ok(Some(story))
    }

    /// Adds attempts and commands.
    fn happened(&self, id: MessageId, story: &mut Story) -> Result<(), JournalError> {
        for (key, _) in self.index.scan(&keys::events(id), &[], usize::MAX)? {
            let Some((segment, offset)) = key.split_first_chunk::<8>().zip(keys::number(&key)) else { continue };
            let place = Place { segment: u64::from_be_bytes(*segment.0), offset };
            let (event, record, file) = self.event(place)?;
            match event {
                Event::Attempted(event) => {
                    let mut attempt = event.attempt;
                    if event.answered {
                        attempt.response = Some(self.reader.body(&record, &file, 0)?);
                    }
                    let named = |delivery: &DeliverySummary| delivery.destination == event.delivery.destination;
                    let number = story.summary.deliveries.iter().position(named);
                    if let Some(delivery) = number.and_then(|number| story.deliveries.get_mut(number)) {
                        delivery.attempts.push(attempt);
                    }
                }
                Event::Commanded(event) => story.commands.push((event.delivery, event.command)),
                _ => return Err(damaged(place)),
            }
        }
        Ok(())
    }

    /// A message's row and those of its deliveries, of one moment.
    fn rows(&self, id: MessageId) -> Result<Option<(MessageRow, Vec<DeliveryRow>)>, JournalError> {
        let mut before = self.index.get(&keys::message(id))?;
        loop {
            let Some(row) = before else { return Ok(None) };
            let message: MessageRow = parse(&row)?;
            let mut rows = Vec::new();
            for number in 0..message.deliveries {
                rows.extend(self.delivery(id, number)?);
            }
            let after = self.index.get(&keys::message(id))?;
            if after.as_ref() == Some(&row) {
                return Ok(Some((message, rows)));
            }
            before = after;
        }
    }

    fn outgoing(&self, message: &MessageRow, number: u16) -> Result<Outgoing, JournalError> {
        let place = message.transformed.ok_or(damaged(message.arrived))?;
        let (mut outcome, record, file) = self.outcome(place)?;
        if usize::from(number) >= outcome.deliveries.len() {
            return Err(damaged(place));
        }
        let planned = outcome.deliveries.swap_remove(usize::from(number));
        let content = self.reader.body(&record, &file, planned.body.ok_or(damaged(place))?)?;
        Ok(Outgoing { content, properties: planned.properties })
    }

    fn event(&self, place: Place) -> Result<(Event, Record, Arc<File>), JournalError> {
        let (record, file) = self.reader.record(place)?;
        let event = Event::from_meta(record.kind, record.meta()).ok_or(damaged(place))?;
        Ok((event, record, file))
    }

    fn arrived(&self, place: Place) -> Result<(Arrived, Record, Arc<File>), JournalError> {
        match self.event(place)? {
            (Event::Arrived(arrived), record, file) => Ok((arrived, record, file)),
            _ => Err(damaged(place)),
        }
    }

    fn outcome(&self, place: Place) -> Result<(Outcome, Record, Arc<File>), JournalError> {
        match self.event(place)? {
            (Event::Transformed(outcome), record, file) => Ok((outcome, record, file)),
            _ => Err(damaged(place)),
        }
    }
}

fn damaged(place: Place) -> JournalError {
    JournalError::Damaged { segment: place.segment, offset: place.offset }
}

fn summary(id: MessageId, message: MessageRow, rows: Vec<DeliveryRow>, arrived: Option<(Arrived, u64)>) -> Summary {
    let (origin, format, refs, bytes) = match arrived {
        Some((arrived, bytes)) => (arrived.origin, arrived.format, arrived.refs, bytes),
        None => (Default::default(), Format::Text, Default::default(), 0),
    };
    let deliveries = rows.into_iter().map(|row| DeliverySummary {
        destination: row.destination,
        state: row.state,
        attempts: row.tries,
        error: row.error,
        next_at: row.next_at,
        finished_at: row.finished_at,
    });
    Summary {
        id,
        channel: message.channel,
        received_at: message.received_at,
        origin,
        format,
        bytes,
        state: message.state,
        reason: message.reason,
        refs,
        deliveries: deliveries.collect(),
    }
}
