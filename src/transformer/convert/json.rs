//! HL7 as JSON: `{"segments": [{"segment": "PID", "3": "A1", "5": {"1": "Nagy", "2": "Ilona"}, "13": ["1", "2"]}]}`.
//!
//! A field is text; an object where it has components, by their numbers; an array where it has repetitions. A component with
//! subcomponents is an object again. What is empty is left out, but for the last one: it tells how many there are, so that the
//! same message is made again, byte for byte.

use serde_json::{Map, Value};

use super::failed;
use super::tree::{Field, Segment, is_name, value};
use crate::transformer::StepError;

/// The key of a segment's name.
const NAME: &str = "segment";
/// The key of the list of segments.
const SEGMENTS: &str = "segments";
/// Fields, components and repetitions, at most: a number may stand for so many empty ones before it.
const MAX_NUMBER: usize = 10_000;

pub(super) fn of(segments: &[Segment]) -> Value {
    let of_segment = |segment: &Segment| {
        let mut members = Map::new();
        members.insert(NAME.to_owned(), Value::String(segment.name.clone()));
        members.extend(numbered(&segment.fields, of_field));
        Value::Object(members)
    };
    let segments = segments.iter().map(of_segment).collect();
    Value::Object(Map::from_iter([(SEGMENTS.to_owned(), Value::Array(segments))]))
}

/// What is not empty, and the last one, by their numbers.
fn numbered<T>(pieces: &[T], of: impl Fn(&T) -> Value) -> Map<String, Value> {
    let mut members = Map::new();
    for (number, piece) in (1..).zip(pieces) {
        let value = of(piece);
        if number == pieces.len() || value != Value::String(String::new()) {
            members.insert(number.to_string(), value);
        }
    }
    members
}

fn of_field(field: &Field) -> Value {
    match field.as_slice() {
        [repetition] => of_repetition(repetition),
        repetitions => Value::Array(repetitions.iter().map(|repetition| of_repetition(repetition)).collect()),
    }
}

fn of_repetition(repetition: &[Vec<String>]) -> Value {
    match repetition {
        [component] if component.len() == 1 => Value::String(component[0].clone()),
        components => Value::Object(numbered(components, |component| of_component(component))),
    }
}

fn of_component(component: &[String]) -> Value {
    match component {
        [value] => Value::String(value.clone()),
        values => Value::Object(numbered(values, |value| Value::String(value.clone()))),
    }
}

pub(super) fn to_tree(json: &Value) -> Result<Vec<Segment>, StepError> {
    let segments = json.get(SEGMENTS).and_then(Value::as_array);
    let segments = segments.ok_or_else(|| failed("there is no list `/segments`"))?;
    (0..).zip(segments).map(|(at, segment)| to_segment(segment, &format!("/{SEGMENTS}/{at}"))).collect()
}

fn to_segment(json: &Value, place: &str) -> Result<Segment, StepError> {
    let members = json.as_object().ok_or_else(|| failed(format!("{place} is no object")))?;
    let name = members.get(NAME).and_then(Value::as_str).filter(|name| is_name(name));
    let name = name.ok_or_else(|| failed(format!("{place}/{NAME} is not the name of a segment")))?;
    let fields = members.iter().filter(|(key, _)| *key != NAME);
    let fields = in_order(fields, place, value(""), to_field)?;
    Ok(Segment { name: name.to_owned(), fields })
}

/// Members whose keys are numbers, as a list without gaps.
fn in_order<'j, T: Clone>(
    members: impl Iterator<Item = (&'j String, &'j Value)>,
    place: &str,
    empty: T,
    read: impl Fn(&Value, &str) -> Result<T, StepError>,
) -> Result<Vec<T>, StepError> {
    let mut list = Vec::new();
    for (key, member) in members {
        let number = key.parse::<usize>().ok().filter(|number| (1..=MAX_NUMBER).contains(number));
        // A key may hold anything: it is not repeated in an error.
        let number =
            number.ok_or_else(|| failed(format!("{place} has a key that is no number from 1 to {MAX_NUMBER}")))?;
        if list.len() < number {
            list.resize(number, empty.clone());
        }
        list[number - 1] = read(member, &format!("{place}/{number}"))?;
    }
    Ok(list)
}

