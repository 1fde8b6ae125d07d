//! Secrets: channel files name them, they never hold them.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{BuildError, report, resolve};

/// Where a secret is to be had: `{ env = "NAME" }` or `{ file = "path" }`. `Debug` shows the place, never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable of the engine.
    Env(String),
    /// A file; one line break at its end does not count.
    File(PathBuf),
}

impl Secret {
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reference {
    env: Option<String>,
    file: Option<String>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = value.span();
        let help = || Some("write `{ env = \"NAME\" }` or `{ file = \"path\" }`: channel files live in Git".to_owned());
        let stand_in = Secret::Env(String::new());
        match value.into_inner() {
            toml::Value::String(_) => {
                report(span, "a secret must not be written into a channel file", "a literal secret", help());
                Ok(stand_in)
            }
            table => match table.try_into::<Reference>() {
                Ok(Reference { env: Some(name), file: None }) => Ok(Secret::Env(name)),
                Ok(Reference { env: None, file: Some(path) }) => Ok(Secret::File(resolve(&path))),
                Ok(_) => {
                    report(span, "a secret is either in `env` or in `file`", "", help());
                    Ok(stand_in)
                }
                Err(error) => {
                    report(span, format!("this is no reference to a secret: {}", error.message()), "", help());
                    Ok(stand_in)
                }
            },
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
            "description": "A reference to a secret: { env = \"NAME\" } or { file = \"path\" }. Never the secret itself.",
            "properties": {
                "env": { "type": "string", "description": "An environment variable of the engine." },
                "file": { "type": "string", "description": "A file; a relative path starts at the channel file." },
            },
        })
    }
}
