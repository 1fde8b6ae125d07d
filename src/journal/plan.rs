//! What work becomes: an event to be appended, or an answer at once.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::event::{Arrived, Attempted, Carried, Commanded, Event, Known, Outcome, Part, Planned};
use super::record::{self, Place};
use super::row::Row;
use super::writer::{Group, Shared, Writer};
use super::{
    Arrival, Attempt, Command, DeliveryId, DeliveryState, Identity, JournalError, MessageState, NewDelivery, NewPart,
    OtherBody, Receipt, Recipient, Repeat, Transformed, Verb,
};
use crate::message::{Body, MessageId};

/// Something to be written.
pub(super) enum Work {
    Receive {
        arrival: Box<Arrival>,
        known: Option<Known>,
    },
    Transformed {
        id: MessageId,
        at: Timestamp,
        result: Transformed,
        deliveries: Vec<NewDelivery>,
    },
    Split {
        id: MessageId,
        at: Timestamp,
        parts: Vec<NewPart>,
    },
    Attempted {
        delivery: DeliveryId,
        attempt: Box<Attempt>,
    },
    Command {
        delivery: DeliveryId,
        command: Command,
    },
    /// A message whose segment is to be removed.
    Carry {
        id: MessageId,
        from: u64,
    },
    /// What may be pruned is to be sealed.
    SealOld {
        before: Timestamp,
    },
    /// A shelf is about to be removed.
    Forget {
        shelf: u64,
    },
    /// So many bytes of older segments were given back. All that was asked for before has been done by then, and is on the disk.
    GaveBack {
        bytes: u64,
    },
    Close,
}

/// What work becomes.
pub(super) enum Step {
    Append { event: Box<Event>, meta: Vec<u8>, bodies: Vec<Bytes>, read: Option<Arc<Body>>, answer: Option<Receipt> },
    Answer(Option<Receipt>),
}

/// What is told to whoever brings the same arrival again.
#[derive(Clone)]
pub(super) struct First {
    recipients: Vec<Recipient>,
    received_at: Timestamp,
    acknowledgement: Option<Bytes>,
}

impl Writer {
    pub(super) fn plan(&self, work: Work, group: &mut Group) -> Result<Step, JournalError> {
        match work {
            Work::Receive { arrival, known } => self.plan_arrival(*arrival, known, group),
            Work::Transformed { id, at, result, deliveries } => {
                let planned = self.outcome(id, at, result, self.sequence);
                self.plan_outcome(planned, deliveries)
            }
            Work::Split { id, at, parts } => self.plan_split(id, at, parts),
            Work::Attempted { delivery, attempt } => {
                let (event, bodies) = plan_attempt(&self.shared, delivery, *attempt)?;
                self.step(event, bodies, None, None)
            }
            Work::Command { delivery, command } => self.plan_command(delivery, command),
            Work::Carry { id, from } => self.plan_carry(id, from),
            // These write no event: the writer does them between two groups.
            Work::SealOld { .. } | Work::Forget { .. } | Work::GaveBack { .. } | Work::Close => Ok(Step::Answer(None)),
        }
    }

    fn plan_arrival(&self, arrival: Arrival, known: Option<Known>, group: &mut Group) -> Result<Step, JournalError> {
        let mut repeat = Repeat::No;
        if let Some((identity, known)) = arrival.identity.as_ref().zip(known.as_ref())
            && let Some((same_body, first)) = self.first(identity, known, arrival.received_at, group)?
        {
            repeat = if same_body { Repeat::SameBody } else { Repeat::OtherBody };
            if same_body || identity.other_body == OtherBody::Refused {
                let First { recipients, acknowledgement, .. } = first;
                return Ok(Step::Answer(Some(Receipt { recipients, repeat, acknowledgement })));
            }
        }
        let mut origin = arrival.origin;
        origin.reused_key = repeat == Repeat::OtherBody;
        let receipt = Receipt { recipients: arrival.recipients.clone(), repeat, acknowledgement: None };
        if let Some(known) = known {
            let first = First {
                recipients: arrival.recipients.clone(),
                received_at: arrival.received_at,
                acknowledgement: arrival.acknowledgement.clone(),
            };
            group.fresh.insert(known.key, (known, first));
        }
        let event = Event::Arrived(Box::new(Arrived {
            sequence: self.sequence,
            recipients: arrival.recipients,
            received_at: arrival.received_at,
            origin,
            format: arrival.format,
            refs: arrival.refs,
            acknowledged: arrival.acknowledgement.is_some(),
            rejected: arrival.rejected,
            known,
            idempotency: None,
        }));
        let bodies = [Some(arrival.body), arrival.acknowledgement].into_iter().flatten().collect();
        self.step(event, bodies, arrival.read, Some(receipt))
    }

