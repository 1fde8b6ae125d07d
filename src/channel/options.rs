//! The options of channel files as tables for people, from the same schemas that editors and the reader of channel files use.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::schema::json_schema;
use crate::destination::{self, COMMON_KEYS};
use crate::{source, transformer};

/// Every option with its type, its default and its meaning, in Markdown: `labwire schema --format markdown > docs/options.md`.
pub fn options_in_markdown() -> String {
    let schema = json_schema();
    let mut out = Tables(INTRODUCTION.to_owned());
    out.heading("##", "The channel file", "");
    let tables = ["source", "transformer", "destination", "test", "retry"];
    out.table(&without(&schema, &tables), "");
    out.heading("##", "Sources", "`[source]`: one in each channel file; `type` is its kind.");
    for (kind, options) in source::KINDS.iter().zip(list(&schema["properties"]["source"]["oneOf"])) {
        out.heading("###", &format!("`{}`", kind.name), kind.summary);
        out.table(&without(options, &["type"]), "");
    }
    out.heading(
        "##",
        "Steps",
        "`[[transformer]]`, in a channel file and in a destination: one verb in each, and beside it:",
    );
    let steps = &schema["properties"]["transformer"]["items"];
    let verbs: Vec<&str> = transformer::KINDS.iter().map(|kind| kind.name).collect();
    out.table(&without(steps, &verbs), "");
    for kind in transformer::KINDS {
        out.heading("###", &format!("`{}`", kind.name), kind.summary);
        let verb = &steps["properties"][kind.name];
        let inner = if verb["properties"].is_object() { verb.clone() } else { one(kind.name, verb) };
        out.table(&inner, if verb["properties"].is_object() { kind.name } else { "" });
    }
    destinations(&schema, &mut out);
    out.heading("##", "`retry`", "In a channel file for all its destinations, in a destination for that one.");
    out.table(&schema["properties"]["retry"], "retry");
    out.heading("##", "Tests", "`[[test]]`: run by `labwire test`.");
    out.table(&schema["properties"]["test"]["items"], "");
    out.0
}

const INTRODUCTION: &str = "# Options\n\n\
    Everything that a channel file may say. This page is made from the types that read channel files, by\n\
    `labwire schema --format markdown > docs/options.md`; a test fails when it is out of date. Durations are written as in `\"250ms\"`,\n\
    `\"5s\"`, `\"10m\"`, `\"72h\"`, `\"30d\"`, sizes as in `\"512KiB\"`, `\"16MiB\"`; a secret is `{ file = \"…\" }` or `{ env = \"…\" }`.\n";

fn destinations(schema: &Value, out: &mut Tables) {
    let about =
        "`[destination.NAME]`: one or more in each channel file; `type` is its kind. All kinds have these options:";
    out.heading("##", "Destinations", about);
    let kinds = list(&schema["properties"]["destination"]["additionalProperties"]["oneOf"]);
    let own: Vec<&str> =
        kinds.first().into_iter().flat_map(|kind| keys(kind)).filter(|key| !COMMON_KEYS.contains(key)).collect();
    if let Some(kind) = kinds.first() {
        let elsewhere = ["type", "retry", "transformer", "on"];
        out.table(&without(kind, &[&own[..], &elsewhere[..]].concat()), "");
    }
    out.line(
        "`retry` and `transformer` are described under their own headings, and what `on` may hold with each kind.",
    );
    for (kind, options) in destination::KINDS.iter().zip(kinds) {
        out.heading("###", &format!("`{}`", kind.name), kind.summary);
        out.table(&without(options, COMMON_KEYS), "");
        let faults: Vec<(&str, &str)> = options["properties"]["on"]["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(word, fault)| (word.as_str(), fault["default"].as_str().unwrap_or_default()))
            .collect();
        let shown: Vec<String> = faults.iter().map(|(word, then)| format!("`{word}` ({then})")).collect();
        out.line(&format!("Faults that its `on` table may name, and what follows by default: {}.", shown.join(", ")));
    }
}

fn list(schema: &Value) -> Vec<&Value> {
    schema.as_array().into_iter().flatten().collect()
}

fn keys(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect()
}

/// The same without some of its properties.
fn without(schema: &Value, left_out: &[&str]) -> Value {
    let mut schema = schema.clone();
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|key, _| !left_out.contains(&key.as_str()));
    }
    schema
}

/// A schema with this one property.
fn one(name: &str, option: &Value) -> Value {
    serde_json::json!({ "properties": { name: option }, "required": [name] })
}

/// Markdown on its way.
struct Tables(String);

impl Tables {
    fn line(&mut self, text: &str) {
        let _ = write!(self.0, "\n{text}\n");
    }

    fn heading(&mut self, level: &str, title: &str, about: &str) {
        self.line(&format!("{level} {title}"));
        if !about.is_empty() {
            self.line(about);
        }
    }

