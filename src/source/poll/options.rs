//! What a channel file says of the files that are to be captured.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::ledger::Outcome;
use super::names::{Marker, Names};
use crate::config::{ByteSize, Duration, Table, report, schema_generator};
use crate::expr::{FileNameTemplate, PathTemplate};
use crate::source::FormatOption;
use crate::source::duplicates::DuplicateWindow;
use crate::source::values::some_bytes;

/// Endings that programs give to files that they are still writing.
const TEMPORARY: &[&str] =
    &[".*", "*~", "*.tmp", "*.temp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.writing", "*.swp"];

/// What every poller has among its options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::source) struct PollOptions {
    /// Which files, by name: a pattern with `*`, `?` and `[a-z]`, a list of patterns, or { regex = "…" } (all, if not given).
    #[serde(default = "all_names")]
    pub(super) files: Names,
    /// Files that are still being written, by name: they are left alone. If not given: hidden ones, and those that end in ~, .tmp,
    /// .temp, .part, .partial, .filepart, .crdownload, .writing and .swp.
    #[serde(default = "temporary_names")]
    pub(super) ignore: Names,
    /// Whether files in folders below are taken, too, 16 folders deep. Hidden folders are left alone.
    #[serde(default)]
    pub(super) recursive: bool,
    /// What comes first: "modified" (the oldest; the default), "name" or "size" (the smallest).
    #[serde(default)]
    pub(super) sort: Sort,
    /// Smaller files are left where they are (1B if not given: empty files are not taken).
    #[serde(default = "default_min_size")]
    pub(super) min_size: ByteSize,
    /// Larger files are refused: they go where `on_error` says, and the message without its content is `rejected` (16MiB if not
    /// given).
    #[serde(default = "default_max_size", deserialize_with = "some_bytes")]
    #[schemars(with = "ByteSize")]
    pub(super) max_size: ByteSize,
    /// A file is complete when so many polls in a row saw it with the same size and time (2 if not given; 1 with `done_file`).
    #[schemars(range(min = 1, max = 100))]
    pub(super) unchanged_polls: Option<u32>,
    /// A file is complete when it was not changed for so long (5s if not given; 0s with `done_file`).
    pub(super) min_age: Option<Duration>,
    /// A file is taken only when this marker lies beside it: "{name}.done", or "{stem}.ok" for the name without its last ending. The
    /// marker goes when the file goes.
    #[schemars(with = "Option<String>")]
    pub(super) done_file: Option<Marker>,
    /// At most so many files are taken in one poll (10000 if not given).
    #[serde(default = "default_max_files")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) max_files: u32,
    /// At most so many names are looked at in one poll (200000 if not given).
    #[serde(default = "default_max_listing")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) max_listing: u32,
    /// How the files are to be read ("hl7" if not given).
    #[serde(default)]
    pub(super) format: FormatOption,
    /// What becomes of a file when its message is on disk: { move = "done" }, "delete", or "keep" (it stays, and is not taken again).
    pub(super) after: After,
    /// What becomes of a file that cannot be read as `format` says, or is larger than `max_size` ({ move = "error" } if not given).
    #[serde(default = "to_error")]
    pub(super) on_error: After,
    /// What becomes of a file whose content came before ({ move = "duplicates" } if not given).
    #[serde(default = "to_duplicates")]
    pub(super) on_duplicate: After,
    /// For how long a content is known again, under whatever name (72h if not given). "off": only the same file is (the same path, size
    /// and time).
    #[serde(default)]
    pub(super) duplicate_window: DuplicateWindow,
}

fn all_names() -> Names {
    Names::wildcards(&["*"])
}

fn temporary_names() -> Names {
    Names::wildcards(TEMPORARY)
}

fn default_min_size() -> ByteSize {
    ByteSize::from_bytes(1)
}

fn default_max_size() -> ByteSize {
    ByteSize::from_mib(16)
}

fn default_max_files() -> u32 {
    10_000
}

fn default_max_listing() -> u32 {
    200_000
}

fn to_error() -> After {
    After::to("error")
}

fn to_duplicates() -> After {
    After::to("duplicates")
}

/// What comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Sort {
    #[default]
    Modified,
    Name,
    Size,
}

/// What becomes of a file.
#[derive(Debug, Clone)]
pub(super) enum After {
    /// It stays.
    Keep,
    /// It is deleted.
    Delete,
    /// It is moved.
    Move(Box<Target>),
}

/// Where a file is moved.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// The folder, with expressions: "done/{{ meta.received_at | date('%Y-%m-%d') }}". A relative one starts at `directory`; it is made
    /// where it is missing.
    #[serde(rename = "move")]
    #[schemars(with = "PathTemplate")]
    pub(super) folder: Folder,
    /// The file's new name, with expressions: "{{ meta.id }}.hl7" (its old name, if not given). Where the name is taken, the message's id
    /// is put into it.
    pub(super) name: Option<FileNameTemplate>,
}

/// A folder, with expressions.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// What stands before the first expression.
    literal: String,
    /// Where there are expressions.
    pub(super) template: Option<PathTemplate>,
}

impl Folder {
    /// The folder, where it is the same for every file.
    pub(super) fn fixed(&self) -> Option<&str> {
        self.template.is_none().then_some(self.literal.as_str())
    }

