//! How a vendor is talked to: data, in a file, not code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use toml::Spanned;

use crate::config::{load_text, report, report_in, target, unknown_word};

/// The profiles that ship with the engine.
const SHIPPED: &[(&str, &str)] =
    &[("multipart", include_str!("profiles/multipart.toml")), ("json", include_str!("profiles/json.toml"))];

/// Values that every profile may use.
const VALUES: &[&str] =
    &["number", "caller", "reference", "document", "job", "cover.to", "cover.from", "cover.subject", "cover.text"];

/// A vendor's interface.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) submit: Submit,
    /// How a fax is found by its reference.
    find: Option<Find>,
    pub(super) status: Status,
}

/// How a fax is handed over.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Submit {
    pub(super) path: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) multipart: Option<Multipart>,
    pub(super) json: Option<Map<String, Value>>,
    /// Added where there is a cover sheet.
    #[serde(default)]
    pub(super) cover: Map<String, Value>,
    /// Where the answer has the job's id.
    pub(super) job: Pointer,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Multipart {
    /// The field that carries the document.
    pub(super) file: String,
    #[serde(default)]
    pub(super) fields: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Find {
    pub(super) path: String,
    pub(super) job: Pointer,
}

/// How it is asked what became of a fax.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    pub(super) path: String,
    state: Pointer,
    reason: Option<Pointer>,
    pages: Option<Pointer>,
    pending: Vec<String>,
    sent: Vec<String>,
    #[serde(default)]
    retry: Vec<String>,
    #[serde(default)]
    failed: Vec<String>,
}

/// A place in an answer (RFC 6901).
#[derive(Debug, Clone)]
pub(super) struct Pointer(String);

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pointer, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with('/') {
            return Ok(Pointer(text));
        }
        Err(serde::de::Error::custom(format!("`{text}` is no JSON pointer: it begins with `/`, as in \"/data/id\"")))
    }
}

impl Pointer {
    /// The text or number there.
    pub(super) fn text(&self, answer: &Value) -> Option<String> {
        match answer.pointer(&self.0)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// What a vendor says of a fax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Pending,
    Sent,
    /// Another try may work.
    Retry,
    Failed,
    /// A state that the profile does not know.
    Unknown,
}

/// What a vendor says of a fax, with what it says beside.
pub(super) struct Said {
    pub(super) fate: Fate,
    pub(super) state: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) pages: Option<u64>,
}

impl Status {
    pub(super) fn read(&self, answer: &Value) -> Said {
        let state = self.state.text(answer);
        let reason = self.reason.as_ref().and_then(|reason| reason.text(answer));
        let is_in = |list: &[String], word: &Option<String>| word.as_ref().is_some_and(|word| list.contains(word));
        let fate = if is_in(&self.sent, &state) {
            Fate::Sent
        } else if is_in(&self.pending, &state) {
            Fate::Pending
        } else if is_in(&self.retry, &reason) || is_in(&self.retry, &state) {
            Fate::Retry
        } else if is_in(&self.failed, &state) {
            Fate::Failed
        } else {
            Fate::Unknown
        };
        let pages = self.pages.as_ref().and_then(|pages| pages.text(answer)?.parse().ok());
        Said { fate, state, reason, pages }
    }
}

impl Profile {
    pub(super) fn find(&self) -> Option<&Find> {
        self.find.as_ref()
    }

    /// Reads a profile; a mistake is told with its place in the text.
    fn parse(text: &str) -> Result<Profile, (std::ops::Range<usize>, String)> {
        let profile: Profile =
            toml::from_str(text).map_err(|error| (error.span().unwrap_or(0..0), error.message().to_owned()))?;
        let problem = profile.problem();
        problem.map_or(Ok(profile), |problem| Err((0..0, problem)))
    }

    fn problem(&self) -> Option<String> {
        if self.submit.multipart.is_some() == self.submit.json.is_some() {
            return Some("[submit] needs either `multipart` or `json`".to_owned());
        }
        let paths = [Some(&self.submit.path), self.find.as_ref().map(|find| &find.path), Some(&self.status.path)];
        for path in paths.into_iter().flatten() {
            let filled = fill(path, &|_| Some("x".to_owned()), &str::to_owned);
            if !path.starts_with('/') || target(&filled).is_err() {
                return Some(format!("`{path}` is no path of a URL"));
            }
        }
        let key = self.submit.headers.values().any(|value| value.contains("{reference}"));
        if self.find.is_none() && !key {
            return Some(
                "a fax could be sent twice after a crash: the vendor must find it by its reference ([find]), or be told by a header \
                 that it is the same (`headers = { \"Idempotency-Key\" = \"{reference}\" }`)"
                    .to_owned(),
            );
        }
        let known = |name: &str| VALUES.contains(&name) || name.starts_with("values.");
        self.names().into_iter().find(|name| !known(name)).map(|name| {
            format!("no value is called `{{{name}}}`: there are {}, and {{values.NAME}}", VALUES.join(", "))
        })
    }

    /// The values that it uses.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let mut texts: Vec<String> = vec![self.submit.path.clone(), self.status.path.clone()];
        texts.extend(self.find.iter().map(|find| find.path.clone()));
        texts.extend(self.submit.headers.values().cloned());
        texts.extend(self.submit.multipart.iter().flat_map(|multipart| multipart.fields.values().cloned()));
        for part in [self.submit.json.as_ref(), Some(&self.submit.cover)].into_iter().flatten() {
            strings(&Value::Object(part.clone()), &mut texts);
        }
        let names = std::cell::RefCell::new(BTreeSet::new());
        for text in &texts {
            let note = |name: &str| {
                names.borrow_mut().insert(name.to_owned());
                Some(String::new())
            };
            fill(text, &note, &str::to_owned);
        }
        names.into_inner()
    }
}

fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(entries) => entries.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// Puts values in for `{name}`; a name without a value is empty.
pub(super) fn fill(text: &str, value: &dyn Fn(&str) -> Option<String>, encode: &dyn Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        out.push_str(&encode(&value(name).unwrap_or_default()));
        rest = after;
    }
    out + rest
}

/// The same in every string of a JSON value.
pub(super) fn fill_json(json: &Value, value: &dyn Fn(&str) -> Option<String>) -> Value {
    match json {
        Value::String(text) => Value::String(fill(text, value, &str::to_owned)),
        Value::Array(items) => items.iter().map(|item| fill_json(item, value)).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, item)| (key.clone(), fill_json(item, value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// A profile by its name, or in a file: `"multipart"`, `{ file = "profiles/vendor.toml" }`.
#[derive(Debug, Clone)]
pub(super) struct Chosen(pub(super) Option<Arc<Profile>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: Spanned<String>,
}

fn by_name(name: &Spanned<String>) -> Option<Profile> {
    let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    let Some((_, text)) = SHIPPED.iter().find(|(known, _)| known == name.get_ref()) else {
        unknown_word(name.span(), format!("no fax profile is called `{}`", name.get_ref()), name.get_ref(), &names);
        return None;
    };
    Profile::parse(text).ok()
}

fn in_file(path: &Spanned<String>) -> Option<Profile> {
    let file = load_text(&path.span(), path.get_ref(), "fax profile")?;
    Profile::parse(&file.text).map_err(|(span, problem)| report_in(&file, span, problem, "")).ok()
}

impl<'de> Deserialize<'de> for Chosen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chosen, D::Error> {
        enum Word {
            Name(String),
            File(Spanned<String>),
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a profile's name, or `{ file = \"path\" }`")
            }

            fn visit_str<E>(self, name: &str) -> Result<Word, E> {
                Ok(Word::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Word, A::Error> {
                File::deserialize(MapAccessDeserializer::new(map)).map(|file| Word::File(file.file))
            }
        }
        struct Read(Word);
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either).map(Read)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        let span = read.span();
        let profile = match read.into_inner().0 {
            Word::Name(name) => by_name(&Spanned::new(span, name)),
            Word::File(path) => in_file(&path),
        };
        Ok(Chosen(profile.map(Arc::new)))
    }
}

impl JsonSchema for Chosen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FaxProfile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "properties": { "file": { "type": "string", "description": "A profile of one's own, its path from the channel file." } },
            "description": "How the vendor is talked to: \"multipart\", \"json\", or { file = \"profiles/vendor.toml\" }.",
        })
    }
}

/// Reports what a profile wants and the channel file does not give, or gives for nothing.
pub(super) fn check_values(
    profile: &Profile,
    values: Option<&Spanned<BTreeMap<String, String>>>,
    span: std::ops::Range<usize>,
) {
    let names = profile.names();
    let wanted: BTreeSet<&str> = names.iter().filter_map(|name| name.strip_prefix("values.")).collect();
    let given: BTreeSet<&str> = values.iter().flat_map(|values| values.get_ref().keys().map(String::as_str)).collect();
    for name in wanted.difference(&given) {
        let help = Some(format!("write `values = {{ {name} = \"…\" }}`"));
        report(span.clone(), format!("the fax profile needs the value `{name}`"), "", help);
    }
    if let (Some(values), Some(name)) = (values, given.difference(&wanted).next()) {
        let text = format!("the fax profile uses no value `{name}`");
        report(values.span(), text, "it would be sent nowhere", Some("leave it out".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_profiles_are_sound() {
        for (name, text) in SHIPPED {
            let profile = Profile::parse(text).unwrap_or_else(|problem| panic!("{name}: {problem:?}"));
            assert!(profile.find().is_some(), "{name}");
        }
    }

    #[test]
    fn a_profile_that_could_send_twice_or_asks_for_what_is_not_there_is_refused() {
        let text = SHIPPED[0].1;
        let end = text.find("# Whether a fax").unwrap()..text.find("[status]").unwrap();
        let without_find = text.replacen(&text[end], "", 1);
        assert!(Profile::parse(&without_find).is_ok(), "the vendor is told that it is the same");
        for (text, words) in [
            (
                without_find.replace("Idempotency-Key\" = \"{reference}\"", "X-Lab\" = \"x\""),
                "sent twice after a crash",
            ),
            (text.replace("{number}", "{nummer}"), "no value is called `{nummer}`"),
            (text.replace("[submit]\n", "[submit]\njson = { a = \"b\" }\n"), "either `multipart` or `json`"),
            (text.replace("\"/status\"", "\"status\""), "is no JSON pointer"),
            (text.replace("\"/faxes/{job}\"", "\"faxes {job}\""), "is no path of a URL"),
            (text.replace("pending =", "pendig ="), "unknown field `pendig`"),
        ] {
            let problem = Profile::parse(&text).map(|_| ()).unwrap_err().1;
            assert!(problem.contains(words), "{words}: {problem}");
        }
    }

    #[test]
    fn values_are_put_in() {
        let value = |name: &str| (name == "a").then(|| "{b} \"x\"".to_owned());
        assert_eq!(fill("1{a}2{c}3{", &value, &str::to_owned), "1{b} \"x\"23{");
        let json = serde_json::json!({ "k": ["{a}", 1, { "n": "-{a}" }] });
        assert_eq!(fill_json(&json, &value).to_string(), r#"{"k":["{b} \"x\"",1,{"n":"-{b} \"x\""}]}"#);
    }
}
