//! The journal on disk.
//!
//! ```text
//! data/
//!   format                   `labwire-journal 3`
//!   lock                     held by the engine: its process id, the machine's boot id
//!   pruned                   the last segment that pruning removed
//!   segments/00000001.log …  the truth: records, appended and synced (see `record.rs`, `event.rs`); of old ones, what is left
//!                            since their content was removed (see `stripped.rs`)
//!   segments/00000001.idx …  what is in a segment that is no longer written to (see `sealed.rs`); made again when it is lost
//!   index/                   sled: what changed since (see `keys.rs`); made again whenever it cannot be trusted
//! ```

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::event::Known;
use super::plan::Work;
use super::recovery::Recovered;
use super::room::Reserve;
use super::segments::{Appender, Full, Medium, RealDisk, disk};
use super::writer::{self, Answer, Desk, Job, Shared, Writer};
use super::{
    Arrival, Attempt, Backup, Command, DeliveryId, Depth, DiskSpace, Holding, Journal, JournalError, Lane, Margins,
    MessageState, NewDelivery, NewPart, Outgoing, Page, Prune, Pruned, Query, Queued, Receipt, Received, Room, Story,
    Transformed, Untransformed, Waiting, folder, recovery, search,
};
use crate::message::MessageId;

/// So many writes may wait before callers do.
const WAITING_JOBS: usize = 4096;
/// And so much content; one body that is larger goes alone.
const WAITING_KIB: usize = 64 << 10;
/// The newest messages may take so much memory before the oldest of them are let go of.
const WINDOW_BYTES: usize = 28 << 20;
/// How often the index is written.
const WRITE_INDEX_EVERY: Duration = Duration::from_secs(5);

/// A journal in a folder, held by this process alone. Dropping it without [`Journal::close`] loses no more than a crash does:
/// nothing that was acknowledged.
pub struct Disk {
    // Dropped in this order: no more work, no more flushing, then wait for the threads.
    jobs: mpsc::Sender<Job>,
    desk: Arc<Desk>,
    /// Arrivals that wait for the writer's thread.
    asked: AtomicUsize,
    _flushing: std_mpsc::SyncSender<()>,
    _threads: Threads,
    room: Arc<Semaphore>,
    pub(super) shared: Arc<Shared>,
    pub(super) folder: PathBuf,
    /// Held while segments are removed or copied.
    pub(super) maintenance: tokio::sync::Mutex<()>,
    reserve: Reserve,
    damage: Vec<String>,
}

/// How much is in the journal, and how much was written since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Segments.
    pub segments: u64,
    /// Segments of these whose content was removed: metadata is left, and the content of what is unsent or parked.
    #[serde(default)]
    pub stripped_segments: u64,
    /// Bytes of those segments.
    #[serde(default)]
    pub stripped_bytes: u64,
    /// Bytes of segments and sealed rosters on the disk, with what is prepared for later.
    pub disk_bytes: u64,
    /// Records written since the journal was opened.
    pub appended: u64,
    /// Calls of fdatasync for them.
    pub syncs: u64,
    /// Bytes of them.
    pub bytes: u64,
}

