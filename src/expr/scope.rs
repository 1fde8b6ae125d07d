//! What an expression sees of a message.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr, Serde};

use super::Tables;
use super::view::View;
use crate::message::{Body, Event, Message, MessageId, Meta, Origin};

/// The segment or element that an `each` step is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Each {
    /// The segment's name.
    pub segment: String,
    /// Its occurrence, from 1.
    pub index: u32,
}

/// The variables of one evaluation.
#[derive(Clone)]
pub struct Scope {
    body: Arc<Body>,
    meta: Meta,
    event: Arc<Event>,
    each: Option<Each>,
    tables: Option<Tables>,
    /// An answer, where the expression is about one.
    pub(super) answer: Option<Value>,
}

impl Scope {
    /// The variables for a message.
    pub fn new(message: &Message) -> Scope {
        let body = match &*message.body {
            Body::Encoded(encoded) => encoded.body.clone(),
            _ => message.body.clone(),
        };
        Scope { body, meta: message.meta.clone(), event: message.event.clone(), each: None, tables: None, answer: None }
    }

    /// No message at all.
    pub(super) fn nothing() -> Scope {
        let meta = Meta {
            id: MessageId::from_bytes([0; 16]),
            channel: String::new(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::default(),
        };
        Scope {
            body: Arc::new(Body::Text(String::new())),
            meta,
            event: Arc::default(),
            each: None,
            tables: None,
            answer: None,
        }
    }

    /// The variables for a message, at one of its segments.
    pub fn at(message: &Message, each: Each) -> Scope {
        Scope { each: Some(each), ..Scope::new(message) }
    }

    pub(super) fn with_tables(&self, tables: &Tables) -> Value {
        Value::from_object(Scope { tables: Some(tables.clone()), ..self.clone() })
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.meta.id)
    }
}

/// The tables are the scope's own: the `lookup` filter reads them from the hidden variable of this name.
pub(super) const TABLES: &str = "__tables";

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "msg" => Some(Value::from_object(View { body: self.body.clone(), each: self.each.clone() })),
            "meta" => Some(Value::from(Serde(&self.meta))),
            "event" => Some(self.event.view()),
            "answer" => self.answer.clone(),
            "each" => self
                .each
                .as_ref()
                .map(|each| minijinja::context! { index => each.index, segment => each.segment.clone() }),
            TABLES => self.tables.clone().map(|tables| Value::from_object(TablesValue(tables))),
            _ => None,
        }
    }
}

/// The tables of an expression as a value.
#[derive(Debug)]
pub(super) struct TablesValue(pub(super) Tables);

impl Object for TablesValue {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// Names of what `meta` holds, for load-time checks.
pub(super) const META: &[&str] = &[
    "id",
    "channel",
    "received_at",
    "source",
    "peer",
    "action",
    "lab",
    "event_id",
    "charset",
    "csv",
    "part",
    "file_name",
    "scheduled_at",
    "parent",
    "reprocess_of",
    "reused_key",
    "stale_timestamp",
    "asked_by",
    "reason",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageIds, Origin, PartOf};

    #[test]
    fn all_that_meta_holds_is_named() {
        let id = MessageIds::default().next();
        let text = || Some("x".to_owned());
        let origin = Origin {
            source: "event".to_owned(),
            peer: text(),
            action: Some(1),
            lab: text(),
            event_id: text(),
            charset: Some("utf-8".into()),
            csv: Some(Box::default()),
            part: Some(Box::new(PartOf { of: id, number: 1, splits: 0 })),
            file_name: text(),
            scheduled_at: Some(jiff::Timestamp::UNIX_EPOCH),
            parent: Some(Box::new(crate::message::Parent {
                message: id,
                channel: "c".to_owned(),
                destination: "d".to_owned(),
            })),
            reused_key: true,
            stale_timestamp: true,
            reprocess_of: Some(id),
            asked_by: Some("x".into()),
            reason: Some("x".into()),
        };
        let meta = Meta { id, channel: "c".to_owned(), received_at: jiff::Timestamp::UNIX_EPOCH, origin };
        let json = serde_json::to_value(&meta).expect("JSON");
        let mut names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut known = META.to_vec();
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
