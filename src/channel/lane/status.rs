//! What a lane is doing, for people.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::MessageId;

/// So many dead letters that hold others up are shown.
pub(super) const SHOWN: usize = 10;

/// What a lane is doing, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The destination's name.
    pub destination: String,
    /// Its kind.
    pub kind: String,
    /// Why the last attempt failed; none after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the destination is unusable until somebody acts (name, authentication, host key, configuration).
    pub paused: bool,
    /// Since when the destination as a whole does not take anything: one delivery at a time tries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<Timestamp>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// The dead letter that the whole lane waits for, until somebody retries or cancels it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<HeldBy>,
    /// The dead letters that their own key waits for, at most ten of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<HeldBy>,
    /// How many keys wait for a dead letter.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held_keys: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A dead letter that others wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// The message.
    pub message: MessageId,
    /// Since when its delivery is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}
