//! Escape sequences (HL7 v2.5.1 §2.7, truncation: v2.7 §2.7.1).

use std::borrow::Cow;

use super::charset::Charset;
use super::separators::Separators;

/// Bytes that end segments or MLLP frames and so cannot stand in a value.
pub(super) fn breaks_frame(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0x0b | 0x1c)
}

/// Escapes text for a value in a message with these separators, so that it cannot break out of its place: separators
/// become `\F\ \S\ \R\ \T\`, the escape character `\E\`, line breaks and MLLP's framing bytes `\X0D\ \X0A\ \X0B\ \X1C\`.
///
/// Formatting that [`unescape`] keeps (`\.br\`, `\H\`, `\N\`, `\C..\`, `\M..\`, `\Z..\`) is kept here too, so that text
/// copied from one message to another stays formatted. The truncation character is not escaped. Where the message
/// declares no escape character, what would need one becomes a space; [`escape_exact`] says so instead.
pub fn escape<'t>(text: &'t str, separators: &Separators) -> Cow<'t, str> {
    escape_exact(text, separators).unwrap_or_else(|| {
        let special = |c: char| u8::try_from(c).is_ok_and(|b| separators.contains(b) || breaks_frame(b));
        Cow::Owned(text.chars().map(|c| if special(c) { ' ' } else { c }).collect())
    })
}

/// As [`escape`], but `None` where an escape character is needed and the message declares none.
pub fn escape_exact<'t>(text: &'t str, separators: &Separators) -> Option<Cow<'t, str>> {
    let special = |byte: &u8| separators.contains(*byte) || breaks_frame(*byte);
    let Some(first) = text.as_bytes().iter().position(special) else {
        return Some(Cow::Borrowed(text));
    };
    let escape = char::from(separators.escape?);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    let mut rest = &text[first..];
    // Whenever the loop comes round, `rest` is empty or begins with a special byte.
    while let Some(&byte) = rest.as_bytes().first() {
        let kept = if Some(byte) == separators.escape { formatting(rest, separators) } else { None };
        match kept {
            Some(length) => out.push_str(&rest[..length]),
            None => {
                out.push(escape);
                out.push_str(letter(byte, separators));
                out.push(escape);
            }
        }
        let tail = &rest[kept.unwrap_or(1)..];
        let plain = tail.as_bytes().iter().position(special).unwrap_or(tail.len());
        out.push_str(&tail[..plain]);
        rest = &tail[plain..];
    }
    Some(Cow::Owned(out))
}

fn letter(byte: u8, separators: &Separators) -> &'static str {
    match byte {
        b'\r' => "X0D",
        b'\n' => "X0A",
        0x0b => "X0B",
        0x1c => "X1C",
        _ if byte == separators.field => "F",
        _ if byte == separators.component => "S",
        _ if Some(byte) == separators.repetition => "R",
        _ if Some(byte) == separators.subcomponent => "T",
        _ => "E",
    }
}

/// The length of the formatting sequence at the start of `text`, which begins with the escape character.
fn formatting(text: &str, separators: &Separators) -> Option<usize> {
    let end = memchr::memchr(separators.escape?, &text.as_bytes()[1..])? + 1;
    let (kind, body) = text.as_bytes()[1..end].split_first()?;
    let known = match kind {
        b'H' | b'N' => body.is_empty(),
        b'.' => !body.is_empty() && body.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-')),
        b'C' | b'M' => !body.is_empty() && body.iter().all(u8::is_ascii_hexdigit),
        b'Z' => !body.is_empty() && body.iter().all(u8::is_ascii_alphanumeric),
        _ => false,
    };
    let intact = !text.as_bytes()[1..end].iter().any(|byte| separators.contains(*byte));
    (known && intact).then_some(end + 1)
}

/// Decodes `\F\ \S\ \T\ \R\ \E\ \P\` and `\Xhh..\`. Hexadecimal is decoded only where the bytes are valid UTF-8 (in
/// [`Message::text`](super::Message::text): valid in the message's character set). Everything else stays as it stands:
/// formatting (`\H\`, `\N\`, `\.br\`), character set switches (`\C..\`, `\M..\`), local sequences (`\Z..\`), unknown and
/// unclosed ones.
pub fn unescape<'t>(text: &'t str, separators: &Separators) -> Cow<'t, str> {
    unescape_in(Cow::Borrowed(text), separators, Charset::UTF_8)
}

