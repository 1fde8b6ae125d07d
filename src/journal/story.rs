//! Reading: rows from the ledger and the index, contents from the segments by place.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{Arrived, Attempted, Carried, Commanded, Event, Outcome};
use super::lists::LaneLists;
use super::plan::{Carrying, damaged, place_of};
use super::record::{Place, Record};
use super::row::{DeliveryRow, Row, parse};
use super::sealed::SealedRow;
use super::segments::Segment;
use super::stored::Stored;
use super::writer::Shared;
use super::{
    DeliveryId, DeliveryStory, DeliverySummary, Depth, Holding, JournalError, Lane, MessageState, Outgoing, Queued,
    Story, Summary, Tried, Untransformed, Waiting, keys,
};
use crate::message::{Format, MessageId};

/// Attempts and commands of a message that goes on in another segment.
type Before = (Vec<Attempted>, Vec<Commanded>);

impl Shared {
    /// A message's row as it is now.
    pub(super) fn row(&self, id: MessageId) -> Result<Option<Row>, JournalError> {
        let shelf = {
            let ledger = self.ledger();
            if let Some(entry) = ledger.recent(id) {
                return Ok(Some(entry.row.clone()));
            }
            ledger.shelf_of(id)?
        };
        let Some(shelf) = shelf else { return Ok(None) };
        match self.changed(shelf.number(), id)? {
            Some(row) => Ok(Some(row)),
            None => shelf.row(id).map(|found| Some(found.row)),
        }
    }

    /// A message's row, where it changed since its roster was frozen.
    pub(super) fn changed(&self, shelf: u64, id: MessageId) -> Result<Option<Row>, JournalError> {
        self.index.get(&keys::message(shelf, id))?.map(|row| parse(&row)).transpose()
    }

    /// A message's row, and the places of its attempts and commands.
    fn row_and_events(&self, id: MessageId) -> Result<Option<SealedRow>, JournalError> {
        let shelf = {
            let ledger = self.ledger();
            if let Some(entry) = ledger.recent(id) {
                return Ok(Some(SealedRow { row: entry.row.clone(), events: entry.events.clone() }));
            }
            ledger.shelf_of(id)?
        };
        let Some(shelf) = shelf else { return Ok(None) };
        let mut found = shelf.row(id)?;
        if let Some(row) = self.changed(shelf.number(), id)? {
            found.row = row;
        }
        let later = self.index.scan(&keys::events(shelf.number(), id), &[], usize::MAX)?;
        found.events.extend(later.iter().filter_map(|(key, _)| keys::place(key)));
        Ok(Some(found))
    }

    pub(super) fn untransformed(
        &self,
        channel: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Untransformed>, JournalError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        // Memory first: what moves to the index meanwhile is then seen here, or there, but never nowhere.
        let mut found: BTreeMap<u64, MessageId> =
            self.ledger().lists.untransformed_from(channel, from).take(limit).collect();
        for (key, id) in self.index.scan(&keys::untransformed(channel), &from.to_be_bytes(), limit)? {
            let Some((sequence, id)) = keys::number(&key).zip(id.first_chunk()) else { continue };
            found.insert(sequence, MessageId::from_bytes(*id));
        }
        Ok(found.into_iter().take(limit).map(|(sequence, id)| Untransformed { id, sequence }).collect())
    }

    pub(super) fn queue(&self, lane: &Lane, after: u64, limit: usize) -> Result<Vec<Queued>, JournalError> {
        let mut queue = Vec::new();
        let mut after = after;
        while queue.len() < limit {
            let Some(from) = after.checked_add(1) else { break };
            let found = self.numbered(lane, from, limit - queue.len())?;
            let Some((last, _)) = found.last_key_value() else { break };
            after = *last;
            for (sequence, (id, number)) in found {
                queue.extend(self.queued(lane, id, number, sequence)?);
            }
        }
        Ok(queue)
    }

    /// What waits in a lane, by its place there.
    fn numbered(&self, lane: &Lane, from: u64, limit: usize) -> Result<BTreeMap<u64, (MessageId, u16)>, JournalError> {
        let recent = |lists: &LaneLists| {
            lists.waiting.range(from..).take(limit).map(|(sequence, delivery)| (*sequence, *delivery)).collect()
        };
        let mut found: BTreeMap<u64, (MessageId, u16)> =
            self.ledger().lists.lane(&lane.channel, &lane.destination).map(recent).unwrap_or_default();
        let key = keys::lane(&lane.channel, &lane.destination);
        for (key, value) in self.index.scan(&key, &from.to_be_bytes(), limit)? {
            found.extend(keys::number(&key).zip(keys::numbered(&value)));
        }
        if let Some((beyond, _)) = found.iter().nth(limit) {
            let beyond = *beyond;
            found.split_off(&beyond);
        }
        Ok(found)
    }

