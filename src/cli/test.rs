//! `labwire test`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{ExitCode, OutputFormat, complain, default_channels, print, print_json, print_line};
use crate::channel::{self, test};

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Channel files, or folders of them [default: channels]
    paths: Vec<PathBuf>,
    /// Write what was sent into the expected files that differ
    #[arg(long)]
    bless: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

impl Test {
    pub(super) fn run(self) -> ExitCode {
        let paths = if self.paths.is_empty() { default_channels() } else { self.paths.clone() };
        let set = match channel::load_paths(&paths) {
            Ok(set) => set,
            Err(error) => {
                complain(error);
                return ExitCode::Usage;
            }
        };
        for diagnostic in &set.diagnostics {
            print(&format!("{}\n\n", diagnostic.render(super::stdout_colour())));
        }
        let tests = set.channels.iter().flat_map(|spec| spec.tests.iter().map(move |test| (spec, test)));
        let results: Vec<test::TestResult> = tests.map(|(spec, test)| test::run(spec, test)).collect();
        let mut blessed = 0;
        if self.bless {
            for (path, content) in results.iter().flat_map(|result| &result.to_bless) {
                if let Err(error) = std::fs::write(path, content) {
                    complain(format!("{}: {error}", path.display()));
                    return ExitCode::No;
                }
                blessed += 1;
            }
        }
        let failed = results.iter().filter(|result| !self.counts_as_passed(result)).count();
        match self.format {
            OutputFormat::Json => drop(print_json(&as_json(&results))),
            OutputFormat::Text => self.print_results(&results, failed, blessed),
        }
        if failed == 0 && set.diagnostics.is_empty() { ExitCode::Done } else { ExitCode::No }
    }

    /// With `--bless`, what differs from an expected file is right from now on.
    fn counts_as_passed(&self, result: &test::TestResult) -> bool {
        result.passed() || (self.bless && !result.to_bless.is_empty())
    }

    fn print_results(&self, results: &[test::TestResult], failed: usize, blessed: usize) {
        for result in results {
            let mark = if self.counts_as_passed(result) { "ok    " } else { "FAILED" };
            print_line(&format!("{mark}  {}: {}", result.channel, result.name));
            if !self.counts_as_passed(result) {
                for failure in &result.failures {
                    print_line(&format!("          {}", failure.place));
                    print_line(&format!("            expected {}", failure.expected));
                    print_line(&format!("            found    {}", failure.found));
                }
            }
        }
        print_line(&format!("{} passed, {failed} failed", results.len() - failed));
        match blessed {
            0 => {}
            1 => print_line("1 expected file written: look at what changed before you commit it"),
            many => print_line(&format!("{many} expected files written: look at what changed before you commit them")),
        }
    }
}

fn as_json(results: &[test::TestResult]) -> serde_json::Value {
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            let failures: Vec<_> = result
                .failures
                .iter()
                .map(|failure| json!({ "place": failure.place, "expected": failure.expected, "found": failure.found }))
                .collect();
            json!({ "channel": result.channel, "test": result.name, "passed": result.passed(), "failures": failures })
        })
        .collect();
    json!({ "tests": rows })
}
