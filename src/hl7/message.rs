//! The message: its original bytes and what was changed.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::charset::{self, Charset, CharsetError};
use super::error::ParseError;
use super::header::{self, Header};
use super::index::{self, Body, Index, Segment};
use super::limits::Limits;
use super::path::Path;
use super::segment::SegmentRef;
use super::separators::{SeparatorError, Separators};
use super::wire::{self, Wire};
use super::{escape, walk};

/// An HL7 v2 message in ER7 form, byte for byte as it came, and editable.
///
/// Parsing finds segments and fields; repetitions, components and subcomponents are split when they are asked for. A
/// segment that is never edited keeps its bytes, its terminator (CR, LF, CRLF, several, none) and the blank lines behind
/// it. `Debug` shows sizes and the control ID only.
pub struct Message {
    pub(super) original: Bytes,
    /// Where MSH starts; before it stand a byte order mark and blank lines.
    pub(super) start: usize,
    pub(super) index: Index,
    pub(super) separators: Separators,
    pub(super) limits: Limits,
    pub(super) charset: Charset,
    pub(super) edited: bool,
    /// The message as it came, where it was decoded to be taken apart: `original` is then UTF-8.
    pub(super) wire: Option<Arc<Wire>>,
    /// The length of the whole message as it stands.
    pub(super) length: usize,
    /// The place found last and its occurrence, so that walking OBX[1] to OBX[8000] is not quadratic.
    pub(super) last_found: AtomicU64,
}

impl Message {
    /// Reads a message. Nothing is copied.
    ///
    /// It must start with MSH, behind an optional UTF-8 byte order mark and white space. Anything may follow: segments
    /// with odd names, without fields, or with leading spaces are kept as they are.
    ///
    /// # Errors
    /// [`ParseError`]; [`Header::scan`] may still find enough of an MSH to answer with a negative acknowledgement.
    pub fn parse(raw: impl Into<Bytes>, limits: &Limits) -> Result<Message, ParseError> {
        Message::parse_with(raw, limits, None)
    }

