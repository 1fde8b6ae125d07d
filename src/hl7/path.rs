//! Paths into a message: `PID-5.1`, `OBX[2]-5`, `PID-3[1].4`, `NTE`.

use std::fmt;
use std::str::FromStr;

/// A place in a message, written as the standard writes it and 1-based throughout:
///
/// ```text
/// SEGMENT [ "[" occurrence "]" ] [ "-" field [ "[" repetition "]" ] [ "." component [ "." subcomponent ] ] ]
/// ```
///
/// Without an occurrence the first segment of that name is meant; without a repetition a component is looked up in the
/// first one, while `PID-3` itself is the whole field with all its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    segment: [u8; 3],
    occurrence: Option<u32>,
    field: Option<u32>,
    repetition: Option<u32>,
    component: Option<u32>,
    subcomponent: Option<u32>,
}

/// What is wrong with the text of a path, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PathError {
    /// Byte offset of the mistake in the text.
    pub offset: usize,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

impl Path {
    /// The segment's name, three capitals or digits.
    pub fn segment(&self) -> &str {
        // Only ASCII gets past the parser.
        std::str::from_utf8(&self.segment).unwrap_or_default()
    }

    /// The occurrence of the segment, where it was written.
    pub fn occurrence(&self) -> Option<u32> {
        self.occurrence
    }

    /// The field's number; `None` where the path names a whole segment.
    pub fn field(&self) -> Option<u32> {
        self.field
    }

    /// The repetition of the field, where it was written.
    pub fn repetition(&self) -> Option<u32> {
        self.repetition
    }

    /// The component's number.
    pub fn component(&self) -> Option<u32> {
        self.component
    }

    /// The subcomponent's number.
    pub fn subcomponent(&self) -> Option<u32> {
        self.subcomponent
    }

    /// The same path in the `n`th segment of its name; 0 counts as 1.
    pub fn with_occurrence(&self, n: u32) -> Path {
        Path { occurrence: Some(n.max(1)), ..*self }
    }

    /// The same path in the `n`th repetition of its field; 0 counts as 1. Without effect on a path to a segment.
    pub fn with_repetition(&self, n: u32) -> Path {
        Path { repetition: self.field.map(|_| n.max(1)), ..*self }
    }

    /// The segment (and occurrence) that this path leads into.
    pub fn to_segment(&self) -> Path {
        Path { field: None, repetition: None, component: None, subcomponent: None, ..*self }
    }

    /// The whole field, with all its repetitions, that this path leads into.
    pub fn to_field(&self) -> Path {
        Path { repetition: None, component: None, subcomponent: None, ..*self }
    }

    pub(super) fn key(&self) -> u32 {
        let [a, b, c] = self.segment;
        u32::from_be_bytes([0, a, b, c])
    }

    pub(super) fn is_envelope(&self) -> bool {
        super::insert::is_envelope(&self.segment)
    }

    pub(super) fn is_msh(&self) -> bool {
        self.segment == *b"MSH"
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.segment())?;
        if let Some(n) = self.occurrence {
            write!(f, "[{n}]")?;
        }
        if let Some(n) = self.field {
            write!(f, "-{n}")?;
        }
        if let Some(n) = self.repetition {
            write!(f, "[{n}]")?;
        }
        if let Some(n) = self.component {
            write!(f, ".{n}")?;
        }
        if let Some(n) = self.subcomponent {
            write!(f, ".{n}")?;
        }
        Ok(())
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Path, PathError> {
        read(text).map_err(|fault| {
            let help = match fault.help {
                Some(help) => Some(help.to_owned()),
                None => corrected(text).map(|path| format!("write `{path}`")),
            };
            PathError { offset: fault.offset, message: fault.message.to_owned(), help }
        })
    }
}

/// A mistake with fixed wording; the path as it should be is worked out once, at the end.
struct Fault {
    offset: usize,
    message: &'static str,
    help: Option<&'static str>,
}

impl Fault {
    fn at(offset: usize, message: &'static str) -> Fault {
        Fault { offset, message, help: None }
    }

    fn or(self, help: &'static str) -> Fault {
        Fault { help: Some(help), ..self }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        self.at += usize::from(hit);
        hit
    }

