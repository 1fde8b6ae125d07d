//! Secrets: channel files name them, they never hold them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{BuildError, Mistake, report, resolve};
use crate::diagnostic::did_you_mean;

/// Where a secret is to be had: `{ env = "NAME" }` or `{ file = "path" }`. `Debug` shows the place, never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable of the engine.
    Env(String),
    /// A file; one line break at its end does not count.
    File(PathBuf),
}

impl Secret {
    /// Where it is, for what need not be secret: a certificate.
    pub fn place(&self) -> String {
        match self {
            Secret::Env(name) => format!("environment variable {name}"),
            Secret::File(path) => path.display().to_string(),
        }
    }

    /// Fetches the secret.
    pub fn fetch(&self) -> Result<String, BuildError> {
        match self {
            Secret::Env(name) => std::env::var(name).map_err(|_| {
                BuildError::Secret(format!("{self}: the variable is not set in the engine's environment"))
            }),
            Secret::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text
                    .strip_suffix('\n')
                    .map(|text| text.strip_suffix('\r').unwrap_or(text))
                    .unwrap_or(&text)
                    .to_owned()),
                Err(error) => Err(BuildError::Secret(format!("{self}: {error}"))),
            },
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Env(name) => write!(f, "secret in environment variable {name}"),
            Secret::File(path) => write!(f, "secret in file {}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Spanned::<toml::Value>::deserialize(deserializer).map(Secret::read)
    }
}

impl Secret {
    fn read(value: Spanned<toml::Value>) -> Secret {
        let span = value.span();
        let help = || Some("write `{ env = \"NAME\" }` or `{ file = \"path\" }`: channel files live in Git".to_owned());
        let stand_in = Secret::Env(String::new());
        match value.into_inner() {
            toml::Value::String(_) => {
                report(span, "a secret must not be written into a channel file", "a literal secret", help());
                stand_in
            }
            toml::Value::Table(table) => reference(&table, &span).unwrap_or(stand_in),
            _ => {
                report(span, "a secret is a table with `env` or `file`", "", help());
                stand_in
            }
        }
    }
}

/// A secret, and where the channel file refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSecret {
    /// The secret.
    pub secret: Secret,
    /// The place.
    pub span: Range<usize>,
}

impl PlacedSecret {
    /// Its text, or why it cannot be read. None for a variable that is not set here: it may be where the engine runs.
    pub fn text(&self) -> Option<Result<String, String>> {
        match &self.secret {
            Secret::Env(name) => std::env::var(name).ok().map(Ok),
            Secret::File(path) => Some(match self.secret.fetch() {
                Ok(text) => Ok(text),
                Err(_) if !path.exists() => Err("there is no such file".to_owned()),
                Err(_) => {
                    Err(std::fs::read_to_string(path).err().map_or_else(String::new, |error| match error.kind() {
                        std::io::ErrorKind::InvalidData => {
                            "it is no text (PEM), but binary (DER or PKCS #12?)".to_owned()
                        }
                        _ => error.to_string(),
                    }))
                }
            }),
        }
    }

    /// A mistake in it.
    pub fn mistake(&self, problem: &str) -> Mistake {
        Mistake { span: self.span.clone(), message: format!("{} cannot be used: {problem}", self.secret.place()) }
    }
}

impl<'de> Deserialize<'de> for PlacedSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlacedSecret, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        Ok(PlacedSecret { span: value.span(), secret: Secret::read(value) })
    }
}

impl JsonSchema for PlacedSecret {
    fn schema_name() -> Cow<'static, str> {
        Secret::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Secret::json_schema(generator)
    }
}

/// What the table refers to; reports when that is not one thing.
fn reference(table: &toml::Table, span: &Range<usize>) -> Option<Secret> {
    const KNOWN: [&str; 2] = ["env", "file"];
    let help = || Some("write `{ env = \"NAME\" }` or `{ file = \"path\" }`".to_owned());
    if let Some(word) = table.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        let near = did_you_mean(word, KNOWN);
        let label = near.map_or("not a key of a secret".to_owned(), |near| format!("did you mean `{near}`?"));
        let help = Some("known keys: env, file".to_owned());
        report(span.clone(), format!("unknown key `{word}` in a secret"), label, help);
        return None;
    }
    let text = |key: &str| table.get(key).map(|value| value.as_str().filter(|text| !text.is_empty()));
    match (text("env"), text("file")) {
        (Some(Some(name)), None) => Some(Secret::Env(name.to_owned())),
        (None, Some(Some(path))) => Some(Secret::File(resolve(path))),
        (Some(None), None) | (None, Some(None)) => {
            report(span.clone(), "where a secret is must be a string that is not empty", "", help());
            None
        }
        _ => {
            report(span.clone(), "a secret is either in `env` or in `file`", "", help());
            None
        }
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    /// No `type`: a literal string must reach [`Secret::deserialize`], which says why it is refused.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "secret",
            "description": "A reference to a secret: { env = \"NAME\" } or { file = \"path\" }. Never the secret itself.",
            "properties": {
                "env": { "type": "string", "description": "An environment variable of the engine." },
                "file": { "type": "string", "description": "A file; a relative path starts at the channel file." },
            },
        })
    }
}
