//! Changing values. An edited segment owns its bytes and is indexed alone; the others are not touched.

use super::charset::Charset;
use super::error::EditError;
use super::escape;
use super::header::Header;
use super::index::{Body, Owned, Segment};
use super::message::{Message, is_fixed};
use super::path::Path;
use super::segment::SegmentRef;
use super::walk::{self, NoSlot, Slot};

impl Message {
    /// Writes text at `path`: escaped for this message's separators and encoded in its character set. Missing fields,
    /// repetitions and components before it are created empty. Where the message has no such segment, the first one is
    /// appended at the end.
    ///
    /// A path that ends at the field replaces all its repetitions. Writing MSH-18 changes the set that values are read
    /// and written in from then on, not the bytes that are there: see [`Message::transcode`].
    ///
    /// # Errors
    /// [`EditError`]; the message is then unchanged.
    pub fn set(&mut self, path: &Path, text: &str) -> Result<(), EditError> {
        let bytes = self.encoded(path, text)?;
        self.write(path, &bytes)
    }

    /// Writes bytes at `path` as they are, separators of lower levels included: components where the path ends at a
    /// field, subcomponents where it ends at a component.
    ///
    /// # Errors
    /// [`EditError::BreaksOut`] where the bytes hold a line break, a byte that frames MLLP, or a separator that would end
    /// the place they are written to; else as [`Message::set`].
    pub fn set_raw(&mut self, path: &Path, bytes: &[u8]) -> Result<(), EditError> {
        self.check_inside(path, bytes)?;
        self.write(path, bytes)
    }

    /// Adds a repetition with this text to the field at `path`; the first one where the field is absent or empty.
    ///
    /// # Errors
    /// [`EditError::TooDeep`] where the path goes below the field; else as [`Message::set`].
    pub fn append(&mut self, path: &Path, text: &str) -> Result<(), EditError> {
        let next = self.next_repetition(path)?;
        self.set(&next, text)
    }

    /// As [`Message::append`], with bytes as they are; they may hold components.
    ///
    /// # Errors
    /// As [`Message::append`] and [`Message::set_raw`].
    pub fn append_raw(&mut self, path: &Path, bytes: &[u8]) -> Result<(), EditError> {
        let next = self.next_repetition(path)?;
        self.set_raw(&next, bytes)
    }

    /// Deletes what is at `path` and returns how many things that were: segments for a path to a segment (all of that
    /// name, or the one occurrence), else 1 or 0. Deleting what is not there is not an error.
    ///
    /// A field, component or subcomponent is emptied and keeps its place; a repetition goes with its separator, as an
    /// empty one would be a value in its own right. Nothing else changes.
    ///
    /// # Errors
    /// [`EditError::Fixed`] for MSH, MSH-1 and MSH-2.
    pub fn delete(&mut self, path: &Path) -> Result<usize, EditError> {
        let Some(number) = path.field() else { return self.delete_segments(path) };
        self.check_changeable(path)?;
        let Some(at) = self.find(path) else { return Ok(0) };
        let separators = self.separators;
        let segment = self.index.view(&self.original, &self.index.segments[at]);
        let Some(range) = segment.field_range(number) else { return Ok(0) };
        let field = &segment.raw()[range.clone()];
        let Some(inner) = walk::locate(field, path, &separators) else { return Ok(0) };
        let mut cut = range.start + inner.start..range.start + inner.end;
        if path.repetition().is_some() && path.component().is_none() {
            if inner.end < field.len() {
                cut.end += 1;
            } else if inner.start > 0 {
                cut.start -= 1;
            }
        }
        if cut.is_empty() {
            return Ok(0);
        }
        self.splice(at, cut, &[]);
        self.after_edit(path);
        Ok(1)
    }

    fn delete_segments(&mut self, path: &Path) -> Result<usize, EditError> {
        if path.is_msh() {
            return Err(EditError::Fixed { path: *path });
        }
        let before = self.index.segments.len();
        if path.occurrence().is_some() {
            if let Some(at) = self.find(path) {
                self.index.segments.remove(at);
            }
        } else {
            self.index.segments.retain(|segment| segment.key != path.key());
        }
        let deleted = before - self.index.segments.len();
        if deleted > 0 {
            self.moved(0);
            self.edited = true;
            self.measure();
        }
        Ok(deleted)
    }

    /// Adds the length up again.
    pub(super) fn measure(&mut self) {
        let segments = self.index.segments.iter().map(|segment| self.verbatim(segment).len());
        self.length = self.start + segments.sum::<usize>();
    }

    fn check_changeable(&self, path: &Path) -> Result<(), EditError> {
        if is_fixed(path) {
            return Err(EditError::Fixed { path: *path });
        }
        if path.field().is_none() {
            return Err(EditError::NeedsField { path: *path });
        }
        Ok(())
    }

    /// The path of the repetition that `append` would create.
    fn next_repetition(&self, path: &Path) -> Result<Path, EditError> {
        self.check_changeable(path)?;
        if path.repetition().is_some() || path.component().is_some() {
            return Err(EditError::TooDeep { path: *path });
        }
        let next = u32::try_from(self.repetitions(path)).unwrap_or(u32::MAX).saturating_add(1);
        Ok(path.with_repetition(next))
    }

