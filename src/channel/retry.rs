//! When a failed delivery is tried again.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::config::{self, Duration};

/// `retry = { attempts = 10, first = "5s", longest = "10m" }`: exponential backoff with full jitter: before attempt n+1 the
/// delivery waits a random time between nothing and `first` × 2ⁿ⁻¹, at most `longest`. `max_age = "72h"`: what is older is given
/// up when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// After so many tries the delivery is a dead letter; none means that it is tried for ever.
    pub attempts: Option<u32>,
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of every wait.
    pub longest: Duration,
    /// A delivery that fails when its message was received longer ago than this is a dead letter, whatever kept it waiting; none
    /// means that it may grow old.
    pub max_age: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: None, first: Duration::from_secs(10), longest: Duration::from_secs(300), max_age: None }
    }
}

/// The keys of `retry`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryKeys {
    /// After so many tries the delivery is a dead letter. Not given: it is tried for ever.
    #[schemars(with = "Option<u32>")]
    attempts: Option<Spanned<u32>>,
    /// Upper bound of the wait after the first failure; doubles with every further one.
    #[schemars(with = "Option<Duration>", extend("default" = Retry::default().first))]
    first: Option<Spanned<Duration>>,
    /// Upper bound of every wait.
    #[schemars(extend("default" = Retry::default().longest))]
    longest: Option<Duration>,
    /// A delivery that fails when its message was received longer ago than this is a dead letter. Also the time counts in which
    /// the destination was paused or others were in front; the last try is made when the age is reached. Not given: it may grow
    /// old.
    #[schemars(with = "Option<Duration>")]
    max_age: Option<Spanned<Duration>>,
}

impl RetryKeys {
    /// The policy, with the defaults of `base` for what is not given.
    pub(super) fn over(self, base: Retry) -> Retry {
        let first = self.first.as_ref().map_or(base.first, |first| *first.get_ref());
        let longest = self.longest.unwrap_or(base.longest.max(first));
        if let Some(attempts) = self.attempts.as_ref().filter(|attempts| *attempts.get_ref() == 0) {
            let help = "leave `attempts` out to try for ever, or write 1 to try once".to_owned();
            config::report(attempts.span(), "`retry.attempts` must be at least 1", "", Some(help));
        }
        if let Some(given) = self.first.as_ref().filter(|_| first > longest) {
            config::report(given.span(), format!("`retry.first` is longer than `retry.longest` ({longest})"), "", None);
        }
        if let Some(age) = self.max_age.as_ref().filter(|age| age.get_ref().get().is_zero()) {
            let help = "leave `max_age` out where a delivery may grow old, or write as in \"72h\"".to_owned();
            config::report(age.span(), "`retry.max_age` must be longer than nothing", "", Some(help));
        }
        let attempts = self.attempts.map(Spanned::into_inner).or(base.attempts);
        Retry { attempts, first, longest, max_age: self.max_age.map(Spanned::into_inner).or(base.max_age) }
    }
}

impl Retry {
    /// The longest that the wait after so many failures can be.
    fn ceiling(&self, failures: u32) -> StdDuration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.get().saturating_mul(1 << doublings).min(self.longest.get())
    }

    /// How long to wait after so many failures; `random` is from 0 to 1.
    pub fn wait(&self, failures: u32, random: f64) -> StdDuration {
        self.ceiling(failures).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Whether a delivery that failed so many times is to be given up.
    pub fn is_exhausted(&self, failures: u32) -> bool {
        self.attempts.is_some_and(|attempts| failures >= attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_secs(5), Duration::from_secs(60));
        let retry = Retry { attempts: Some(3), first, longest, max_age: None };
        for (failures, seconds) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (99, 60), (u32::MAX, 60)] {
            assert_eq!(retry.wait(failures, 1.0), StdDuration::from_secs(seconds), "{failures}");
            assert_eq!(retry.wait(failures, 0.0), StdDuration::ZERO);
        }
        assert_eq!(retry.wait(2, 0.5), StdDuration::from_secs(5));
    }

    #[test]
    fn gives_up_after_the_last_attempt() {
        let retry = Retry { attempts: Some(3), ..Retry::default() };
        assert_eq!([1, 2, 3, 4].map(|failures| retry.is_exhausted(failures)), [false, false, true, true]);
        assert!(!Retry::default().is_exhausted(1_000_000));
    }
}
