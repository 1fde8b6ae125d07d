//! Inserting whole segments.

use super::error::EditError;
use super::escape;
use super::index::{self, Body, Owned, Segment};
use super::message::Message;
use super::path::Path;

/// Where a segment is inserted. The paths name segments (`OBX[2]`); without an occurrence the first one is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before this segment, which must not be MSH.
    Before(Path),
    /// Behind this segment.
    After(Path),
    /// At the end of the message.
    End,
}

impl Message {
    /// Inserts one segment, given as bytes with or without a terminator. It gets the terminator that MSH has (CR where
    /// MSH has none); where it comes last in a message without a last terminator, that message still ends without one.
    ///
    /// # Errors
    /// [`EditError::NotASegment`], [`EditError::NoSegment`] where the place does not exist, [`EditError::Fixed`] before
    /// MSH, [`EditError::TooDeep`] where the place is below a segment, [`EditError::Limit`].
    pub fn insert_segment(&mut self, place: Place, segment: &[u8]) -> Result<(), EditError> {
        let segment = trim_terminator(segment);
        self.check_segment(segment)?;
        let at = match place {
            Place::Before(path) if path.is_msh() => return Err(EditError::Fixed { path }),
            Place::Before(path) => self.place(&path)?,
            Place::After(path) => self.place(&path)? + 1,
            Place::End => self.index.segments.len(),
        };
        self.insert(at, segment)
    }

    /// Adds a segment at the end and returns its place.
    pub(super) fn push_segment(&mut self, segment: &[u8]) -> Result<usize, EditError> {
        let at = self.index.segments.len();
        self.insert(at, segment)?;
        Ok(at)
    }

    fn place(&self, path: &Path) -> Result<usize, EditError> {
        if path.field().is_some() {
            return Err(EditError::TooDeep { path: *path });
        }
        self.find(path).ok_or_else(|| EditError::NoSegment { path: *path, found: self.count(path.segment()) })
    }

    fn check_segment(&self, segment: &[u8]) -> Result<(), EditError> {
        let not_a_segment = |offset| Err(EditError::NotASegment { offset });
        if let Some(offset) = segment.iter().position(|byte| escape::breaks_frame(*byte)) {
            return not_a_segment(offset);
        }
        let name = segment.get(..3).unwrap_or_default();
        let named = name.first().is_some_and(u8::is_ascii_uppercase)
            && name.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !named || is_envelope(name) {
            return not_a_segment(0);
        }
        if segment.get(3).is_some_and(|byte| *byte != self.separators.field) {
            return not_a_segment(3);
        }
        let fields = memchr::memchr_iter(self.separators.field, segment).count();
        if fields > self.limits.max_fields_per_segment {
            return Err(EditError::Limit { what: "fields in one segment", limit: self.limits.max_fields_per_segment });
        }
        Ok(())
    }

    fn insert(&mut self, at: usize, segment: &[u8]) -> Result<(), EditError> {
        if self.index.segments.len() >= self.limits.max_segments {
            return Err(EditError::Limit { what: "segments", limit: self.limits.max_segments });
        }
        let terminator = self.terminator();
        self.check_size(segment.len() + terminator.len())?;
        self.length += segment.len() + terminator.len();
        let mut own_terminator = terminator;
        if at == self.index.segments.len() && !self.is_terminated(at - 1) {
            self.own(at - 1).bytes.extend_from_slice(terminator);
            own_terminator = &[];
        }
        let owned = Owned::new(segment, own_terminator, self.separators.field);
        let key = index::key(&segment[..segment.len().min(3)]);
        self.index.segments.insert(at, Segment { key, body: Body::Owned(Box::new(owned)) });
        self.moved(at);
        self.edited = true;
        Ok(())
    }

    /// How lines end in this message.
    fn terminator(&self) -> &'static [u8] {
        let msh = self.index.segments.first();
        let ending = msh
            .map_or(&[][..], |segment| &self.verbatim(segment)[self.index.view(&self.original, segment).raw().len()..]);
        match ending {
            [b'\r', b'\n', ..] => b"\r\n",
            [b'\n', ..] => b"\n",
            _ => b"\r",
        }
    }

    fn is_terminated(&self, at: usize) -> bool {
        let segment = &self.index.segments[at];
        self.verbatim(segment).len() > self.index.view(&self.original, segment).raw().len()
    }
}

/// Segments that start or end messages and batches.
pub(super) fn is_envelope(name: &[u8]) -> bool {
    matches!(name, b"MSH" | b"FHS" | b"BHS" | b"BTS" | b"FTS")
}

fn trim_terminator(segment: &[u8]) -> &[u8] {
    let segment = segment.strip_suffix(b"\n").unwrap_or(segment);
    segment.strip_suffix(b"\r").unwrap_or(segment)
}
