//! Counters of what happened, for people and for `/metrics`: numbers only, never content.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one channel has done since the engine started.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }

        /// The same at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
        pub struct CountersNow { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// All of them, now.
            pub fn now(&self) -> CountersNow {
                CountersNow { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Messages journaled.
    received,
    /// Messages refused with a negative acknowledgement.
    rejected,
    /// Messages that had come before: acknowledged as then, and not processed again.
    repeated,
    /// Messages whose sender had given out their control id before, for another content.
    reused_keys,
    /// Messages whose time lies further back than their source believes.
    stale,
    /// Messages that the journal could not take: their senders were told to send them again.
    not_stored,
    /// Messages that a filter held back.
    filtered,
    /// Messages at which a transformer step failed.
    errored,
    /// Deliveries that a destination accepted.
    sent,
    /// Attempts that failed and will be repeated.
    retried,
    /// Deliveries given up.
    dead,
    /// Connections refused at the connection cap.
    connections_refused,
    /// Connections refused because of where they come from, or of their certificate.
    connections_not_allowed,
    /// Connections on which no TLS came about.
    handshakes_failed,
    /// Connections on which a peer spoke another protocol.
    wrong_protocol,
    /// Bytes outside of any frame, skipped.
    junk_bytes,
    /// Frames given up: too large, too slow, or the connection ended within them.
    frames_dropped,
    /// Frames without content.
    frames_empty,
    /// HTTP requests refused: without credentials, too large, too slow, of another type.
    requests_refused,
    /// Acknowledgements that the peer did not take; it will send the message again.
    acknowledgements_lost,
    /// Files that are in the journal and could not be moved or deleted: they are tried again, and not captured again.
    files_left,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
