//! Character sets (MSH-18, HL7 table 0211). Never lossy: what cannot be decoded or encoded is an error.

use std::borrow::Cow;
use std::fmt;

use encoding_rs::{
    BIG5, DecoderResult, EUC_JP, EUC_KR, EncoderResult, Encoding, GB18030, SHIFT_JIS, UTF_8, X_USER_DEFINED,
};

use super::header::Header;
use super::path::Path;

/// A character set that a message can be read and written in. In most of them ASCII bytes mean ASCII characters, so that
/// separators can be found in the bytes.
///
/// In GB 18030, BIG-5 and Shift_JIS a separator's byte may be the second half of another character: a message in one of
/// them is taken apart as text (`wire.rs`). The sets that switch by escape sequences (the ISO-2022 ones of Japan) are
/// recognised and passed through, but only their ASCII values can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ascii,
    Latin1,
    Latin5,
    Table(&'static Encoding),
    /// ASCII bytes may be parts of other characters. Each character stands for itself, and none holds a line break.
    Halves(&'static Encoding),
    Unreadable(&'static str),
}

/// Why bytes have no text. Offsets, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CharsetError {
    /// UTF-16 or UTF-32, which HL7 v2 does not allow.
    #[error("character set: UTF-16 and UTF-32 are not allowed in HL7 v2")]
    Utf16,
    /// The fallback is not a known name.
    #[error("character set: the fallback is unknown")]
    UnknownFallback,
    /// The set is known, but its characters may hold bytes that look like separators.
    #[error("character set: {charset} is passed through, but cannot be read")]
    Unreadable {
        /// The set's name.
        charset: &'static str,
    },
    /// A byte of the message is not valid in its set.
    #[error("character set: byte {offset} is not valid {charset}")]
    Invalid {
        /// The set's name.
        charset: &'static str,
        /// Offset from the start of the bytes looked at.
        offset: usize,
    },
    /// A byte of a value is not valid in the message's set.
    #[error("{path}: byte {offset} is not valid {charset}")]
    Value {
        /// The place.
        path: Path,
        /// The set's name.
        charset: &'static str,
        /// Offset from the start of the value.
        offset: usize,
    },
}

impl Charset {
    /// UTF-8.
    pub const UTF_8: Charset = Charset(Kind::Table(UTF_8));
    /// Seven bits; also what is assumed where nothing is declared and the bytes are neither UTF-8 nor a fallback given.
    pub const ASCII: Charset = Charset(Kind::Ascii);

    /// A set by its name in table 0211 (`8859/1`, `UNICODE UTF-8`, `ISO IR6`), or by a name of the IANA and WHATWG lists
    /// (`UTF-8`, `ISO-8859-15`, `windows-1252`, `ISO_IR 100`). Case and outer white space do not matter. `None` where it
    /// is unknown, or is a UTF-16 or UTF-32: a message that can be read at all is not in those.
    pub fn named(name: &str) -> Option<Charset> {
        let name = name.trim().to_ascii_uppercase();
        let plain: String = name.chars().map(|c| if matches!(c, ' ' | '_' | '/') { '-' } else { c }).collect();
        let kind = match plain.as_str() {
            "ASCII" | "US-ASCII" | "ISO-IR6" | "ISO-IR-6" | "ANSI-X3.4-1968" => Kind::Ascii,
            "UNICODE-UTF-8" | "UNICODE" | "UTF-8" | "UTF8" | "ISO-IR-192" => Kind::Table(UTF_8),
            "8859-1" | "ISO-8859-1" | "ISO8859-1" | "ISO-IR-100" | "ISO-IR100" | "LATIN1" | "LATIN-1" | "L1" => {
                Kind::Latin1
            }
            "8859-9" | "ISO-8859-9" | "ISO8859-9" | "ISO-IR-148" | "LATIN5" | "LATIN-5" | "L5" => Kind::Latin5,
            "CP1252" | "WINDOWS-1252" => Kind::Table(encoding_rs::WINDOWS_1252),
            "KS-X-1001" | "EUC-KR" => Kind::Table(EUC_KR),
            "ISO-IR14" | "ISO-IR-14" => Kind::Unreadable("JIS X 0201"),
            "ISO-IR87" | "ISO-IR-87" => Kind::Unreadable("JIS X 0208"),
            "ISO-IR159" | "ISO-IR-159" => Kind::Unreadable("JIS X 0212"),
            "GB-18030-2000" | "GB-18030" | "GB18030" | "GBK" | "GB2312" => Kind::Halves(GB18030),
            "BIG-5" | "BIG5" => Kind::Halves(BIG5),
            "SHIFT-JIS" | "SHIFTJIS" | "SJIS" | "CP932" | "MS932" | "WINDOWS-31J" => Kind::Halves(SHIFT_JIS),
            "CNS-11643-1992" => Kind::Unreadable("CNS 11643"),
            _ => return Charset::labelled(&plain),
        };
        Some(Charset(kind))
    }

    fn labelled(plain: &str) -> Option<Charset> {
        let iso = plain.strip_prefix("8859-").map(|part| format!("ISO-8859-{part}"));
        let encoding = Encoding::for_label(iso.as_deref().unwrap_or(plain).as_bytes())?;
        let transparent = encoding.is_single_byte() || encoding == EUC_JP || encoding == EUC_KR || encoding == UTF_8;
        // WHATWG's "latin1" and "ascii" are windows-1252 in disguise; only the real name may mean that.
        let disguised = encoding == encoding_rs::WINDOWS_1252 && !plain.ends_with("1252");
        (transparent && !disguised && encoding != X_USER_DEFINED).then_some(Charset(Kind::Table(encoding)))
    }

    /// The set's name for errors and for people.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Ascii => "ASCII",
            Kind::Latin1 => "ISO-8859-1",
            Kind::Latin5 => "ISO-8859-9",
            Kind::Halves(encoding) if encoding == GB18030 => "GB 18030",
            Kind::Halves(encoding) if encoding == BIG5 => "BIG-5",
            Kind::Table(encoding) | Kind::Halves(encoding) => encoding.name(),
            Kind::Unreadable(name) => name,
        }
    }

    /// The set's name for MSH-18 (table 0211); sets outside the table go by their common name.
    pub fn hl7_name(&self) -> &'static str {
        match self.name() {
            "UTF-8" => "UNICODE UTF-8",
            "ISO-8859-1" => "8859/1",
            "ISO-8859-2" => "8859/2",
            "ISO-8859-3" => "8859/3",
            "ISO-8859-4" => "8859/4",
            "ISO-8859-5" => "8859/5",
            "ISO-8859-6" => "8859/6",
            "ISO-8859-7" => "8859/7",
            "ISO-8859-8" => "8859/8",
            "ISO-8859-9" => "8859/9",
            "ISO-8859-15" => "8859/15",
            "EUC-KR" => "KS X 1001",
            "GB 18030" => "GB 18030-2000",
            other => other,
        }
    }

    /// The set's name on the Internet (IANA): in XML declarations and `Content-Type`.
    pub fn iana_name(&self) -> &'static str {
        match self.name() {
            "ASCII" => "US-ASCII",
            "GB 18030" => "GB18030",
            "BIG-5" => "Big5",
            other => other,
        }
    }

    /// Whether a separator's byte may be half of another character in this set.
    pub(super) fn has_halves(&self) -> bool {
        matches!(self.0, Kind::Halves(_))
    }

    /// The set as it is for a message whose bytes were not taken apart as text: only its ASCII values can be read.
    pub(super) fn passed_through(self) -> Charset {
        match self.0 {
            Kind::Halves(_) => Charset(Kind::Unreadable(self.name())),
            _ => self,
        }
    }

    /// The sets in which a separator's byte may be half of another character.
    pub(super) const WITH_HALVES: [Charset; 3] =
        [Charset(Kind::Halves(SHIFT_JIS)), Charset(Kind::Halves(GB18030)), Charset(Kind::Halves(BIG5))];

    /// Whether values beyond ASCII can be read in this set.
    pub fn is_readable(&self) -> bool {
        !matches!(self.0, Kind::Unreadable(_))
    }

    /// The set of a message, checked against all of its bytes: the one that MSH-18 names, else UTF-8 where the bytes are
    /// valid UTF-8, else `fallback`. MSH-18 `ASCII` counts as naming none where the bytes prove it wrong.
    ///
    /// # Errors
    /// [`CharsetError::Utf16`]; [`CharsetError::Invalid`] with the first byte that the chosen set does not have;
    /// [`CharsetError::Unreadable`]; [`CharsetError::UnknownFallback`].
    pub fn detect(bytes: &[u8], header: Option<&Header>, fallback: Option<&str>) -> Result<Charset, CharsetError> {
        let fallback = match fallback {
            Some(name) => Some(Charset::named(name).ok_or(CharsetError::UnknownFallback)?),
            None => None,
        };
        if is_utf16(bytes) {
            return Err(CharsetError::Utf16);
        }
        let declared = header.and_then(Header::declared_charset);
        let charset = Charset::choose(bytes, declared, fallback);
        // Undeclared bytes that are neither ASCII nor UTF-8 were meant as UTF-8 until someone says otherwise.
        let suspect = if charset == Charset::ASCII { Charset::UTF_8 } else { charset };
        suspect.decode(bytes)?;
        Ok(charset)
    }

    /// The set that a message is read in, without judging whether all of it can be.
    pub(super) fn choose(bytes: &[u8], declared: Option<Charset>, fallback: Option<Charset>) -> Charset {
        match declared {
            Some(Charset::ASCII) if bytes.is_ascii() => Charset::ASCII,
            Some(charset) if charset != Charset::ASCII => charset,
            _ if std::str::from_utf8(bytes).is_ok() => Charset::UTF_8,
            _ => fallback.unwrap_or(Charset::ASCII),
        }
    }

    /// Decodes bytes.
    ///
    /// # Errors
    /// [`CharsetError::Invalid`] at the first byte that this set does not have, [`CharsetError::Unreadable`] where it is
    /// beyond ASCII in a set that is only passed through.
    pub fn decode<'b>(&self, bytes: &'b [u8]) -> Result<Cow<'b, str>, CharsetError> {
        let invalid = |offset| CharsetError::Invalid { charset: self.name(), offset };
        let ascii = Encoding::ascii_valid_up_to(bytes);
        match self.0 {
            Kind::Unreadable(charset) if ascii < bytes.len() || bytes.contains(&0x1b) => {
                Err(CharsetError::Unreadable { charset })
            }
            Kind::Table(encoding) | Kind::Halves(encoding) if ascii < bytes.len() && encoding != UTF_8 => {
                table(encoding, bytes).map_err(invalid)
            }
            Kind::Latin1 if ascii < bytes.len() => Ok(bytes.iter().map(|b| char::from(*b)).collect()),
            Kind::Latin5 if ascii < bytes.len() => Ok(bytes.iter().map(|b| latin5(*b)).collect()),
            Kind::Ascii if ascii < bytes.len() => Err(invalid(ascii)),
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(error) => Err(invalid(error.valid_up_to())),
            },
        }
    }

    /// Encodes text.
    ///
    /// # Errors
    /// The 1-based position of the first character that this set does not have.
    pub fn encode<'t>(&self, text: &'t str) -> Result<Cow<'t, [u8]>, usize> {
        // An escape would begin what is not ASCII any more.
        if matches!(self.0, Kind::Unreadable(_))
            && let Some(at) = text.chars().position(|c| c == '\u{1b}')
        {
            return Err(at + 1);
        }
        if text.is_ascii() || self.0 == Kind::Table(UTF_8) {
            return Ok(Cow::Borrowed(text.as_bytes()));
        }
        let each = |byte: fn(char) -> Option<u8>| {
            text.chars().enumerate().map(|(at, c)| byte(c).ok_or(at + 1)).collect::<Result<Vec<u8>, usize>>()
        };
        match self.0 {
            Kind::Latin1 => each(|c| u8::try_from(c).ok()).map(Cow::Owned),
            Kind::Latin5 => each(from_latin5).map(Cow::Owned),
            Kind::Table(encoding) | Kind::Halves(encoding) => from_table(encoding, text).map(Cow::Owned),
            Kind::Ascii | Kind::Unreadable(_) => Err(text.chars().position(|c| !c.is_ascii()).unwrap_or_default() + 1),
        }
    }
}

