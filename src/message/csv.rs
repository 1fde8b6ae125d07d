//! Delimited text (CSV, RFC 4180) as expressions and steps see it: rows with named columns.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::UnreadableBody;

/// How delimited text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// What stands between two values.
    pub delimiter: char,
    /// Whether the first row names the columns.
    pub header: bool,
}

impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { delimiter: ',', header: true }
    }
}

/// Rows of values. `Debug` shows their number only.
#[derive(Clone, PartialEq, Eq)]
pub struct Csv {
    dialect: Dialect,
    /// As it came, decoded.
    text: String,
    header: Option<Vec<String>>,
    rows: Vec<Vec<String>>,
}

impl fmt::Debug for Csv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Csv({} rows)", self.rows.len())
    }
}

impl Csv {
    /// Reads rows. With a header, every row has as many values as the header, and no column stands twice: a value would be read
    /// from the wrong one.
    ///
    /// # Errors
    /// [`UnreadableBody::Csv`], with the line and never with content.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Csv, UnreadableBody> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let wrong = |line: u64, problem: String| UnreadableBody::Csv { line, problem };
        let mut builder = csv::ReaderBuilder::new();
        builder.has_headers(false).delimiter(delimiter(dialect)).flexible(!dialect.header);
        let mut rows: Vec<Vec<String>> = Vec::new();
        for record in builder.from_reader(text.as_bytes()).records() {
            let record = record.map_err(|error| {
                let line = error.position().map_or(1, csv::Position::line);
                match error.kind() {
                    csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                        wrong(line, format!("it has {len} values, the header has {expected_len}"))
                    }
                    _ => wrong(line, "it cannot be read".to_owned()),
                }
            })?;
            rows.push(record.iter().map(str::to_owned).collect());
        }
        let header = if dialect.header {
            if rows.is_empty() {
                return Err(wrong(1, "there is no header".to_owned()));
            }
            Some(rows.remove(0))
        } else {
            None
        };
        if let Some(header) = &header {
            let mut seen = HashSet::new();
            if let Some(at) = header.iter().position(|name| !seen.insert(name)) {
                return Err(wrong(1, format!("column {} has a name that another column has too", at + 1)));
            }
        }
        Ok(Csv { dialect, text: text.to_owned(), header, rows })
    }

    /// How it is written.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its columns, where it has a header.
    pub fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Its rows, without the header.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The value in a row (from 0), by its column's name, or by its number from 0.
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let at = match self.header.as_ref().and_then(|header| header.iter().position(|name| name == column)) {
            Some(at) => at,
            None => column.parse().ok()?,
        };
        self.rows.get(row)?.get(at).map(String::as_str)
    }

    /// A row alone, with the header.
    pub fn part(&self, row: usize) -> Csv {
        let rows: Vec<Vec<String>> = self.rows.get(row).cloned().into_iter().collect();
        let text = write(self.header.iter().chain(&rows), self.dialect);
        Csv { dialect: self.dialect, text, header: self.header.clone(), rows }
    }
}

fn delimiter(dialect: Dialect) -> u8 {
    u8::try_from(dialect.delimiter).unwrap_or(b',')
}

/// Writes rows; each ends with CR and LF, values that need it stand in quotes.
fn write<'r>(rows: impl Iterator<Item = &'r Vec<String>>, dialect: Dialect) -> String {
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter(dialect))
        .flexible(true)
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for row in rows {
        writer.write_record(row).expect("writing to memory cannot fail");
    }
    String::from_utf8(writer.into_inner().expect("writing to memory cannot fail")).expect("text was written")
}

/// A value as it stands in delimited text: in quotes where it holds a quote, a line break or anything that is in use as a
/// delimiter, or begins or ends with a blank.
pub(crate) fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    let special = |c: char| matches!(c, ',' | ';' | '\t' | '|' | '"' | '\r' | '\n');
    if text.contains(special) || text.starts_with(' ') || text.ends_with(' ') {
        return format!("\"{}\"", text.replace('"', "\"\"")).into();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEMICOLON: Dialect = Dialect { delimiter: ';', header: true };

    #[test]
    fn rows_and_columns() {
        let csv =
            Csv::parse("\u{feff}id;name\r\n1;\"Nagy; \"\"Éva\"\"\"\r\n2;\"two\nlines\"\r\n", SEMICOLON).expect("CSV");
        assert_eq!(csv.value(0, "name"), Some("Nagy; \"Éva\""));
        assert_eq!(csv.value(1, "name"), Some("two\nlines"));
        assert_eq!(
            (csv.value(1, "0"), csv.value(2, "id"), csv.value(0, "x"), csv.value(0, "2")),
            (Some("2"), None, None, None)
        );
        assert_eq!(csv.part(0).text(), "id;name\r\n1;\"Nagy; \"\"Éva\"\"\"\r\n");
        assert_eq!(Csv::parse(csv.part(1).text(), SEMICOLON).expect("CSV"), csv.part(1));
        let bare = Csv::parse("1,2\n3\n", Dialect { delimiter: ',', header: false }).expect("CSV");
        assert_eq!((bare.rows().len(), bare.value(1, "0"), bare.part(1).text()), (2, Some("3"), "3\r\n"));
    }

    #[test]
    fn what_is_not_read() {
        for (text, problem) in [
            ("", "line 1: there is no header"),
            ("a,b\n1,2\nsecret\n", "line 3: it has 1 values, the header has 2"),
            ("a,a\n1,2\n", "line 1: column 2 has a name that another column has too"),
        ] {
            let error = Csv::parse(text, Dialect::default()).expect_err(text).to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn values_stay_in_their_column() {
        for text in ["a,b", "a;b", "a\tb", "a|b", "say \"a\"", "two\r\nlines", " a", "a "] {
            for delimiter in [',', ';', '\t', '|'] {
                let dialect = Dialect { delimiter, header: false };
                let csv = Csv::parse(&format!("x{delimiter}{}{delimiter}y\n", quoted(text)), dialect).expect("CSV");
                assert_eq!(csv.rows(), [["x", text, "y"]], "{text:?}");
            }
        }
        assert_eq!(quoted("plain text"), "plain text");
    }
}
