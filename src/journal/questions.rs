//! What can be asked of the journal over many messages, and what it answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Lane, MessageState, Summary};
use crate::message::{MessageId, RefKind};

/// Which messages to list. Everything given must hold.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The channel's name.
    pub channel: Option<String>,
    /// Where the message stands.
    pub state: Option<MessageState>,
    /// References that it must have.
    pub refs: Vec<(RefKind, String)>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
    /// Only messages older than this one: the `next` of the page before.
    pub before: Option<MessageId>,
    /// At most so many.
    pub limit: usize,
}

/// One page of a list, newest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Summary>,
    /// Give this as `before` to see the page after; none on the last.
    pub next: Option<MessageId>,
}

/// How deep a lane is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Deliveries that are queued or retrying.
    pub waiting: u64,
    /// When the oldest of them was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// Something in the journal that is not done. Never zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Messages that wait for their channel's transformer.
    Messages {
        /// The channel's name.
        channel: String,
        /// How many.
        count: u64,
    },
    /// Deliveries that are queued or retrying.
    Deliveries {
        /// Where.
        lane: Lane,
        /// How many.
        count: u64,
    },
}
