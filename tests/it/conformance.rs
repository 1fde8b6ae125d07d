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

/// The texts of all tests, with their paths.
fn tests() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let shown = path.strip_prefix(crate::support::root()).unwrap().display().to_string();
                let is_product = shown.starts_with("src");
                let text = if is_product {
                    text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests).to_owned()
                } else {
                    text
                };
                // Line breaks as Rust writes them, so that what follows is a word of its own.
                found.push((shown, text.replace("\\n", "\n")));
            }
        }
    }
    let mut found = Vec::new();
    ["tests/it", "src", "channels"].iter().for_each(|folder| walk(&crate::support::root().join(folder), &mut found));
    found
}

/// Whether a text gives this key a value, as TOML does (`key = …`, `[[key]]`), or as a pair of both.
fn gives(text: &str, key: &str) -> bool {
    text.match_indices(key).any(|(at, _)| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let (before, rest) = (&text[..at], &text[at + key.len()..]);
        let is_list = before.ends_with(['[', '.']) && rest.starts_with("]]");
        let is_pair = before.ends_with("(\"") && rest.starts_with("\", \"");
        let rest = rest.trim_start_matches(['\\', '"']).trim_start();
        let is_given = !before.ends_with(is_word) && rest.starts_with('=') && !rest.starts_with("==");
        is_given || is_list || is_pair
    })
}

/// A guard, and a cheap one: whether the test fails when the option is ignored is for its author to see to.
#[test]
fn each_option_is_given_a_value_in_a_test_of_its_kind() {
    let (tests, schema) = (tests(), channel::json_schema());
    let mut missing = Vec::new();
    for place in ["/properties/source/oneOf", "/properties/destination/additionalProperties/oneOf"] {
        for kind in schema.pointer(place).unwrap().as_array().unwrap() {
            let name = kind["title"].as_str().unwrap();
            let (mut found, is_of_kind) =
                (Vec::new(), |text: &str| text.contains(&format!("{name}\"")) || text.contains(&format!("{name}\\\"")));
            options(kind, name, &mut found);
            let of_kind: Vec<_> = tests.iter().filter(|(path, text)| path.contains(name) || is_of_kind(text)).collect();
            for (path, _) in found {
                let key = path.rsplit('.').next().unwrap();
                // Faults are words of one table, which other tests walk. What all kinds share is the lane's and the transformer's.
                let first = path.split('.').nth(1).unwrap();
                if first == "on" && key != "on" {
                    continue;
                }
                let is_shared = ["when", "transformer", "retry", "order_by", "parallel", "on_poison", "rate"]
                    .contains(&first)
                    || (first == "charset" && place.contains("destination"));
                let known = of_kind.iter().any(|(_, text)| gives(text, key));
                let known_elsewhere = is_shared && tests.iter().any(|(_, text)| gives(text, key));
                if !known && !known_elsewhere {
                    missing.push(path);
                }
            }
        }
    }
    assert!(missing.is_empty(), "no test gives these a value: {missing:#?}");
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
