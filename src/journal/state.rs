//! The states of messages and deliveries, in the words of the design.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every state.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The word shown to people and used by programs.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                $name::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| {
                    let known: Vec<&str> = $name::ALL.iter().map(|state| state.as_str()).collect();
                    format!("no state is called `{text}`: one of {}", known.join(", "))
                })
            }
        }
    };
}

states! {
    /// Where a message stands.
    MessageState {
        /// On disk, waits for its channel's transformer.
        Received = "received",
        /// Refused with a negative acknowledgement; kept to be looked at.
        Rejected = "rejected",
        /// A filter held it back; nothing was sent.
        Filtered = "filtered",
        /// A transformer step failed.
        Errored = "errored",
        /// At least one delivery is queued or retrying, none is dead.
        Queued = "queued",
        /// Every delivery came to rest, none of them dead.
        Sent = "sent",
        /// At least one delivery is dead.
        Dead = "dead",
        /// It was split: each of its parts is a message of its own, which has a state of its own.
        Split = "split",
    }
}

states! {
    /// Where a delivery stands.
    DeliveryState {
        /// Waits for its turn.
        Queued = "queued",
        /// An attempt failed, the next one is due later.
        Retrying = "retrying",
        /// The destination accepted it.
        Sent = "sent",
        /// Gave up: visible, can be retried.
        Dead = "dead",
        /// The destination's `when` was false.
        Filtered = "filtered",
        /// Somebody gave it up.
        Cancelled = "cancelled",
    }
}

impl DeliveryState {
    /// Whether the delivery still has a place in its lane's queue.
    pub fn is_waiting(self) -> bool {
        matches!(self, DeliveryState::Queued | DeliveryState::Retrying)
    }
}
