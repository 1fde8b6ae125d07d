//! A TOML table with the places of its keys and values.

use std::ops::Range;

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::{lint, report, schema_generator};
use crate::diagnostic::did_you_mean;

/// A table on its way to becoming options.
#[derive(Debug, Clone)]
pub struct Table<'i> {
    entries: DeTable<'i>,
    span: Range<usize>,
    name: String,
}

/// A key and its value, taken out of a table.
#[derive(Debug, Clone)]
pub struct Entry<'i> {
    /// The key.
    pub key: Spanned<DeString<'i>>,
    /// The value.
    pub value: Spanned<DeValue<'i>>,
}

impl<'i> Table<'i> {
    /// A table, with the name that diagnostics give it: `[source]`, `[destination.partner]`.
    pub fn new(entries: DeTable<'i>, span: Range<usize>, name: impl Into<String>) -> Table<'i> {
        Table { entries, span, name: name.into() }
    }

    /// The table's name in diagnostics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the table begins.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Takes a key and its value out.
    pub fn take(&mut self, key: &str) -> Option<Entry<'i>> {
        self.entries.remove_entry(key).map(|(key, value)| Entry { key, value })
    }

    /// The keys that are left, in the order of the file.
    pub fn keys(&self) -> Vec<(String, Range<usize>)> {
        let mut keys: Vec<_> = self.entries.keys().map(|key| (key.get_ref().to_string(), key.span())).collect();
        keys.sort_by_key(|(_, span)| span.start);
        keys
    }

    /// All entries, in the order of the file.
    pub fn into_entries(self) -> Vec<Entry<'i>> {
        let mut entries: Vec<_> = self.entries.into_iter().map(|(key, value)| Entry { key, value }).collect();
        entries.sort_by_key(|entry| entry.key.span().start);
        entries
    }

    /// Splits off the given keys into a table of their own, under the same name.
    pub fn split_off(&mut self, keys: &[&str]) -> Table<'i> {
        let mut split = DeTable::default();
        for key in keys {
            if let Some((key, value)) = self.entries.remove_entry(*key) {
                split.insert(key, value);
            }
        }
        Table { entries: split, span: self.span.clone(), name: self.name.clone() }
    }

    /// Reads the table as `T`. Every mistake is reported; none when there was one that leaves nothing to read.
    pub fn read<T: DeserializeOwned + JsonSchema>(self) -> Option<T> {
        self.read_with_more(&[])
    }

    /// The same, where `more` names keys that belong to the table but were split off: only for "did you mean".
    pub fn read_with_more<T: DeserializeOwned + JsonSchema>(mut self, more: &[&str]) -> Option<T> {
        let schema = schema_generator().into_root_schema_for::<T>();
        let clean = lint::table(&mut self.entries, &self.span, &self.name, &schema, more);
        if !clean {
            return None;
        }
        deserialize(Spanned::new(self.span, DeValue::Table(self.entries)))
    }
}

impl<'i> Entry<'i> {
    /// The key's text.
    pub fn name(&self) -> &str {
        self.key.get_ref()
    }

    /// The value as a table under this name; reports when it is none.
    pub fn into_table(self, name: impl Into<String>) -> Option<Table<'i>> {
        let name = name.into();
        let span = self.value.span();
        match self.value.into_inner() {
            DeValue::Table(entries) => Some(Table::new(entries, self.key.span(), name)),
            other => {
                report(span, format!("`{name}` must be a table"), lint::found(&other), None);
                None
            }
        }
    }

    /// Reads the value as `T`, reporting under the key's own name.
    pub fn read<T: DeserializeOwned + JsonSchema>(mut self) -> Option<T> {
        let schema: Schema = schema_generator().into_root_schema_for::<T>();
        let name = self.key.get_ref().to_string();
        if lint::value(&mut self.value, &name, &schema) { deserialize(self.value) } else { None }
    }

    /// The value as text with its place; reports when it is none.
    pub fn text(&self) -> Option<Spanned<String>> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(self.value.span(), text.to_string())),
            other => {
                report(self.value.span(), format!("`{}` must be a string", self.name()), lint::found(other), None);
                None
            }
        }
    }
}

fn deserialize<T: DeserializeOwned>(value: Spanned<DeValue<'_>>) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(read) => Some(read),
        Err(error) => {
            report(error.span().unwrap_or(span), error.message(), "", None);
            None
        }
    }
}

/// Reports an unknown word in a place where one of `known` is expected.
pub(crate) fn unknown_word(span: Range<usize>, message: String, word: &str, known: &[&str]) {
    let label =
        did_you_mean(word, known.iter().copied()).map_or(String::new(), |near| format!("did you mean `{near}`?"));
    let help = format!("one of {}", known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "));
    report(span, message, label, Some(help));
}
