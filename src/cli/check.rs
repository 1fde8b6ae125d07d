//! `labwire check`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{ExitCode, OutputFormat, colour_of, complain, default_channels, print, print_json, print_line};
use crate::channel;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Channel files, or folders of them [default: channels]
    paths: Vec<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let paths = if self.paths.is_empty() { default_channels() } else { self.paths };
        let mut set = match channel::load_paths(&paths) {
            Ok(set) => set,
            Err(error) => {
                complain(error);
                return ExitCode::Usage;
            }
        };
        if set.files.is_empty() {
            return super::no_channel_files(&paths);
        }
        channel::check_tests(&mut set);
        channel::check_secrets(&mut set);
        let (files, mistakes) = (set.files.len(), set.diagnostics.len());
        let now = Timestamp::now();
        let warnings_of = |spec: &channel::ChannelSpec| {
            let file = spec.file.name.clone();
            spec.warnings(now).into_iter().map(move |warning| (file.clone(), warning))
        };
        // Of a file with mistakes they would say the same again.
        let is_clean =
            |spec: &&channel::ChannelSpec| set.diagnostics.iter().all(|found| found.file.name != spec.file.name);
        let warnings: Vec<_> = set.channels.iter().filter(is_clean).flat_map(warnings_of).collect();
        match self.format {
            OutputFormat::Json => {
                let rows: Vec<_> = set
                    .diagnostics
                    .iter()
                    .map(|diagnostic| {
                        let (line, column) = diagnostic.position();
                        json!({
                            "file": diagnostic.file.name, "line": line, "column": column,
                            "message": diagnostic.message, "label": diagnostic.label, "help": diagnostic.help,
                        })
                    })
                    .collect();
                let warnings: Vec<_> =
                    warnings.iter().map(|(file, message)| json!({ "file": file, "message": message })).collect();
                print_json(&json!({ "files": files, "diagnostics": rows, "warnings": warnings }));
            }
            OutputFormat::Text => {
                let out = std::io::stdout();
                let colour = out.is_terminal() && colour_of(&out);
                for diagnostic in &set.diagnostics {
                    print(&format!("{}\n\n", diagnostic.render(colour)));
                }
                for (file, warning) in &warnings {
                    print_line(&format!("warning: {file}: {warning}"));
                }
                print_line(&summary(files, mistakes));
            }
        }
        if mistakes == 0 { ExitCode::Done } else { ExitCode::No }
    }
}

fn summary(files: usize, mistakes: usize) -> String {
    let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
    match mistakes {
        0 => format!("{files} checked, no mistakes"),
        1 => format!("{files} checked, 1 mistake"),
        many => format!("{files} checked, {many} mistakes"),
    }
}
