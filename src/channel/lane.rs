//! A lane: the queue before one destination, and what sends it.
//!
//! Design constraints:
//! - The journal's queue is the truth; the lane reads a bounded part of it ahead (`lane/window.rs`), so that a long queue costs
//!   no memory and a restart is no special case.
//! - Deliveries of one order leave one after the other: the next when the one before was sent or is a dead letter that holds
//!   nobody up. A delivery that waits for its retry holds back its own order only.
//! - A success is journaled while the next delivery is already on its way, several together where one follows the other,
//!   [`UNSYNCED`] of them at most: after a crash no more than these are sent again, in order and with the same identity. A
//!   failure is journaled before its order goes on.
//! - A destination that is down is tried with one delivery at a time.
//! - One task for the whole lane: at thousands of deliveries a second, waking another task for each costs more than sending it.

mod attempt;
mod judge;
mod pace;
mod status;
#[cfg(test)]
mod tests;
mod waits;
mod window;

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, Stream, StreamExt};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::judge::{Policy, Verdict};
use self::pace::Pace;
pub use self::status::{HeldBy, LaneStatus};
use self::waits::Waits;
use self::window::{Gate, Window};
use super::{ChannelSpec, DestinationSpec, Name, OnPoison};
use crate::destination::{Delivered, Destination, Doors, FaultClass, SendError};
use crate::journal::{
    Answered, Attempt, DeliveryState, Holding, Journal, JournalError, Lane as LaneId, Outgoing, Queued,
};
use crate::monitor::Counters;
use crate::source::Waiters;

/// Attempts whose result may wait for its sync while the lane goes on: what a crash can repeat.
const UNSYNCED: usize = 32;
/// So many successes are journaled together while the lane goes on, so that each does not ask for a sync of its own.
const TOGETHER: usize = 8;
/// A success is journaled after so long at the latest.
const GATHERED: Duration = Duration::from_millis(5);
/// How long attempts that are under way when the engine stops may still take.
const GRACE: Duration = Duration::from_secs(5);
/// A lane looks at its queue anew at least so often, so that nothing that was done by hand is overlooked for longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After an error of the journal that may pass, the lane tries again after so long.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// What was read longer ago is looked at once more before it is sent: somebody may have cancelled it.
const FRESH: Duration = Duration::from_secs(1);

/// Tells lanes that there is something to do.
#[derive(Debug, Default)]
pub(super) struct Wake {
    notify: Notify,
    queued: AtomicU64,
    by_hand: AtomicU64,
}

impl Wake {
    /// Deliveries were queued.
    pub(super) fn queued(&self) {
        self.queued.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Somebody retried, cancelled or resent deliveries.
    pub(super) fn by_hand(&self) {
        self.by_hand.fetch_add(1, Ordering::Release);
        self.notify.notify_waiters();
    }
}

/// What a lane works with.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) destination: Name,
    pub(super) program: Arc<ArcSwap<ChannelSpec>>,
    pub(super) journal: Arc<dyn Journal>,
    /// The way to the other channels.
    pub(super) doors: Arc<dyn Doors>,
    pub(super) counters: Arc<Counters>,
    pub(super) wake: Arc<Wake>,
    /// Those who wait for what becomes of a message.
    pub(super) waiters: Arc<Waiters>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
}

impl Lane {
    /// Sends until `stop`, or until the journal fails. A new version of the channel file comes with new lanes.
    pub(super) async fn run(self, stop: CancellationToken) {
        let spec = self.program.load_full();
        let Some(at) = spec.destinations.iter().position(|destination| destination.name == self.destination) else {
            return;
        };
        let mut dispatcher = Dispatcher::new(self, spec, at);
        // What a run before this one showed, which ended by a panic, says nothing of this one.
        dispatcher.show(|status| {
            let (destination, kind) = (std::mem::take(&mut status.destination), std::mem::take(&mut status.kind));
            *status = LaneStatus { destination, kind, ..LaneStatus::default() };
        });
        while !stop.is_cancelled() {
            let Err(error) = dispatcher.turn(&stop).await else { continue };
            error!(lane = %dispatcher.id, %error, "the journal does not answer; what it does not know as sent is sent again");
            if error.is_final() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(AFTER_ERROR) => dispatcher.window.start_over(),
                () = stop.cancelled() => {}
            }
        }
        dispatcher.finish().await;
    }
}

