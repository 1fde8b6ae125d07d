//! What a frame is, and what is answered: pure, no I/O.
//!
//! | the message | original mode | enhanced mode (MSH-15 or MSH-16 is there) |
//! |---|---|---|
//! | is on disk | AA | CA if MSH-15 wants it, else AA if MSH-16 does, else nothing |
//! | cannot be processed; it is on disk all the same | AR | CR, else AR, else nothing |
//! | could not be stored, or the listener is stopping | AE 207 | CR 207, else AE 207, else nothing |
//!
//! A frame may hold a batch (FHS or BHS in front). It is taken or refused as a whole; the answer is a batch, in which each of its
//! messages has the acknowledgement that this table says, by its own MSH-15 and MSH-16.
//!
//! At most one acknowledgement leaves for a message. Where MSH-15 and MSH-16 both ask, the accept acknowledgement is the one:
//! an application acknowledgement would be the word of the system behind us, and this listener answers on receipt. Where
//! MSH-16 alone asks, receipt is what the sender waits for, and AA is sent for it. What is answered where the listener waits for
//! more than the receipt is in `judge/outcome.rs`.
//!
//! An acknowledgement that comes in is never acknowledged, whatever becomes of it: two engines would do so for ever.

mod outcome;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::batch::Heads;
use super::clients::Sender;
use crate::hl7::{self, AckCode, Mode};
use crate::message::{Batch, Body, MessageId};

/// HL7 table 0357: what an error is about.
mod error_code {
    pub(super) const SEGMENT_SEQUENCE: u16 = 100;
    pub(super) const DATA_TYPE: u16 = 102;
    pub(super) const INTERNAL: u16 = 207;
}

/// A frame's content, looked at.
pub struct Judged {
    header: Option<hl7::Header>,
    /// The character set that the header, which is then UTF-8, was decoded from.
    set: Option<hl7::Charset>,
    rejection: Option<Rejection>,
    body: Option<Arc<Body>>,
    /// Where the frame holds a batch that can be taken apart.
    batch: Option<Heads>,
}

struct Rejection {
    reason: String,
    error: u16,
}

/// What became of a message, as far as its acknowledgement is concerned.
#[derive(Clone, Copy)]
enum Outcome {
    Taken,
    Rejected,
    NotStored,
}

/// Looks at a frame's content.
pub fn judge(raw: &Bytes, limits: &hl7::Limits) -> Judged {
    judge_with(raw, limits, None)
}

/// The same, with the character set of messages that declare none and are not UTF-8.
pub(super) fn judge_with(raw: &Bytes, limits: &hl7::Limits, charset: Option<hl7::Charset>) -> Judged {
    let rejected = |error: &hl7::ParseError| Some(Rejection { error: error_code_of(error), reason: error.to_string() });
    let read = hl7::Message::parse_with(raw.clone(), limits, charset);
    let read = match hl7::batch::second_message(raw).filter(|_| read.is_ok()) {
        Some(offset) => Err(hl7::ParseError::SeveralMessages { offset }),
        None => read,
    };
    match read {
        Ok(message) => {
            let (header, set) = match message.is_decoded() {
                true => (message.header(), Some(message.charset())),
                false => (hl7::Header::scan(raw), None),
            };
            Judged { header, set, rejection: None, body: Some(Arc::new(Body::Hl7(message))), batch: None }
        }
        Err(hl7::ParseError::Batch) => judge_batch(raw, limits, charset),
        Err(error) => {
            Judged { header: hl7::Header::scan(raw), set: None, rejection: rejected(&error), body: None, batch: None }
        }
    }
}

