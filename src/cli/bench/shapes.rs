//! What is measured: one function for each shape.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use jiff::Timestamp;

use super::Failure;
use super::channels::{FILES, dead, filtering, whole, whole_file};
use super::engine::{ChannelFile, Engine};
use super::measure::{Bench, End, NullServer, Raw, Subject, load_of};
use super::message::oru;
use super::receiver::{Folder, Ledger, Receiver};
use super::report::{Ratio, Row, Section, Start};
use crate::cli::load::Load;

/// So many messages of a load are timed from end to end.
const TIMED_MESSAGES: usize = 1 << 20;
/// Connections of most shapes.
const CONNECTIONS: usize = 64;
/// Connections of the shapes that go the whole way.
const WHOLE_CONNECTIONS: usize = 32;
/// The message of most shapes.
const BYTES: usize = 1000;

/// A shape of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// 64 connections, 1 KB, everything filtered: what receiving costs
    Receive,
    /// The same over one connection
    #[value(name = "receive-1")]
    Receive1,
    /// 32 connections, ten transformer steps, two MLLP receivers
    Whole,
    /// The same with one file destination
    WholeFile,
    /// Messages of 200 B, 1 KB, 30 KB and 3 MB
    Sizes,
    /// 200 channels beside one
    Channels,
    /// 100,000 messages queued behind a dead destination, beside none
    Backlog,
    /// 1,000,000 messages in the journal, beside none, and what pruning leaves of them; takes minutes, so it runs only when it is
    /// named or with --million
    Grown,
    /// Starts after kill -9 with 1,000,000 messages, 100,000 of them queued; as `grown` only when it is named or with --million
    Restart,
}

impl Shape {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Measures it.
    pub(super) fn measure(self, bench: &Bench, null: &NullServer) -> Result<Section, Failure> {
        let (rows, ratios) = match self {
            Shape::Restart => return restart(bench, self.name()),
            Shape::Receive => receive(bench, null, "receive", CONNECTIONS, BYTES)?,
            Shape::Receive1 => receive(bench, null, "receive-1", 1, BYTES)?,
            Shape::Whole => whole_way(bench, null)?,
            Shape::WholeFile => whole_way_to_files(bench, null)?,
            Shape::Sizes => sizes(bench, null)?,
            Shape::Channels => many_channels(bench)?,
            Shape::Backlog => backlog(bench)?,
            Shape::Grown => grown(bench)?,
        };
        Ok(Section { shape: self.name(), rows, ratios, ..Section::default() })
    }
}

type Measured = (Vec<Row>, Vec<Ratio>);

/// Receiving alone.
fn receive(
    bench: &Bench,
    null: &NullServer,
    label: &str,
    connections: usize,
    bytes: usize,
) -> Result<Measured, Failure> {
    let engine = Engine::start(&bench.processes, &bench.site, label, &[filtering("receive")])?;
    let message = oru(bytes);
    let load = load_of(&message)?;
    let targets = engine.listeners();
    let mut subjects =
        [Subject::null(null, &load, connections), Subject::engine("engine", &engine, &load, targets, connections)];
    let mut raw = Raw::of(message.len(), false);
    bench.measure(&mut subjects, Some(&mut raw), None)?;
    let [null, subject] = subjects;
    let mut row = Row::of(label, connections, message.len(), &subject, &engine)?;
    let (rate, null_rate) = (subject.total.load.per_second(), null.total.load.per_second());
    let mut ratios = vec![Ratio::new(format!("{label}: messages/s, engine to null server"), rate, null_rate)];
    if connections == 1 {
        let (ack, sync) = (subject.total.load.latency.millis(50.0), raw.single.latency.millis(50.0));
        ratios.push(Ratio::new(format!("{label}: acknowledgement p50 to append + fdatasync p50"), ack, sync));
    }
    row.null = Some(null.total);
    row.raw = Some(raw);
    drop(subject);
    row.stopped(engine)?;
    Ok((vec![row], ratios))
}

fn sizes(bench: &Bench, null: &NullServer) -> Result<Measured, Failure> {
    let mut all = (Vec::new(), Vec::new());
    for (label, connections, bytes) in [
        ("200 B", CONNECTIONS, 200),
        ("1 KB", CONNECTIONS, 1000),
        ("30 KB", CONNECTIONS, 30_000),
        ("3 MB", 8, 3_000_000),
    ] {
        let (rows, ratios) = receive(bench, null, label, connections, bytes)?;
        all.0.extend(rows);
        all.1.extend(ratios);
    }
    Ok(all)
}

