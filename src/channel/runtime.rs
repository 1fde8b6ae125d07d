//! A channel at work: its source, its worker and its lanes, and how they are started, replaced and stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::doors::Doors;
use super::lane::{Lane, LaneStatus, Wake};
use super::worker::Worker;
use super::{ChannelSpec, Name};
use crate::config::BuildError;
use crate::journal::Journal;
use crate::message::MessageIds;
use crate::monitor::Counters;
use crate::source::{Intake, Source, Trouble, Waiters};

/// A source that cannot be opened (a port in use) is tried again so often.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// A task that panicked is started again after so long.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// So many channels transform at the same time. More than there are cores: a message may take long.
pub const TRANSFORMING_CHANNELS: usize = 8;

/// What every channel needs from the engine.
#[derive(Clone)]
pub struct ChannelContext {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Message ids.
    pub ids: Arc<MessageIds>,
    /// The doors between the channels.
    pub doors: Arc<Doors>,
    /// Room on the threads that transform: where many channels have a little to do, they take turns, and each does more at once.
    pub transforming: Arc<Semaphore>,
}

/// What a channel is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Takes messages in and sends them.
    Running,
    /// Takes nothing in; what was taken in is still sent.
    Paused,
    /// Does nothing; what waits, waits.
    Stopped,
    /// The source cannot be opened; tried again every few seconds. What was taken in is still sent.
    Failed {
        /// Why.
        reason: String,
    },
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn spawn<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(CancellationToken) -> F) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Running { stop, task }
    }

    /// Runs what `make` makes; makes it anew when it panicked, so that a bug met by one message does not end the channel.
    fn supervised<F: Future<Output = ()> + Send + 'static>(
        name: Name,
        make: impl Fn(CancellationToken) -> F + Send + 'static,
    ) -> Running {
        Running::spawn(|stop| async move {
            while tokio::spawn(make(stop.clone())).await.is_err_and(|error| error.is_panic()) {
                error!(channel = &*name, "a task of the channel panicked, which is a bug in Labwire; please report it");
                tokio::select! {
                    () = tokio::time::sleep(AFTER_PANIC) => {}
                    () = stop.cancelled() => return,
                }
            }
        })
    }

    async fn stop(self) {
        self.stop.cancel();
        // The task itself does not panic: what may is run within it.
        let _ = self.task.await;
    }
}

#[derive(Default)]
struct Parts {
    source: Option<Running>,
    worker: Option<Running>,
    lanes: Vec<Running>,
}

/// A channel that was started.
pub struct Channel {
    name: Name,
    context: ChannelContext,
    program: Arc<ArcSwap<ChannelSpec>>,
    counters: Arc<Counters>,
    wake_worker: Arc<Notify>,
    wake_lanes: Arc<Wake>,
    waiters: Arc<Waiters>,
    lane_status: Mutex<BTreeMap<Name, Arc<Mutex<LaneStatus>>>>,
    state: Arc<Mutex<State>>,
    listens_on: Arc<Mutex<Option<SocketAddr>>>,
    trouble: Trouble,
    parts: tokio::sync::Mutex<Parts>,
}

impl Channel {
    /// A channel that does nothing yet.
    pub fn new(spec: ChannelSpec, context: ChannelContext) -> Channel {
        Channel {
            name: spec.name.clone(),
            context,
            program: Arc::new(ArcSwap::from_pointee(spec)),
            counters: Arc::default(),
            wake_worker: Arc::default(),
            wake_lanes: Arc::default(),
            waiters: Arc::default(),
            lane_status: Mutex::default(),
            state: Arc::new(Mutex::new(State::Stopped)),
            listens_on: Arc::default(),
            trouble: Trouble::default(),
            parts: tokio::sync::Mutex::default(),
        }
    }

