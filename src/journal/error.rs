//! Why the journal did not do what was asked.

use jiff::Timestamp;

use super::DeliveryState;
use crate::message::MessageId;

/// Why the journal did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Another process holds the folder.
    #[error("journal `{folder}`: another engine is running on it (process {pid})")]
    Locked {
        /// The data folder.
        folder: String,
        /// The other's process id, as it wrote it.
        pid: String,
    },
    /// The folder was written by a newer engine.
    #[error(
        "journal `{folder}`: its format is {found}, this engine knows format {known}: run the engine that wrote it, or a newer one"
    )]
    Format {
        /// The data folder.
        folder: String,
        /// What the folder says.
        found: String,
        /// What this engine writes.
        known: u32,
    },
    /// The disk refused; nothing that was not acknowledged before is safe, so nothing more is accepted.
    #[error("journal: {action} of `{path}`: {error}; nothing more is accepted until the engine is started again")]
    Disk {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        error: String,
    },
    /// Something that is on the disk cannot be read, or not be made smaller; what is new is still taken in.
    #[error("journal: {action} of `{path}`: {error}")]
    Unreadable {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        error: String,
    },
    /// A folder that cannot be used for this.
    #[error("folder `{folder}`: {error}")]
    Folder {
        /// The folder.
        folder: String,
        /// What is wrong, and what to do.
        error: String,
    },
    /// There is no room for more: what is there still goes out, and when there is room again, more is taken.
    #[error("journal: {free_mib} MiB are left on the disk of `{folder}`, which is kept free for what is already there")]
    Full {
        /// The data folder.
        folder: String,
        /// What is left, in MiB.
        free_mib: u64,
    },
    /// The journal failed before, or is being closed.
    #[error("journal: closed ({reason})")]
    Closed {
        /// Why.
        reason: String,
    },
    /// The index could not be read.
    #[error("journal index: {error}")]
    Index {
        /// What the store said.
        error: String,
    },
    /// A record does not hold what the index says it should.
    #[error("journal segment {segment} at byte {offset}: damaged record")]
    Damaged {
        /// The segment's number.
        segment: u64,
        /// Where in it.
        offset: u64,
    },
    /// The message's content was removed, because its time was over. What is known of the message is still there.
    #[error(
        "message {id}: its content was removed on {}, after the time for which content is kept; what happened to it can still be seen",
        at.strftime("%Y-%m-%d")
    )]
    Removed {
        /// The message.
        id: MessageId,
        /// When it was removed.
        at: Timestamp,
    },
    /// There is no such message or delivery.
    #[error("message {id}: not in the journal")]
    Unknown {
        /// What was asked for.
        id: MessageId,
    },
    /// The delivery is in a state in which the command makes no sense.
    #[error("message {id}, destination `{destination}`: is {state}, cannot {verb}")]
    State {
        /// The message.
        id: MessageId,
        /// The destination.
        destination: String,
        /// The delivery's state.
        state: DeliveryState,
        /// What was asked.
        verb: &'static str,
    },
}

impl JournalError {
    /// Whether the journal takes nothing more, so that trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, JournalError::Disk { .. } | JournalError::Closed { .. })
    }
}
