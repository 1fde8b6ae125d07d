//! Finds the bytes that divide a message, at the two speeds that messages need: eight bytes at a time where fields are short, as
//! in most segments, and by `memchr` through the long values between (a document in OBX-5).

/// So many bytes without a find, and the rest is searched as a long value.
const QUIET_BYTES: usize = 64;

/// Where field separators and line ends stand, in order.
pub(super) struct Marks<'a> {
    bytes: &'a [u8],
    field: u8,
    /// The chunk that was looked at last.
    base: usize,
    /// Its finds that were not given out: the top bit of each byte.
    found: u64,
    /// Where the next chunk begins.
    next: usize,
    /// So many bytes before it had no find.
    quiet: usize,
}

impl<'a> Marks<'a> {
    pub(super) fn new(bytes: &'a [u8], field: u8) -> Marks<'a> {
        Marks { bytes, field, base: 0, found: 0, next: 0, quiet: 0 }
    }

    /// Looks at the next chunk. False at the end.
    fn advance(&mut self) -> bool {
        if self.quiet >= QUIET_BYTES {
            let rest = self.bytes.get(self.next..).unwrap_or_default();
            self.next += memchr::memchr3(self.field, b'\r', b'\n', rest).unwrap_or(rest.len());
        }
        self.base = self.next;
        let chunk = self.bytes.get(self.next..).unwrap_or_default();
        let word = match chunk.first_chunk::<8>() {
            Some(chunk) => u64::from_le_bytes(*chunk),
            None if chunk.is_empty() => return false,
            None => {
                // Filled up with zeros: whether these are separators does not matter, see `next`.
                let mut last = [0; 8];
                last[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(last)
            }
        };
        self.next += 8;
        self.found = zeros(word ^ spread(self.field)) | zeros(word ^ spread(b'\r')) | zeros(word ^ spread(b'\n'));
        self.quiet = if self.found == 0 { self.quiet + 8 } else { 0 };
        true
    }
}

impl Iterator for Marks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            if !self.advance() {
                return None;
            }
        }
        let at = self.base + (self.found.trailing_zeros() / 8) as usize;
        self.found &= self.found - 1;
        (at < self.bytes.len()).then_some(at)
    }
}

/// The byte eight times.
fn spread(byte: u8) -> u64 {
    u64::from(byte) * 0x0101_0101_0101_0101
}

/// The top bit of each byte that is zero.
fn zeros(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !(((word & LOW) + LOW) | word | LOW)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agrees(bytes: &[u8], field: u8) {
        let found: Vec<usize> = Marks::new(bytes, field).collect();
        let expected: Vec<usize> = memchr::memchr3_iter(field, b'\r', b'\n', bytes).collect();
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn long_values_between() {
        for quiet in 0..200 {
            for tail in ["", "|", "\rOBX|", "|x|y|z|||\n"] {
                let text = format!("MSH|^~\\&|A\rOBX|1|{}{tail}", "v".repeat(quiet));
                agrees(text.as_bytes(), b'|');
            }
        }
    }

    #[test]
    fn a_separator_of_zeros() {
        for length in 0..20 {
            agrees(&vec![0; length], 0);
        }
    }

    proptest! {
        #[test]
        fn as_memchr_finds_them(bytes in prop::collection::vec(prop::sample::select(&b"|\r\n\0\x7c\xfc\x8d\x8a\x7fab"[..]), 0..300), field: u8) {
            agrees(&bytes, b'|');
            agrees(&bytes, field);
        }
    }
}
