//! Reading a peer's acknowledgement.

use std::fmt;

use super::ack::AckCode;
use super::escape;
use super::header::{Header, short};
use super::segment::SegmentRef;
use super::separators::Separators;
use super::walk;

/// MSA-1 as a peer wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyCode {
    /// One of table 0008.
    Known(AckCode),
    /// Anything else, at most 16 bytes of it. Never success.
    Unknown(String),
}

/// What a peer answered. Its texts may quote the message, so they belong into the journal and not into logs; `Debug` does
/// not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct AckReply {
    /// MSA-1.
    pub code: ReplyCode,
    /// MSA-2, byte for byte: the MSH-10 that is being answered.
    pub control_id: Vec<u8>,
    /// MSA-3, or ERR-8 where that is empty.
    pub text: Option<String>,
    /// The code of table 0357 in the first ERR segment (ERR-3.1, or ERR-1.4.1 before version 2.5).
    pub error: Option<u16>,
    /// MSA-4, the sequence number that the peer expects next.
    pub expected_sequence: Option<i64>,
}

/// Why bytes are not an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The answer is empty.
    #[error("acknowledgement is empty")]
    Empty,
    /// It does not start with MSH.
    #[error("acknowledgement does not start with MSH")]
    NotHl7,
    /// It has no MSA segment.
    #[error("acknowledgement has no MSA")]
    NoMsa,
}

impl AckReply {
    /// Reads an acknowledgement, tolerant of LF and CRLF ends, blank lines, odd MSH-2, and of what follows MSA.
    ///
    /// # Errors
    /// [`ReplyError`]. An unknown MSA-1 or a foreign MSA-2 is not an error here.
    pub fn parse(bytes: &[u8]) -> Result<AckReply, ReplyError> {
        if bytes.trim_ascii().is_empty() {
            return Err(ReplyError::Empty);
        }
        let header = Header::scan(bytes).ok_or(ReplyError::NotHl7)?;
        let reader = Reader { header: &header, separators: header.separators() };
        let lines = || bytes.split(|byte| matches!(byte, b'\r' | b'\n'));
        let named = |name: &str| {
            let is_named = |line: &&[u8]| {
                line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&reader.separators.field))
            };
            lines().find(is_named)
        };
        let msa = named("MSA").ok_or(ReplyError::NoMsa)?;
        let err = named("ERR").unwrap_or_default();
        let code = reader.field(msa, 1);
        let text = [reader.text(msa, 3), reader.text(err, 8)].into_iter().flatten().next();
        Ok(AckReply {
            code: match AckCode::parse(code.trim_ascii()) {
                Some(code) => ReplyCode::Known(code),
                None => ReplyCode::Unknown(short(&code[..code.len().min(16)])),
            },
            control_id: reader.field(msa, 2).to_vec(),
            text,
            error: reader.number(err, 3, 1, 1).or_else(|| reader.number(err, 1, 4, 1)),
            expected_sequence: std::str::from_utf8(reader.field(msa, 4)).ok().and_then(|n| n.trim().parse().ok()),
        })
    }

    /// AA or CA.
    pub fn is_positive(&self) -> bool {
        matches!(self.code, ReplyCode::Known(code) if code.is_positive())
    }

    /// Whether this answers the message with that MSH-10.
    pub fn answers(&self, control_id: &[u8]) -> bool {
        self.control_id == control_id
    }
}

impl fmt::Debug for AckReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckReply")
            .field("code", &self.code)
            .field("control_id", &short(&self.control_id))
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyCode::Known(code) => code.fmt(f),
            ReplyCode::Unknown(code) => f.write_str(code),
        }
    }
}

struct Reader<'a> {
    header: &'a Header,
    separators: &'a Separators,
}

