//! Which bytes frame a message.

use bytes::{BufMut, Bytes, BytesMut};

use super::{CR, END, LF, START, Unframeable};

/// Positive commit acknowledgement of MLLP release 2: the content of a frame of its own (HL7 v3 transport specification, MLLP
/// release 2, "Commit Acknowledgement Block").
pub const ACK: u8 = 0x06;
/// Negative commit acknowledgement of MLLP release 2.
pub const NAK: u8 = 0x15;

/// The bytes that frame a message: one that starts it, and one or two that end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    pub(super) start: u8,
    pub(super) end: u8,
    /// What follows the end byte; none where that alone ends a frame.
    pub(super) after: Option<u8>,
}

impl Default for Framing {
    /// `0B` content `1C 0D`: MLLP.
    fn default() -> Framing {
        Framing { start: START, end: END, after: Some(CR) }
    }
}

/// The control characters by their names (ISO 646).
const NAMES: [&str; 32] = [
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI", "DLE",
    "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
];

impl Framing {
    /// Framing by the byte that starts a frame, and the one or two that end it.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn new(start: &[u8], end: &[u8]) -> Result<Framing, String> {
        let (start, end, after) = match (start, end) {
            ([start], [end]) => (*start, *end, None),
            ([start], [end, after]) => (*start, *end, Some(*after)),
            ([_], _) => return Err(format!("a frame ends with one byte or two, and not with {}", end.len())),
            _ => return Err(format!("a frame starts with one byte, and not with {}", start.len())),
        };
        if let Some(byte) = [start, end].into_iter().find(|byte| !is_free(*byte)) {
            return Err(format!("{} cannot frame a message: it has a meaning of its own", name(byte)));
        }
        if let Some(byte) = after.filter(|byte| !is_free(*byte) && !matches!(*byte, CR | LF)) {
            return Err(format!("{} cannot end a frame: it has a meaning of its own", name(byte)));
        }
        if start == end || after.is_some_and(|after| after == start || after == end) {
            return Err("the bytes that frame a message must differ".to_owned());
        }
        Ok(Framing { start, end, after })
    }

    /// Reads bytes as people write them: `"0x1C0D"`, or the names of control characters, `"FS CR"`.
    pub fn bytes(text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for word in text.split_ascii_whitespace() {
            match word.strip_prefix("0x") {
                Some(digits) if digits.len() >= 2 && digits.len().is_multiple_of(2) && digits.is_ascii() => {
                    for at in (0..digits.len()).step_by(2) {
                        bytes.push(u8::from_str_radix(&digits[at..at + 2], 16).ok()?);
                    }
                }
                Some(_) => return None,
                None => bytes.push(NAMES.iter().position(|name| name.eq_ignore_ascii_case(word))? as u8),
            }
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// The byte that starts a frame.
    pub fn start(&self) -> u8 {
        self.start
    }

    /// What of this content its receiver would take for the frame's end or a new start. A single end byte would come through
    /// here; half of the receivers that we probed cut there.
    pub fn obstacle(&self, content: &[u8]) -> Option<Unframeable> {
        memchr::memchr2(self.start, self.end, content).map(|at| Unframeable { at, byte: content[at] })
    }

    /// Frames content, ready for one write.
    ///
    /// # Errors
    /// [`Unframeable`] where it holds a byte that frames.
    pub fn encode(&self, content: &[u8]) -> Result<Bytes, Unframeable> {
        match self.obstacle(content) {
            Some(obstacle) => Err(obstacle),
            None => Ok(self.put(content.len(), |frame| frame.put_slice(content))),
        }
    }

    /// Frames content without the bytes that cannot be framed: for acknowledgements, which repeat what a sender wrote.
    pub fn encode_rest(&self, content: &[u8]) -> Bytes {
        self.encode(content).unwrap_or_else(|_| {
            self.put(content.len(), |frame| {
                content
                    .iter()
                    .filter(|byte| **byte != self.start && **byte != self.end)
                    .for_each(|byte| frame.put_u8(*byte));
            })
        })
    }

    fn put(&self, length: usize, content: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut frame = BytesMut::with_capacity(length + 3);
        frame.put_u8(self.start);
        content(&mut frame);
        frame.put_u8(self.end);
        frame.extend(self.after);
        frame.freeze()
    }
}

/// Whether HL7 leaves a byte free: no text (tab and the escapes of ISO 2022 belong to that), no white space between frames, no commit
/// acknowledgement.
fn is_free(byte: u8) -> bool {
    matches!(byte, 0x01..=0x05 | 0x07 | 0x08 | 0x0b | 0x0c | 0x10..=0x14 | 0x16..=0x1a | 0x1c..=0x1f)
}

/// A byte for people.
fn name(byte: u8) -> String {
    match NAMES.get(usize::from(byte)) {
        Some(name) => format!("{name} ({byte:#04x})"),
        None => format!("{byte:#04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_people_write_them() {
        for (text, bytes) in [
            ("0x1C0D", Some(&b"\x1c\r"[..])),
            ("0x1c 0x0d", Some(b"\x1c\r")),
            ("FS CR", Some(b"\x1c\r")),
            ("fs 0x0D", Some(b"\x1c\r")),
            ("STX", Some(b"\x02")),
            ("", None),
            ("0x", None),
            ("0x1", None),
            ("0x1G", None),
            ("0xé", None),
            ("1C", None),
            ("FSCR", None),
        ] {
            assert_eq!(Framing::bytes(text).as_deref(), bytes, "{text}");
        }
    }

    #[test]
    fn what_can_frame_a_message() {
        assert_eq!(Framing::new(b"\x0b", b"\x1c\r"), Ok(Framing::default()));
        for (start, end) in
            [(&b"\x02"[..], &b"\x03"[..]), (b"\x02", b"\x03\r"), (b"\x01", b"\x04\n"), (b"\x0b", b"\x1c")]
        {
            assert!(Framing::new(start, end).is_ok());
        }
        for (start, end, words) in [
            (&b""[..], &b"\x03"[..], "starts with one byte, and not with 0"),
            (b"\x02\x02", b"\x03", "starts with one byte, and not with 2"),
            (b"\x02", b"", "one byte or two, and not with 0"),
            (b"\x02", b"\x03\r\n", "one byte or two, and not with 3"),
            (b"M", b"\x03", "0x4d cannot frame"),
            (b"\r", b"\x03", "CR (0x0d) cannot frame"),
            (b"\x02", b"\r", "CR (0x0d) cannot frame"),
            (b"\x06", b"\x03", "ACK (0x06) cannot frame"),
            (b"\x1b", b"\x03", "ESC (0x1b) cannot frame"),
            (b"\x02", b"\x03x", "0x78 cannot end"),
            (b"\x02", b"\x02", "must differ"),
            (b"\x02", b"\x03\x02", "must differ"),
            (b"\x02", b"\x03\x03", "must differ"),
        ] {
            let found = Framing::new(start, end).expect_err("a mistake");
            assert!(found.contains(words), "{found}");
        }
    }

    #[test]
    fn what_cannot_be_framed_is_left_out_where_that_is_asked_for() {
        let framing = Framing::new(b"\x02", b"\x03").expect("good");
        assert_eq!(framing.encode(b"a\x0bb"), Ok(Bytes::from_static(b"\x02a\x0bb\x03")));
        assert_eq!(framing.encode(b"a\x03b"), Err(Unframeable { at: 1, byte: 3 }));
        assert_eq!(framing.encode_rest(b"\x02a\x03b"), b"\x02ab\x03"[..]);
    }
}
