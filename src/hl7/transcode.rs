//! Converting a message to another character set.

use super::charset::{Charset, CharsetError};
use super::error::EditError;
use super::index::{Body, Owned};
use super::message::Message;

impl Message {
    /// Converts every segment to another character set and names it in MSH-18. A byte order mark stays only where the
    /// new set is UTF-8.
    ///
    /// # Errors
    /// [`EditError::Undecodable`], [`EditError::Unconvertible`]; the message is then unchanged. Hexadecimal escapes
    /// (`\Xhh\`) are not converted.
    pub fn transcode(&mut self, to: Charset) -> Result<(), EditError> {
        let from = self.charset;
        let mut next = self.clone();
        next.label(to)?;
        for at in 0..next.index.segments.len() {
            next.convert(at, from, to)?;
        }
        if to != Charset::UTF_8 && next.original[..next.start].contains(&0xef) {
            // The index counts from the start of the original bytes, so they stay and their beginning is not written.
            next.start = 0;
            next.edited = true;
        }
        next.charset = to;
        next.measure();
        *self = next;
        Ok(())
    }

    fn label(&mut self, to: Charset) -> Result<(), EditError> {
        let Ok(path) = "MSH-18".parse() else { return Ok(()) };
        if self.raw(&path) == Some(to.hl7_name().as_bytes()) {
            return Ok(());
        }
        self.set_raw(&path, to.hl7_name().as_bytes())
    }

    fn convert(&mut self, at: usize, from: Charset, to: Charset) -> Result<(), EditError> {
        let old = &self.index.segments[at];
        let raw = self.index.view(&self.original, old).raw();
        // Sets that can only be passed through may hide characters behind ASCII bytes: those are asked.
        if raw.is_ascii() && from.is_readable() {
            return Ok(());
        }
        let segment = at + 1;
        let text = from.decode(raw).map_err(|error| {
            let offset = if let CharsetError::Invalid { offset, .. } = error { offset } else { 0 };
            EditError::Undecodable { segment, charset: from.name(), offset }
        })?;
        let unconvertible = |position| EditError::Unconvertible { segment, charset: to.name(), position };
        let bytes = to.encode(&text).map_err(unconvertible)?;
        if *bytes != *raw {
            let owned = Owned::new(&bytes, &self.verbatim(old)[raw.len()..], self.separators.field);
            self.index.segments[at].body = Body::Owned(Box::new(owned));
            self.edited = true;
        }
        Ok(())
    }
}