/// To two MLLP receivers.
fn whole_way(bench: &Bench, null: &NullServer) -> Result<Measured, Failure> {
    let message = oru(BYTES);
    let load = load_of(&message)?;
    let ledger = Ledger::new(load.clone(), TIMED_MESSAGES);
    let receivers = [Receiver::start(&ledger)?, Receiver::start(&ledger)?];
    let addresses = receivers.each_ref().map(Receiver::address);
    let channel = whole("whole", &addresses);
    let (mut row, raw, mut ratios) =
        whole_way_to(bench, null, channel, &message, (&ledger, || End::Receivers(&receivers)), false)?;
    let rate = row.total.way_per_second().unwrap_or_default();
    ratios.push(Ratio::new("whole: messages/s to 4 KiB appends + fdatasync/s", rate, raw.four_kib.per_second()));
    row.raw = Some(raw);
    Ok((vec![row], ratios))
}

/// To one file for each message.
fn whole_way_to_files(bench: &Bench, null: &NullServer) -> Result<Measured, Failure> {
    let message = oru(BYTES);
    let load = load_of(&message)?;
    let ledger = Ledger::new(load.clone(), TIMED_MESSAGES);
    let channel = whole_file("whole-file");
    let folder = Folder::watch(bench.site.join(&channel.0).join(FILES), &ledger)?;
    let (mut row, raw, mut ratios) =
        whole_way_to(bench, null, channel, &message, (&ledger, || End::Files(&folder)), true)?;
    let rate = row.total.way_per_second().unwrap_or_default();
    let files = raw.files.as_ref().map_or(0.0, super::raw::Limit::per_second);
    ratios.push(Ratio::new("whole-file: messages/s to files written + synced/s", rate, files));
    row.raw = Some(raw);
    Ok((vec![row], ratios))
}

fn whole_way_to<'a>(
    bench: &Bench,
    null: &NullServer,
    channel: ChannelFile,
    message: &[u8],
    (ledger, end): (&Arc<Ledger>, impl Fn() -> End<'a>),
    files: bool,
) -> Result<(Row, Raw, Vec<Ratio>), Failure> {
    let label = channel.0.clone();
    let engine = Engine::start(&bench.processes, &bench.site, &label, std::slice::from_ref(&channel))?;
    let load = ledger.load();
    let subject = Subject::engine("engine", &engine, load, engine.listeners(), WHOLE_CONNECTIONS).to(end(), ledger);
    let mut subjects = [Subject::null(null, load, WHOLE_CONNECTIONS), subject];
    let mut raw = Raw::of(message.len(), files);
    bench.measure(&mut subjects, Some(&mut raw), None)?;
    let [null, mut subject] = subjects;
    // At full load the queue grows as long as the load lasts, and the way with it: the latency of half of it says more.
    let rate = subject.total.way_per_second().unwrap_or_default() / 2.0;
    let steady = subject.paced(rate.max(1.0), bench.round)?;
    let mut row = Row::of(&label, WHOLE_CONNECTIONS, message.len(), &subject, &engine)?;
    row.steady = Some((rate, steady));
    let rate = subject.total.way_per_second().unwrap_or_default();
    let ratios =
        vec![Ratio::new(format!("{label}: messages/s, engine to null server"), rate, null.total.load.per_second())];
    row.null = Some(null.total);
    drop(subject);
    row.stopped(engine)?;
    Ok((row, raw, ratios))
}

/// The same load on one channel, and spread over many.
fn many_channels(bench: &Bench) -> Result<Measured, Failure> {
    let count = bench.channels;
    let one = Engine::start(&bench.processes, &bench.site, "channels-1", &[filtering("one")])?;
    let files: Vec<ChannelFile> = (1..=count).map(|number| filtering(&format!("many-{number}"))).collect();
    let many = Engine::start(&bench.processes, &bench.site, "channels-many", &files)?;
    let idle_kib = many.usage()?.resident_kib;
    let load = load_of(&oru(BYTES))?;
    let subjects = [
        Subject::engine("one channel", &one, &load, one.listeners(), count),
        Subject::engine("many channels", &many, &load, many.listeners(), count),
    ];
    let names = ["1 channel".to_owned(), format!("{count} channels")];
    let (mut rows, ratios) = compare(bench, subjects, [&one, &many], &names, count, None)?;
    rows[1].idle_kib = Some(idle_kib);
    stop(rows, ratios, [one, many])
}

/// Receiving beside a queue that does not move, and without one.
fn backlog(bench: &Bench) -> Result<Measured, Failure> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let files = [filtering("beside"), dead("dead", nobody)];
    let empty = Engine::start(&bench.processes, &bench.site, "backlog-none", &files)?;
    let full = Engine::start(&bench.processes, &bench.site, "backlog-full", &files)?;
    let load = load_of(&oru(BYTES))?;
    Subject::engine("backlog", &full, &load, vec![full.listener("dead")], CONNECTIONS)
        .fill(bench.backlog, Some("dead"))?;
    let subject =
        |engine| Subject::engine("beside", engine, &load, vec![Engine::listener(engine, "beside")], CONNECTIONS);
    let names = ["nothing queued".to_owned(), format!("{} queued", bench.backlog)];
    let subjects = [subject(&empty), subject(&full)];
    let (rows, ratios) = compare(bench, subjects, [&empty, &full], &names, CONNECTIONS, Some("dead"))?;
    stop(rows, ratios, [empty, full])
}

