//! Destinations: where messages go.
//!
//! A destination speaks its protocol and nothing else: one delivery, one attempt. Retry, order, counters and the journal belong
//! to the lane (`channel/lane.rs`). What is sent is fixed by [`DestinationConfig::prepare`] before the first attempt and kept in
//! the journal, so that every attempt, also one after a crash, sends the same bytes under the same name.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use schemars::{Schema, SchemaGenerator};

use crate::config::{BuildError, Place, Table};
use crate::expr::ExprError;
use crate::journal::Outgoing;
use crate::message::Message;

/// Keys that every destination has beside its own, for "did you mean".
pub(crate) const COMMON_KEYS: &[&str] = &["type", "when", "transformer", "retry"];

mod file;
mod mllp;
mod sftp;

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
    /// Reads its options.
    pub parse: fn(Table<'_>) -> Option<Box<dyn DestinationConfig>>,
}

/// Every kind of destination, in the order of the documentation.
pub const KINDS: &[DestinationKind] = &[mllp::KIND, sftp::KIND, file::KIND];

/// The options of a destination, read and checked.
#[async_trait]
pub trait DestinationConfig: fmt::Debug + Send + Sync {
    /// Works out what this message sends here: content and, for example, the file name. Pure: no I/O, no clock.
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError>;

    /// The key that names the folder of this machine that it writes to, if it does: no channel files may lie there.
    fn writes_to(&self) -> Option<&'static str> {
        None
    }

    /// Makes the destination. Reads secrets; connects lazily, at the first delivery.
    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError>;
}

/// A destination at work. One attempt at a time.
#[async_trait]
pub trait Destination: Send {
    /// Tries once. Cancel-safe: when the future is dropped, the connection is thrown away and nothing half-sent stays under a
    /// final name.
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError>;
}

/// The destination has it.
#[derive(Debug, Default)]
pub struct Delivered {
    /// What it answered.
    pub response: Option<Bytes>,
}

/// What a failed attempt means for the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Try again later; counts as an attempt.
    Retry,
    /// Never try this one again by itself: dead letter.
    Reject,
    /// The destination itself is unusable until a human acts (authentication, host key, configuration): try again later, the
    /// attempt does not count.
    Pause,
}

/// An attempt that failed. The text is shown to people and never holds content.
#[derive(Debug)]
pub struct SendError {
    /// What it means for the delivery.
    pub disposition: Disposition,
    /// What happened and, where there is something to do, what to do.
    pub message: String,
    /// What the peer answered, if it did.
    pub response: Option<Bytes>,
}

impl SendError {
    /// An attempt that may work later.
    pub fn retry(message: impl Into<String>) -> SendError {
        SendError { disposition: Disposition::Retry, message: message.into(), response: None }
    }

    /// An attempt that will never work.
    pub fn reject(message: impl Into<String>) -> SendError {
        SendError { disposition: Disposition::Reject, message: message.into(), response: None }
    }

    /// The destination is unusable until somebody acts.
    pub fn pause(message: impl Into<String>) -> SendError {
        SendError { disposition: Disposition::Pause, message: message.into(), response: None }
    }

    /// The same, with what the peer answered.
    pub fn with_response(mut self, response: Bytes) -> SendError {
        self.response = Some(response);
        self
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SendError {}
