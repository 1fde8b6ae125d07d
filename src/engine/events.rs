//! Events: checked, journaled once for all the channels that they fire, and answered with the messages' ids.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use super::Engine;
use crate::action;
use crate::journal::{Arrival, JournalError, Recipient, Repeat};
use crate::message::{Format, Origin, Refs};
use crate::source::EventSource;

/// An event's own id may be so long, in bytes.
const MAX_ID_BYTES: usize = 200;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fired {
    /// The event's own id, as its sender gave it.
    pub id: Option<String>,
    /// One message for each channel that it fired.
    pub messages: Vec<Recipient>,
    /// Whether the same event had come before: then nothing was sent, and the messages are those of the first time.
    pub repeated: bool,
}

/// Something wrong with an event. Names places, never content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventProblem {
    /// Where: a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong, in a sentence.
    pub message: String,
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
    /// It could not be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

struct Checked {
    action: u16,
    lab: String,
    id: Option<String>,
}

impl Engine {
    /// Takes an event in: `{action, lab, id?, data}`. Returns once it is on disk.
    pub async fn fire(&self, body: Bytes, peer: Option<String>) -> Result<Fired, FireError> {
        let event: Value = serde_json::from_slice(&body).map_err(|error| {
            let message = format!("this is not JSON: line {}, column {}", error.line(), error.column());
            FireError::Invalid(vec![EventProblem { pointer: String::new(), message }])
        })?;
        let checked = check(&event).map_err(FireError::Invalid)?;
        let bound: Vec<_> = self
            .channels()
            .into_iter()
            .filter(|channel| channel.spec().fires_on(checked.action, &checked.lab))
            .collect();
        let recipients = bound
            .iter()
            .map(|channel| Recipient { id: self.ids().next(), channel: channel.name().to_owned() })
            .collect();
        let origin = Origin {
            source: EventSource::NAME.to_owned(),
            peer,
            action: Some(checked.action),
            lab: Some(checked.lab.clone()),
            event_id: checked.id.clone(),
            ..Origin::default()
        };
        let receipt = self
            .journal()
            .receive(Arrival {
                recipients,
                received_at: Timestamp::now(),
                origin,
                format: Format::Json,
                refs: Refs::of_event(&event),
                body,
                acknowledgement: None,
                rejected: None,
                idempotency_key: checked.id.as_ref().map(|id| format!("event\0{}\0{id}", checked.lab)),
            })
            .await?;
        let repeated = match receipt.repeat() {
            Repeat::No => false,
            Repeat::SameBody => true,
            Repeat::OtherBody => return Err(FireError::Conflict),
        };
        if !repeated {
            info!(action = checked.action, lab = checked.lab, messages = receipt.recipients().len(), "event");
            for channel in bound {
                channel.counters().received.add_one();
                channel.wake();
            }
        }
        Ok(Fired { id: checked.id, messages: receipt.recipients().to_vec(), repeated })
    }
}

fn check(event: &Value) -> Result<Checked, Vec<EventProblem>> {
    let mut problems = Vec::new();
    let mut problem =
        |pointer: &str, message: String| problems.push(EventProblem { pointer: pointer.to_owned(), message });
    let Some(object) = event.as_object() else {
        problem("", "an event is a JSON object: {\"action\": 49, \"lab\": \"acme\", \"data\": {…}}".to_owned());
        return Err(problems);
    };
    for key in object.keys().filter(|key| !["action", "lab", "id", "data"].contains(&key.as_str())) {
        let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        problem(&pointer, "an event has no such key: `action`, `lab`, `id` and `data` are known".to_owned());
    }
    let action = object.get("action").and_then(Value::as_u64).and_then(|id| u16::try_from(id).ok());
    let action = action.filter(|id| action::find(*id).is_some());
    if action.is_none() {
        problem("/action", "the number of an action is expected; GET /api/v1/actions lists them".to_owned());
    }
    let lab = object.get("lab").and_then(Value::as_str).filter(|lab| !lab.trim().is_empty());
    if lab.is_none() {
        problem("/lab", "the lab for whom it happened is expected, as text".to_owned());
    }
    let id = match object.get("id") {
        None => Some(None),
        Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID_BYTES => Some(Some(id.clone())),
        Some(_) => {
            problem("/id", format!("an id is text of 1 to {MAX_ID_BYTES} bytes; leave it out if there is none"));
            None
        }
    };
    if !object.get("data").is_some_and(Value::is_object) {
        problem("/data", "the event's data is expected, as an object".to_owned());
    }
    match (action, lab, id) {
        (Some(action), Some(lab), Some(id)) if problems.is_empty() => Ok(Checked { action, lab: lab.to_owned(), id }),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found_with_its_pointer() {
        let pointers = |text: &str| -> Vec<String> {
            let event = serde_json::from_str(text).expect("JSON");
            check(&event).err().unwrap_or_default().into_iter().map(|problem| problem.pointer).collect()
        };
        assert!(pointers(r#"{"action":49,"lab":"acme","data":{}}"#).is_empty());
        assert!(pointers(r#"{"action":49,"lab":"acme","id":"e-1","data":{}}"#).is_empty());
        assert_eq!(pointers("[]"), [""]);
        assert_eq!(
            pointers(r#"{"action":8,"lab":" ","id":"","data":[],"x/y":1}"#),
            ["/x~1y", "/action", "/lab", "/id", "/data"]
        );
        assert_eq!(pointers(r#"{"action":"49","data":{}}"#), ["/action", "/lab"]);
        assert_eq!(pointers(r#"{"action":49.5,"lab":"a","id":7,"data":{}}"#), ["/action", "/id"]);
        assert_eq!(pointers(r#"{"action":65585,"lab":"a","data":{}}"#), ["/action"]);
    }
}
