//! `labwire channels`.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use super::{ExitCode, OutputFormat, print_json, print_line};
use crate::channel::{HeldBy, State};
use crate::server::{ChannelView, LaneView};

#[derive(Debug, Args)]
pub(super) struct Channels {
    #[command(flatten)]
    client: Client,
    #[command(subcommand)]
    verb: Option<ChannelVerb>,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text, global = true)]
    format: OutputFormat,
}

#[derive(Debug, Subcommand)]
enum ChannelVerb {
    /// Take messages in and send them
    Start {
        /// The channel
        name: String,
    },
    /// Do nothing; what waits, waits
    Stop {
        /// The channel
        name: String,
    },
    /// Take nothing in; what was taken in is still sent
    Pause {
        /// The channel
        name: String,
    },
    /// Take messages in again
    Resume {
        /// The channel
        name: String,
    },
}

#[derive(Deserialize)]
struct Listed {
    channels: Vec<ChannelView>,
    diagnostics: Vec<String>,
    orphans: Vec<String>,
    warnings: Vec<String>,
}

impl Channels {
    pub(super) fn run(self) -> ExitCode {
        let listed = match &self.verb {
            None => self.client.get::<Listed>("/channels", &[]),
            Some(verb) => self.command(verb).map(|view| Listed {
                channels: vec![view],
                diagnostics: Vec::new(),
                orphans: Vec::new(),
                warnings: Vec::new(),
            }),
        };
        match listed {
            Ok(listed) if self.format == OutputFormat::Json => {
                let Listed { channels, diagnostics, orphans, warnings } = listed;
                print_json(&json!({
                    "channels": channels, "diagnostics": diagnostics, "orphans": orphans, "warnings": warnings,
                }))
            }
            Ok(listed) => {
                listed.channels.iter().for_each(show);
                for diagnostic in &listed.diagnostics {
                    print_line(&format!("mistake: {diagnostic}"));
                }
                for orphan in &listed.orphans {
                    print_line(&format!("waiting without an owner: {orphan}"));
                }
                for warning in &listed.warnings {
                    print_line(&format!("warning: {warning}"));
                }
                ExitCode::Done
            }
            Err(code) => code,
        }
    }

    fn command(&self, verb: &ChannelVerb) -> Result<ChannelView, ExitCode> {
        let (word, name) = match verb {
            ChannelVerb::Start { name } => ("start", name),
            ChannelVerb::Stop { name } => ("stop", name),
            ChannelVerb::Pause { name } => ("pause", name),
            ChannelVerb::Resume { name } => ("resume", name),
        };
        self.client.post(&format!("/channels/{name}/{word}"), &json!({}))
    }
}

fn show(view: &ChannelView) {
    let state = match &view.state {
        State::Running => "running".to_owned(),
        State::Paused => "paused".to_owned(),
        State::Stopped => "stopped".to_owned(),
        State::Failed { reason } => format!("failed: {reason}"),
    };
    let address = view.listens_on.map_or(String::new(), |address| format!(" on {address}"));
    print_line(&format!("{}  {state}  ({}{address})", view.name, view.source));
    if let Some(error) = &view.source_error {
        print_line(&format!("    <- {error}"));
    }
    let counters = &view.counters;
    print_line(&format!(
        "    received {}, rejected {}, filtered {}, errored {}, sent {}, retried {}, dead {}",
        counters.received,
        counters.rejected,
        counters.filtered,
        counters.errored,
        counters.sent,
        counters.retried,
        counters.dead
    ));
    view.lanes.iter().for_each(|lane| print_line(&shown(lane)));
}

/// A lane in one line: how much waits, and for what.
fn shown(lane: &LaneView) -> String {
    let LaneView { status, depth } = lane;
    let mut line = format!("    -> {} ({}): {} waiting", status.destination, status.kind, depth.waiting);
    if let Some(oldest) = depth.oldest {
        line += &format!(", the oldest since {oldest}");
    }
    let since = |held: &HeldBy| held.since.map_or(String::new(), |since| format!(" since {since}"));
    if let Some(held) = &status.blocked_by {
        line += &format!("; blocked by the dead letter {}{}: retry or cancel it", held.message, since(held));
    }
    if let Some(held) = status.held_by.first() {
        let keys = if status.held_keys == 1 { "key is" } else { "keys are" };
        let (count, message) = (status.held_keys, held.message);
        line += &format!("; {count} {keys} held by dead letters, first {message}{}: retry or cancel it", since(held));
    }
    if let Some(since) = &status.down_since {
        line += &format!("; {} since {since}", if status.paused { "paused" } else { "down" });
    }
    if let Some(next_try) = &status.next_try {
        line += &format!("; next try {next_try}");
    }
    if let Some(error) = &status.error {
        line += &format!("; {}{error}", if status.paused && status.down_since.is_none() { "paused: " } else { "" });
    }
    line
}
