//! An HL7 batch (HL7 v2.5.1 §2.10.3) as it came in: kept whole, and read into its messages.

use std::fmt;

use bytes::Bytes;

use super::UnreadableBody;
use crate::hl7::{self, Charset, Limits, batch};

/// Messages in a batch, and parts of a message that is split, at most.
pub const MAX_PARTS: usize = 10_000;

/// A batch whose counts are right and whose messages can all be read.
#[derive(Clone)]
pub struct Batch {
    raw: Bytes,
    messages: Vec<hl7::Message>,
    file_header: Option<Bytes>,
    batch_headers: Vec<Bytes>,
    missing: Option<batch::Warning>,
}

impl Batch {
    /// Whether bytes that are not one message may be a batch.
    pub fn is_likely(error: &hl7::ParseError) -> bool {
        matches!(error, hl7::ParseError::Batch | hl7::ParseError::SeveralMessages { .. } | hl7::ParseError::NotHl7)
    }

    /// Takes a batch apart. One with a wrong count, or with a message that cannot be read, is refused as a whole.
    ///
    /// # Errors
    /// [`UnreadableBody::Batch`], which names lines and numbers and never content.
    pub fn read(raw: &Bytes, limits: &Limits, fallback: Option<Charset>) -> Result<Batch, UnreadableBody> {
        let refused = |problem: String| UnreadableBody::Batch(problem);
        let found = batch::split(raw).map_err(|error| match error {
            batch::BatchError::NotHl7 => UnreadableBody::Hl7(hl7::ParseError::NotHl7.to_string()),
            error => refused(error.to_string()),
        })?;
        let is_count = |warning: &&batch::Warning| {
            matches!(warning, batch::Warning::MessageCount { .. } | batch::Warning::BatchCount { .. })
        };
        if let Some(wrong) = found.warnings.iter().find(is_count) {
            return Err(refused(wrong.to_string()));
        }
        if found.messages.len() > MAX_PARTS {
            return Err(refused(format!("it holds more than {MAX_PARTS} messages")));
        }
        let read = |(number, message): (usize, &&[u8])| {
            let parsed = hl7::Message::parse_with(raw.slice_ref(message), limits, fallback);
            parsed.map_err(|error| refused(format!("message {number}: {error}")))
        };
        let messages = (1..).zip(&found.messages).map(read).collect::<Result<Vec<_>, UnreadableBody>>()?;
        Ok(Batch {
            messages,
            file_header: found.file_header.map(|header| raw.slice_ref(header)),
            batch_headers: found.batch_headers.iter().map(|header| raw.slice_ref(header)).collect(),
            missing: found.warnings.first().copied(),
            raw: raw.clone(),
        })
    }

    /// The batch as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Its messages, in order.
    pub fn messages(&self) -> &[hl7::Message] {
        &self.messages
    }

    /// The FHS segment.
    pub fn file_header(&self) -> Option<&Bytes> {
        self.file_header.as_ref()
    }

    /// The BHS segments.
    pub fn batch_headers(&self) -> &[Bytes] {
        &self.batch_headers
    }

    /// The header or trailer that is missing beside one that is there. The standard lets each be left out; where the batch came
    /// without a frame around it, a missing trailer may also mean that its end is missing.
    pub fn missing(&self) -> Option<batch::Warning> {
        self.missing
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} messages)", self.messages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, String> {
        let text = text.replace('*', "MSH|^~\\&|A|||||||M1\rPID|1|secret\r").replace(' ', "\r");
        let read = Batch::read(&Bytes::from(text), &Limits::default(), None);
        read.map(|batch| batch.messages().len()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_or_nothing() {
        assert_eq!(read("FHS|x BHS|x ** BTS|2 FTS|1"), Ok(2));
        assert_eq!(read("**"), Ok(2));
        assert_eq!(read("BHS|x BTS|0"), Ok(0));
        for (text, problem) in [
            ("BHS|x ** BTS|3", "the batch is refused: line 7: BTS-1 says 3 messages, there are 2"),
            ("FHS|x BHS|x * BTS|1 FTS|2", "FTS-1 says 2 batches, there are 1"),
            ("BHS|x * MSH BTS|2", "line 6: BTS-1 says 2 messages, there are 1"),
            ("BHS|x PID|1 * BTS|1", "line 2: segment stands outside any message"),
            ("BHS|x * MSH|x BTS|2", "message 2: "),
            ("HELLO", "message does not start with MSH"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(problem) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn more_messages_than_the_limit_are_refused() {
        assert_eq!(read(&"*".repeat(MAX_PARTS)), Ok(MAX_PARTS));
        let error = read(&"*".repeat(MAX_PARTS + 1)).expect_err("too many");
        assert!(error.contains("it holds more than 10000 messages"), "{error}");
    }
}