/// A destination that takes nothing.
struct Down {
    since: Instant,
    in_a_row: u32,
    /// In lane time.
    next_try: Timestamp,
}

type Connector = Option<Box<dyn Destination>>;

/// An attempt that came to its end.
struct Ended {
    connector: Connector,
    queued: Queued,
    started_at: Timestamp,
    began: Instant,
    result: Result<Delivered, SendError>,
    to: Option<String>,
    answered: Option<Answered>,
}

/// An attempt that the journal keeps, or not.
struct Kept {
    place: u64,
    state: DeliveryState,
    result: Result<(), JournalError>,
}

/// A lane at work.
struct Dispatcher {
    lane: Lane,
    id: LaneId,
    spec: Arc<ChannelSpec>,
    /// Which of the destinations it is.
    at: usize,
    policy: Policy,
    /// Times in the window are lane time.
    window: Window,
    waits: Waits,
    pace: Pace,
    /// What the window does not know of yet.
    seen: (u64, u64),
    is_stale: bool,
    looked_at: Option<Instant>,
    holding: Vec<Holding>,
    down: Option<Down>,
    /// Whether the status shows an error.
    shows_error: bool,
    /// Those that are not in use: as many connections as deliveries may be under way at once.
    connectors: Vec<Connector>,
    attempts: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Successes that are to be journaled together, and since when.
    gathered: Vec<BoxFuture<'static, Kept>>,
    gathering_since: Option<Instant>,
    journaling: FuturesOrdered<BoxFuture<'static, Kept>>,
    /// The content of the delivery that is probably next.
    ahead: Option<(u64, Outgoing)>,
}

impl Dispatcher {
    fn new(lane: Lane, spec: Arc<ChannelSpec>, at: usize) -> Dispatcher {
        let DestinationSpec { retry, dispatch, .. } = &spec.destinations[at];
        let (parallel, keyed) = (dispatch.parallel, dispatch.order_by.is_some());
        Dispatcher {
            id: LaneId { channel: spec.name.to_string(), destination: lane.destination.to_string() },
            policy: Policy { rules: dispatch.on.clone(), retry: *retry, on_poison: dispatch.on_poison },
            window: Window::new(keyed, parallel),
            waits: Waits::new(retry.longest.get()),
            pace: Pace::new(dispatch.rate),
            connectors: (0..parallel).map(|_| None).collect(),
            seen: (0, 0),
            is_stale: false,
            looked_at: None,
            holding: Vec::new(),
            down: None,
            shows_error: false,
            attempts: FuturesUnordered::new(),
            gathered: Vec::with_capacity(TOGETHER),
            gathering_since: None,
            journaling: FuturesOrdered::new(),
            ahead: None,
            lane,
            spec,
            at,
        }
    }