fn to_field(json: &Value, place: &str) -> Result<Field, StepError> {
    match json {
        Value::Array(repetitions) if repetitions.is_empty() => Ok(value("")),
        Value::Array(repetitions) => {
            (0..).zip(repetitions).map(|(at, json)| to_repetition(json, &format!("{place}/{at}"))).collect()
        }
        one => Ok(vec![to_repetition(one, place)?]),
    }
}

fn to_repetition(json: &Value, place: &str) -> Result<Vec<Vec<String>>, StepError> {
    match json {
        Value::Object(components) if !components.is_empty() => {
            in_order(components.iter(), place, vec![String::new()], to_component)
        }
        other => Ok(vec![vec![to_text(other, place)?]]),
    }
}

fn to_component(json: &Value, place: &str) -> Result<Vec<String>, StepError> {
    match json {
        Value::Object(values) if !values.is_empty() => in_order(values.iter(), place, String::new(), to_text),
        other => Ok(vec![to_text(other, place)?]),
    }
}

fn to_text(json: &Value, place: &str) -> Result<String, StepError> {
    match json {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(json.to_string()),
        Value::Array(_) | Value::Object(_) => {
            Err(failed(format!("{place} goes deeper than HL7 does: a value is expected there")))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tree;
    use super::*;
    use crate::hl7;

    fn parse(bytes: &[u8]) -> hl7::Message {
        hl7::Message::parse(bytes.to_vec(), &hl7::Limits::default()).expect("HL7")
    }

    fn there(bytes: &[u8]) -> Value {
        of(&tree::of(&parse(bytes)).expect("taken apart"))
    }

    fn back(json: &Value) -> Result<Vec<u8>, String> {
        let made = to_tree(json).and_then(|segments| tree::to_hl7(&segments));
        made.map(|message| message.to_bytes().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_it_looks_like() {
        let message = b"MSH|^~\\&|LAB||||||ORU^R01|1|P|2.5\rPID|1||A1^^^H&1.2&ISO~B2||Nagy^\\T\\^||\"\"|\rNK1\r";
        let expected = serde_json::json!({ "segments": [
            { "segment": "MSH", "1": "|", "2": "^~\\&", "3": "LAB", "9": { "1": "ORU", "2": "R01" }, "10": "1", "11": "P", "12": "2.5" },
            { "segment": "PID", "1": "1", "3": [{ "1": "A1", "4": { "1": "H", "2": "1.2", "3": "ISO" } }, "B2"],
              "5": { "1": "Nagy", "2": "&", "3": "" }, "7": "\"\"", "8": "" },
            { "segment": "NK1" },
        ] });
        assert_eq!(there(message), expected);
        assert_eq!(back(&expected).expect("HL7"), message);
    }

    #[test]
    fn written_in_the_set_that_msh_18_names() {
        for (set, name) in [
            ("8859/1", &b"\xe9"[..]),
            ("Shift_JIS", b"\x83\x7c"),
            ("UNICODE UTF-8", "é".as_bytes()),
            ("", "é".as_bytes()),
        ] {
            let message = [b"MSH|^~\\&|A|||||||1|P|2.5||||||", set.as_bytes(), b"\rPID|1||||", name, b"\r"].concat();
            assert_eq!(back(&there(&message)).expect("HL7"), message, "{set}");
        }
        let mut json = there(b"MSH|^~\\&|A|||||||1|P|2.5||||||8859/1\rPID|1\r");
        json["segments"][1]["5"] = "aé€".into();
        let error = back(&json).expect_err("not in the set");
        assert_eq!(
            error,
            "it cannot be converted: PID (segment 2): character 12 does not exist in ISO-8859-1, which MSH-18 names"
        );
    }

    #[test]
    fn what_is_no_hl7() {
        let msh = serde_json::json!({ "segment": "MSH", "1": "|", "2": "^~\\&" });
        for (second, problem) in [
            (serde_json::json!("secret"), "/segments/1 is no object"),
            (serde_json::json!({ "segment": "secret" }), "/segments/1/segment is not the name of a segment"),
            (serde_json::json!({ "segment": "PID", "secret": "x" }), "/segments/1 has a key that is no number"),
            (serde_json::json!({ "segment": "PID", "0": "x" }), "has a key that is no number"),
            (serde_json::json!({ "segment": "PID", "10001": "x" }), "has a key that is no number"),
            (
                serde_json::json!({ "segment": "PID", "3": { "1": { "1": { "1": "secret" } } } }),
                "/segments/1/3/1/1 goes deeper",
            ),
            (serde_json::json!({ "segment": "PID", "3": [["secret"]] }), "/segments/1/3/0 goes deeper"),
            (serde_json::json!({ "segment": "MSH" }), "MSH (segment 2) begins or ends a message"),
        ] {
            let error = back(&serde_json::json!({ "segments": [msh.clone(), second] })).expect_err(problem);
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
        assert!(back(&serde_json::json!({})).expect_err("none").contains("there is no list `/segments`"));
        assert!(
            back(&serde_json::json!({ "segments": [] })).expect_err("none").contains("the first segment is not MSH")
        );
        let loose =
            serde_json::json!({ "segments": [{ "segment": "MSH", "5": 7, "6": true, "7": null, "8": [], "9": {} }] });
        assert!(back(&loose).expect_err("an empty object").contains("goes deeper"));
    }

    /// A value as it stands in HL7: any text, escaped as it is usually done.
    fn values() -> impl Strategy<Value = String> {
        let text = prop_oneof![4 => "[ -~]{0,6}", 1 => "[a-zé€中\\r\\n|^~&\\\\]{0,6}"];
        let separators = hl7::Separators::default();
        // Text that happens to look like formatting cannot be told from formatting once it is unescaped.
        text.prop_map(move |text| hl7::escape(&text, &separators).into_owned()).prop_filter(
            "told from formatting",
            move |raw| {
                let separators = hl7::Separators::default();
                hl7::escape(&hl7::unescape(raw, &separators), &separators) == *raw
            },
        )
    }

    fn fields() -> impl Strategy<Value = String> {
        let components = proptest::collection::vec(values(), 1..3).prop_map(|values| values.join("&"));
        let repetitions = proptest::collection::vec(components, 1..4).prop_map(|components| components.join("^"));
        proptest::collection::vec(repetitions, 1..3).prop_map(|repetitions| repetitions.join("~"))
    }

    /// Real messages, read in place: what comes back differs only where an escape sequence was not the usual one.
    #[test]
    fn real_messages_there_and_back() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/messages");
        let (mut same, mut unusual, mut refused, mut open) = (0, 0, 0, vec![folder]);
        while let Some(folder) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                // Without the corpora there is nothing to compare with.
                return;
            };
            for path in entries.map(|entry| entry.expect("an entry").path()) {
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).expect("a file");
                let lines = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).filter(|line| !line.is_empty());
                let bytes: Vec<u8> = lines.flat_map(|line| [line, b"\r"].concat()).collect();
                let Ok(message) = hl7::Message::parse(bytes.clone(), &hl7::Limits::default()) else { continue };
                let Ok(segments) = tree::of(&message) else {
                    refused += 1;
                    continue;
                };
                match back(&of(&segments)) {
                    Ok(found) if found == bytes => same += 1,
                    // A second time nothing changes any more.
                    Ok(found) => {
                        assert_eq!(back(&there(&found)).as_ref(), Ok(&found), "{}", path.display());
                        unusual += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(same > 10 * (unusual + refused), "{same} as they were, {unusual} otherwise, {refused} refused");
    }

    proptest! {
        #[test]
        fn there_and_back_byte_for_byte(
            segments in proptest::collection::vec(("[A-Z][A-Z0-9]{2}", proptest::collection::vec(fields(), 0..6)), 0..6)
        ) {
            let mut text = "MSH|^~\\&|A|||||||1|P|2.5\r".to_owned();
            for (name, fields) in segments.iter().filter(|(name, _)| !["MSH", "FHS", "BHS", "BTS", "FTS"].contains(&name.as_str())) {
                text.push_str(name);
                fields.iter().for_each(|field| { text.push('|'); text.push_str(field); });
                text.push('\r');
            }
            let bytes = text.into_bytes();
            prop_assert_eq!(back(&there(&bytes)).expect("HL7"), bytes);
        }
    }
}
