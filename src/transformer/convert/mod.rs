//! `convert`: the same message in another format.
//!
//! | from | to | how |
//! |---|---|---|
//! | HL7 | JSON, and back | `json.rs`: segments in order, fields by their numbers |
//! | HL7 | XML, and back | `xml.rs`: the form that Mirth users know, flat by segments |
//! | XML | JSON | elements as members, attributes as `@name`, repeated elements as arrays |
//! | CSV | JSON | an array of rows: objects where there is a header |
//!
//! What else there is to write is written by a `template`.

mod json;
mod tree;
mod xml;

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Step, StepError, StepKind, Verdict};
use crate::config::Entry;
use crate::expr::Each;
use crate::message::{Body, Csv, Element, Message, Node};

pub(super) const KIND: StepKind = StepKind {
    name: "convert",
    summary: "Makes the message another format: HL7 to JSON or XML and back, XML or CSV to JSON. A message that has the format already stays as it is.",
    example: "convert = \"json\"\n",
    schema,
    parse,
};

/// What to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Convert {
    Hl7,
    Json,
    Xml,
}

fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema =
        json_schema!({ "description": "The format that the message is to have: \"hl7\", \"json\" or \"xml\"." });
    if let Some(words) = Convert::json_schema(generator).as_object_mut() {
        words.remove("description");
        words.remove("title");
        for (key, value) in std::mem::take(words) {
            schema.insert(key, value);
        }
    }
    schema
}

fn parse(entry: Entry<'_>) -> Option<Box<dyn Step>> {
    entry.read::<Convert>().map(|convert| Box::new(convert) as Box<dyn Step>)
}

impl Step for Convert {
    fn apply(&self, message: &mut Message, _: Option<&Each>) -> Result<Verdict, StepError> {
        let body = match (self, &*message.body) {
            (Convert::Hl7, Body::Hl7(_)) | (Convert::Json, Body::Json(_)) | (Convert::Xml, Body::Xml(_)) => {
                return Ok(Verdict::Continue);
            }
            (Convert::Json, Body::Hl7(hl7)) => Body::Json(json::of(&tree::of(hl7)?)),
            (Convert::Json, Body::Xml(document)) => Body::Json(of_xml(document.root())),
            (Convert::Json, Body::Csv(csv)) => Body::Json(of_csv(csv)),
            (Convert::Xml, Body::Hl7(hl7)) => Body::Xml(xml::of(&tree::of(hl7)?)?),
            (Convert::Hl7, Body::Json(value)) => Body::Hl7(tree::to_hl7(&json::to_tree(value)?)?),
            (Convert::Hl7, Body::Xml(document)) => Body::Hl7(tree::to_hl7(&xml::to_tree(document)?)?),
            (_, body) => {
                let to = match self {
                    Convert::Hl7 => "HL7",
                    Convert::Json => "JSON",
                    Convert::Xml => "XML",
                };
                let from = body.format().name();
                return Err(failed(format!("{from} is not made {to} by `convert`; a `template` step writes anything")));
            }
        };
        message.body = Arc::new(body);
        Ok(Verdict::Continue)
    }
}

fn failed(problem: impl Into<String>) -> StepError {
    StepError::Convert(problem.into())
}

/// `{"order": …}`.
fn of_xml(root: &Element) -> Value {
    Value::Object(Map::from_iter([(root.name.clone(), of_element(root))]))
}

/// Text where there is nothing else; else an object. Names lose their prefixes.
fn of_element(element: &Element) -> Value {
    if element.attributes.is_empty() && element.elements().next().is_none() {
        return Value::String(element.text());
    }
    let mut members = Map::new();
    for (name, value) in &element.attributes {
        members.insert(format!("@{name}"), Value::String(value.clone()));
    }
    let mut text = String::new();
    for child in &element.children {
        match child {
            Node::Text(more) => text.push_str(more),
            Node::Element(child) => {
                let value = of_element(child);
                match members.get_mut(&child.name) {
                    Some(Value::Array(values)) => values.push(value),
                    Some(one) => *one = Value::Array(vec![one.take(), value]),
                    None => drop(members.insert(child.name.clone(), value)),
                }
            }
        }
    }
    if !text.trim().is_empty() {
        members.insert("#text".to_owned(), Value::String(text));
    }
    Value::Object(members)
}

fn of_csv(csv: &Csv) -> Value {
    let row = |row: &Vec<String>| {
        let values = row.iter().cloned().map(Value::String);
        match csv.header() {
            Some(header) => Value::Object(header.iter().cloned().zip(values).collect()),
            None => Value::Array(values.collect()),
        }
    };
    Value::Array(csv.rows().iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Dialect, Xml};

    #[test]
    fn xml_as_json() {
        let xml = Xml::parse(
            "<l:order xmlns:l='u' id='7'><item>GLU</item><item l:unit='x'>NA</item><note>a <b>bold</b> word</note><none/></l:order>",
        )
        .expect("XML");
        let expected = serde_json::json!({ "order": {
            "@id": "7",
            "item": ["GLU", { "@unit": "x", "#text": "NA" }],
            "note": { "b": "bold", "#text": "a  word" },
            "none": "",
        } });
        assert_eq!(of_xml(xml.root()), expected);
    }

    #[test]
    fn csv_as_json() {
        let csv = Csv::parse("a,b\n1,x\n2,y\n", Dialect::default()).expect("CSV");
        assert_eq!(of_csv(&csv), serde_json::json!([{ "a": "1", "b": "x" }, { "a": "2", "b": "y" }]));
        let bare = Csv::parse("1,x\n", Dialect { header: false, ..Dialect::default() }).expect("CSV");
        assert_eq!(of_csv(&bare), serde_json::json!([["1", "x"]]));
    }
}