fn judge_batch(raw: &Bytes, limits: &hl7::Limits, charset: Option<hl7::Charset>) -> Judged {
    let heads = Heads::of(raw);
    match Batch::read(raw, limits, charset) {
        Ok(batch) => {
            let heads = heads.map(|heads| heads.read(&batch));
            Judged { header: None, set: None, rejection: None, body: Some(Arc::new(Body::Batch(batch))), batch: heads }
        }
        Err(error) => {
            let rejection = Some(Rejection { error: error_code::SEGMENT_SEQUENCE, reason: error.to_string() });
            Judged { header: None, set: None, rejection, body: None, batch: heads }
        }
    }
}

fn error_code_of(error: &hl7::ParseError) -> u16 {
    use hl7::ParseError::{Batch, Empty, NotHl7, SeveralMessages, Utf16};
    match error {
        Empty | NotHl7 | Batch | SeveralMessages { .. } => error_code::SEGMENT_SEQUENCE,
        Utf16 => error_code::DATA_TYPE,
        _ => error_code::INTERNAL,
    }
}

impl Judged {
    /// A message of which only the head was read, because it is too large.
    pub(super) fn too_large(head: &[u8], limit: usize) -> Judged {
        let reason = format!("message is larger than {limit} bytes");
        let rejection = Some(Rejection { reason, error: error_code::INTERNAL });
        Judged { header: hl7::Header::scan(head), set: None, rejection, body: None, batch: None }
    }

    /// The same message, not taken because it is not this client's to send.
    pub(super) fn of_another(self, sender: &Sender) -> Judged {
        let mut headers = self.headers().filter(|_| self.rejection.is_none());
        let objection = headers.find_map(|header| sender.objection(header));
        drop(headers);
        match objection {
            Some(reason) => self.rejected(reason.to_owned()),
            None => self,
        }
    }

    /// The same message, not to be processed.
    pub(super) fn rejected(self, reason: String) -> Judged {
        Judged { rejection: Some(Rejection { reason, error: error_code::INTERNAL }), body: None, ..self }
    }

    /// Its MSH segment, if one was found; those of a batch's messages.
    pub(super) fn headers(&self) -> impl Iterator<Item = &hl7::Header> {
        let of_batch = self.batch.iter().flat_map(|heads| heads.messages.iter().flat_map(|(header, _)| header));
        self.header.iter().chain(of_batch)
    }

    /// Whether an MSH segment was found, so that an acknowledgement can say which message it is for.
    pub(super) fn has_header(&self) -> bool {
        self.header.is_some()
    }

    /// Why the message cannot be processed.
    pub fn rejection(&self) -> Option<&str> {
        self.rejection.as_ref().map(|rejection| rejection.reason.as_str())
    }

    /// The message; none where it is rejected, or was handed on.
    pub fn message(&self) -> Option<&hl7::Message> {
        match self.body.as_deref() {
            Some(Body::Hl7(message)) => Some(message),
            _ => None,
        }
    }

    /// What was read: a message or a batch; none where it is rejected, or was handed on.
    pub fn body(&self) -> Option<&Arc<Body>> {
        self.body.as_ref()
    }

    /// The same, handed on to whoever transforms it.
    pub(super) fn take_body(&mut self) -> Option<Arc<Body>> {
        self.body.take()
    }

    /// What the message is known by when it comes again through the same channel: its sender and MSH-10. None where it has no
    /// MSH-10, and where it is rejected: a message that was sent again after a correction is then looked at anew.
    pub(super) fn key(&self, channel: &str) -> Option<String> {
        if let Some(heads) = self.batch.as_ref().filter(|_| self.rejection.is_none()) {
            return Some(key(&format!("{channel}\rbatch"), &heads.key()?));
        }
        let header = self.header.as_ref().filter(|_| self.rejection.is_none())?;
        let control_id = header.control_id();
        if matches!(control_id.trim_ascii(), b"" | b"\"\"") {
            return None;
        }
        Some(key(channel, &[header.sending_application(), header.sending_facility(), control_id]))
    }