    fn table(&mut self, schema: &Value, prefix: &str) {
        let mut rows = Vec::new();
        collect(schema, prefix, &mut rows);
        if rows.is_empty() {
            return self.line("No options.");
        }
        self.line("| option | type | default | meaning |\n|---|---|---|---|");
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('\n', " ").replace('|', "\\|")).collect();
            let _ = writeln!(self.0, "| {} |", cells.join(" | "));
        }
    }
}

/// The options of a table, and those of the tables in it.
fn collect(schema: &Value, prefix: &str, rows: &mut Vec<[String; 4]>) {
    let required: Vec<&str> = list(&schema["required"]).into_iter().filter_map(Value::as_str).collect();
    for (name, option) in schema["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let default = match &option["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null => String::new(),
            value => format!("`{value}`"),
        };
        let meaning = option["description"].as_str().unwrap_or_default().to_owned();
        rows.push([format!("`{path}`"), type_of(option), default, meaning]);
        within(option, &path, rows);
    }
}

/// The options of the tables that an option may be, or hold.
fn within(option: &Value, path: &str, rows: &mut Vec<[String; 4]>) {
    if option["title"] == "secret" {
        return;
    }
    collect(option, path, rows);
    if option["additionalProperties"].is_object() {
        within(&option["additionalProperties"], &format!("{path}.NAME"), rows);
    }
    if option["items"].is_object() {
        within(&option["items"], &format!("{path}[]"), rows);
    }
    for choice in ["anyOf", "oneOf"].iter().flat_map(|key| list(&option[key])) {
        within(choice, path, rows);
    }
}

/// What may be written, in words.
fn type_of(option: &Value) -> String {
    let words = |values: Vec<&Value>| values.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    if let Some(title) = option["title"].as_str() {
        return title.to_owned();
    }
    if option["enum"].is_array() {
        return words(list(&option["enum"]));
    }
    if !option["const"].is_null() {
        return words(vec![&option["const"]]);
    }
    let choices: Vec<&Value> = ["anyOf", "oneOf"].iter().flat_map(|key| list(&option[key])).collect();
    if !choices.is_empty() {
        let is_something = |choice: &&Value| choice["type"] != "null";
        let mut names: Vec<String> = choices.into_iter().filter(is_something).map(type_of).collect();
        names.dedup();
        return names.join(if names.iter().all(|name| name.starts_with('`')) { ", " } else { " or " });
    }
    let types = match &option["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => vec![],
    };
    let named = types.into_iter().filter_map(|name| match name {
        "string" => Some("text".to_owned()),
        "integer" => Some("integer".to_owned()),
        "number" => Some("number".to_owned()),
        "boolean" => Some("`true`, `false`".to_owned()),
        "array" if option["items"].is_object() => Some(format!("list of {}", type_of(&option["items"]))),
        "array" => Some("list".to_owned()),
        "object" => Some("table".to_owned()),
        _ => None,
    });
    let named: Vec<String> = named.collect();
    if named.is_empty() { "any value".to_owned() } else { named.join(" or ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_in_words() {
        for (schema, words) in [
            (json!({ "type": "string", "title": "duration" }), "duration"),
            (json!({ "type": ["string", "null"] }), "text"),
            (json!({ "type": ["string", "array"], "items": { "type": "string" } }), "text or list of text"),
            (json!({ "enum": ["a", "b"] }), "`\"a\"`, `\"b\"`"),
            (json!({ "oneOf": [{ "const": "a" }, { "const": "b" }] }), "`\"a\"`, `\"b\"`"),
            (
                json!({ "anyOf": [{ "type": "string", "title": "host:port" }, { "type": "object" }, { "type": "null" }] }),
                "host:port or table",
            ),
            (json!({ "type": "boolean" }), "`true`, `false`"),
            (json!({}), "any value"),
        ] {
            assert_eq!(type_of(&schema), words, "{schema}");
        }
    }

    #[test]
    fn tables_within_tables_have_their_rows() {
        let schema = json!({
            "properties": {
                "tls": { "type": "object", "properties": { "key": { "title": "secret", "properties": { "env": {} } } }, "required": ["key"] },
                "names": { "additionalProperties": { "properties": { "a|b": { "type": "string", "default": "x" } } } },
                "rules": { "items": { "properties": { "then": { "type": "string", "description": "one\ntwo" } } } },
            },
        });
        let mut rows = Vec::new();
        collect(&schema, "", &mut rows);
        let shown: Vec<(&str, &str)> = rows.iter().map(|row| (&*row[0], &*row[2])).collect();
        let expected = [
            ("`tls`", ""),
            ("`tls.key`", "required"),
            ("`names`", ""),
            ("`names.NAME.a|b`", "`\"x\"`"),
            ("`rules`", ""),
            ("`rules[].then`", ""),
        ];
        assert_eq!(shown, expected);
        let mut out = Tables(String::new());
        out.table(&schema, "");
        assert!(out.0.contains("| `names.NAME.a\\|b` | text |") && out.0.contains("| one two |"), "{}", out.0);
    }
}
