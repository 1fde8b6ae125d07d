//! Batches and files (HL7 v2.5.1 §2.10.3), and several messages in one piece.
//!
//! Real files leave out headers and trailers, put `#` comments or MLLP's framing bytes between messages and end lines as
//! they like. All of that is read; messages come out as slices of what went in. What might hide a patient's data (a
//! segment outside any message) is an error.

use super::header;
use super::index::is_header;

/// What kind of thing bytes are, before they are parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One message that [`Message::parse`](super::Message::parse) takes as it stands.
    Single,
    /// Messages without batch segments: several, or one between framing bytes or comments. [`split`] separates them.
    Several {
        /// How many.
        messages: usize,
    },
    /// FHS, BHS, BTS or FTS segments with any number of messages. [`split`] separates them.
    Batch {
        /// How many messages.
        messages: usize,
    },
    /// Neither a message nor a batch.
    NotHl7,
    /// A batch, or messages with batch segments among their own, that [`split`] refuses. `Message::parse` may still read
    /// the latter as one message.
    Refused(BatchError),
}

/// A batch taken apart.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Batch<'a> {
    /// The messages in order, each with its terminators.
    pub messages: Vec<&'a [u8]>,
    /// The FHS segment, without its terminator.
    pub file_header: Option<&'a [u8]>,
    /// The BHS segments, without their terminators.
    pub batch_headers: Vec<&'a [u8]>,
    /// How many BTS segments there are.
    pub batch_trailers: usize,
    /// Whether there is an FTS segment.
    pub has_file_trailer: bool,
    /// The sum of all BTS-1, where every BTS has a number there.
    pub declared_messages: Option<u64>,
    /// FTS-1.
    pub declared_batches: Option<u64>,
    /// What is odd, but was read.
    pub warnings: Vec<Warning>,
    framed: bool,
}

/// What is odd in a batch. Which of these should stop a file is for the channel to say; wrong counts usually should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// FTS without FHS.
    #[error("file header FHS is missing")]
    NoFileHeader,
    /// FHS without FTS: the file may have been cut off.
    #[error("file trailer FTS is missing")]
    NoFileTrailer,
    /// BTS without BHS.
    #[error("line {line}: batch header BHS is missing")]
    NoBatchHeader {
        /// The line of the BTS, from 1.
        line: usize,
    },
    /// BHS without BTS: the batch may have been cut off.
    #[error("line {line}: batch trailer BTS is missing")]
    NoBatchTrailer {
        /// The line of the BHS, from 1.
        line: usize,
    },
    /// BTS-1 is not the number of messages.
    #[error("line {line}: BTS-1 says {declared} messages, there are {found}")]
    MessageCount {
        /// The line of the BTS, from 1.
        line: usize,
        /// BTS-1.
        declared: u64,
        /// The messages since the last batch segment.
        found: u64,
    },
    /// FTS-1 is not the number of batches.
    #[error("FTS-1 says {declared} batches, there are {found}")]
    BatchCount {
        /// FTS-1.
        declared: u64,
        /// The batches.
        found: u64,
    },
}

/// Why a batch cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Neither a message nor a batch segment.
    #[error("file is not HL7: it starts with neither MSH, FHS nor BHS")]
    NotHl7,
    /// A segment outside any message: it would be lost.
    #[error("line {line}: segment stands outside any message")]
    Stray {
        /// The line, from 1.
        line: usize,
    },
    /// BHS before the BTS of the batch before, in a file that has BTS segments.
    #[error("line {line}: second BHS in one batch")]
    SecondBatchHeader {
        /// The line, from 1.
        line: usize,
    },
    /// A second FHS.
    #[error("line {line}: second FHS")]
    SecondFileHeader {
        /// The line, from 1.
        line: usize,
    },
}

/// Says what `bytes` are.
pub fn shape(bytes: &[u8]) -> Shape {
    let batch = match split(bytes) {
        Ok(batch) => batch,
        Err(BatchError::NotHl7) => return Shape::NotHl7,
        Err(error) => return Shape::Refused(error),
    };
    let messages = batch.messages.len();
    if batch.is_enveloped() {
        return Shape::Batch { messages };
    }
    let parses = is_header(&bytes[header::preamble(bytes).end..], b"MSH");
    if messages == 1 && parses && !batch.framed { Shape::Single } else { Shape::Several { messages } }
}

