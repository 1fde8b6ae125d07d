//! The envelope of an event, `{action, lab, id?, data}`: read strictly, because what is lost here is lost without a trace.

use std::fmt;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// An event's own id may be so long, in bytes.
const MAX_ID_BYTES: usize = 200;

/// Something wrong with an event. Names places, never content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventProblem {
    /// Where: a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// What an event says beside its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What happened.
    pub action: u16,
    /// The lab for whom it happened.
    pub lab: String,
    /// The event's own id.
    pub id: Option<String>,
}

/// Reads an event. Refused beside what is no event: a key that is given twice (RFC 8259 leaves open which one counts), and a
/// number that would come out as another one (RFC 8259, section 6: what is beyond an IEEE 754 double is not interoperable).
/// The notation of a number is not kept: `250.10` is `250.1`.
pub fn read(body: &[u8]) -> Result<(Value, Envelope), Vec<EventProblem>> {
    let whole = |message: String| vec![EventProblem { pointer: String::new(), message }];
    let Strict(event) = serde_json::from_slice(body).map_err(|error| match error.classify() {
        // Our own words: no content is in them.
        serde_json::error::Category::Data => whole(error.to_string()),
        _ => whole(format!("this is not JSON: line {}, column {}", error.line(), error.column())),
    })?;
    if let Some(offset) = number_that_changes(body) {
        let before = &body[..offset];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        return Err(whole(format!(
            "the number at line {line} column {column} has more digits than a number can keep: send it as text"
        )));
    }
    let envelope = check(&event)?;
    Ok((event, envelope))
}

fn check(event: &Value) -> Result<Envelope, Vec<EventProblem>> {
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
    let action = action.filter(|id| super::find(*id).is_some());
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
        (Some(action), Some(lab), Some(id)) if problems.is_empty() => Ok(Envelope { action, lab: lab.to_owned(), id }),
        _ => Err(problems),
    }
}

/// JSON in which no object has a key twice. `serde_json` keeps the last and forgets the others.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if object.insert(key, value).is_some() {
                return Err(de::Error::custom("a key is given twice in one object"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Where in JSON the first number is that a 64-bit integer or a double cannot hold.
fn number_that_changes(json: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while json.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let of_number = |byte: &&u8| matches!(**byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = json[at..].iter().take_while(of_number).count();
                let text = std::str::from_utf8(&json[at..at + length]).unwrap_or_default();
                if !survives(text) {
                    return Some(at);
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    None
}

fn survives(number: &str) -> bool {
    if !number.contains(['.', 'e', 'E']) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    number.parse::<f64>().is_ok_and(|double| decimal(number) == decimal(&format!("{double:e}")))
}

/// The digits that count and the power of ten of the last: the same for all notations of a decimal number.
fn decimal(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('-').trim_start_matches('0');
    let counted = digits.trim_end_matches('0');
    if counted.is_empty() {
        return (String::new(), 0);
    }
    let exponent = exponent.parse::<i64>().unwrap_or(0);
    let shift = (digits.len() - counted.len()) as i64 - fraction.len() as i64;
    (counted.to_owned(), exponent.saturating_add(shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found_with_its_pointer() {
        let pointers = |text: &str| -> Vec<String> {
            read(text.as_bytes()).err().unwrap_or_default().into_iter().map(|problem| problem.pointer).collect()
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

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let text = r#"{"action":49,"lab":"a\"\\b","data":{"a":[1,-2,3.5,1e3,null,true,"x",{}],"b":{"a":1}}}"#;
        let (event, _) = read(text.as_bytes()).expect("an event");
        assert_eq!(event, serde_json::from_str::<Value>(text).expect("JSON"));
    }

    #[test]
    fn a_number_is_kept_or_refused_with_its_place() {
        let message = |number: &str| {
            let event = format!("{{\"action\":49,\"lab\":\"a \\\" 1e\",\n\"data\":{{\"n\":{number}}}}}");
            read(event.as_bytes()).err().map(|problems| problems[0].message.clone())
        };
        for number in [
            "0",
            "-0",
            "250.10",
            "0.1",
            "1e3",
            "1.50E-2",
            "0.0",
            "-12.30",
            "18446744073709551615",
            "-9223372036854775808",
            "123456789012.345",
            "5e-324",
            "100.0e+1",
        ] {
            assert_eq!(message(number), None, "{number}");
        }
        for number in
            ["12345678901234567890123", "-9223372036854775809", "0.1234567890123456789", "1e-400", "9007199254740993.0"]
        {
            let message = message(number).unwrap_or_default();
            assert!(message.starts_with("the number at line 2 column 13"), "{number}: {message}");
        }
    }

    #[test]
    fn a_key_that_is_given_twice_is_refused() {
        for text in [
            r#"{"action":49,"action":50,"lab":"a","data":{}}"#,
            r#"{"action":49,"lab":"a","data":{"a":[{"secret":1,"secret":1}]}}"#,
        ] {
            let problems = read(text.as_bytes()).expect_err("a key is there twice");
            assert!(problems[0].message.starts_with("a key is given twice"), "{problems:?}");
            assert!(!problems[0].message.contains("secret"), "{problems:?}");
        }
    }
}
