//! Paths and file names made from messages.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::escaping::{self, Escaping};
use super::{ExprError, Scope, Template};
use crate::config;

/// A part of a path that is made from a message: what expressions put in is encoded (letters, digits, `.`, `_`, `-` stay, the
/// rest becomes `%XX`), so that no field's content can leave the folder.
#[derive(Debug, Clone)]
pub struct PathTemplate(Template);

impl PathTemplate {
    /// The template as the channel file writes it.
    pub fn text(&self) -> &'static str {
        self.0.text
    }

    /// Renders to a path without control characters. It begins with `/` or holds `..` only where the channel file itself says
    /// so: values are encoded, and one that leaves a part of the path empty is an error of the message.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        let marked = self.0.render(scope)?;
        let path = marked.replace(escaping::VALUE, "");
        match value_problem(self.0.text, &marked).or_else(|| path_problem(&path)) {
            Some(problem) => Err(ExprError { place: self.0.place.clone(), message: problem.to_owned() }),
            None => Ok(path),
        }
    }
}

/// A file's name made from a message: a [`PathTemplate`] without folders, at most 200 bytes.
#[derive(Debug, Clone)]
pub struct FileNameTemplate(PathTemplate);

impl FileNameTemplate {
    /// Renders to a file name.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        let name = self.0.render(scope)?;
        match name_problem(&name) {
            Some(problem) => Err(ExprError { place: self.0.0.place.clone(), message: problem.to_owned() }),
            None => Ok(name),
        }
    }
}

fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("the path comes out empty")
    } else if path.contains(|c: char| c.is_control() || c == '\\') {
        Some("a path must not contain control characters or backslashes")
    } else {
        None
    }
}

/// What values did to a path: `marked` is the rendered one with [`escaping::VALUE`] before each value.
fn value_problem(template: &str, marked: &str) -> Option<&'static str> {
    let absolute = template.starts_with('/');
    if marked.split('/').any(|part| part.contains(escaping::VALUE) && blank(part)) {
        Some("a part of the path comes out empty")
    } else if marked.starts_with('/') && !absolute {
        Some("the path comes out absolute, and the channel file does not begin it with `/`")
    } else if marked.split('/').any(|part| part == "..") && !template.split('/').any(|part| part == "..") {
        Some("the path comes out with a `..` that the channel file does not write")
    } else {
        None
    }
}

/// Nothing, or dots only: such a part names no folder of its own.
fn blank(part: &str) -> bool {
    part.chars().all(|c| c == escaping::VALUE || c == '.')
}

fn name_problem(name: &str) -> Option<&'static str> {
    if name.contains('/') {
        Some("a file name must not contain `/`: folders go into `directory`")
    } else if name.starts_with('.') {
        Some("a file name must not begin with a dot")
    } else if name.ends_with(".toml") {
        Some("a file name must not end in .toml: the file could be taken for a channel file")
    } else if name.len() > 200 {
        Some("the file name comes out longer than 200 bytes")
    } else {
        None
    }
}

/// What stands in the template itself, outside of expressions, can be checked at once.
fn literal_problem(text: &str, file_name: bool) -> Option<&'static str> {
    let literal: String = text.split("{{").enumerate().fold(String::new(), |mut literal, (at, part)| {
        literal.push_str(if at == 0 { part } else { part.split_once("}}").map_or("", |(_, rest)| rest) });
        literal.push_str(if text.contains("{{") { "x" } else { "" });
        literal
    });
    path_problem(&literal).or_else(|| if file_name { name_problem(&literal) } else { None })
}

macro_rules! path_template {
    ($type:ident, $file_name:literal, $wrap:expr, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = Spanned::<String>::deserialize(deserializer)?;
                if let Some(problem) = literal_problem(text.get_ref(), $file_name) {
                    config::report(text.span(), problem, "", None);
                }
                Ok($wrap(Template::compile(text.get_ref(), &text.span(), Escaping::FileName)))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "title": "template", "description": $description })
            }
        }
    };
}

path_template!(
    PathTemplate,
    false,
    PathTemplate,
    "A folder, with expressions: \"out/{{ meta.received_at | date('%Y-%m-%d') }}\"."
);
path_template!(
    FileNameTemplate,
    true,
    |template| FileNameTemplate(PathTemplate(template)),
    "A file name, with expressions: \"{{ msg['MSH-10'] }}.hl7\"."
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::SourceFile;
    use crate::hl7;
    use crate::message::{Format, Message, MessageIds, Meta, Origin};

    /// The template rendered for a message whose PID-4 is empty and whose PID-5 is hostile.
    fn rendered(text: &str) -> Result<String, String> {
        let folder = std::path::Path::new(".");
        let file = SourceFile::new(&folder.join("c.toml"), "");
        let read = config::collect(&file, folder, || Template::compile(text, &(0..0), Escaping::FileName));
        if let Some(mistake) = read.diagnostics.first() {
            return Err(format!("mistake: {mistake}"));
        }
        let meta = Meta {
            id: MessageIds::default().next(),
            channel: "c".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::default(),
        };
        let body = bytes::Bytes::from_static(b"MSH|^~\\&|A|||||||M1|P|2.5\rPID|1||A1|.|../../etc\r");
        let message = Message::read(meta, Format::Hl7, &body, &hl7::Limits::default()).expect("HL7");
        PathTemplate(read.value).render(&Scope::new(&message)).map_err(|error| error.message)
    }

    #[test]
    fn paths_leave_their_folder_only_where_the_channel_file_says_so() {
        for (template, expected) in [
            ("out", "out"),
            ("/out/{{ msg['PID-3'] }}/", "/out/A1/"),
            ("../{{ msg['PID-3'] }}", "../A1"),
            ("out/{{ msg['PID-5'] }}", "out/%2E.%2F..%2Fetc"),
            ("out/{{ msg['PID-5'] | tojson }}", "out/%22..%2F..%2Fetc%22"),
            ("{% if true %}out/{% endif %}{{ msg['PID-3'] }}{{ msg['PID-2'] }}", "out/A1"),
            ("{% macro m() %}{{ msg['PID-3'] }}/{% endmacro %}out/{{ m() }}", "out/A1%2F"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn values_cannot_make_a_path_another_one() {
        let empty = "a part of the path comes out empty";
        for (template, problem) in [
            ("{{ msg['PID-2'] }}/work", empty),
            ("out/{{ msg['PID-2'] }}", empty),
            ("out/{{ msg['PID-2'] }}/work", empty),
            (".{{ msg['PID-2'] }}./work", empty),
            ("{{ msg['PID-2'] }}../work", empty),
            ("{% if true %}{{ msg['PID-2'] }}{% endif %}/work", empty),
            ("{% if false %}x{% endif %}/work", "absolute"),
            ("{% if true %}..{% endif %}/work", "`..`"),
            ("out/{{ msg['PID-5'] | safe }}", "mistake: ./c.toml:1:1: `safe` is for JSON and XML"),
            ("{{ [msg['PID-5']] | map('safe') | join }}", "`safe` is for JSON and XML"),
            ("{% autoescape false %}{{ msg['PID-5'] }}{% endautoescape %}", "escaping cannot be switched"),
        ] {
            let found = rendered(template).expect_err(template);
            assert!(found.contains(problem), "{template}: {found}");
        }
    }
}