    /// Begins what may leave now, then waits until something happens.
    async fn turn(&mut self, stop: &CancellationToken) -> Result<(), JournalError> {
        let wake = self.lane.wake.clone();
        let mut woken = pin!(wake.notify.notified());
        woken.as_mut().enable();
        self.look()?;
        self.dispatch()?;
        if self.attempts.is_empty() || self.gathering_time().is_some_and(|left| left.is_zero()) {
            self.journal_gathered();
        }
        // What was begun is on the wire, and what is to be journaled with the journal, before anything else is done.
        if let Some(ended) = at_once(&mut self.attempts).await {
            self.settle(ended);
            return Ok(());
        }
        if let Some(kept) = at_once(&mut self.journaling).await {
            return self.kept(kept);
        }
        self.look_ahead();
        let (pause, is_behind) = (self.pause(), self.window.wants().is_some());
        tokio::select! {
            Some(ended) = self.attempts.next() => self.settle(ended),
            Some(kept) = self.journaling.next() => self.kept(kept)?,
            () = woken => {}
            () = tokio::task::yield_now(), if is_behind => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    }

    /// Reads the queue on, or anew where somebody did something to it.
    fn look(&mut self) -> Result<(), JournalError> {
        let wake = &self.lane.wake;
        let seen = (wake.queued.load(Ordering::Acquire), wake.by_hand.load(Ordering::Acquire));
        if seen.0 != self.seen.0 {
            self.window.queued();
        }
        self.is_stale |= seen.1 != self.seen.1;
        self.seen = seen;
        let since = self.looked_at.map_or(Duration::MAX, |looked_at| looked_at.elapsed());
        if since >= LONGEST_SLEEP || (self.is_stale && since >= self.patience()) {
            if let Some(down) = self.down.as_mut().filter(|_| self.is_stale) {
                // A person who acts wants to see what happens.
                down.next_try = self.waits.now();
            }
            (self.looked_at, self.is_stale, self.ahead) = (Some(Instant::now()), false, None);
            self.read_holding()?;
            self.window.start_over();
        }
        if let Some((after, limit)) = self.window.wants() {
            let found = self.lane.journal.queue(&self.id, after, limit)?;
            let waits = &mut self.waits;
            let found = found.into_iter().map(|queued| waits.read(queued)).collect();
            self.window.read(limit, found, Instant::now());
        }
        Ok(())
    }

    /// A window is read anew no more often than that: many commands one after the other are one.
    fn patience(&self) -> Duration {
        Duration::from_micros(100 * self.window.len() as u64)
    }

    fn read_holding(&mut self) -> Result<(), JournalError> {
        let on_poison = self.policy.on_poison;
        let holding = match on_poison {
            OnPoison::DeadLetter => Vec::new(),
            OnPoison::Block | OnPoison::HoldKey => self.lane.journal.holding(&self.id)?,
        };
        if holding != self.holding {
            self.window.hold(&holding, on_poison);
            self.show_holding(&holding);
            self.holding = holding;
        }
        Ok(())
    }

    fn gate(&self) -> Gate {
        self.down.as_ref().map_or(Gate::Open, |down| Gate::Probe(down.next_try))
    }

    /// Begins attempts at all that may leave now.
    fn dispatch(&mut self) -> Result<(), JournalError> {
        while self.unsynced() < UNSYNCED && self.pace.wait(Instant::now()).is_zero() {
            let Some((queued, read_at)) = self.window.next(self.waits.now(), self.gate()) else { break };
            self.pace.begins(Instant::now());
            let place = queued.sequence;
            if let Err(error) = self.begin(queued, read_at) {
                self.window.back(place, None, Instant::now());
                return Err(error);
            }
        }
        Ok(())
    }

    fn unsynced(&self) -> usize {
        self.journaling.len() + self.gathered.len()
    }

    fn begin(&mut self, mut queued: Queued, read_at: Instant) -> Result<(), JournalError> {
        let place = queued.sequence;
        if self.is_stale || read_at.elapsed() > FRESH {
            let now = self.waits.now();
            match self.read_again(&queued)? {
                Some(again) if again.next_at.is_none_or(|next_at| next_at <= now) => queued = again,
                other => {
                    self.window.back(place, other, Instant::now());
                    return Ok(());
                }
            }
        }
        let ahead = self.ahead.take_if(|(ahead, _)| *ahead == place).map(|(_, outgoing)| outgoing);
        let outgoing = ahead.map_or_else(|| self.lane.journal.outgoing(&queued.id), Ok);
        let (started_at, began) = (Timestamp::now(), Instant::now());
        let connector = self.connectors.pop().flatten();
        match outgoing {
            Ok(outgoing) => {
                let (lane, spec, at) = (self.lane.clone(), self.spec.clone(), self.at);
                self.attempts.push(Box::pin(async move {
                    let (connector, result) = lane.attempt(connector, &spec, at, &queued.id, &outgoing).await;
                    let to = connector.as_ref().and_then(|connector| connector.used());
                    let answered = connector.as_ref().and_then(|connector| connector.answered());
                    Ended { connector, queued, started_at, began, result, to, answered }
                }));
                Ok(())
            }
            // What cannot be read any more is a dead letter: it is seen, and the lane goes on.
            Err(error @ (JournalError::Damaged { .. } | JournalError::Removed { .. })) => {
                let result = Err(SendError::new(FaultClass::Damaged, error.to_string()));
                self.settle(Ended { connector, queued, started_at, began, result, to: None, answered: None });
                Ok(())
            }
            Err(error) => {
                self.connectors.push(connector);
                Err(error)
            }
        }
    }

    /// The delivery as the journal has it now, if it still waits in its place.
    fn read_again(&mut self, queued: &Queued) -> Result<Option<Queued>, JournalError> {
        let found = self.lane.journal.queue(&self.id, queued.sequence.saturating_sub(1), 1)?;
        let found = found.into_iter().next().filter(|found| found.sequence == queued.sequence && found.id == queued.id);
        Ok(found.map(|found| self.waits.read(found)))
    }

    /// Reads the content that is probably needed next while the peer is busy with this one.
    fn look_ahead(&mut self) {
        let Some(next) = self.window.peek().filter(|_| !self.attempts.is_empty()) else { return };
        if self.ahead.as_ref().is_none_or(|(place, _)| *place != next.sequence) {
            let outgoing = self.lane.journal.outgoing(&next.id).ok();
            self.ahead = outgoing.map(|outgoing| (next.sequence, outgoing));
        }
    }

    fn pause(&self) -> Duration {
        let waits = self.is_stale.then(|| self.patience());
        let is_full = self.unsynced() >= UNSYNCED;
        let due = self
            .window
            .next_due(self.gate())
            .filter(|_| !is_full)
            .map(|due| Duration::try_from(due.duration_since(self.waits.now())).unwrap_or(Duration::ZERO));
        let paced = Some(self.pace.wait(Instant::now())).filter(|wait| !wait.is_zero());
        let due = due.map(|due| due.max(paced.unwrap_or_default()));
        [waits, due, paced, self.gathering_time()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(LONGEST_SLEEP)
            .min(LONGEST_SLEEP)
    }

    /// Judges an attempt and hands it to the journal.
    fn settle(&mut self, ended: Ended) {
        let Ended { connector, queued, started_at, began, result, to, answered } = ended;
        self.connectors.push(connector);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let attempt = Attempt {
            started_at,
            duration_ms,
            state: DeliveryState::Sent,
            next_at: None,
            error: None,
            counted: true,
            holds: false,
            to,
            answered,
            response: None,
        };
        let in_a_row = self.down.as_ref().map_or(0, |down| down.in_a_row);
        let moment = (Timestamp::now(), fastrand::f64());
        let verdict = self.policy.judge(result, &queued, attempt, in_a_row, moment);
        self.report(&queued, &verdict, began);
        let (place, state) = (queued.sequence, verdict.attempt.state);
        self.waits.tried(place, verdict.attempt.next_at);
        if state == DeliveryState::Sent {
            self.window.sent(place);
        }
        let (journal, waiters) = (self.lane.journal.clone(), self.lane.waiters.clone());
        // Unconstrained: futures that tokio puts off for fairness are woken last first, and would be journaled in that order.
        self.gathered.push(Box::pin(tokio::task::unconstrained(async move {
            let message = queued.id.message;
            let result = journal.attempted(queued.id, verdict.attempt).await;
            waiters.tell([message]);
            Kept { place, state, result }
        })));
        self.gathering_since.get_or_insert_with(Instant::now);
        if state != DeliveryState::Sent || self.gathered.len() >= TOGETHER {
            self.journal_gathered();
        }
    }

    /// For how long what was gathered may still wait; none where nothing was.
    fn gathering_time(&self) -> Option<Duration> {
        self.gathering_since.map(|since| GATHERED.saturating_sub(since.elapsed()))
    }

    fn journal_gathered(&mut self) {
        self.gathering_since = None;
        self.gathered.drain(..).for_each(|result| self.journaling.push_back(result));
    }

    /// What the journal keeps now, or cannot.
    fn kept(&mut self, kept: Kept) -> Result<(), JournalError> {
        let Kept { place, state, result } = kept;
        if state == DeliveryState::Sent {
            self.window.settled(place);
            return result;
        }
        // As the journal has it now: somebody may have cancelled it meanwhile.
        let again = result.and_then(|()| self.lane.journal.queue(&self.id, place.saturating_sub(1), 1));
        let again = again.and_then(|found| {
            let found = found.into_iter().next().filter(|found| found.sequence == place);
            let found = found.map(|found| self.waits.read(found));
            if state == DeliveryState::Dead { self.read_holding().map(|()| found) } else { Ok(found) }
        });
        let (again, result) = again.map_or_else(|error| (None, Err(error)), |again| (again, Ok(())));
        self.window.back(place, again, Instant::now());
        result
    }

    /// Waits for what is under way, and until the journal has the results. What takes too long counts as not made.
    async fn finish(mut self) {
        let deadline = tokio::time::Instant::now() + GRACE;
        while !self.attempts.is_empty() {
            self.journal_gathered();
            tokio::select! {
                Some(ended) = self.attempts.next() => self.settle(ended),
                Some(_) = self.journaling.next() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.attempts.clear();
        self.journal_gathered();
        while let Some(kept) = self.journaling.next().await {
            if let Err(error) = kept.result {
                error!(lane = %self.id, %error, "an attempt cannot be journaled; it is repeated");
            }
        }
    }
}

/// What a stream has now.
async fn at_once<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    std::future::poll_fn(|context: &mut Context<'_>| match Pin::new(&mut *stream).poll_next(context) {
        Poll::Ready(item) => Poll::Ready(item),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What people see.
impl Dispatcher {
    fn show(&self, change: impl FnOnce(&mut LaneStatus)) {
        change(&mut self.lane.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&mut self, queued: &Queued, verdict: &Verdict, began: Instant) {
        let (lane, message) = (&self.id, queued.id.message);
        let Verdict { attempt, down_until, pauses, pending } = verdict;
        let error = attempt.error.as_deref().unwrap_or_default();
        match attempt.state {
            DeliveryState::Sent => {
                self.lane.counters.sent.add_one();
                debug!(%lane, %message, duration_ms = attempt.duration_ms, "sent");
            }
            DeliveryState::Dead => {
                self.lane.counters.dead.add_one();
                let holds =
                    if attempt.holds { "; what comes after it waits until it is retried or cancelled" } else { "" };
                warn!(%lane, %message, error, "given up: the delivery is a dead letter{holds}");
            }
            _ if *pending => debug!(%lane, %message, error, "under way"),
            _ => {
                self.lane.counters.retried.add_one();
                let next_at = attempt.next_at.map(tracing::field::display);
                if queued.attempts == 0 && down_until.is_none() {
                    warn!(%lane, %message, error, next_at, "an attempt failed; it is repeated");
                } else {
                    debug!(%lane, %message, error, next_at, "an attempt failed; it is repeated");
                }
            }
        }
        match (down_until.map(|until| self.waits.due(until)), &mut self.down) {
            (Some(next_try), None) => {
                warn!(%lane, error, paused = pauses, "the destination is down; one message at a time tries it");
                self.down = Some(Down { since: Instant::now(), in_a_row: 1, next_try });
            }
            // One that had left before it was known to be down says nothing new.
            (Some(next_try), Some(down)) if began >= down.since => {
                (down.in_a_row, down.next_try) = (down.in_a_row.saturating_add(1), next_try);
            }
            (Some(_), Some(_)) => {}
            (None, Some(down)) => {
                info!(%lane, seconds = down.since.elapsed().as_secs(), "the destination answers again");
                self.down = None;
            }
            (None, None) => {}
        }
        if *pauses {
            // Made anew for the next attempt: a password or key that was put right is read again.
            self.connectors.iter_mut().for_each(|connector| *connector = None);
        }
        self.show_attempt(attempt, *pauses);
    }

    fn show_attempt(&mut self, attempt: &Attempt, pauses: bool) {
        if attempt.error.is_none() && !self.shows_error {
            return;
        }
        self.shows_error = attempt.error.is_some();
        let next_try = self.down.as_ref().map(|down| self.waits.shown(down.next_try));
        self.show(|status| {
            status.error = attempt.error.clone();
            status.paused = pauses;
            status.down_since = next_try.and(status.down_since.or_else(|| Some(Timestamp::now())));
            status.next_try = next_try.or(attempt.next_at);
        });
    }

    fn show_holding(&self, holding: &[Holding]) {
        let shown = |holding: &Holding| {
            let story = self.lane.journal.story(holding.id.message).ok().flatten();
            let deliveries = story.into_iter().flat_map(|story| story.summary.deliveries);
            let mut ours = deliveries.filter(|delivery| delivery.destination == self.id.destination);
            HeldBy { message: holding.id.message, since: ours.next().and_then(|delivery| delivery.finished_at) }
        };
        let blocks = |holding: &&Holding| self.policy.on_poison == OnPoison::Block || holding.key.is_none();
        let blocked_by = holding.iter().find(blocks).map(shown);
        let held: Vec<&Holding> = holding.iter().filter(|holding| !blocks(holding)).collect();
        let held_by: Vec<HeldBy> = held.iter().take(status::SHOWN).map(|holding| shown(holding)).collect();
        self.show(|status| {
            (status.blocked_by, status.held_by, status.held_keys) = (blocked_by, held_by, held.len());
        });
    }
}
