//! The doors between the channels of one engine: open while a channel whose source is of type `channel` takes messages in.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Notify;

use super::Name;
use crate::destination::{self, HandOverError, HandedOver, Handover};
use crate::hl7;
use crate::journal::{Identity, OtherBody, Repeat};
use crate::message::{Message, Meta};
use crate::source::{Intake, Taken};

/// For so long a message waits before a door that is closed, until its delivery counts as failed: a channel that is just being
/// started or reloaded opens sooner.
const BEFORE_THE_DOOR: Duration = Duration::from_secs(2);

/// The doors of the channels of one engine.
#[derive(Default)]
pub struct Doors {
    open: Mutex<BTreeMap<Name, Intake>>,
    /// Told when one opens.
    opened: Notify,
}

impl Doors {
    /// Opens a channel's door.
    pub(super) fn open(&self, name: &Name, intake: Intake) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), intake);
        self.opened.notify_waiters();
    }

    /// Closes it. What was handed over before is on disk, or is handed over again.
    pub(super) fn close(&self, name: &Name) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn find(&self, channel: &str) -> Option<Intake> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(channel).cloned()
    }

    async fn wait_for(&self, channel: &str) -> Intake {
        loop {
            let opened = self.opened.notified();
            if let Some(intake) = self.find(channel) {
                return intake;
            }
            opened.await;
        }
    }
}

#[async_trait]
impl destination::Doors for Doors {
    async fn hand_over(&self, channel: &str, handover: Handover) -> Result<HandedOver, HandOverError> {
        let closed =
            || HandOverError::Closed { channel: channel.to_owned(), why: "it is stopped, paused or not loaded" };
        let waited = tokio::time::timeout(BEFORE_THE_DOOR, self.wait_for(channel)).await;
        let intake = waited.map_err(|_| closed())?;
        let Handover { origin, format, body } = handover;
        let parent = origin.parent.as_deref();
        let parent = parent.ok_or_else(|| HandOverError::NotKept("the message has no parent".to_owned()))?;
        // As JSON: whatever is in a name, two of them do not run together.
        let key = json!(["channel", parent.message, parent.destination]).to_string();
        let (id, received_at) = (intake.next_id(), Timestamp::now());
        let meta = Meta { id, channel: channel.to_owned(), received_at, origin: origin.clone() };
        // One that cannot be read is kept all the same: the other channel shows what is wrong with it.
        let read = Message::read(meta, format, &body, &hl7::Limits::default()).ok().map(|message| message.body);
        let taken = Taken {
            id,
            received_at,
            body,
            refs: origin.refs(read.as_deref()),
            read: read.filter(|_| format == crate::message::Format::Hl7),
            format,
            origin,
            acknowledgement: None,
            rejected: None,
            identity: Some(Identity { key, window: None, other_body: OtherBody::Refused }),
        };
        let receipt = intake.accept(taken).await.map_err(|error| {
            let text = error.to_string();
            if error.is_full() { HandOverError::Full(text) } else { HandOverError::NotKept(text) }
        })?;
        match (receipt.repeat(), receipt.recipients().first()) {
            (Repeat::OtherBody, _) => Err(HandOverError::NotKept("it came before with another content".to_owned())),
            (repeat, Some(there)) => Ok(HandedOver { id: there.id, again: repeat == Repeat::SameBody }),
            (_, None) => Err(HandOverError::NotKept("the journal names no message".to_owned())),
        }
    }
}
