//! Sources: where messages come in.
//!
//! A source speaks its protocol and nothing else. It hands every body to its [`Intake`], the one door into a channel, and gives
//! a positive answer only for the [`Receipt`](crate::journal::Receipt) that comes back. Three phases, named by what they may do:
//! reading the config is pure, [`SourceConfig::build`] does I/O (binds its port) but spawns nothing, [`Source::run`] works.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::{Schema, SchemaGenerator};
use tokio_util::sync::CancellationToken;
use toml::Spanned;

use crate::config::{BuildError, Mistake, Place, Resource, Table};

mod ack;
mod channel;
mod duplicates;
mod event;
mod fate;
mod file;
mod format;
mod http;
mod intake;
mod mllp;
mod poll;
mod schedule;
mod sftp;
mod sftp_server;
mod timer;
mod values;

pub use ack::AckWhen;
pub use channel::Feeders;
pub use event::EventSource;
pub use fate::{End, Fate, Until, Waiter, Waiters};
pub use format::{CharsetOption, FormatOption, Incoming};
pub use intake::{Intake, IntakeError, Taken, Trouble};
pub use mllp::{Judged, judge};
pub use schedule::{Schedule, Tick, Ticks};

/// A kind of source: everything about it that others need is derived from this.
pub struct SourceKind {
    /// The word after `type =`.
    pub name: &'static str,
    /// One sentence for the list of kinds.
    pub summary: &'static str,
    /// A `[source]` table that works, for docs and for the conformance test.
    pub example: &'static str,
    /// The JSON Schema of its options.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads its options.
    pub parse: fn(Table<'_>) -> Option<Box<dyn SourceConfig>>,
}

/// Every kind of source, in the order of the documentation.
pub const KINDS: &[SourceKind] =
    &[event::KIND, mllp::KIND, http::KIND, file::KIND, sftp::KIND, sftp_server::KIND, timer::KIND, channel::KIND];

/// The options of a source, read and checked.
#[async_trait]
pub trait SourceConfig: fmt::Debug + Send + Sync {
    /// What it needs alone: two channels that name the same resource cannot run together.
    fn resources(&self) -> Vec<Resource> {
        Vec::new()
    }

    /// Its `format`, where it has one: tests of channel files read their input by it.
    fn format(&self) -> Option<&FormatOption> {
        None
    }

    /// Which channels of this engine may hand over to it; none for a source that takes in what comes from elsewhere.
    fn takes_from(&self) -> Option<Feeders<'_>> {
        None
    }

    /// What it would say of a message, by its own options: for tests of channel files. None for a source that judges nothing.
    fn judge(&self, _raw: &Bytes) -> Option<Judged> {
        None
    }

    /// When it acknowledges.
    fn acknowledges(&self) -> AckWhen {
        AckWhen::Received
    }

    /// The destination whose answer it passes on, where the file names one.
    fn answers_from(&self) -> Option<&Spanned<String>> {
        None
    }

    /// What is wrong with the files that it refers to, as far as they can be read here: what only `labwire check` looks for, because
    /// keys may lie elsewhere than channel files do.
    fn mistakes(&self) -> Vec<Mistake> {
        Vec::new()
    }

    /// What somebody should see to soon, although everything works: a certificate of ours that ends. Reads files.
    fn warnings(&self, _now: Timestamp) -> Vec<String> {
        Vec::new()
    }

    /// Opens what it needs (binds its port). Spawns nothing, so that a refused reload leaves nothing running.
    async fn build(&self, place: &Place) -> Result<Box<dyn Source>, BuildError>;
}

/// A source that is ready to run.
#[async_trait]
pub trait Source: Send {
    /// The address it listens on, with the real port; none for a source that does not listen.
    fn listens_on(&self) -> Option<SocketAddr> {
        None
    }

    /// Takes messages in until `stop`. What was begun is finished first: a message whose receipt was given gets its answer.
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken);
}
