//! `labwire actions`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{ExitCode, OutputFormat, print_json, print_line};
use crate::action::ACTIONS;
use crate::channel;

#[derive(Debug, Args)]
pub(super) struct Actions {
    /// Folder of channel files, to show which are bound to each action
    #[arg(long, default_value = "channels", env = "LABWIRE_CHANNELS")]
    channels: PathBuf,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

impl Actions {
    pub(super) fn run(self) -> ExitCode {
        let set = channel::load_folder(&self.channels).unwrap_or_default();
        let mut bound: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for spec in &set.channels {
            if let Some(action) = spec.action {
                bound.entry(action).or_default().push(spec.name.to_string());
            }
        }
        let channels = |id: u16| bound.get(&id).cloned().unwrap_or_default();
        if self.format == OutputFormat::Json {
            let rows: Vec<_> = ACTIONS
                .iter()
                .map(|action| {
                    let mut row = json!(action);
                    row["channels"] = json!(channels(action.id));
                    row
                })
                .collect();
            return print_json(&json!({ "actions": rows }));
        }
        print_line(&format!("{:>3}  {:<48} {:<20} channels", "id", "action", "family"));
        for action in ACTIONS {
            let line = format!(
                "{:>3}  {:<48} {:<20} {}",
                action.id,
                action.name,
                action.family,
                channels(action.id).join(", ")
            );
            print_line(line.trim_end());
        }
        ExitCode::Done
    }
}