/// Where the second message begins in bytes that can be read as one: white space before its MSH makes it look like an odd
/// segment of the first, and two patients would be one. None where there is only one.
pub fn second_message(bytes: &[u8]) -> Option<usize> {
    // Most messages have no second MSH anywhere, which is seen at once.
    memchr::memmem::find_iter(bytes, b"MSH").nth(1)?;
    let found = split(bytes).ok()?;
    let second = found.messages.get(1)?;
    Some(second.as_ptr() as usize - bytes.as_ptr() as usize)
}

/// Takes a file apart.
///
/// # Errors
/// [`BatchError`]; nothing of a file that is refused should be processed.
pub fn split(bytes: &[u8]) -> Result<Batch<'_>, BatchError> {
    let mut splitter = Splitter { bytes, batch: Batch::default(), ..Splitter::default() };
    for line in lines(bytes) {
        splitter.line(&line)?;
    }
    splitter.finish()
}

impl Batch<'_> {
    /// Whether any of FHS, BHS, BTS, FTS is there.
    pub fn is_enveloped(&self) -> bool {
        self.file_header.is_some() || self.has_file_trailer || !self.batch_headers.is_empty() || self.batch_trailers > 0
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("messages", &self.messages.len())
            .field("batches", &self.batch_headers.len())
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

struct Line<'a> {
    number: usize,
    start: usize,
    /// Without terminator, byte order mark and framing bytes.
    text: &'a [u8],
    /// Where `text` starts in the whole, and where it ends.
    text_start: usize,
    text_end: usize,
    /// MLLP's end byte closed this line.
    ends_frame: bool,
}

/// Lines end with CR, LF or CRLF; a line that holds nothing is still counted.
fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    let mut number = 0;
    std::iter::from_fn(move || {
        if start >= bytes.len() {
            return None;
        }
        let end = memchr::memchr2(b'\r', b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at);
        number += 1;
        let line = trimmed(bytes, number, start, end);
        let crlf = bytes[end..].starts_with(b"\r\n");
        start = end + if crlf { 2 } else { 1 };
        Some(line)
    })
}

fn trimmed(bytes: &[u8], number: usize, start: usize, end: usize) -> Line<'_> {
    let (mut text_start, mut text_end) = (start, end);
    let ends_frame = bytes[start..end].last() == Some(&0x1c);
    if ends_frame {
        text_end -= 1;
    }
    let leading = bytes[start..text_end].iter().take_while(|b| matches!(b, 0x0b | 0x1c | b' ' | b'\t')).count();
    let bom = if bytes[start + leading..text_end].starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let rest = &bytes[start + leading + bom..text_end];
    // White space and framing bytes are skipped only before something that starts a message or batch.
    if [b"MSH", b"FHS", b"BHS", b"BTS", b"FTS"].iter().any(|name| is_header(rest, name)) {
        text_start += leading + bom;
    }
    Line { number, start, text: &bytes[text_start..text_end], text_start, text_end, ends_frame }
}

#[derive(Default)]
struct Splitter<'a> {
    bytes: &'a [u8],
    batch: Batch<'a>,
    /// Where the message being read starts.
    message: Option<usize>,
    /// Where it ends if nothing but comments and white space follow, and whether a comment is among them.
    tail: Option<(usize, bool)>,
    /// The line of the BHS that no BTS has closed.
    open_batch: Option<usize>,
    in_batch: u64,
    batches: u64,
    declared: Vec<Option<u64>>,
}

