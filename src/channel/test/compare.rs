//! What differs between what was sent and what should have been: field by field where it is HL7.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::run::Failure;
use crate::hl7;
use crate::message::{Body, Format, Origin, XmlPath};

/// More differences than this are not listed: a wrong file differs everywhere.
const MAX_DIFFERENCES: usize = 20;

/// Compares the values at the paths of a `sent` table.
pub(super) fn fields(place: &str, expected: &[(String, String)], sent: &Bytes) -> Vec<Failure> {
    let message = hl7::Message::parse(sent.clone(), &hl7::Limits::default());
    let json: Option<Value> = serde_json::from_slice(sent).ok();
    let xml = match Body::read(sent, Format::Xml, &Origin::default(), &hl7::Limits::default()) {
        Ok(Body::Xml(xml)) => Some(xml),
        _ => None,
    };
    let mut failures = Vec::new();
    for (path, value) in expected {
        let found = match (path.parse::<hl7::Path>(), &message, &json) {
            (Ok(path), Ok(message), _) => {
                message.text(&path).map(|text| text.unwrap_or_default().into_owned()).map_err(|error| error.to_string())
            }
            (Ok(_), Err(error), _) => Err(format!("what was sent is not HL7: {error}")),
            (Err(_), _, Some(json)) => Ok(match json.pointer(path) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            }),
            (Err(_), _, None) => match (xml.as_ref(), path.parse::<XmlPath>()) {
                (Some(xml), Ok(path)) => Ok(xml.values(&path).into_iter().next().unwrap_or_default()),
                (Some(_), Err(problem)) => Err(problem.to_owned()),
                (None, _) => Err("what was sent is neither JSON nor XML".to_owned()),
            },
        };
        match found {
            Ok(found) if found == *value => {}
            Ok(found) => failures.push(failure(format!("{place} {path}"), quoted(value), quoted(&found))),
            Err(problem) => failures.push(failure(format!("{place} {path}"), quoted(value), problem)),
        }
    }
    failures
}

/// Compares whole contents that are known to differ.
pub(super) fn contents(place: &str, expected: &Arc<[u8]>, sent: &Bytes) -> Vec<Failure> {
    let parse = |bytes: Bytes| hl7::Message::parse(bytes, &hl7::Limits::default()).ok();
    let differences = match (parse(Bytes::copy_from_slice(expected)), parse(sent.clone())) {
        (Some(expected), Some(sent)) => segments(place, &expected, &sent),
        _ => lines(place, expected, sent),
    };
    if differences.is_empty() {
        let sizes = |bytes: usize| format!("{bytes} bytes");
        return vec![failure(format!("{place} (line ends)"), sizes(expected.len()), sizes(sent.len()))];
    }
    differences
}

fn segments(place: &str, expected: &hl7::Message, sent: &hl7::Message) -> Vec<Failure> {
    let split = |message: &hl7::Message| -> Vec<Vec<String>> {
        let separator = char::from(message.separators().field);
        message
            .segments()
            .map(|segment| String::from_utf8_lossy(segment.raw()).split(separator).map(str::to_owned).collect())
            .collect()
    };
    let (expected, sent) = (split(expected), split(sent));
    let mut failures = Vec::new();
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for at in 0..expected.len().max(sent.len()) {
        let empty = Vec::new();
        let (left, right) = (expected.get(at).unwrap_or(&empty), sent.get(at).unwrap_or(&empty));
        let name = left.first().or(right.first()).cloned().unwrap_or_default();
        let occurrence = seen.entry(name.clone()).or_default();
        *occurrence += 1;
        if left.first() != right.first() {
            let shown =
                |fields: &Vec<String>| fields.first().map_or("nothing".to_owned(), |_| quoted(&fields.join("|")));
            failures.push(failure(format!("{place} segment {}", at + 1), shown(left), shown(right)));
            continue;
        }
        let offset = usize::from(name == "MSH");
        for field in 1..left.len().max(right.len()) {
            let (one, other) =
                (left.get(field).map_or("", String::as_str), right.get(field).map_or("", String::as_str));
            if one != other {
                failures.push(failure(
                    format!("{place} {name}[{occurrence}]-{}", field + offset),
                    quoted(one),
                    quoted(other),
                ));
            }
        }
    }
    failures.truncate(MAX_DIFFERENCES);
    failures
}

fn lines(place: &str, expected: &[u8], sent: &[u8]) -> Vec<Failure> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (expected, sent) = (text(expected), text(sent));
    let (mut left, mut right) = (expected.lines(), sent.lines());
    let mut failures = Vec::new();
    for line in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (one, other) if one != other => {
                let shown = |line: Option<&str>| line.map_or("nothing".to_owned(), quoted);
                failures.push(failure(format!("{place} line {line}"), shown(one), shown(other)));
            }
            _ => {}
        }
    }
    failures.truncate(MAX_DIFFERENCES);
    failures
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "nothing".to_owned() } else { format!("`{text}`") }
}

fn failure(place: String, expected: String, found: String) -> Failure {
    Failure { place, expected, found }
}
