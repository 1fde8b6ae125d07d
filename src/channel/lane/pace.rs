//! How fast a lane may send. Pure: the caller says what time it is.

use std::time::{Duration, Instant};

use crate::config::Rate;

/// Attempts, evenly spread in time.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Option<Instant>,
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>) -> Pace {
        Pace { interval: rate.map_or(Duration::ZERO, Rate::interval), next: None }
    }

    /// For how long no attempt may begin.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now))
    }

    /// An attempt begins. One that is late by less than an interval does not put off those after it: timers are coarse.
    pub(super) fn begins(&mut self, now: Instant) {
        if self.interval > Duration::ZERO {
            let due = self.next.filter(|next| now.saturating_duration_since(*next) < self.interval).unwrap_or(now);
            self.next = Some(due + self.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_evenly_spread() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace { interval: second, next: None };
        assert_eq!(pace.wait(start), Duration::ZERO);
        pace.begins(start);
        assert_eq!(pace.wait(start), second);
        let late = start + second + second / 4;
        assert_eq!(pace.wait(late), Duration::ZERO);
        pace.begins(late);
        assert_eq!(pace.wait(late), second * 3 / 4, "in the long run as fast as the file says");
        let much_later = start + 60 * second;
        pace.begins(much_later);
        assert_eq!(pace.wait(much_later), second, "and no burst after a quiet time");
        let mut free = Pace::new(None);
        free.begins(start);
        assert_eq!(free.wait(start), Duration::ZERO);
    }
}