    fn segment(&mut self) -> Result<[u8; 3], Fault> {
        let length = self.text.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let name = &self.text[..length.min(3)];
        if self.text.is_empty() {
            return Err(Fault::at(0, "path is empty").or("write a segment and a field, such as `PID-5.1`"));
        }
        let &[a, b, c] = name else {
            return Err(Fault::at(length, "segment name must have three characters"));
        };
        if !a.is_ascii_alphabetic() {
            return Err(Fault::at(0, "segment name must begin with a letter"));
        }
        if name.iter().any(u8::is_ascii_lowercase) {
            return Err(Fault::at(0, "segment name must be in capitals"));
        }
        self.at = 3;
        Ok([a, b, c])
    }

    fn number(&mut self, missing: &'static str) -> Result<u32, Fault> {
        let start = self.at;
        let mut value: Option<u32> = Some(0);
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            value = value.and_then(|v| v.checked_mul(10)?.checked_add(u32::from(digit - b'0')));
            self.at += 1;
        }
        match value {
            _ if self.at == start => Err(Fault::at(start, missing)),
            None => Err(Fault::at(start, "number is too large").or("the largest number is 4294967295")),
            Some(0) => Err(Fault::at(start, "number is 0").or("everything is counted from 1")),
            Some(_) if self.text[start] == b'0' => Err(Fault::at(start, "number has leading zeros")),
            Some(value) => Ok(value),
        }
    }

    fn bracket(&mut self, missing: &'static str) -> Result<Option<u32>, Fault> {
        if !self.eat(b'[') {
            return Ok(None);
        }
        if self.peek() == Some(b'*') {
            return Err(Fault::at(self.at, "`*` is not a number").or("a path names one place; leave the brackets out"));
        }
        let n = self.number(missing)?;
        if !self.eat(b']') {
            return Err(Fault::at(self.at, "closing `]` is missing"));
        }
        Ok(Some(n))
    }

    fn end(&self, message: &'static str) -> Result<(), Fault> {
        if self.at == self.text.len() { Ok(()) } else { Err(Fault::at(self.at, message)) }
    }
}

fn read(text: &str) -> Result<Path, Fault> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let segment = reader.segment()?;
    let occurrence = reader.bracket("occurrence is missing")?;
    let mut path = Path { segment, occurrence, field: None, repetition: None, component: None, subcomponent: None };
    if !reader.eat(b'-') {
        reader.end("segment must be followed by `-` and a field")?;
        return Ok(path);
    }
    path.field = Some(reader.number("field number is missing")?);
    path.repetition = reader.bracket("repetition is missing")?;
    if !reader.eat(b'.') {
        reader.end("field must be followed by `.` and a component")?;
        return Ok(path);
    }
    path.component = Some(reader.number("component number is missing")?);
    if !reader.eat(b'.') {
        reader.end("component must be followed by `.` and a subcomponent")?;
        return Ok(path);
    }
    path.subcomponent = Some(reader.number("subcomponent number is missing")?);
    reader.end("path must end after the subcomponent")?;
    Ok(path)
}

