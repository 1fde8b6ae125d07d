//! Putting load on the engine and on what it is compared with, in turns, so that what else the machine does meets all of them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use super::engine::Engine;
use super::process::{Process, Processes};
use super::raw::{Limit, group_of};
use super::receiver::{Arrivals, Folder, Ledger, Receiver};
use crate::cli::load::{Load, Outcome, Plan, Progress, Template};

/// No acknowledgement of a benchmark takes so long unless something is broken.
const TIMEOUT: Duration = Duration::from_secs(30);
const FOUR_KIB: usize = 4096;

/// How much is measured, and where.
pub(super) struct Bench {
    /// A folder on the disk that is measured.
    pub(super) site: PathBuf,
    pub(super) processes: Processes,
    /// So many turns …
    pub(super) rounds: u32,
    /// … of so long …
    pub(super) round: Duration,
    /// … or of so many messages.
    pub(super) most: u64,
    /// Messages before the first turn: connections, caches and the allocator come to rest.
    pub(super) warm_up: u64,
    /// Channels of the shape `channels`.
    pub(super) channels: usize,
    /// Messages queued in the shape `backlog`.
    pub(super) backlog: u64,
    /// Messages kept in the shape `grown`.
    pub(super) grown: u64,
}

/// The server that only acknowledges.
pub(super) struct NullServer {
    _process: Process,
    address: String,
}

impl NullServer {
    pub(super) fn start(processes: &Processes) -> Result<NullServer, Failure> {
        let mut address = String::new();
        let mut command = Command::new(std::env::current_exe()?);
        // It ends with its standard input, which is ours.
        command.args(["bench", "null-server"]).stdin(Stdio::piped());
        let process = processes.start(&mut command, |line| {
            line.strip_prefix("listens on ").inspect(|found| address = (*found).to_owned()).is_some()
        })?;
        Ok(NullServer { _process: process, address })
    }
}

/// Where messages end.
pub(super) enum End<'a> {
    /// In the journal.
    Journal,
    /// At receivers, every message at each.
    Receivers(&'a [Receiver]),
    /// As files in a folder.
    Files(&'a Folder),
}

/// Something under load.
pub(super) struct Subject<'a> {
    name: String,
    load: Arc<Load>,
    plan: Plan,
    engine: Option<&'a Engine>,
    end: End<'a>,
    ledger: Option<Arc<Ledger>>,
    /// The measured turns.
    pub(super) total: Total,
    /// These and everything else that was sent: warm-up, backlog.
    pub(super) in_all: Total,
}

/// What came of one or more turns.
#[derive(Default, Clone)]
pub(super) struct Total {
    pub(super) load: Outcome,
    /// CPU time of the engine until it came to rest.
    pub(super) cpu: Duration,
    /// Until the last message had arrived.
    pub(super) way: Duration,
    /// At each end.
    pub(super) arrivals: Vec<Arrivals>,
}

impl Total {
    fn add(&mut self, other: &Total) {
        self.load.add(&other.load);
        self.cpu += other.cpu;
        self.way += other.way;
        self.arrivals.resize(other.arrivals.len().max(self.arrivals.len()), Arrivals::default());
        for (mine, theirs) in self.arrivals.iter_mut().zip(&other.arrivals) {
            mine.add(theirs);
        }
    }

    /// Accepted messages a second that came to their end; none when they end in the journal.
    pub(super) fn way_per_second(&self) -> Option<f64> {
        (!self.arrivals.is_empty()).then(|| self.load.accepted as f64 / self.way.as_secs_f64().max(1e-9))
    }

    /// CPU time of the engine for each accepted message, in microseconds.
    pub(super) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.load.accepted.max(1) as f64
    }
}

/// Copies of one message.
pub(super) fn load_of(message: &[u8]) -> Result<Arc<Load>, Failure> {
    Ok(Arc::new(Load::new(vec![Template::new(message)?])))
}

