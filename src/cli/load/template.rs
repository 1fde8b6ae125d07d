//! A message to be sent many times, each time under another control id.

use crate::cli::send::asks_for_an_answer;
use crate::hl7::{Header, Mode};
use crate::mllp;

/// What a frame adds to its message.
pub(super) const FRAMING_BYTES: usize = 3;

/// A message cut around its MSH-10.
#[derive(Clone)]
pub(in crate::cli) struct Template {
    /// With the byte that starts a frame.
    head: Vec<u8>,
    /// With the bytes that end it.
    tail: Vec<u8>,
    enhanced: bool,
}

/// Why a message cannot be sent under other control ids.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum NotATemplate {
    #[error("it does not start with MSH")]
    NotHl7,
    #[error("its MSH has no MSH-10 that could be replaced")]
    NoControlId,
    #[error("it asks for no acknowledgement (MSH-15, MSH-16), so nobody can tell whether it was accepted")]
    NoAnswer,
    #[error(transparent)]
    Unframeable(#[from] mllp::Unframeable),
}

impl Template {
    /// Every byte but those of MSH-10 stays as it is.
    pub(in crate::cli) fn new(message: &[u8]) -> Result<Template, NotATemplate> {
        let header = Header::scan(message).ok_or(NotATemplate::NotHl7)?;
        if !asks_for_an_answer(&header) {
            return Err(NotATemplate::NoAnswer);
        }
        let frame = mllp::encode(message)?;
        // The scan passed over what may stand before MSH: a byte order mark and white space, none of which is an M.
        let msh = memchr::memchr(b'M', &frame).ok_or(NotATemplate::NotHl7)?;
        let end = memchr::memchr2(b'\r', b'\n', &frame[msh..]).map_or(frame.len(), |at| msh + at);
        // MSH-1 is the separator itself, so MSH-10 stands between the ninth and the tenth.
        let mut separators = memchr::memchr_iter(frame[msh + 3], &frame[msh..end]).map(|at| msh + at);
        let before = separators.nth(8).ok_or(NotATemplate::NoControlId)?;
        let after = separators.next().unwrap_or(end);
        Ok(Template {
            head: frame[..=before].to_vec(),
            tail: frame[after..].to_vec(),
            enhanced: header.mode() != Mode::Original,
        })
    }

    /// Whether the message asks for acknowledgements in its MSH-15 and MSH-16: there may be two.
    pub(in crate::cli) fn is_enhanced(&self) -> bool {
        self.enhanced
    }

    /// Puts a framed copy with this control id in the place of what `frame` held.
    pub(in crate::cli) fn write_frame(&self, control_id: &str, frame: &mut Vec<u8>) {
        frame.clear();
        frame.extend_from_slice(&self.head);
        frame.extend_from_slice(control_id.as_bytes());
        frame.extend_from_slice(&self.tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(message: &[u8]) -> Result<Vec<u8>, NotATemplate> {
        let mut frame = b"what was there".to_vec();
        Template::new(message)?.write_frame("NEW", &mut frame);
        Ok(frame)
    }

    #[test]
    fn only_the_control_id_changes() {
        let copy_of = |message: &[u8]| copy(message).unwrap();
        assert_eq!(
            copy_of(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|OLD|P|2.5\rPID|1||OLD\r"),
            b"\x0bMSH|^~\\&|A|B|C|D|2026||ADT^A01|NEW|P|2.5\rPID|1||OLD\r\x1c\r"
        );
        assert_eq!(
            copy_of(b"\xef\xbb\xbf\nMSH#^~\\&#M#B#C#D#2026##ADT^A01#\nPID#1\n"),
            b"\x0b\xef\xbb\xbf\nMSH#^~\\&#M#B#C#D#2026##ADT^A01#NEW\nPID#1\n\x1c\r"
        );
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        assert_eq!(copy(b"PID|1"), Err(NotATemplate::NotHl7));
        assert_eq!(copy(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01\rPID|a|b|c"), Err(NotATemplate::NoControlId));
        assert_eq!(copy(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|1|P|2.5|||NE|NE\r"), Err(NotATemplate::NoAnswer));
        assert!(matches!(copy(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|1\x1c|P"), Err(NotATemplate::Unframeable(_))));
    }
}