    /// As [`Message::parse`], with the character set of a message that declares none and is not valid UTF-8.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_with(
        raw: impl Into<Bytes>,
        limits: &Limits,
        fallback: Option<Charset>,
    ) -> Result<Message, ParseError> {
        let original: Bytes = raw.into();
        if charset::is_utf16(&original) {
            return Err(ParseError::Utf16);
        }
        if let Some(charset) = wire::charset_of(&original, fallback) {
            return Message::parse_decoded(original, limits, charset);
        }
        let mut message = Message::indexed(original, limits)?;
        message.charset = Charset::choose(&message.original, message.declared_charset(), fallback).passed_through();
        Ok(message)
    }

    /// Indexes bytes in which separators can be found as they are.
    pub(super) fn indexed(original: Bytes, limits: &Limits) -> Result<Message, ParseError> {
        let start = header::preamble(&original).end;
        let separators = opening(&original[start..])?;
        let index = Index::build(&original, start, &separators, limits)?;
        Ok(Message {
            length: original.len(),
            original,
            start,
            index,
            separators,
            limits: *limits,
            charset: Charset::UTF_8,
            edited: false,
            wire: None,
            last_found: AtomicU64::new(0),
        })
    }

    /// The separators that MSH-1 and MSH-2 declare.
    pub fn separators(&self) -> &Separators {
        &self.separators
    }

    /// The character set that values are read and written in: the one that MSH-18 names, else UTF-8 where the whole
    /// message is valid UTF-8, else the fallback, else ASCII. Whether every byte belongs to it is not checked here, see
    /// [`Charset::detect`].
    pub fn charset(&self) -> Charset {
        self.wire.as_ref().map_or(self.charset, |wire| wire.charset)
    }

    /// Whether the message was decoded to be taken apart: its values and its header are then UTF-8, its bytes are not.
    pub fn is_decoded(&self) -> bool {
        self.wire.is_some()
    }

    /// Bytes of this message as text.
    ///
    /// # Errors
    /// [`CharsetError`] where they are not valid in the message's character set.
    pub fn decode<'b>(&self, bytes: &'b [u8]) -> Result<Cow<'b, str>, CharsetError> {
        self.charset.decode(bytes)
    }

    /// What MSH-18 declares, where that is known.
    pub(super) fn declared_charset(&self) -> Option<Charset> {
        let field = self.segments().next()?.field(18)?;
        header::declared_charset(field, &self.separators)
    }

    /// Reads and writes values in this set from now on, whatever MSH-18 says: a channel's override for a sender that
    /// declares the wrong one. No byte changes; [`Message::transcode`] is the conversion. Nothing changes either in a
    /// message that was decoded, and of a set in which separators can be halves of characters only ASCII is read.
    pub fn assume_charset(&mut self, charset: Charset) {
        if self.wire.is_none() {
            self.charset = charset.passed_through();
        }
    }

    /// MSH, for acknowledgements and routing. `None` cannot happen for a message that was parsed.
    pub fn header(&self) -> Option<Header> {
        self.segments().next().and_then(|msh| Header::scan(msh.raw()))
    }

    /// The message's bytes: the very ones that came in (no copy) where nothing was edited, else every untouched segment
    /// verbatim with the edited ones between.
    pub fn to_bytes(&self) -> Bytes {
        match &self.wire {
            Some(wire) if !self.edited => return wire.raw.clone(),
            Some(wire) => return self.encode_again(wire),
            None if !self.edited => return self.original.clone(),
            None => {}
        }
        Bytes::from(self.internal_bytes())
    }

    /// The bytes that the index is about, edited segments included.
    pub(super) fn internal_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length);
        out.extend_from_slice(&self.original[..self.start]);
        for segment in &self.index.segments {
            out.extend_from_slice(self.verbatim(segment));
        }
        out
    }

    /// A message of some of this one's segments, byte for byte, in the order given. The first of them must be MSH.
    ///
    /// # Errors
    /// [`ParseError`] where these are no message.
    pub fn excerpt(&self, segments: impl IntoIterator<Item = std::ops::Range<usize>>) -> Result<Message, ParseError> {
        let mut bytes = Vec::new();
        for segment in segments.into_iter().flat_map(|range| self.index.segments.get(range).unwrap_or_default()) {
            match &self.wire {
                Some(wire) => bytes.extend_from_slice(&wire.segment(segment)),
                None => bytes.extend_from_slice(self.verbatim(segment)),
            }
        }
        let mut message = Message::parse_with(bytes, &self.limits, Some(self.charset()))?;
        message.assume_charset(self.charset());
        Ok(message)
    }

    /// The length of [`Message::to_bytes`].
    pub fn len(&self) -> usize {
        match &self.wire {
            Some(_) => self.to_bytes().len(),
            None => self.length,
        }
    }

    /// Never true: a message has an MSH.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether an edit changed anything since the message was parsed.
    pub fn is_edited(&self) -> bool {
        self.edited
    }

    /// The segment with its terminator and the blank lines behind it.
    pub(super) fn verbatim<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        match &segment.body {
            Body::Original(span) => &self.original[span.start as usize..span.after as usize],
            Body::Owned(owned) => &owned.bytes,
        }
    }

    /// All segments in order, whatever they are called.
    pub fn segments(&self) -> impl Iterator<Item = SegmentRef<'_>> {
        self.index.segments.iter().map(|segment| self.index.view(&self.original, segment))
    }

    /// How many segments have this name.
    pub fn count(&self, segment: &str) -> usize {
        match index::key(segment.as_bytes()) {
            0 => self.segments().filter(|other| other.name() == segment.as_bytes()).count(),
            key => self.index.segments.iter().filter(|segment| segment.key == key).count(),
        }
    }

    /// The place of the segment that `path` leads into, in the list of segments.
    pub(super) fn find(&self, path: &Path) -> Option<usize> {
        let (key, wanted) = (path.key(), path.occurrence().unwrap_or(1));
        let last = self.last_found.load(Ordering::Relaxed);
        let (at, occurrence) = ((last >> 32) as usize, last as u32);
        let usable = occurrence > 0 && self.index.segments.get(at).is_some_and(|segment| segment.key == key);
        let found = match (usable, occurrence.checked_sub(wanted)) {
            // Backwards from the place found last, where that is nearer than the beginning.
            (true, Some(back @ 1..)) if back < wanted => {
                let before = self.index.segments[..at].iter().enumerate().rev();
                before.filter(|(_, segment)| segment.key == key).nth(back as usize - 1).map(|(place, _)| place)
            }
            (true, None | Some(0)) => self.find_from(at, key, wanted - occurrence),
            _ => self.find_from(0, key, wanted.checked_sub(1)?),
        }?;
        self.last_found.store(((found as u64) << 32) | u64::from(wanted), Ordering::Relaxed);
        Some(found)
    }

    /// The segment of this name that has so many others of it between `from` and itself.
    fn find_from(&self, from: usize, key: u32, skip: u32) -> Option<usize> {
        let after = self.index.segments[from..].iter().enumerate();
        after.filter(|(_, segment)| segment.key == key).nth(skip as usize).map(|(offset, _)| from + offset)
    }

    /// Forgets the place found last where segments from `at` on move.
    pub(super) fn moved(&mut self, at: usize) {
        let last = self.last_found.get_mut();
        if (*last >> 32) as usize >= at {
            *last = 0;
        }
    }

    fn segment(&self, path: &Path) -> Option<SegmentRef<'_>> {
        Some(self.index.view(&self.original, self.index.segments.get(self.find(path)?)?))
    }

    /// The bytes at `path`, still escaped; `None` where there is no such place. A field that stands empty is `Some` and
    /// empty; HL7's null is `""` as it stands. A path that ends at the field gives all its repetitions, one that ends at
    /// the segment gives the segment without its terminator.
    ///
    /// MSH-1 is the field separator, MSH-2 the other ones as one value.
    pub fn raw(&self, path: &Path) -> Option<&[u8]> {
        let segment = self.segment(path)?;
        let Some(number) = path.field() else { return Some(segment.raw()) };
        let field = segment.field(number)?;
        if is_fixed(path) {
            let whole = [path.repetition(), path.component(), path.subcomponent()].iter().flatten().all(|n| *n == 1);
            return whole.then_some(field);
        }
        walk::locate(field, path, &self.separators).map(|range| &field[range])
    }

    /// The text at `path`, decoded from the message's character set; `None` where there is no such place.
    ///
    /// A value without further levels is unescaped too. A composite value (a path that ends at a field, repetition or
    /// component which has further separators inside, or at a segment) stays as it is written, separators and escape
    /// sequences included: unescaped, data could no longer be told from separators.
    ///
    /// # Errors
    /// [`CharsetError`] where the bytes are not valid in the message's character set.
    pub fn text(&self, path: &Path) -> Result<Option<Cow<'_, str>>, CharsetError> {
        let Some(raw) = self.raw(path) else { return Ok(None) };
        let text = self.charset.decode(raw).map_err(|error| match error {
            CharsetError::Invalid { charset, offset } => CharsetError::Value { path: *path, charset, offset },
            other => other,
        })?;
        if path.field().is_none() || is_fixed(path) || walk::composite(raw, path, &self.separators) {
            return Ok(Some(text));
        }
        Ok(Some(escape::unescape_in(text, &self.separators, self.charset)))
    }

    /// How many repetitions the field at `path` has; none where it is absent or empty. What `path` says below the field
    /// does not matter.
    pub fn repetitions(&self, path: &Path) -> usize {
        match self.raw(&path.to_field()) {
            None | Some(b"") => 0,
            Some(_) if path.field().is_none() => 0,
            Some(_) if is_fixed(path) => 1,
            Some(field) => walk::pieces(field, self.separators.repetition),
        }
    }
}

