//! What every kind of source, step and destination must do: walks the registers, so that a kind cannot opt out.

use std::path::Path;

use labwire::channel::{self, ChannelSpec};
use labwire::diagnostic::SourceFile;
use labwire::{destination, source, transformer};
use serde_json::Value;

const SOURCE: &str = "[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n";
const DESTINATION: &str = "[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n";

/// Reads a channel file in a folder where the shipped channels' tables and templates are.
fn read(text: &str) -> Result<ChannelSpec, Vec<String>> {
    let folder = crate::support::root().join("channels");
    let file = SourceFile::new(Path::new("c.toml"), text);
    let (spec, diagnostics) = channel::parse(&folder.join("c.toml"), &file, &folder);
    spec.ok_or_else(|| diagnostics.iter().map(ToString::to_string).collect())
}

#[test]
fn each_example_is_a_channel_without_mistakes() {
    for kind in source::KINDS {
        let text = format!("name = \"c\"\naction = 49\n[source]\n{}{DESTINATION}", kind.example);
        let spec = read(&text).unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", kind.name));
        assert_eq!(spec.source_kind, kind.name);
    }
    for kind in transformer::KINDS {
        let text = format!("name = \"c\"\n{SOURCE}[[transformer]]\n{}{DESTINATION}", kind.example);
        let spec = read(&text).unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", kind.name));
        assert_eq!(spec.transformer.len(), 1);
    }
    for kind in destination::KINDS {
        let text = format!("name = \"c\"\n{SOURCE}[destination.out]\n{}", kind.example);
        let spec = read(&text).unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", kind.name));
        assert_eq!(spec.destinations[0].kind, kind.name);
    }
}

#[test]
fn each_kind_refuses_a_key_that_it_does_not_know() {
    for kind in source::KINDS {
        let text = format!("name = \"c\"\naction = 49\n[source]\n{}nonsense = 1\n{DESTINATION}", kind.example);
        let mistakes = read(&text).expect_err(kind.name);
        assert!(mistakes[0].contains("unknown key `nonsense`"), "{}: {mistakes:?}", kind.name);
    }
    for kind in destination::KINDS {
        let text = format!("name = \"c\"\n{SOURCE}[destination.out]\n{}nonsense = 1\n", kind.example);
        let mistakes = read(&text).expect_err(kind.name);
        assert!(mistakes[0].contains("unknown key `nonsense`"), "{}: {mistakes:?}", kind.name);
    }
}

/// Every object with properties, below a schema.
fn options(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, option) in properties {
            let path = format!("{path}.{name}");
            found.push((path.clone(), option.clone()));
            options(option, &path, found);
        }
    }
    for key in ["oneOf", "anyOf"] {
        for choice in schema[key].as_array().into_iter().flatten() {
            options(choice, &format!("{path}({})", choice["title"].as_str().unwrap_or_default()), found);
        }
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            options(&schema[key], path, found);
        }
    }
}

#[test]
fn each_option_is_described() {
    let mut found = Vec::new();
    options(&channel::json_schema(), "channel", &mut found);
    assert!(found.len() > 40, "{}", found.len());
    let bare: Vec<_> = found
        .iter()
        .filter(|(_, option)| option["description"].as_str().is_none_or(str::is_empty))
        .map(|(path, _)| path)
        .collect();
    assert!(bare.is_empty(), "no description: {bare:?}");
}

#[test]
fn names_and_summaries_are_there_and_names_are_used_once() {
    let names = source::KINDS.iter().map(|kind| (kind.name, kind.summary));
    for (name, summary) in names.chain(destination::KINDS.iter().map(|kind| (kind.name, kind.summary))) {
        assert!(!name.is_empty() && summary.ends_with('.'), "{name}: {summary}");
    }
    let mut verbs: Vec<_> = transformer::KINDS.iter().map(|kind| kind.name).collect();
    verbs.sort_unstable();
    verbs.dedup();
    assert_eq!(verbs.len(), transformer::KINDS.len());
    for key in transformer::STEP_KEYS {
        assert!(!verbs.contains(key), "{key}");
    }
}
