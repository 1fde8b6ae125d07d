//! `set`: writes values into fields.

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use crate::config::{self, Entry};
use crate::expr::{Each, Escaping, Template};
use crate::message::Message;

use super::field::{Target, place};
use super::{Place, Step, StepError, StepKind, Verdict, json_body_mut, scope};

pub(super) const KIND: StepKind = StepKind {
    name: "set",
    summary: "Writes values into fields, in the order of the file; what an expression gives is escaped for the message's format.",
    example: "set = { \"MSH-5\" = \"EHR\", \"PID-5.1\" = \"{{ msg['PID-5.1'] | upper }}\" }\n",
    schema,
    parse,
};

#[derive(Debug)]
struct Set {
    fields: Vec<(Target, New)>,
}

/// What is written.
#[derive(Debug)]
enum New {
    Text(Template),
    /// A number of the channel file: one in JSON too.
    Integer(i64),
}

fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "Fields and their new values: text with expressions in it.",
        "additionalProperties": { "type": ["string", "integer"] },
    })
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    let table = entry.into_table("set")?;
    if table.keys().is_empty() {
        config::report(
            table.span(),
            "`set` has nothing to set",
            "",
            Some("write `set = { \"PID-8\" = \"U\" }`".to_owned()),
        );
    }
    let fields = table.into_entries().into_iter().filter_map(field).collect();
    Some(Box::new(Set { fields }))
}

fn field(entry: Entry<'_>) -> Option<(Target, New)> {
    let target = Target::parse_writable(entry.name(), &entry.key.span());
    let number = match entry.value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    };
    let new = match number {
        Some(number) => New::Integer(number),
        None => New::Text(Template::compile(entry.text()?.get_ref(), &entry.value.span(), Escaping::None)),
    };
    target.map(|target| (target, new))
}

impl Step for Set {
    fn places(&self) -> Vec<Place<'_>> {
        self.fields.iter().map(|(target, _)| Place(target)).collect()
    }

    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        for (target, new) in &self.fields {
            let target = target.at(each);
            match (new, &target) {
                (New::Text(template), _) => {
                    // On a line of its own: while the scope lives, it shares the body, and writing would copy all of it.
                    let text = template.render(&scope(message, each))?;
                    target.set(message, &text)?;
                }
                (New::Integer(number), Target::Hl7(_)) => target.set(message, &number.to_string())?,
                (New::Integer(number), Target::Pointer(pointer)) => {
                    *place(json_body_mut(message, &target)?, pointer)? = (*number).into();
                }
            }
        }
        Ok(Verdict::Continue)
    }
}
