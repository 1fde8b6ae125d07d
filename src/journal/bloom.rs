//! A Bloom filter over hashes: says for certain that a hash is not among them, and is wrong about one in a hundred that are not.

/// Bits for each hash.
const BITS: usize = 10;
/// Bits that a hash sets.
const PROBES: u64 = 4;

/// The filter; without words it holds nothing.
#[derive(Debug, Default)]
pub(super) struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    pub(super) fn of(hashes: impl ExactSizeIterator<Item = u64>) -> Bloom {
        let count = hashes.len();
        let words = if count == 0 { 0 } else { (count * BITS).div_ceil(64).next_power_of_two() };
        let mut bloom = Bloom { words: vec![0; words] };
        for hash in hashes {
            for bit in bits(hash, words) {
                bloom.words[bit / 64] |= 1 << (bit % 64);
            }
        }
        bloom
    }

    pub(super) fn from_words(words: Vec<u64>) -> Bloom {
        // Anything else is no filter of ours: then every hash is looked for.
        if words.is_empty() || words.len().is_power_of_two() {
            Bloom { words }
        } else {
            Bloom { words: vec![u64::MAX] }
        }
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        !self.words.is_empty() && bits(hash, self.words.len()).all(|bit| self.words[bit / 64] & (1 << (bit % 64)) != 0)
    }
}

fn bits(hash: u64, words: usize) -> impl Iterator<Item = usize> {
    let mask = (words * 64 - 1) as u64;
    let step = hash.rotate_left(32) | 1;
    (0..PROBES).map(move |probe| (hash.wrapping_add(probe.wrapping_mul(step)) & mask) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_found_and_little_else() {
        for count in [0_u64, 1, 7, 1000, 30_000] {
            let mut random = fastrand::Rng::with_seed(count);
            let inside: Vec<u64> = (0..count).map(|_| random.u64(..)).collect();
            let bloom = Bloom::from_words(Bloom::of(inside.iter().copied()).words().to_vec());
            assert!(inside.iter().all(|hash| bloom.may_hold(*hash)));
            let wrong = (0..10_000).filter(|_| bloom.may_hold(random.u64(..))).count();
            assert!(wrong < 300, "{wrong} of 10,000 with {count} inside");
        }
    }
}