    /// The folder directly below `directory` in which moved files come to lie: it is not searched. Empty where they lie in
    /// `directory` itself; none where they lie elsewhere, or where that is known only for each file.
    fn first(&self) -> Option<&str> {
        let literal = self.literal.trim_start_matches("./");
        if literal.starts_with('/') || (self.template.is_some() && !literal.contains('/')) {
            return None;
        }
        let first = literal.split('/').next().filter(|first| *first != "..")?;
        Some(if first == "." { "" } else { first })
    }
}

impl<'de> Deserialize<'de> for Folder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Folder, D::Error> {
        let template = PathTemplate::deserialize(deserializer)?;
        let text = template.text();
        let literal = text.split("{{").next().unwrap_or_default();
        let literal = literal.split("{%").next().unwrap_or_default().to_owned();
        Ok(Folder { template: (literal.len() < text.len()).then_some(template), literal })
    }
}

impl After {
    fn to(folder: &str) -> After {
        let folder = Folder { literal: folder.to_owned(), template: None };
        After::Move(Box::new(Target { folder, name: None }))
    }

    /// The folder directly below `directory` that files are moved to.
    pub(super) fn own_folder(&self) -> Option<&str> {
        match self {
            After::Move(target) => target.folder.first().filter(|first| !first.is_empty()),
            After::Keep | After::Delete => None,
        }
    }

    /// Whether moved files come to lie in a folder below of which nothing is known.
    fn moves_below(&self) -> bool {
        let begins_open = |folder: &Folder| folder.template.is_some() && !folder.literal.contains('/');
        matches!(self, After::Move(target) if begins_open(&target.folder))
    }

    /// Whether moved files come to lie where files are looked for.
    fn moves_into_view(&self) -> bool {
        matches!(self, After::Move(target) if target.folder.first() == Some(""))
    }
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<After, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Result<After, String>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"keep\", \"delete\" or a table")
            }

            fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
                Ok(match word {
                    "keep" => Ok(After::Keep),
                    "delete" => Ok(After::Delete),
                    other => Err(other.to_owned()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Target::deserialize(MapAccessDeserializer::new(map)).map(|target| Ok(After::Move(Box::new(target))))
            }
        }
        struct Read(Result<After, String>);
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either).map(Read)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        let span = read.span();
        let help = || Some("write { move = \"done\" }, \"delete\" or \"keep\"".to_owned());
        Ok(match read.into_inner().0 {
            Ok(after) => {
                if after.moves_into_view() {
                    let label = "the file would be found there again";
                    report(span, "a file cannot be moved to where it lies", label, help());
                }
                after
            }
            Err(word) => {
                report(span, format!("a file cannot be told to `{word}`"), "", help());
                After::Keep
            }
        })
    }
}

impl JsonSchema for After {
    fn schema_name() -> Cow<'static, str> {
        "After".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Target::json_schema(generator);
        schema.insert("type".to_owned(), serde_json::json!(["string", "object"]));
        schema
    }
}

impl PollOptions {
    /// Takes these options out of a source's table, which has `own` ones beside; what is left is returned with them.
    pub(in crate::source) fn read<'i>(mut table: Table<'i>, own: &[&str]) -> (Option<PollOptions>, Table<'i>) {
        let keys = PollOptions::keys();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let read = table.split_off(&keys).read_with_more::<PollOptions>(own);
        if let Some(options) = &read {
            options.check(&table);
        }
        (read, table)
    }

    /// Their names.
    pub(in crate::source) fn keys() -> Vec<String> {
        let schema = schema_generator().into_root_schema_for::<PollOptions>();
        let properties = schema.get("properties").and_then(|properties| properties.as_object());
        properties.map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
    }

    /// What becomes of a file of which this became.
    pub(super) fn rule_for(&self, outcome: Outcome) -> &After {
        match outcome {
            Outcome::Captured => &self.after,
            Outcome::Rejected => &self.on_error,
            Outcome::Duplicate => &self.on_duplicate,
        }
    }

    fn check(&self, table: &Table<'_>) {
        if self.min_size.bytes() > self.max_size.bytes() {
            let help = "no file is larger than the one and smaller than the other".to_owned();
            report(table.span(), "`min_size` is larger than `max_size`", "", Some(help));
        }
        if self.recursive && [&self.after, &self.on_error, &self.on_duplicate].iter().any(|after| after.moves_below()) {
            let help =
                "begin the folder with a fixed one: { move = \"done/{{ … }}\" }; that one is not searched".to_owned();
            report(table.span(), "with `recursive`, files would be found again where they are moved", "", Some(help));
        }
    }

    /// The schema of a source's own options together with these.
    pub(in crate::source) fn schema_with<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
        let (mut schema, common) = (generator.subschema_for::<T>(), generator.subschema_for::<PollOptions>());
        let mut merge = |key: &str| {
            let (into, from) = (schema.get_mut(key)?, common.get(key)?.clone());
            match (into, from) {
                (serde_json::Value::Object(into), serde_json::Value::Object(from)) => into.extend(from),
                (serde_json::Value::Array(into), serde_json::Value::Array(from)) => into.extend(from),
                _ => {}
            }
            Some(())
        };
        merge("properties");
        merge("required");
        schema
    }

    /// How the files are to be read.
    pub(in crate::source) fn format(&self) -> &FormatOption {
        &self.format
    }
}
