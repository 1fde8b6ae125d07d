//! The journal: the durable record of messages, deliveries and attempts.
//!
//! Nothing above this module knows how it is kept. The promise is a type: a [`Receipt`] can be made in here alone, and only
//! after the message is on disk, so whoever holds one may acknowledge.
//!
//! Design constraints:
//! - The segments are the truth, synced before [`Journal::receive`] returns; the index is rebuilt from them.
//! - Every state change is an event appended to a segment; a delivery's way can be told from the events alone.
//! - A failed sync is final: the journal refuses everything after it, because what the disk holds is then unknown.

mod bloom;
mod disk;
mod error;
mod event;
mod files;
mod folder;
mod index;
mod keys;
mod late;
mod ledger;
mod lists;
mod overlay;
mod parts;
mod pending;
mod plan;
mod prepare;
mod prune;
mod questions;
mod recent;
mod record;
mod recovery;
mod room;
mod roster;
mod row;
mod scan;
mod sealed;
mod search;
mod segments;
mod state;
mod stored;
mod story;
mod strip;
mod stripped;
mod stripping;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::{Body, Format, MessageId, Origin, Refs};

pub use disk::{Disk, Stats};
pub use error::JournalError;
pub use prune::{Prune, Pruned};
pub use questions::{Depth, Page, Query, Waiting};
pub use room::{Amount, DiskSpace, Margins, Room};
pub use state::{DeliveryState, MessageState};
pub use stored::{Answered, Removed, Stored};
pub use verify::{Backup, Verified, restore, verify};

/// What a source hands over to be kept: one body for one or more channels.
#[derive(Clone)]
pub struct Arrival {
    /// The messages that this body becomes, one per channel; empty for an event that nobody listens to.
    pub recipients: Vec<Recipient>,
    /// When the last byte was received.
    pub received_at: Timestamp,
    /// How it came.
    pub origin: Origin,
    /// How the body is to be read.
    pub format: Format,
    /// The references to find it by.
    pub refs: Refs,
    /// The bytes as they came.
    pub body: Bytes,
    /// The same as its source has read it, if it has: whoever transforms it need not do so again.
    pub read: Option<Arc<Body>>,
    /// The acknowledgement that will be sent once this is on disk.
    pub acknowledgement: Option<Bytes>,
    /// Why the message goes nowhere, when it was refused: it is kept, visible as `rejected`, and can be reprocessed.
    pub rejected: Option<String>,
    /// How to know the same arrival when it comes again; without it, every arrival is a new one.
    pub identity: Option<Identity>,
}

/// How to know an arrival that comes a second time: by a key that its sender chose, and by its body.
#[derive(Clone)]
pub struct Identity {
    /// What the sender told it by, with whatever keeps two senders apart: never logged.
    pub key: String,
    /// For how long after the first one; for as long as that one is kept where nothing is given.
    pub window: Option<Duration>,
    /// What becomes of an arrival with the same key and another body.
    pub other_body: OtherBody,
}

/// What becomes of an arrival whose key is known, and whose body is another one than the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherBody {
    /// It is not kept.
    Refused,
    /// It is kept as a new message, marked in its origin.
    Kept,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("recipients", &self.recipients)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// One message and the channel that it goes through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The message's id.
    pub id: MessageId,
    /// The channel's name.
    pub channel: String,
}

/// The proof that an arrival is on disk. Only the journal can make one.
#[derive(Debug, Clone)]
#[must_use = "a receipt is what allows the acknowledgement"]
pub struct Receipt {
    recipients: Vec<Recipient>,
    repeat: Repeat,
    acknowledgement: Option<Bytes>,
}

/// Whether an arrival's key had been seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// First time.
    No,
    /// The same key with the same body: nothing was kept, the recipients and the acknowledgement are those of the first time.
    SameBody,
    /// The same key with another body. Whether it was kept is what [`OtherBody`] said; where not, the recipients are those of
    /// the first time.
    OtherBody,
}

