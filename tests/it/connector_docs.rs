//! The pages of `docs` on connectors: their examples are sound, and their tables have every option.

use std::path::Path;

use labwire::channel;
use labwire::diagnostic::SourceFile;
use serde_json::Value;

use crate::support::root;

const SOURCE: &str = "[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n";
const DESTINATION: &str = "[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n";

/// The options of a kind of source or destination, without those that every destination has.
fn options(schema: &Value, pointer: &str, kind: &str) -> Vec<String> {
    let common = ["type", "when", "transformer", "retry", "on", "on_poison", "order_by", "parallel", "charset", "rate"];
    let kinds = schema.pointer(pointer).unwrap().as_array().unwrap();
    let kind = kinds.iter().find(|known| known["title"] == kind).unwrap();
    let options = kind["properties"].as_object().unwrap().keys().filter(|option| !common.contains(&option.as_str()));
    options.cloned().collect()
}

#[test]
fn each_example_is_sound_and_each_option_is_in_its_table() {
    let schema = channel::json_schema();
    let (sources, destinations) = ("/properties/source/oneOf", "/properties/destination/additionalProperties/oneOf");
    for (page, pointer, kind) in [
        ("timer-and-channel.md", sources, "timer"),
        ("timer-and-channel.md", sources, "channel"),
        ("timer-and-channel.md", destinations, "channel"),
        ("email.md", destinations, "email"),
        ("fax.md", destinations, "fax"),
    ] {
        let docs = std::fs::read_to_string(root().join("docs").join(page)).unwrap();
        // The first cell of a row may name several.
        let rows: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
        for option in options(&schema, pointer, kind) {
            let is_there = rows.iter().any(|row| row.contains(&format!("`{option}`")));
            assert!(is_there, "docs/{page} says nothing of `{option}` of {kind}");
        }
        for example in docs.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let (source, destination) = (example.contains("[source]"), example.contains("[destination."));
            let text = format!(
                "name = \"c\"\n{}{example}{}",
                if source { "" } else { SOURCE },
                if destination { "" } else { DESTINATION }
            );
            let file = SourceFile::new(Path::new("c.toml"), &text);
            let (spec, diagnostics) = channel::parse(Path::new("c.toml"), &file, Path::new("."));
            assert!(spec.is_some() && diagnostics.is_empty(), "docs/{page}: {diagnostics:?}");
        }
    }
}
