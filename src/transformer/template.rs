//! `template`: a new body, written by a template file.

use std::sync::Arc;

use bytes::Bytes;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::config::{self, Entry};
use crate::expr::{ENDINGS, Each, Escaping, Template, hl7_segments};
use crate::hl7;
use crate::message::{Body, Message, Xml};

use super::{Step, StepError, StepKind, Verdict, scope};

pub(super) const KIND: StepKind = StepKind {
    name: "template",
    summary: "Writes a new body from a template file; its ending (.hl7, .json, .xml, .txt) says how values are escaped and what comes out.",
    example: "template = \"templates/orm-o01.hl7\"\n",
    schema,
    parse,
};

#[derive(Debug)]
struct Write {
    template: Template,
    writes: Writes,
}

#[derive(Debug, Clone, Copy)]
enum Writes {
    /// With the separators that values are escaped for.
    Hl7(hl7::Separators),
    Json,
    Xml,
    Text,
}

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "description": "The template file, its path from the channel file." })
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let path = entry.text()?;
    let file = config::load_text(&path.span(), path.get_ref(), "template")?;
    let Some(escaping) = Escaping::of_file(path.get_ref(), &file.text) else {
        let message = format!("`{}` has no ending that says what it writes", path.get_ref());
        let help = format!("a template file ends in .{}: values are escaped for that format", ENDINGS.join(", ."));
        config::report(path.span(), message, "", Some(help));
        return None;
    };
    if file.text.trim().is_empty() {
        config::report(path.span(), format!("template `{}` is empty", path.get_ref()), "", None);
        return None;
    }
    if let (Escaping::Csv, Some(at)) = (&escaping, file.text.find("\"{{")) {
        let message = "values of a .csv template are put into quotes where they need them";
        config::report_in(&file, at..at + 1, message, "leave these out");
    }
    let writes = match &escaping {
        Escaping::Hl7(separators) => Writes::Hl7(*separators),
        Escaping::Json => Writes::Json,
        // Of HTML, which has the same escapes, not all is XML.
        Escaping::Xml if path.get_ref().to_ascii_lowercase().ends_with(".xml") => Writes::Xml,
        _ => Writes::Text,
    };
    Some(Box::new(Write { template: Template::compile_file(&file, escaping), writes }))
}

impl Step for Write {
    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        let text = self.template.render(&scope(message, each))?;
        let written = |format, error| StepError::Written { place: self.template.place().to_owned(), format, error };
        let body = match self.writes {
            Writes::Hl7(escaped_for) => {
                let parsed = hl7::Message::parse(Bytes::from(hl7_segments(&text)), &hl7::Limits::default());
                let parsed = parsed.map_err(|error| written("HL7", error.to_string()))?;
                if *parsed.separators() != escaped_for {
                    let problem = "its MSH declares other separators than values were escaped for: write MSH-1 and MSH-2 out, before any other line that begins with MSH";
                    return Err(written("safe HL7", problem.to_owned()));
                }
                Body::Hl7(parsed)
            }
            Writes::Json => Body::Json(
                serde_json::from_str(&text)
                    .map_err(|error| written("JSON", format!("line {}, column {}", error.line(), error.column())))?,
            ),
            Writes::Xml => Body::Xml(Xml::parse(&text).map_err(|error| written("XML", error.to_string()))?),
            Writes::Text => Body::Text(text),
        };
        message.body = Arc::new(body);
        Ok(Verdict::Continue)
    }
}
