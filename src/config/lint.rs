//! Checks a spanned TOML value against the JSON Schema of the type that will hold it: every mistake, not the first.
//!
//! Knows the part of JSON Schema that our types generate: `type`, `properties`, `required`, `additionalProperties`, `items`,
//! `enum`, `const`, `anyOf`, `oneOf`.

use std::ops::Range;

use schemars::Schema;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::report;
use crate::diagnostic::did_you_mean;

/// Checks a table, taking unknown keys out so that the rest can be read. True when what is left fits.
pub(super) fn table(
    entries: &mut DeTable<'_>,
    span: &Range<usize>,
    name: &str,
    schema: &Schema,
    more: &[&str],
) -> bool {
    match schema.as_object() {
        Some(schema) => object(entries, span, name, schema, more),
        None => true,
    }
}

/// Checks a single value.
pub(super) fn value(value: &mut Spanned<DeValue<'_>>, name: &str, schema: &Schema) -> bool {
    schema.as_object().is_none_or(|schema| check(value, name, schema))
}

/// What a value is, in words.
pub(super) fn found(value: &DeValue<'_>) -> String {
    let what = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("this is {what}")
}

fn object(
    entries: &mut DeTable<'_>,
    span: &Range<usize>,
    name: &str,
    schema: &Map<String, Value>,
    more: &[&str],
) -> bool {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let additional = schema.get("additionalProperties");
    let mut unknown = Vec::new();
    let mut clean = true;
    for (key, value) in entries.iter_mut() {
        let word: &str = key.get_ref();
        let path = if name.is_empty() || name.starts_with('[') { word.to_owned() } else { format!("{name}.{word}") };
        match properties.get(word).or(additional.filter(|schema| schema.is_object())) {
            Some(Value::Object(schema)) => clean &= check(value, &path, schema),
            Some(_) => {}
            None if additional == Some(&Value::Bool(false)) => unknown.push((word.to_owned(), key.span())),
            None => {}
        }
    }
    let mut meant = Vec::new();
    for (word, key_span) in unknown {
        meant.extend(report_unknown_key(&word, key_span, name, properties, more));
        entries.remove(word.as_str());
    }
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !entries.contains_key(required) {
            clean = false;
            // A mistyped key is one mistake, not two.
            if meant.contains(&required) {
                continue;
            }
            let shown = if name.is_empty() { "this file" } else { name };
            let help = properties.get(required).and_then(description).map(|text| format!("`{required}`: {text}"));
            report(span.clone(), format!("missing key `{required}` in {shown}"), "", help);
        }
    }
    clean
}

/// Says which key was probably meant.
fn report_unknown_key<'k>(
    word: &str,
    span: Range<usize>,
    name: &str,
    properties: &'k Map<String, Value>,
    more: &[&'k str],
) -> Option<&'k str> {
    let known: Vec<&str> = properties.keys().map(String::as_str).chain(more.iter().copied()).collect();
    let meant = did_you_mean(word, known.iter().copied());
    let label = match meant {
        Some(near) => format!("did you mean `{near}`?"),
        None => "not a key of this table".to_owned(),
    };
    let shown = if name.is_empty() { String::new() } else { format!(" in {name}") };
    report(span, format!("unknown key `{word}`{shown}"), label, Some(format!("known keys: {}", known.join(", "))));
    meant
}

fn check(value: &mut Spanned<DeValue<'_>>, path: &str, schema: &Map<String, Value>) -> bool {
    if let Some(choices) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array()) {
        return check_choices(value, path, choices);
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return check_words(value, path, words);
    }
    if !has_type(value.get_ref(), schema) {
        let wanted = type_names(schema);
        report(
            value.span(),
            format!("`{path}` must be {wanted}"),
            found(value.get_ref()),
            example(value.get_ref(), path, schema),
        );
        return false;
    }
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(entries) => object(entries, &span, path, schema, &[]),
        DeValue::Integer(number) => in_range(number, &span, path, schema),
        DeValue::Array(items) => match schema.get("items").and_then(Value::as_object) {
            Some(item) => {
                let mut clean = true;
                for value in items.iter_mut() {
                    clean &= check(value, path, item);
                }
                clean
            }
            None => true,
        },
        _ => true,
    }
}

