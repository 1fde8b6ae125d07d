//! Events: checked, journaled once for all the channels that they fire, and answered with the messages' ids.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Engine;
use crate::action::event;
use crate::channel::{Channel, State};
use crate::journal::{Arrival, Identity, JournalError, OtherBody, Receipt, Recipient, Repeat};
use crate::message::{Format, Origin, Refs};
use crate::source::EventSource;

pub use crate::action::event::EventProblem;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fired {
    /// The event's own id, as its sender gave it.
    pub id: Option<String>,
    /// One message for each channel that it fired.
    pub messages: Vec<Recipient>,
    /// Whether the same event had come before: then nothing was sent, and the messages are those of the first time.
    pub repeated: bool,
    /// Why a channel that should have fired may not be among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FireError {
    /// It is not what an event should be.
    #[error("the event is not valid")]
    Invalid(Vec<EventProblem>),
    /// Its id came before with another content.
    #[error("an event with this id came before, with another content")]
    Conflict,
    /// A channel that it would fire was paused or stopped by command: taken in for the others alone, it would never reach this
    /// one, because a repetition sends nothing.
    #[error("channel `{channel}` is {state} by command")]
    Unavailable {
        /// The channel.
        channel: String,
        /// `paused` or `stopped`.
        state: &'static str,
    },
    /// It could not be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Engine {
    /// Takes an event in: `{action, lab, id?, data}`. Returns once it is on disk. Not to be dropped on the way: an event that is on
    /// disk and whose channels were not woken waits for the next one.
    pub async fn fire(&self, body: Bytes, peer: Option<String>) -> Result<Fired, FireError> {
        let (event, envelope) = event::read(&body).map_err(FireError::Invalid)?;
        let note = self.note_of_mistakes();
        let bound = self.bound_to(&envelope)?;
        let id = envelope.id.clone();
        if bound.is_empty() {
            // Nothing is kept, not even its id: sent again when a channel is there, it fires that channel.
            warn!(action = envelope.action, lab = envelope.lab, "an event fired no channel");
            return Ok(Fired { id, messages: Vec::new(), repeated: false, note });
        }
        let receipt = self.journal().receive(self.arrival(&bound, &envelope, &event, body, peer)).await?;
        let repeated = match receipt.repeat() {
            Repeat::No => false,
            Repeat::SameBody => true,
            Repeat::OtherBody if self.is_as_before(&receipt, &event)? => true,
            Repeat::OtherBody => return Err(FireError::Conflict),
        };
        if !repeated {
            info!(action = envelope.action, lab = envelope.lab, messages = receipt.recipients().len(), "event");
            for channel in bound {
                channel.counters().received.add_one();
                channel.wake_worker();
            }
        }
        Ok(Fired { id, messages: receipt.recipients().to_vec(), repeated, note })
    }

    /// The channels that an event fires; all of them must take it.
    fn bound_to(&self, envelope: &event::Envelope) -> Result<Vec<Arc<Channel>>, FireError> {
        let mut bound = self.channels();
        bound.retain(|channel| channel.spec().fires_on(envelope.action, &envelope.lab));
        for channel in &bound {
            let state = match channel.state() {
                State::Paused => "paused",
                State::Stopped => "stopped",
                State::Running | State::Failed { .. } => continue,
            };
            return Err(FireError::Unavailable { channel: channel.name().to_owned(), state });
        }
        Ok(bound)
    }

    fn arrival(
        &self,
        bound: &[Arc<Channel>],
        envelope: &event::Envelope,
        event: &Value,
        body: Bytes,
        peer: Option<String>,
    ) -> Arrival {
        let recipient =
            |channel: &Arc<Channel>| Recipient { id: self.ids().next(), channel: channel.name().to_owned() };
        // As JSON: whatever is in a lab's name or an id, two of them do not run together.
        let key = |id: &String| json!(["event", envelope.lab, id]).to_string();
        Arrival {
            recipients: bound.iter().map(recipient).collect(),
            received_at: Timestamp::now(),
            origin: Origin {
                source: EventSource::NAME.to_owned(),
                peer,
                action: Some(envelope.action),
                lab: Some(envelope.lab.clone()),
                event_id: envelope.id.clone(),
                ..Origin::default()
            },
            format: Format::Json,
            refs: Refs::of_event(event),
            body,
            read: None,
            acknowledgement: None,
            rejected: None,
            identity: envelope.id.as_ref().map(|id| Identity {
                key: key(id),
                window: None,
                other_body: OtherBody::Refused,
            }),
        }
    }

    /// Whether an event says what the first one with its id said, in another layout. The journal compares bytes.
    fn is_as_before(&self, receipt: &Receipt, event: &Value) -> Result<bool, JournalError> {
        let Some(first) = receipt.recipients().first() else { return Ok(false) };
        let story = self.journal().story(first.id)?;
        let body = story.as_ref().and_then(|story| story.body.kept());
        Ok(body.and_then(|body| serde_json::from_slice::<Value>(body).ok()).is_some_and(|body| body == *event))
    }

    /// Files that cannot be used might hold a channel for the event: nobody knows. Those whose last good version goes on do not
    /// count.
    fn note_of_mistakes(&self) -> Option<String> {
        let mut files: BTreeSet<String> =
            self.diagnostics().iter().map(|diagnostic| diagnostic.file.name.clone()).collect();
        for channel in self.channels() {
            files.remove(&channel.spec().file.name);
        }
        match files.len() {
            0 => None,
            1 => Some("1 channel file has mistakes and was not considered".to_owned()),
            count => Some(format!("{count} channel files have mistakes and were not considered")),
        }
    }
}
