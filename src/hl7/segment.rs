//! One segment of a message.

use std::fmt;

/// One segment, as it stands in its message. Its `Debug` shows sizes only.
#[derive(Clone, Copy)]
pub struct SegmentRef<'a> {
    bytes: &'a [u8],
    /// Positions of the field separators, counted from `base`.
    separators: &'a [u32],
    base: u32,
}

impl<'a> SegmentRef<'a> {
    pub(super) fn new(bytes: &'a [u8], separators: &'a [u32], base: u32) -> SegmentRef<'a> {
        SegmentRef { bytes, separators, base }
    }

    fn separator(&self, n: usize) -> Option<usize> {
        self.separators.get(n).map(|at| (at - self.base) as usize)
    }

    /// What stands before the first field separator, or the whole segment where there is none. Usually three
    /// characters, but nothing is trimmed: ` PID` is not `PID`.
    pub fn name(&self) -> &'a [u8] {
        &self.bytes[..self.separator(0).unwrap_or(self.bytes.len())]
    }

    /// The whole segment without its terminator.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// MSH, BHS and FHS count their separator as the first field.
    fn is_header(&self) -> bool {
        matches!(self.name(), b"MSH" | b"BHS" | b"FHS")
    }

    /// The number of the last field that is written down, empty or not.
    pub fn field_count(&self) -> usize {
        let written = self.separators.len();
        if self.is_header() && written > 0 { written + 1 } else { written }
    }

    /// Field `n` with all its repetitions, still escaped; `None` where the segment ends before it. MSH-1 is the separator
    /// itself.
    pub fn field(&self, n: u32) -> Option<&'a [u8]> {
        self.field_range(n).map(|range| &self.bytes[range])
    }

    pub(super) fn field_range(&self, n: u32) -> Option<std::ops::Range<usize>> {
        let n = n as usize;
        let n = match n {
            0 => return None,
            1 if self.is_header() => return self.separator(0).map(|at| at..at + 1),
            n if self.is_header() => n - 1,
            n => n,
        };
        let start = self.separator(n - 1)? + 1;
        Some(start..self.separator(n).unwrap_or(self.bytes.len()))
    }
}

impl fmt::Debug for SegmentRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentRef").field("bytes", &self.bytes.len()).field("fields", &self.field_count()).finish()
    }
}