impl Reader<'_> {
    fn field<'l>(&self, line: &'l [u8], n: u32) -> &'l [u8] {
        let separators: Vec<u32> = memchr::memchr_iter(self.separators.field, line)
            .take(n as usize + 1)
            .filter_map(|at| u32::try_from(at).ok())
            .collect();
        let range = SegmentRef::new(line, &separators, 0).field_range(n);
        range.map_or(&[], |range| &line[range])
    }

    /// For people, so bytes that are not in the declared set are shown as such rather than refused.
    fn text(&self, line: &[u8], n: u32) -> Option<String> {
        let raw = self.field(line, n);
        let charset = self.header.declared_charset().unwrap_or(super::Charset::UTF_8);
        let text = charset.decode(raw).unwrap_or_else(|_| String::from_utf8_lossy(raw));
        let text = escape::unescape_in(text, self.separators, charset);
        (!text.is_empty() && text != "\"\"").then(|| text.into_owned())
    }

    fn number(&self, line: &[u8], field: u32, component: u32, subcomponent: u32) -> Option<u16> {
        let value = self.field(line, field);
        let value = &value[walk::piece(value, self.separators.repetition, 1)?];
        let value = &value[walk::piece(value, Some(self.separators.component), component)?];
        let value = &value[walk::piece(value, self.separators.subcomponent, subcomponent)?];
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7::Ack;

    #[test]
    fn read() {
        use AckCode::{AA, AE, AR, CA, CR};
        for (reply, code, id, text, error) in [
            ("MSH|^~\\&|A\rMSA|AA|42\r", Some(AA), "42", None, None),
            ("MSH|^~\\&|A\nMSA|AA|42\n", Some(AA), "42", None, None),
            ("MSH|^~\\&|A\r\n\r\nMSA|CA|42|", Some(CA), "42", None, None),
            ("MSH|^~\\&|A\rMSA|AE|42|a\\F\\b\rERR|||102^x|E\r", Some(AE), "42", Some("a|b"), Some(102)),
            ("MSH|^~\\&|A\rMSA|AR|42\rERR|||207^x|E||||down\r", Some(AR), "42", Some("down"), Some(207)),
            ("MSH|^~\\&|A\rMSA|AR|42\rERR|PID^1^3^101&missing\r", Some(AR), "42", None, Some(101)),
            ("MSH|^~\\&|A\rMSA|CR\r", Some(CR), "", None, None),
            ("MSH$%~\\&$A\rMSA$AA$i|d\r", Some(AA), "i|d", None, None),
            ("MSH|^~\\&|A\rSFT|x\rMSA| AA |42\r", Some(AA), "42", None, None),
            ("MSH|^~\\&|A\rMSA|ZZ|42\r", None, "42", None, None),
            ("MSH|^~\\&|A\rMSA||\r", None, "", None, None),
            ("\u{feff}MSH|^~\\&|A\rMSA|AA|42|\"\"\r", Some(AA), "42", None, None),
        ] {
            let got = AckReply::parse(reply.as_bytes()).unwrap();
            assert_eq!(code, if let ReplyCode::Known(code) = got.code { Some(code) } else { None }, "{reply}");
            assert!(got.answers(id.as_bytes()), "{reply}");
            assert_eq!(got.text.as_deref(), text, "{reply}");
            assert_eq!(got.error, error, "{reply}");
            assert_eq!(got.is_positive(), code.is_some_and(AckCode::is_positive));
        }
    }

    #[test]
    fn not_acknowledgements() {
        for (reply, error) in [
            ("", ReplyError::Empty),
            ("\r\n ", ReplyError::Empty),
            ("A VERY BAD ACKNOWLEDGEMENT", ReplyError::NotHl7),
            ("MSA|AA|42\r", ReplyError::NotHl7),
            ("MSH|^~\\&|A\rMSAX|AA\r", ReplyError::NoMsa),
            ("MSH|^~\\&|A\rPID|1\r", ReplyError::NoMsa),
            ("MSH|^~\\&|A MSA|AA|42", ReplyError::NoMsa),
        ] {
            assert_eq!(AckReply::parse(reply.as_bytes()), Err(error), "{reply}");
        }
    }

    #[test]
    fn details() {
        let reply = AckReply::parse(b"MSH|^~\\&|A\rMSA|AE|\xe9|Jos\xe9|-1\r").unwrap();
        assert!(reply.answers(b"\xe9") && !reply.answers("\u{fffd}".as_bytes()));
        assert_eq!(reply.text.as_deref(), Some("Jos\u{fffd}"));
        assert_eq!(reply.expected_sequence, Some(-1));
        assert!(!format!("{reply:?}").contains("Jos"));
        let long = AckReply::parse(format!("MSH|^~\\&|A\rMSA|{}|1\r", "Z".repeat(99)).as_bytes()).unwrap();
        assert_eq!(long.code.to_string(), "Z".repeat(16));
    }

    #[test]
    fn our_own() {
        let message = b"MSH|^~\\&|A|B|C|D|2024||ORU^R01|4\xff2|P|2.5||||||8859/1\r";
        let header = Header::scan(message).unwrap();
        let ack = Ack { code: AckCode::AE, control_id: "N", timestamp: "1", text: Some("é|"), error: Some(101) };
        let reply = AckReply::parse(&ack.build(Some(&header))).unwrap();
        assert_eq!(reply.code, ReplyCode::Known(AckCode::AE));
        assert!(reply.answers(header.control_id()));
        assert_eq!(reply.text.as_deref(), Some("é|"));
        assert_eq!(reply.error, Some(101));
    }
}
