//! What was written a moment ago, still in memory: a message is transformed, and a delivery sent, mostly right after it was
//! journaled, and then need not be read back and taken apart again.
//!
//! Known by the place of its record, so that nothing is found here that the ledger does not name. What is not here is read from
//! the segment; the two never differ, because a record is never changed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::event::{Arrived, Event, Outcome, Planned};
use super::plan::damaged;
use super::record::Place;
use super::row::Row;
use super::writer::Shared;
use super::{DeliveryId, JournalError, Outgoing, Received};
use crate::message::{Body, Format, MessageId, Origin};

/// So much is kept at most.
const KEPT_BYTES: usize = 4 << 20;
/// What a record takes beside its contents, about.
const RECORD_BYTES: usize = 1 << 10;

/// The records written last, the oldest let go of first.
#[derive(Default)]
pub(super) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    records: HashMap<Place, Written>,
    order: VecDeque<(Place, usize)>,
    bytes: usize,
}

/// A record.
enum Written {
    Arrival(Box<Arrival>),
    /// With the deliveries of its message, or of its parts, by their messages.
    Outcome {
        deliveries: HashMap<MessageId, Vec<Planned>>,
        contents: Vec<Bytes>,
    },
}

struct Arrival {
    origin: Origin,
    format: Format,
    body: Bytes,
    read: Option<Arc<Body>>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what somebody will ask for soon. `read`: the arrival's body as its source has read it.
    pub(super) fn keep(&self, place: Place, event: Event, bodies: Vec<Bytes>, read: Option<Arc<Body>>) {
        let bytes = RECORD_BYTES + bodies.iter().map(Bytes::len).sum::<usize>();
        let written = match event {
            Event::Arrived(arrived) if arrived.rejected.is_none() && !arrived.recipients.is_empty() => {
                let Arrived { origin, format, .. } = *arrived;
                let Some(body) = bodies.into_iter().next() else { return };
                Written::Arrival(Box::new(Arrival { origin, format, body, read }))
            }
            Event::Transformed(Outcome { id, deliveries, parts, .. }) if !bodies.is_empty() => {
                let of_parts = parts.into_iter().map(|part| (part.outcome.id, part.outcome.deliveries));
                Written::Outcome { deliveries: of_parts.chain([(id, deliveries)]).collect(), contents: bodies }
            }
            _ => return,
        };
        if bytes > KEPT_BYTES / 4 {
            return;
        }
        let mut kept = self.lock();
        kept.bytes += bytes;
        kept.order.push_back((place, bytes));
        kept.records.insert(place, written);
        while kept.bytes > KEPT_BYTES {
            let Some((oldest, bytes)) = kept.order.pop_front() else { break };
            kept.bytes -= bytes;
            kept.records.remove(&oldest);
        }
    }
}

impl Recent {
    /// Lets go of everything that was written to a segment.
    pub(super) fn forget(&self, segment: u64) {
        self.lock().records.retain(|place, _| place.segment != segment);
    }
}

impl Shared {
    /// The size of a body that came in and is still here.
    pub(super) fn at_hand(&self, id: MessageId) -> Option<usize> {
        let place = self.row(id).ok()??.arrived;
        match self.recent.lock().records.get(&place) {
            Some(Written::Arrival(arrival)) => Some(arrival.body.len()),
            _ => None,
        }
    }

    /// What came in, as the transformer wants it.
    pub(super) fn received(&self, id: MessageId) -> Result<Option<Received>, JournalError> {
        self.index.check_open()?;
        let Some(Row { channel, received_at, arrived: place, .. }) = self.row(id)? else { return Ok(None) };
        let channel = channel.to_string();
        if let Some(Written::Arrival(arrival)) = self.recent.lock().records.get_mut(&place) {
            let (origin, body, read) = (arrival.origin.clone(), arrival.body.clone(), arrival.read.take());
            return Ok(Some(Received { channel, received_at, origin, format: arrival.format, body, read }));
        }
        let (arrived, number, record, file) = self.arrived(place, Some(id))?;
        let body = self.reader.body(&record, &file, number)?.into_bytes(id)?;
        Ok(Some(Received { channel, received_at, origin: arrived.origin, format: arrived.format, body, read: None }))
    }

    pub(super) fn outgoing_of(&self, delivery: &DeliveryId) -> Result<Outgoing, JournalError> {
        let unknown = JournalError::Unknown { id: delivery.message };
        let row = self.row(delivery.message)?.ok_or(unknown.clone())?;
        let (_, number) = row.find(&delivery.destination).ok_or(unknown)?;
        let place = row.transformed.ok_or(damaged(row.arrived))?;
        if let Some(Written::Outcome { deliveries, contents }) = self.recent.lock().records.get(&place) {
            let planned = deliveries.get(&delivery.message).and_then(|deliveries| deliveries.get(usize::from(number)));
            let planned = planned.ok_or(damaged(place))?;
            let content = planned.body.and_then(|number| contents.get(number)).ok_or(damaged(place))?;
            return Ok(Outgoing { content: content.clone(), properties: planned.properties.clone() });
        }
        self.outgoing(delivery.message, &row, number)
    }
}