impl Receipt {
    /// The messages that are on disk.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// Whether the arrival's key was known already.
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// The acknowledgement that was kept the first time, where the same arrival came again.
    pub fn acknowledgement(&self) -> Option<&Bytes> {
        self.acknowledgement.as_ref()
    }
}

/// What the transformer made of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Transformed {
    /// A filter held it back.
    Filtered {
        /// Which step, as `step 2 (channels/a.toml:12)`.
        place: String,
    },
    /// A step failed.
    Errored {
        /// Which step.
        place: String,
        /// What happened; never content.
        error: String,
    },
    /// It goes to these destinations. Contents travel beside, see [`NewDelivery`].
    Queued,
    /// It was taken apart, see [`Journal::split`].
    Split {
        /// Into how many messages.
        parts: u32,
    },
}

/// A part of a message that was split: a message of its own, with what became of it.
#[derive(Debug, Clone)]
pub struct NewPart {
    /// Its id: the same whenever the same message is split.
    pub id: MessageId,
    /// How it came: as the whole did, and as a part of what.
    pub origin: Origin,
    /// How its body is to be read.
    pub format: Format,
    /// The references to find it by.
    pub refs: Refs,
    /// Its own bytes.
    pub body: Bytes,
    /// What the steps behind the split made of it.
    pub outcome: Transformed,
    /// The deliveries that follow from it.
    pub deliveries: Vec<NewDelivery>,
}

/// A delivery to be queued.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The destination's name.
    pub destination: String,
    /// What to send; none when the destination's `when` was false: the delivery is then `filtered`.
    pub outgoing: Option<Outgoing>,
    /// Deliveries to the same destination with the same key keep their order; those with different keys need not. None: the
    /// destination has one order for all.
    pub key: Option<OrderKey>,
}

/// What deliveries keep their order by: a number made of the key's text, the same on every machine and after every restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderKey(u64);

impl OrderKey {
    /// The key of a text, which may be a patient's number and is not kept.
    pub fn of(text: &str) -> OrderKey {
        use sha2::Digest as _;
        let digest: [u8; 32] = sha2::Sha256::digest(text.as_bytes()).into();
        OrderKey(u64::from_be_bytes(digest[..8].try_into().expect("eight bytes")))
    }

    /// The number, for choosing among workers.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// What leaves for one destination: fixed before the first attempt, the same at every attempt.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The content.
    pub content: Bytes,
    /// What the destination worked out from the message: `file_name`, `directory`, `control_id` …
    pub properties: std::collections::BTreeMap<String, String>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("bytes", &self.content.len()).finish_non_exhaustive()
    }
}

/// One message on its way to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryId {
    /// The message.
    pub message: MessageId,
    /// The destination's name within the message's channel.
    pub destination: String,
}

/// The queue before one destination of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The channel's name.
    pub channel: String,
    /// The destination's name.
    pub destination: String,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, self.destination)
    }
}

/// One try of a delivery.
#[derive(Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The delivery's state after it: `sent`, `retrying` or `dead`.
    pub state: DeliveryState,
    /// When the next try is due, while retrying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What went wrong, in words, without content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it counts against `retry.attempts`: a fault of the whole destination does not.
    #[serde(default = "yes")]
    pub counted: bool,
    /// A dead letter that holds up what comes after it in its order, until somebody retries or cancels it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds: bool,
    /// Which of several addresses it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How the peer answered, beside the content of its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// What the peer answered; kept as a body, not in the metadata.
    #[serde(skip)]
    pub response: Option<Bytes>,
}

fn yes() -> bool {
    true
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("state", &self.state).field("error", &self.error).finish_non_exhaustive()
    }
}

/// What a person or a program asked to be done with deliveries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    /// What to do.
    pub verb: Verb,
    /// Who asked.
    pub who: String,
    /// Why, in their words.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// What can be done to a delivery by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Dead, retrying or cancelled: to the end of its lane's queue, due now, attempts counted anew. One that waits for its
    /// retry, or that holds up others, keeps its place.
    Retry,
    /// Queued, retrying or dead: given up.
    Cancel,
    /// Sent: once more, at the end of its lane's queue.
    Resend,
}

