//! Values that several sources have among their options.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::config::{ByteSize, Duration, more_than, parsed};
use crate::hl7::Charset;

pub(super) fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let help = "a size larger than nothing, as in \"16MiB\"";
    more_than(deserializer, ByteSize::from_mib(0), "no message is that small", help)
}

/// A character set by its name in HL7 table 0211, or by its common name.
#[derive(Debug, Clone, Copy)]
pub(super) struct FallbackCharset(pub(super) Charset);

impl FallbackCharset {
    fn parse(text: &str) -> Result<FallbackCharset, (String, String)> {
        let help = "for example \"windows-1252\", \"8859/1\" (Western Europe), \"8859/2\" (Central Europe), \"8859/5\" (Cyrillic)";
        match Charset::named(text) {
            Some(charset) if charset.is_readable() => Ok(FallbackCharset(charset)),
            Some(charset) => {
                Err((format!("{charset} cannot be read, only passed through"), "leave the key out".to_owned()))
            }
            None => Err((format!("`{text}` is not a character set"), help.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for FallbackCharset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FallbackCharset, D::Error> {
        parsed(deserializer, FallbackCharset(Charset::ASCII), FallbackCharset::parse)
    }
}

impl JsonSchema for FallbackCharset {
    fn schema_name() -> Cow<'static, str> {
        "Charset".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

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
