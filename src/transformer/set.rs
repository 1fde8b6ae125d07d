//! `set`: writes values into fields.

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use crate::config::{self, Entry};
use crate::expr::{Each, Escaping, Template};
use crate::message::Message;

use super::field::Target;
use super::{Step, StepError, StepKind, Verdict, scope};

pub(super) const KIND: StepKind = StepKind {
    name: "set",
    summary: "Writes values into fields, in the order of the file; what an expression gives is escaped for the message's format.",
    example: "set = { \"MSH-5\" = \"EHR\", \"PID-5.1\" = \"{{ msg['PID-5.1'] | upper }}\" }\n",
    schema,
    parse,
};

#[derive(Debug)]
struct Set {
    fields: Vec<(Target, Template)>,
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

fn field(entry: Entry<'_>) -> Option<(Target, Template)> {
    let target = Target::parse_writable(entry.name(), &entry.key.span());
    let text = match entry.value.get_ref() {
        DeValue::Integer(number) => number.to_string(),
        _ => entry.text()?.into_inner(),
    };
    let template = Template::compile(&text, &entry.value.span(), Escaping::None);
    target.map(|target| (target, template))
}

impl Step for Set {
    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        for (target, template) in &self.fields {
            let text = template.render(&scope(message, each))?;
            target.at(each).set(message, &text)?;
        }
        Ok(Verdict::Continue)
    }
}
