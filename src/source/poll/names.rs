//! Which files are meant, by their names.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::report;

/// A compiled pattern takes no more memory than this.
const PATTERN_BYTES: usize = 1 << 20;

/// Names of files: those that fit one of several patterns.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<Regex>);

impl Names {
    /// Names that fit one of these wildcards.
    pub(super) fn wildcards(patterns: &[&str]) -> Names {
        Names(patterns.iter().filter_map(|pattern| wildcard(pattern).ok()).collect())
    }

    /// Whether a name is one of these.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(name))
    }
}

/// A pattern with `*` (anything), `?` (one character) and `[a-z]`, for the whole name.
fn wildcard(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.contains('/') {
        return Err("a pattern is for names alone, without folders: \"*.hl7\"".to_owned());
    }
    let mut text = String::from("^(?:");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, rest.find(']')) {
            ('*', _) => text.push_str(".*"),
            ('?', _) => text.push('.'),
            ('[', Some(end)) if end > 0 => {
                let (inner, after) = rest.split_at(end);
                let inner = inner.strip_prefix('!').map_or_else(|| inner.to_owned(), |inner| format!("^{inner}"));
                text.push_str(&format!("[{}]", inner.replace('\\', "\\\\").replace('[', "\\[").replace("&&", "&\\&")));
                rest = &after[1..];
            }
            _ => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push_str(")$");
    compile(&text)
}

fn compile(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).dot_matches_new_line(true).size_limit(PATTERN_BYTES).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = value.span();
        let compiled: Result<Vec<Regex>, String> = match value.get_ref() {
            toml::Value::String(pattern) => wildcard(pattern).map(|pattern| vec![pattern]),
            toml::Value::Array(patterns) => {
                let texts = patterns.iter().filter_map(toml::Value::as_str);
                texts.map(wildcard).collect()
            }
            toml::Value::Table(table) => match table.get("regex").and_then(toml::Value::as_str) {
                Some(pattern) => compile(pattern).map(|pattern| vec![pattern]),
                None => Err("a table has the key `regex`".to_owned()),
            },
            _ => Err("this is no pattern".to_owned()),
        };
        Ok(Names(compiled.unwrap_or_else(|problem| {
            let help = "write \"*.hl7\", [\"*.hl7\", \"*.txt\"] or { regex = \"^ORU_.*[.]hl7$\" }";
            report(span, format!("these are no names of files: {problem}"), "", Some(help.to_owned()));
            Vec::new()
        })))
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array", "object"],
            "items": { "type": "string" },
            "properties": {
                "regex": { "type": "string", "description": "A regular expression (Rust's syntax) that is found in the name." },
            },
            "additionalProperties": false,
        })
    }
}

/// The name of the marker that says of a file that it is complete: text with `{name}` (the file's name) or `{stem}` (the same
/// without its last ending) in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    before: String,
    stem: bool,
    after: String,
}

impl Marker {
    fn parse(text: &str) -> Option<Marker> {
        let (word, stem) = if text.contains("{name}") { ("{name}", false) } else { ("{stem}", true) };
        let (before, after) = text.split_once(word)?;
        let plain = |text: &str| !text.contains(['/', '{', '}', '\0']);
        let is_other = !(before.is_empty() && after.is_empty());
        (plain(before) && plain(after) && is_other).then(|| Marker {
            before: before.to_owned(),
            stem,
            after: after.to_owned(),
        })
    }

    /// The marker of a file.
    pub(super) fn of(&self, name: &str) -> String {
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        format!("{}{}{}", self.before, if self.stem { stem } else { name }, self.after)
    }

    /// Whether a file is a marker itself.
    pub(super) fn is(&self, name: &str) -> bool {
        let between = name.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after));
        between.is_some_and(|between| !between.is_empty())
    }
}

impl<'de> Deserialize<'de> for Marker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Marker, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Marker::parse(text.get_ref()).unwrap_or_else(|| {
            let help = "write \"{name}.done\", where {name} stands for the file's name, or \"{stem}.ok\"";
            report(text.span(), "this is no name of a marker", "", Some(help.to_owned()));
            Marker { before: String::new(), stem: false, after: ".done".to_owned() }
        }))
    }
}

impl JsonSchema for Marker {
    fn schema_name() -> Cow<'static, str> {
        "Marker".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_for_the_whole_name() {
        for (pattern, name, fits) in [
            ("*.hl7", "a.hl7", true),
            ("*.hl7", "a.hl7.tmp", false),
            ("*.hl7", "A.HL7", false),
            ("*.hl7", "aXhl7", false),
            ("a?.txt", "ab.txt", true),
            ("a?.txt", "abc.txt", false),
            ("[0-9]*", "7up", true),
            ("[!0-9]*", "7up", false),
            ("a[", "a[", true),
            ("*", "ünï", true),
            (".*", "a", false),
            ("(a|b)+", "(a|b)+", true),
        ] {
            assert_eq!(Names::wildcards(&[pattern]).has(name), fits, "{pattern} {name}");
        }
        assert!(wildcard("in/*.hl7").is_err() && wildcard("").is_err());
        assert!(compile("(").is_err() && compile("a{100000}{100000}").is_err());
    }

    #[test]
    fn markers_belong_to_their_files() {
        let done = Marker::parse("{name}.done").expect("a marker");
        assert_eq!(done.of("a.hl7"), "a.hl7.done");
        assert!(done.is("a.hl7.done") && !done.is(".done") && !done.is("a.hl7"));
        let ready = Marker::parse("ready-{stem}").expect("a marker");
        assert_eq!(ready.of("a.b.hl7"), "ready-a.b");
        for text in ["", "{name}", "done", "x/{name}", "{name}{stem}"] {
            assert_eq!(Marker::parse(text), None, "{text}");
        }
    }
}
