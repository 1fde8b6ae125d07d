//! Writing acknowledgements (HL7 v2.5.1 §2.9, §2.15.5 ERR, §2.15.8 MSA).

use std::borrow::Cow;
use std::fmt;

use super::charset::Charset;
use super::escape::{breaks_frame, escape};
use super::header::Header;
use super::separators::Separators;

/// MSA-1 (table 0008).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckCode {
    /// Application accept.
    AA,
    /// Application error: the content is at fault.
    AE,
    /// Application reject: type, processing id or version is not supported, or the receiver is at fault.
    AR,
    /// Commit accept: safely stored.
    CA,
    /// Commit error.
    CE,
    /// Commit reject.
    CR,
}

impl AckCode {
    /// The code that these bytes spell, exactly.
    pub fn parse(code: &[u8]) -> Option<AckCode> {
        Some(match code {
            b"AA" => AckCode::AA,
            b"AE" => AckCode::AE,
            b"AR" => AckCode::AR,
            b"CA" => AckCode::CA,
            b"CE" => AckCode::CE,
            b"CR" => AckCode::CR,
            _ => return None,
        })
    }

    /// The code's two letters.
    pub fn as_str(self) -> &'static str {
        match self {
            AckCode::AA => "AA",
            AckCode::AE => "AE",
            AckCode::AR => "AR",
            AckCode::CA => "CA",
            AckCode::CE => "CE",
            AckCode::CR => "CR",
        }
    }

    /// AA or CA.
    pub fn is_positive(self) -> bool {
        matches!(self, AckCode::AA | AckCode::CA)
    }

    /// CA, CE or CR: the answer of enhanced mode to the receipt alone.
    pub fn is_commit(self) -> bool {
        matches!(self, AckCode::CA | AckCode::CE | AckCode::CR)
    }
}

impl fmt::Display for AckCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An acknowledgement to write.
#[derive(Debug, Clone, Copy)]
pub struct Ack<'a> {
    /// MSA-1.
    pub code: AckCode,
    /// Our own, unique MSH-10.
    pub control_id: &'a str,
    /// MSH-7, such as `20240131120000+0100`.
    pub timestamp: &'a str,
    /// What to tell people: MSA-3, and ERR-8 from version 2.5 on. It is escaped here. Never content of the message.
    pub text: Option<&'a str>,
    /// An error of table 0357: adds an ERR segment.
    pub error: Option<u16>,
}

