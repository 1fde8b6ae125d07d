//! What channel files say of how messages are framed.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use crate::config::report;
use crate::mllp::Framing;

/// The bytes that frame a message, as written: `{ start = "VT", end = "FS CR" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FramingBytes(pub(crate) Framing);

/// The keys of `framing`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The byte that starts a frame, as in "0x0B" or "VT".
    #[serde(default = "default_start")]
    start: String,
    /// The byte or the two bytes that end a frame, as in "0x1C0D" or "FS CR".
    #[serde(default = "default_end")]
    end: String,
}

fn default_start() -> String {
    "0x0B".to_owned()
}

fn default_end() -> String {
    "0x1C0D".to_owned()
}

impl Keys {
    fn framing(&self) -> Result<Framing, String> {
        let bytes = |text: &str| Framing::bytes(text).ok_or_else(|| format!("`{text}` are no bytes"));
        Framing::new(&bytes(&self.start)?, &bytes(&self.end)?)
    }
}

impl<'de> Deserialize<'de> for FramingBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FramingBytes, D::Error> {
        let keys = Spanned::<Keys>::deserialize(deserializer)?;
        let framing = keys.get_ref().framing();
        Ok(FramingBytes(framing.unwrap_or_else(|problem| {
            let help = "write bytes as in { start = \"0x0B\", end = \"0x1C0D\" }, or by their names: { start = \"STX\", end = \"ETX\" }";
            report(keys.span(), problem, "", Some(help.to_owned()));
            Framing::default()
        })))
    }
}

impl JsonSchema for FramingBytes {
    fn schema_name() -> Cow<'static, str> {
        "Framing".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Keys::json_schema(generator)
    }
}

/// Release 1 or 2 of MLLP: in release 2 each frame is answered by a commit acknowledgement, a frame with one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(into = "u8")]
pub(crate) enum Release {
    #[default]
    One,
    Two,
}

impl From<Release> for u8 {
    fn from(release: Release) -> u8 {
        match release {
            Release::One => 1,
            Release::Two => 2,
        }
    }
}

impl<'de> Deserialize<'de> for Release {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Release, D::Error> {
        // The schema lets nothing else through.
        Ok(if u8::deserialize(deserializer)? == 2 { Release::Two } else { Release::One })
    }
}

impl JsonSchema for Release {
    fn schema_name() -> Cow<'static, str> {
        "Release".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 2 })
    }
}