pub(super) fn unescape_in<'t>(text: Cow<'t, str>, separators: &Separators, charset: Charset) -> Cow<'t, str> {
    let Some(escape) = separators.escape else { return text };
    let Some(first) = memchr::memchr(escape, text.as_bytes()) else { return text };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut rest = &text[first..];
    while !rest.is_empty() {
        // `rest` begins with the escape character.
        let Some(length) = memchr::memchr(escape, &rest.as_bytes()[1..]) else {
            out.push_str(rest);
            break;
        };
        let sequence = &rest[1..=length];
        let mut after = length + 2;
        match decoded(sequence, separators, charset) {
            Some(Decoded::Byte(byte)) => out.push(char::from(byte)),
            Some(Decoded::Text(text)) => out.push_str(&text),
            None if shaped(sequence) => out.push_str(&rest[..after]),
            // A stray escape character: what closes it may open a real sequence.
            None => {
                out.push_str(&rest[..=length]);
                after = length + 1;
            }
        }
        rest = &rest[after..];
        let plain = memchr::memchr(escape, rest.as_bytes()).unwrap_or(rest.len());
        out.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Cow::Owned(out)
}

/// Whether this could be a sequence at all, unlike the folder names of `C:\a folder\F\`.
fn shaped(sequence: &str) -> bool {
    !sequence.is_empty() && sequence.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-'))
}

enum Decoded {
    Byte(u8),
    Text(String),
}

fn decoded(sequence: &str, separators: &Separators, charset: Charset) -> Option<Decoded> {
    let byte = match sequence {
        "F" => Some(separators.field),
        "S" => Some(separators.component),
        "R" => separators.repetition,
        "T" => separators.subcomponent,
        "E" => separators.escape,
        "P" => separators.truncation,
        _ => {
            let bytes = hex(sequence.strip_prefix('X')?)?;
            return charset.decode(&bytes).ok().map(|text| Decoded::Text(text.into_owned()));
        }
    };
    byte.map(Decoded::Byte)
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !odd.is_empty() {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(value(*high)? * 16 + value(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescaped() {
        let separators = Separators { truncation: Some(b'#'), ..Separators::default() };
        for (raw, text) in [
            ("plain", "plain"),
            ("", ""),
            ("\\F\\\\S\\\\T\\\\R\\\\E\\\\P\\", "|^&~\\#"),
            ("MARIO \\T\\ LUIGI", "MARIO & LUIGI"),
            ("O\\T\\BRIEN\u{e9}\\T\\b", "O&BRIEN\u{e9}&b"),
            ("日本\\T\\b", "日本&b"),
            ("\\X20202020\\", "    "),
            ("a\\X0D0A\\b", "a\r\nb"),
            ("\\Xc3A9\\", "\u{e9}"),
            ("\\Xe1\\", "\\Xe1\\"),
            ("\\X4\\ \\X\\ \\XZZ\\", "\\X4\\ \\X\\ \\XZZ\\"),
            ("\\H\\bold\\N\\", "\\H\\bold\\N\\"),
            ("a\\.br\\b\\.sp+3\\c", "a\\.br\\b\\.sp+3\\c"),
            ("\\C00FF\\\\M00FF11\\\\Z42\\", "\\C00FF\\\\M00FF11\\\\Z42\\"),
            ("\\Q1\\F\\x", "\\Q1\\F\\x"),
            ("unclosed \\F", "unclosed \\F"),
            ("\\", "\\"),
            ("\\\\", "\\\\"),
            ("C:\\a folder\\F\\", "C:\\a folder|"),
            ("\\e\\\\f\\", "\\e\\\\f\\"),
        ] {
            assert_eq!(unescape(raw, &separators), text, "{raw}");
        }
    }

    #[test]
    fn escaped() {
        let separators = Separators::default();
        for (text, raw) in [
            ("plain", "plain"),
            ("|^&~\\#", "\\F\\\\S\\\\T\\\\R\\\\E\\#"),
            ("MARIO & LUIGI", "MARIO \\T\\ LUIGI"),
            ("a\r\nb", "a\\X0D\\\\X0A\\b"),
            ("\u{b}\u{1c}", "\\X0B\\\\X1C\\"),
            ("\\F\\", "\\E\\F\\E\\"),
            ("\\X41\\", "\\E\\X41\\E\\"),
            ("\\H\\bold\\N\\", "\\H\\bold\\N\\"),
            ("a\\.br\\b", "a\\.br\\b"),
            ("\\.b|r\\", "\\E\\.b\\F\\r\\E\\"),
            ("\\H\\H\\", "\\H\\H\\E\\"),
            ("\\x\\H\\", "\\E\\x\\H\\"),
            ("\u{e9}|\u{e9}", "\u{e9}\\F\\\u{e9}"),
        ] {
            assert_eq!(escape(text, &separators), raw, "{text}");
            assert_eq!(unescape(raw, &separators), text, "{raw}");
        }
    }

    #[test]
    fn without_an_escape_character() {
        let separators = Separators { escape: None, ..Separators::default() };
        assert_eq!(escape_exact("a|b", &separators), None);
        assert_eq!(escape("a|b\r\\", &separators), "a b \\");
        assert_eq!(escape_exact("a\\b", &separators).as_deref(), Some("a\\b"));
        assert_eq!(unescape("a\\F\\b", &separators), "a\\F\\b");
    }
}
