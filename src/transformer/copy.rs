//! `copy`: a field takes over what another one holds, as it stands: components, repetitions and escapes included.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::config::{self, Entry};
use crate::expr::Each;
use crate::message::Message;

use super::field::{Target, place};
use super::{Place, Step, StepError, StepKind, Verdict, hl7_body, hl7_body_mut, json_body, json_body_mut};

pub(super) const KIND: StepKind = StepKind {
    name: "copy",
    summary: "Copies fields as they stand: the key is where to, the value is where from; an absent source empties the target.",
    example: "copy = { \"PID-2\" = \"PID-3[1]\" }\n",
    schema,
    parse,
};

#[derive(Debug)]
struct Copy {
    /// (to, from), in the order of the file.
    fields: Vec<(Target, Target)>,
}

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "Where to and where from: { \"PID-2\" = \"PID-3[1]\" }.",
        "additionalProperties": { "type": "string" },
    })
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let table = entry.into_table("copy")?;
    if table.keys().is_empty() {
        config::report(table.span(), "`copy` has nothing to copy", "", None);
    }
    let fields = table.into_entries().into_iter().filter_map(field).collect();
    Some(Box::new(Copy { fields }))
}

fn field(entry: Entry<'_>) -> Option<(Target, Target)> {
    let to = Target::parse_writable(entry.name(), &entry.key.span());
    let from = entry.text()?;
    let from_target = Target::parse(from.get_ref(), &from.span())?;
    let to = to?;
    match (&to, &from_target) {
        (Target::Hl7(_), Target::Hl7(path)) if path.field().is_none() => {
            config::report(from.span(), format!("`{path}` names a whole segment: a field is expected"), "", None);
            None
        }
        (Target::Hl7(_), Target::Hl7(_)) | (Target::Pointer(_), Target::Pointer(_)) => Some((to, from_target)),
        _ => {
            config::report(
                from.span(),
                "`copy` works within one message: both are HL7 paths or both JSON pointers",
                "",
                None,
            );
            None
        }
    }
}

impl Step for Copy {
    fn places(&self) -> Vec<Place<'_>> {
        self.fields.iter().flat_map(|(to, from)| [Place(to), Place(from)]).collect()
    }

    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        for (to, from) in &self.fields {
            let (to, from) = (to.at(each), from.at(each));
            match (&to, &from) {
                (Target::Hl7(to_path), Target::Hl7(from_path)) => {
                    let raw = hl7_body(message, &from)?.raw(from_path).unwrap_or_default().to_vec();
                    let edited = hl7_body_mut(message, &to)?.set_raw(to_path, &raw);
                    edited.map_err(|error| StepError::Edit { path: to_path.to_string(), error })?;
                }
                (Target::Pointer(to_pointer), Target::Pointer(from_pointer)) => {
                    let value = json_body(message, &from)?.pointer(from_pointer).cloned().unwrap_or_default();
                    *place(json_body_mut(message, &to)?, to_pointer)? = value;
                }
                _ => unreachable!("refused when the channel file was read"),
            }
        }
        Ok(Verdict::Continue)
    }
}
