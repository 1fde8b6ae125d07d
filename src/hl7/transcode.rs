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
        if to == self.charset() && self.wire.is_some() {
            return Ok(());
        }
        if self.wire.is_some() || to.has_halves() {
            let mut utf8 = if self.wire.is_some() { self.as_utf8()? } else { self.clone() };
            utf8.transcode_plain(if to.has_halves() { Charset::UTF_8 } else { to })?;
            *self = if to.has_halves() {
                utf8.label(to)?;
                utf8.into_wire(to)?
            } else {
                utf8
            };
            return Ok(());
        }
        self.transcode_plain(to)
    }

    /// The same between two sets in which separators can be found as they are.
    fn transcode_plain(&mut self, to: Charset) -> Result<(), EditError> {
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

#[cfg(test)]
mod tests {
    use super::super::samples::parse;
    use super::*;

    #[test]
    fn converted() {
        let text = "\u{feff}MSH|^~\\&|É\r\nPID|1||||José\r\nNTE|plain\r\n";
        let mut message = parse(text);
        let latin = Charset::named("8859/1").unwrap();
        message.transcode(latin).unwrap();
        let head = format!("MSH|^~\\&|\u{c9}{}8859/1\r\nPID|1||||Jos\u{e9}\r\nNTE|plain\r\n", "|".repeat(15));
        assert_eq!(message.to_bytes(), latin.encode(&head).unwrap().into_owned());
        assert_eq!(message.len(), message.to_bytes().len());
        assert_eq!(message.charset(), latin);
        assert_eq!(message.text(&"PID-5".parse().unwrap()).unwrap().unwrap(), "José");
        message.transcode(Charset::UTF_8).unwrap();
        assert_eq!(message.to_bytes(), head.replace("8859/1", "UNICODE UTF-8"));
    }

    #[test]
    fn refused_as_a_whole() {
        let mut message = parse("MSH|^~\\&|A\rPID|1||||é\rNTE|€\r");
        let error = message.transcode(Charset::named("8859/1").unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "segment 3: character 5 does not exist in ISO-8859-1");
        assert!(!message.is_edited());
        let mut undeclared = Message::parse(&b"MSH|^~\\&|A\rPID|\xe9\r"[..], &crate::hl7::Limits::default()).unwrap();
        let error = undeclared.transcode(Charset::UTF_8).unwrap_err();
        assert_eq!(error.to_string(), "segment 2: byte 4 is not valid ASCII");
        let mut same = parse("MSH|^~\\&|A|||||||||||||||UNICODE UTF-8\r");
        same.transcode(Charset::UTF_8).unwrap();
        assert!(!same.is_edited());
    }
}