struct Threads(Vec<JoinHandle<()>>);

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Disk {
    /// Opens the journal in a folder, which is made if need be, and repairs what can be repaired. Blocks.
    pub fn open(folder: &Path) -> Result<Disk, JournalError> {
        Disk::open_on(folder, Arc::new(RealDisk), Full::ByTotal, WINDOW_BYTES)
    }

    /// The same with segments of a size of the caller's, and no more rosters in memory than such a segment fills.
    pub fn open_with_segments(folder: &Path, segment_bytes: u64) -> Result<Disk, JournalError> {
        Disk::open_on(folder, Arc::new(RealDisk), Full::At(segment_bytes), segment_bytes as usize)
    }

    /// The same on a disk of the caller's making.
    pub(super) fn open_on(
        folder: &Path,
        medium: Arc<dyn Medium>,
        full: Full,
        window_bytes: usize,
    ) -> Result<Disk, JournalError> {
        let (lock, damage) = folder::claim(folder)?;
        let recovered = recovery::recover(folder, damage, window_bytes)?;
        let Recovered { shared, sequence, missing, end, before, damage } = recovered;
        let appender = Appender::open(&folder::segments(folder), end, before, sequence, medium, full)?;
        *shared.end.lock().unwrap_or_else(PoisonError::into_inner) = appender.end();
        let shared = Arc::new(shared);
        let (jobs, waiting) = mpsc::channel(WAITING_JOBS);
        let (flushing, stop) = std_mpsc::sync_channel(1);
        let index_is_behind = flushing.clone();
        let writer = Writer {
            shared: shared.clone(),
            appender,
            sequence,
            missing,
            pruned: folder::pruned_through(folder),
            window_bytes,
            alone: 0,
            slowest: Duration::ZERO,
            index_is_behind,
            _lock: lock,
        };
        let desk = Arc::new(Desk::new(Some(writer)));
        let threads = Threads(vec![
            spawn("labwire-journal", folder, {
                let (shared, desk) = (shared.clone(), desk.clone());
                move || guarded(&shared, || writer::run(&shared, &desk, waiting))
            })?,
            spawn("labwire-index", folder, {
                let shared = shared.clone();
                move || write_index(&shared, &stop)
            })?,
        ]);
        let room = Arc::new(Semaphore::new(WAITING_KIB));
        let reserve = Reserve::new(folder, Margins::default());
        let (folder, maintenance) = (folder.to_owned(), tokio::sync::Mutex::new(()));
        Ok(Disk {
            jobs,
            desk,
            asked: AtomicUsize::new(0),
            _flushing: flushing,
            _threads: threads,
            room,
            shared,
            folder,
            maintenance,
            reserve,
            damage,
        })
    }

    /// The same journal, which keeps so much of its disk free.
    pub fn with_margins(self, margins: Margins) -> Disk {
        Disk { reserve: self.reserve.with(margins), ..self }
    }

    pub(super) async fn submit(&self, work: Work, bytes: usize) -> Answer {
        let kib = bytes.div_ceil(1024).clamp(1, WAITING_KIB) as u32;
        let room = self.room.clone().acquire_many_owned(kib).await.ok();
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job { work, bytes, room, done }).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }

    fn closed(&self) -> JournalError {
        self.shared.why_closed()
    }
}

#[async_trait]
impl Journal for Disk {
    fn folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    async fn receive(&self, arrival: Arrival) -> Result<Receipt, JournalError> {
        let bytes = arrival.body.len() + arrival.acknowledgement.as_ref().map_or(0, |bytes| bytes.len());
        self.reserve.check(bytes)?;
        let known = arrival.identity.as_ref().map(|identity| Known::new(&identity.key, &arrival.body));
        let mut work = Work::Receive { arrival: Box::new(arrival), known };
        // An earlier arrival of the same task goes first.
        if self.asked.load(SeqCst) == 0 {
            match Writer::at_once(&self.desk, work, bytes) {
                Ok(answer) => return Ok(receipt_of(answer?)),
                Err(back) => work = back,
            }
        }
        let _asked = Asked::one(&self.asked);
        Ok(receipt_of(self.submit(work, bytes).await?))
    }

    async fn transformed(
        &self,
        id: MessageId,
        at: Timestamp,
        outcome: Transformed,
        deliveries: Vec<NewDelivery>,
    ) -> Result<(), JournalError> {
        let bytes = deliveries.iter().flat_map(|delivery| &delivery.outgoing).map(|outgoing| outgoing.content.len());
        let bytes = bytes.sum();
        self.submit(Work::Transformed { id, at, result: outcome, deliveries }, bytes).await.map(drop)
    }

    async fn split(&self, id: MessageId, at: Timestamp, parts: Vec<NewPart>) -> Result<(), JournalError> {
        let sent = |part: &NewPart| -> usize {
            let outgoing = part.deliveries.iter().flat_map(|delivery| &delivery.outgoing);
            outgoing.map(|outgoing| outgoing.content.len()).sum()
        };
        let bytes = parts.iter().map(|part| part.body.len() + sent(part)).sum();
        self.submit(Work::Split { id, at, parts }, bytes).await.map(drop)
    }

    async fn attempted(&self, delivery: DeliveryId, attempt: Attempt) -> Result<(), JournalError> {
        let bytes = attempt.response.as_ref().map_or(0, |bytes| bytes.len());
        self.submit(Work::Attempted { delivery, attempt: Box::new(attempt) }, bytes).await.map(drop)
    }

    async fn command(&self, delivery: DeliveryId, command: Command) -> Result<(), JournalError> {
        self.submit(Work::Command { delivery, command }, 0).await.map(drop)
    }

    fn untransformed(&self, channel: &str, after: u64, limit: usize) -> Result<Vec<Untransformed>, JournalError> {
        self.shared.untransformed(channel, after, limit)
    }

