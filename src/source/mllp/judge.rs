//! What a frame is, and what is answered: pure, no I/O.
//!
//! | the message | original mode | enhanced mode (MSH-15 or MSH-16 is there) |
//! |---|---|---|
//! | is on disk | AA | CA if MSH-15 wants it, else AA if MSH-16 does, else nothing |
//! | cannot be processed; it is on disk all the same | AR | CR, else AR, else nothing |
//! | could not be stored, or the listener is stopping | AE 207 | CR 207, else AE 207, else nothing |
//!
//! At most one acknowledgement leaves for a message. Where MSH-15 and MSH-16 both ask, the accept acknowledgement is the one:
//! an application acknowledgement would be the word of the system behind us, and this listener answers on receipt. Where
//! MSH-16 alone asks, receipt is what the sender waits for, and AA is sent for it.
//!
//! An acknowledgement that comes in is taken like any message, but never acknowledged: two engines would do so for ever.

use bytes::Bytes;
use jiff::Timestamp;

use crate::hl7::{self, AckCode, Mode};
use crate::message::MessageId;
use crate::mllp;

/// HL7 table 0357: what an error is about.
mod error_code {
    pub(super) const SEGMENT_SEQUENCE: u16 = 100;
    pub(super) const DATA_TYPE: u16 = 102;
    pub(super) const INTERNAL: u16 = 207;
}

/// A frame's content, looked at.
pub struct Judged {
    header: Option<hl7::Header>,
    verdict: Result<hl7::Message, Rejection>,
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
    let verdict = hl7::Message::parse_with(raw.clone(), limits, charset)
        .map_err(|error| Rejection { error: error_code_of(&error), reason: error.to_string() });
    Judged { header: hl7::Header::scan(raw), verdict }
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
        Judged { header: hl7::Header::scan(head), verdict: Err(Rejection { reason, error: error_code::INTERNAL }) }
    }

    /// Whether an MSH segment was found, so that an acknowledgement can say which message it is for.
    pub(super) fn has_header(&self) -> bool {
        self.header.is_some()
    }

    /// Why the message cannot be processed.
    pub fn rejection(&self) -> Option<&str> {
        self.verdict.as_ref().err().map(|rejection| rejection.reason.as_str())
    }

    /// The message; none where it is rejected.
    pub fn message(&self) -> Option<&hl7::Message> {
        self.verdict.as_ref().ok()
    }

    /// What is answered once the message is on disk; none where the sender wants no answer.
    pub fn acknowledgement(&self, id: MessageId, at: Timestamp) -> Option<Vec<u8>> {
        match &self.verdict {
            Ok(_) => self.answer(Outcome::Taken, id, at, None, None),
            Err(Rejection { reason, error }) => self.answer(Outcome::Rejected, id, at, Some(reason), Some(*error)),
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
        let code = self.code(outcome)?;
        let timestamp = at.strftime("%Y%m%d%H%M%S%z").to_string();
        let mut bytes =
            hl7::Ack { code, control_id: &id.short(), timestamp: &timestamp, text, error }.build(self.header.as_ref());
        // What is echoed from the message may hold an end byte; it would break the acknowledgement's frame.
        bytes.retain(|byte| ![mllp::START, mllp::END].contains(byte));
        Some(bytes)
    }

    fn code(&self, outcome: Outcome) -> Option<AckCode> {
        if self.header.as_ref().is_some_and(hl7::Header::is_ack) {
            return None;
        }
        let (accept, application) = match outcome {
            Outcome::Taken => (AckCode::CA, AckCode::AA),
            Outcome::Rejected => (AckCode::CR, AckCode::AR),
            Outcome::NotStored => (AckCode::CR, AckCode::AE),
        };
        let taken = matches!(outcome, Outcome::Taken);
        match self.header.as_ref().map_or(Mode::Original, hl7::Header::mode) {
            Mode::Original => Some(application),
            Mode::Enhanced { accept: when, .. } if when.wants(taken) => Some(accept),
            Mode::Enhanced { application: when, .. } if when.wants(taken) => Some(application),
            Mode::Enhanced { .. } => None,
        }
    }
}
