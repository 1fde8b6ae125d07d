//! `labwire actions`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{ExitCode, OutputFormat, complain, print_json, print_line};
use crate::action::ACTIONS;
use crate::channel;

#[derive(Debug, Args)]
pub(super) struct Actions {
    /// Folder of channel files, to show which are bound to each action [default: channels, if it is there]
    #[arg(long, env = "LABWIRE_CHANNELS")]
    channels: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

impl Actions {
    pub(super) fn run(self) -> ExitCode {
        let set = match &self.channels {
            None => channel::load_folder(Path::new("channels")).unwrap_or_default(),
            Some(folder) => match channel::load_folder(folder) {
                Ok(set) => set,
                Err(error) => {
                    complain(error);
                    return ExitCode::Usage;
                }
            },
        };
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
