//! Messages in character sets in which a separator's byte may be half of another character: GB 18030, BIG-5, Shift_JIS.
//!
//! Such a message is decoded as a whole and taken apart as UTF-8. Its lines stay what they were: no character of these sets
//! holds a line break. So a segment that nobody edited leaves as it came, byte for byte, and one that was edited is encoded
//! again. Every edit makes sure that this can be done, before it changes anything.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::charset::{Charset, CharsetError};
use super::error::{EditError, ParseError};
use super::header::{self, Header};
use super::index::{Body, Segment};
use super::limits::Limits;
use super::message::Message;

/// A message as it came, and where its lines begin.
pub(super) struct Wire {
    pub(super) raw: Bytes,
    pub(super) charset: Charset,
    /// Where each line begins as UTF-8, and where it begins as it came; last, where both end.
    lines: Vec<(u32, u32)>,
}

/// The set that a message has to be decoded from before separators can be found in it; none where that is not so.
pub(super) fn charset_of(raw: &[u8], fallback: Option<Charset>) -> Option<Charset> {
    let start = header::preamble(raw).end;
    let end = memchr::memchr2(b'\r', b'\n', &raw[start..]).map_or(raw.len(), |at| start + at);
    let msh = &raw[start..end];
    let declared = Header::scan(msh).and_then(|header| header.declared_charset());
    if declared.is_some_and(|charset| charset.has_halves()) {
        return declared;
    }
    // A name in MSH may itself hold such bytes, which move the fields behind it.
    let is_declared_in = |charset: &Charset| {
        let text = charset.decode(msh).ok();
        text.and_then(|text| Header::scan(text.as_bytes())?.declared_charset()) == Some(*charset)
    };
    if !msh.is_ascii()
        && let Some(charset) = Charset::WITH_HALVES.into_iter().find(is_declared_in)
    {
        return Some(charset);
    }
    let says_nothing = declared.is_none_or(|charset| charset == Charset::ASCII);
    fallback.filter(|charset| charset.has_halves() && says_nothing && std::str::from_utf8(raw).is_err())
}

impl Message {
    /// Reads a message by decoding it first.
    pub(super) fn parse_decoded(raw: Bytes, limits: &Limits, charset: Charset) -> Result<Message, ParseError> {
        if raw.len() > limits.max_bytes.min(u32::MAX as usize) {
            return Err(ParseError::Limit { what: "bytes", limit: limits.max_bytes });
        }
        let mut text = String::with_capacity(raw.len());
        let mut lines = Vec::new();
        let mut start = 0;
        for end in memchr::memchr2_iter(b'\r', b'\n', &raw).map(|at| at + 1).chain([raw.len()]) {
            lines.push((text.len() as u32, start as u32));
            text.push_str(&charset.decode(&raw[start..end]).map_err(|error| {
                let offset = if let CharsetError::Invalid { offset, .. } = error { offset } else { 0 };
                ParseError::Undecodable { charset: charset.name(), offset: start + offset }
            })?);
            start = end;
        }
        lines.push((u32::try_from(text.len()).unwrap_or(u32::MAX), raw.len() as u32));
        let mut message = Message::indexed(Bytes::from(text), limits)?;
        message.wire = Some(Arc::new(Wire { raw, charset, lines }));
        Ok(message)
    }

    /// The bytes of an edited message: untouched segments as they came, the others encoded again.
    pub(super) fn encode_again(&self, wire: &Wire) -> Bytes {
        let mut out = Vec::with_capacity(wire.raw.len());
        out.extend_from_slice(wire.between(0, self.start as u32));
        for segment in &self.index.segments {
            out.extend_from_slice(&wire.segment(segment));
        }
        Bytes::from(out)
    }

    /// Makes sure that a segment (counted from 0) which is about to get bytes of its own can be encoded again, together with
    /// what is put into it.
    pub(super) fn check_encodable(&self, segment: usize, bytes: &[u8]) -> Result<(), EditError> {
        let Some(wire) = &self.wire else { return Ok(()) };
        let segment = segment + 1;
        let text = Charset::UTF_8.decode(bytes).map_err(|error| {
            let offset = if let CharsetError::Invalid { offset, .. } = error { offset } else { 0 };
            EditError::Undecodable { segment, charset: "UTF-8", offset }
        })?;
        let unconvertible = |position| EditError::Unconvertible { segment, charset: wire.charset.name(), position };
        wire.charset.encode(&text).map(drop).map_err(unconvertible)
    }

