//! The one who writes: takes everything that waits, appends it, syncs once, and only then answers.
//!
//! That is a thread of its own, as soon as several ask at a time. Where one asks at a time, and the disk is quick, the writer is lent
//! to whoever brings a message, in their own thread ([`Writer::at_once`]).
//!
//! Design constraints:
//! - Order within a group: append, sync, ledger, answer. Nobody learns of anything that is not on disk, but for one thing: that a
//!   message goes nowhere. Nothing follows from it, and after a power cut it is found out again; so it does not ask for a sync of
//!   its own, and goes along with the next.
//! - A group is planned from what the ledger says before it: two jobs that concern the same delivery go into two groups.
//! - The first error of the disk or the index ends the thread: what the disk holds is then unknown. A sync is never retried.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::event::{Event, Known};
use super::files::Files;
use super::folder::Lock;
use super::index::Index;
use super::late::Late;
use super::ledger::Ledger;
use super::parts::Parts;
use super::plan::{First, Step, Work};
use super::recent::Recent;
use super::record::Place;
use super::recovery::{self, Checkpoint};
use super::segments::{Appender, Reader};
use super::strip::Stripping;
use super::{DeliveryId, JournalError, Receipt};
use crate::message::{Body, MessageId};

/// One group holds no more than this.
const GROUP_JOBS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;
/// Somebody writes in their own thread after so many groups of one job, if syncs take no longer and there is no more to be written.
const ALONE: u32 = 4;
const QUICK_SYNC: Duration = Duration::from_millis(2);
const SMALL_BYTES: usize = 64 << 10;
/// The journal is given up when nothing of the index could be written for so long.
const INDEX_MAY_TAKE: Duration = Duration::from_secs(60);
/// So many rosters may wait to be sealed before the window is left to grow.
const MAX_FROZEN: usize = 2;

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
    ledger: RwLock<Ledger>,
    pub(super) index: Index,
    pub(super) reader: Reader,
    pub(super) recent: Recent,
    /// The parts of the split that was read last.
    pub(super) parts: Mutex<Option<Arc<Parts>>>,
    pub(super) segments: PathBuf,
    /// The sealed rosters' files.
    pub(super) sealed_files: Arc<Files>,
    /// Which segments' content was removed, and which one's is being removed.
    pub(super) stripping: Mutex<Stripping>,
    pub(super) failed: watch::Sender<Option<JournalError>>,
    /// Everything before this place is on the disk.
    pub(super) end: Mutex<Place>,
    pub(super) appended: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Shared {
    pub(super) fn new(index: Index, reader: Reader, segments: PathBuf, sealed_files: Arc<Files>) -> Shared {
        Shared {
            ledger: RwLock::default(),
            index,
            reader,
            recent: Recent::default(),
            parts: Mutex::default(),
            segments,
            sealed_files,
            stripping: Mutex::default(),
            failed: watch::Sender::new(None),
            end: Mutex::default(),
            appended: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Why nothing is taken any more.
    pub(super) fn why_closed(&self) -> JournalError {
        let failed = self.failed.borrow();
        let reason = failed.as_ref().map_or_else(|| "the engine is stopping".to_owned(), |error| error.to_string());
        JournalError::Closed { reason }
    }

    pub(super) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing thread's own.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) appender: Appender,
    /// The next number to give out.
    pub(super) sequence: u64,
    /// Segments that are not there.
    pub(super) missing: Vec<u64>,
    /// The last segment that pruning removed.
    pub(super) pruned: u64,
    /// The window may take so much memory.
    pub(super) window_bytes: usize,
    /// So many groups in a row were of one job.
    pub(super) alone: u32,
    /// How long syncs took lately: the slowest, which is forgotten little by little.
    pub(super) slowest: Duration,
    /// Wakes the thread that writes the index.
    pub(super) index_is_behind: std_mpsc::SyncSender<()>,
    /// The lock on the folder, let go of when the thread ends.
    pub(super) _lock: Lock,
}

/// A group in the making: what was appended and is not synced.
#[derive(Default)]
pub(super) struct Group {
    events: Vec<Appended>,
    waiting: Vec<Waiting>,
    /// Arrivals of this group that are to be known again, by the hash of their key.
    pub(super) fresh: HashMap<[u8; 16], (Known, First)>,
    /// What events of this group are about.
    touched: HashSet<Touched>,
}

/// An event that was appended, with its bodies.
struct Appended {
    event: Box<Event>,
    place: Place,
    bodies: Vec<Bytes>,
    /// The first of them as its source has read it.
    read: Option<Arc<Body>>,
}

type Waiting = (oneshot::Sender<Answer>, Answer, Option<OwnedSemaphorePermit>);

/// What one event of a group is about: no other of the same group may be.
#[derive(PartialEq, Eq, Hash)]
enum Touched {
    Message(MessageId),
    Delivery(DeliveryId),
}

/// The writer, for one at a time: its own thread, or somebody who asks while it has nothing to do. None once it is over.
pub(super) type Desk = Mutex<Option<Writer>>;

/// Runs until the journal is closed, dropped or fails.
pub(super) fn run(shared: &Shared, desk: &Desk, mut jobs: mpsc::Receiver<Job>) {
    let mut taken = Vec::with_capacity(GROUP_JOBS);
    while jobs.blocking_recv_many(&mut taken, GROUP_JOBS) > 0 {
        let mut rest = taken.drain(..);
        // It is never left poisoned: whoever panics with it ends the journal.
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = match desk.as_mut() {
            Some(writer) => writer.commit(&mut rest),
            None => Err(shared.why_closed()),
        };
        match committed {
            Ok(None) => {}
            Ok(Some(done)) => {
                jobs.close();
                let closed = desk.as_mut().map_or(Ok(()), Writer::close);
                // Whoever waits for the close may open the folder again at once.
                *desk = None;
                let _ = done.send(closed.map(|()| None));
                break;
            }
            Err(error) => {
                let was_open = desk.take().is_some();
                rest.for_each(|job| drop(job.done.send(Err(error.clone()))));
                if was_open {
                    fail(shared, error.clone());
                }
                jobs.close();
                while let Some(job) = jobs.blocking_recv() {
                    let _ = job.done.send(Err(error.clone()));
                }
                break;
            }
        }
    }
}

/// A panic of the writer is a failure of the journal.
pub(super) fn panicked() -> JournalError {
    JournalError::Closed { reason: "its writer panicked: please report this".to_owned() }
}

/// Tells everybody, now and later, that it is over.
fn fail(shared: &Shared, error: JournalError) {
    tracing::error!(%error, "the journal failed");
    shared.failed.send_replace(Some(error));
}

impl Writer {
    /// Writes in the thread of whoever asks, if nobody else has asked lately and it will not take long: waking the writer's thread and
    /// being woken by it takes a third of the time that a quick disk takes. Gives the work back where it is not to be so.
    pub(super) fn at_once(desk: &Desk, work: Work, bytes: usize) -> Result<Answer, Work> {
        let Ok(mut desk) = desk.try_lock() else { return Err(work) };
        let Some(writer) = desk.as_mut().filter(|writer| writer.is_free(bytes)) else { return Err(work) };
        let (done, mut answer) = oneshot::channel();
        let shared = writer.shared.clone();
        let mut job = std::iter::once(Job { work, bytes, room: None, done });
        let began = Instant::now();
        let committed = catch_unwind(AssertUnwindSafe(|| writer.commit(&mut job)));
        // Also what was looked up on the disk, and waiting for those who read.
        writer.slowest = writer.slowest.max(began.elapsed());
        if let Err(error) = committed.unwrap_or_else(|_| Err(panicked())) {
            *desk = None;
            fail(&shared, error);
        }
        Ok(answer.try_recv().unwrap_or_else(|_| Err(shared.why_closed())))
    }

    /// Whether so much can be written without anybody waiting for long.
    fn is_free(&self, bytes: usize) -> bool {
        self.alone >= ALONE
            && self.slowest < QUICK_SYNC
            && bytes <= SMALL_BYTES
            && self.appender.has_room_for(SMALL_BYTES as u64 * 2)
            && self.shared.index.wait_for_room(Duration::ZERO)
    }

    /// Writes what was taken, in one group or several, and answers everybody in it. Somebody who wants to close is given back.
    fn commit(
        &mut self,
        taken: &mut impl Iterator<Item = Job>,
    ) -> Result<Option<oneshot::Sender<Answer>>, JournalError> {
        if !self.shared.index.wait_for_room(INDEX_MAY_TAKE) {
            let error = format!("it could not be written for {} s", INDEX_MAY_TAKE.as_secs());
            return Err(JournalError::Index { error });
        }
        let mut group = Group::default();
        let mut bytes = 0;
        let mut jobs = 0;
        for job in taken {
            jobs += 1;
            if matches!(job.work, Work::Close) {
                self.finish(group)?;
                return Ok(Some(job.done));
            }
            // A message that is carried takes all that is known of it along.
            let alone = matches!(
                job.work,
                Work::Carry { .. } | Work::SealOld { .. } | Work::Forget { .. } | Work::GaveBack { .. }
            );
            let conflicts = touched(&job.work).is_some_and(|touched| group.touched.contains(&touched));
            if bytes >= GROUP_BYTES || conflicts || alone {
                bytes = 0;
                self.finish(std::mem::take(&mut group))?;
            }
            bytes += job.bytes;
            if let Err(error) = self.take(job, &mut group) {
                group.answer_all(&error);
                return Err(error);
            }
            if alone {
                self.finish(std::mem::take(&mut group))?;
            }
        }
        self.alone = if jobs == 1 { self.alone.saturating_add(1) } else { 0 };
        self.finish(group).map(|()| None)
    }

    /// What is done between two groups, and changes no message.
    fn maintain(&mut self, work: &Work) -> Result<(), JournalError> {
        match work {
            Work::SealOld { before } => self.seal_old(*before),
            Work::Forget { shelf } => self.forget(*shelf),
            Work::GaveBack { bytes } => {
                self.appender.forget(*bytes);
                self.sync()
            }
            _ => Ok(()),
        }
    }

    /// Plans and appends one job. An error is the end of the journal.
    fn take(&mut self, job: Job, group: &mut Group) -> Result<(), JournalError> {
        let Job { work, room, done, .. } = job;
        let touched = touched(&work);
        if let Err(error) = self.maintain(&work) {
            let _ = done.send(Err(error.clone()));
            return Err(error);
        }
        let answer = match self.plan(work, group) {
            Ok(Step::Append { event, meta, bodies, read, answer }) => {
                let place = match self.appender.append(event.kind(), &meta, &bodies) {
                    Ok(place) => place,
                    Err(error) => {
                        let _ = done.send(Err(error.clone()));
                        return Err(error);
                    }
                };
                self.sequence = self.sequence.max(event.sequence_after());
                group.touched.extend(touched);
                group.events.push(Appended { event, place, bodies, read });
                Ok(answer)
            }
            Ok(Step::Answer(answer)) => Ok(answer),
            Err(error) => Err(error),
        };
        group.waiting.push((done, answer, room));
        Ok(())
    }

    /// Makes a group durable and known, and answers everybody in it.
    fn finish(&mut self, mut group: Group) -> Result<(), JournalError> {
        if !group.events.is_empty()
            && let Err(error) = self.make_durable(std::mem::take(&mut group.events))
        {
            group.answer_all(&error);
            return Err(error);
        }
        for (done, answer, _room) in group.waiting.drain(..) {
            let _ = done.send(answer);
        }
        if self.appender.roll(self.sequence)? { self.rolled() } else { Ok(()) }
    }

    fn make_durable(&mut self, events: Vec<Appended>) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        if events.iter().all(|appended| appended.event.leads_nowhere()) {
            self.appender.write_out()?;
        } else {
            self.sync()?;
        }
        let start = events[0].place;
        shared.appended.fetch_add(events.len() as u64, Relaxed);
        shared.bytes.fetch_add(self.appender.end().offset - start.offset, Relaxed);
        let mut late = Late::new(&shared.index);
        let mut ledger = shared.ledger_mut();
        for Appended { event, place, bodies, read } in events {
            ledger.apply(&mut late, &event, place, true)?;
            shared.recent.keep(place, *event, bodies, read);
        }
        if late.is_empty() { Ok(()) } else { self.note(&mut ledger, late) }
    }

    /// Makes everything durable that was appended, if anything was.
    fn sync(&mut self) -> Result<(), JournalError> {
        if self.appender.is_unsynced() {
            let began = Instant::now();
            self.appender.sync()?;
            self.slowest = began.elapsed().max(self.slowest - self.slowest / 16);
            *self.shared.end.lock().unwrap_or_else(PoisonError::into_inner) = self.appender.end();
            self.shared.syncs.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Makes changes to the index, with the checkpoint at which they hold.
    pub(super) fn note(&self, ledger: &mut Ledger, mut late: Late<'_>) -> Result<(), JournalError> {
        ledger.indexed = self.appender.end();
        recovery::checkpoint(&mut late, &self.checkpoint(ledger));
        if late.commit()? {
            // The index is behind; it is told once, and again while it stays so.
            let _ = self.index_is_behind.try_send(());
        }
        Ok(())
    }

    fn checkpoint(&self, ledger: &Ledger) -> Checkpoint {
        let replay_from = ledger.replay_from().unwrap_or(self.appender.end().segment);
        let (indexed, sequence, last) = (ledger.indexed, self.sequence, self.appender.end().segment);
        Checkpoint { replay_from, indexed, sequence, last, pruned: self.pruned, missing: self.missing.clone() }
    }

    /// A new segment has begun: older rosters are let go of when they are at rest or take too much memory.
    fn rolled(&mut self) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let mut late = Late::new(&shared.index);
        let mut ledger = shared.ledger_mut();
        ledger.begin(self.appender.end().segment);
        while ledger.frozen.len() < MAX_FROZEN && ledger.is_to_let_go(self.window_bytes) {
            ledger.freeze_oldest(&mut late, self.appender.end());
        }
        self.note(&mut ledger, late)?;
        let _ = self.index_is_behind.try_send(());
        Ok(())
    }

    fn close(&mut self) -> Result<(), JournalError> {
        self.appender.sync()?;
        self.appender.close();
        let noted = self.note(&mut self.shared.ledger_mut(), Late::new(&self.shared.index));
        let closed = noted.and_then(|()| recovery::write_out(&self.shared));
        self.shared.index.close();
        closed
    }
}

impl Group {
    fn answer_all(&mut self, error: &JournalError) {
        for (done, _, _room) in self.waiting.drain(..) {
            let _ = done.send(Err(error.clone()));
        }
    }
}

fn touched(work: &Work) -> Option<Touched> {
    match work {
        Work::Receive { .. } | Work::SealOld { .. } | Work::Forget { .. } | Work::GaveBack { .. } | Work::Close => None,
        Work::Transformed { id, .. } | Work::Split { id, .. } | Work::Carry { id, .. } => Some(Touched::Message(*id)),
        Work::Attempted { delivery, .. } | Work::Command { delivery, .. } => Some(Touched::Delivery(delivery.clone())),
    }
}