/// A delivery that waits in a lane.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Which delivery.
    pub id: DeliveryId,
    /// Its place in the lane: smaller goes first.
    pub sequence: u64,
    /// What it keeps its order by.
    pub key: Option<OrderKey>,
    /// Attempts so far that counted.
    pub attempts: u32,
    /// Not before this time.
    pub next_at: Option<Timestamp>,
    /// When the message was received.
    pub received_at: Timestamp,
}

/// A dead letter that holds up what comes after it in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which delivery.
    pub id: DeliveryId,
    /// Its place in the lane.
    pub sequence: u64,
    /// What it keeps its order by: without it, it holds up the whole lane.
    pub key: Option<OrderKey>,
}

/// A message that has not gone through its channel's transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untransformed {
    /// Which message.
    pub id: MessageId,
    /// Its place in the order of arrival, over all channels.
    pub sequence: u64,
}

/// What came in, as the transformer wants it.
#[derive(Clone)]
pub struct Received {
    /// The message's channel.
    pub channel: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// How it came.
    pub origin: Origin,
    /// How its body is to be read.
    pub format: Format,
    /// The bytes as they came.
    pub body: Bytes,
    /// The same as its source had read it. Only shortly after the arrival, and once.
    pub read: Option<Arc<Body>>,
}

/// A message as the journal knows it: the row of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The message.
    pub id: MessageId,
    /// Its channel.
    pub channel: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// How it came.
    pub origin: Origin,
    /// How its body is to be read.
    pub format: Format,
    /// Size of the body in bytes.
    pub bytes: u64,
    /// Where it stands.
    pub state: MessageState,
    /// Why it was rejected, filtered or errored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its references.
    pub refs: Refs,
    /// Its deliveries, in the order of the channel file.
    pub deliveries: Vec<DeliverySummary>,
    /// How many messages it was split into: `id.part(n)` is the one with number `n`, from 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parts: u32,
    /// When its content was removed; what is known of it stays longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_removed: Option<Timestamp>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A delivery as the journal knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliverySummary {
    /// The destination's name.
    pub destination: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// Tries so far.
    pub attempts: u32,
    /// The last error, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the next try is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// When it came to rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// The whole story of one message.
#[derive(Clone)]
pub struct Story {
    /// The row of the list.
    pub summary: Summary,
    /// The bytes as they came.
    pub body: Stored,
    /// The acknowledgement that was sent.
    pub acknowledgement: Option<Stored>,
    /// When the transformer was done with it.
    pub transformed_at: Option<Timestamp>,
    /// Each delivery's content and attempts, in the order of `summary.deliveries`.
    pub deliveries: Vec<DeliveryStory>,
    /// What people did to it.
    pub commands: Vec<(DeliveryId, Command)>,
}

/// The whole story of one delivery.
#[derive(Clone)]
pub struct DeliveryStory {
    /// What was to be sent; none when filtered.
    pub content: Option<Stored>,
    /// What the destination worked out from the message.
    pub properties: std::collections::BTreeMap<String, String>,
    /// Every try.
    pub attempts: Vec<Tried>,
}

/// A try with what was answered.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The try.
    pub attempt: Attempt,
    /// What the peer answered.
    pub response: Option<Stored>,
}