    /// The same message as UTF-8, whatever it came as.
    pub(super) fn as_utf8(&self) -> Result<Message, EditError> {
        let limit = |_| EditError::Limit { what: "bytes", limit: self.limits.max_bytes };
        Message::indexed(Bytes::from(self.internal_bytes()), &self.limits).map_err(limit)
    }

    /// The same message, which is UTF-8 and declares this set, in this set.
    pub(super) fn into_wire(self, charset: Charset) -> Result<Message, EditError> {
        let text = self.internal_bytes();
        for (number, segment) in (1..).zip(self.segments()) {
            let text = Charset::UTF_8.decode(segment.raw()).unwrap_or_default();
            let unconvertible =
                |position| EditError::Unconvertible { segment: number, charset: charset.name(), position };
            charset.encode(&text).map_err(unconvertible)?;
        }
        // A byte order mark belongs to UTF-8 alone.
        let text = String::from_utf8(text).unwrap_or_default();
        let encoded = charset.encode(text.trim_start_matches('\u{feff}'));
        let raw =
            encoded.map_err(|position| EditError::Unconvertible { segment: 1, charset: charset.name(), position })?;
        let limit = |_| EditError::Limit { what: "bytes", limit: self.limits.max_bytes };
        let mut message =
            Message::parse_decoded(Bytes::from(raw.into_owned()), &self.limits, charset).map_err(limit)?;
        message.limits = self.limits;
        Ok(message)
    }
}

impl Wire {
    /// A segment with its terminator, as it came or encoded again.
    pub(super) fn segment<'s>(&'s self, segment: &'s Segment) -> Cow<'s, [u8]> {
        match &segment.body {
            Body::Original(span) => Cow::Borrowed(self.between(span.start, span.after)),
            Body::Owned(owned) => {
                let text = std::str::from_utf8(&owned.bytes).expect("it was decoded, and edits check theirs");
                self.charset.encode(text).expect("every edit made sure of it")
            }
        }
    }

    /// What came, between two places of the decoded text at which lines begin or end.
    fn between(&self, from: u32, to: u32) -> &[u8] {
        &self.raw[self.place(from)..self.place(to)]
    }