    fn at_hand(&self, id: MessageId) -> Option<usize> {
        self.shared.at_hand(id)
    }

    fn received(&self, id: MessageId) -> Result<Option<Received>, JournalError> {
        self.shared.received(id)
    }

    fn queue(&self, lane: &Lane, after: u64, limit: usize) -> Result<Vec<Queued>, JournalError> {
        self.shared.queue(lane, after, limit)
    }

    fn outgoing(&self, delivery: &DeliveryId) -> Result<Outgoing, JournalError> {
        self.shared.outgoing_of(delivery)
    }

    fn holding(&self, lane: &Lane) -> Result<Vec<Holding>, JournalError> {
        self.shared.holding(lane)
    }

    fn depth(&self, lane: &Lane) -> Result<Depth, JournalError> {
        self.shared.depth(lane)
    }

    fn waiting(&self) -> Result<Vec<Waiting>, JournalError> {
        self.shared.waiting()
    }

    fn counts(&self, channel: &str) -> Result<Vec<(MessageState, u64)>, JournalError> {
        self.shared.counts(channel)
    }

    fn story(&self, id: MessageId) -> Result<Option<Story>, JournalError> {
        self.shared.story(id)
    }

    fn search(&self, query: &Query) -> Result<Page, JournalError> {
        search::search(&self.shared, query)
    }

    fn room(&self) -> Room {
        self.reserve.level()
    }

    fn damage(&self) -> Vec<String> {
        self.damage.clone()
    }

    async fn prune(&self, prune: Prune) -> Result<Pruned, JournalError> {
        self.prune_as(prune).await
    }

    fn disk(&self) -> Option<DiskSpace> {
        self.reserve.disk()
    }

    async fn backup(&self, to: &Path) -> Result<Backup, JournalError> {
        self.back_up(to).await
    }

    fn stats(&self) -> Stats {
        let Shared { appended, syncs, bytes, segments, .. } = &*self.shared;
        let (mut count, mut disk_bytes) = (0, 0);
        for entry in std::fs::read_dir(segments).into_iter().flatten().flatten() {
            count += u64::from(entry.path().extension().is_some_and(|extension| extension == "log"));
            disk_bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
        let (stripped_segments, stripped_bytes) = self.shared.stripped_size();
        let [appended, syncs, bytes] = [appended, syncs, bytes].map(|count| count.load(Relaxed));
        Stats { segments: count, stripped_segments, stripped_bytes, disk_bytes, appended, syncs, bytes }
    }

    async fn failed(&self) -> JournalError {
        let mut failed = self.shared.failed.subscribe();
        let failed = failed.wait_for(Option::is_some).await.expect("the sender lives as long as the journal");
        failed.clone().expect("it was waited for")
    }

    async fn close(&self) -> Result<(), JournalError> {
        let (done, answer) = oneshot::channel();
        if self.jobs.send(Job { work: Work::Close, bytes: 0, room: None, done }).await.is_ok() {
            return answer.await.map_err(|_| self.closed())?.map(drop);
        }
        match *self.shared.failed.borrow() {
            Some(_) => Err(self.closed()),
            None => Ok(()),
        }
    }
}

/// Counts one who asks until it is dropped.
struct Asked<'a>(&'a AtomicUsize);

impl Asked<'_> {
    fn one(count: &AtomicUsize) -> Asked<'_> {
        count.fetch_add(1, SeqCst);
        Asked(count)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn receipt_of(answer: Option<Receipt>) -> Receipt {
    answer.expect("the writer answers an arrival with a receipt")
}

fn spawn(name: &str, folder: &Path, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, JournalError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(disk("starting a thread for", folder))
}

/// Runs until the end, or a panic, which is the end of the journal.
fn guarded(shared: &Shared, run: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
        shared.failed.send_replace(Some(writer::panicked()));
    }
}

/// Writes the index out every few seconds, or when told that it is behind, until nobody is there to tell.
fn write_index(shared: &Shared, behind: &std_mpsc::Receiver<()>) {
    let mut refused = false;
    while behind.recv_timeout(WRITE_INDEX_EVERY) != Err(RecvTimeoutError::Disconnected) {
        match recovery::write_out(shared) {
            Ok(()) => refused = false,
            Err(JournalError::Closed { .. }) => return,
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::error!(%error, "the index cannot be written; it is tried again every few seconds");
                }
            }
        }
    }
}