    /// What is answered once the message is on disk; none where the sender wants no answer.
    pub fn acknowledgement(&self, id: MessageId, at: Timestamp) -> Option<Vec<u8>> {
        match &self.rejection {
            None => self.answer(Outcome::Taken, id, at, None, None),
            Some(Rejection { reason, error }) => self.answer(Outcome::Rejected, id, at, Some(reason), Some(*error)),
        }
    }

    /// What is answered when the message could not be stored, or when the listener is stopping; none where the sender wants no
    /// such answer.
    pub fn refusal(&self, id: MessageId, at: Timestamp) -> Option<Vec<u8>> {
        self.answer(
            Outcome::NotStored,
            id,
            at,
            Some("message was not stored, send it again"),
            Some(error_code::INTERNAL),
        )
    }

    fn answer(
        &self,
        outcome: Outcome,
        id: MessageId,
        at: Timestamp,
        text: Option<&str>,
        error: Option<u16>,
    ) -> Option<Vec<u8>> {
        let timestamp = at.strftime("%Y%m%d%H%M%S%z").to_string();
        self.each(id, &timestamp, |header, set, id| {
            let code = code(header, outcome)?;
            let ack = hl7::Ack { code, control_id: &id.short(), timestamp: &timestamp, text, error }.build(header);
            Some(in_set(ack, set))
        })
    }

    /// The answer to a message; to a batch, that of each of its messages, as a batch.
    fn each(
        &self,
        id: MessageId,
        timestamp: &str,
        acknowledgement: impl Fn(Option<&hl7::Header>, Option<hl7::Charset>, MessageId) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let Some(heads) = &self.batch else { return acknowledgement(self.header.as_ref(), self.set, id) };
        let each = (1..).zip(&heads.messages);
        let each = each.filter_map(|(number, (header, set))| acknowledgement(header.as_ref(), *set, id.part(number)));
        let each: Vec<Vec<u8>> = each.collect();
        if each.is_empty() && !heads.messages.is_empty() {
            return None;
        }
        Some(heads.answer(&each, &id.short(), timestamp))
    }
}

/// An acknowledgement in the set that its sender's header was decoded from: what it repeats of that is as it came.
fn in_set(acknowledgement: Vec<u8>, set: Option<hl7::Charset>) -> Vec<u8> {
    match (set, std::str::from_utf8(&acknowledgement)) {
        (Some(set), Ok(text)) => set.encode(text).map_or(acknowledgement.clone(), std::borrow::Cow::into_owned),
        _ => acknowledgement,
    }
}

/// Parts of a key, which never run together: a segment's end is in none of its fields.
fn key(channel: &str, parts: &[&[u8]]) -> String {
    let mut key = String::with_capacity(96);
    key.push_str(channel);
    for part in parts {
        key.push('\r');
        match std::str::from_utf8(part) {
            Ok(part) => key.push_str(part),
            // Bytes of an older character set, each as one: two ids that differ in such a byte stay different.
            Err(_) => key.extend(part.iter().map(|byte| char::from(*byte))),
        }
    }
    key
}

