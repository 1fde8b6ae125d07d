//! What the destinations that put files somewhere share: options, and what a delivery holds for them.
//!
//! A delivery's content is the file itself and, right behind it, its companions; how many bytes each has is in its properties. So
//! all of it is content: journaled before the first attempt, and removed when content is.

mod compress;

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::{FaultClass, SendError};
use crate::config::{parsed, report};
use crate::expr::{ExprError, Expression, FileNameTemplate, PathTemplate, Scope};
use crate::journal::Outgoing;
use crate::message::Message;

pub(super) use compress::Compress;

/// Most companions of one file.
const COMPANIONS: usize = 16;
/// Most numbers that are tried for `exists = "number"`.
pub(super) const NUMBERS: usize = 1_000;

/// Base64 as it comes: padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The mode of a file or folder, in octal digits as `chmod` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permissions(pub(super) u32);

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Permissions, D::Error> {
        parsed(deserializer, Permissions(0o640), |text| {
            let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
            mode.map(Permissions).ok_or_else(|| {
                let help = "three octal digits for owner, group and others, as in \"640\" or \"0640\"";
                (format!("`{text}` are no permissions"), help.to_owned())
            })
        })
    }
}

impl JsonSchema for Permissions {
    fn schema_name() -> Cow<'static, str> {
        "Permissions".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "Permissions in octal digits: \"0640\"." })
    }
}

/// What is done about a file that is there already under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Exists {
    /// The same content is success, and other content a conflict.
    #[default]
    Compare,
    /// It is replaced, unless it has the same content.
    Overwrite,
    /// Another name is taken: `a-1.hl7` for `a.hl7`, then `a-2.hl7` …, the first that is free or has the same content.
    Number,
    /// It stays, whatever it holds, and the delivery counts as sent.
    Keep,
}

/// The name that a file has while it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Temporary {
    /// What the name begins with. Default ".".
    #[serde(default = "default_prefix", deserialize_with = "name_part")]
    pub(super) prefix: String,
    /// What it ends with. Default ".part".
    #[serde(default = "default_suffix", deserialize_with = "name_part")]
    pub(super) suffix: String,
    /// The folder that files are written in and moved out of; it must be on the same disk. By default the folder that they go to.
    pub(super) directory: Option<PathTemplate>,
}

impl Default for Temporary {
    fn default() -> Temporary {
        Temporary { prefix: default_prefix(), suffix: default_suffix(), directory: None }
    }
}

fn default_prefix() -> String {
    ".".to_owned()
}

fn default_suffix() -> String {
    ".part".to_owned()
}

fn name_part<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer, default_suffix(), |text| {
        if text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/') {
            return Ok(text.to_owned());
        }
        let help =
            "a folder goes into `directory`; here are at most 32 letters, digits and signs without space and `/`";
        Err((format!("`{text}` cannot be a part of a file's name"), help.to_owned()))
    })
}

/// A file that is put beside another, before it: a PDF beside the HL7 that announces it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Companion {
    /// Its name, with expressions; in the same folder.
    file_name: FileNameTemplate,
    /// An expression for what is in it, as in "msg['OBX[2]-5.5']".
    content: Expression,
    /// Whether what the expression gives is base64, to be decoded.
    #[serde(default)]
    base64: bool,
    /// It goes along only when this is true.
    when: Option<Expression>,
}

/// How long a companion is, and what it is called.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    file_name: String,
    bytes: usize,
}

/// Where a delivery goes, in the words of the channel file.
pub(super) struct Naming<'a> {
    pub(super) directory: Option<&'a PathTemplate>,
    pub(super) file_name: &'a FileNameTemplate,
    pub(super) temporary: &'a Temporary,
    pub(super) companions: &'a [Companion],
}