impl fmt::Debug for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charset({})", self.name())
    }
}

impl fmt::Display for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the bytes can only be UTF-16 or UTF-32: a byte order mark, or a NUL among the first eight.
pub(super) fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes[..bytes.len().min(8)].contains(&0)
}

/// ISO 8859-9 is Latin-1 but for six letters; WHATWG has it only as windows-1254.
const TURKISH: [(u8, char); 6] = [(0xd0, 'Ğ'), (0xdd, 'İ'), (0xde, 'Ş'), (0xf0, 'ğ'), (0xfd, 'ı'), (0xfe, 'ş')];

fn latin5(byte: u8) -> char {
    TURKISH.iter().find(|(b, _)| *b == byte).map_or(char::from(byte), |(_, c)| *c)
}

fn from_latin5(c: char) -> Option<u8> {
    match TURKISH.iter().find(|(_, turkish)| *turkish == c) {
        Some((byte, _)) => Some(*byte),
        None => u8::try_from(c).ok().filter(|byte| latin5(*byte) == c),
    }
}

fn table<'b>(encoding: &'static Encoding, bytes: &'b [u8]) -> Result<Cow<'b, str>, usize> {
    if let Some(text) = encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        return Ok(text);
    }
    let mut decoder = encoding.new_decoder_without_bom_handling();
    // The longest expansion is three bytes for one, plus what the decoder holds back.
    let mut text = String::with_capacity(decoder.max_utf8_buffer_length_without_replacement(bytes.len()).unwrap_or(0));
    match decoder.decode_to_string_without_replacement(bytes, &mut text, true) {
        (DecoderResult::Malformed(length, held), read) => Err(read.saturating_sub(usize::from(length + held))),
        (_, read) => Err(read),
    }
}

