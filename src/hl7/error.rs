//! Why a message was refused, or an edit. Places only, never content.

use super::path::Path;
use super::separators::SeparatorError;

/// Why bytes are not a message. Every refusal is worth an AR: nothing was understood that could be processed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing but white space.
    #[error("message is empty")]
    Empty,
    /// The first segment is not MSH.
    #[error("message does not start with MSH")]
    NotHl7,
    /// A batch or file: it starts with FHS, BHS, BTS or FTS. [`batch::split`](super::batch::split) reads it.
    #[error("message is a batch")]
    Batch,
    /// UTF-16 or UTF-32, which HL7 v2 does not allow.
    #[error("message is UTF-16 or UTF-32; HL7 v2 is read as bytes with ASCII separators")]
    Utf16,
    /// Its character set is one in which separators can be found only once it is decoded, and it cannot be.
    #[error("message cannot be decoded: byte {offset} is not valid {charset}")]
    Undecodable {
        /// The set's name.
        charset: &'static str,
        /// Offset of the byte.
        offset: usize,
    },
    /// MSH-1 or MSH-2 cannot be used.
    #[error(transparent)]
    Separators(#[from] SeparatorError),
    /// A second MSH stands in the message: two patients might be glued together.
    #[error("several messages in one: a second MSH stands at byte {offset}")]
    SeveralMessages {
        /// Where the second MSH starts.
        offset: usize,
    },
    /// One of [`Limits`](super::Limits) is exceeded.
    #[error("message has too many {what}: more than {limit}")]
    Limit {
        /// What there is too much of: `bytes`, `segments`, `fields`, `fields in one segment`, `repetitions`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Why an edit was refused. The message is then as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// MSH itself, MSH-1 and MSH-2 hold the message together.
    #[error("{path}: cannot be changed")]
    Fixed {
        /// The place.
        path: Path,
    },
    /// The path names a segment where a field is needed.
    #[error("{path}: names a whole segment, a field is needed")]
    NeedsField {
        /// The place.
        path: Path,
    },
    /// The path goes below the field where a repetition is appended, or below the segment that is a place to insert at.
    #[error("{path}: goes too deep for this")]
    TooDeep {
        /// The place.
        path: Path,
    },
    /// There is no such occurrence of the segment. (The first occurrence of an absent segment is created by `set`.)
    #[error("{path}: there are {found} {segment} segments", segment = path.segment())]
    NoSegment {
        /// The place.
        path: Path,
        /// How many segments of that name there are.
        found: usize,
    },
    /// MSH-2 declares no separator for a level that the path needs.
    #[error("{path}: MSH-2 declares no separator for this")]
    NoSeparator {
        /// The place.
        path: Path,
    },
    /// The text holds a separator or a line break, and MSH-2 declares no escape character.
    #[error("{path}: the text holds separators and MSH-2 declares no escape character")]
    NoEscape {
        /// The place.
        path: Path,
    },
    /// Raw bytes would break out of their place: a separator of the same or a higher level, a line break or a byte that
    /// frames MLLP (0x0B, 0x1C).
    #[error("{path}: byte {offset} would break out of its place")]
    BreaksOut {
        /// The place.
        path: Path,
        /// Offset in the bytes given.
        offset: usize,
    },
    /// The message's character set lacks a character of the text.
    #[error("{path}: character {position} does not exist in {charset}")]
    Unrepresentable {
        /// The place.
        path: Path,
        /// The character set's name.
        charset: &'static str,
        /// Which character of the text, from 1.
        position: usize,
    },
    /// Bytes in the message do not belong to the character set they would be converted from.
    #[error("segment {segment}: byte {offset} is not valid {charset}")]
    Undecodable {
        /// Which segment of the message, from 1.
        segment: usize,
        /// The character set's name.
        charset: &'static str,
        /// Offset in the segment.
        offset: usize,
    },
    /// A segment of the message cannot be written in the character set it would be converted to.
    #[error("segment {segment}: character {position} does not exist in {charset}")]
    Unconvertible {
        /// Which segment of the message, from 1.
        segment: usize,
        /// The character set's name.
        charset: &'static str,
        /// Which character of the segment, from 1.
        position: usize,
    },
    /// What should be inserted is not one segment: no name of three capitals or digits, a line break inside, or a
    /// segment that only starts or ends messages and batches (MSH, FHS, BHS, BTS, FTS).
    #[error("inserted segment: not a segment at byte {offset}")]
    NotASegment {
        /// Offset in the bytes given.
        offset: usize,
    },
    /// One of [`Limits`](super::Limits) would be exceeded.
    #[error("message would have too many {what}: more than {limit}")]
    Limit {
        /// What there would be too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}
