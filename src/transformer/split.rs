//! `split`: one message becomes several, each of which goes on by itself.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{Step, StepError, StepKind, Verdict};
use crate::config::{self, Entry};
use crate::expr::Each;
use crate::hl7;
use crate::message::{Body, Csv, MAX_PARTS, Message, MessageId, Xml, XmlPath};

pub(super) const KIND: StepKind = StepKind {
    name: "split",
    summary: "Makes several messages of one, each with deliveries of its own: the elements at a place in JSON (/orders) or XML (/orders/order), those of a JSON array (elements), the rows of CSV (rows), lines of text (lines), lines of JSON (ndjson), or groups of HL7 segments (ORC).",
    example: "split = \"/orders\"\n",
    schema,
    parse,
};

/// All parts of a message together, in bytes: what stands in each of them is written once for each.
const MAX_BYTES: usize = 64 << 20;
/// MSH-10 holds no more up to HL7 v2.6.
const MAX_CONTROL_ID: usize = 20;

#[derive(Debug)]
enum Split {
    /// The elements of the array that the message is.
    Elements,
    /// The elements at a JSON pointer, or at a path into XML.
    At(String, Option<XmlPath>),
    Rows,
    Lines,
    Ndjson,
    /// A group begins with each segment of this name.
    Groups(String),
}

/// The words that stand for themselves.
const WORDS: &[&str] = &["elements", "rows", "lines", "ndjson"];

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "description": "Where to split: \"/orders\" (the elements of an array in JSON, or the elements of this path in XML), \"elements\" (of a JSON array), \"rows\" (of CSV), \"lines\" (of text), \"ndjson\" (lines of JSON), or the segment that each group of HL7 segments begins with, as in \"ORC\".",
    })
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let text = entry.text()?;
    let split = match text.get_ref().as_str() {
        "elements" => Split::Elements,
        "rows" => Split::Rows,
        "lines" => Split::Lines,
        "ndjson" => Split::Ndjson,
        place if place.starts_with('/') => {
            let path: Option<XmlPath> = place.parse().ok();
            if path.as_ref().is_some_and(XmlPath::is_attribute) {
                config::report(text.span(), format!("`{place}` leads to an attribute: elements are split"), "", None);
                return None;
            }
            Split::At(place.to_owned(), path)
        }
        name => match name.parse::<hl7::Path>() {
            Ok(path) if path.field().is_none() && path.occurrence().is_none() && name != "MSH" => {
                Split::Groups(name.to_owned())
            }
            _ => {
                let message = format!("nothing can be split at `{name}`");
                config::unknown_word(text.span(), message, name, WORDS);
                return None;
            }
        },
    };
    Some(Box::new(split))
}

impl Step for Split {
    fn splits(&self) -> bool {
        true
    }

    fn apply(&self, message: &mut Message, _: Option<&Each>) -> Result<Verdict, StepError> {
        let parts = match (self, &*message.body) {
            (Split::Elements, Body::Json(json)) => elements(json, "the message")?,
            (Split::At(pointer, _), Body::Json(json)) => {
                elements(json.pointer(pointer).unwrap_or(&Value::Null), pointer)?
            }
            (Split::At(_, Some(path)), Body::Xml(xml)) => of_xml(xml, path)?,
            (Split::Rows, Body::Csv(csv)) => rows(csv),
            (Split::Lines, Body::Text(text)) => lines(text).map(|(_, line)| Body::Text(line.to_owned())).collect(),
            (Split::Ndjson, Body::Text(text)) => lines(text).map(json).collect::<Result<_, _>>()?,
            (Split::Groups(name), Body::Hl7(whole)) => groups(whole, name, message.meta.id)?,
            (_, body) => {
                let format = body.format().name();
                return Err(StepError::Split(format!(
                    "the message is {format} at this step, and this is not for {format}"
                )));
            }
        };
        if parts.len() > MAX_PARTS {
            return Err(StepError::Split(format!("there are more than {MAX_PARTS} parts")));
        }
        if size(&parts) > MAX_BYTES {
            return Err(StepError::Split(format!("the parts have more than {} MiB together", MAX_BYTES >> 20)));
        }
        Ok(Verdict::Split(parts))
    }
}

/// The bytes of HL7 parts, which repeat what stands before the groups; other parts are no more than the whole.
fn size(parts: &[Body]) -> usize {
    parts.iter().map(|part| if let Body::Hl7(message) = part { message.len() } else { 0 }).sum()
}

fn elements(value: &Value, place: &str) -> Result<Vec<Body>, StepError> {
    match value {
        Value::Array(elements) => Ok(elements.iter().cloned().map(Body::Json).collect()),
        _ => Err(StepError::Split(format!("{place} is no array"))),
    }
}

fn of_xml(xml: &Xml, path: &XmlPath) -> Result<Vec<Body>, StepError> {
    let parts = xml.elements(path).into_iter().map(|element| xml.part(element).map(Body::Xml));
    parts.collect::<Result<_, _>>().map_err(|error| StepError::Split(error.to_string()))
}

fn rows(csv: &Csv) -> Vec<Body> {
    (0..csv.rows().len()).map(|row| Body::Csv(csv.part(row))).collect()
}

/// Lines that hold something, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

fn json((number, line): (usize, &str)) -> Result<Body, StepError> {
    let read = serde_json::from_str(line);
    read.map(Body::Json)
        .map_err(|error| StepError::Split(format!("line {number} is not JSON: column {}", error.column())))
}