    /// A delivery that waits; none when it left the lane while we looked.
    fn queued(&self, lane: &Lane, id: MessageId, number: u16, sequence: u64) -> Result<Option<Queued>, JournalError> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let delivery = row.deliveries.get(usize::from(number));
        let Some(delivery) = delivery.filter(|row| row.state.is_waiting() && row.sequence == sequence) else {
            return Ok(None);
        };
        Ok(Some(Queued {
            id: DeliveryId { message: id, destination: lane.destination.clone() },
            sequence,
            key: delivery.key,
            attempts: delivery.counted,
            next_at: delivery.next_at,
            received_at: row.received_at,
        }))
    }

    pub(super) fn holding(&self, lane: &Lane) -> Result<Vec<Holding>, JournalError> {
        let mut found: BTreeMap<u64, (MessageId, u16)> = self
            .ledger()
            .lists
            .lane(&lane.channel, &lane.destination)
            .map(|lists| lists.holding.clone())
            .unwrap_or_default();
        for (key, value) in self.index.scan(&keys::holding(&lane.channel, &lane.destination), &[], usize::MAX)? {
            found.extend(keys::number(&key).zip(keys::numbered(&value)));
        }
        let mut holding = Vec::new();
        for (sequence, (id, number)) in found {
            let Some(row) = self.row(id)? else { continue };
            let Some(delivery) = row.deliveries.get(usize::from(number)).filter(|row| row.holds) else { continue };
            let id = DeliveryId { message: id, destination: lane.destination.clone() };
            holding.push(Holding { id, sequence, key: delivery.key });
        }
        Ok(holding)
    }

    pub(super) fn depth(&self, lane: &Lane) -> Result<Depth, JournalError> {
        let Lane { channel, destination } = lane;
        // The head is the oldest, but for those that were sent to the end.
        let (mut heads, mut retried, mut waiting) = (Vec::new(), Vec::new(), 0);
        if let Some(lists) = self.ledger().lists.lane(channel, destination) {
            waiting += lists.waiting.len() as u64;
            heads.extend(lists.waiting.first_key_value().map(|(sequence, (id, _))| (*sequence, *id)));
            retried.extend(lists.retried.first().map(|(id, _)| *id));
        }
        waiting += self.index.get(&keys::waiting(channel, destination))?.as_deref().and_then(keys::number).unwrap_or(0);
        for (key, value) in self.index.scan(&keys::lane(channel, destination), &[], 1)? {
            heads.extend(keys::number(&key).zip(keys::numbered(&value)).map(|(sequence, (id, _))| (sequence, id)));
        }
        for (key, _) in self.index.scan(&keys::retried(channel, destination), &[], 1)? {
            retried.extend(keys::numbered(&key).map(|(id, _)| id));
        }
        let head = heads.into_iter().min().map(|(_, id)| id);
        let mut oldest = None;
        for id in head.into_iter().chain(retried) {
            let received = self.row(id)?.map(|row| row.received_at);
            oldest = [oldest, received].into_iter().flatten().min();
        }
        Ok(Depth { waiting, oldest })
    }

    pub(super) fn waiting(&self) -> Result<Vec<Waiting>, JournalError> {
        let mut messages: BTreeMap<String, u64> = BTreeMap::new();
        let mut lanes: BTreeMap<Lane, u64> = BTreeMap::new();
        {
            let ledger = self.ledger();
            messages.extend(ledger.lists.channels().map(|(name, count)| (name.to_string(), count)));
            lanes.extend(ledger.lists.lanes().map(|(channel, destination, count)| {
                (Lane { channel: channel.to_string(), destination: destination.to_string() }, count)
            }));
        }
        for (key, count) in self.index.scan(keys::COUNTS, &[], usize::MAX)? {
            let Some(((channel, state), count)) = keys::two_names(&key).zip(keys::number(&count)) else { continue };
            if state == MessageState::Received.as_str() {
                *messages.entry(channel).or_default() += count;
            }
        }
        for (key, count) in self.index.scan(keys::WAITING, &[], usize::MAX)? {
            let Some(((channel, destination), count)) = keys::two_names(&key).zip(keys::number(&count)) else {
                continue;
            };
            *lanes.entry(Lane { channel, destination }).or_default() += count;
        }
        let messages = messages.into_iter().filter(|(_, count)| *count > 0);
        let lanes = lanes.into_iter().filter(|(_, count)| *count > 0);
        Ok(messages
            .map(|(channel, count)| Waiting::Messages { channel, count })
            .chain(lanes.map(|(lane, count)| Waiting::Deliveries { lane, count }))
            .collect())
    }

    pub(super) fn counts(&self, channel: &str) -> Result<Vec<(MessageState, u64)>, JournalError> {
        let recent = self.ledger().lists.counts(channel);
        let count = |state: &MessageState| {
            let count = self.index.get(&keys::count(channel, *state))?;
            let count = count.as_deref().and_then(keys::number).unwrap_or(0);
            Ok((*state, count.saturating_add_signed(recent[*state as usize])))
        };
        MessageState::ALL.iter().map(count).collect()
    }

    /// The row of a list. Also when its record in the segment is damaged: it then lacks what only that record knew.
    pub(super) fn summary(&self, id: MessageId) -> Result<Option<Summary>, JournalError> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        match self.arrived(row.arrived) {
            Ok((arrived, record, _)) => Ok(Some(summary(id, row, Some((arrived, &record))))),
            Err(JournalError::Damaged { .. }) => Ok(Some(summary(id, row, None))),
            Err(error) => Err(error),
        }
    }

    pub(super) fn story(&self, id: MessageId) -> Result<Option<Story>, JournalError> {
        self.index.check_open()?;
        let Some(SealedRow { row, events }) = self.row_and_events(id)? else { return Ok(None) };
        let (arrived, before, record, file) = self.origin(row.arrived)?;
        let body = self.reader.body(&record, &file, 0)?;
        let acknowledgement = match arrived.acknowledged {
            true => Some(self.reader.body(&record, &file, 1)?),
            false => None,
        };
        let mut deliveries = Vec::new();
        let (mut transformed_at, mut removed) = (None, None);
        if let Some(place) = row.transformed {
            let (outcome, record, file) = self.outcome(place)?;
            transformed_at = Some(outcome.at);
            for planned in outcome.deliveries {
                let content = planned.body.map(|number| self.reader.body(&record, &file, number)).transpose()?;
                let content = content.map(|content| content.main(&planned.properties));
                deliveries.push(DeliveryStory { content, properties: planned.properties, attempts: Vec::new() });
            }
            removed = record.removed_at();
        }
        let mut summary = summary(id, row, Some((arrived, &record)));
        summary.content_removed = summary.content_removed.or(removed);
        let mut story = Story { summary, body, acknowledgement, transformed_at, deliveries, commands: Vec::new() };
        let (attempts, commands) = before;
        attempts.into_iter().for_each(|event| story.add(Event::Attempted(event), None));
        commands.into_iter().for_each(|event| story.add(Event::Commanded(event), None));
        for place in events {
            let (event, record, file) = self.event(place)?;
            let response = match &event {
                Event::Attempted(event) if event.answered => Some(self.reader.body(&record, &file, 0)?),
                _ => None,
            };
            story.add(event, response);
        }
        Ok(Some(story))
    }

    /// What is needed of a message to go on in another segment, unless it is finished or has gone on already.
    pub(super) fn carried(&self, id: MessageId, from: u64) -> Result<Carrying, JournalError> {
        let home = self.ledger().recent(id).map(|entry| entry.row.arrived.segment);
        let shelf = self.ledger().shelf_of(id)?.map(|shelf| shelf.number());
        let Some(SealedRow { row, events }) = self.row_and_events(id)? else { return Ok(None) };
        if home.is_some() || shelf != Some(from) || row.is_finished() {
            return Ok(None);
        }
        let (arrived, before, record, file) = self.origin(row.arrived)?;
        let mut bodies = vec![self.reader.body(&record, &file, 0)?.into_bytes(id)?];
        if arrived.acknowledged {
            bodies.push(self.reader.body(&record, &file, 1)?.into_bytes(id)?);
        }
        let outcome = match row.transformed {
            Some(place) => {
                let (mut outcome, record, file) = self.outcome(place)?;
                for planned in &mut outcome.deliveries {
                    let Some(number) = planned.body else { continue };
                    let content = self.reader.body(&record, &file, number)?.into_bytes(id)?;
                    planned.body = Some(place_of(content, &mut bodies));
                }
                Some(outcome)
            }
            None => None,
        };
        let mut carried = Carried::new(id, arrived, outcome, row);
        (carried.attempts, carried.commands) = before;
        for place in events {
            match self.event(place)?.0 {
                Event::Attempted(event) => carried.attempts.push(event),
                Event::Commanded(event) => carried.commands.push(event),
                _ => {}
            }
        }
        Ok(Some((carried, bodies)))
    }

    /// The record of a message's arrival, with what had happened to it in segments that are gone.
    fn origin(&self, place: Place) -> Result<(Arrived, Before, Record, Arc<Segment>), JournalError> {
        let (event, record, file) = self.event(place)?;
        match event {
            Event::Arrived(arrived) => Ok((*arrived, Before::default(), record, file)),
            Event::Carried(carried) => {
                let Carried { arrived, attempts, commands, .. } = *carried;
                Ok((arrived, (attempts, commands), record, file))
            }
            _ => Err(damaged(place)),
        }
    }

    pub(super) fn outgoing(&self, id: MessageId, row: &Row, number: u16) -> Result<Outgoing, JournalError> {
        let place = row.transformed.ok_or(damaged(row.arrived))?;
        let (mut outcome, record, file) = self.outcome(place)?;
        if usize::from(number) >= outcome.deliveries.len() {
            return Err(damaged(place));
        }
        let planned = outcome.deliveries.swap_remove(usize::from(number));
        let content = self.reader.body(&record, &file, planned.body.ok_or(damaged(place))?)?.into_bytes(id)?;
        Ok(Outgoing { content, properties: planned.properties })
    }

    fn event(&self, place: Place) -> Result<(Event, Record, Arc<Segment>), JournalError> {
        let (record, file) = self.reader.record(place)?;
        let event = Event::from_meta(record.kind, record.meta()).ok_or(damaged(place))?;
        Ok((event, record, file))
    }

    pub(super) fn arrived(&self, place: Place) -> Result<(Arrived, Record, Arc<Segment>), JournalError> {
        match self.event(place)? {
            (Event::Arrived(arrived), record, file) => Ok((*arrived, record, file)),
            (Event::Carried(carried), record, file) => Ok((carried.arrived, record, file)),
            _ => Err(damaged(place)),
        }
    }

    fn outcome(&self, place: Place) -> Result<(Outcome, Record, Arc<Segment>), JournalError> {
        match self.event(place)? {
            (Event::Transformed(outcome), record, file) => Ok((outcome, record, file)),
            (Event::Carried(carried), record, file) => {
                carried.outcome.map(|outcome| (outcome, record, file)).ok_or(damaged(place))
            }
            _ => Err(damaged(place)),
        }
    }
}