impl Naming<'_> {
    /// Works out what a message sends: contents and names.
    pub(super) fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let directory = self.directory.map_or_else(|| Ok(".".to_owned()), |directory| directory.render(&scope))?;
        let mut properties =
            vec![("directory".to_owned(), directory), ("file_name".to_owned(), self.file_name.render(&scope)?)];
        if let Some(directory) = &self.temporary.directory {
            properties.push(("temporary_directory".to_owned(), directory.render(&scope)?));
        }
        let mut content = message.body.to_bytes();
        let mut parts = Vec::new();
        let mut behind = Vec::new();
        for companion in self.companions {
            if let Some((file_name, more)) = companion.prepare(&scope)? {
                parts.push(Part { file_name, bytes: more.len() });
                behind.extend(more);
            }
        }
        if !parts.is_empty() {
            let list = serde_json::to_string(&parts).unwrap_or_default();
            properties.push((Outgoing::MAIN_BYTES.to_owned(), content.len().to_string()));
            properties.push(("companions".to_owned(), list));
            content = [&content[..], &behind].concat().into();
        }
        Ok(Outgoing { content, properties: properties.into_iter().collect() })
    }
}

impl Companion {
    fn prepare(&self, scope: &Scope) -> Result<Option<(String, Vec<u8>)>, ExprError> {
        if let Some(when) = &self.when
            && !when.is_true(scope)?
        {
            return Ok(None);
        }
        let failed = |message: &str| ExprError { place: self.content.place().to_owned(), message: message.to_owned() };
        let value = self.content.eval(scope)?;
        if value.is_undefined() || value.is_none() {
            return Err(failed("a companion's content does not exist; `when` leaves a companion out"));
        }
        let text = value.to_string();
        let content = if self.base64 {
            let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            BASE64.decode(text).map_err(|_| failed("a companion's content is no base64"))?
        } else {
            text.into_bytes()
        };
        if content.is_empty() {
            return Err(failed("a companion is empty; `when` leaves a companion out"));
        }
        Ok(Some((self.file_name.render(scope)?, content)))
    }
}

/// A file to be put in place.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) content: Bytes,
}

/// `Debug` shows no content.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item").field("bytes", &self.content.len()).finish_non_exhaustive()
    }
}

/// What a delivery puts in place, and where.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) directory: String,
    /// Where files are written; none: where they go to.
    pub(super) temporary_directory: Option<String>,
    /// The companions, then the file that announces them.
    pub(super) items: Vec<Item>,
}

/// What is done with content before it leaves: the same for every attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Packing {
    pub(super) compress: Option<Compress>,
}

impl Parcel {
    /// Takes a delivery apart.
    pub(super) fn of(outgoing: &Outgoing, packing: &Packing) -> Result<Parcel, SendError> {
        let content = |message: &str| SendError::new(FaultClass::Content, message);
        let property = |name: &str| outgoing.properties.get(name).filter(|value| !value.is_empty()).cloned();
        let (Some(directory), Some(file_name)) = (property("directory"), property("file_name")) else {
            return Err(content(
                "this delivery was queued for a destination of another kind, without a folder and a file name: reprocess its message",
            ));
        };
        let temporary_directory = property("temporary_directory");
        let parts: Vec<Part> = match outgoing.properties.get("companions") {
            Some(list) => serde_json::from_str(list).map_err(|_| content("the list of companions cannot be read"))?,
            None => Vec::new(),
        };
        let main = outgoing.main();
        let mut rest = outgoing.content.slice(main.len()..);
        let mut items = Vec::new();
        for part in parts {
            if part.bytes > rest.len() {
                return Err(content("this delivery is shorter than its list of companions says"));
            }
            items.push(Item { name: part.file_name, content: rest.split_to(part.bytes) });
        }
        let packed = match packing.compress {
            Some(how) => {
                how.pack(&file_name, &main).ok_or_else(|| content("this is too much for one zip file"))?.into()
            }
            None => main,
        };
        items.push(Item { name: file_name, content: packed });
        let is_bad = |name: &str| name.is_empty() || name.contains(['/', '\0']) || name == "." || name == "..";
        if items.iter().any(|item| is_bad(&item.name)) || directory.contains('\0') {
            return Err(content("the file name of this delivery holds characters that a name cannot have"));
        }
        let names: std::collections::BTreeSet<_> = items.iter().map(|item| &item.name).collect();
        if names.len() < items.len() || items.len() > COMPANIONS + 1 {
            return Err(content("two files of this delivery have the same name, or there are too many of them"));
        }
        Ok(Parcel { directory, temporary_directory, items })
    }
}