/// Whether `path` leads into MSH-1 or MSH-2 (or those of BHS and FHS), whose content is the separators themselves.
pub(super) fn is_fixed(path: &Path) -> bool {
    matches!(path.segment(), "MSH" | "BHS" | "FHS") && matches!(path.field(), Some(1 | 2))
}

/// Reads MSH-1 and MSH-2 at the start of a message.
fn opening(bytes: &[u8]) -> Result<Separators, ParseError> {
    if bytes.is_empty() {
        return Err(ParseError::Empty);
    }
    if [b"FHS", b"BHS", b"BTS", b"FTS"].iter().any(|name| index::is_header(bytes, name)) {
        return Err(ParseError::Batch);
    }
    let rest = bytes.strip_prefix(b"MSH").ok_or(ParseError::NotHl7)?;
    let (&field, rest) = rest.split_first().ok_or(SeparatorError::Field)?;
    let end = rest.iter().take(64).position(|b| *b == field || matches!(b, b'\r' | b'\n'));
    Ok(Separators::parse(field, &rest[..end.unwrap_or(rest.len().min(64))])?)
}

impl Clone for Message {
    fn clone(&self) -> Message {
        Message {
            original: self.original.clone(),
            index: self.index.clone(),
            wire: self.wire.clone(),
            last_found: AtomicU64::new(self.last_found.load(Ordering::Relaxed)),
            ..*self
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control_id = self.header().map(|header| header::short(header.control_id())).unwrap_or_default();
        f.debug_struct("Message")
            .field("control_id", &control_id)
            .field("bytes", &self.len())
            .field("segments", &self.index.segments.len())
            .field("edited", &self.edited)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{ADT, parse};
    use super::*;

    #[test]
    fn values() {
        let message = parse(ADT);
        // raw, text
        for (path, raw, text) in [
            ("MSH-1", Some("|"), Some("|")),
            ("MSH-2", Some("^~\\&"), Some("^~\\&")),
            ("MSH-2.1", Some("^~\\&"), Some("^~\\&")),
            ("MSH-2.2", None, None),
            ("MSH-3", Some("LAB"), Some("LAB")),
            ("MSH-9", Some("ADT^A01^ADT_A01"), Some("ADT^A01^ADT_A01")),
            ("MSH-9.2", Some("A01"), Some("A01")),
            ("MSH-12", Some("2.5.1"), Some("2.5.1")),
            ("MSH-13", None, None),
            ("PID-2", Some(""), Some("")),
            ("PID-3[1].4.2", Some("1.2.3"), Some("1.2.3")),
            ("PID-3.4", Some("HOSP&1.2.3&ISO"), Some("HOSP&1.2.3&ISO")),
            ("PID-3[2]", Some("200^^^NAT^SS"), Some("200^^^NAT^SS")),
            ("PID-3[2].1", Some("200"), Some("200")),
            ("PID-3[3].1", None, None),
            ("PID-5.1", Some("Test"), Some("Test")),
            ("PID-5[2].1", Some("Probe"), Some("Probe")),
            ("PID-5.1.1", Some("Test"), Some("Test")),
            ("PID-5.1.2", None, None),
            ("PID-11", Some("1 \\T\\ 2 Road^^Town"), Some("1 \\T\\ 2 Road^^Town")),
            ("PID-11.1", Some("1 \\T\\ 2 Road"), Some("1 & 2 Road")),
            ("PID-99", None, None),
            ("NK1", Some("NK1"), Some("NK1")),
            ("NK1-1", None, None),
            ("ODD-1", None, None),
            ("ZPI-2", Some("\\H\\bold\\N\\"), Some("\\H\\bold\\N\\")),
            ("OBX-5", Some("first"), Some("first")),
            ("OBX-7", Some("\"\""), Some("\"\"")),
            ("OBX[2]-5", Some("second"), Some("second")),
            ("OBX[2]", Some("OBX|2|TX|T2||second"), Some("OBX|2|TX|T2||second")),
            ("OBX[3]-5", None, None),
            ("AL1", None, None),
        ] {
            let path: Path = path.parse().unwrap();
            assert_eq!(message.raw(&path), raw.map(str::as_bytes), "{path}");
            assert_eq!(message.text(&path).unwrap().as_deref(), text, "{path}");
        }
    }

    #[test]
    fn segments_and_counts() {
        let message = parse(ADT);
        let names: Vec<&[u8]> = message.segments().map(|segment| segment.name()).collect();
        assert_eq!(names, [&b"MSH"[..], b"EVN", b"PID", b"NK1", b" ODD", b"ZPI", b"OBX", b"OBX"]);
        let counts: Vec<usize> = message.segments().map(|segment| segment.field_count()).collect();
        assert_eq!(counts, [12, 2, 13, 0, 1, 2, 7, 5]);
        for (name, count) in [("OBX", 2), ("MSH", 1), ("AL1", 0), (" ODD", 1), ("ODD", 0), ("", 0)] {
            assert_eq!(message.count(name), count, "{name}");
        }
        for (path, count) in
            [("PID-3", 2), ("PID-3[9].7", 2), ("PID-1", 1), ("PID-2", 0), ("PID-99", 0), ("MSH-2", 1), ("PID", 0)]
        {
            assert_eq!(message.repetitions(&path.parse().unwrap()), count, "{path}");
        }
        assert_eq!(message.segments().next().unwrap().field(0), None);
        assert!(!message.is_empty() && message.len() == ADT.len() && !message.is_edited());
    }

    #[test]
    fn bytes_come_back_as_they_came() {
        for text in [
            ADT,
            "MSH|^~\\&|A",
            "MSH|^~\\&|A\r",
            "MSH|^~\\&|A\nPID|1\n",
            "MSH|^~\\&|A\r\nPID|1\r\n\r\n\r\n",
            "MSH|^~\\&|A\r\r\rPID|1\n\rEVN\r\n \r\t\rZ\r|||\r",
            "\u{feff}MSH|^~\\&|A\rPID",
            "\r\n \tMSH|^~\\&|A\r",
            "MSH$%~\\&$A\rPID$1$2%3\r",
            "MSH|^~\\&#|A\r",
            "MSH|^~&|A^B&C\r",
            "MSH|^|A\r",
            "MSH|^~\\&|\u{e9}\0\r",
        ] {
            let raw = Bytes::copy_from_slice(text.as_bytes());
            let message = Message::parse(raw.clone(), &Limits::default()).unwrap();
            let back = message.to_bytes();
            assert_eq!(back.as_ptr(), raw.as_ptr(), "{text}");
            assert_eq!(back, raw);
            let start = text.find('M').unwrap();
            let verbatim: Vec<u8> =
                message.index.segments.iter().flat_map(|segment| message.verbatim(segment).to_vec()).collect();
            assert_eq!(verbatim, &text.as_bytes()[start..], "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, error) in [
            ("", "message is empty"),
            (" \r\n", "message is empty"),
            ("M", "message does not start with MSH"),
            ("MS", "message does not start with MSH"),
            ("MSH", "MSH-1: no field separator"),
            ("MSH\r", "MSH-1: no field separator"),
            ("MSH|", "MSH-2: empty"),
            ("MSH|\r", "MSH-2: empty"),
            ("MSH||A", "MSH-2: empty"),
            ("MSH|APP|", "MSH-2: character 1 is not punctuation"),
            ("MSH|^&&^|", "MSH-2: character 3 is declared twice"),
            ("MSH|^~\\&#$|", "MSH-2: 6 characters, at most 5 are defined"),
            ("MSHABCDEFGHIJ", "MSH-1: no field separator"),
            ("PID|1", "message does not start with MSH"),
            ("\u{b}MSH|^~\\&|", "message does not start with MSH"),
            ("FHS|^~\\&|\rMSH|^~\\&|", "message is a batch"),
            ("BHS|^~\\&|", "message is a batch"),
            ("MSH|^~\\&|A\rPID|1\rMSH|^~\\&|B", "several messages in one: a second MSH stands at byte 17"),
            ("MSH|^~\\&|A\rPID|1\r\nMSH$%~\\&$B", "several messages in one: a second MSH stands at byte 18"),
            ("\0M\0S\0H", "message is UTF-16 or UTF-32; HL7 v2 is read as bytes with ASCII separators"),
        ] {
            let error_of = Message::parse(text.to_owned(), &Limits::default()).unwrap_err();
            assert_eq!(error_of.to_string(), error, "{text:?}");
        }
        assert_eq!(Message::parse(&b"\xff\xfeM\0S\0H\0"[..], &Limits::default()).unwrap_err(), ParseError::Utf16);
        assert!(Message::parse("MSH|^~\\&|A\rMSH\rMSHX|\r", &Limits::default()).is_ok());
    }

    #[test]
    fn limits() {
        let limits = Limits {
            max_bytes: 64,
            max_segments: 3,
            max_fields_per_segment: 6,
            max_fields: 8,
            max_repetitions: 4,
            ..Limits::default()
        };
        for (text, exceeded) in [
            ("MSH|^~\\&|A\rA\rB\r".to_owned(), None),
            ("MSH|^~\\&|A\rA\rB\rC".to_owned(), Some("segments")),
            ("MSH|^~\\&|A\r\r\r\r\r\rB\r".to_owned(), None),
            (format!("MSH|^~\\&|\rA{}", "|".repeat(6)), None),
            (format!("MSH|^~\\&|\rA{}", "|".repeat(7)), Some("fields")),
            (format!("MSH|^~\\&{}", "|".repeat(6)), Some("fields in one segment")),
            (format!("MSH|^~\\&|\rA|{}", "~".repeat(3)), None),
            (format!("MSH|^~\\&|\rA|{}", "~".repeat(4)), Some("repetitions")),
            (format!("MSH|^~\\&|\rA|{}", "~|".repeat(4)), None),
            (format!("MSH|^~\\&|{}", "x".repeat(55)), None),
            (format!("MSH|^~\\&|{}", "x".repeat(56)), Some("bytes")),
        ] {
            let got = Message::parse(text.clone(), &limits);
            let what = got.err().map(|error| if let ParseError::Limit { what, .. } = error { what } else { "?" });
            assert_eq!(what, exceeded, "{text}");
        }
        for flood in ["|", "~", "PID|\r", "\r", "A\r", "\r\n"] {
            let text = format!("MSH|^~\\&|{}", flood.repeat(300_000));
            let _ = Message::parse(text, &Limits::default()).map(|message| message.segments().count());
        }
    }

    #[test]
    fn character_sets() {
        let limits = Limits::default();
        let message = |set: &str, name: &[u8], fallback: Option<&str>| {
            let head = format!("MSH|^~\\&{}{set}\rPID|||||", "|".repeat(16));
            let fallback = fallback.and_then(Charset::named);
            Message::parse_with([head.as_bytes(), name, b"^\\XE9\\\r"].concat(), &limits, fallback).unwrap()
        };
        let path: Path = "PID-5.1".parse().unwrap();
        for (set, name, fallback, text) in [
            ("8859/1", &b"Jos\xe9"[..], None, Ok("Jos\u{e9}")),
            ("UNICODE UTF-8", b"Jos\xc3\xa9", None, Ok("Jos\u{e9}")),
            ("UNICODE UTF-8", b"Jos\xe9", None, Err("PID-5.1: byte 3 is not valid UTF-8")),
            ("", b"Jos\xc3\xa9", Some("8859/1"), Ok("Jos\u{e9}")),
            ("", b"Jos\xe9", Some("8859/1"), Ok("Jos\u{e9}")),
            ("", b"Jos\xe9", None, Err("PID-5.1: byte 3 is not valid ASCII")),
            ("ISO IR87", b"\x1b$B", None, Err("character set: JIS X 0208 is passed through, but cannot be read")),
        ] {
            let message = message(set, name, fallback);
            let got = message.text(&path).map_err(|error| error.to_string());
            assert_eq!(got, text.map(|text| Some(Cow::Borrowed(text))).map_err(str::to_owned), "{set}");
        }
        let second: Path = "PID-5.2".parse().unwrap();
        assert_eq!(message("8859/1", b"", None).text(&second).unwrap().unwrap(), "\u{e9}");
        assert_eq!(message("UNICODE UTF-8", b"", None).text(&second).unwrap().unwrap(), "\\XE9\\");
        let mut mislabelled = message("UNICODE UTF-8", b"Jos\xe9", None);
        mislabelled.assume_charset(Charset::named("8859/1").unwrap());
        assert_eq!(mislabelled.text(&path).unwrap().unwrap(), "Jos\u{e9}");
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!("{:?}", parse(ADT));
        assert_eq!(shown, "Message { control_id: \"MSG1\", bytes: 271, segments: 8, edited: false }");
        assert!(!format!("{:?}", parse(ADT).segments().collect::<Vec<_>>()).contains("Test"));
    }

    #[test]
    fn many_occurrences_in_any_order() {
        let lines: String = (1..=500).map(|n| format!("OBX|{n}\rNTE|{n}\r")).collect();
        let message = parse(&format!("MSH|^~\\&|A\r{lines}"));
        let numbers = (1..=500).chain((1..=500).rev()).chain([7, 400, 3, 500, 501, 1]);
        for n in numbers {
            for name in ["OBX", "NTE"] {
                let path = format!("{name}[{n}]-1").parse().unwrap();
                let expected = (n <= 500).then(|| n.to_string());
                assert_eq!(message.raw(&path), expected.as_deref().map(str::as_bytes), "{path}");
            }
        }
        let copy = message.clone();
        assert_eq!(copy.to_bytes(), message.to_bytes());
    }
}