impl Ack<'_> {
    /// The bytes of the acknowledgement, each segment ending in CR.
    ///
    /// With the sender's header: its separators; sender and receiver exchanged; MSH-9 `ACK^trigger`, and `^ACK` where
    /// MSH-9.3 was valued; MSH-11 and MSH-12 echoed (`P` and `2.5` where empty), MSH-18 where it names a known set; MSA-2 the
    /// sender's MSH-10, byte for byte, so that two IDs which differ only in a high bit stay different. Only the bytes that
    /// frame MLLP (0x0B, 0x1C) are left out of echoes. An empty MSH-10 makes an empty MSA-2: whether that deserves a
    /// positive code is the caller's decision.
    ///
    /// Without a header: `|^~\&`, version 2.5, an empty MSA-2.
    ///
    /// ERR has the form of version 2.5 (ERR-3, ERR-4, ERR-8) or, where MSH-12 says less, that of ERR-1.
    pub fn build(&self, header: Option<&Header>) -> Vec<u8> {
        let standard = Separators::default();
        let separators = header.map_or(&standard, Header::separators);
        let charset = header.and_then(Header::declared_charset);
        let mut line = Line { out: Vec::with_capacity(256), separators, charset: charset.unwrap_or(Charset::UTF_8) };
        self.msh(&mut line, header, charset.is_some());
        line.start("MSA");
        line.field(self.code.as_str());
        line.echo(header.map_or(b"", Header::control_id));
        if let Some(text) = self.text {
            line.text(text);
        }
        line.end();
        if let Some(code) = self.error {
            self.err(&mut line, header, code);
        }
        line.out
    }

    fn msh(&self, line: &mut Line<'_>, header: Option<&Header>, charset_is_known: bool) {
        line.out.extend_from_slice(b"MSH");
        line.echo(&line.separators.encoding_characters());
        let get = |field: fn(&Header) -> &[u8]| header.map_or(&b""[..], field);
        line.echo(get(Header::receiving_application));
        line.echo(get(Header::receiving_facility));
        line.echo(get(Header::sending_application));
        line.echo(get(Header::sending_facility));
        line.text(self.timestamp);
        line.field("");
        line.field("ACK");
        let trigger = get(Header::trigger);
        if !trigger.is_empty() {
            line.out.push(line.separators.component);
            line.bytes(trigger);
            if !get(Header::structure).is_empty() {
                line.out.push(line.separators.component);
                line.out.extend_from_slice(b"ACK");
            }
        }
        line.text(self.control_id);
        line.echo_or(get(Header::processing_id), "P");
        line.echo_or(get(|header| header.field(12)), "2.5");
        if charset_is_known {
            (13..=17).for_each(|_| line.field(""));
            line.echo(get(Header::charset));
        }
        line.end();
    }

    fn err(&self, line: &mut Line<'_>, header: Option<&Header>, code: u16) {
        let (component, meaning) = (line.separators.component, meaning(code));
        line.start("ERR");
        if header.is_none_or(|header| at_least_2_5(header.version())) {
            line.field("");
            line.field("");
            line.text(&code.to_string());
            line.out.push(component);
            line.plain(meaning);
            line.out.push(component);
            line.plain("HL70357");
            line.field("E");
            if let Some(text) = self.text {
                (5..=7).for_each(|_| line.field(""));
                line.text(text);
            }
        } else {
            // ERR-1.4 is a coded element within a component, so its parts are subcomponents.
            line.field("");
            line.out.extend_from_slice(&[component; 3]);
            line.plain(&code.to_string());
            if let Some(subcomponent) = line.separators.subcomponent {
                for part in [meaning, "HL70357"] {
                    line.out.push(subcomponent);
                    line.plain(part);
                }
            }
        }
        line.end();
    }
}

/// What table 0357 calls an error.
fn meaning(code: u16) -> &'static str {
    match code {
        0 => "Message accepted",
        100 => "Segment sequence error",
        101 => "Required field missing",
        102 => "Data type error",
        103 => "Table value not found",
        200 => "Unsupported message type",
        201 => "Unsupported event code",
        202 => "Unsupported processing id",
        203 => "Unsupported version id",
        204 => "Unknown key identifier",
        205 => "Duplicate key identifier",
        206 => "Application record locked",
        _ => "Application internal error",
    }
}

/// What is no version at all gets the newer form.
fn at_least_2_5(version: &[u8]) -> bool {
    let number = |part: &[u8]| std::str::from_utf8(part).ok().and_then(|part| part.trim().parse::<u32>().ok());
    let mut parts = version.split(|b| *b == b'.');
    let major = parts.next().and_then(number);
    let minor = parts.next().map_or(Some(0), number);
    match (major, minor) {
        (Some(major), Some(minor)) => (major, minor) >= (2, 5),
        _ => true,
    }
}

struct Line<'a> {
    out: Vec<u8>,
    separators: &'a Separators,
    charset: Charset,
}

