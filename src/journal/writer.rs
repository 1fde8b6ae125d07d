//! The one thread that writes: takes everything that waits, appends it, syncs once, and only then answers.
//!
//! Design constraints:
//! - Order within a group: append, sync, index (in memory), answer. Nobody learns of anything that is not on disk.
//! - The first error of the disk or the index ends the thread: what the disk holds is then unknown. A sync is never retried.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::event::{Arrived, Attempted, Commanded, Event, Idempotency, Outcome, Planned};
use super::folder::Lock;
use super::index::Index;
use super::ledger::{self, Draft, Seen, sha256};
use super::record::{self, Place};
use super::recovery::{self, Checkpoint};
use super::segments::{Appender, Reader};
use super::{
    Arrival, Attempt, Command, DeliveryId, DeliveryState, Identity, JournalError, MessageState, NewDelivery, OtherBody,
    Receipt, Recipient, Repeat, Transformed, Verb, keys,
};
use crate::message::MessageId;

/// One group holds no more than this.
const GROUP_JOBS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;
/// The index is given up, and with it the journal, when nothing of it could be written for so long.
const INDEX_MAY_TAKE: Duration = Duration::from_secs(60);

/// Something to be written.
pub(super) enum Work {
    Receive { arrival: Box<Arrival>, body_sha256: Option<[u8; 32]> },
    Transformed { id: MessageId, at: Timestamp, result: Transformed, deliveries: Vec<NewDelivery> },
    Attempted { delivery: DeliveryId, attempt: Box<Attempt> },
    Command { delivery: DeliveryId, command: Command },
    Close,
}

/// Work and who waits for it.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) bytes: usize,
    /// Room in memory that the work takes up; given back when it is done.
    pub(super) room: Option<OwnedSemaphorePermit>,
    pub(super) done: oneshot::Sender<Answer>,
}

/// A receipt for arrivals, none for the rest.
pub(super) type Answer = Result<Option<Receipt>, JournalError>;

/// What the writer shares with the rest of the journal.
pub(super) struct Shared {
    pub(super) index: Index,
    pub(super) reader: Reader,
    pub(super) failed: watch::Sender<Option<JournalError>>,
    pub(super) appended: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The writing thread's own.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) appender: Appender,
    /// The next number to give out.
    pub(super) sequence: u64,
    /// Segments that are not there.
    pub(super) missing: Vec<u64>,
    /// Wakes the thread that writes the index.
    pub(super) index_is_behind: std_mpsc::SyncSender<()>,
    /// The lock on the folder, let go of when the thread ends.
    pub(super) _lock: Lock,
    pub(super) segments: PathBuf,
}

/// What is told to whoever brings the same arrival again.
#[derive(Clone)]
struct First {
    recipients: Vec<Recipient>,
    received_at: Timestamp,
    acknowledgement: Option<Bytes>,
}

/// What work becomes.
enum Step {
    Append { event: Box<Event>, meta: Vec<u8>, bodies: Vec<Bytes>, answer: Option<Receipt> },
    Answer(Option<Receipt>),
}