/// The store under the engine. The writing methods return once what they say is on disk (group commit: one sync serves all
/// who wait); the reading ones may touch the disk and are quick enough to call from a task.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Keeps an arrival. Returns only once it is on disk.
    async fn receive(&self, arrival: Arrival) -> Result<Receipt, JournalError>;

    /// Keeps what the transformer made of a message, with the deliveries that follow from it, as one event.
    async fn transformed(
        &self,
        id: MessageId,
        at: Timestamp,
        outcome: Transformed,
        deliveries: Vec<NewDelivery>,
    ) -> Result<(), JournalError>;

    /// Keeps that a message was split, with its parts, what became of each and the deliveries that follow, as one event: all of
    /// it is on disk when this returns, or none. The deliveries of the parts get their places in their lanes in the order of
    /// the parts. Parts that were split in their turn stand before their own parts.
    async fn split(&self, id: MessageId, at: Timestamp, parts: Vec<NewPart>) -> Result<(), JournalError>;

    /// Keeps one try of a delivery and moves the delivery to the state that the attempt names.
    async fn attempted(&self, delivery: DeliveryId, attempt: Attempt) -> Result<(), JournalError>;

    /// Carries out and keeps what somebody asked for. Refuses with [`JournalError::State`] where it makes no sense.
    async fn command(&self, delivery: DeliveryId, command: Command) -> Result<(), JournalError>;

    /// Messages of a channel that wait for its transformer, in order of arrival, after a place in that order.
    fn untransformed(&self, channel: &str, after: u64, limit: usize) -> Result<Vec<Untransformed>, JournalError>;

    /// The size in bytes of a body that came in and that [`Journal::received`] need not read from the disk.
    fn at_hand(&self, id: MessageId) -> Option<usize>;

    /// What came in as a message: its [`Journal::story`] knows the same, and takes longer.
    fn received(&self, id: MessageId) -> Result<Option<Received>, JournalError>;

    /// The deliveries that wait in a lane, in order, after a place in that order (0: from the first). Contents are asked for
    /// one by one, see [`Journal::outgoing`].
    fn queue(&self, lane: &Lane, after: u64, limit: usize) -> Result<Vec<Queued>, JournalError>;

    /// What a delivery is to send. [`JournalError::Damaged`] or [`JournalError::Removed`] where that can no longer be read: it
    /// will never be.
    fn outgoing(&self, delivery: &DeliveryId) -> Result<Outgoing, JournalError>;

    /// The dead letters that hold up a lane or a key of it, in order.
    fn holding(&self, lane: &Lane) -> Result<Vec<Holding>, JournalError>;

    /// How much waits in a lane. Cost does not grow with its length.
    fn depth(&self, lane: &Lane) -> Result<Depth, JournalError>;

    /// Everything that waits, also what no channel file speaks of any more. Cost grows with channels and lanes, not with what
    /// waits.
    fn waiting(&self) -> Result<Vec<Waiting>, JournalError>;

    /// How many messages of a channel are in each state.
    fn counts(&self, channel: &str) -> Result<Vec<(MessageState, u64)>, JournalError>;

    /// The whole story of one message.
    fn story(&self, id: MessageId) -> Result<Option<Story>, JournalError>;

    /// Messages, newest first.
    fn search(&self, query: &Query) -> Result<Page, JournalError>;

    /// Whether there is room for more on the disk.
    fn room(&self) -> Room;

    /// The folder that it is in; none for one that is kept elsewhere.
    fn folder(&self) -> Option<&Path>;

    /// Damage found when the journal was opened, one sentence each; empty when all was well.
    fn damage(&self) -> Vec<String>;

    /// Removes what is old, whole segments at a time, the oldest first, and gives the space back to the file system. Never what is
    /// unsent or parked.
    async fn prune(&self, prune: Prune) -> Result<Pruned, JournalError>;

    /// The disk that the journal is on; none where that cannot be told.
    fn disk(&self) -> Option<DiskSpace>;

    /// Copies everything that is on disk by now into a new folder, while work goes on.
    async fn backup(&self, to: &Path) -> Result<Backup, JournalError>;

    /// How much is in the journal.
    fn stats(&self) -> Stats;

    /// Completes when the journal has failed for good; the engine then stops with an error.
    async fn failed(&self) -> JournalError;

    /// Writes and syncs what is pending and lets go of the folder.
    async fn close(&self) -> Result<(), JournalError>;
}
