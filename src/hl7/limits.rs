//! Bounds on what is accepted as a message.

/// How large a message may be. [`Message::parse`](super::Message::parse) counts before it builds anything, so a frame of
/// a million separators costs one pass over it and nothing else; edits check what they would add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the whole message. Never more than `u32::MAX`, whatever stands here.
    pub max_bytes: usize,
    /// Segments in the message.
    pub max_segments: usize,
    /// Fields in one segment.
    pub max_fields_per_segment: usize,
    /// Fields in the whole message; counted by parsing only.
    pub max_fields: usize,
    /// Repetitions of one field.
    pub max_repetitions: usize,
    /// The highest component or subcomponent that an edit may create.
    pub max_components: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_bytes: 512 * 1024 * 1024,
            max_segments: 100_000,
            max_fields_per_segment: 10_000,
            max_fields: 2_000_000,
            max_repetitions: 100_000,
            max_components: 10_000,
        }
    }
}