impl Story {
    /// Adds an attempt or a command.
    fn add(&mut self, event: Event, response: Option<Stored>) {
        match event {
            Event::Attempted(event) => {
                let attempt = event.attempt;
                let named = |delivery: &DeliverySummary| delivery.destination == event.delivery.destination;
                let number = self.summary.deliveries.iter().position(named);
                if let Some(delivery) = number.and_then(|number| self.deliveries.get_mut(number)) {
                    delivery.attempts.push(Tried { attempt, response });
                }
            }
            Event::Commanded(event) => self.commands.push((event.delivery, event.command)),
            _ => {}
        }
    }
}

fn summary(id: MessageId, row: Row, arrived: Option<(Arrived, &Record)>) -> Summary {
    let content_removed = arrived.as_ref().and_then(|(_, record)| record.body_removed_at(0));
    let (origin, format, refs, bytes) = match arrived {
        Some((arrived, record)) => (arrived.origin, arrived.format, arrived.refs, record.body_bytes(0)),
        None => (Default::default(), Format::Text, Default::default(), 0),
    };
    let deliveries = row.deliveries.into_iter().map(|row: DeliveryRow| DeliverySummary {
        destination: row.destination.to_string(),
        state: row.state,
        attempts: row.tries,
        error: row.error.map(String::from),
        next_at: row.next_at,
        finished_at: row.finished_at,
    });
    Summary {
        id,
        channel: row.channel.to_string(),
        received_at: row.received_at,
        origin,
        format,
        bytes,
        state: row.state,
        reason: row.reason.map(String::from),
        refs,
        deliveries: deliveries.collect(),
        content_removed,
    }
}
