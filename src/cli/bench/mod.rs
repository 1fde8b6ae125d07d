//! `labwire bench`: what the engine does on this machine and this disk, beside what the disk and a server that only acknowledges
//! do in the same run.
//!
//! The engine is a process of its own (`labwire run` on a folder of channel files); the load and the receivers are in this one,
//! so that one clock sees both ends of a message's way. What is compared is measured in turns: what else the machine does at
//! the time meets all of it, so the ratios hold where the figures do not.

mod channels;
mod engine;
mod measure;
mod message;
mod null_server;
mod process;
mod raw;
mod receiver;
mod report;
mod shapes;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use self::measure::{Bench as Measuring, NullServer};
use self::process::Processes;
use self::report::{Look, Section};
use self::shapes::Shape;
use super::{ExitCode, complain, print, print_json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    /// What to measure: everything but `grown` and `restart`, if nothing is named
    #[arg(value_name = "SHAPE")]
    shapes: Vec<Shape>,
    /// How long to measure for each figure, in seconds
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Only see that everything works: a fraction of a second each, few channels and messages
    #[arg(long)]
    quick: bool,
    /// Measure `grown` and `restart`, too, with a million messages in the journal
    #[arg(long)]
    million: bool,
    /// A folder on the disk to be measured; what is made there is removed at the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Parts of the benchmark that are processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Acknowledge everything and do nothing else, until standard input ends
    #[command(hide = true)]
    NullServer,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For documentation.
    Markdown,
}

impl Bench {
    pub(super) fn run(self) -> ExitCode {
        if let Some(Part::NullServer) = self.part {
            return null_server::run();
        }
        let site = match tempfile::Builder::new().prefix("labwire-bench-").tempdir_in(&self.data) {
            Ok(site) => site,
            Err(error) => {
                complain(format!("--data {}: {error}", self.data.display()));
                return ExitCode::Usage;
            }
        };
        let processes = Processes::new();
        let measuring = self.measuring(site.path().to_owned(), processes.clone());
        let shapes = self.shapes();
        let result = super::runtime().map_err(Failure::from).and_then(|runtime| {
            let result = runtime.block_on(until_signal(move || measure(&measuring, &shapes)));
            // Before the folder goes, also when the measuring goes on for a moment in a thread of its own.
            processes.kill();
            runtime.shutdown_background();
            result
        });
        match result {
            Ok(sections) => self.show(&sections),
            Err(error) => {
                complain(error);
                ExitCode::No
            }
        }
    }

    fn shapes(&self) -> Vec<Shape> {
        let all = Shape::value_variants().iter().copied();
        let wanted = |shape: &Shape| match shape {
            Shape::Grown | Shape::Restart => self.million || self.shapes.contains(shape),
            shape => self.shapes.is_empty() || self.shapes.contains(shape),
        };
        all.filter(wanted).collect()
    }

    fn measuring(&self, site: PathBuf, processes: Processes) -> Measuring {
        // A disk that others use has good and bad seconds: many short turns, so that each side gets its share of both.
        const ROUNDS: u32 = 6;
        let full = Measuring {
            site,
            processes,
            rounds: ROUNDS,
            round: Duration::from_secs(self.seconds) / ROUNDS,
            most: u64::MAX,
            warm_up: 2000,
            channels: 200,
            backlog: 100_000,
            grown: 1_000_000,
        };
        if !self.quick {
            return full;
        }
        let round = Duration::from_millis(200);
        Measuring { rounds: 1, round, most: 300, warm_up: 20, channels: 20, backlog: 500, grown: 1000, ..full }
    }

    /// Done when every message was accepted and arrived: slow is no mistake.
    fn show(&self, sections: &[Section]) -> ExitCode {
        let seconds = if self.quick { 0.2 } else { self.seconds as f64 };
        match self.format {
            Format::Json => {
                print_json(&report::json_of(sections, seconds));
            }
            Format::Text => print(&report::tables_of(sections, seconds, Look::Text)),
            Format::Markdown => print(&report::tables_of(sections, seconds, Look::Markdown)),
        }
        let whole = sections.iter().flat_map(|section| &section.rows).all(report::Row::is_whole);
        if whole { ExitCode::Done } else { ExitCode::No }
    }
}

fn measure(bench: &Measuring, shapes: &[Shape]) -> Result<Vec<Section>, Failure> {
    let null = NullServer::start(&bench.processes)?;
    shapes.iter().map(|shape| shape.measure(bench, &null).map_err(|error| failed(*shape, &error))).collect()
}

fn failed(shape: Shape, error: &Failure) -> Failure {
    format!("{}: {error}", shape.name()).into()
}

/// Does the work on a thread of its own, unless somebody wants it to end first.
async fn until_signal(
    work: impl FnOnce() -> Result<Vec<Section>, Failure> + Send + 'static,
) -> Result<Vec<Section>, Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        result = tokio::task::spawn_blocking(work) => result?,
        _ = terminate.recv() => Err("told to end".into()),
        _ = interrupt.recv() => Err("told to end".into()),
    }
}
