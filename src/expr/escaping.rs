//! What becomes of a value when a template puts it out: it can never break out of its place.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Error, Output, State, Value};

use super::filters::{self, FilterError};
use crate::hl7::{self, Separators};
use crate::message::csv;

/// The endings that template files may have.
pub const ENDINGS: &[&str] = &["hl7", "er7", "json", "xml", "html", "htm", "txt", "csv"];

/// The format that a template writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Escaping {
    /// Plain text: whoever takes it escapes it.
    None,
    /// HL7 with these separators.
    Hl7(Separators),
    /// JSON: a value becomes a JSON value, quotes included.
    Json,
    /// XML.
    Xml,
    /// Delimited text: a value becomes one value, in quotes where it needs them.
    Csv,
    /// A part of a file name.
    FileName,
}

impl Escaping {
    /// The format of a template file, by the ending of its name in any case, one of [`ENDINGS`]. HL7 takes the separators of
    /// the MSH that the template writes itself. None for another ending: a format that is not known cannot be escaped for.
    pub fn of_file(name: &str, text: &str) -> Option<Escaping> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "hl7" | "er7" => Some(Escaping::Hl7(separators_in(text))),
            "json" => Some(Escaping::Json),
            "xml" | "html" | "htm" => Some(Escaping::Xml),
            "txt" => Some(Escaping::None),
            "csv" => Some(Escaping::Csv),
            _ => None,
        }
    }

    /// minijinja chooses the escaping by the template's name.
    pub(super) fn template_name(&self) -> String {
        match self {
            Escaping::None => "text".to_owned(),
            Escaping::Hl7(separators) => {
                let encoding = separators.encoding_characters();
                format!("hl7:{}{}", char::from(separators.field), String::from_utf8_lossy(&encoding))
            }
            Escaping::Json => "json".to_owned(),
            Escaping::Xml => "xml".to_owned(),
            Escaping::Csv => "csv".to_owned(),
            Escaping::FileName => "file name".to_owned(),
        }
    }
}

pub(super) fn of_template(name: &str) -> AutoEscape {
    match name {
        "json" => AutoEscape::Json,
        "xml" => AutoEscape::Html,
        "file name" | "csv" => AutoEscape::Custom(name.to_owned().into()),
        _ if name.starts_with("hl7:") => AutoEscape::Custom(name.to_owned().into()),
        _ => AutoEscape::None,
    }
}

/// minijinja's formatter: formats that it knows are left to it. In HL7 the only text that is not escaped is what a macro or a
/// block of the template itself wrote: the filters that would mark a value safe do not ([`super::filters`]).
pub(super) fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    filters::check_text(value)?;
    let custom = match state.auto_escape() {
        // Nothing is fit to leave its folder.
        AutoEscape::Custom(name) if !value.is_safe() || name == "file name" => name.clone(),
        AutoEscape::Custom(_) => return out.write_str(&value.to_string()).map_err(Error::from),
        _ => return minijinja::escape_formatter(out, state, value),
    };
    if value.is_undefined() {
        return Err(minijinja::ErrorKind::UndefinedError.into());
    }
    let text = if value.kind() == ValueKind::None { String::new() } else { value.to_string() };
    let escaped = match custom.strip_prefix("hl7:") {
        None if custom == "csv" => csv::quoted(&text).into_owned(),
        Some(separators) => hl7_text(&text, &separators_of(separators)).ok_or_else(|| {
            FilterError("a value needs an escape character, and the template's MSH-2 declares none".to_owned())
        })?,
        None => format!("{VALUE}{}", file_name(&text)),
    };
    out.write_str(&escaped).map_err(Error::from)
}

/// Stands before each value in a rendered path, where no literal text and no encoded value can hold it: so that it is known
/// which parts of the path are the channel file's own.
pub(super) const VALUE: char = '\u{1}';

/// A template writes a segment a line; on the wire each ends with CR. Indentation and empty lines are the template's own: line
/// breaks within values were escaped.
pub(crate) fn hl7_segments(text: &str) -> String {
    text.lines().map(str::trim_start).filter(|line| !line.trim().is_empty()).fold(
        String::with_capacity(text.len()),
        |mut message, line| {
            message.push_str(line);
            message.push('\r');
            message
        },
    )
}

/// The separators that the MSH of a template declares; the usual ones where it declares none.
fn separators_in(template: &str) -> Separators {
    let declared = template.lines().find_map(|line| line.trim_start().strip_prefix("MSH")).unwrap_or_default();
    let mut rest = declared.chars();
    let Some(field) = rest.next() else { return Separators::default() };
    let encoding = rest.as_str().split(field).next().unwrap_or_default();
    separators_of(&declared[..field.len_utf8() + encoding.len()])
}

/// `|^~\\&` and the like: the field separator, then MSH-2.
fn separators_of(text: &str) -> Separators {
    match text.as_bytes() {
        [field, encoding @ ..] => Separators::parse(*field, encoding).unwrap_or_default(),
        [] => Separators::default(),
    }
}

/// Text as an HL7 value; none where it needs an escape character and there is none.
fn hl7_text(text: &str, separators: &Separators) -> Option<String> {
    hl7::escape_exact(&hl7_line_breaks(text, separators), separators).map(Cow::into_owned)
}

/// Line breaks as `\.br\`, which receivers show as line breaks (HL7 v2.5.1 §2.7.6) and which [`hl7::escape`] keeps; a carriage
/// return in hexadecimal, the other way to write one, most of them show as it stands.
pub(crate) fn hl7_line_breaks<'t>(text: &'t str, separators: &Separators) -> Cow<'t, str> {
    match separators.escape {
        Some(escape) if text.contains(['\r', '\n']) => {
            let escape = char::from(escape);
            Cow::Owned(text.replace("\r\n", "\n").replace(['\r', '\n'], &format!("{escape}.br{escape}")))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Letters and digits of ASCII, `_`, `-` and inner dots stay; every other byte becomes `%XX`.
fn file_name(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            // The mark of a value within what a macro wrote.
            1 => {}
            _ => write!(name, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hl7_values_are_escaped_for_the_templates_own_separators() {
        let usual = separators_in("{# a comment #}\n  MSH|^~\\&|A|B\nPID|1");
        assert_eq!(usual, Separators::default());
        assert_eq!(hl7_text("a|b^c\r\nd\ne", &usual).expect("escaped"), "a\\F\\b\\S\\c\\.br\\d\\.br\\e");
        let own = separators_in("MSH$%~@*$A$B");
        assert_eq!(hl7_text("a|b$c%d", &own).expect("escaped"), "a|b@F@c@S@d");
        for odd in ["no header", "MSH", "MSH|", "MSH日本日", "MSH日"] {
            assert_eq!(separators_in(odd), Separators::default(), "{odd}");
        }
    }

    #[test]
    fn file_names_cannot_leave_their_folder() {
        for (text, name) in [
            ("MSG-1.2_3", "MSG-1.2_3"),
            ("../../etc", "%2E.%2F..%2Fetc"),
            (".hidden", "%2Ehidden"),
            ("a/b\\c", "a%2Fb%5Cc"),
            ("né\n", "n%C3%A9%0A"),
            ("", ""),
        ] {
            assert_eq!(file_name(text), name);
        }
    }
}
