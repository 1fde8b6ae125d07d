//! The JSON Schema of a channel file, put together from the schemas of the types that read it.

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::dispatch::DispatchKeys;
use super::document::Head;
use super::retry::RetryKeys;
use super::test::TestKeys;
use crate::config::schema_generator;
use crate::destination::{Disposition, FAULTS};
use crate::expr::Expression;
use crate::{destination, source, transformer};

/// The JSON Schema (2020-12) of a channel file, for editors: `labwire schema > channel.schema.json`.
pub fn json_schema() -> Value {
    let head = value_of(schema_generator().into_root_schema_for::<Head>());
    let mut properties = head["properties"].as_object().cloned().unwrap_or_default();
    let sources = source::KINDS.iter().map(|kind| connector(kind.name, kind.summary, kind.schema, &Map::new()));
    properties.insert(
        "source".into(),
        json!({ "description": "Where messages come in.", "oneOf": sources.collect::<Vec<_>>() }),
    );
    properties.insert("transformer".into(), steps());
    properties.insert("destination".into(), destinations());
    properties.insert("retry".into(), value_of(schema_generator().into_root_schema_for::<RetryKeys>()));
    properties.insert("test".into(), tests());
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Labwire channel",
        "type": "object",
        "properties": properties,
        "required": ["name", "source", "destination"],
        "additionalProperties": false,
    });
    leave_out_nothings(&mut schema);
    schema
}

/// Takes out defaults that say nothing: an option that is not given is not given.
fn leave_out_nothings(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            entries.retain(|key, value| {
                key != "default" || !(value.is_null() || *value == json!({}) || *value == json!([]))
            });
            entries.values_mut().for_each(leave_out_nothings);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_nothings),
        _ => {}
    }
}

fn tests() -> Value {
    let mut test = value_of(schema_generator().into_root_schema_for::<TestKeys>());
    let fields = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let one = json!([{ "type": "string" }, fields]);
    let list = json!({ "type": "array", "items": { "anyOf": one } });
    let expected = json!({ "anyOf": [{ "type": "string" }, fields, list] });
    test["properties"]["sent"] = json!({
        "type": "object",
        "description": "What each destination should get: a file with the whole content, a table of paths and values, or a list of these.",
        "additionalProperties": expected,
    });
    json!({ "type": "array", "description": "What should happen: run by `labwire test`.", "items": test })
}

fn steps() -> Value {
    let mut properties = Map::new();
    for kind in transformer::KINDS {
        let mut schema = value_of((kind.schema)(&mut schema_generator()));
        schema["description"] = kind.summary.into();
        properties.insert(kind.name.into(), schema);
    }
    let verbs: Vec<Value> = transformer::KINDS.iter().map(|kind| json!({ "required": [kind.name] })).collect();
    properties.insert("when".into(), expression("The step is done only for messages for which this is true."));
    properties.insert(
        "each".into(),
        json!({ "type": "string", "description": "Repeats the step for every segment of this name, or every element of this JSON array." }),
    );
    json!({
        "type": "array",
        "description": "Ordered steps that filter and change the message: one verb each.",
        "items": { "type": "object", "properties": properties, "additionalProperties": false, "oneOf": verbs },
    })
}

fn destinations() -> Value {
    let mut more = Map::new();
    more.insert("when".into(), expression("Only messages for which this is true go here."));
    more.insert("transformer".into(), steps());
    let charset = "The character set that messages leave in, as in \"windows-1252\", \"8859/2\", \"Shift_JIS\" or \"GB18030\": HL7 converted, with MSH-18 naming it; text, CSV and XML encoded. A character that the set does not have is an error. Not given: HL7 leaves in its own set, the others as UTF-8.";
    more.insert("charset".into(), json!({ "type": "string", "description": charset }));
    more.insert("retry".into(), value_of(schema_generator().into_root_schema_for::<RetryKeys>()));
    let dispatch = value_of(schema_generator().into_root_schema_for::<DispatchKeys>());
    more.extend(dispatch["properties"].as_object().cloned().unwrap_or_default());
    let kinds = destination::KINDS.iter().map(|kind| {
        more.insert("on".into(), rules(kind.faults));
        connector(kind.name, kind.summary, kind.schema, &more)
    });
    json!({
        "type": "object",
        "description": "Where messages go: one table for each destination, under its name.",
        "minProperties": 1,
        "additionalProperties": { "oneOf": kinds.collect::<Vec<_>>() },
    })
}

/// What may stand in the `on` table of a destination that can bring forth these faults.
fn rules(faults: &[&str]) -> Value {
    let known = FAULTS.iter().filter(|fault| faults.contains(&fault.word));
    let properties: Map<String, Value> = known
        .map(|fault| {
            let description = format!("When {}.", fault.what);
            let option =
                json!({ "enum": Disposition::words(), "description": description, "default": fault.then.as_str() });
            (fault.word.to_owned(), option)
        })
        .collect();
    json!({
        "type": "object",
        "description": "What becomes of a delivery after which fault: \"sent\" (it counts as sent), \"retry\", \"dead\" (dead \
                        letter at once), \"pause\" (tried again without counting attempts).",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn connector(
    name: &str,
    summary: &str,
    schema: fn(&mut schemars::SchemaGenerator) -> Schema,
    more: &Map<String, Value>,
) -> Value {
    let mut schema = value_of(schema(&mut schema_generator()));
    let mut properties = Map::new();
    properties.insert("type".into(), json!({ "const": name, "description": summary }));
    properties.extend(schema["properties"].as_object().cloned().unwrap_or_default());
    properties.extend(more.clone());
    let mut required = vec![Value::from("type")];
    required.extend(schema["required"].as_array().cloned().unwrap_or_default());
    schema["title"] = name.into();
    schema["description"] = summary.into();
    schema["type"] = "object".into();
    schema["properties"] = properties.into();
    schema["required"] = required.into();
    schema["additionalProperties"] = false.into();
    schema
}

fn expression(description: &str) -> Value {
    let mut schema = value_of(schema_generator().into_root_schema_for::<Expression>());
    schema["description"] = description.into();
    schema
}

fn value_of(schema: Schema) -> Value {
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_verb_is_in_the_schema() {
        let schema = json_schema().to_string();
        let names = source::KINDS.iter().map(|kind| kind.name);
        for name in names.chain(destination::KINDS.iter().map(|kind| kind.name)) {
            assert!(schema.contains(&format!("\"const\":\"{name}\"")), "{name}");
        }
        for kind in transformer::KINDS {
            assert!(
                json_schema().pointer(&format!("/properties/transformer/items/properties/{}", kind.name)).is_some()
            );
        }
    }

    #[test]
    fn nothing_refers_to_a_definition_that_is_not_there() {
        assert!(!json_schema().to_string().contains("$ref"));
    }
}
