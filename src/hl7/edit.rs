//! Changing values. An edited segment owns its bytes and is indexed alone; the others are not touched.

use super::charset::Charset;
use super::error::EditError;
use super::escape;
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
        self.check_encodable(at, segment.raw())?;
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
        if let Err(position) = self.charset().encode(text) {
            return Err(EditError::Unrepresentable { path: *path, charset: self.charset().name(), position });
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
        if self.wire.is_some() {
            self.check_encodable(found.unwrap_or(self.index.segments.len()), &[segment.raw(), bytes].concat())?;
        }
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
        // What was decoded to be taken apart is written in its own set again.
        if let Some(charset) = self.declared_charset().filter(|_| self.wire.is_none()) {
            let bytes = self.to_bytes();
            self.charset = Charset::choose(&bytes, Some(charset), Some(self.charset)).passed_through();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{ADT, parse};
    use super::super::{Limits, Place};
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    /// The one line that differs from the sample afterwards.
    fn changed(message: &Message) -> String {
        let after = String::from_utf8(message.to_bytes().to_vec()).unwrap();
        assert_eq!(after.len(), message.len());
        let different = |(a, b): &(&str, &str)| a != b;
        let mut lines = ADT.split('\r').zip(after.split('\r')).filter(different).map(|(_, b)| b.to_owned());
        let first = lines.next().unwrap_or_default();
        assert_eq!(lines.next(), None, "more than one line changed");
        first
    }

    #[test]
    fn set() {
        for (at, text, line) in [
            ("PID-1", "7", "PID|7||100^"),
            ("PID-5.1", "O|Brien & Söhne", "PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS||O\\F\\Brien \\T\\ Söhne^Anna"),
            ("PID-5", "A^B", "PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS||A\\S\\B||1970"),
            ("PID-5[2]", "B", "PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS||Test^Anna^M~B||1970"),
            ("PID-3[3].2", "x", "PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS~^x||Test"),
            ("PID-3[2].4.3", "x", "PID|1||100^^^HOSP&1.2.3&ISO^MR~200^^^NAT&&x^SS||Test"),
            ("PID-2.3.2", "x", "PID|1|^^&x|100^"),
            ("NK1-2.1", "x", "NK1||x"),
            ("ZPI-5", "line\r\nbreak", "ZPI|a^b|\\H\\bold\\N\\|||line\\X0D\\\\X0A\\break"),
            ("ZPI-1.2", "", "ZPI|a^|\\H"),
            ("OBX[2]-5.2", "x", "OBX|2|TX|T2||second^x"),
            ("MSH-5", "X", "MSH|^~\\&|LAB|NORTH|X|SOUTH"),
            ("MSH-14", "X", "MSH|^~\\&|LAB|NORTH|EHR|SOUTH|20240131120000||ADT^A01^ADT_A01|MSG1|P|2.5.1||X"),
        ] {
            let mut message = parse(ADT);
            message.set(&path(at), text).unwrap();
            assert!(changed(&message).starts_with(line), "{at}: {}", changed(&message));
            assert_eq!(message.text(&path(at)).unwrap().unwrap(), text, "{at}");
            assert!(message.is_edited());
        }
    }

    #[test]
    fn set_raw() {
        let mut message = parse(ADT);
        message.set_raw(&path("PID-5"), b"A^B&C~D").unwrap();
        assert_eq!(message.raw(&path("PID-5[1].2.2")).unwrap(), b"C");
        message.set_raw(&path("PID-5[2]"), b"E^F").unwrap();
        message.set_raw(&path("PID-5.2"), b"G&H\\F\\").unwrap();
        assert_eq!(message.raw(&path("PID-5")).unwrap(), b"A^G&H\\F\\~E^F");
        for (at, bytes, offset) in [
            ("PID-5", "a|b", 1),
            ("PID-5", "ab\r", 2),
            ("PID-5", "\nMSH|", 0),
            ("PID-5", "a\u{1c}", 1),
            ("PID-5[1]", "a~b", 1),
            ("PID-5.1", "a~b", 1),
            ("PID-5.1", "a^b", 1),
            ("PID-5.1.1", "a&b", 1),
        ] {
            let before = message.to_bytes();
            let error = message.set_raw(&path(at), bytes.as_bytes()).unwrap_err();
            assert_eq!(error, EditError::BreaksOut { path: path(at), offset });
            assert_eq!(message.to_bytes(), before);
        }
    }

    #[test]
    fn append() {
        let mut message = parse(ADT);
        message.append(&path("PID-3"), "3~0").unwrap();
        message.append(&path("PID-2"), "first").unwrap();
        message.append(&path("PID-2"), "second").unwrap();
        message.append_raw(&path("PID-20"), b"a^b").unwrap();
        message.append(&path("ZZZ-2"), "x").unwrap();
        assert_eq!(message.raw(&path("PID-3")).unwrap(), b"100^^^HOSP&1.2.3&ISO^MR~200^^^NAT^SS~3\\R\\0");
        assert_eq!(message.raw(&path("PID-2")).unwrap(), b"first~second");
        assert_eq!(message.raw(&path("PID-20")).unwrap(), b"a^b");
        assert!(message.to_bytes().ends_with(b"\rZZZ||x\r"));
        for at in ["PID-3[2]", "PID-3.1"] {
            assert_eq!(message.append(&path(at), "x"), Err(EditError::TooDeep { path: path(at) }));
        }
        assert!(matches!(message.append_raw(&path("PID-3"), b"a~b"), Err(EditError::BreaksOut { offset: 1, .. })));
    }

    #[test]
    fn delete() {
        for (at, count, line) in [
            ("PID-1", 1, "PID|||100^"),
            ("PID-3", 1, "PID|1||||Test"),
            ("PID-3[1]", 1, "PID|1||200^^^NAT^SS||"),
            ("PID-3[2]", 1, "PID|1||100^^^HOSP&1.2.3&ISO^MR||"),
            ("PID-3.4", 1, "PID|1||100^^^^MR~200"),
            ("PID-3.4.2", 1, "PID|1||100^^^HOSP&&ISO^MR~200"),
            ("OBX[2]-5", 1, "OBX|2|TX|T2||"),
            ("PID-2", 0, ""),
            ("PID-99", 0, ""),
            ("PID-3[7]", 0, ""),
            ("AL1-3", 0, ""),
            ("AL1", 0, ""),
            ("OBX[3]", 0, ""),
        ] {
            let mut message = parse(ADT);
            assert_eq!(message.delete(&path(at)), Ok(count), "{at}");
            assert!(changed(&message).starts_with(line), "{at}: {}", changed(&message));
            assert_eq!(message.is_edited(), count > 0);
        }
        let mut message = parse(ADT);
        assert_eq!(message.delete(&path("OBX[1]")), Ok(1));
        assert_eq!(message.raw(&path("OBX-1")).unwrap(), b"2");
        assert_eq!(message.delete(&path("OBX")), Ok(1));
        assert_eq!(message.delete(&path("NK1")), Ok(1));
        assert_eq!(message.to_bytes(), ADT.replace("NK1\r", "").split("OBX|").next().unwrap());
        assert_eq!(message.len(), message.to_bytes().len());
    }

    #[test]
    fn refused() {
        let cramped = "MSH|^|A\rPID|1\r";
        for (text, at, value, error) in [
            (ADT, "MSH-1", "x", "MSH-1: cannot be changed"),
            (ADT, "MSH-2", "x", "MSH-2: cannot be changed"),
            (ADT, "MSH-2.1", "x", "MSH-2.1: cannot be changed"),
            (ADT, "PID", "x", "PID: names a whole segment, a field is needed"),
            (ADT, "OBX[4]-1", "x", "OBX[4]-1: there are 2 OBX segments"),
            (ADT, "OBX[3]-1", "x", "OBX[3]-1: there are 2 OBX segments"),
            (ADT, "ZZZ[2]-1", "x", "ZZZ[2]-1: there are 0 ZZZ segments"),
            (ADT, "MSH[2]-3", "x", "MSH[2]-3: there are 1 MSH segments"),
            (ADT, "BHS-3", "x", "BHS-3: cannot be changed"),
            (ADT, "PID-4294967295", "x", "message would have too many fields in one segment: more than 10000"),
            (ADT, "PID-3[4294967295]", "x", "message would have too many repetitions: more than 100000"),
            (ADT, "PID-3.4294967295", "x", "message would have too many components: more than 10000"),
            (ADT, "ZZZ-3.1.4294967295", "x", "message would have too many components: more than 10000"),
            (cramped, "PID-1[2]", "x", "PID-1[2]: MSH-2 declares no separator for this"),
            (cramped, "PID-1.1.2", "x", "PID-1.1.2: MSH-2 declares no separator for this"),
            (cramped, "PID-1", "a|b", "PID-1: the text holds separators and MSH-2 declares no escape character"),
        ] {
            let mut message = parse(text);
            assert_eq!(message.set(&path(at), value).unwrap_err().to_string(), error);
            assert_eq!(message.to_bytes(), text);
            assert!(!message.is_edited());
        }
        let mut message = parse(ADT);
        for at in ["MSH", "MSH[1]", "MSH-1", "MSH-2"] {
            assert_eq!(message.delete(&path(at)), Err(EditError::Fixed { path: path(at) }));
        }
        let limits = Limits { max_bytes: ADT.len() + 1, ..Limits::default() };
        let mut tight = Message::parse(ADT, &limits).unwrap();
        assert!(tight.set(&path("PID-2"), "x").is_ok());
        assert_eq!(tight.set(&path("PID-2"), "xy"), Err(EditError::Limit { what: "bytes", limit: limits.max_bytes }));
    }

    #[test]
    fn character_sets() {
        let text = format!("MSH|^~\\&{}8859/1\rPID|1\r", "|".repeat(16));
        let mut message = parse(&text);
        message.set(&path("PID-5"), "José|").unwrap();
        assert!(message.to_bytes().ends_with(b"PID|1||||Jos\xe9\\F\\\r"));
        let error = message.set(&path("PID-5"), "a|b 5 €").unwrap_err();
        assert_eq!(error.to_string(), "PID-5: character 7 does not exist in ISO-8859-1");
        message.set(&path("PID-5"), "").unwrap();
        message.set(&path("MSH-18"), "UNICODE UTF-8").unwrap();
        message.set(&path("PID-5"), "5 €").unwrap();
        assert!(message.to_bytes().ends_with("PID|1||||5 €\r".as_bytes()));
        assert_eq!(message.charset(), Charset::UTF_8);
    }

    #[test]
    fn the_first_segment_of_a_name_is_created() {
        for (text, after) in [
            ("MSH|^~\\&|A\r", "MSH|^~\\&|A\rZZZ||^x\r"),
            ("MSH|^~\\&|A", "MSH|^~\\&|A\rZZZ||^x"),
            ("MSH|^~\\&|A\nPID\n\n", "MSH|^~\\&|A\nPID\n\nZZZ||^x\n"),
            ("MSH|^~\\&|A\r\nPID", "MSH|^~\\&|A\r\nPID\r\nZZZ||^x"),
        ] {
            let mut message = parse(text);
            message.set(&path("ZZZ[1]-2.2"), "x").unwrap();
            assert_eq!(message.to_bytes(), after);
            assert_eq!(message.len(), after.len());
        }
    }

    #[test]
    fn eight_thousand_edits_are_not_quadratic() {
        let lines: String = (1..=8000).map(|n| format!("OBX|{n}|TX\r")).collect();
        let mut message = parse(&format!("MSH|^~\\&|A\r{lines}"));
        let start = std::time::Instant::now();
        for n in 1..=8000 {
            let obx = path("OBX").with_occurrence(n);
            message.set(&path("OBX-5").with_occurrence(n), "x").unwrap();
            if n % 8 == 0 {
                message.insert_segment(Place::After(obx), b"NTE|1").unwrap();
            }
        }
        assert_eq!(message.raw(&path("OBX[8000]-5")).unwrap(), b"x");
        assert_eq!(message.count("NTE"), 1000);
        // Quadratic work would be 64 million steps more in each of several places; this is generous by far.
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
