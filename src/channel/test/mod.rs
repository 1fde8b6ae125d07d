//! The `[[test]]` tables of a channel file: what goes in, and what should come out. Run without network, clock and journal.

mod compare;
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;
use toml::de::DeValue;

use super::{ChannelSpec, Name};
use crate::config::{self, Entry, Table};
use crate::diagnostic::{Diagnostic, SourceFile};
use crate::hl7;

pub use run::{Compared, Failure, TestResult, arrived, run};

/// One `[[test]]`.
#[derive(Debug)]
pub struct TestSpec {
    /// What it shows.
    pub name: String,
    /// The message or event that goes in.
    pub input: NamedFile,
    /// What each destination should get; a destination that is not named is not judged.
    pub sent: BTreeMap<String, Vec<Expected>>,
    /// Whether a filter should hold the message back; not, when it says nothing.
    pub filtered: bool,
    /// The acknowledgement code that the sender should get.
    pub ack: Option<String>,
    /// Words that the error of a failing step should contain.
    pub error: Option<String>,
}

/// A file that a test names.
#[derive(Debug, Clone)]
pub struct NamedFile {
    /// The path as the test writes it.
    pub written: String,
    /// The path from the working folder.
    pub path: PathBuf,
    span: std::ops::Range<usize>,
}

/// What one sent message should be.
#[derive(Debug, Clone)]
pub enum Expected {
    /// Exactly the content of this file.
    File(NamedFile),
    /// These values at these paths; nothing is said of the others.
    Fields(Vec<(String, String)>),
}

/// The plain keys of a `[[test]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestKeys {
    /// What the test shows.
    name: String,
    /// The file that goes in: a message, or an event as it would be posted.
    #[schemars(with = "String")]
    input: Spanned<String>,
    /// Whether a filter should hold the message back.
    #[serde(default)]
    filtered: bool,
    /// The acknowledgement code that the sender should get.
    ack: Option<AckWord>,
    /// Words that the error of the failing step should contain.
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
enum AckWord {
    AA,
    AE,
    AR,
    CA,
    CE,
    CR,
}

/// Reads the `[[test]]` tables; `destinations` are the names that `sent` may use.
pub(super) fn parse(entry: Entry<'_>, destinations: &[Name]) -> Vec<TestSpec> {
    let DeValue::Array(items) = entry.value.get_ref() else {
        config::report(
            entry.value.span(),
            "`test` must be a list of tables",
            "",
            Some("write [[test]], once for each test".to_owned()),
        );
        return Vec::new();
    };
    let mut tests = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(entries) => {
                tests.extend(parse_test(Table::new(entries.clone(), item.span(), "[[test]]"), destinations));
            }
            _ => config::report(item.span(), "a test is a table", "", None),
        }
    }
    tests
}

fn parse_test(mut table: Table<'_>, destinations: &[Name]) -> Option<TestSpec> {
    let span = table.span();
    let sent = table.take("sent").map_or_else(BTreeMap::new, |entry| parse_sent(entry, destinations));
    let keys = table.read_with_more::<TestKeys>(&["sent"])?;
    let expects_something = sent.values().any(|expected| !expected.is_empty());
    if keys.filtered && expects_something {
        config::report(
            span,
            "a message that is filtered is not sent",
            "`filtered = true` and `sent` contradict each other",
            None,
        );
    }
    Some(TestSpec {
        name: keys.name,
        input: named_file(&keys.input),
        sent,
        filtered: keys.filtered,
        ack: keys.ack.map(|word| format!("{word:?}")),
        error: keys.error,
    })
}

fn named_file(written: &Spanned<String>) -> NamedFile {
    NamedFile { written: written.get_ref().clone(), path: config::resolve(written.get_ref()), span: written.span() }
}

fn parse_sent(entry: Entry<'_>, destinations: &[Name]) -> BTreeMap<String, Vec<Expected>> {
    let Some(table) = entry.into_table("sent") else { return BTreeMap::new() };
    let names: Vec<&str> = destinations.iter().map(|name| &**name).collect();
    let mut sent = BTreeMap::new();
    for entry in table.into_entries() {
        if !names.contains(&entry.name()) {
            let message = format!("no destination is called `{}`", entry.name());
            config::unknown_word(entry.key.span(), message, entry.name(), &names);
            continue;
        }
        let name = entry.name().to_owned();
        let span = entry.value.span();
        let expected = match entry.value.into_inner() {
            DeValue::Array(items) => {
                items.into_iter().filter_map(|item| expected(item.span(), item.into_inner())).collect()
            }
            one => expected(span, one).into_iter().collect(),
        };
        sent.insert(name, expected);
    }
    sent
}

fn expected(span: std::ops::Range<usize>, value: DeValue<'_>) -> Option<Expected> {
    match value {
        DeValue::String(path) => Some(Expected::File(named_file(&Spanned::new(span, path.to_string())))),
        DeValue::Table(entries) => {
            let entries = Table::new(entries, span, "sent").into_entries();
            Some(Expected::Fields(entries.iter().filter_map(expected_field).collect()))
        }
        _ => {
            let help = "a file name, a table of paths and values, or a list of these".to_owned();
            config::report(span, "`sent` cannot be this", "", Some(help));
            None
        }
    }
}

fn expected_field(entry: &Entry<'_>) -> Option<(String, String)> {
    let path = entry.name();
    if !path.starts_with('/')
        && let Err(error) = path.parse::<hl7::Path>()
    {
        config::report(entry.key.span(), format!("`{path}` is not an HL7 path"), error.message, error.help);
        return None;
    }
    Some((path.to_owned(), entry.text()?.into_inner()))
}

impl TestSpec {
    /// The mistakes in a channel's tests that depend on other files or on the source.
    pub(super) fn check_files(spec: &ChannelSpec) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for test in &spec.tests {
            let files = test.sent.values().flatten().filter_map(|expected| match expected {
                Expected::File(file) => Some(file),
                Expected::Fields(_) => None,
            });
            if !test.input.path.is_file() {
                found.push(missing(&spec.file, &test.input, "the test's input does not exist", None));
            }
            for file in files.filter(|file| !file.path.is_file()) {
                let help = "`labwire test --bless` writes expected files".to_owned();
                found.push(missing(&spec.file, file, "the expected file does not exist", Some(help)));
            }
        }
        found
    }
}

fn missing(file: &Arc<SourceFile>, named: &NamedFile, message: &str, help: Option<String>) -> Diagnostic {
    let help = help.or_else(|| Some("paths are relative to the channel file".to_owned()));
    Diagnostic {
        file: file.clone(),
        span: named.span.clone(),
        message: format!("{message}: `{}`", named.written),
        label: "no such file".to_owned(),
        help,
    }
}
