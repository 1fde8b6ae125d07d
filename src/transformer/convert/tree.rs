//! HL7 taken apart down to its values, as text: what JSON and XML are made of, and what makes HL7 again.

use bytes::Bytes;

use super::failed;
use crate::hl7::{self, Charset, Separators};
use crate::transformer::StepError;

/// A segment: its name, and its fields from 1 on.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
}

/// Repetitions of components of subcomponents. An empty field is one empty value.
pub(super) type Field = Vec<Vec<Vec<String>>>;

/// A field that is one value.
pub(super) fn value(text: impl Into<String>) -> Field {
    vec![vec![vec![text.into()]]]
}

/// Takes a message apart. Blank lines between segments are left out.
pub(super) fn of(message: &hl7::Message) -> Result<Vec<Segment>, StepError> {
    let separators = message.separators();
    let mut segments = Vec::new();
    for (number, segment) in (1..).zip(message.segments()) {
        let name = std::str::from_utf8(segment.name()).ok().filter(|name| is_name(name));
        let name = name.ok_or_else(|| failed(format!("segment {number} has no name of three capitals or digits")))?;
        let mut fields = Vec::with_capacity(segment.field_count());
        for at in (1..).take(segment.field_count()) {
            let text = message.decode(segment.field(at).unwrap_or_default());
            let text = text.map_err(|error| failed(format!("{name} (segment {number}), field {at}: {error}")))?;
            let is_fixed = name == "MSH" && at <= 2;
            fields.push(if is_fixed { value(text) } else { field(&text, separators) });
        }
        segments.push(Segment { name: name.to_owned(), fields });
    }
    Ok(segments)
}

fn field(text: &str, separators: &Separators) -> Field {
    let pieces = |text: &str, separator: Option<u8>| -> Vec<String> {
        match separator {
            Some(separator) => text.split(char::from(separator)).map(str::to_owned).collect(),
            None => vec![text.to_owned()],
        }
    };
    let subcomponents = |component: String| -> Vec<String> {
        let values = pieces(&component, separators.subcomponent).into_iter();
        values.map(|value| hl7::unescape(&value, separators).into_owned()).collect()
    };
    let components = |repetition: String| -> Vec<Vec<String>> {
        pieces(&repetition, Some(separators.component)).into_iter().map(subcomponents).collect()
    };
    pieces(text, separators.repetition).into_iter().map(components).collect()
}

pub(super) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() == 3
        && bytes.next().is_some_and(|byte| byte.is_ascii_uppercase())
        && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// Writes a message, in the character set that its MSH-18 names, or else in UTF-8.
pub(super) fn to_hl7(segments: &[Segment]) -> Result<hl7::Message, StepError> {
    let Some(msh) = segments.first().filter(|segment| segment.name == "MSH") else {
        return Err(failed("the first segment is not MSH"));
    };
    let fixed = |at: usize| match msh.fields.get(at).map(Vec::as_slice) {
        Some([components]) => match components.as_slice() {
            [values] => values.first().map(String::as_str),
            _ => None,
        },
        _ => None,
    };
    let encoding = fixed(1).unwrap_or("^~\\&");
    let separators = match fixed(0).unwrap_or("|").as_bytes() {
        [field] => Separators::parse(*field, encoding.as_bytes()).map_err(|error| failed(error.to_string()))?,
        _ => return Err(failed("MSH-1 is not one character")),
    };
    let declared = msh.fields.get(17).and_then(|field| Charset::named(field.first()?.first()?.first()?));
    let charset = declared.unwrap_or(Charset::UTF_8);
    let mut bytes = Vec::new();
    for (number, segment) in (1..).zip(segments) {
        let failed = |problem: String| failed(format!("{} (segment {number}){problem}", segment.name));
        if number > 1 && matches!(segment.name.as_str(), "MSH" | "FHS" | "BHS" | "BTS" | "FTS") {
            return Err(failed(" begins or ends a message or a batch: it cannot stand within one".to_owned()));
        }
        let line = line(segment, number == 1, encoding, &separators).map_err(failed)?;
        let encoded = charset.encode(&line).map_err(|position| {
            failed(format!(": character {position} does not exist in {charset}, which MSH-18 names"))
        })?;
        bytes.extend_from_slice(&encoded);
        bytes.push(b'\r');
    }
    hl7::Message::parse(Bytes::from(bytes), &hl7::Limits::default()).map_err(|error| failed(error.to_string()))
}

fn line(segment: &Segment, is_msh: bool, encoding: &str, separators: &Separators) -> Result<String, String> {
    let separator = char::from(separators.field);
    let mut line = segment.name.clone();
    let mut fields = segment.fields.as_slice();
    if is_msh {
        line.push(separator);
        line.push_str(encoding);
        fields = fields.get(2..).unwrap_or_default();
    }
    for (at, field) in (if is_msh { 3 } else { 1 }..).zip(fields) {
        let failed = |problem: &str| format!(", field {at}: {problem}");
        line.push(separator);
        let mut repetitions = Vec::with_capacity(field.len());
        for repetition in field {
            let mut components = Vec::with_capacity(repetition.len());
            for component in repetition {
                let values = component.iter().map(|value| hl7::escape_exact(value, separators));
                let values: Option<Vec<_>> = values.collect();
                let values = values.ok_or_else(|| failed("a value needs an escape character, and MSH-2 names none"))?;
                components.push(
                    joined(&values, separators.subcomponent)
                        .ok_or_else(|| failed("it has subcomponents, and MSH-2 names no separator for them"))?,
                );
            }
            repetitions.push(joined(&components, Some(separators.component)).unwrap_or_default());
        }
        line.push_str(
            &joined(&repetitions, separators.repetition)
                .ok_or_else(|| failed("it has repetitions, and MSH-2 names no separator for them"))?,
        );
    }
    Ok(line)
}

/// Pieces with a separator between; none where there are several and no separator.
fn joined<T: AsRef<str>>(pieces: &[T], separator: Option<u8>) -> Option<String> {
    match (pieces, separator) {
        ([], _) => Some(String::new()),
        ([one], _) => Some(one.as_ref().to_owned()),
        (_, None) => None,
        (many, Some(separator)) => {
            let mut text = String::new();
            for (at, piece) in many.iter().enumerate() {
                if at > 0 {
                    text.push(char::from(separator));
                }
                text.push_str(piece.as_ref());
            }
            Some(text)
        }
    }
}