    fn encoded(&self, path: &Path, text: &str) -> Result<Vec<u8>, EditError> {
        let escaped = escape::escape_exact(text, &self.separators).ok_or(EditError::NoEscape { path: *path })?;
        // Encoding the text itself would be the same; this way the position counts characters as the caller wrote them.
        if let Err(position) = self.charset.encode(text) {
            return Err(EditError::Unrepresentable { path: *path, charset: self.charset.name(), position });
        }
        let encoded = self.charset.encode(&escaped).map_err(|position| EditError::Unrepresentable {
            path: *path,
            charset: self.charset.name(),
            position,
        })?;
        Ok(encoded.into_owned())
    }

    /// Refuses bytes that would not stay in their place.
    fn check_inside(&self, path: &Path, bytes: &[u8]) -> Result<(), EditError> {
        let separators = &self.separators;
        let in_component = path.component().is_some();
        let closes = |byte: u8| {
            escape::breaks_frame(byte)
                || byte == separators.field
                || (Some(byte) == separators.repetition && (in_component || path.repetition().is_some()))
                || (byte == separators.component && in_component)
                || (Some(byte) == separators.subcomponent && path.subcomponent().is_some())
        };
        if let Some(offset) = bytes.iter().position(|byte| closes(*byte)) {
            return Err(EditError::BreaksOut { path: *path, offset });
        }
        if walk::pieces(bytes, separators.repetition) > self.limits.max_repetitions {
            return Err(EditError::Limit { what: "repetitions", limit: self.limits.max_repetitions });
        }
        Ok(())
    }

    /// Puts bytes, known to stay in their place, at `path`.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), EditError> {
        self.check_changeable(path)?;
        let number = path.field().unwrap_or(1) as usize;
        if number > self.limits.max_fields_per_segment {
            return Err(EditError::Limit { what: "fields in one segment", limit: self.limits.max_fields_per_segment });
        }
        let found = self.find(path);
        let new = Owned::new(path.segment().as_bytes(), &[], self.separators.field);
        let segment = match found {
            Some(at) => self.index.view(&self.original, &self.index.segments[at]),
            None if path.occurrence().unwrap_or(1) > 1 => {
                return Err(EditError::NoSegment { path: *path, found: self.count(path.segment()) });
            }
            None if path.is_envelope() => return Err(EditError::Fixed { path: *path }),
            None => SegmentRef::new(&new.bytes, &new.fields, 0),
        };
        let missing = number.saturating_sub(segment.field_count());
        let (cut, mut value) = match segment.field_range(path.field().unwrap_or(1)) {
            Some(range) => {
                let slot = self.slot(&segment.raw()[range.clone()], path)?;
                (range.start + slot.range.start..range.start + slot.range.end, slot.padding)
            }
            None => {
                let mut padding = vec![self.separators.field; missing];
                padding.extend(self.slot(b"", path)?.padding);
                (segment.raw().len()..segment.raw().len(), padding)
            }
        };
        value.extend_from_slice(bytes);
        self.check_size(value.len())?;
        let at = match found {
            Some(at) => at,
            None => self.push_segment(path.segment().as_bytes())?,
        };
        self.splice(at, cut, &value);
        self.after_edit(path);
        Ok(())
    }

    fn slot(&self, field: &[u8], path: &Path) -> Result<Slot, EditError> {
        Slot::find(field, path, &self.separators, &self.limits).map_err(|error| match error {
            NoSlot::Separator => EditError::NoSeparator { path: *path },
            NoSlot::Limit(what, limit) => EditError::Limit { what, limit },
        })
    }

    /// Positions are 32 bits wide, so that no edit may take a segment beyond that.
    pub(super) fn check_size(&self, more: usize) -> Result<(), EditError> {
        let limit = self.limits.max_bytes.min(u32::MAX as usize);
        if self.length.saturating_add(more) > limit {
            return Err(EditError::Limit { what: "bytes", limit });
        }
        Ok(())
    }

    /// Replaces part of a segment and indexes that segment anew.
    fn splice(&mut self, at: usize, cut: std::ops::Range<usize>, value: &[u8]) {
        let field = self.separators.field;
        self.length = self.length - cut.len() + value.len();
        let owned = self.own(at);
        owned.end = owned.end - cut.len() + value.len();
        owned.bytes.splice(cut, value.iter().copied());
        owned.reindex(field);
        self.edited = true;
    }

    /// Gives a segment bytes of its own.
    pub(super) fn own(&mut self, at: usize) -> &mut Owned {
        let field = self.separators.field;
        let segment: &mut Segment = &mut self.index.segments[at];
        if let Body::Original(span) = segment.body {
            let (start, end, after) = (span.start as usize, span.end as usize, span.after as usize);
            let owned = Owned::new(&self.original[start..end], &self.original[end..after], field);
            segment.body = Body::Owned(Box::new(owned));
        }
        match &mut segment.body {
            Body::Owned(owned) => owned,
            Body::Original(_) => unreachable!("the segment was given its own bytes above"),
        }
    }

    /// What else follows from a changed value.
    fn after_edit(&mut self, path: &Path) {
        if path.is_msh() && path.field() == Some(18) {
            self.redeclare();
        }
    }

    /// Follows MSH-18 where it names a set that is known.
    pub(super) fn redeclare(&mut self) {
        let declared = self.header().as_ref().and_then(Header::declared_charset);
        if let Some(charset) = declared {
            let bytes = self.to_bytes();
            self.charset = Charset::choose(&bytes, Some(charset), Some(self.charset));
        }
    }
}