    /// The newest arrival with the same key within the window, and whether it has the same body.
    fn first(
        &self,
        identity: &Identity,
        known: &Known,
        received_at: Timestamp,
        group: &Group,
    ) -> Result<Option<(bool, First)>, JournalError> {
        let window = identity.window.and_then(|window| SignedDuration::try_from(window).ok());
        let is_recent =
            |first: &First| window.is_none_or(|window| received_at.duration_since(first.received_at) <= window);
        if let Some((fresh, first)) = group.fresh.get(&known.key) {
            return Ok(is_recent(first).then(|| (fresh.body == known.body, first.clone())));
        }
        let since = window.and_then(|window| received_at.checked_sub(window).ok());
        let places = self.shared.ledger().known(known, since.map_or(i64::MIN, |since| since.as_millisecond()))?;
        for place in places {
            let (arrived, _, record, file) = match self.shared.arrived(place, None) {
                Ok(found) => found,
                // What cannot be read cannot be told apart: then the arrival is taken as a new one.
                Err(JournalError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let Some(found) = arrived.known().filter(|found| found.key == known.key) else { continue };
            let acknowledgement = match arrived.acknowledged {
                true => self.shared.reader.body(&record, &file, 1).ok().and_then(|body| body.kept().cloned()),
                false => None,
            };
            let Arrived { recipients, received_at, .. } = arrived;
            let first = First { recipients, received_at, acknowledgement };
            return Ok(is_recent(&first).then(|| (found.body == known.body, first)));
        }
        Ok(None)
    }

    fn outcome(&self, id: MessageId, at: Timestamp, result: Transformed, sequence: u64) -> Outcome {
        Outcome { id, at, result, sequence, deliveries: Vec::new(), parts: Vec::new() }
    }

    /// The row of a message that waits for its transformer; none where it has been there.
    fn waiting(&self, id: MessageId) -> Result<Option<Row>, JournalError> {
        let row = self.shared.row(id)?.ok_or(JournalError::Unknown { id })?;
        if row.state != MessageState::Received {
            tracing::warn!(message = %id, state = %row.state, "transformed a second time: the first outcome stands");
            return Ok(None);
        }
        Ok(Some(row))
    }

    fn plan_outcome(&self, mut outcome: Outcome, deliveries: Vec<NewDelivery>) -> Result<Step, JournalError> {
        if self.waiting(outcome.id)?.is_none() {
            return Ok(Step::Answer(None));
        }
        let mut bodies: Vec<Bytes> = Vec::new();
        outcome.deliveries = planned(deliveries, &mut bodies, 0);
        self.step(Event::Transformed(outcome), bodies, None, None)
    }

    fn plan_split(&self, id: MessageId, at: Timestamp, parts: Vec<NewPart>) -> Result<Step, JournalError> {
        let Some(row) = self.waiting(id)? else { return Ok(Step::Answer(None)) };
        // Its own: the parts of its parts are theirs.
        let own = parts.iter().filter(|part| part.origin.part.as_ref().is_some_and(|part| part.of == id)).count();
        let result = Transformed::Split { parts: u32::try_from(own).unwrap_or(u32::MAX) };
        let mut outcome = self.outcome(id, at, result, self.sequence);
        let mut bodies: Vec<Bytes> = Vec::new();
        let mut next = self.sequence;
        for part in parts {
            let arrived = Arrived {
                sequence: next,
                recipients: vec![Recipient { id: part.id, channel: row.channel.to_string() }],
                received_at: row.received_at,
                origin: part.origin,
                format: part.format,
                refs: part.refs,
                acknowledged: false,
                rejected: None,
                known: None,
                idempotency: None,
            };
            let own = bodies.len();
            bodies.push(part.body);
            let mut of_part = self.outcome(part.id, at, part.outcome, next + 1);
            of_part.deliveries = planned(part.deliveries, &mut bodies, own);
            next += 1 + of_part.deliveries.len() as u64;
            outcome.parts.push(Part { arrived, body: own, outcome: of_part });
        }
        self.step(Event::Transformed(outcome), bodies, None, None)
    }

    fn plan_command(&self, delivery: DeliveryId, command: Command) -> Result<Step, JournalError> {
        use DeliveryState::{Cancelled, Dead, Queued, Retrying, Sent};
        let message = known(&self.shared, &delivery)?;
        let (row, _) = message.find(&delivery.destination).ok_or(JournalError::Unknown { id: delivery.message })?;
        let (verb, allowed, becomes): (_, &[DeliveryState], _) = match command.verb {
            Verb::Retry => ("retry", &[Dead, Retrying, Cancelled], Queued),
            Verb::Cancel => ("cancel", &[Queued, Retrying, Dead], Cancelled),
            Verb::Resend => ("resend", &[Sent], Queued),
        };
        if !allowed.contains(&row.state) {
            let DeliveryId { message: id, destination } = delivery;
            return Err(JournalError::State { id, destination, state: row.state, verb });
        }
        if becomes == Queued && message.is_finished() {
            self.shared.check_content(delivery.message, &message)?;
        }
        let keeps_its_place = row.holds || row.state.is_waiting() || becomes != Queued;
        let sequence = if keeps_its_place { row.sequence } else { self.sequence };
        self.step(Event::Commanded(Commanded { delivery, command, becomes, sequence }), vec![], None, None)
    }

    fn plan_carry(&self, id: MessageId, from: u64) -> Result<Step, JournalError> {
        let (carried, bodies) = match self.shared.carried(id, from) {
            Ok(Some(carried)) => carried,
            // Without content it can never be sent: it goes with its segment.
            Ok(None) | Err(JournalError::Removed { .. }) => return Ok(Step::Answer(None)),
            Err(error) => return Err(error),
        };
        self.step(Event::Carried(Box::new(carried)), bodies, None, None)
    }

    /// Refuses what no record can hold, before anything is written.
    fn step(
        &self,
        event: Event,
        bodies: Vec<Bytes>,
        read: Option<Arc<Body>>,
        answer: Option<Receipt>,
    ) -> Result<Step, JournalError> {
        let meta = event.to_meta();
        if record::fits(&meta, &bodies) {
            return Ok(Step::Append { event: Box::new(event), meta, bodies, read, answer });
        }
        let error = "a record holds 16 MiB of metadata, 65,535 bodies and 4 GiB in each, this is more".to_owned();
        Err(JournalError::Disk { action: "writing", path: self.shared.segments.display().to_string(), error })
    }
}

fn known(shared: &Shared, delivery: &DeliveryId) -> Result<Row, JournalError> {
    shared.row(delivery.message)?.ok_or(JournalError::Unknown { id: delivery.message })
}

fn plan_attempt(
    shared: &Shared,
    delivery: DeliveryId,
    mut attempt: Attempt,
) -> Result<(Event, Vec<Bytes>), JournalError> {
    let row = known(shared, &delivery)?;
    let (row, _) = row.find(&delivery.destination).ok_or(JournalError::Unknown { id: delivery.message })?;
    // What was given up meanwhile stays so, unless it did arrive after all.
    let stands = row.state.is_waiting() || attempt.state == DeliveryState::Sent;
    let becomes = if stands { attempt.state } else { row.state };
    let counted = row.counted + u32::from(attempt.counted);
    let tries = row.tries + 1;
    let response = attempt.response.take();
    let answered = response.is_some();
    let event = Attempted { delivery, attempt, answered, becomes, tries, counted };
    Ok((Event::Attempted(event), response.into_iter().collect()))
}

/// Deliveries as they are kept, their contents among the bodies from `from` on.
fn planned(deliveries: Vec<NewDelivery>, bodies: &mut Vec<Bytes>, from: usize) -> Vec<Planned> {
    let mut planned = Vec::with_capacity(deliveries.len());
    for NewDelivery { destination, outgoing, key } in deliveries {
        let (body, properties) = match outgoing {
            Some(outgoing) => (Some(place_of(outgoing.content, bodies, from)), outgoing.properties),
            None => (None, Default::default()),
        };
        planned.push(Planned { destination, body, properties, key });
    }
    planned
}

/// The number of a content among the bodies: equal ones are kept once, as far as they stand at `from` or behind it.
pub(super) fn place_of(content: Bytes, bodies: &mut Vec<Bytes>, from: usize) -> usize {
    let known = bodies[from..].iter().position(|body| *body == content);
    known.map_or_else(
        || {
            bodies.push(content);
            bodies.len() - 1
        },
        |at| from + at,
    )
}

/// Where a record of a message is read that goes on in another segment.
pub(super) type Carrying = Option<(Carried, Vec<Bytes>)>;

/// The place of a record, for errors.
pub(super) fn damaged(place: Place) -> JournalError {
    JournalError::Damaged { segment: place.segment, offset: place.offset }
}
