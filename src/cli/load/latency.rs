//! How long things took: counts in buckets, so that a million of them need no more memory than ten.

use std::time::Duration;

use serde_json::{Value, json};

/// Buckets between one power of two and the next: a value is off by at most one part in so many.
const STEPS: u64 = 64;
/// Enough for 2⁴⁰ ns, 18 minutes; what took longer is in the last one, and in `max`.
const BUCKETS: usize = 36 * STEPS as usize;

/// Durations, counted.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Latency {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }
}

impl Latency {
    pub(in crate::cli) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos).min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    pub(in crate::cli) fn add(&mut self, other: &Latency) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(in crate::cli) fn max(&self) -> Duration {
        self.max
    }

    /// So many of a hundred took at most so long; none when nothing was recorded.
    pub(in crate::cli) fn percentile(&self, percent: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let bounded = found.filter(|index| *index < BUCKETS - 1).map(largest_in);
        Some(bounded.map_or(self.max, |nanos| Duration::from_nanos(nanos).min(self.max)))
    }

    /// The same in milliseconds, 0 when nothing was recorded.
    pub(in crate::cli) fn millis(&self, percent: f64) -> f64 {
        self.percentile(percent).unwrap_or_default().as_secs_f64() * 1e3
    }

    pub(in crate::cli) fn to_json(&self) -> Value {
        json!({
            "p50": self.millis(50.0), "p90": self.millis(90.0), "p99": self.millis(99.0), "p99_9": self.millis(99.9),
            "max": self.max.as_secs_f64() * 1e3,
        })
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = nanos.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (nanos >> shift)) as usize
}

fn largest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut before = 0;
        for nanos in (0..100_000).chain((17..39).map(|bits| (1 << bits) - 1)).chain((17..39).map(|bits| 1 << bits)) {
            let largest = largest_in(bucket(nanos));
            assert!(largest >= nanos && largest - nanos <= nanos / STEPS, "{nanos}: {largest}");
            if nanos < 100_000 {
                assert!(bucket(nanos) >= before && bucket(nanos) <= before + 1, "{nanos}");
                before = bucket(nanos);
            }
        }
    }

    #[test]
    fn percentiles_of_a_thousand() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile(50.0), None);
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        for (percent, micros) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let found = latency.millis(percent) * 1e3;
            assert!((found - micros).abs() <= micros / 60.0, "{percent}: {found}");
        }
        latency.record(Duration::from_secs(86_400));
        assert_eq!(latency.percentile(100.0), Some(latency.max()));
        let mut both = Latency::default();
        both.add(&latency);
        assert_eq!((both.count, both.max()), (1001, Duration::from_secs(86_400)));
    }
}
