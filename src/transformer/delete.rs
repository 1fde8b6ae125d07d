//! `delete`: empties fields and takes segments out.

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::{self, Entry};
use crate::expr::Each;
use crate::message::Message;

use super::field::Target;
use super::{Place, Step, StepError, StepKind, Verdict};

pub(super) const KIND: StepKind = StepKind {
    name: "delete",
    summary: "Empties fields, removes segments (all of a name, or one by its occurrence) and members of JSON objects.",
    example: "delete = [\"PID-8\", \"NTE\"]\n",
    schema,
    parse,
};

#[derive(Debug)]
struct Delete {
    targets: Vec<Target>,
}

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "One field or segment, or a list of them.",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
    })
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let places: Vec<Spanned<String>> = match entry.value.get_ref() {
        DeValue::String(text) => vec![Spanned::new(entry.value.span(), text.to_string())],
        DeValue::Array(items) => items.iter().filter_map(text).collect(),
        _ => {
            config::report(entry.value.span(), "`delete` must be a string or a list of strings", "", None);
            return None;
        }
    };
    if places.is_empty() {
        config::report(entry.value.span(), "`delete` has nothing to delete", "", None);
    }
    let targets = places.iter().filter_map(deletable).collect();
    Some(Box::new(Delete { targets }))
}

fn text(item: &Spanned<DeValue<'_>>) -> Option<Spanned<String>> {
    match item.get_ref().as_str() {
        Some(text) => Some(Spanned::new(item.span(), text.to_owned())),
        None => {
            config::report(item.span(), "`delete` must be a string or a list of strings", "", None);
            None
        }
    }
}

fn deletable(place: &Spanned<String>) -> Option<Target> {
    let target = Target::parse(place.get_ref(), &place.span())?;
    match &target {
        Target::Hl7(path) if path.segment() == "MSH" && matches!(path.field(), None | Some(1 | 2)) => {
            config::report(
                place.span(),
                format!("`{path}` cannot be deleted: a message is nothing without it"),
                "",
                None,
            );
            None
        }
        _ => Some(target),
    }
}

impl Step for Delete {
    fn places(&self) -> Vec<Place<'_>> {
        self.targets.iter().map(Place).collect()
    }

    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        for target in &self.targets {
            target.at(each).delete(message)?;
        }
        Ok(Verdict::Continue)
    }
}
