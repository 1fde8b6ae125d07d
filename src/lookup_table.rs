//! Lookup tables: two columns of a CSV file, read once when the channel is loaded.

use std::collections::HashMap;
use std::fmt;

/// A table from one code to another.
#[derive(Clone)]
pub struct LookupTable {
    entries: HashMap<String, String>,
}

/// What is wrong in a table, and in which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct TableError {
    /// The line in the CSV file.
    pub line: u64,
    /// What is wrong there.
    pub message: String,
}

impl LookupTable {
    /// Reads CSV (RFC 4180) with a header row. `from` and `to` name the columns; without names they are the first two. A code
    /// that stands twice with different meanings is an error: which one was meant?
    pub fn parse(text: &str, from: Option<&str>, to: Option<&str>) -> Result<LookupTable, TableError> {
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let header = reader.headers().map_err(|error| csv_error(&error))?.clone();
        let column = |name: Option<&str>, default: usize| match name {
            Some(name) => header.iter().position(|column| column == name).ok_or_else(|| TableError {
                line: 1,
                message: format!(
                    "there is no column `{name}`: the columns are {}",
                    header.iter().collect::<Vec<_>>().join(", ")
                ),
            }),
            None if header.len() > default => Ok(default),
            None => Err(TableError { line: 1, message: "a lookup table needs two columns".to_owned() }),
        };
        let (from, to) = (column(from, 0)?, column(to, 1)?);
        let mut entries = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| csv_error(&error))?;
            let line = record.position().map_or(0, csv::Position::line);
            let (code, meaning) = (record[from].to_owned(), record[to].to_owned());
            if let Some(earlier) = entries.insert(code.clone(), meaning.clone())
                && earlier != meaning
            {
                return Err(TableError { line, message: format!("`{code}` stands twice, with different meanings") });
            }
        }
        Ok(LookupTable { entries })
    }

    /// What a code means.
    pub fn get(&self, code: &str) -> Option<&str> {
        self.entries.get(code).map(String::as_str)
    }
}

impl fmt::Debug for LookupTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupTable({} entries)", self.entries.len())
    }
}

fn csv_error(error: &csv::Error) -> TableError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("this line has {len} columns, the header has {expected_len}")
        }
        _ => error.to_string(),
    };
    TableError { line, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_by_name_or_by_place() {
        let text = "local,loinc,comment\nGLU,2345-7,\"a, b\"\n NA , 2951-2 ,x\n";
        let first_two = LookupTable::parse(text, None, None).expect("valid");
        assert_eq!(first_two.get("GLU"), Some("2345-7"));
        assert_eq!(first_two.get("NA"), Some("2951-2"));
        assert_eq!(first_two.get("na"), None);
        let reverse = LookupTable::parse(text, Some("loinc"), Some("local")).expect("valid");
        assert_eq!(reverse.get("2951-2"), Some("NA"));
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, from, line) in [
            ("a,b\n1,2\n1,3\n", None, 3),
            ("a,b\n1\n", None, 2),
            ("a\n1\n", None, 1),
            ("a,b\n1,2\n", Some("c"), 1),
            ("", None, 1),
        ] {
            assert_eq!(LookupTable::parse(text, from, None).map(|_| ()).expect_err(text).line, line, "{text:?}");
        }
    }
}