impl Writer {
    /// Runs until the journal is closed, dropped or fails.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let (group, closing) = gather(first, &mut jobs);
            if let Err(error) = self.commit(group) {
                self.fail(&mut jobs, error);
                break;
            }
            if let Some(done) = closing {
                jobs.close();
                let closed = self.close();
                // Whoever waits for the close may open the folder again at once.
                drop(self);
                let _ = done.send(closed.map(|()| None));
                break;
            }
        }
    }

    /// Writes a group and answers everybody in it.
    fn commit(&mut self, group: Vec<Job>) -> Result<(), JournalError> {
        let mut waiting = Vec::with_capacity(group.len());
        match self.write(group, &mut waiting) {
            Ok(()) => {
                for (done, answer, _room) in waiting {
                    let _ = done.send(answer);
                }
                Ok(())
            }
            Err(error) => {
                for (done, _, _room) in waiting {
                    let _ = done.send(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    fn write(&mut self, group: Vec<Job>, waiting: &mut Vec<Waiting>) -> Result<(), JournalError> {
        if group.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        if !shared.index.wait_for_room(INDEX_MAY_TAKE) {
            let error = format!("it could not be written for {} s", INDEX_MAY_TAKE.as_secs());
            return Err(JournalError::Index { error });
        }
        let mut draft = Draft::new(&shared.index);
        let mut fresh = HashMap::new();
        let mut failure = self.appender.roll(self.sequence).err();
        let (mut appended, start) = (0, self.appender.end());
        for job in group {
            let answer = match &failure {
                Some(error) => Err(error.clone()),
                None => self.plan(job.work, &draft, &fresh),
            };
            let answer = match answer {
                Ok(Step::Append { event, meta, bodies, answer }) => {
                    let kept = self.keep(&event, &meta, &bodies, &mut draft, &mut fresh);
                    appended += 1;
                    kept.map_err(|error| failure.insert(error).clone()).and(Ok(answer))
                }
                Ok(Step::Answer(answer)) => Ok(answer),
                Err(error) => Err(error),
            };
            waiting.push((job.done, answer, job.room));
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if appended == 0 {
            return Ok(());
        }
        self.appender.sync()?;
        let end = self.appender.end();
        shared.appended.fetch_add(appended, Relaxed);
        shared.syncs.fetch_add(1, Relaxed);
        shared.bytes.fetch_add(end.offset - start.offset, Relaxed);
        let checkpoint = Checkpoint { place: end, sequence: self.sequence, missing: self.missing.clone() };
        recovery::checkpoint(&mut draft, &checkpoint);
        if draft.commit() {
            // The index is behind; it is told once, and again while it stays so.
            let _ = self.index_is_behind.try_send(());
        }
        Ok(())
    }

    /// Appends an event and notes what it changes.
    fn keep(
        &mut self,
        event: &Event,
        meta: &[u8],
        bodies: &[Bytes],
        draft: &mut Draft<'_>,
        fresh: &mut HashMap<Place, First>,
    ) -> Result<(), JournalError> {
        let place = self.appender.append(event.kind(), meta, bodies)?;
        self.sequence = self.sequence.max(event.sequence_after());
        if let Event::Arrived(Arrived { idempotency: Some(_), recipients, received_at, .. }) = event {
            let acknowledgement = bodies.get(1).cloned();
            fresh.insert(place, First { recipients: recipients.clone(), received_at: *received_at, acknowledgement });
        }
        draft.apply(event, place, true)
    }

    fn plan(&self, work: Work, draft: &Draft<'_>, fresh: &HashMap<Place, First>) -> Result<Step, JournalError> {
        match work {
            Work::Receive { arrival, body_sha256 } => self.plan_arrival(*arrival, body_sha256, draft, fresh),
            Work::Transformed { id, at, result, deliveries } => self.plan_outcome(
                draft,
                Outcome { id, at, result, sequence: self.sequence, deliveries: vec![] },
                deliveries,
            ),
            Work::Attempted { delivery, attempt } => {
                let (event, bodies) = plan_attempt(delivery, *attempt, draft)?;
                self.step(event, bodies, None)
            }
            Work::Command { delivery, command } => self.plan_command(delivery, command, draft),
            Work::Close => Ok(Step::Answer(None)),
        }
    }

    fn plan_arrival(
        &self,
        arrival: Arrival,
        body_sha256: Option<[u8; 32]>,
        draft: &Draft<'_>,
        fresh: &HashMap<Place, First>,
    ) -> Result<Step, JournalError> {
        let mut repeat = Repeat::No;
        let idempotency = arrival.identity.zip(body_sha256).map(|(identity, body_sha256)| (identity, body_sha256));
        if let Some((Identity { key, window, other_body }, body_sha256)) = &idempotency {
            let seen = draft.get(&keys::idempotency(&sha256(key.as_bytes())))?;
            if let Some(seen) = seen.as_deref().and_then(Seen::from_bytes) {
                let first = match fresh.get(&seen.place) {
                    Some(first) => first.clone(),
                    None => self.first(seen.place)?,
                };
                let age = Duration::try_from(arrival.received_at.duration_since(first.received_at)).unwrap_or_default();
                let is_recent = window.is_none_or(|window| age <= window);
                repeat = match (is_recent, seen.body_sha256 == *body_sha256) {
                    (false, _) => Repeat::No,
                    (true, true) => Repeat::SameBody,
                    (true, false) => Repeat::OtherBody,
                };
                if repeat == Repeat::SameBody || (repeat == Repeat::OtherBody && *other_body == OtherBody::Refused) {
                    let First { recipients, acknowledgement, .. } = first;
                    return Ok(Step::Answer(Some(Receipt { recipients, repeat, acknowledgement })));
                }
            }
        }
        let idempotency = idempotency.map(|(identity, body_sha256)| Idempotency { key: identity.key, body_sha256 });
        let mut origin = arrival.origin;
        origin.reused_key = repeat == Repeat::OtherBody;
        let receipt = Receipt { recipients: arrival.recipients.clone(), repeat, acknowledgement: None };
        let event = Event::Arrived(Arrived {
            sequence: self.sequence,
            recipients: arrival.recipients,
            received_at: arrival.received_at,
            origin,
            format: arrival.format,
            refs: arrival.refs,
            acknowledged: arrival.acknowledgement.is_some(),
            rejected: arrival.rejected,
            idempotency,
        });
        let bodies = [Some(arrival.body), arrival.acknowledgement].into_iter().flatten().collect();
        self.step(event, bodies, Some(receipt))
    }

    fn first(&self, place: Place) -> Result<First, JournalError> {
        let (record, file) = self.shared.reader.record(place)?;
        match Event::from_meta(record.kind, record.meta()) {
            Some(Event::Arrived(event)) => {
                let acknowledgement = match event.acknowledged {
                    true => Some(self.shared.reader.body(&record, &file, 1)?),
                    false => None,
                };
                Ok(First { recipients: event.recipients, received_at: event.received_at, acknowledgement })
            }
            _ => Err(JournalError::Damaged { segment: place.segment, offset: place.offset }),
        }
    }

    fn plan_outcome(
        &self,
        draft: &Draft<'_>,
        mut outcome: Outcome,
        deliveries: Vec<NewDelivery>,
    ) -> Result<Step, JournalError> {
        let id = outcome.id;
        let message = draft.message(id)?.ok_or(JournalError::Unknown { id })?;
        if message.state != MessageState::Received {
            tracing::warn!(message = %id, state = %message.state, "transformed a second time: the first outcome stands");
            return Ok(Step::Answer(None));
        }
        let mut bodies: Vec<Bytes> = Vec::new();
        for delivery in deliveries {
            let (body, properties) = match &delivery.outgoing {
                Some(outgoing) => (Some(place_of(&outgoing.content, &mut bodies)), outgoing.properties.clone()),
                None => (None, Default::default()),
            };
            let NewDelivery { destination, key, .. } = delivery;
            outcome.deliveries.push(Planned { destination, body, properties, key });
        }
        self.step(Event::Transformed(outcome), bodies, None)
    }

    fn plan_command(&self, delivery: DeliveryId, command: Command, draft: &Draft<'_>) -> Result<Step, JournalError> {
        use DeliveryState::{Cancelled, Dead, Queued, Retrying, Sent};
        let (_, row) = known(&delivery, draft)?;
        let (verb, allowed, becomes): (_, &[DeliveryState], _) = match command.verb {
            Verb::Retry => ("retry", &[Dead, Retrying, Cancelled], Queued),
            Verb::Cancel => ("cancel", &[Queued, Retrying, Dead], Cancelled),
            Verb::Resend => ("resend", &[Sent], Queued),
        };
        if !allowed.contains(&row.state) {
            let DeliveryId { message: id, destination } = delivery;
            return Err(JournalError::State { id, destination, state: row.state, verb });
        }
        let keeps_its_place = row.holds || row.state.is_waiting() || becomes != Queued;
        let sequence = if keeps_its_place { row.sequence } else { self.sequence };
        self.step(Event::Commanded(Commanded { delivery, command, becomes, sequence }), vec![], None)
    }

    /// Refuses what no record can hold, before anything is written.
    fn step(&self, event: Event, bodies: Vec<Bytes>, answer: Option<Receipt>) -> Result<Step, JournalError> {
        let meta = event.to_meta();
        if record::fits(&meta, &bodies) {
            return Ok(Step::Append { event: Box::new(event), meta, bodies, answer });
        }
        let error = "a record holds 16 MiB of metadata, 65,535 bodies and 4 GiB in each, this is more".to_owned();
        Err(JournalError::Disk { action: "writing", path: self.segments.display().to_string(), error })
    }

    fn close(&mut self) -> Result<(), JournalError> {
        let closed = self.shared.index.write_out();
        self.shared.index.close();
        closed
    }

    /// Tells everybody, now and later, that it is over.
    fn fail(&mut self, jobs: &mut mpsc::Receiver<Job>, error: JournalError) {
        tracing::error!(%error, "the journal failed");
        self.shared.failed.send_replace(Some(error.clone()));
        jobs.close();
        while let Some(job) = jobs.blocking_recv() {
            let _ = job.done.send(Err(error.clone()));
        }
    }
}

type Waiting = (oneshot::Sender<Answer>, Answer, Option<OwnedSemaphorePermit>);

/// Everything that waits, up to the limits of a group or to somebody who wants to close.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> (Vec<Job>, Option<oneshot::Sender<Answer>>) {
    let (mut group, mut bytes, mut next) = (Vec::new(), 0, Some(first));
    while let Some(job) = next {
        if matches!(job.work, Work::Close) {
            return (group, Some(job.done));
        }
        bytes += job.bytes;
        group.push(job);
        let full = group.len() >= GROUP_JOBS || bytes >= GROUP_BYTES;
        next = if full { None } else { jobs.try_recv().ok() };
    }
    (group, None)
}

fn known(delivery: &DeliveryId, draft: &Draft<'_>) -> Result<(u16, ledger::DeliveryRow), JournalError> {
    let unknown = JournalError::Unknown { id: delivery.message };
    let Some(message) = draft.message(delivery.message)? else { return Err(unknown) };
    draft.find(delivery.message, &message, &delivery.destination)?.ok_or(unknown)
}

fn plan_attempt(
    delivery: DeliveryId,
    mut attempt: Attempt,
    draft: &Draft<'_>,
) -> Result<(Event, Vec<Bytes>), JournalError> {
    let (_, row) = known(&delivery, draft)?;
    // What was given up meanwhile stays so, unless it did arrive after all.
    let stands = row.state.is_waiting() || attempt.state == DeliveryState::Sent;
    let becomes = if stands { attempt.state } else { row.state };
    let counted = row.counted + u32::from(attempt.counted);
    let response = attempt.response.take();
    let answered = response.is_some();
    let event = Attempted { delivery, attempt, answered, becomes, tries: row.tries + 1, counted };
    Ok((Event::Attempted(event), response.into_iter().collect()))
}

/// The number of a content among the bodies: equal ones are kept once.
fn place_of(content: &Bytes, bodies: &mut Vec<Bytes>) -> usize {
    bodies.iter().position(|body| body == content).unwrap_or_else(|| {
        bodies.push(content.clone());
        bodies.len() - 1
    })
}