fn code(header: Option<&hl7::Header>, outcome: Outcome) -> Option<AckCode> {
    if header.is_some_and(hl7::Header::is_ack) {
        return None;
    }
    let (accept, application) = match outcome {
        Outcome::Taken => (AckCode::CA, AckCode::AA),
        Outcome::Rejected => (AckCode::CR, AckCode::AR),
        Outcome::NotStored => (AckCode::CR, AckCode::AE),
    };
    let taken = matches!(outcome, Outcome::Taken);
    match header.map_or(Mode::Original, hl7::Header::mode) {
        Mode::Original => Some(application),
        Mode::Enhanced { accept: when, .. } if when.wants(taken) => Some(accept),
        Mode::Enhanced { application: when, .. } if when.wants(taken) => Some(application),
        Mode::Enhanced { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mllp;

    const ID: &str = "01KF0K8Y20TEST000000000001";
    const TIME: &str = "2026-01-15T10:30:00Z";

    fn look(content: &[u8]) -> Judged {
        judge(&Bytes::copy_from_slice(content), &hl7::Limits::default())
    }

    fn text(answer: Option<Vec<u8>>) -> String {
        answer.map_or("nothing".to_owned(), |bytes| String::from_utf8(bytes).expect("ASCII here"))
    }

    fn taken(judged: &Judged) -> String {
        text(judged.acknowledgement(ID.parse().expect("an id"), TIME.parse().expect("a time")))
    }

    fn refused(judged: &Judged) -> String {
        text(judged.refusal(ID.parse().expect("an id"), TIME.parse().expect("a time")))
    }

    fn code(answer: &str) -> &str {
        answer.split("\rMSA|").nth(1).map_or(answer, |msa| &msa[..2])
    }

    /// Columns: MSH-15, MSH-16, then what is answered when the message is on disk, cannot be processed, could not be stored.
    #[test]
    fn who_gets_which_answer() {
        const TABLE: &[(&str, &str, &str, &str, &str)] = &[
            ("", "", "AA", "AR", "AE"),
            ("", "AL", "AA", "AR", "AE"),
            ("", "NE", "nothing", "nothing", "nothing"),
            ("", "ER", "nothing", "AR", "AE"),
            ("", "SU", "AA", "nothing", "nothing"),
            ("AL", "", "CA", "CR", "CR"),
            ("AL", "AL", "CA", "CR", "CR"),
            ("AL", "NE", "CA", "CR", "CR"),
            ("AL", "ER", "CA", "CR", "CR"),
            ("AL", "SU", "CA", "CR", "CR"),
            ("NE", "", "nothing", "nothing", "nothing"),
            ("NE", "AL", "AA", "AR", "AE"),
            ("NE", "NE", "nothing", "nothing", "nothing"),
            ("NE", "ER", "nothing", "AR", "AE"),
            ("NE", "SU", "AA", "nothing", "nothing"),
            ("ER", "", "nothing", "CR", "CR"),
            ("ER", "AL", "AA", "CR", "CR"),
            ("ER", "NE", "nothing", "CR", "CR"),
            ("ER", "ER", "nothing", "CR", "CR"),
            ("ER", "SU", "AA", "CR", "CR"),
            ("SU", "", "CA", "nothing", "nothing"),
            ("SU", "AL", "CA", "AR", "AE"),
            ("SU", "NE", "CA", "nothing", "nothing"),
            ("SU", "ER", "CA", "AR", "AE"),
            ("SU", "SU", "CA", "nothing", "nothing"),
            ("ZZ", "", "CA", "CR", "CR"),
        ];
        for (accept, application, on_disk, rejected, not_stored) in TABLE {
            let header = format!("MSH|^~\\&|A|B|C|D|2026||ORU^R01|9|P|2.5|||{accept}|{application}\r");
            let (good, bad) = (look(header.as_bytes()), look(header.repeat(2).as_bytes()));
            assert!(good.rejection().is_none() && good.message().is_some());
            assert!(bad.rejection().is_some() && bad.message().is_none());
            assert_eq!(code(&taken(&good)), *on_disk, "{accept}/{application}, on disk");
            assert_eq!(code(&taken(&bad)), *rejected, "{accept}/{application}, cannot be processed");
            assert_eq!(code(&refused(&good)), *not_stored, "{accept}/{application}, not stored");
            assert_eq!(code(&refused(&bad)), *not_stored, "{accept}/{application}, neither");
        }
    }

    #[test]
    fn answers_to_the_byte() {
        let header = "MSH|^~\\&|SND|SF|RCV|RF|2026||ADT^A01|p1|P|2.5\r";
        let good = look(header.as_bytes());
        let msh =
            "MSH|^~\\&|RCV|RF|SND|SF|20260115103000+0000||ACK^A01|Y20TEST000000000001|P|2.5\r".replace("Y20", "8Y20");
        assert_eq!(taken(&good), format!("{msh}MSA|AA|p1\r"));
        let error = "ERR|||207^Application internal error^HL70357|E||||message was not stored, send it again\r";
        assert_eq!(refused(&good), format!("{msh}MSA|AE|p1|message was not stored, send it again\r{error}"));
        let unknown = "MSH|^~\\&|||||20260115103000+0000||ACK|8Y20TEST000000000001|P|2.5\r";
        let reason = "message does not start with MSH";
        let error = format!("ERR|||100^Segment sequence error^HL70357|E||||{reason}\r");
        assert_eq!(taken(&look(b"HELLO")), format!("{unknown}MSA|AR||{reason}\r{error}"));
        let large = Judged::too_large(header.as_bytes(), 1024);
        let reason = "message is larger than 1024 bytes";
        let error = format!("ERR|||207^Application internal error^HL70357|E||||{reason}\r");
        assert_eq!(taken(&large), format!("{msh}MSA|AR|p1|{reason}\r{error}"));
        assert!(large.has_header() && !Judged::too_large(b"HELLO", 1024).has_header());
    }

    #[test]
    fn what_is_rejected_and_why() {
        let limits = hl7::Limits { max_segments: 3, ..hl7::Limits::default() };
        let two = "MSH|^~\\&|||||||ADT|1|P|2.5\r".repeat(2);
        for (content, reason, error) in [
            (&b"HELLO"[..], "does not start with MSH", "|||100^"),
            (b"\r\n", "empty", "|||100^"),
            (b"BHS|^~\\&\rMSH|^~\\&\rBTS|2\r", "BTS-1 says 2 messages, there are 1", "|||100^"),
            (b"BHS|^~\\&\rPID|1\rBTS|0\r", "segment stands outside any message", "|||100^"),
            (two.as_bytes(), "second MSH", "|||100^"),
            (b"M\0S\0H\0|\0", "UTF-16", "|||102^"),
            (b"MSH|^~\\&\rA|1\rB|1\rC|1\r", "too many segments", "|||207^"),
        ] {
            let judged = judge(&Bytes::copy_from_slice(content), &limits);
            let found = judged.rejection().expect("rejected");
            assert!(found.contains(reason), "{found}");
            let answer = taken(&judged);
            assert_eq!(code(&answer), "AR");
            assert!(answer.contains(error), "{answer}");
        }
    }

    #[test]
    fn an_acknowledgement_is_never_answered() {
        for kind in ["ACK", "ACK^A01", "ACK^A01^ACK", "MCF"] {
            let judged = look(format!("MSH|^~\\&|||||||{kind}|1|P|2.5|||AL|AL\rMSA|AA|7\r").as_bytes());
            assert!(judged.rejection().is_none(), "{kind}");
            assert_eq!((taken(&judged), refused(&judged)), ("nothing".to_owned(), "nothing".to_owned()), "{kind}");
        }
        // A response of an application has an MSA too, and is a message like any other.
        let response = look(b"MSH|^~\\&|||||||RSP^K11|1|P|2.5\rMSA|AA|7\r");
        assert_eq!(code(&taken(&response)), "AA");
    }

    proptest! {
        #[test]
        fn every_answer_can_be_framed(bytes in proptest::collection::vec(any::<u8>(), 0..80), head in 0..3usize) {
            let head = [&b""[..], b"MSH|^~\\&|", b"MSH"][head];
            let judged = look(&[head, &bytes].concat());
            let (id, at) = (ID.parse().expect("an id"), TIME.parse().expect("a time"));
            for answer in [judged.acknowledgement(id, at), judged.refusal(id, at)].into_iter().flatten() {
                prop_assert!(mllp::encode(&answer).is_ok());
                prop_assert!(hl7::AckReply::parse(&answer).is_ok());
            }
        }
    }
}
