//! When it is polled, and what is said of a folder that cannot be reached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Rules;
use super::folder::{Folder, Lost};
use super::round::{Ended, Round};
use crate::net::ssh::Plug;
use crate::source::{Intake, Source, Ticks};

/// A poll that is told to stop may take so long to do so by itself, and as long again when its connection was cut.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// After a poll that failed, the next one comes after so long, or the interval where that is shorter; and then twice as long.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// But after so long at the latest.
const AFTER_FAILURE_AT_MOST: Duration = Duration::from_secs(300);
/// The same where trying does harm: a login that is refused too often is locked.
const AFTER_REFUSAL: Duration = Duration::from_secs(300);
const AFTER_REFUSAL_AT_MOST: Duration = Duration::from_secs(900);
/// While the journal has no room, it is asked again after so long.
const ROOM_AFTER: Duration = Duration::from_secs(1);
/// A connection that is not used for longer than this is closed.
const IDLE: Duration = Duration::from_secs(60);
/// After a notice of the system's, the poll comes after so long; after twice as long as the last one took, where that is more.
const AFTER_NOTICE: Duration = Duration::from_millis(50);
/// But after so long at the latest.
const AFTER_NOTICE_AT_MOST: Duration = Duration::from_secs(30);

/// What a poller reaches its folder by.
pub(in crate::source) struct Means {
    /// The folder.
    pub(in crate::source) folder: Box<dyn Folder>,
    /// Ends what waits for a server.
    pub(in crate::source) plug: Option<Arc<Plug>>,
    /// The folder of this machine that the system watches.
    pub(in crate::source) watched: Option<PathBuf>,
}

/// Captures the files of one folder.
pub(in crate::source) struct Poller {
    rules: Rules,
    means: Means,
}

impl Poller {
    pub(in crate::source) fn new(rules: Rules, means: Means) -> Poller {
        Poller { rules, means }
    }
}

#[async_trait]
impl Source for Poller {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let Poller { rules, means: Means { folder, plug, watched } } = *self;
        let mut pace = Pace::new(&rules, watched);
        let mut health = Health::default();
        let mut round = Round::new(folder, rules);
        pace.first(&stop).await;
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let polling = poll(round, intake.clone(), stop.clone());
            let Some((back, ended)) = wait(polling, &stop, plug.as_deref()).await else { return };
            round = back;
            health.note(&intake, &ended);
            let next = pace.after(&ended, health.failures, begun.elapsed());
            if next.at_most() > IDLE {
                round.folder.rest();
            }
            pace.wait(next, &stop).await;
        }
    }
}

type Polled = (Round, Result<Ended, Lost>);

/// One poll, on a thread that may block.
fn poll(mut round: Round, intake: Intake, stop: CancellationToken) -> JoinHandle<Polled> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let ended = round.run(&intake, &runtime, &stop);
        (round, ended)
    })
}

/// Waits for a poll; none where it is no longer waited for.
async fn wait(mut polling: JoinHandle<Polled>, stop: &CancellationToken, plug: Option<&Plug>) -> Option<Polled> {
    tokio::select! {
        polled = &mut polling => return polled.ok(),
        () = stop.cancelled() => {}
    }
    if timeout(STOP_WITHIN, &mut polling).await.is_err() {
        if let Some(plug) = plug {
            plug.pull();
        }
        // What it waits for then is a name or a disk. It captures nothing more, because it looks at `stop` before it does.
        let _ = timeout(STOP_WITHIN, &mut polling).await;
    }
    None
}

/// Tells once what is wrong, and once that it is over.
#[derive(Default)]
struct Health {
    failures: u32,
    is_full: bool,
}

impl Health {
    fn note(&mut self, intake: &Intake, ended: &Result<Ended, Lost>) {
        let channel = intake.channel();
        let is_full = matches!(ended, Ok(Ended::NoRoom));
        if is_full && !self.is_full {
            warn!(channel, "files are left where they are: there is little room for the journal");
        } else if self.is_full && !is_full {
            info!(channel, "there is room for the journal again: files are captured");
        }
        self.is_full = is_full;
        let reason = ended.as_ref().err().map(|lost| lost.reason.clone());
        self.failures = if reason.is_some() { self.failures.saturating_add(1) } else { 0 };
        intake.trouble(reason);
    }
}

/// What a poll waits for.
enum Next {
    /// The schedule's next time, or the end of this time where it is given, or a notice.
    Scheduled { settle: Option<Duration> },
    /// The end of this time, whatever the schedule says; but not outside of its hours.
    Delay(Duration),
}

impl Next {
    fn at_most(&self) -> Duration {
        match self {
            Next::Scheduled { settle } => settle.unwrap_or(Duration::MAX),
            Next::Delay(delay) => *delay,
        }
    }
}

