//! What an expression sees of a message.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Serde};
use minijinja::{Error, ErrorKind, State, Value};

use super::Tables;
use super::filters::FilterError;
use crate::hl7;
use crate::message::{Body, Event, Message, Meta};

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
}

impl Scope {
    /// The variables for a message.
    pub fn new(message: &Message) -> Scope {
        Scope {
            body: message.body.clone(),
            meta: message.meta.clone(),
            event: message.event.clone(),
            each: None,
            tables: None,
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

/// `msg`.
struct View {
    body: Arc<Body>,
    each: Option<Each>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("msg")
    }
}

impl View {
    fn path(&self, text: &str) -> Result<hl7::Path, Error> {
        let path: hl7::Path = text.parse().map_err(|error: hl7::PathError| filter_error(error.to_string()))?;
        Ok(match &self.each {
            Some(each) if path.occurrence().is_none() && path.segment() == each.segment => {
                path.with_occurrence(each.index)
            }
            _ => path,
        })
    }

    fn field(&self, message: &hl7::Message, path: &str) -> Result<Value, Error> {
        let path = self.path(path)?;
        let text = message.text(&path).map_err(|error| filter_error(format!("{path}: {error}")))?;
        Ok(Value::from(text.unwrap_or_default().into_owned()))
    }
}

impl Object for View {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &*self.body {
            Body::Hl7(message) => Some(self.field(message, key.as_str()?).unwrap_or_else(Value::from)),
            Body::Json(json) => match key.as_str() {
                Some(pointer) if pointer.starts_with('/') => {
                    json.pointer(pointer).map(|value| Value::from(Serde(value)))
                }
                Some(name) => json.get(name).map(|value| Value::from(Serde(value))),
                None => json.get(key.as_usize()?).map(|value| Value::from(Serde(value))),
            },
            Body::Text(_) => None,
        }
    }

    /// `msg.count('OBX')`: how many segments; `msg.all('OBX-5')`: the field in each of them; `msg.raw('PID-5')`: as it stands,
    /// still escaped; `msg.text()`: the whole body.
    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let argument = || args.first().and_then(Value::as_str).ok_or_else(|| Error::from(ErrorKind::MissingArgument));
        match (&*self.body, method) {
            (Body::Hl7(message), "count") => Ok(Value::from(message.count(argument()?))),
            (Body::Hl7(message), "all") => {
                let path = self.path(argument()?)?;
                let count = u32::try_from(message.count(path.segment())).unwrap_or(u32::MAX);
                (1..=count).map(|at| self.field(message, &path.with_occurrence(at).to_string())).collect()
            }
            (Body::Hl7(message), "raw") => {
                let path = self.path(argument()?)?;
                let raw = message.raw(&path).unwrap_or_default();
                Ok(Value::from(String::from_utf8_lossy(raw).into_owned()))
            }
            (Body::Text(text), "text") => Ok(Value::from(text.clone())),
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }
}

/// Names of the methods of `msg`, for load-time checks.
pub(super) const METHODS: &[&str] = &["count", "all", "raw", "text"];

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
    "file_name",
    "scheduled_at",
    "parent",
    "reprocess_of",
    "reused_key",
    "asked_by",
    "reason",
];

fn filter_error(message: String) -> Error {
    FilterError(message).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageIds, Origin};

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
            file_name: text(),
            scheduled_at: Some(jiff::Timestamp::UNIX_EPOCH),
            parent: Some(Box::new(crate::message::Parent {
                message: id,
                channel: "c".to_owned(),
                destination: "d".to_owned(),
            })),
            reused_key: true,
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
