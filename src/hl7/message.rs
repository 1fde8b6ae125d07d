//! The message: its original bytes and what was changed.

use std::borrow::Cow;
use std::fmt;
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
        let start = header::preamble(&original).end;
        let separators = opening(&original[start..])?;
        let index = Index::build(&original, start, &separators, limits)?;
        let mut message = Message {
            length: original.len(),
            original,
            start,
            index,
            separators,
            limits: *limits,
            charset: Charset::UTF_8,
            edited: false,
            last_found: AtomicU64::new(0),
        };
        let declared = message.header().as_ref().and_then(Header::declared_charset);
        message.charset = Charset::choose(&message.original, declared, fallback);
        Ok(message)
    }

    /// The separators that MSH-1 and MSH-2 declare.
    pub fn separators(&self) -> &Separators {
        &self.separators
    }

    /// The character set that values are read and written in: the one that MSH-18 names, else UTF-8 where the whole
    /// message is valid UTF-8, else the fallback, else ASCII. Whether every byte belongs to it is not checked here, see
    /// [`Charset::detect`].
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// Reads and writes values in this set from now on, whatever MSH-18 says: a channel's override for a sender that
    /// declares the wrong one. No byte changes; [`Message::transcode`] is the conversion.
    pub fn assume_charset(&mut self, charset: Charset) {
        self.charset = charset;
    }

    /// MSH, for acknowledgements and routing. `None` cannot happen for a message that was parsed.
    pub fn header(&self) -> Option<Header> {
        self.segments().next().and_then(|msh| Header::scan(msh.raw()))
    }

    /// The message's bytes: the very ones that came in (no copy) where nothing was edited, else every untouched segment
    /// verbatim with the edited ones between.
    pub fn to_bytes(&self) -> Bytes {
        if !self.edited {
            return self.original.clone();
        }
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&self.original[..self.start]);
        for segment in &self.index.segments {
            out.extend_from_slice(self.verbatim(segment));
        }
        Bytes::from(out)
    }

    /// The length of [`Message::to_bytes`].
    pub fn len(&self) -> usize {
        self.length
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
        let usable =
            (1..=wanted).contains(&occurrence) && self.index.segments.get(at).is_some_and(|segment| segment.key == key);
        let (from, mut seen) = if usable { (at, occurrence - 1) } else { (0, 0) };
        for (offset, segment) in self.index.segments[from..].iter().enumerate() {
            if segment.key != key {
                continue;
            }
            seen += 1;
            if seen == wanted {
                let found = from + offset;
                self.last_found.store(((found as u64) << 32) | u64::from(wanted), Ordering::Relaxed);
                return Some(found);
            }
        }
        None
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
