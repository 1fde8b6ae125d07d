//! The option that says for how long a message is known again.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{Duration, parsed};

/// For how long a message is known again; none: each is a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DuplicateWindow(pub(super) Option<Duration>);

impl Default for DuplicateWindow {
    fn default() -> DuplicateWindow {
        DuplicateWindow(Some(Duration::from_secs(72 * 60 * 60)))
    }
}

impl DuplicateWindow {
    fn parse(text: &str) -> Result<DuplicateWindow, (String, String)> {
        let help = || "a duration as in \"72h\", or \"off\" to take every message as a new one".to_owned();
        if text == "off" {
            return Ok(DuplicateWindow(None));
        }
        match Duration::parse(text) {
            Some(window) if window == Duration::from_millis(0) => {
                Err(("no message comes again so soon".to_owned(), help()))
            }
            Some(window) => Ok(DuplicateWindow(Some(window))),
            None => Err((format!("`{text}` is not a duration"), help())),
        }
    }
}

impl Serialize for DuplicateWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(window) => window.serialize(serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for DuplicateWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DuplicateWindow, D::Error> {
        parsed(deserializer, DuplicateWindow::default(), DuplicateWindow::parse)
    }
}

impl JsonSchema for DuplicateWindow {
    fn schema_name() -> Cow<'static, str> {
        "DuplicateWindow".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