/// The path that was probably meant: other engines write `PID.5.1`, `/PID-5-1`, `PID-3(2)`, `pid-5`.
fn corrected(text: &str) -> Option<Path> {
    let text = text.trim().trim_start_matches(['/', '.']);
    let (name, rest) = text.split_at_checked(3)?;
    let mut plain = name.to_ascii_uppercase();
    let mut in_field = false;
    let mut repetition = String::new();
    let mut in_brackets = false;
    for c in rest.chars() {
        match c {
            '(' | '[' => in_brackets = true,
            ')' | ']' => in_brackets = false,
            _ if in_brackets => repetition.push(c),
            '.' | '-' | '_' => {
                if !in_field && !repetition.is_empty() {
                    plain.push_str(&format!("[{}]", std::mem::take(&mut repetition)));
                }
                plain.push(if in_field { '.' } else { '-' });
                in_field = true;
            }
            c if c.is_ascii_digit() && !in_field => {
                plain.push('-');
                plain.push(c);
                in_field = true;
            }
            c => plain.push(c),
        }
    }
    if !repetition.is_empty() {
        let field_end = plain.find('.').unwrap_or(plain.len());
        plain.insert_str(field_end, &format!("[{repetition}]"));
    }
    read(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_written_back() {
        for (text, parts) in [
            ("NTE", (None, None, None, None, None)),
            ("OBX[2]", (Some(2), None, None, None, None)),
            ("PID-5", (None, Some(5), None, None, None)),
            ("PID-5.1", (None, Some(5), None, Some(1), None)),
            ("OBX[2]-5", (Some(2), Some(5), None, None, None)),
            ("PID-3[1].4", (None, Some(3), Some(1), Some(4), None)),
            ("PID-3[2].4.1", (None, Some(3), Some(2), Some(4), Some(1))),
            ("MSH-9.2", (None, Some(9), None, Some(2), None)),
            ("ZP1[12]-34[56].78.90", (Some(12), Some(34), Some(56), Some(78), Some(90))),
            ("PV1-4294967295", (None, Some(u32::MAX), None, None, None)),
        ] {
            let path: Path = text.parse().unwrap();
            assert_eq!(path.segment(), &text[..3]);
            let got = (path.occurrence(), path.field(), path.repetition(), path.component(), path.subcomponent());
            assert_eq!(got, parts, "{text}");
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn mistakes() {
        for (text, offset, help) in [
            ("", 0, "write a segment and a field, such as `PID-5.1`"),
            ("PID.5.1", 3, "write `PID-5.1`"),
            ("PID.5", 3, "write `PID-5`"),
            ("PID5", 3, "write `PID-5`"),
            ("PID5.1", 3, "write `PID-5.1`"),
            ("pid-5.1", 0, "write `PID-5.1`"),
            ("Pid[2]-5.1", 0, "write `PID[2]-5.1`"),
            ("/PID-5-1", 0, "write `PID-5.1`"),
            ("/.PID-5", 0, "write `PID-5`"),
            (" PID-5", 0, "write `PID-5`"),
            ("PID-5 ", 5, "write `PID-5`"),
            ("PID-5-1", 5, "write `PID-5.1`"),
            ("PID-5(2)", 5, "write `PID-5[2]`"),
            ("PID-5(2)-1", 5, "write `PID-5[2].1`"),
            ("NTE(1)-3", 3, "write `NTE[1]-3`"),
            ("PID-3.4[2]", 7, "write `PID-3[2].4`"),
            ("PID-0", 4, "everything is counted from 1"),
            ("PID-5[0]", 6, "everything is counted from 1"),
            ("PID[0]", 4, "everything is counted from 1"),
            ("PID-5.0", 6, "everything is counted from 1"),
            ("PID-5.1.0", 8, "everything is counted from 1"),
            ("OBX[*]-5", 4, "a path names one place; leave the brackets out"),
            ("PID-4294967296", 4, "the largest number is 4294967295"),
            ("PID.99999999999999999999999", 3, ""),
            ("PID-99999999999999999999999", 4, "the largest number is 4294967295"),
            ("PID-05", 4, ""),
            ("PID-5.1xyz", 7, ""),
            ("PID-5.1.2.3", 9, ""),
            ("PID-5.1.2 3", 9, ""),
            ("PID-", 4, ""),
            ("PID-5.", 6, ""),
            ("PID-5[", 6, "write `PID-5`"),
            ("PID-5[]", 6, "write `PID-5`"),
            ("PID-5[1", 7, "write `PID-5[1]`"),
            ("PID[", 4, "write `PID`"),
            ("PI-5", 2, ""),
            ("1ID-5", 0, ""),
            ("random", 0, ""),
            ("/", 0, ""),
            ("*-9-2", 0, ""),
            ("?MSH-9-2", 0, ""),
            ("P\u{cd}D-5", 1, ""),
            ("日本", 0, ""),
            ("PID-５", 4, ""),
        ] {
            let error = text.parse::<Path>().unwrap_err();
            assert_eq!(error.offset, offset, "{text}: {error}");
            assert_eq!(error.help.unwrap_or_default(), help, "{text}");
            assert!(!error.message.is_empty() && !error.message.ends_with('.'), "{text}");
        }
    }

    #[test]
    fn neighbours() {
        let path: Path = "PID-3[2].4.1".parse().unwrap();
        assert_eq!(path.with_occurrence(7).to_string(), "PID[7]-3[2].4.1");
        assert_eq!(path.with_repetition(0).to_string(), "PID-3[1].4.1");
        assert_eq!(path.to_segment().to_string(), "PID");
        assert_eq!(path.to_segment().with_repetition(3).to_string(), "PID");
        assert_eq!(path.to_field().to_string(), "PID-3");
    }
}
