//! `labwire journal`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::client::Client;
use super::{ExitCode, OutputFormat, complain, confirmed, print_json, print_line, somebody_is_there};
use crate::config::{ByteSize, Duration};
use crate::journal::{self, Backup, JournalError, Pruned};
use crate::server::JournalView;

#[derive(Debug, Subcommand)]
pub(super) enum Journal {
    /// Show how much is in the journal of a running engine
    Stats(Stats),
    /// Look at every byte of a journal, also beside a running engine; changes nothing
    Verify(Verify),
    /// Have a running engine remove old messages, or only their content, and give the space back: never what is unsent or parked
    Prune(Prune),
    /// Have a running engine copy its journal into a new folder, while it works
    Backup(BackUp),
    /// Make a backup the journal of an engine that does not run yet
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Stats {
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Folder of the journal
    #[arg(long, default_value = "data", env = "LABWIRE_DATA")]
    data: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(super) struct Prune {
    #[command(flatten)]
    what: What,
    /// Remove the content only: states, references, attempts, and who did what and why, stay
    #[arg(long, conflicts_with = "free")]
    content: bool,
    /// Say what would be removed, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask first
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// What was received before this time (2026-01-15T10:30:00Z)
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    /// What was received longer ago than this ("30d")
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// The oldest, until so much space was given back ("2GiB"): first their content, and all of them only if that is not enough
    #[arg(long, value_name = "SIZE", value_parser = size)]
    free: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(super) struct BackUp {
    /// A folder on the engine's machine that is not there yet
    to: PathBuf,
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    from: PathBuf,
    /// Folder of the journal, which is not there yet
    #[arg(long, default_value = "data", env = "LABWIRE_DATA")]
    data: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text).ok_or_else(|| "write a whole number and s, m, h or d, as in 30d".to_owned())
}

fn size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).ok_or_else(|| "write a whole number and MiB or GiB, as in 2GiB".to_owned())
}

impl Journal {
    pub(super) fn run(self) -> ExitCode {
        let result = match &self {
            Journal::Stats(command) => command.run(),
            Journal::Verify(command) => command.run(),
            Journal::Prune(command) => command.run(),
            Journal::Backup(command) => command.run(),
            Journal::Restore(command) => command.run(),
        };
        result.unwrap_or_else(|code| code)
    }
}

impl Stats {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let view: JournalView = self.client.get("/journal", &[])?;
        if self.format == OutputFormat::Json {
            return Ok(print_json(&view));
        }
        let stats = view.stats;
        print_line(&format!("{} segments, {} on the disk", stats.segments, mebibytes(stats.disk_bytes)));
        if stats.stripped_segments > 0 {
            print_line(&format!(
                "{} of the segments hold metadata only, and what is unsent or parked: {}",
                stats.stripped_segments,
                mebibytes(stats.stripped_bytes)
            ));
        }
        print_line(&format!(
            "since the start: {} records, {}, {} syncs",
            stats.appended,
            mebibytes(stats.bytes),
            stats.syncs
        ));
        print_line(match view.room {
            journal::Room::Enough => "there is room on the disk",
            journal::Room::Low => "the disk is filling up: files are left where they are",
            journal::Room::Full => "the disk is nearly full: nothing is taken in",
        });
        view.damage.iter().for_each(|damage| print_line(damage));
        Ok(ExitCode::Done)
    }
}

impl Verify {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let mut damage = Vec::new();
        let as_text = self.format == OutputFormat::Text;
        let mut tell = |what: &str| {
            if as_text {
                print_line(what);
            }
            damage.push(what.to_owned());
        };
        let found = journal::verify(&self.data, &mut tell).map_err(failed)?;
        if as_text {
            print_line(&format!(
                "{} segments{}, {} records, {} messages, {}: {}",
                found.segments,
                match found.stripped_segments {
                    0 => String::new(),
                    stripped => format!(" ({stripped} without content, whose time was over)"),
                },
                found.records,
                found.messages,
                mebibytes(found.bytes),
                if found.damage == 0 { "all sound".to_owned() } else { format!("{} places are damaged", found.damage) }
            ));
        } else {
            let mut answer = json!(found);
            answer["damage"] = json!(damage);
            print_json(&answer);
        }
        Ok(if found.damage == 0 { ExitCode::Done } else { ExitCode::No })
    }
}

impl Prune {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let (mut request, what) = match (&self.what.before, &self.what.older_than, &self.what.free) {
            (Some(before), ..) => (json!({ "before": before }), format!("what was received before {before}")),
            (_, Some(age), _) => {
                let age = SignedDuration::try_from(age.get()).unwrap_or(SignedDuration::MAX);
                let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
                (json!({ "before": before }), format!("what was received before {before}"))
            }
            (.., free) => {
                let bytes = free.map_or(0, ByteSize::bytes);
                (json!({ "bytes": bytes }), format!("the oldest {}", mebibytes(bytes as u64)))
            }
        };
        let what = if self.content { format!("the content of {what}") } else { what };
        (request["content"], request["dry_run"]) = (json!(self.content), json!(self.dry_run));
        if !self.yes && !self.dry_run && somebody_is_there() && !confirmed(&format!("remove {what}, for good")) {
            complain("nothing was done");
            return Ok(ExitCode::No);
        }
        let pruned: Pruned = self.client.post("/journal/prune", &request)?;
        if self.format == OutputFormat::Json {
            return Ok(print_json(&pruned));
        }
        let contents = match pruned.stripped_messages {
            0 if !self.content => String::new(),
            contents => format!("the content of {contents} messages removed; "),
        };
        print_line(&format!(
            "{}{contents}{} messages removed, {} kept because they are not finished; {} given back",
            if self.dry_run { "nothing was done; it would be: " } else { "" },
            pruned.messages,
            pruned.carried,
            mebibytes(pruned.bytes)
        ));
        Ok(ExitCode::Done)
    }
}

impl BackUp {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        // The engine runs in another folder.
        let folder = std::path::absolute(&self.to).map_err(|error| {
            complain(format!("{}: {error}", self.to.display()));
            ExitCode::Usage
        })?;
        let backup: Backup = self.client.post("/journal/backup", &json!({ "folder": folder }))?;
        Ok(report_copy(&backup, &folder, self.format))
    }
}

impl Restore {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let backup = journal::restore(&self.from, &self.data).map_err(failed)?;
        Ok(report_copy(&backup, &self.data, self.format))
    }
}

fn report_copy(backup: &Backup, folder: &Path, format: OutputFormat) -> ExitCode {
    if format == OutputFormat::Json {
        return print_json(backup);
    }
    print_line(&format!("{} segments, {} in {}", backup.segments, mebibytes(backup.bytes), folder.display()));
    ExitCode::Done
}

fn failed(error: JournalError) -> ExitCode {
    complain(error);
    ExitCode::No
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
