//! The command line: one file for each command. The only place that prints.

mod actions;
mod bench;
mod channels;
mod check;
mod client;
mod demo;
mod journal;
mod key;
mod load;
mod logs;
mod messages;
mod run;
mod send;
mod test;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: done; the answer is yes.
    Done,
    /// 1: the answer is no: a check or a test failed, something was not found, the engine stopped with an error.
    No,
    /// 2: wrong usage. clap uses the same code.
    Usage,
    /// 3: the engine could not be reached.
    Unreachable,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(match code {
            ExitCode::Done => 0,
            ExitCode::No => 1,
            ExitCode::Usage => 2,
            ExitCode::Unreachable => 3,
        })
    }
}

/// The interface engine for clinical laboratories.
#[derive(Debug, Parser)]
#[command(name = "labwire", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the engine; ends on SIGTERM or Ctrl-C without losing anything
    Run(run::Run),
    /// Show Labwire at work in a temporary folder: events and messages through three channels, with a partner of its own
    Demo(demo::Demo),
    /// Check channel files; draws every mistake in its line
    Check(check::Check),
    /// Run the `[[test]]` tables of channel files
    Test(test::Test),
    /// Send HL7 messages over MLLP and show the acknowledgements
    Send(send::Send),
    /// Measure the engine on this machine and disk, beside what they can do without it
    Bench(bench::Bench),
    /// Look at and act on the messages of a running engine
    #[command(subcommand)]
    Messages(messages::Messages),
    /// Look after the journal: what is in it, whether it is sound, old messages, backups
    #[command(subcommand)]
    Journal(journal::Journal),
    /// Show the channels of a running engine; start, stop, pause or resume one
    Channels(channels::Channels),
    /// List the actions, and the channels bound to them
    Actions(actions::Actions),
    /// Make what logins need
    #[command(subcommand)]
    Key(key::Key),
    /// Print the JSON Schema of channel files, or their options as tables
    Schema {
        /// How to print
        #[arg(long, value_enum, default_value_t = SchemaFormat::Json)]
        format: SchemaFormat,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How to print what channel files may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaFormat {
    /// JSON Schema, for editors.
    Json,
    /// Tables in Markdown, for people: `docs/options.md`.
    Markdown,
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Send(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Messages(command) => command.run(),
        Command::Journal(command) => command.run(),
        Command::Channels(command) => command.run(),
        Command::Actions(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Schema { format: SchemaFormat::Json } => print_json(&crate::channel::json_schema()),
        Command::Schema { format: SchemaFormat::Markdown } => {
            print(&crate::channel::options_in_markdown());
            ExitCode::Done
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "labwire", &mut script);
            print(&String::from_utf8_lossy(&script));
            ExitCode::Done
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn print_line(line: &str) {
    print(&format!("{line}\n"));
}

fn print_json<T: serde::Serialize>(value: &T) -> ExitCode {
    print_line(&serde_json::to_string_pretty(value).expect("our own values are JSON"));
    ExitCode::Done
}

/// Says what went wrong, on standard error.
fn complain(message: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "labwire: {message}");
}

/// Whether there is a terminal with somebody to ask.
fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && stderr_is_terminal()
}

/// Asks, on standard error: standard output is for what was done.
fn confirmed(what: &str) -> bool {
    let mut out = io::stderr().lock();
    let _ = write!(out, "{what}? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES")
}

/// Whether output may be coloured: on a terminal, unless `NO_COLOR` is set (no-color.org).
fn colour_of(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The runtime of a command that needs one. Two threads at least: one may wait for the disk for a moment.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// The channel files that a command works on when none are named.
fn default_channels() -> Vec<PathBuf> {
    vec![PathBuf::from("channels")]
}

/// A mistyped path must not look like channel files without mistakes.
fn no_channel_files(paths: &[PathBuf]) -> ExitCode {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    complain(format!("no channel files in {}", paths.join(", ")));
    ExitCode::Usage
}

fn stdout_colour() -> bool {
    colour_of(&io::stdout())
}

fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}
