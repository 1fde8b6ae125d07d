//! The MSH segment alone, read from anything that might be a message.

use std::fmt;
use std::ops::Range;

use super::charset::Charset;
use super::segment::SegmentRef;
use super::separators::Separators;
use super::walk;

/// Longer headers are cut here; real ones have 100 to 300 bytes.
const MAX_BYTES: usize = 64 * 1024;

/// What MSH says (HL7 v2.5.1 §2.15.9), as bytes and still escaped. Absent and empty fields are both empty.
///
/// The scan is tolerant, so that even a message which cannot be parsed can be answered. It ends with the segment, so that
/// nothing of the patient gets into an acknowledgement or a log. `Debug` shows the control ID only.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    raw: Box<[u8]>,
    fields: Vec<u32>,
    separators: Separators,
}

impl Header {
    /// Finds MSH at the start of `bytes`, behind a UTF-8 byte order mark, white space and MLLP's start byte. `None` where
    /// it is not there, or no separator follows it.
    pub fn scan(bytes: &[u8]) -> Option<Header> {
        let bytes = &bytes[skip_preamble(bytes)..];
        let field = *bytes.strip_prefix(b"MSH")?.first()?;
        if !field.is_ascii_punctuation() {
            return None;
        }
        let window = &bytes[..bytes.len().min(MAX_BYTES)];
        let end = memchr::memchr2(b'\r', b'\n', window).unwrap_or(window.len());
        let raw: Box<[u8]> = Box::from(&window[..end]);
        let fields: Vec<u32> =
            memchr::memchr_iter(field, &raw).take(24).filter_map(|at| u32::try_from(at).ok()).collect();
        let encoding = SegmentRef::new(&raw, &fields, 0).field(2).unwrap_or_default();
        let separators = Separators::lenient(field, encoding);
        Some(Header { raw, fields, separators })
    }

    /// The declared separators; where MSH-2 is unusable, the standard ones around the declared field separator.
    pub fn separators(&self) -> &Separators {
        &self.separators
    }

    /// Field `n` of MSH, MSH-1 being the separator itself; up to MSH-24.
    pub fn field(&self, n: u32) -> &[u8] {
        // The last of the separators kept bounds MSH-24, so what follows it is not a field.
        if n > 24 {
            return &[];
        }
        SegmentRef::new(&self.raw, &self.fields, 0).field(n).unwrap_or_default()
    }

    fn component(&self, field: u32, component: u32) -> &[u8] {
        let field = self.field(field);
        let first = walk::piece(field, self.separators.repetition, 1).unwrap_or_default();
        let field = &field[first];
        &field[walk::piece(field, Some(self.separators.component), component).unwrap_or_default()]
    }

    /// MSH-3.
    pub fn sending_application(&self) -> &[u8] {
        self.field(3)
    }

    /// MSH-4.
    pub fn sending_facility(&self) -> &[u8] {
        self.field(4)
    }

    /// MSH-5.
    pub fn receiving_application(&self) -> &[u8] {
        self.field(5)
    }

    /// MSH-6.
    pub fn receiving_facility(&self) -> &[u8] {
        self.field(6)
    }

    /// MSH-9.1, such as `ADT`.
    pub fn message_type(&self) -> &[u8] {
        self.component(9, 1)
    }

    /// MSH-9.2, such as `A01`.
    pub fn trigger(&self) -> &[u8] {
        self.component(9, 2)
    }

    /// MSH-9.3, such as `ADT_A01`.
    pub fn structure(&self) -> &[u8] {
        self.component(9, 3)
    }

    /// MSH-10, the sender's name for this message.
    pub fn control_id(&self) -> &[u8] {
        self.field(10)
    }

    /// MSH-11, such as `P`.
    pub fn processing_id(&self) -> &[u8] {
        self.field(11)
    }

    /// MSH-12.1, such as `2.5.1`.
    pub fn version(&self) -> &[u8] {
        self.component(12, 1)
    }

    /// MSH-15, when the sender wants an accept acknowledgement.
    pub fn accept_ack(&self) -> &[u8] {
        self.field(15)
    }

    /// MSH-16, when the sender wants an application acknowledgement.
    pub fn application_ack(&self) -> &[u8] {
        self.field(16)
    }

    /// MSH-18 with all its repetitions.
    pub fn charset(&self) -> &[u8] {
        self.field(18)
    }

    /// The character set that the first repetition of MSH-18 names, where it is known. Where a later repetition names a
    /// two-byte set, the whole message is in that.
    pub fn declared_charset(&self) -> Option<Charset> {
        declared_charset(self.field(18), &self.separators)
    }

    /// Whether this is itself an acknowledgement, which must never be acknowledged.
    pub fn is_ack(&self) -> bool {
        matches!(self.message_type(), b"ACK" | b"MCF")
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("bytes", &self.raw.len()).field("control_id", &short(self.control_id())).finish()
    }
}

