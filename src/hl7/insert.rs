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
        self.check_encodable(at, segment)?;
        if let Some(before) = at.checked_sub(1).filter(|_| at == self.index.segments.len()) {
            self.check_encodable(before, self.index.view(&self.original, &self.index.segments[before]).raw())?;
        }
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

#[cfg(test)]
mod tests {
    use super::super::samples::parse;
    use super::*;

    #[test]
    fn places() {
        let text = "MSH|^~\\&|A\rOBX|1\r\nOBX|2\n\n";
        let place = |kind: &str| {
            let (kind, path) = kind.split_once(' ').unwrap_or((kind, "MSH"));
            let path: Path = path.parse().unwrap();
            match kind {
                "before" => Place::Before(path),
                "after" => Place::After(path),
                _ => Place::End,
            }
        };
        for (kind, after) in [
            ("before OBX", "MSH|^~\\&|A\rNTE|x\rOBX|1\r\nOBX|2\n\n"),
            ("after OBX", "MSH|^~\\&|A\rOBX|1\r\nNTE|x\rOBX|2\n\n"),
            ("before OBX[2]", "MSH|^~\\&|A\rOBX|1\r\nNTE|x\rOBX|2\n\n"),
            ("after OBX[2]", "MSH|^~\\&|A\rOBX|1\r\nOBX|2\n\nNTE|x\r"),
            ("after MSH", "MSH|^~\\&|A\rNTE|x\rOBX|1\r\nOBX|2\n\n"),
            ("end", "MSH|^~\\&|A\rOBX|1\r\nOBX|2\n\nNTE|x\r"),
        ] {
            for segment in ["NTE|x", "NTE|x\r", "NTE|x\r\n", "NTE|x\n"] {
                let mut message = parse(text);
                message.insert_segment(place(kind), segment.as_bytes()).unwrap();
                assert_eq!(message.to_bytes(), after, "{kind}");
                assert_eq!(message.raw(&"NTE-1".parse().unwrap()).unwrap(), b"x");
                assert_eq!(message.len(), after.len());
            }
        }
        let mut message = parse(text);
        for (kind, error) in [
            ("before MSH", "MSH: cannot be changed"),
            ("after NTE", "NTE: there are 0 NTE segments"),
            ("after OBX[3]", "OBX[3]: there are 2 OBX segments"),
            ("after OBX-2", "OBX-2: goes too deep for this"),
        ] {
            assert_eq!(message.insert_segment(place(kind), b"NTE|x").unwrap_err().to_string(), error);
        }
        assert!(!message.is_edited());
    }

    #[test]
    fn what_is_a_segment() {
        for (segment, offset) in [
            ("NTE", None),
            ("Z1X|a|b", None),
            ("", Some(0)),
            ("NT", Some(0)),
            ("nte|1", Some(0)),
            (" NTE|1", Some(0)),
            ("1TE|1", Some(0)),
            ("NTEX|1", Some(3)),
            ("NTE^1", Some(3)),
            ("NTE|1\rPID|2", Some(5)),
            ("NTE|1\r\r", Some(5)),
            ("NTE|1\u{1c}", Some(5)),
            ("MSH|^~\\&|", Some(0)),
            ("BTS|1", Some(0)),
        ] {
            let mut message = parse("MSH|^~\\&|A\r");
            let got = message.insert_segment(Place::End, segment.as_bytes());
            assert_eq!(got, offset.map_or(Ok(()), |offset| Err(EditError::NotASegment { offset })), "{segment}");
        }
    }

    #[test]
    fn occurrences_follow() {
        let mut message = parse("MSH|^~\\&|A\rOBX|1\rOBX|2\rOBX|3\r");
        let third: Path = "OBX[3]-1".parse().unwrap();
        assert_eq!(message.raw(&third).unwrap(), b"3");
        message.insert_segment(Place::Before("OBX".parse().unwrap()), b"OBX|0").unwrap();
        assert_eq!(message.raw(&third).unwrap(), b"2");
        message.delete(&"OBX[2]".parse().unwrap()).unwrap();
        assert_eq!(message.raw(&third).unwrap(), b"3");
    }
}