fn from_table(encoding: &'static Encoding, text: &str) -> Result<Vec<u8>, usize> {
    let mut encoder = encoding.new_encoder();
    let mut bytes =
        Vec::with_capacity(encoder.max_buffer_length_from_utf8_without_replacement(text.len()).unwrap_or(text.len()));
    let refused = match encoder.encode_from_utf8_to_vec_without_replacement(text, &mut bytes, true) {
        (EncoderResult::InputEmpty, _) => None,
        (_, read) => Some(text.get(..read).map_or(1, |read| read.chars().count().max(1))),
    };
    match replaced(encoding, text, &bytes).or(refused) {
        Some(position) => Err(position),
        None => Ok(bytes),
    }
}

/// The 1-based position of the first character that was written as another one. WHATWG's encoders do that: in EUC-JP and Shift_JIS
/// a yen sign becomes HL7's escape character, an overline `~`, a minus sign the wide one; in GB 18030 some characters for private
/// use become those that were given a place later.
fn replaced(encoding: &'static Encoding, text: &str, bytes: &[u8]) -> Option<usize> {
    if encoding.is_single_byte() {
        return None;
    }
    let Ok(again) = table(encoding, bytes) else { return Some(1) };
    text.chars().zip(again.chars()).position(|(c, again)| c != again).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            ("ASCII", Some("ASCII")),
            ("ISO IR6", Some("ASCII")),
            ("UNICODE UTF-8", Some("UTF-8")),
            ("unicode utf-8", Some("UTF-8")),
            ("UTF-8", Some("UTF-8")),
            ("UNICODE", Some("UTF-8")),
            ("8859/1", Some("ISO-8859-1")),
            ("   8859/1", Some("ISO-8859-1")),
            ("ISO-8859-1", Some("ISO-8859-1")),
            ("ISO_IR 100", Some("ISO-8859-1")),
            ("latin1", Some("ISO-8859-1")),
            ("8859/2", Some("ISO-8859-2")),
            ("8859/5", Some("ISO-8859-5")),
            ("8859/9", Some("ISO-8859-9")),
            ("8859/15", Some("ISO-8859-15")),
            ("windows-1252", Some("windows-1252")),
            ("windows-1258", Some("windows-1258")),
            ("8859/10", Some("ISO-8859-10")),
            ("8859/16", Some("ISO-8859-16")),
            ("KOI8-R", Some("KOI8-R")),
            ("cp1252", Some("windows-1252")),
            ("CP1250", Some("windows-1250")),
            ("EUC-JP", Some("EUC-JP")),
            ("KS X 1001", Some("EUC-KR")),
            ("GB 18030-2000", Some("GB 18030")),
            ("BIG-5", Some("BIG-5")),
            ("ISO IR87", Some("JIS X 0208")),
            ("UNICODE UTF-16", None),
            ("UTF-16LE", None),
            ("HOS", None),
            ("1", None),
            ("", None),
            ("x-user-defined", None),
            ("shift_jis", Some("Shift_JIS")),
            ("Windows-31J", Some("Shift_JIS")),
            ("iso-2022-jp", None),
            ("replacement", None),
        ] {
            assert_eq!(Charset::named(name).map(|c| c.name()), expected, "{name}");
        }
        for name in ["8859/1", "8859/9", "8859/15", "UNICODE UTF-8", "ASCII", "KS X 1001", "windows-1252"] {
            assert_eq!(Charset::named(name).unwrap().hl7_name(), name);
        }
    }

    #[test]
    fn there_and_back() {
        for (name, text, bytes) in [
            ("UTF-8", "Jos\u{e9}", &b"Jos\xc3\xa9"[..]),
            ("8859/1", "Jos\u{e9}\u{96}", b"Jos\xe9\x96"),
            ("8859/9", "\u{130}\u{15e}\u{e9}", b"\xdd\xde\xe9"),
            ("8859/15", "\u{20ac}", b"\xa4"),
            ("8859/5", "Ж", b"\xb6"),
            ("windows-1252", "\u{2013}", b"\x96"),
            ("EUC-KR", "한", b"\xc7\xd1"),
            ("ASCII", "plain", b"plain"),
            ("BIG-5", "plain", b"plain"),
            ("BIG-5", "功", b"\xa5\x5c"),
            ("Shift_JIS", "ポ表ソｱ", b"\x83\x7c\x95\x5c\x83\x5c\xb1"),
            ("GB18030", "駖\u{20ac}\u{1f600}", b"\xf1\x7c\xa2\xe3\x94\x39\xfc\x36"),
        ] {
            let charset = Charset::named(name).unwrap();
            assert_eq!(charset.decode(bytes).unwrap(), text, "{name}");
            assert_eq!(charset.encode(text).unwrap(), bytes, "{name}");
        }
    }

    #[test]
    fn never_lossy() {
        for (name, bytes, offset) in [
            ("UTF-8", &b"ab\xe9"[..], 2),
            ("ASCII", b"a\xe9", 1),
            ("8859/7", b"abc\xae", 3),
            ("EUC-KR", b"a\xc7", 1),
            ("Shift_JIS", b"ab\x83", 2),
            ("GB18030", b"a\xff|", 1),
        ] {
            let charset = Charset::named(name).unwrap();
            assert_eq!(charset.decode(bytes), Err(CharsetError::Invalid { charset: charset.name(), offset }), "{name}");
        }
        for (name, text, position) in [
            ("8859/1", "ab\u{20ac}", 3),
            ("8859/9", "\u{d0}", 1),
            ("8859/15", "é\u{a4}", 2),
            ("ASCII", "é", 1),
            ("windows-1252", "aЖЖ", 2),
            ("Shift_JIS", "ab\u{e9}", 3),
            ("Shift_JIS", "ソ\u{a5}100", 2),
            ("Shift_JIS", "\u{e9}\u{203e}", 1),
            ("EUC-JP", "a\u{203e}\u{e9}", 2),
            ("EUC-JP", "\u{2212}", 1),
            ("GB18030", "駖\u{e78d}", 2),
            ("BIG-5", "ab\u{20ac}\u{1f600}", 4),
        ] {
            assert_eq!(Charset::named(name).unwrap().encode(text), Err(position), "{name}");
        }
        let unreadable = Charset::named("ISO IR87").unwrap();
        assert!(unreadable.decode(b"\x1b$B!<\x1b(B").is_err());
        assert_eq!(unreadable.encode("a\u{1b}$B"), Err(2));
        assert!(!unreadable.is_readable());
    }

    #[test]
    fn no_character_is_written_as_another() {
        for name in ["EUC-JP", "Shift_JIS", "GB18030", "BIG-5", "EUC-KR", "8859/15", "windows-1252"] {
            let charset = Charset::named(name).unwrap();
            for c in '\0'..='\u{ffff}' {
                let text = c.to_string();
                if let Ok(bytes) = charset.encode(&text) {
                    assert_eq!(charset.decode(&bytes).as_deref(), Ok(text.as_str()), "{name}: U+{:04X}", u32::from(c));
                }
            }
        }
    }

    #[test]
    fn detected() {
        let message = |set: &str, name: &[u8]| {
            let head = format!("MSH|^~\\&{}{}|\rPID|||||", "|".repeat(16), set.replace('_', " "));
            [head.as_bytes(), name].concat()
        };
        for (set, name, fallback, expected) in [
            ("8859/1", &b"\xe9"[..], None, Ok("ISO-8859-1")),
            ("UNICODE_UTF-8", b"\xc3\xa9", None, Ok("UTF-8")),
            ("8859/1~8859/5", b"\xe9", None, Ok("ISO-8859-1")),
            ("", b"\xc3\xa9", Some("windows-1252"), Ok("UTF-8")),
            ("", b"plain", Some("windows-1252"), Ok("UTF-8")),
            ("", b"\x96", Some("windows-1252"), Ok("windows-1252")),
            ("ISO_IR_999", b"\x96", Some("windows-1252"), Ok("windows-1252")),
            ("ASCII", b"plain", None, Ok("ASCII")),
            ("ASCII", b"\xc3\xa9", None, Ok("UTF-8")),
            ("ASCII", b"\xe9", Some("8859/1"), Ok("ISO-8859-1")),
            ("", b"\x96", None, Err("character set: byte N is not valid UTF-8")),
            ("UNICODE_UTF-8", b"\xe9", Some("8859/1"), Err("character set: byte N is not valid UTF-8")),
            ("", b"", Some("klingon"), Err("character set: the fallback is unknown")),
            ("~ISO_IR87", b"\x1b$B!<", None, Err("character set: JIS X 0208 is passed through, but cannot be read")),
        ] {
            let bytes = message(set, name);
            let header = Header::scan(&bytes);
            let got = Charset::detect(&bytes, header.as_ref(), fallback);
            let got = got.map(|c| c.name()).map_err(|error| error.to_string());
            let offset = format!("byte {}", bytes.len() - name.len());
            let expected = expected.map_err(|error| error.replace("byte N", &offset));
            assert_eq!(got, expected, "{set}");
        }
        for bytes in [&b"\xff\xfeM\0S\0"[..], b"M\0S\0H\0", b"\0M\0S"] {
            assert_eq!(Charset::detect(bytes, None, None), Err(CharsetError::Utf16));
        }
        assert_eq!(Charset::detect(b"\xef\xbb\xbfMSH|^~\\&|", None, None), Ok(Charset::UTF_8));
    }
}
