//! Destinations: where messages go.
//!
//! A destination speaks its protocol and nothing else: one delivery, one attempt. Retry, order, counters and the journal belong
//! to the lane (`channel/lane.rs`); what becomes of a fault is data (`fault.rs`). What is sent is fixed by [`DestinationConfig::prepare`] before the first attempt and kept in
//! the journal, so that every attempt, also one after a crash, sends the same bytes under the same name.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::{Schema, SchemaGenerator};
use toml::Spanned;

use crate::config::{BuildError, Mistake, Place, Resource, Table};
use crate::expr::ExprError;
use crate::journal::{Answered, Outgoing};
use crate::message::{Format, Message, MessageId, Origin};

/// Keys that every destination has beside its own, for "did you mean".
pub(crate) const COMMON_KEYS: &[&str] =
    &["type", "when", "transformer", "charset", "retry", "on", "on_poison", "order_by", "parallel", "rate"];

mod channel;
mod email;
mod fault;
mod fax;
mod file;
mod files;
mod http;
mod mllp;
mod sftp;
mod sftp_server;

pub use fault::{Disposition, FAULTS, Fault, FaultClass, Rules, SendError};

/// A kind of destination: everything about it that others need is derived from this.
pub struct DestinationKind {
    /// The word after `type =`.
    pub name: &'static str,
    /// One sentence for the list of kinds.
    pub summary: &'static str,
    /// A `[destination.NAME]` table that works, for docs and for the conformance test.
    pub example: &'static str,
    /// The JSON Schema of its options.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// The faults that it can bring forth, by their words in [`FAULTS`]: those that its `on` table may name.
    pub faults: &'static [&'static str],
    /// Reads its options.
    pub parse: fn(Table<'_>) -> Option<Box<dyn DestinationConfig>>,
}

/// Every kind of destination, in the order of the documentation.
pub const KINDS: &[DestinationKind] =
    &[mllp::KIND, sftp::KIND, sftp_server::KIND, http::KIND, file::KIND, channel::KIND, email::KIND, fax::KIND];

/// The options of a destination, read and checked.
#[async_trait]
pub trait DestinationConfig: fmt::Debug + Send + Sync {
    /// Works out what this message sends here: content and, for example, the file name. Pure: no I/O, no clock.
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError>;

    /// The key that names the folder of this machine that it writes to, if it does: no channel files may lie there.
    fn writes_to(&self) -> Option<&'static str> {
        None
    }

    /// The channel of this engine that it feeds, with its place in the file.
    fn feeds(&self) -> Option<&Spanned<String>> {
        None
    }

    /// What it needs alone: two channels that name the same resource cannot run together.
    fn resources(&self) -> Vec<Resource> {
        Vec::new()
    }

    /// Opens what it offers to partners whether or not there is something to send: a place where they pick up. It stays open until
    /// what comes back is dropped. None for a destination that only goes out.
    async fn offer(&self, _place: &Place) -> Result<Option<Box<dyn Any + Send + Sync>>, BuildError> {
        Ok(None)
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

    /// Makes the destination. Reads secrets; connects lazily, at the first delivery.
    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError>;
}

/// A destination at work. One attempt at a time.
#[async_trait]
pub trait Destination: Send {
    /// Whether it must know what was answered to the attempt before this one.
    fn recalls(&self) -> bool {
        false
    }

    /// Told what was answered to the attempt before, where there was one with an answer: only if it asks for it.
    fn recall(&mut self, _response: Option<Bytes>) {}

    /// Shows it the way to the other channels of this engine, before its first attempt.
    fn meet(&mut self, _doors: &Arc<dyn Doors>) {}

    /// Tries once. Cancel-safe: when the future is dropped, the connection is thrown away and nothing half-sent stays under a
    /// final name.
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError>;

    /// Which of several addresses the last attempt used; none where there is one only, or none was reached.
    fn used(&self) -> Option<String> {
        None
    }

    /// How the peer answered the last attempt beside the content of its answer, where its protocol has such a thing.
    fn answered(&self) -> Option<Answered> {
        None
    }
}

/// The destination has it.
#[derive(Debug, Default)]
pub struct Delivered {
    /// What it answered.
    pub response: Option<Bytes>,
}

/// The way to the other channels of this engine.
#[async_trait]
pub trait Doors: Send + Sync {
    /// Hands a message over to a channel. Returns once it is on disk there; the same delivery again is the same message.
    async fn hand_over(&self, channel: &str, handover: Handover) -> Result<HandedOver, HandOverError>;
}

/// What one channel hands over to another.
pub struct Handover {
    /// Where it comes from; its parent is what it is known by.
    pub origin: Origin,
    /// How it is to be read.
    pub format: Format,
    /// The content.
    pub body: Bytes,
}

/// A message that was handed over.
#[derive(Debug, Clone, Copy)]
pub struct HandedOver {
    /// Its id in the other channel.
    pub id: MessageId,
    /// Whether it had been there before.
    pub again: bool,
}

/// Why the other channel did not take a message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandOverError {
    /// It takes nothing in now.
    #[error("channel `{channel}` takes nothing in: {why}")]
    Closed {
        /// The channel.
        channel: String,
        /// Why, as in "it is stopped or paused".
        why: &'static str,
    },
    /// There is no room on the disk.
    #[error("{0}")]
    Full(String),
    /// It could not be kept.
    #[error("{0}")]
    NotKept(String),
}
