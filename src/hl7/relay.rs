//! Passing the acknowledgement of one system on to another, which asked in its own separators and character set.

use super::ack::{Ack, AckCode};
use super::escape::breaks_frame;
use super::header::Header;
use super::reply::{AckReply, ReplyCode};

/// So many bytes of ERR segments are passed on at most.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// What a receiver answered, ready to be told to the one whose message it was.
#[derive(Debug)]
pub struct Relayed<'a> {
    reply: AckReply,
    content: &'a [u8],
}

impl<'a> Relayed<'a> {
    /// Reads a receiver's acknowledgement; none where it is none, or its MSA-1 is unknown.
    pub fn read(content: &'a [u8]) -> Option<Relayed<'a>> {
        let reply = AckReply::parse(content).ok()?;
        matches!(reply.code, ReplyCode::Known(_)).then_some(Relayed { reply, content })
    }

    /// MSA-1.
    pub fn code(&self) -> AckCode {
        match self.reply.code {
            ReplyCode::Known(code) => code,
            ReplyCode::Unknown(_) => AckCode::AE,
        }
    }

    /// The acknowledgement for the sender with that header: MSA-3 and ERR are the receiver's; the rest is of `ack`.
    ///
    /// ERR segments go as they are where they read the same in the sender's separators and in any character set, which is where
    /// both use the same separators and the segments are ASCII. Otherwise one ERR tells the code of the first of them.
    pub fn build(&self, ack: Ack<'_>, header: Option<&Header>) -> Vec<u8> {
        let errors = self.errors(header);
        let error = if errors.is_empty() { self.reply.error } else { None };
        let mut built = Ack { text: self.reply.text.as_deref(), error, ..ack }.build(header);
        built.extend_from_slice(&errors);
        built
    }

    fn errors(&self, header: Option<&Header>) -> Vec<u8> {
        let (Some(theirs), Some(ours)) = (Header::scan(self.content), header) else { return Vec::new() };
        if theirs.separators() != ours.separators() {
            return Vec::new();
        }
        let field = theirs.separators().field;
        let lines = self.content.split(|byte| matches!(byte, b'\r' | b'\n'));
        let errors: Vec<&[u8]> =
            lines.filter(|line| line.starts_with(b"ERR") && line.get(3).is_some_and(|byte| *byte == field)).collect();
        let is_plain = |byte: &u8| byte.is_ascii() && !breaks_frame(*byte);
        let bytes: usize = errors.iter().map(|line| line.len() + 1).sum();
        if bytes > MAX_ERROR_BYTES || !errors.iter().all(|line| line.iter().all(is_plain)) {
            return Vec::new();
        }
        errors.iter().flat_map(|line| line.iter().copied().chain([b'\r'])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: &[u8] = b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ORU^R01|42|P|2.5\r";

    fn told(answer: &[u8], sender: &[u8]) -> Option<String> {
        let relayed = Relayed::read(answer)?;
        let ack = Ack { code: relayed.code(), control_id: "N1", timestamp: "2026", text: None, error: None };
        let built = relayed.build(ack, Header::scan(sender).as_ref());
        Some(String::from_utf8(built).expect("ASCII here").split_once("\rMSA").expect("an MSA").1.to_owned())
    }

    #[test]
    fn what_a_receiver_said_is_told_to_the_sender() {
        for (answer, expected) in [
            (&b"MSH|^~\\&|X\rMSA|AA|77\r"[..], "|AA|42\r"),
            (b"MSH|^~\\&|X\rMSA|CA|77|stored\r", "|CA|42|stored\r"),
            (
                b"MSH|^~\\&|X\rMSA|AE|77|no \\T\\ yes\rERR||PID^1^5|101^Required^HL70357|E|||x\rERR|||207|E\r",
                "|AE|42|no \\T\\ yes\rERR||PID^1^5|101^Required^HL70357|E|||x\rERR|||207|E\r",
            ),
            // Other separators: told in the sender's own.
            (
                b"MSH$%~\\&$X\rMSA$AR$77$a|b\rERR$$$101%Required\r",
                "|AR|42|a\\F\\b\rERR|||101^Required field missing^HL70357|E||||a\\F\\b\r",
            ),
            // Not ASCII: the sender's character set may be another one.
            (
                b"MSH|^~\\&|X\rMSA|AE|77\rERR|||102|E||||Jos\xe9\r",
                "|AE|42|Jos?\rERR|||102^Data type error^HL70357|E||||Jos?\r",
            ),
        ] {
            let found = told(answer, SENDER).map(|found| found.replace('\u{fffd}', "?"));
            assert_eq!(found.as_deref(), Some(expected), "{}", answer.escape_ascii());
        }
        let long = [b"MSH|^~\\&|X\rMSA|AE|77\rERR|||100|E||||".as_slice(), &[b'x'; MAX_ERROR_BYTES], b"\r"].concat();
        assert!(told(&long, SENDER).expect("an answer").contains("ERR|||100^Segment sequence error^HL70357|E||||xxx"));
        for answer in [&b"fine"[..], b"", b"MSH|^~\\&|X\rMSA|ZZ|77\r", b"MSH|^~\\&|X\r"] {
            assert!(told(answer, SENDER).is_none(), "{}", answer.escape_ascii());
        }
    }
}
