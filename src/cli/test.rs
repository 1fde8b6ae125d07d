//! `labwire test`.

use std::collections::BTreeMap;
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
        if set.files.is_empty() {
            return super::no_channel_files(&paths);
        }
        for diagnostic in &set.diagnostics {
            print(&format!("{}\n\n", diagnostic.render(super::stdout_colour())));
        }
        let tests = set.channels.iter().flat_map(|spec| spec.tests.iter().map(move |test| (spec, test)));
        let results: Vec<test::TestResult> = tests.map(|(spec, test)| test::run(spec, test)).collect();
        let blessed = match self.bless.then(|| bless(&results)).transpose() {
            Ok(blessed) => blessed.unwrap_or(0),
            Err(problem) => {
                complain(problem);
                return ExitCode::No;
            }
        };
        let failed = results.iter().filter(|result| !self.counts_as_passed(result)).count();
        match self.format {
            OutputFormat::Json => drop(print_json(&self.as_json(&results))),
            OutputFormat::Text => self.print_results(&results, failed, blessed),
        }
        if failed == 0 && set.diagnostics.is_empty() { ExitCode::Done } else { ExitCode::No }
    }

    /// What counts against a test: with `--bless`, what differs from an expected file is right from now on, and nothing else is.
    fn failures<'a>(&self, result: &'a test::TestResult) -> Vec<&'a test::Failure> {
        if self.bless { result.failures.iter().collect() } else { result.all_failures().collect() }
    }

    fn counts_as_passed(&self, result: &test::TestResult) -> bool {
        self.failures(result).is_empty()
    }

    fn print_results(&self, results: &[test::TestResult], failed: usize, blessed: usize) {
        for result in results {
            let mark = if self.counts_as_passed(result) { "ok    " } else { "FAILED" };
            print_line(&format!("{mark}  {}: {}", result.channel, result.name));
            for failure in self.failures(result) {
                print_line(&format!("          {}", failure.place));
                print_line(&format!("            expected {}", failure.expected));
                print_line(&format!("            found    {}", failure.found));
            }
        }
        print_line(&format!("{} passed, {failed} failed", results.len() - failed));
        match blessed {
            0 => {}
            1 => print_line("1 expected file written: look at what changed before you commit it"),
            many => print_line(&format!("{many} expected files written: look at what changed before you commit them")),
        }
    }

    fn as_json(&self, results: &[test::TestResult]) -> serde_json::Value {
        let rows: Vec<_> = results
            .iter()
            .map(|result| {
                let failures: Vec<_> = self
                    .failures(result)
                    .into_iter()
                    .map(|failure| {
                        json!({ "place": failure.place, "expected": failure.expected, "found": failure.found })
                    })
                    .collect();
                let passed = failures.is_empty();
                json!({ "channel": result.channel, "test": result.name, "passed": passed, "failures": failures })
            })
            .collect();
        json!({ "tests": rows })
    }
}

/// Writes the expected files that differ; says how many. None when two tests want the same file to be different things: whichever
/// was written, the other test would fail from then on.
fn bless(results: &[test::TestResult]) -> Result<usize, String> {
    let mut wanted: BTreeMap<PathBuf, (&str, &[u8])> = BTreeMap::new();
    for result in results {
        for file in &result.files {
            let path = file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
            match wanted.insert(path, (&result.name, &file.sent)) {
                Some((other, sent)) if sent != &*file.sent => {
                    return Err(format!(
                        "{}: the tests `{other}` and `{}` expect it and send different messages; nothing was written",
                        file.path.display(),
                        result.name
                    ));
                }
                _ => {}
            }
        }
    }
    let differ: BTreeMap<&PathBuf, &[u8]> = results
        .iter()
        .flat_map(|result| &result.files)
        .filter(|file| !file.failures.is_empty())
        .map(|file| (&file.path, &*file.sent))
        .collect();
    for (path, content) in &differ {
        std::fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(differ.len())
}