impl<'a> Splitter<'a> {
    fn line(&mut self, line: &Line<'a>) -> Result<(), BatchError> {
        self.batch.framed |= line.ends_frame || line.text.first() == Some(&0x0b);
        let is = |name: &[u8; 3]| is_header(line.text, name) || (line.text == name && name != b"MSH");
        if is_header(line.text, b"MSH") {
            let preamble = &self.bytes[line.start..line.text_start];
            self.batch.framed |= preamble.contains(&0x0b);
            self.close(line.start);
            self.message = Some(line.text_start);
            self.in_batch += 1;
        } else if is(b"FHS") {
            self.file_header(line)?;
        } else if is(b"BHS") {
            self.batch_header(line)?;
        } else if is(b"BTS") {
            self.batch_trailer(line);
        } else if is(b"FTS") {
            self.close(line.start);
            self.batch.has_file_trailer = true;
            self.batch.declared_batches = first_number(line.text);
        } else if line.text.starts_with(b"#") {
            self.batch.framed |= self.message.is_none();
            self.tail = Some((self.tail.map_or(line.start, |(start, _)| start), true));
        } else if is_blank(line.text) {
            if !line.text.is_empty() {
                self.tail = self.tail.or(Some((line.start, false)));
            }
        } else {
            if self.message.is_none() {
                return Err(self.stray(line));
            }
            // A comment in the middle of a message is kept with it rather than cut out.
            self.tail = None;
        }
        if line.ends_frame {
            self.close(line.text_end);
        }
        Ok(())
    }

    fn stray(&self, line: &Line<'a>) -> BatchError {
        if self.batch.messages.is_empty() && !self.batch.is_enveloped() {
            return BatchError::NotHl7;
        }
        BatchError::Stray { line: line.number }
    }

    /// The message being read ends before `end`.
    fn close(&mut self, end: usize) {
        let (end, comment) = self.tail.take().unwrap_or((end, false));
        if let Some(start) = self.message.take() {
            self.batch.framed |= comment;
            self.batch.messages.push(&self.bytes[start..end.max(start)]);
        }
    }

    fn file_header(&mut self, line: &Line<'a>) -> Result<(), BatchError> {
        self.close(line.start);
        if self.batch.file_header.is_some() {
            return Err(BatchError::SecondFileHeader { line: line.number });
        }
        self.batch.file_header = Some(line.text);
        Ok(())
    }

    fn batch_header(&mut self, line: &Line<'a>) -> Result<(), BatchError> {
        self.close(line.start);
        if self.open_batch.is_some() {
            return Err(BatchError::SecondBatchHeader { line: line.number });
        }
        self.batch.batch_headers.push(line.text);
        self.open_batch = Some(line.number);
        self.in_batch = 0;
        self.batches += 1;
        Ok(())
    }

    fn batch_trailer(&mut self, line: &Line<'a>) {
        self.close(line.start);
        if self.open_batch.take().is_none() {
            self.batch.warnings.push(Warning::NoBatchHeader { line: line.number });
            self.batches += 1;
        }
        let declared = first_number(line.text);
        if let Some(declared) = declared.filter(|declared| *declared != self.in_batch) {
            let found = self.in_batch;
            self.batch.warnings.push(Warning::MessageCount { line: line.number, declared, found });
        }
        self.declared.push(declared);
        self.batch.batch_trailers += 1;
        self.in_batch = 0;
    }

    fn finish(mut self) -> Result<Batch<'a>, BatchError> {
        self.close(self.bytes.len());
        let mut batch = self.batch;
        if batch.messages.is_empty() && !batch.is_enveloped() {
            return Err(BatchError::NotHl7);
        }
        if let Some(line) = self.open_batch {
            batch.warnings.push(Warning::NoBatchTrailer { line });
        }
        match (batch.file_header.is_some(), batch.has_file_trailer) {
            (true, false) => batch.warnings.push(Warning::NoFileTrailer),
            (false, true) => batch.warnings.push(Warning::NoFileHeader),
            _ => {}
        }
        if let Some(declared) = batch.declared_batches.filter(|declared| *declared != self.batches) {
            batch.warnings.push(Warning::BatchCount { declared, found: self.batches });
        }
        if !self.declared.is_empty() {
            let add = |sum: u64, declared: Option<u64>| sum.checked_add(declared?);
            batch.declared_messages = self.declared.into_iter().try_fold(0, add);
        }
        Ok(batch)
    }
}

fn is_blank(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    line.iter().all(|b| matches!(b, b' ' | b'\t' | 0x0b | 0x1c))
}