/// Whether a number is one that the option can hold.
fn in_range(number: &DeInteger<'_>, span: &Range<usize>, path: &str, schema: &Map<String, Value>) -> bool {
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64).map(i128::from);
    let (least, most) = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => (Some(0), Some(i128::from(u8::MAX))),
        Some("uint16") => (Some(0), Some(i128::from(u16::MAX))),
        Some("uint32") => (Some(0), Some(i128::from(u32::MAX))),
        Some("uint" | "uint64") => (Some(0), Some(i128::from(i64::MAX))),
        _ => (None, None),
    };
    let (least, most) = (bound("minimum").or(least), bound("maximum").or(most));
    // Whatever has more digits than an i128 is out of every range.
    let number = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
    if least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most) {
        return true;
    }
    let range = match (least, most) {
        (Some(least), Some(most)) if most < i128::from(i64::MAX) => format!("between {least} and {most}"),
        (Some(least), _) if number < least => format!("{least} or more"),
        (_, most) => format!("{} or less", most.unwrap_or(i128::MAX)),
    };
    report(span.clone(), format!("`{path}` must be {range}"), "out of range", None);
    false
}

/// Of several forms, the one of the value's own type is meant.
fn check_choices(value: &mut Spanned<DeValue<'_>>, path: &str, choices: &[Value]) -> bool {
    let choices: Vec<&Map<String, Value>> = choices.iter().filter_map(Value::as_object).collect();
    let words: Vec<Value> = choices.iter().filter_map(|choice| choice.get("const").cloned()).collect();
    if !words.is_empty() && words.len() == choices.len() {
        return check_words(value, path, &words);
    }
    let fitting: Vec<_> = choices.iter().filter(|choice| has_type(value.get_ref(), choice)).collect();
    let keyed = fitting.iter().find(|choice| shares_a_key(value.get_ref(), choice));
    match keyed.or(fitting.first()) {
        Some(choice) => check(value, path, choice),
        None => {
            let mut wanted: Vec<String> =
                choices.iter().map(|choice| type_names(choice)).filter(|name| name != "nothing").collect();
            wanted.dedup();
            report(value.span(), format!("`{path}` must be {}", wanted.join(" or ")), found(value.get_ref()), None);
            false
        }
    }
}

fn shares_a_key(value: &DeValue<'_>, schema: &Map<String, Value>) -> bool {
    match (value, schema.get("properties").and_then(Value::as_object)) {
        (DeValue::Table(entries), Some(properties)) => {
            entries.keys().any(|key| properties.contains_key(&**key.get_ref()))
        }
        _ => false,
    }
}

fn check_words(value: &Spanned<DeValue<'_>>, path: &str, words: &[Value]) -> bool {
    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
    match value.get_ref().as_str() {
        Some(word) if words.contains(&word) => true,
        Some(word) => {
            super::table::unknown_word(value.span(), format!("`{path}` cannot be `{word}`"), word, &words);
            false
        }
        None => {
            report(value.span(), format!("`{path}` must be a string"), found(value.get_ref()), None);
            false
        }
    }
}

fn types(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

fn has_type(value: &DeValue<'_>, schema: &Map<String, Value>) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.iter().any(|name| match *name {
            "string" => value.is_str(),
            "integer" => value.is_integer(),
            "number" => value.is_integer() || value.is_float(),
            "boolean" => value.is_bool(),
            "array" => value.is_array(),
            "object" => value.is_table(),
            _ => false,
        })
}

fn type_names(schema: &Map<String, Value>) -> String {
    let names: Vec<&str> = types(schema)
        .into_iter()
        .filter_map(|name| match name {
            "string" => Some("a string"),
            "integer" => Some("an integer"),
            "number" => Some("a number"),
            "boolean" => Some("a boolean"),
            "array" => Some("an array"),
            "object" => Some("a table"),
            _ => None,
        })
        .collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(" or ") }
}

/// How to write it instead, where the value shows what was meant.
fn example(value: &DeValue<'_>, path: &str, schema: &Map<String, Value>) -> Option<String> {
    let key = path.rsplit('.').next().unwrap_or(path);
    match (value, types(schema).first().copied()?) {
        (DeValue::String(text), "boolean") => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(format!("write `{key} = true`, without quotes")),
            "false" | "no" | "off" | "0" => Some(format!("write `{key} = false`, without quotes")),
            _ => None,
        },
        (DeValue::String(text), "integer") if text.parse::<i64>().is_ok() => {
            Some(format!("write `{key} = {text}`, without quotes"))
        }
        (DeValue::Integer(number), "string") => Some(format!("write `{key} = \"{number}\"`, in quotes")),
        (DeValue::Boolean(word), "string") => Some(format!("write `{key} = \"{word}\"`, in quotes")),
        _ => description(&Value::Object(schema.clone())),
    }
}

fn description(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split("\n\n").next().unwrap_or(text).replace('\n', " "))
}
