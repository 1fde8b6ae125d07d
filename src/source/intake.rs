//! The one door into a channel.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Waiters;
use crate::journal::{
    Arrival, Identity, Journal, JournalError, OtherBody, Query, Receipt, Recipient, Repeat, Room, Summary,
};
use crate::message::{Body, Format, MessageId, MessageIds, Origin, Refs};
use crate::monitor::Counters;

/// Takes bodies into one channel's journal. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    channel: Arc<str>,
    journal: Arc<dyn Journal>,
    ids: Arc<MessageIds>,
    /// Tells the channel's worker that something waits.
    wake: Arc<Notify>,
    counters: Arc<Counters>,
    /// Those who wait for what becomes of a message.
    waiters: Arc<Waiters>,
    trouble: Trouble,
}

/// Why a source takes nothing in although it runs; none while all is well. Shown beside the channel.
pub type Trouble = Arc<Mutex<Option<String>>>;

/// What a source says of a body that it hands over.
pub struct Taken {
    /// The id that the message gets: made by [`Intake::next_id`], because the acknowledgement may name it.
    pub id: MessageId,
    /// When its last byte was received.
    pub received_at: Timestamp,
    /// The bytes as they came.
    pub body: Bytes,
    /// The same, read; none where the source did not read them.
    pub read: Option<Arc<Body>>,
    /// How they are to be read.
    pub format: Format,
    /// How they came.
    pub origin: Origin,
    /// The references found in them.
    pub refs: Refs,
    /// The acknowledgement that will be sent.
    pub acknowledgement: Option<Bytes>,
    /// Why the message is refused; it is kept all the same.
    pub rejected: Option<String>,
    /// How to know the same message when it comes again; none where every arrival is a new one.
    pub identity: Option<Identity>,
}

/// A body that could not be kept: a negative answer is due.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct IntakeError(#[from] JournalError);

impl IntakeError {
    /// Whether there was only no room: the same body may be taken later.
    pub fn is_full(&self) -> bool {
        matches!(self.0, JournalError::Full { .. })
    }
}

impl Intake {
    /// The door into one channel.
    pub fn new(
        channel: Arc<str>,
        journal: Arc<dyn Journal>,
        ids: Arc<MessageIds>,
        wake: Arc<Notify>,
        counters: Arc<Counters>,
    ) -> Intake {
        Intake { channel, journal, ids, wake, counters, waiters: Arc::default(), trouble: Trouble::default() }
    }

    /// The same, for a channel whose worker and lanes tell these.
    pub fn with_waiters(self, waiters: Arc<Waiters>) -> Intake {
        Intake { waiters, ..self }
    }

    pub(super) fn waiters(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    pub(super) fn journal(&self) -> &dyn Journal {
        &*self.journal
    }

    /// The same, showing its trouble here.
    pub fn showing(self, trouble: Trouble) -> Intake {
        Intake { trouble, ..self }
    }

    /// Shows why the source takes nothing in, or that all is well. The log has a line when that changes, and not at every try.
    pub fn trouble(&self, now: Option<String>) {
        let mut shown = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*shown, &now) {
            (before, Some(error)) if before.as_ref() != Some(error) => {
                warn!(channel = self.channel(), error, "the source takes nothing in; it is tried again");
            }
            (Some(_), None) => info!(channel = self.channel(), "the source takes messages in again"),
            _ => {}
        }
        *shown = now;
    }

    /// The channel's counters: the source counts what only it sees.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether there is room for more in the journal.
    pub fn room(&self) -> Room {
        self.journal.room()
    }

    /// The folder that the journal is in, for what a source has to keep.
    pub fn data_folder(&self) -> Option<&Path> {
        self.journal.folder()
    }

    /// The channel's name, for logs.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// An id for the next message.
    pub fn next_id(&self) -> MessageId {
        self.ids.next()
    }

    /// The newest message of the channel.
    pub fn newest(&self) -> Result<Option<Summary>, JournalError> {
        let query = Query { channel: Some(self.channel.to_string()), limit: 1, ..Query::default() };
        Ok(self.journal.search(&query)?.messages.into_iter().next())
    }

    /// Keeps a body. With the receipt in hand, and not before, the source may acknowledge: what it would have said, or, where
    /// the receipt says that the same message came before, what was said then.
    pub async fn accept(&self, taken: Taken) -> Result<Receipt, IntakeError> {
        let goes_on = taken.rejected.is_none();
        let other_body = taken.identity.as_ref().map(|identity| identity.other_body);
        let received = self
            .journal
            .receive(Arrival {
                recipients: vec![Recipient { id: taken.id, channel: self.channel.to_string() }],
                received_at: taken.received_at,
                origin: taken.origin,
                format: taken.format,
                refs: taken.refs,
                body: taken.body,
                read: taken.read,
                acknowledgement: taken.acknowledgement,
                rejected: taken.rejected,
                identity: taken.identity,
            })
            .await;
        let receipt = received.inspect_err(|_| self.counters.not_stored.add_one())?;
        self.note_repeat(&receipt, other_body);
        let is_kept = match receipt.repeat() {
            Repeat::No => true,
            Repeat::SameBody => false,
            Repeat::OtherBody => other_body == Some(OtherBody::Kept),
        };
        match (is_kept, goes_on) {
            (false, _) => {}
            (true, true) => {
                self.counters.received.add_one();
                self.wake.notify_one();
            }
            (true, false) => self.counters.rejected.add_one(),
        }
        Ok(receipt)
    }

    fn note_repeat(&self, receipt: &Receipt, other_body: Option<OtherBody>) {
        let message = receipt.recipients().first().map(|recipient| tracing::field::display(recipient.id));
        match receipt.repeat() {
            Repeat::No => {}
            Repeat::SameBody => {
                self.counters.repeated.add_one();
                info!(
                    channel = self.channel(),
                    message, "it came again: acknowledged as the first time, not processed again"
                );
            }
            Repeat::OtherBody if other_body == Some(OtherBody::Refused) => {
                self.counters.reused_keys.add_one();
                warn!(
                    channel = self.channel(),
                    message, "its key came shortly before with another content: refused; its sender uses keys twice"
                );
            }
            Repeat::OtherBody => {
                self.counters.reused_keys.add_one();
                warn!(
                    channel = self.channel(),
                    message,
                    "its control id came shortly before with another content: either the sender uses ids twice, or a message \
                     was changed on its way"
                );
            }
        }
    }
}