/// The first field of BTS or FTS as a number. The separator is whatever follows the name.
fn first_number(segment: &[u8]) -> Option<u64> {
    let (separator, rest) = segment.get(3..)?.split_first()?;
    let field = rest.split(|byte| byte == separator).next()?;
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines are joined with CR; `M` stands for a message of two segments.
    fn file(lines: &str) -> Vec<u8> {
        let expand = |line: &str| match line {
            "M" => "MSH|^~\\&|A\rPID|1\r".to_owned(),
            line => format!("{line}\r"),
        };
        lines.split(' ').filter(|line| !line.is_empty()).map(expand).collect::<String>().into_bytes()
    }

    #[test]
    fn a_second_message_behind_white_space() {
        for (bytes, second) in [
            (&b"MSH|^~\\&|A\rPID|1\r"[..], None),
            (b"MSH|^~\\&|A\rNTE|1||MSH|\rOBX|MSH\r", None),
            (b"MSH|^~\\&|A\r  MSH|^~\\&|B\r", Some(13)),
            (b"MSH|^~\\&|A\r\x0bMSH|^~\\&|B\r", Some(12)),
            (b"MSH|^~\\&|A\rMSH|^~\\&|B\r", Some(11)),
        ] {
            assert_eq!(second_message(bytes), second, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn batches_and_files() {
        let fhs = "FHS|^~\\&|LAB";
        let bhs = "BHS|^~\\&|LAB";
        let batch = |messages| Shape::Batch { messages };
        for (lines, shape_of, warnings) in [
            ("M", Shape::Single, 0),
            ("M M", Shape::Several { messages: 2 }, 0),
            ("BHS M BTS|1", batch(1), 0),
            ("BHS M M BTS|2", batch(2), 0),
            ("BHS M M BTS", batch(2), 0),
            ("BHS M", batch(1), 1),
            ("M BTS|1", batch(1), 1),
            ("FHS BHS M BTS|1 FTS|1", batch(1), 0),
            ("FHS BHS M BTS|1 BHS M M BTS|2 FTS|2", batch(3), 0),
            ("FHS M M FTS", batch(2), 0),
            ("FHS BHS M BTS|1", batch(1), 1),
            ("BHS M BTS|1 FTS|1", batch(1), 1),
            ("FHS BHS M FTS|1", batch(1), 1),
            ("FHS M BTS|1 FTS|1", batch(1), 1),
            ("BHS BTS|0", batch(0), 0),
            ("BHS M BTS|3", batch(1), 1),
            ("FHS BHS M BTS|1 FTS|9", batch(1), 1),
            ("FHS FTS", batch(0), 0),
            ("", Shape::NotHl7, 0),
            ("PID|1", Shape::NotHl7, 0),
            ("HELLO", Shape::NotHl7, 0),
            ("MSH", Shape::NotHl7, 0),
        ] {
            let expand = |part: &str| match part {
                "FHS" => fhs.to_owned(),
                "BHS" => bhs.to_owned(),
                part => part.to_owned(),
            };
            let lines: Vec<String> = lines.split(' ').map(expand).collect();
            let bytes = file(&lines.join(" "));
            assert_eq!(shape(&bytes), shape_of, "{lines:?}");
            if let Ok(split) = split(&bytes) {
                assert_eq!(split.warnings.len(), warnings, "{lines:?} {:?}", split.warnings);
                assert!(split.messages.iter().all(|m| *m == b"MSH|^~\\&|A\rPID|1\r"), "{lines:?}");
            }
        }
    }

    #[test]
    fn refused() {
        for (lines, error) in [
            ("BHS|^~\\&| PID|1 M BTS", BatchError::Stray { line: 2 }),
            ("PID|1 BHS|^~\\&| M BTS", BatchError::NotHl7),
            ("FHS|^~\\&| PID|1 M FTS", BatchError::Stray { line: 2 }),
            ("BHS|^~\\&| M BHS|^~\\&| M BTS", BatchError::SecondBatchHeader { line: 4 }),
            ("FHS|^~\\&| M FHS|^~\\&| M", BatchError::SecondFileHeader { line: 4 }),
            ("BHS|^~\\&| M BTS|1 PID|9", BatchError::Stray { line: 5 }),
            ("FHS|^~\\&| M FTS NTE|x", BatchError::Stray { line: 5 }),
            ("", BatchError::NotHl7),
        ] {
            assert_eq!(split(&file(lines)), Err(error), "{lines}");
            let expected = if error == BatchError::NotHl7 { Shape::NotHl7 } else { Shape::Refused(error) };
            assert_eq!(shape(&file(lines)), expected, "{lines}");
        }
    }

    #[test]
    fn declared_counts() {
        let bytes = file("FHS|^~\\&| BHS|^~\\&| M BTS|1 BHS|^~\\&| M M BTS|3|x FTS|2");
        let batch = split(&bytes).unwrap();
        assert_eq!((batch.declared_messages, batch.declared_batches), (Some(4), Some(2)));
        assert_eq!(batch.warnings, [Warning::MessageCount { line: 11, declared: 3, found: 2 }]);
        assert_eq!(batch.file_header, Some(&b"FHS|^~\\&|"[..]));
        assert_eq!(batch.batch_headers.len(), 2);
        let none = file("BHS|^~\\&| M BTS BHS|^~\\&| M BTS|1");
        assert_eq!(split(&none).unwrap().declared_messages, None);
    }

    #[test]
    fn streams() {
        // HAPI reads all of these as three messages.
        for (name, text) in [
            ("feeds between", "MSH|^~\\&|A\rPID|1\r\nMSH|^~\\&|B\rPID|1\r\nMSH|^~\\&|C\rPID|1\r"),
            ("blanks around", "\r\n\r\nMSH|^~\\&|A\rPID|1\r\r\rMSH|^~\\&|B\rPID|1\r\n \nMSH|^~\\&|C\rPID|1\r\r\n\n"),
            ("crlf", "MSH|^~\\&|A\r\nPID|1\r\nMSH|^~\\&|B\r\nPID|1\r\nMSH|^~\\&|C\r\nPID|1\r\n"),
            ("lf", "MSH|^~\\&|A\nPID|1\nMSH|^~\\&|B\nPID|1\nMSH|^~\\&|C\nPID|1"),
            ("comments", "# one\nMSH|^~\\&|A\nPID|1\n# two\n\n#three\nMSH|^~\\&|B\nPID|1\nMSH|^~\\&|C\nPID|1\n# end"),
            (
                "frames",
                "\u{b}MSH|^~\\&|A\rPID|1\r\u{1c}\r\u{b}MSH|^~\\&|B\rPID|1\r\u{1c}\r\n\u{b}MSH|^~\\&|C\rPID|1\u{1c}\r",
            ),
            (
                "byte order marks",
                "\u{feff}MSH|^~\\&|A\nPID|1\n\u{feff}MSH|^~\\&|B\nPID|1\n\u{feff}MSH|^~\\&|C\nPID|1\n",
            ),
        ] {
            assert_eq!(shape(text.as_bytes()), Shape::Several { messages: 3 }, "{name}");
            let batch = split(text.as_bytes()).unwrap();
            assert!(batch.warnings.is_empty());
            for message in batch.messages {
                assert!(message.starts_with(b"MSH|^~\\&|"), "{name}");
                let parsed = super::super::Message::parse(message.to_vec(), &super::super::Limits::default()).unwrap();
                assert_eq!(parsed.count("PID"), 1, "{name}");
                assert_eq!(parsed.segments().count(), 2, "{name}: {}", message.escape_ascii());
            }
        }
    }

    #[test]
    fn a_comment_inside_a_message_stays() {
        let text = b"MSH|^~\\&|A\r# a note\rPID|1\r";
        assert_eq!(split(text).unwrap().messages, [&text[..]]);
        assert_eq!(shape(text), Shape::Single);
        assert_eq!(shape(b"\xef\xbb\xbf\r\nMSH|^~\\&|A\r"), Shape::Single);
        for framed in [&b"\x0bMSH|^~\\&|A\r\x1c\r"[..], b"\x1cMSH|^~\\&|A\r", b"# note\rMSH|^~\\&|A\r"] {
            assert_eq!(shape(framed), Shape::Several { messages: 1 });
        }
    }
}