impl<'a> Subject<'a> {
    fn new(name: &str, load: &Arc<Load>, targets: Vec<String>, connections: usize) -> Subject<'a> {
        let plan = Plan { targets, connections, count: u64::MAX, lasts: None, rate: None, timeout: TIMEOUT };
        Subject {
            name: name.to_owned(),
            load: load.clone(),
            plan,
            engine: None,
            end: End::Journal,
            ledger: None,
            total: Total::default(),
            in_all: Total::default(),
        }
    }

    /// The null server.
    pub(super) fn null(server: &NullServer, load: &Arc<Load>, connections: usize) -> Subject<'a> {
        Subject::new("null server", load, vec![server.address.clone()], connections)
    }

    /// A channel of an engine, whose messages end in the journal.
    pub(super) fn engine(
        name: &str,
        engine: &'a Engine,
        load: &Arc<Load>,
        targets: Vec<String>,
        connections: usize,
    ) -> Subject<'a> {
        Subject { engine: Some(engine), ..Subject::new(name, load, targets, connections) }
    }

    /// The same, whose messages go on from there.
    pub(super) fn to(self, end: End<'a>, ledger: &Arc<Ledger>) -> Subject<'a> {
        Subject { end, ledger: Some(ledger.clone()), ..self }
    }

    /// One turn, until everything has come to rest. `keeps` names a channel whose deliveries may stay queued.
    fn turn(&mut self, plan: &Plan, label: &str, keeps: Option<&str>) -> Result<Total, Failure> {
        let cpu = self.cpu()?;
        let ledger = self.ledger.clone();
        let count = Some(plan.count).filter(|count| *count < u64::MAX);
        let mut progress = Progress::bar(&format!("{label} {} ", self.name), count, plan.lasts);
        let began = Instant::now();
        let load = self.load.run(plan, &mut progress, &|number, at| {
            if let Some(ledger) = &ledger {
                ledger.note(number, at);
            }
        })?;
        if let Some(engine) = self.engine {
            engine.drain(load.accepted, |name| Some(name) == keeps)?;
        }
        let arrivals = self.arrivals()?;
        let last = arrivals.iter().filter_map(|arrivals| arrivals.last).max();
        let way = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(began));
        let total = Total { load, cpu: self.cpu()?.saturating_sub(cpu), way, arrivals };
        self.in_all.add(&total);
        Ok(total)
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.engine.map_or(Ok(Duration::ZERO), |engine| engine.usage().map(|usage| usage.cpu))
    }

    fn arrivals(&self) -> Result<Vec<Arrivals>, Failure> {
        Ok(match &self.end {
            End::Receivers(receivers) => receivers.iter().map(Receiver::take).collect(),
            End::Files(folder) => vec![folder.take()?],
            End::Journal => Vec::new(),
        })
    }

    /// Sends so many messages, outside of what is measured.
    pub(super) fn fill(&mut self, count: u64, keeps: Option<&str>) -> Result<(), Failure> {
        let plan = Plan { count, ..self.plan.clone() };
        self.turn(&plan, "filling", keeps).map(drop)
    }

    /// Sends at a steady rate, outside of what is measured; gives what arrived.
    pub(super) fn paced(&mut self, rate: f64, lasts: Duration) -> Result<Total, Failure> {
        let plan = Plan { rate: Some(rate), lasts: Some(lasts), ..self.plan.clone() };
        self.turn(&plan, "steady", None)
    }
}

/// The disk's limits for messages of a size.
#[derive(Default, Clone)]
pub(super) struct Raw {
    /// Messages in a group.
    pub(super) group: usize,
    /// Groups.
    pub(super) grouped: Limit,
    /// Single messages.
    pub(super) single: Limit,
    /// 4 KiB.
    pub(super) four_kib: Limit,
    /// Files of a message each; only where messages end as files.
    pub(super) files: Option<Limit>,
    bytes: usize,
}

impl Raw {
    pub(super) fn of(message_bytes: usize, files: bool) -> Raw {
        let files = files.then(Limit::default);
        Raw { group: group_of(message_bytes), bytes: message_bytes, files, ..Raw::default() }
    }

    fn turn(&mut self, bench: &Bench) -> Result<(), Failure> {
        // Enough to see the disk, and not so long that the messages have to wait for it.
        let lasts = bench.round / 3;
        self.grouped.append(&bench.site, self.group * self.bytes, lasts)?;
        self.single.append(&bench.site, self.bytes, lasts)?;
        self.four_kib.append(&bench.site, FOUR_KIB, lasts)?;
        if let Some(files) = &mut self.files {
            let folder = bench.site.join("limit");
            std::fs::create_dir_all(&folder)?;
            files.files(&folder, self.bytes, lasts)?;
        }
        Ok(())
    }
}

impl Bench {
    /// Warms all subjects up, then measures them and the disk in turns. A channel of the name `keeps` may stay full.
    pub(super) fn measure(
        &self,
        subjects: &mut [Subject<'_>],
        mut raw: Option<&mut Raw>,
        keeps: Option<&str>,
    ) -> Result<(), Failure> {
        for subject in &mut *subjects {
            let count = self.warm_up.max(2 * subject.plan.connections as u64);
            let plan = Plan { count, ..subject.plan.clone() };
            subject.turn(&plan, "warm-up", keeps)?;
        }
        for round in 1..=self.rounds {
            if let Some(raw) = &mut raw {
                raw.turn(self)?;
            }
            for subject in &mut *subjects {
                let plan = Plan { lasts: Some(self.round), count: self.most, ..subject.plan.clone() };
                let turn = subject.turn(&plan, &format!("{round}/{}", self.rounds), keeps)?;
                subject.total.add(&turn);
            }
        }
        Ok(())
    }
}