/// The character set that MSH-18 declares.
pub(super) fn declared_charset(field: &[u8], separators: &Separators) -> Option<Charset> {
    let named = |n: u32| {
        let repetition = &field[walk::piece(field, separators.repetition, n)?];
        let name = &repetition[walk::piece(repetition, Some(separators.component), 1)?];
        Charset::named(std::str::from_utf8(name).ok()?)
    };
    let switched = (2..=4).filter_map(named).find(|charset| !charset.is_readable() || charset.has_halves());
    switched.or_else(|| named(1))
}

/// A control ID for people.
pub(super) fn short(id: &[u8]) -> String {
    String::from_utf8_lossy(&id[..id.len().min(64)]).into_owned()
}

/// Where MSH may stand: behind a byte order mark, white space, and MLLP's start byte.
fn skip_preamble(bytes: &[u8]) -> usize {
    let preamble = preamble(bytes).end;
    preamble + bytes[preamble..].iter().take_while(|b| matches!(b, 0x0b | b' ' | b'\t' | b'\r' | b'\n')).count()
}

/// The byte order mark and white space that may stand before a message and belong to it.
pub(super) fn preamble(bytes: &[u8]) -> Range<usize> {
    let blank = |bytes: &[u8]| bytes.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
    let mut end = blank(bytes);
    if bytes[end..].starts_with(b"\xef\xbb\xbf") {
        end += 3;
        end += blank(&bytes[end..]);
    }
    0..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let header = Header::scan(
            b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|20240101||ORU^R01^ORU_R01|42|P|2.5.1^x|||AL|NE||8859/1\rPID|secret",
        )
        .unwrap();
        assert_eq!(header.field(1), b"|");
        assert_eq!(header.field(2), b"^~\\&");
        assert_eq!(header.sending_application(), b"LAB");
        assert_eq!(header.sending_facility(), b"NORTH");
        assert_eq!(header.receiving_application(), b"EHR");
        assert_eq!(header.receiving_facility(), b"SOUTH");
        assert_eq!(header.message_type(), b"ORU");
        assert_eq!(header.trigger(), b"R01");
        assert_eq!(header.structure(), b"ORU_R01");
        assert_eq!(header.control_id(), b"42");
        assert_eq!(header.processing_id(), b"P");
        assert_eq!(header.version(), b"2.5.1");
        assert_eq!(header.accept_ack(), b"AL");
        assert_eq!(header.application_ack(), b"NE");
        assert_eq!(header.charset(), b"8859/1");
        assert_eq!(header.field(19), b"");
        assert_eq!(header.field(25), b"");
        assert_eq!(format!("{header:?}"), "Header { bytes: 83, control_id: \"42\" }");
    }

    #[test]
    fn tolerant() {
        for (bytes, control_id) in [
            (&b"\xef\xbb\xbfMSH|^~\\&||||||||id"[..], Some(&b"id"[..])),
            (b"\r\n  MSH|^~\\&||||||||id\n", Some(b"id")),
            (b"\x0bMSH|^~\\&||||||||id\r", Some(b"id")),
            (b"MSH$%~\\&$$$$$$$$i|d\r", Some(b"i|d")),
            (b"MSH^~|\\&^^^^^^^^id\r", Some(b"id")),
            (b"MSH|^\xef\xbf\xbd||||||||id", Some(b"id")),
            (b"MSH|||||||||id", Some(b"id")),
            (b"MSH|^~\\&|||||||||P\r", Some(b"")),
            (b"MSH|^~\\&|A", Some(b"")),
            (b"MSH|", Some(b"")),
            (b"MSH", None),
            (b"MS", None),
            (b"", None),
            (b"MSHABCDEFGHIJ", None),
            (b"PID|", None),
            (b"HELLO", None),
            (b"GET / HTTP/1.1\r\n", None),
        ] {
            let header = Header::scan(bytes);
            assert_eq!(header.as_ref().map(Header::control_id), control_id, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_scan_ends_with_the_segment() {
        let header = Header::scan(b"MSH|^~\\&|A\rPID|||||||||SECRET|||||||||SECRET").unwrap();
        assert!((1..30).all(|n| !header.field(n).windows(6).any(|w| w == b"SECRET")));
    }

    #[test]
    fn charset_repetitions() {
        let declared = |set: &str| {
            let text = format!("MSH|^~\\&|{}{set}", "|".repeat(15));
            Header::scan(text.as_bytes()).unwrap().declared_charset().map(|c| c.name())
        };
        assert_eq!(declared("8859/1"), Some("ISO-8859-1"));
        assert_eq!(declared("8859/1|"), Some("ISO-8859-1"));
        assert_eq!(declared("UTF-8~UNICODE"), Some("UTF-8"));
        assert_eq!(declared("~ISO IR87"), Some("JIS X 0208"));
        assert_eq!(declared("ASCII~Shift_JIS"), Some("Shift_JIS"));
        assert_eq!(declared("1^^^"), None);
        assert_eq!(declared(""), None);
    }
}