    /// The channel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, as its file says.
    pub fn spec(&self) -> Arc<ChannelSpec> {
        self.program.load_full()
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The address that its source listens on.
    pub fn listens_on(&self) -> Option<SocketAddr> {
        *self.listens_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why its source takes nothing in although it runs.
    pub fn source_error(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its lanes are doing, in the order of the file.
    pub fn lanes(&self) -> Vec<LaneStatus> {
        let status = self.lane_status.lock().unwrap_or_else(PoisonError::into_inner);
        let spec = self.program.load();
        let of = |name: &Name| status.get(name).map(|lane| lane.lock().unwrap_or_else(PoisonError::into_inner).clone());
        spec.destinations.iter().filter_map(|destination| of(&destination.name)).collect()
    }

    /// Tells the worker that a message waits.
    pub fn wake_worker(&self) {
        self.wake_worker.notify_one();
    }

    /// Tells the worker that a message may wait, and the lanes that somebody did something to their deliveries: they look at
    /// their queues anew.
    pub fn wake(&self) {
        self.wake_worker();
        self.wake_lanes.by_hand();
        self.waiters.tell_all();
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Starts what does not run. A source that cannot be opened leaves the channel failed, and is tried again.
    pub async fn start(&self) {
        let mut parts = self.parts.lock().await;
        self.start_sending(&mut parts);
        if parts.source.is_none() {
            parts.source = Some(match self.open().await {
                Ok(source) => self.run_source(source),
                Err(error) => self.retry_source(&error),
            });
        }
    }

    /// Closes the source; what was taken in is still sent.
    pub async fn pause(&self) {
        let mut parts = self.parts.lock().await;
        self.start_sending(&mut parts);
        self.close_source(&mut parts).await;
        self.set_state(State::Paused);
    }

    /// Stops everything at a message boundary: each answer that is due is given, each attempt under way ends or is repeated.
    pub async fn stop(&self) {
        let mut parts = self.parts.lock().await;
        self.close_source(&mut parts).await;
        self.stop_sending(&mut parts).await;
        self.set_state(State::Stopped);
    }

    /// Puts a new version of the file in place. The source goes on when its table is unchanged. When the new source cannot be
    /// opened, the old version goes on and the error is returned.
    pub async fn replace(&self, spec: ChannelSpec) -> Result<(), BuildError> {
        let mut parts = self.parts.lock().await;
        let old = self.program.load_full();
        let state = self.state();
        let takes_in = matches!(state, State::Running | State::Failed { .. });
        let source_changed = old.source_text != spec.source_text;
        if source_changed {
            self.close_source(&mut parts).await;
        }
        let sends = !parts.lanes.is_empty();
        self.stop_sending(&mut parts).await;
        self.program.store(Arc::new(spec));
        let mut result = Ok(());
        if source_changed && takes_in {
            parts.source = Some(match self.open().await {
                Ok(source) => self.run_source(source),
                Err(error) => {
                    self.program.store(old);
                    result = Err(error);
                    match self.open().await {
                        Ok(source) => self.run_source(source),
                        Err(error) => self.retry_source(&error),
                    }
                }
            });
        }
        if sends {
            self.start_sending(&mut parts);
        }
        self.wake();
        result
    }

    async fn open(&self) -> Result<Box<dyn Source>, BuildError> {
        let spec = self.program.load_full();
        let source = spec.source.build(&spec.place("source", self.context.journal.folder())).await?;
        *self.listens_on.lock().unwrap_or_else(PoisonError::into_inner) = source.listens_on();
        Ok(source)
    }

    fn intake(&self) -> Intake {
        let ChannelContext { journal, ids, .. } = self.context.clone();
        Intake::new(self.name.clone(), journal, ids, self.wake_worker.clone(), self.counters.clone())
            .with_waiters(self.waiters.clone())
            .showing(self.trouble.clone())
    }

    fn run_source(&self, source: Box<dyn Source>) -> Running {
        if self.program.load().source.takes_from().is_some() {
            self.context.doors.open(&self.name, self.intake());
        }
        self.set_state(State::Running);
        self.keep_source(Some(source))
    }

    fn retry_source(&self, error: &BuildError) -> Running {
        warn!(channel = &*self.name, %error, "the source cannot be opened; trying again every {} s", REOPEN_AFTER.as_secs());
        self.set_state(State::Failed { reason: error.to_string() });
        self.keep_source(None)
    }

    /// Runs the source until it is stopped. One that cannot be opened, or that ended by itself, is opened again after a while.
    fn keep_source(&self, mut open: Option<Box<dyn Source>>) -> Running {
        let (program, intake, name) = (self.program.clone(), self.intake(), self.name.clone());
        let journal = self.context.journal.clone();
        let (state, listens_on) = (self.state.clone(), self.listens_on.clone());
        Running::spawn(|stop| async move {
            let set_state = |now| *state.lock().unwrap_or_else(PoisonError::into_inner) = now;
            loop {
                if let Some(source) = open.take() {
                    let ended = tokio::spawn(source.run(intake.clone(), stop.clone())).await;
                    if stop.is_cancelled() {
                        return;
                    }
                    error!(
                        channel = &*name,
                        panicked = ended.is_err(),
                        "the source ended by itself; it is opened again"
                    );
                    set_state(State::Failed { reason: "the source ended by itself".to_owned() });
                }
                tokio::select! {
                    () = tokio::time::sleep(REOPEN_AFTER) => {}
                    () = stop.cancelled() => return,
                }
                let spec = program.load_full();
                if let Ok(source) = spec.source.build(&spec.place("source", journal.folder())).await {
                    info!(channel = &*name, "the source is open");
                    *listens_on.lock().unwrap_or_else(PoisonError::into_inner) = source.listens_on();
                    set_state(State::Running);
                    open = Some(source);
                }
            }
        })
    }

    async fn close_source(&self, parts: &mut Parts) {
        self.context.doors.close(&self.name);
        if let Some(source) = parts.source.take() {
            source.stop().await;
        }
        *self.listens_on.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn start_sending(&self, parts: &mut Parts) {
        if parts.worker.is_none() {
            let worker = Worker {
                program: self.program.clone(),
                journal: self.context.journal.clone(),
                counters: self.counters.clone(),
                wake: self.wake_worker.clone(),
                lanes: self.wake_lanes.clone(),
                waiters: self.waiters.clone(),
                transforming: self.context.transforming.clone(),
            };
            parts.worker = Some(Running::supervised(self.name.clone(), move |stop| worker.clone().run(stop)));
        }
        if parts.lanes.is_empty() {
            let spec = self.program.load_full();
            parts.lanes = spec
                .destinations
                .iter()
                .map(|destination| self.start_lane(&destination.name, destination.kind))
                .collect();
            let (count, journal) = (spec.destinations.len(), self.context.journal.clone());
            parts.lanes.extend((0..count).map(|at| {
                let (spec, journal) = (spec.clone(), journal.clone());
                Running::spawn(move |stop| keep_open(spec, at, journal, stop))
            }));
        }
    }

    fn start_lane(&self, destination: &Name, kind: &str) -> Running {
        let status =
            LaneStatus { destination: destination.to_string(), kind: kind.to_owned(), ..LaneStatus::default() };
        let status = Arc::new(Mutex::new(status));
        let lane = Lane {
            destination: destination.clone(),
            program: self.program.clone(),
            journal: self.context.journal.clone(),
            doors: self.context.doors.clone(),
            counters: self.counters.clone(),
            wake: self.wake_lanes.clone(),
            waiters: self.waiters.clone(),
            status: status.clone(),
        };
        self.lane_status.lock().unwrap_or_else(PoisonError::into_inner).insert(destination.clone(), status);
        Running::supervised(self.name.clone(), move |stop| lane.clone().run(stop))
    }

    async fn stop_sending(&self, parts: &mut Parts) {
        if let Some(worker) = parts.worker.take() {
            worker.stop().await;
        }
        for lane in &parts.lanes {
            lane.stop.cancel();
        }
        for lane in parts.lanes.drain(..) {
            lane.stop().await;
        }
    }
}

/// Holds open what a destination offers to partners, for as long as its channel sends.
async fn keep_open(spec: Arc<ChannelSpec>, at: usize, journal: Arc<dyn Journal>, stop: CancellationToken) {
    let destination = &spec.destinations[at];
    let place = spec.place(&destination.name, journal.folder());
    let mut told = false;
    loop {
        match destination.config.offer(&place).await {
            Ok(None) => return,
            Ok(Some(_offered)) => return stop.cancelled().await,
            Err(error) if !std::mem::replace(&mut told, true) => {
                let (channel, destination) = (&*spec.name, &*destination.name);
                let seconds = REOPEN_AFTER.as_secs();
                warn!(channel, destination, %error, "what it offers cannot be opened; trying again every {seconds} s");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(REOPEN_AFTER) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// A new version of a channel whose source is open already, though it does not run yet.
pub(crate) struct Opened {
    spec: ChannelSpec,
    source: Box<dyn Source>,
}

/// For a reload that moves ports between channels: first all the sources, then all the rest.
impl Channel {
    /// Whether the source is open, or tried again and again.
    pub(crate) fn takes_in(&self) -> bool {
        matches!(self.state(), State::Running | State::Failed { .. })
    }

    /// Opens the source of a new version beside the one that runs.
    pub(crate) async fn open_beside(&self, spec: ChannelSpec) -> Result<Opened, Box<(ChannelSpec, BuildError)>> {
        match spec.source.build(&spec.place("source", self.context.journal.folder())).await {
            Ok(source) => Ok(Opened { spec, source }),
            Err(error) => Err(Box::new((spec, error))),
        }
    }

    /// Closes the source until `replace_opened` or `reopen`.
    pub(crate) async fn release(&self) {
        self.close_source(&mut *self.parts.lock().await).await;
    }

    /// Opens the source that `release` closed.
    pub(crate) async fn reopen(&self) {
        let mut parts = self.parts.lock().await;
        if self.takes_in() && parts.source.is_none() {
            parts.source = Some(match self.open().await {
                Ok(source) => self.run_source(source),
                Err(error) => self.retry_source(&error),
            });
        }
    }

    /// Like `replace`, with the new source open already. One that was stopped or paused meanwhile does not run it.
    pub(crate) async fn replace_opened(&self, new: Opened) {
        let mut parts = self.parts.lock().await;
        let sends = !parts.lanes.is_empty();
        self.close_source(&mut parts).await;
        self.stop_sending(&mut parts).await;
        self.program.store(Arc::new(new.spec));
        if self.takes_in() {
            *self.listens_on.lock().unwrap_or_else(PoisonError::into_inner) = new.source.listens_on();
            parts.source = Some(self.run_source(new.source));
        }
        if sends {
            self.start_sending(&mut parts);
        }
        self.wake();
    }
}

impl Opened {
    pub(crate) fn spec(&self) -> &ChannelSpec {
        &self.spec
    }

    /// Closes the source again.
    pub(crate) fn into_spec(self) -> ChannelSpec {
        self.spec
    }
}
