//! `file`: captures the files of a folder of this machine.
//!
//! The system tells of files as they come, and the folder is looked at all the same, because notices get lost and network folders give
//! none. Links are not followed: whoever may write into the folder could have any file of this machine captured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::poll::{Local, Means, PollOptions, Poller, Rules};
use super::{FormatOption, Judged, Schedule, Source, SourceConfig, SourceKind, judge};
use crate::config::{BuildError, Duration, Place, Table};
use crate::hl7::Limits;

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Captures the files of a folder of this machine, each once: journals it, then moves or deletes it.",
    example: "type = \"file\"\ndirectory = \"../in\"\nfiles = \"*.hl7\"\nafter = { move = \"done\" }\n",
    schema: |generator| Schedule::add_to(PollOptions::schema_with::<Options>(generator)),
    parse,
};

const NAME: &str = "file";

/// How often the folder is looked at, if nothing else is said; and how much time is between two polls that count.
const EVERY: u64 = 2;

/// The options of a `file` source, beside those of every poller.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The folder; a relative one starts at the channel file's folder.
    directory: PathBuf,
}

#[derive(Debug)]
struct Config {
    directory: PathBuf,
    rules: Rules,
}

fn parse(mut table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let schedule = Schedule::take(&mut table, Some(Duration::from_secs(EVERY)));
    let (poll, table) = PollOptions::read(table, &[&["directory"], Schedule::KEYS].concat());
    let keys = PollOptions::keys();
    let more: Vec<&str> = keys.iter().map(String::as_str).chain(Schedule::KEYS.iter().copied()).collect();
    let options: Options = table.read_with_more(&more)?;
    let rules = Rules {
        kind: NAME,
        host: None,
        options: Arc::new(poll?),
        schedule: schedule?,
        settle: StdDuration::from_secs(EVERY),
    };
    Some(Box::new(Config { directory: options.directory, rules }))
}

#[async_trait]
impl SourceConfig for Config {
    fn format(&self) -> Option<&FormatOption> {
        Some(self.rules.options.format())
    }

    fn judge(&self, raw: &Bytes) -> Option<Judged> {
        Some(judge(raw, &Limits::default()))
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError> {
        let root = place.folder.join(&self.directory);
        let means = Means { folder: Box::new(Local::new(root.clone())), plug: None, watched: Some(root) };
        Ok(Box::new(Poller::new(self.rules.clone(), means)))
    }
}