/// The name that is tried after so many others: `a-1.hl7` for `a.hl7`.
pub(super) fn numbered(name: &str, number: usize) -> String {
    match name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) {
        _ if number == 0 => name.to_owned(),
        Some((stem, ending)) => format!("{stem}-{number}.{ending}"),
        None => format!("{name}-{number}"),
    }
}

/// What cannot be right about the options of a file destination, whatever the partner is.
pub(super) fn check(
    table: &std::ops::Range<usize>,
    name: &str,
    exists: Exists,
    companions: &[Companion],
    temporary: &Temporary,
) {
    if temporary.prefix.is_empty() && temporary.suffix.is_empty() && temporary.directory.is_none() {
        let help = "give it a `prefix`, a `suffix` or a `directory`".to_owned();
        report(table.clone(), format!("in {name}, the `temporary` name is the final one"), "", Some(help));
    }
    if companions.len() > COMPANIONS {
        report(table.clone(), format!("{name} has more than {COMPANIONS} companions"), "", None);
    }
    if exists == Exists::Number && !companions.is_empty() {
        let help = "a companion belongs to its file by name, and a number would part them; write a `file_name` that differs from message to message";
        let message = format!("{name} has companions and `exists = \"number\"`");
        report(table.clone(), message, "", Some(help.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(content: &'static str, properties: &[(&str, &str)]) -> Outgoing {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Outgoing { content: content.into(), properties }
    }

    #[test]
    fn a_delivery_is_taken_apart_companions_first() {
        let list = r#"[{"file_name":"a.pdf","bytes":4},{"file_name":"b.txt","bytes":1}]"#;
        let whole = [("directory", "in"), ("file_name", "a.hl7"), ("main_bytes", "3"), ("companions", list)];
        let parcel = Parcel::of(&outgoing("MSHpdf!x", &whole), &Packing::default()).expect("a parcel");
        let items: Vec<_> = parcel.items.iter().map(|item| (item.name.as_str(), &item.content[..])).collect();
        assert_eq!(items, [("a.pdf", &b"pdf!"[..]), ("b.txt", b"x"), ("a.hl7", b"MSH")]);
        assert!(!format!("{parcel:?}").contains("pdf!"));
        assert_eq!(outgoing("MSHpdf!x", &whole).main(), "MSH");
    }

    #[test]
    fn a_delivery_without_usable_names_is_rejected() {
        let same = r#"[{"file_name":"a","bytes":1}]"#;
        for broken in [
            &[][..],
            &[("directory", "in"), ("file_name", "")],
            &[("directory", ""), ("file_name", "a")],
            &[("directory", "in"), ("file_name", "../a")],
            &[("directory", "in"), ("file_name", "a\0")],
            &[("directory", "in"), ("file_name", "..")],
            &[("directory", "in"), ("file_name", "a"), ("main_bytes", "0"), ("companions", same)],
            &[("directory", "in"), ("file_name", "b"), ("main_bytes", "1"), ("companions", same)],
            &[("directory", "in"), ("file_name", "b"), ("companions", "[")],
        ] {
            let error = Parcel::of(&outgoing("x", broken), &Packing::default()).expect_err("broken");
            assert_eq!(error.class, FaultClass::Content, "{broken:?}");
        }
    }

    #[test]
    fn numbers_stand_before_the_ending() {
        for (name, second) in [("a.hl7", "a-2.hl7"), ("a", "a-2"), (".a", ".a-2"), ("a.tar.gz", "a.tar-2.gz")] {
            assert_eq!(numbered(name, 2), second);
            assert_eq!(numbered(name, 0), name);
        }
    }
}
