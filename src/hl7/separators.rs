//! The separators of a message, as MSH-1 and MSH-2 declare them.

/// The separators of one message (HL7 v2.5.1 §2.5.4, truncation: v2.7 §2.5.5.2). All of them are ASCII punctuation and
/// differ from each other.
///
/// MSH-2 may have one to five characters. What it does not name does not exist in that message: with `MSH|^~|` an `&`
/// is data. One exception: where three characters end in `&` (`^~&`, seen in the field), the `&` is the subcomponent
/// separator and the escape character is what was left out; nobody escapes with `&`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Separators {
    /// MSH-1, usually `|`.
    pub field: u8,
    /// First character of MSH-2, usually `^`.
    pub component: u8,
    /// Second character of MSH-2, usually `~`.
    pub repetition: Option<u8>,
    /// Third character of MSH-2, usually `\`.
    pub escape: Option<u8>,
    /// Fourth character of MSH-2, usually `&`.
    pub subcomponent: Option<u8>,
    /// Fifth character of MSH-2, `#` where it is used (v2.7 and up, and many v2.5.1 laboratory reports).
    pub truncation: Option<u8>,
}

/// What is wrong with MSH-1 or MSH-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeparatorError {
    /// The byte after `MSH` is absent or cannot separate anything.
    #[error("MSH-1: no field separator")]
    Field,
    /// MSH-2 is empty or absent.
    #[error("MSH-2: empty")]
    Empty,
    /// MSH-2 has more than five characters.
    #[error("MSH-2: {0} characters, at most 5 are defined")]
    TooMany(usize),
    /// A letter, digit, space or non-ASCII byte stands in MSH-2.
    #[error("MSH-2: character {0} is not punctuation")]
    NotPunctuation(usize),
    /// The same character is declared twice.
    #[error("MSH-2: character {0} is declared twice")]
    Repeated(usize),
}

impl Default for Separators {
    /// `|^~\&`, the set that the standard recommends.
    fn default() -> Separators {
        Separators {
            field: b'|',
            component: b'^',
            repetition: Some(b'~'),
            escape: Some(b'\\'),
            subcomponent: Some(b'&'),
            truncation: None,
        }
    }
}

impl Separators {
    /// Reads the field separator (MSH-1) and the encoding characters (MSH-2).
    ///
    /// # Errors
    /// [`SeparatorError`] where the set is not one to five distinct punctuation characters: splitting by it would cut
    /// values at random.
    pub fn parse(field: u8, encoding: &[u8]) -> Result<Separators, SeparatorError> {
        if !field.is_ascii_punctuation() {
            return Err(SeparatorError::Field);
        }
        if encoding.is_empty() {
            return Err(SeparatorError::Empty);
        }
        if encoding.len() > 5 {
            return Err(SeparatorError::TooMany(encoding.len()));
        }
        for (at, byte) in encoding.iter().enumerate() {
            if !byte.is_ascii_punctuation() {
                return Err(SeparatorError::NotPunctuation(at + 1));
            }
            if *byte == field || encoding[..at].contains(byte) {
                return Err(SeparatorError::Repeated(at + 1));
            }
        }
        let at = |n: usize| encoding.get(n).copied();
        let mut separators = Separators {
            field,
            component: encoding[0],
            repetition: at(1),
            escape: at(2),
            subcomponent: at(3),
            truncation: at(4),
        };
        if encoding.len() == 3 && separators.escape == Some(b'&') {
            separators.subcomponent = separators.escape.take();
        }
        Ok(separators)
    }

    /// MSH-2 as these separators would be declared.
    pub fn encoding_characters(&self) -> Vec<u8> {
        let rest = [self.repetition, self.escape, self.subcomponent, self.truncation];
        std::iter::once(self.component).chain(rest.into_iter().flatten()).collect()
    }

    /// The declared set, or where it is unusable the standard one around the declared field separator.
    pub(super) fn lenient(field: u8, encoding: &[u8]) -> Separators {
        Separators::parse(field, encoding).unwrap_or_else(|_| {
            let other = |byte: u8| if byte == field { b'|' } else { byte };
            Separators {
                field,
                component: other(b'^'),
                repetition: Some(other(b'~')),
                escape: Some(other(b'\\')),
                subcomponent: Some(other(b'&')),
                truncation: None,
            }
        })
    }

    /// Whether `byte` separates anything (the escape character counts, the truncation character does not).
    pub(super) fn contains(&self, byte: u8) -> bool {
        byte == self.field
            || byte == self.component
            || Some(byte) == self.repetition
            || Some(byte) == self.subcomponent
            || Some(byte) == self.escape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<Separators, SeparatorError> {
        Separators::parse(text.as_bytes()[0], &text.as_bytes()[1..])
    }

    #[test]
    fn declared_sets() {
        let none: Option<char> = None;
        for (text, repetition, escape, subcomponent, truncation) in [
            ("|^~\\&", Some('~'), Some('\\'), Some('&'), none),
            ("|^~\\&#", Some('~'), Some('\\'), Some('&'), Some('#')),
            ("|^~\\", Some('~'), Some('\\'), none, none),
            ("|^~&", Some('~'), none, Some('&'), none),
            ("|^~", Some('~'), none, none, none),
            ("|^", none, none, none, none),
            ("$%~\\&", Some('~'), Some('\\'), Some('&'), none),
            ("^~|\\&", Some('|'), Some('\\'), Some('&'), none),
            (":-+?*", Some('+'), Some('?'), Some('*'), none),
        ] {
            let byte = |c: Option<char>| c.map(|c| c as u8);
            let got = set(text).unwrap();
            assert_eq!(got.repetition, byte(repetition), "{text}");
            assert_eq!(got.escape, byte(escape), "{text}");
            assert_eq!(got.subcomponent, byte(subcomponent), "{text}");
            assert_eq!(got.truncation, byte(truncation), "{text}");
            assert_eq!(got.encoding_characters(), text.as_bytes()[1..], "{text}");
        }
    }

    #[test]
    fn unusable_sets() {
        for (text, error) in [
            ("|", SeparatorError::Empty),
            ("A^~\\&", SeparatorError::Field),
            (" ^~\\&", SeparatorError::Field),
            ("|^~\\&#$", SeparatorError::TooMany(6)),
            ("|^&&^", SeparatorError::Repeated(3)),
            ("|^~\\\\&", SeparatorError::Repeated(4)),
            ("||~\\&", SeparatorError::Repeated(1)),
            ("|APP", SeparatorError::NotPunctuation(1)),
            ("|^~ &", SeparatorError::NotPunctuation(3)),
            ("|^\u{e9}", SeparatorError::NotPunctuation(2)),
        ] {
            assert_eq!(set(text), Err(error), "{text}");
            let lenient = Separators::lenient(text.as_bytes()[0], &text.as_bytes()[1..]);
            assert_ne!(lenient.field, lenient.component, "{text}");
        }
    }
}
