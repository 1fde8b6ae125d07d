//! Pollers: files that lie somewhere are captured, each once and whole.
//!
//! Design constraints:
//! - The journal's receipt comes first, the ledger's entry next, and only then is the file moved or deleted. What a crash leaves
//!   between receipt and entry, the journal itself knows again ([`crate::journal::Identity`]).
//! - A file is complete when several polls saw it unchanged; one that changes while it is read is read again later.
//! - A listing is gone through, not kept: what is remembered of a folder has a limit, however many files are in it.
//! - Names are the partner's words: checked before they become a part of a path, and never logged. Messages are named by their ids.
//!
//! `folder` says what is asked of a place with files, `local` and `remote` answer; `round` is one poll, `capture` what is done with
//! a file, `poller` when it is done.

mod capture;
mod folder;
mod ledger;
mod local;
mod names;
mod options;
mod poller;
mod remote;
mod round;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(super) use local::Local;
pub(super) use options::PollOptions;
pub(super) use poller::{Means, Poller};
pub(super) use remote::Remote;

use super::Schedule;

/// What one poller goes by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// The kind of the source.
    pub(super) kind: &'static str,
    /// The machine that the files are on, where it is another one.
    pub(super) host: Option<String>,
    /// What the channel file says of files.
    pub(super) options: Arc<PollOptions>,
    /// When it polls.
    pub(super) schedule: Schedule,
    /// Two polls that saw the same file count as two only when so much time is between them, or the interval where that is shorter.
    pub(super) settle: Duration,
}

impl Rules {
    /// So much time must be between two polls that count.
    fn spacing(&self) -> Duration {
        self.schedule.interval().map_or(self.settle, |interval| interval.min(self.settle))
    }

    fn unchanged_polls(&self) -> u32 {
        self.options.unchanged_polls.unwrap_or(if self.options.done_file.is_some() { 1 } else { 2 })
    }

    fn min_age(&self) -> Duration {
        let default = if self.options.done_file.is_some() { 0 } else { 5 };
        self.options.min_age.map_or(Duration::from_secs(default), |age| age.get())
    }
}
