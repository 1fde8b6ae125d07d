//! Options of a connector from TOML text, through the reader that channel files go through.

use std::path::Path;

use labwire::config::{Place, Table, collect};
use labwire::destination::{self, DestinationConfig};
use labwire::diagnostic::SourceFile;
use labwire::source::{self, SourceConfig};
use toml::de::DeTable;

/// The place of a connector under test.
pub fn place(name: &str) -> Place {
    Place { folder: ".".into(), channel: "test".into(), name: name.into(), data: None }
}

fn read<T>(text: &str, read: impl FnOnce(Table<'_>) -> Option<T>) -> Result<T, Vec<String>> {
    let file = SourceFile::new(Path::new("test.toml"), text);
    let table = DeTable::parse(&file.text).unwrap();
    let read = collect(&file, Path::new("."), || read(Table::new(table.into_inner(), 0..0, "[test]")));
    match read.value {
        Some(value) if read.diagnostics.is_empty() => Ok(value),
        _ => Err(read.diagnostics.iter().map(ToString::to_string).collect()),
    }
}

/// A source's options, or what is wrong with them.
pub fn source(kind: &str, text: &str) -> Result<Box<dyn SourceConfig>, Vec<String>> {
    let kind = source::KINDS.iter().find(|known| known.name == kind).unwrap();
    read(text, kind.parse)
}

/// A destination's options, or what is wrong with them.
pub fn destination(kind: &str, text: &str) -> Result<Box<dyn DestinationConfig>, Vec<String>> {
    let kind = destination::KINDS.iter().find(|known| known.name == kind).unwrap();
    read(text, kind.parse)
}
