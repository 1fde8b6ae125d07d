//! The place in a message that a step works on: an HL7 path or a JSON pointer (RFC 6901).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use toml::Spanned;

use super::{PointerProblem, StepError, hl7_body, hl7_body_mut, json_body, json_body_mut};
use crate::config::{self, Entry};
use crate::expr::{Each, hl7_line_breaks};
use crate::hl7;
use crate::message::Message;

/// A place in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `PID-5.1`.
    Hl7(hl7::Path),
    /// `/patient/name`; within `each`, `*` stands for the element's index.
    Pointer(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Hl7(path) => path.fmt(f),
            Target::Pointer(pointer) => f.write_str(pointer),
        }
    }
}

impl Target {
    /// Reads a place; a mistake is reported within `span`.
    pub(super) fn parse(text: &str, span: &Range<usize>) -> Option<Target> {
        if text.starts_with('/') {
            return Some(Target::Pointer(text.to_owned()));
        }
        match text.parse::<hl7::Path>() {
            Ok(path) => Some(Target::Hl7(path)),
            Err(error) => {
                let place = config::text_place(span, text, error.offset.min(text.len())..text.len());
                config::report(place, format!("`{text}` is not an HL7 path"), error.message, error.help);
                None
            }
        }
    }

    /// A place that can be written: a field, and not the delimiters themselves.
    pub(super) fn parse_writable(text: &str, span: &Range<usize>) -> Option<Target> {
        let target = Target::parse(text, span)?;
        if target == Target::Pointer("/".to_owned()) {
            let help = Some("name the member, as in `/patient/name`".to_owned());
            config::report(span.clone(), "`/` names a member whose name is empty", "", help);
            return None;
        }
        if let Target::Hl7(path) = &target {
            let problem = match (path.segment(), path.field()) {
                (_, None) => "names a whole segment: a field is expected, as in `PID-5`",
                ("MSH", Some(1 | 2)) => "holds the delimiters of the whole message and cannot be changed",
                _ => return Some(target),
            };
            config::report(span.clone(), format!("`{text}` {problem}"), "", None);
            return None;
        }
        Some(target)
    }

    /// The value of `each`: a segment's name or a pointer to an array.
    pub(super) fn parse_each(entry: &Entry<'_>) -> Option<Target> {
        let text = entry.text()?;
        let target = Target::parse(text.get_ref(), &text.span())?;
        match &target {
            Target::Hl7(path) if path.field().is_some() || path.occurrence().is_some() => {
                let help = format!("write `each = \"{}\"`", path.segment());
                config::report(
                    text.span(),
                    format!("`each` needs a segment, `{path}` is more than that"),
                    "",
                    Some(help),
                );
                None
            }
            _ => Some(target),
        }
    }

    /// The place at the segment or element that an `each` step is at.
    pub(super) fn at(&self, each: Option<&Each>) -> Target {
        match (self, each) {
            (Target::Hl7(path), Some(each)) if path.occurrence().is_none() && path.segment() == each.segment => {
                Target::Hl7(path.with_occurrence(each.index))
            }
            (Target::Pointer(pointer), Some(each)) => {
                let star = format!("{}/*", each.segment);
                match pointer.strip_prefix(&star).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                    Some(rest) => Target::Pointer(format!("{}/{}{rest}", each.segment, each.index)),
                    None => self.clone(),
                }
            }
            _ => self.clone(),
        }
    }

    /// Whether this is a pointer with a `*` that stands for no index: only the array that `each` names gives it one.
    pub(super) fn has_loose_star(&self, each: Option<&Target>) -> bool {
        let Target::Pointer(pointer) = self else { return false };
        let rest = match each {
            Some(Target::Pointer(each)) => pointer.strip_prefix(&format!("{each}/*")).unwrap_or(pointer),
            _ => pointer,
        };
        rest.split('/').skip(usize::from(rest.starts_with('/'))).any(|name| name == "*")
            || (rest.len() < pointer.len() && !rest.is_empty() && !rest.starts_with('/'))
    }

    /// The text at the place; empty where there is nothing.
    pub(super) fn text(&self, message: &Message) -> Result<String, StepError> {
        match self {
            Target::Hl7(path) => {
                let text = hl7_body(message, self)?.text(path);
                let text = text.map_err(|error| StepError::Charset { path: path.to_string(), error })?;
                Ok(text.unwrap_or_default().into_owned())
            }
            Target::Pointer(pointer) => Ok(match json_body(message, self)?.pointer(pointer) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            }),
        }
    }

    /// Writes text to the place, escaped for the message's format.
    pub(super) fn set(&self, message: &mut Message, text: &str) -> Result<(), StepError> {
        match self {
            Target::Hl7(path) => {
                let body = hl7_body_mut(message, self)?;
                let text = hl7_line_breaks(text, body.separators());
                body.set(path, &text).map_err(|error| StepError::Edit { path: path.to_string(), error })
            }
            Target::Pointer(pointer) => {
                *place(json_body_mut(message, self)?, pointer)? = Value::String(text.to_owned());
                Ok(())
            }
        }
    }

    /// Takes out what is at the place.
    pub(super) fn delete(&self, message: &mut Message) -> Result<(), StepError> {
        match self {
            Target::Hl7(path) => {
                let body = hl7_body_mut(message, self)?;
                body.delete(path).map(drop).map_err(|error| StepError::Edit { path: path.to_string(), error })
            }
            Target::Pointer(pointer) => {
                let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
                match json_body_mut(message, self)?.pointer_mut(parent) {
                    Some(Value::Object(object)) => drop(object.shift_remove(&unescape(name))),
                    Some(Value::Array(array)) => {
                        if let Some(index) = name.parse::<usize>().ok().filter(|index| *index < array.len()) {
                            array.remove(index);
                        }
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

/// The value at a pointer, with the objects on the way made where they are missing. `-` appends to an array (RFC 6901 §4,
/// RFC 6902 §4.1). What is there and is neither object nor array is never replaced by one.
pub(super) fn place<'v>(root: &'v mut Value, pointer: &str) -> Result<&'v mut Value, StepError> {
    let problem = |problem| StepError::Pointer { path: pointer.to_owned(), problem };
    let mut value = root;
    for name in pointer.split('/').skip(1).map(unescape) {
        if value.is_null() {
            *value = Value::Object(serde_json::Map::new());
        }
        value = match value {
            Value::Object(object) => object.entry(name).or_insert(Value::Null),
            Value::Array(array) => {
                let length = array.len();
                let index = if name == "-" {
                    array.push(Value::Null);
                    length
                } else {
                    index(&name).ok_or_else(|| problem(PointerProblem::NoIndex))?
                };
                array.get_mut(index).ok_or_else(|| problem(PointerProblem::OutOfRange { length }))?
            }
            _ => return Err(problem(PointerProblem::NoParent)),
        };
    }
    Ok(value)
}

/// An index into an array: digits without leading zeros.
fn index(name: &str) -> Option<usize> {
    let digits = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if digits { name.parse().ok() } else { None }
}

/// A place that is read or deleted.
impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Target::parse(text.get_ref(), &text.span()).unwrap_or(Target::Pointer(String::new())))
    }
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Field".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "An HL7 path (PID-5.1, OBX[2]-5) or a JSON pointer (/patient/name)." })
    }
}