    fn place(&self, decoded: u32) -> usize {
        match self.lines.binary_search_by_key(&decoded, |(decoded, _)| *decoded) {
            Ok(at) => self.lines[at].1 as usize,
            // White space and a byte order mark before MSH: those are the same in both.
            Err(at) => {
                let (line, raw) = self.lines[at.saturating_sub(1)];
                (raw + (decoded - line)) as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7::Place;

    fn path(text: &str) -> super::super::Path {
        text.parse().expect("a path")
    }

    /// Text in a set, with MSH-18 naming it.
    fn encoded(set: &str, text: &str) -> Bytes {
        let charset = Charset::named(set).expect("a set");
        Bytes::from(charset.encode(&text.replace("SET", charset.hl7_name())).expect("encodable").into_owned())
    }

    /// In each set, these hold `|`, `^`, `~`, `\\` or `&` as a byte.
    const SAMPLES: [(&str, &str); 3] = [("Shift_JIS", "ポソ表ミ"), ("GB18030", "馸乗亅"), ("BIG-5", "功許蓋")];

    #[test]
    fn separators_are_not_found_within_characters() {
        for (set, name) in SAMPLES {
            let text = format!(
                "\r\nMSH|^~\\&|{name}|F|||||ADT^A01|1|P|2.5||||||SET|\r\n\nPID|1||7||{name}^{name}||x\r\nNTE|1||{name}"
            );
            let raw = encoded(set, &text);
            assert!(
                raw.iter().filter(|byte| b"|^~\\&".contains(byte)).count()
                    > text.bytes().filter(|byte| b"|^~\\&".contains(byte)).count(),
                "{set}: the sample is worth nothing"
            );
            let mut message = Message::parse(raw.clone(), &Limits::default()).expect("HL7");
            assert_eq!(message.charset().name(), Charset::named(set).expect("a set").name());
            for (at, expected) in [
                ("MSH-3", name),
                ("MSH-10", "1"),
                ("PID-5.1", name),
                ("PID-5.2", name),
                ("PID-7", "x"),
                ("NTE-3", name),
            ] {
                assert_eq!(message.text(&path(at)).expect("decoded").expect("there"), expected, "{set} {at}");
            }
            assert_eq!(message.to_bytes(), raw, "{set}");
            message.set(&path("PID-7"), name).expect("set");
            message.set_raw(&path("NTE-2"), name.as_bytes()).expect("set");
            let expected = text.replace("||x\r", &format!("||{name}\r")).replace("NTE|1||", &format!("NTE|1|{name}|"));
            assert_eq!(message.to_bytes(), encoded(set, &expected), "{set}");
            assert_eq!(message.len(), message.to_bytes().len());
        }
    }

    #[test]
    fn what_the_set_does_not_have_is_refused() {
        let raw = encoded("Shift_JIS", "MSH|^~\\&|A|||||||1|P|2.5||||||SET\rPID|1||||ポ\r");
        let mut message = Message::parse(raw.clone(), &Limits::default()).expect("HL7");
        let error = message.set(&path("PID-5"), "né").expect_err("not in the set");
        assert_eq!(error.to_string(), "PID-5: character 2 does not exist in Shift_JIS");
        let error = message.set_raw(&path("PID-5"), "né".as_bytes()).expect_err("not in the set");
        assert!(error.to_string().contains("does not exist in Shift_JIS"), "{error}");
        assert!(message.set_raw(&path("PID-5"), b"\x83\x7c").is_err(), "bytes that are no UTF-8");
        assert!(message.insert_segment(Place::End, "NTE|1||é".as_bytes()).is_err());
        assert!(!message.is_edited() && message.to_bytes() == raw);
        let error = Message::parse([&raw[..], b"NTE|\x83"].concat(), &Limits::default()).expect_err("half a character");
        assert_eq!(error, ParseError::Undecodable { charset: "Shift_JIS", offset: raw.len() + 4 });
    }

    /// A character that somebody made up for their own machine can be read and not be written: it may pass through.
    #[test]
    fn what_can_only_be_read_stays_where_nobody_edits() {
        let raw =
            [&encoded("Shift_JIS", "MSH|^~\\&|A|||||||1|P|2.5||||||SET\r")[..], b"PID|1||||\xf0\x40\rNTE|1\r"].concat();
        let mut message = Message::parse(raw.clone(), &Limits::default()).expect("HL7");
        message.set(&path("NTE-1"), "2").expect("another segment");
        assert_eq!(message.to_bytes(), raw.strip_suffix(b"1\r").map(|raw| [raw, b"2\r"].concat()).expect("the end"));
        let error = message.set(&path("PID-2"), "x").expect_err("the segment cannot be written");
        assert_eq!(error.to_string(), "segment 2: character 10 does not exist in Shift_JIS");
        assert!(message.delete(&path("PID-1")).is_err());
        assert_eq!(message.delete(&path("PID")), Ok(1));
    }

    #[test]
    fn a_fallback_is_for_those_that_say_nothing() {
        let gb = Charset::named("GB18030");
        let bytes = Charset::named("GB18030")
            .expect("a set")
            .encode("MSH|^~\\&|A\rPID|1||||馸\r")
            .expect("encoded")
            .into_owned();
        let message = Message::parse_with(bytes, &Limits::default(), gb).expect("HL7");
        assert_eq!(message.text(&path("PID-5")).expect("decoded").as_deref(), Some("馸"));
        let utf8 = Message::parse_with("MSH|^~\\&|A\rPID|1||||馸\r", &Limits::default(), gb).expect("HL7");
        assert_eq!((utf8.charset(), utf8.is_decoded()), (Charset::UTF_8, false));
    }

    #[test]
    fn from_each_set_to_each() {
        let text = "MSH|^~\\&|A|||||||1|P|2.5||||||SET\rPID|1||||中^a\r";
        let sets = ["GB18030", "Shift_JIS", "BIG-5", "UTF-8", "EUC-JP"];
        for from in sets {
            for to in sets {
                let mut message = Message::parse(encoded(from, text), &Limits::default()).expect("HL7");
                message.transcode(Charset::named(to).expect("a set")).expect("converted");
                assert_eq!(message.to_bytes(), encoded(to, text), "{from} to {to}");
                assert_eq!(message.text(&path("PID-5.1")).expect("decoded").as_deref(), Some("中"), "{from} to {to}");
            }
            let mut message = Message::parse(encoded(from, text), &Limits::default()).expect("HL7");
            let error = message.transcode(Charset::named("8859/1").expect("a set")).expect_err("not in the set");
            assert_eq!(error.to_string(), "segment 2: character 10 does not exist in ISO-8859-1", "{from}");
            assert_eq!(message.to_bytes(), encoded(from, text), "unchanged");
        }
    }
}