/// Receiving into a journal that holds much, and into an empty one.
fn grown(bench: &Bench) -> Result<Measured, Failure> {
    let files = [filtering("receive")];
    let empty = Engine::start(&bench.processes, &bench.site, "grown-empty", &files)?;
    let full = Engine::start(&bench.processes, &bench.site, "grown-full", &files)?;
    let load = load_of(&oru(BYTES))?;
    let subject = |engine| Subject::engine("receive", engine, &load, Engine::listeners(engine), CONNECTIONS);
    let mut subjects = [subject(&empty), subject(&full)];
    subjects[1].fill(bench.grown, None)?;
    let names = ["empty journal".to_owned(), format!("{} messages", bench.grown)];
    let (rows, mut ratios) = compare(bench, subjects, [&empty, &full], &names, CONNECTIONS, None)?;
    ratios.push(pruned_to_a_tenth(&full, &load)?);
    stop(rows, ratios, [empty, full])
}

/// A tenth more comes in, and what was there before is removed.
fn pruned_to_a_tenth(engine: &Engine, load: &Arc<Load>) -> Result<Ratio, Failure> {
    let count = |engine: &Engine| Ok::<u64, Failure>(engine.all_states()?.values().sum());
    let (before, old) = (Timestamp::now(), count(engine)?);
    Subject::engine("receive", engine, load, engine.listeners(), CONNECTIONS).fill(old.div_ceil(9), None)?;
    let (all, bytes) = (count(engine)?, engine.disk_bytes());
    engine.prune(before)?;
    let left = bytes as f64 * old.div_ceil(9) as f64 / all as f64;
    Ok(Ratio::new("pruned to a tenth: bytes on the disk to a tenth of those before", engine.disk_bytes() as f64, left))
}

/// Starts on a journal of many messages, of which many are queued.
fn restart(bench: &Bench, shape: String) -> Result<Section, Failure> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let files = [filtering("receive"), dead("dead", nobody)];
    let start = || Engine::start(&bench.processes, &bench.site, &shape, &files);
    let load = load_of(&oru(BYTES))?;
    let mut engine = start()?;
    for (channel, count) in [("dead", bench.backlog), ("receive", bench.grown.saturating_sub(bench.backlog))] {
        let to = vec![engine.listener(channel)];
        Subject::engine(channel, &engine, &load, to, CONNECTIONS).fill(count, Some("dead"))?;
    }
    let mut starts = Vec::new();
    for label in ["kill -9", "kill -9, and its index was removed"] {
        let folder = engine.folder().to_owned();
        // What a process leaves behind that is dropped here is what kill -9 leaves.
        drop(engine);
        if !starts.is_empty() {
            std::fs::remove_dir_all(folder.join("data/index"))?;
        }
        let began = Instant::now();
        engine = start()?;
        let ready_after = began.elapsed();
        starts.push(Start {
            label: label.to_owned(),
            ready_after,
            usage: engine.usage()?,
            states: engine.all_states()?,
        });
    }
    let folder = engine.folder().to_owned();
    engine.stop()?;
    std::fs::remove_dir_all(folder)?;
    Ok(Section { shape, starts, ..Section::default() })
}

/// Two engines in turns, and the second's figures to the first's.
fn compare(
    bench: &Bench,
    mut subjects: [Subject<'_>; 2],
    engines: [&Engine; 2],
    names: &[String; 2],
    connections: usize,
    keeps: Option<&str>,
) -> Result<Measured, Failure> {
    bench.measure(&mut subjects, None, keeps)?;
    let mut rows = Vec::new();
    for ((name, subject), engine) in names.iter().zip(&subjects).zip(engines) {
        rows.push(Row::of(name, connections, oru(BYTES).len(), subject, engine)?);
    }
    let [base, other] = subjects.map(|subject| subject.total);
    let [base_name, other_name] = names;
    let to = format!("{other_name} to {base_name}");
    let ratios = vec![
        Ratio::new(format!("{to}: messages/s"), other.load.per_second(), base.load.per_second()),
        Ratio::new(format!("{to}: CPU per message"), other.cpu_micros(), base.cpu_micros()),
    ];
    Ok((rows, ratios))
}

fn stop(mut rows: Vec<Row>, ratios: Vec<Ratio>, engines: [Engine; 2]) -> Result<Measured, Failure> {
    for (row, engine) in rows.iter_mut().zip(engines) {
        row.stopped(engine)?;
    }
    Ok((rows, ratios))
}