/// When the next poll comes.
struct Pace {
    rules: Rules,
    ticks: Ticks,
    watched: Option<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    notices: (mpsc::Sender<()>, mpsc::Receiver<()>),
    /// How long the last poll took: a folder that takes long is not looked at without a break.
    took: Duration,
}

impl Pace {
    fn new(rules: &Rules, watched: Option<PathBuf>) -> Pace {
        // By a clock, files are taken when it says so, and not when they come.
        let watched = watched.filter(|_| rules.schedule.interval().is_some());
        let ticks = rules.schedule.polls();
        Pace { rules: rules.clone(), ticks, watched, watcher: None, notices: mpsc::channel(1), took: Duration::ZERO }
    }

    async fn first(&mut self, stop: &CancellationToken) {
        self.wait(Next::Scheduled { settle: None }, stop).await;
    }

    /// What comes after a poll that ended so.
    fn after(&mut self, ended: &Result<Ended, Lost>, failures: u32, took: Duration) -> Next {
        self.took = took;
        match ended {
            Ok(Ended::NoRoom) => Next::Delay(ROOM_AFTER),
            Ok(Ended::Unsettled) => {
                self.watch();
                Next::Scheduled { settle: Some(self.rules.spacing()) }
            }
            Ok(Ended::Done | Ended::Stopped) => {
                self.watch();
                Next::Scheduled { settle: None }
            }
            Err(lost) => {
                // A folder that is made anew is another one.
                self.watcher = None;
                // The first refusal may be a server that was just going down.
                let (first, longest) = if lost.is_serious && failures > 1 {
                    (AFTER_REFUSAL / 2, AFTER_REFUSAL_AT_MOST)
                } else {
                    (self.rules.spacing().min(AFTER_FAILURE), AFTER_FAILURE_AT_MOST)
                };
                let delay = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
                // Not all channels at once, when a server comes back.
                Next::Delay(delay.mul_f64(0.75 + fastrand::f64() / 2.0))
            }
        }
    }

    async fn wait(&mut self, next: Next, stop: &CancellationToken) {
        let settle = match next {
            Next::Delay(delay) => {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = stop.cancelled() => return,
                }
                if self.rules.schedule.is_within(Timestamp::now()) {
                    return;
                }
                None
            }
            Next::Scheduled { settle } => settle,
        };
        let pause = (self.took * 2).clamp(AFTER_NOTICE, AFTER_NOTICE_AT_MOST);
        loop {
            let settled = async {
                match settle {
                    Some(settle) => tokio::time::sleep(settle).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // One that came while nobody waited may be of hours that are over.
                _ = self.ticks.next() => {}
                () = settled => {}
                () = notice(&mut self.notices.1, pause) => {}
                () = stop.cancelled() => return,
            }
            if self.rules.schedule.is_within(Timestamp::now()) {
                // What came meanwhile is seen by the poll that begins now.
                let _ = self.notices.1.try_recv();
                return;
            }
        }
    }

    /// Has the system watch the folder. Without it, as on network folders, files are found by looking.
    fn watch(&mut self) {
        let Some(folder) = self.watched.as_ref().filter(|_| self.watcher.is_none()) else { return };
        let notices = self.notices.0.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_arrival(&event)) {
                // Full means that a notice is waiting already.
                let _ = notices.try_send(());
            }
        });
        let mode = if self.rules.options.recursive { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        let watching = watcher.and_then(|mut watcher| watcher.watch(folder, mode).map(|()| watcher));
        match watching {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                // What came between the poll and now gave no notice.
                let _ = self.notices.0.try_send(());
            }
            Err(error) => {
                debug!(%error, "the system does not watch the folder; files are found by looking");
                self.watched = None;
            }
        }
    }
}

/// Waits for a notice, and then for a while: more may come.
async fn notice(notices: &mut mpsc::Receiver<()>, pause: Duration) {
    notices.recv().await;
    tokio::time::sleep(pause).await;
}

/// Whether a notice may be about a file that is complete now.
fn is_arrival(event: &notify::Event) -> bool {
    matches!(
        event.kind,
        EventKind::Create(_)
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
    ) || event.need_rescan()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::poll::tests::rules;

    #[tokio::test]
    async fn after_a_failure_it_is_polled_within_the_hours_only() {
        let hour: u32 = Timestamp::now().strftime("%H").to_string().parse().expect("a number");
        let far = (hour + 12) % 24;
        let stop = CancellationToken::new();
        let outside = format!("between = [\"{far:02}:00-{far:02}:30\"]\n");
        for (between, is_polled) in [("", true), (outside.as_str(), false)] {
            let rules = rules(&format!("every = \"1h\"\nafter = \"keep\"\n{between}"));
            let mut pace = Pace::new(&rules, None);
            let waiting = pace.wait(Next::Delay(Duration::ZERO), &stop);
            assert_eq!(timeout(Duration::from_millis(200), waiting).await.is_ok(), is_polled, "{between}");
        }
    }
}