/// The segments before the first group stand in each part. Each part is a message of its own, so that it has an MSH-10 of its
/// own: a receiver would take the second one for the first sent again.
fn groups(whole: &hl7::Message, name: &str, id: MessageId) -> Result<Vec<Body>, StepError> {
    let failed = |error: String| StepError::Split(error);
    let segments = whole.segments().enumerate();
    let (mut starts, mut count) = (Vec::new(), 0);
    for (at, segment) in segments {
        if segment.name() == name.as_bytes() {
            starts.push(at);
        }
        count = at + 1;
    }
    let Some(head) = starts.first().copied() else { return Ok(Vec::new()) };
    let path: hl7::Path = "MSH-10".parse().expect("a valid path");
    let control_id = whole.text(&path).ok().flatten().unwrap_or_default().into_owned();
    let mut parts = Vec::with_capacity(starts.len().min(MAX_PARTS));
    let mut bytes = 0;
    for (number, start) in (1..).zip(&starts) {
        let end = starts.get(number as usize).copied().unwrap_or(count);
        let mut part = whole.excerpt([0..head, *start..end]).map_err(|error| failed(error.to_string()))?;
        let numbered = format!("{control_id}.{number}");
        let is_short = !control_id.is_empty() && numbered.len() <= MAX_CONTROL_ID;
        let new = if is_short { numbered } else { id.part(number).short() };
        part.set(&path, &new).map_err(|error| failed(error.to_string()))?;
        bytes += part.len();
        parts.push(Body::Hl7(part));
        if parts.len() > MAX_PARTS || bytes > MAX_BYTES {
            break;
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Dialect, MessageIds, Meta, Origin};

    fn split(split: &Split, body: Body) -> Result<Vec<Body>, String> {
        let meta = Meta {
            id: MessageIds::default().next(),
            channel: "c".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::default(),
        };
        let mut message = Message { meta, body: Arc::new(body), event: Arc::default() };
        match split.apply(&mut message, None).map_err(|error| error.to_string())? {
            Verdict::Split(parts) => Ok(parts),
            other => panic!("{other:?}"),
        }
    }

    fn texts(parts: Vec<Body>) -> Vec<String> {
        parts.iter().map(|part| String::from_utf8(part.to_bytes().to_vec()).expect("UTF-8")).collect()
    }

    #[test]
    fn rows_have_the_header_each() {
        let csv = Csv::parse("id;name\n1;\"a;b\"\n2;c\n", Dialect { delimiter: ';', header: true }).expect("CSV");
        let parts = split(&Split::Rows, Body::Csv(csv)).expect("rows");
        assert_eq!(texts(parts), ["id;name\r\n1;\"a;b\"\r\n", "id;name\r\n2;c\r\n"]);
    }

    #[test]
    fn elements_of_the_whole() {
        let parts = split(&Split::Elements, Body::Json(serde_json::json!([1, "x", [2]]))).expect("elements");
        assert_eq!(texts(parts), ["1", "\"x\"", "[2]"]);
    }

    #[test]
    fn no_more_parts_and_bytes_than_the_limits() {
        let lines = |count| Body::Text("x\n".repeat(count));
        assert_eq!(split(&Split::Lines, lines(MAX_PARTS)).expect("at the limit").len(), MAX_PARTS);
        let error = split(&Split::Lines, lines(MAX_PARTS + 1)).expect_err("too many");
        assert_eq!(error, "it cannot be split: there are more than 10000 parts");
        let hl7 = |head: usize, groups: usize| {
            let text = format!("MSH|^~\\&|A|||||||M1|P|2.5\rNTE|1||{}\r{}", "x".repeat(head), "OBX|1\r".repeat(groups));
            Body::Hl7(hl7::Message::parse(text, &hl7::Limits::default()).expect("HL7"))
        };
        let groups = Split::Groups("OBX".to_owned());
        assert_eq!(split(&groups, hl7(1 << 20, 60)).expect("60 MiB").len(), 60);
        let error = split(&groups, hl7(1 << 20, 65)).expect_err("65 MiB");
        assert_eq!(error, "it cannot be split: the parts have more than 64 MiB together");
        assert!(split(&groups, hl7(1, MAX_PARTS + 1)).expect_err("too many").contains("more than 10000 parts"));
    }

    #[test]
    fn a_group_keeps_its_bytes_and_its_set() {
        let text = "MSH|^~\\&|A|||||||M1|P|2.5||||||Shift_JIS\rPID|1||||ポ\r\nOBX|1||ソ\nOBX|2||表";
        let raw = hl7::Charset::named("Shift_JIS").expect("a set").encode(text).expect("encoded").into_owned();
        let body = Body::Hl7(hl7::Message::parse(raw, &hl7::Limits::default()).expect("HL7"));
        let parts = split(&Split::Groups("OBX".to_owned()), body).expect("groups");
        let expected = ["1||ソ\n", "2||表"].map(|obx| {
            let number = &obx[..1];
            let text = format!("MSH|^~\\&|A|||||||M1.{number}|P|2.5||||||Shift_JIS\rPID|1||||ポ\r\nOBX|{obx}");
            hl7::Charset::named("Shift_JIS").expect("a set").encode(&text).expect("encoded").into_owned()
        });
        assert_eq!(parts.iter().map(|part| part.to_bytes().to_vec()).collect::<Vec<_>>(), expected);
    }
}