impl Line<'_> {
    fn start(&mut self, name: &str) {
        self.out.extend_from_slice(name.as_bytes());
    }

    fn end(&mut self) {
        self.out.push(b'\r');
    }

    /// A field of ours that needs no escaping.
    fn field(&mut self, value: &str) {
        self.out.push(self.separators.field);
        self.out.extend_from_slice(value.as_bytes());
    }

    /// A field whose text may hold anything.
    fn text(&mut self, text: &str) {
        self.out.push(self.separators.field);
        self.plain(text);
    }

    fn plain(&mut self, text: &str) {
        let escaped = escape(text, self.separators);
        let encoded = self.charset.encode(&escaped).unwrap_or_else(|_| {
            // The acknowledgement's own wording, not data: better a mark than no acknowledgement.
            Cow::Owned(escaped.chars().map(|c| if c.is_ascii() { c as u8 } else { b'?' }).collect())
        });
        self.out.extend_from_slice(&encoded);
    }

    /// A field as the sender wrote it.
    fn echo(&mut self, value: &[u8]) {
        self.out.push(self.separators.field);
        self.bytes(value);
    }

    fn echo_or(&mut self, value: &[u8], otherwise: &str) {
        self.echo(if value.is_empty() { otherwise.as_bytes() } else { value });
    }

    fn bytes(&mut self, value: &[u8]) {
        if !value.iter().any(|byte| breaks_frame(*byte)) {
            return self.out.extend_from_slice(value);
        }
        self.out.extend(value.iter().filter(|byte| !breaks_frame(**byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(code: AckCode) -> Ack<'static> {
        Ack { code, control_id: "N1", timestamp: "20240131120000", text: None, error: None }
    }

    fn build(ack: &Ack<'_>, message: &[u8]) -> String {
        let bytes = ack.build(Header::scan(message).as_ref());
        bytes.escape_ascii().to_string().replace("\\\\", "\\")
    }

    #[test]
    fn answers() {
        for (message, answer) in [
            (
                "MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2024||ADT^A01^ADT_A01|42|T|2.5.1\rPID|1\r",
                "MSH|^~\\&|EHR|SOUTH|LAB|NORTH|20240131120000||ACK^A01^ACK|N1|T|2.5.1\\rMSA|AA|42\\r",
            ),
            (
                "MSH|^~\\&|LAB||EHR||2024||ADT^A01|42|P|2.3\n",
                "MSH|^~\\&|EHR||LAB||20240131120000||ACK^A01|N1|P|2.3\\rMSA|AA|42\\r",
            ),
            ("MSH|^~\\&|A^1.2^ISO|B|||||ACK|42", "MSH|^~\\&|||A^1.2^ISO|B|20240131120000||ACK|N1|P|2.5\\rMSA|AA|42\\r"),
            (
                "MSH$%~\\&$A$B$C$D$2024$$ORU%R01$i|d$P$2.4\r",
                "MSH$%~\\&$C$D$A$B$20240131120000$$ACK%R01$N1$P$2.4\\rMSA$AA$i|d\\r",
            ),
            (
                "MSH^~|\\&^A^B^C^D^2024^^ORU~R01~X^42^P^2.4\r",
                "MSH^~|\\&^C^D^A^B^20240131120000^^ACK~R01~ACK^N1^P^2.4\\rMSA^AA^42\\r",
            ),
            (
                "MSH|^~\\&#|A|B|C|D|2024||ORU^R01|42|P|2.7||||||8859/1~8859/2\r",
                "MSH|^~\\&#|C|D|A|B|20240131120000||ACK^R01|N1|P|2.7||||||8859/1~8859/2\\rMSA|AA|42\\r",
            ),
            (
                "MSH|^~\\&|A|B|C|D|2024||ORU^R01||P|2.7||||||NONSENSE\r",
                "MSH|^~\\&|C|D|A|B|20240131120000||ACK^R01|N1|P|2.7\\rMSA|AA|\\r",
            ),
            ("HELLO", "MSH|^~\\&|||||20240131120000||ACK|N1|P|2.5\\rMSA|AA|\\r"),
            ("MSHABCDEFGHIJ", "MSH|^~\\&|||||20240131120000||ACK|N1|P|2.5\\rMSA|AA|\\r"),
            ("MSH||A|B", "MSH|^~\\&|||A|B|20240131120000||ACK|N1|P|2.5\\rMSA|AA|\\r"),
            ("MSH|^~\\&|A", "MSH|^~\\&|||A||20240131120000||ACK|N1|P|2.5\\rMSA|AA|\\r"),
        ] {
            assert_eq!(build(&ack(AckCode::AA), message.as_bytes()), answer, "{message}");
        }
    }

    #[test]
    fn control_ids_are_echoed_byte_for_byte() {
        for (id, echoed) in [
            (&b"\xe9\xff"[..], &b"\xe9\xff"[..]),
            (b"a^b&c\\d~", b"a^b&c\\d~"),
            (b"a\\X0D\\b", b"a\\X0D\\b"),
            (b" 7 ", b" 7 "),
            (b"7\x1c", b"7"),
            (b"\x0b7", b"7"),
        ] {
            let message = [b"MSH|^~\\&||||||||".as_slice(), id, b"|P|2.5\rPID|secret\r"].concat();
            let answer = ack(AckCode::CA).build(Header::scan(&message).as_ref());
            let end = [b"\rMSA|CA|".as_slice(), echoed, b"\r"].concat();
            assert!(answer.ends_with(&end), "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn errors() {
        let error = |text| Ack { text, error: Some(207), ..ack(AckCode::AR) };
        for (version, text, end) in [
            (
                "2.5.1",
                Some("a|b^c"),
                "MSA|AR|42|a\\F\\b\\S\\c\\rERR|||207^Application internal error^HL70357|E||||a\\F\\b\\S\\c\\r",
            ),
            ("2.5", None, "MSA|AR|42\\rERR|||207^Application internal error^HL70357|E\\r"),
            ("2.8", None, "ERR|||207^Application internal error^HL70357|E\\r"),
            ("P", None, "ERR|||207^Application internal error^HL70357|E\\r"),
            ("", None, "ERR|||207^Application internal error^HL70357|E\\r"),
            ("2.3.1", Some("no"), "MSA|AR|42|no\\rERR|^^^207&Application internal error&HL70357\\r"),
            ("2.4^x", None, "MSA|AR|42\\rERR|^^^207&Application internal error&HL70357\\r"),
            (
                "2.5",
                Some("a\rMSA|AA"),
                "MSA|AR|42|a\\X0D\\MSA\\F\\AA\\rERR|||207^Application internal error^HL70357|E||||a\\X0D\\MSA\\F\\AA\\r",
            ),
        ] {
            let message = format!("MSH|^~\\&||||||||42|P|{version}\r");
            let answer = build(&error(text), message.as_bytes());
            assert!(answer.ends_with(end), "{version}: {answer}");
        }
        let without = build(&error(Some("no header")), b"");
        assert!(
            without.ends_with("MSA|AR||no header\\rERR|||207^Application internal error^HL70357|E||||no header\\r")
        );
        let bare = build(&error(Some("a|b")), b"MSH|^~||||||||42|P|2.3\r");
        assert!(bare.ends_with("MSA|AR|42|a b\\rERR|^^^207\\r"), "{bare}");
    }

    #[test]
    fn text_in_the_senders_set() {
        let text = Ack { text: Some("é€"), ..ack(AckCode::AE) };
        for (set, end) in
            [("8859/1", &b"|??\r"[..]), ("8859/15", b"|\xe9\xa4\r"), ("UNICODE UTF-8", "|é€\r".as_bytes())]
        {
            let message = format!("MSH|^~\\&||||||||1|P|2.5||||||{set}\r");
            let answer = text.build(Header::scan(message.as_bytes()).as_ref());
            assert!(answer.ends_with(end), "{set}: {}", answer.escape_ascii());
        }
    }

    #[test]
    fn codes() {
        for code in [AckCode::AA, AckCode::AE, AckCode::AR, AckCode::CA, AckCode::CE, AckCode::CR] {
            assert_eq!(AckCode::parse(code.to_string().as_bytes()), Some(code));
            assert_eq!(code.is_positive(), code.as_str().ends_with('A'));
            assert_eq!(code.is_commit(), code.as_str().starts_with('C'));
        }
        assert_eq!(AckCode::parse(b"aa"), None);
    }
}
