//! Retention: old messages are removed by themselves, by age and when the disk fills up. Never what is unsent or parked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Engine;
use crate::journal::{Amount, JournalError, Prune, Pruned, Query};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often to look for content that could not go with the rest of its segment, because it was unsent or parked.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(3600);
/// A clock that moved by more than this against the machine's own count of time has jumped, and so has one that is so far ahead of
/// the newest message: nothing is removed on its word.
const JUMP: SignedDuration = SignedDuration::from_hours(24);
/// What is removed for its size is older than this: whoever looks for yesterday's message must find it.
const YOUNGEST: SignedDuration = SignedDuration::from_hours(24);

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The content of messages is kept for so long at least.
    pub keep: Duration,
    /// And what is known of them for so long: not shorter.
    pub keep_metadata: Duration,
    /// When more than this much of the disk is used, the oldest go before their time: content first.
    pub prune_at: Amount,
}

/// Whether the wall clock is to be believed, as far as this process can tell.
struct Clock {
    started: Instant,
    started_at: Timestamp,
    /// Set when a jump was seen; believed again when a day has passed without another.
    doubted: Option<Instant>,
}

impl Clock {
    fn new(started_at: Timestamp) -> Clock {
        Clock { started: Instant::now(), started_at, doubted: None }
    }

    /// Looks at the clock. `newest`: when the newest message was received.
    fn is_plausible(&mut self, now: Timestamp, monotonic: Instant, newest: Option<Timestamp>) -> bool {
        let passed = SignedDuration::try_from(monotonic.duration_since(self.started)).unwrap_or(SignedDuration::MAX);
        let moved = now.duration_since(self.started_at);
        let jumped = moved.checked_sub(passed).is_none_or(|difference| difference.abs() > JUMP);
        let is_first_look = passed < SignedDuration::from_secs(300);
        let ahead = newest.is_some_and(|newest| now.duration_since(newest) > JUMP);
        if jumped || (is_first_look && ahead && self.doubted.is_none()) {
            let what = if jumped { "the clock has jumped" } else { "the newest message is more than a day old" };
            warn!(
                "{what}: nothing is pruned for a day, until the clock can be believed; `labwire journal prune` prunes now"
            );
            self.doubted = Some(monotonic);
            (self.started, self.started_at) = (monotonic, now);
        }
        let a_day = Duration::try_from(JUMP).unwrap_or(Duration::MAX);
        if self.doubted.is_some_and(|since| monotonic.duration_since(since) >= a_day) {
            self.doubted = None;
        }
        self.doubted.is_none()
    }
}

impl Engine {
    /// Removes what is old, now and again, until `stop`.
    pub async fn retain(self: Arc<Engine>, retention: Retention, stop: CancellationToken) {
        let mut clock = Clock::new(Timestamp::now());
        let mut looked_again: Option<Instant> = None;
        loop {
            let again = looked_again.is_none_or(|at| at.elapsed() >= LOOK_AGAIN_EVERY);
            if again {
                looked_again = Some(Instant::now());
            }
            match self.retain_once(&retention, &mut clock, again).await {
                Ok(Pruned { stripped_segments: 0, segments: 0, .. }) => debug!("nothing is old enough to be pruned"),
                Ok(Pruned { stripped_messages: contents, segments, messages, carried, bytes, .. }) => {
                    info!(contents, segments, messages, carried, bytes, "pruned");
                }
                Err(error) => warn!(%error, "the journal was not pruned"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn retain_once(&self, retention: &Retention, clock: &mut Clock, again: bool) -> Result<Pruned, JournalError> {
        let now = Timestamp::now();
        let newest = self.journal().search(&Query { limit: 1, ..Query::default() })?;
        let newest = newest.messages.first().map(|newest| newest.received_at);
        if !clock.is_plausible(now, Instant::now(), newest) {
            return Ok(Pruned::default());
        }
        let ago = |age: Duration| {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            now.checked_sub(age).ok()
        };
        let mut pruned = Pruned::default();
        let mut refused = None;
        // What one segment refuses keeps nobody from the others, least of all where the disk is full.
        let mut note = |result: Result<Pruned, JournalError>| match result {
            Ok(more) => pruned = pruned.and(more),
            Err(error) => drop(refused.get_or_insert(error)),
        };
        if let Some(before) = ago(retention.keep_metadata) {
            note(self.journal().prune(Prune::messages(before)).await);
        }
        if let Some(before) = ago(retention.keep) {
            note(self.journal().prune(Prune { again, ..Prune::content(before) }).await);
        }
        if let Some(bytes) = self.too_much(retention) {
            info!(bytes, "the disk is fuller than `--prune-at` allows: the oldest messages go");
            note(self.journal().prune(Prune { again, ..oldest(bytes) }).await);
        }
        refused.map_or(Ok(pruned), Err)
    }

    /// How many bytes must go for the disk to be less full.
    fn too_much(&self, retention: &Retention) -> Option<u64> {
        let disk = self.journal().disk()?;
        disk.used().checked_sub(retention.prune_at.of(disk.bytes)).filter(|excess| *excess > 0)
    }
}

/// The oldest, until so many bytes were given back, but nothing that is younger than a day.
pub fn oldest(bytes: u64) -> Prune {
    Prune::bytes(bytes, Timestamp::now().checked_sub(YOUNGEST).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(clock: &Clock, hours: i64, monotonic_hours: u64) -> (Timestamp, Instant) {
        let now = clock.started_at.checked_add(SignedDuration::from_hours(hours)).expect("a time");
        (now, clock.started + Duration::from_secs(monotonic_hours * 3600))
    }

    #[test]
    fn a_clock_that_jumps_is_doubted_for_a_day() {
        let start: Timestamp = "2026-01-15T10:00:00Z".parse().expect("a time");
        let mut clock = Clock::new(start);
        let (now, monotonic) = after(&clock, 0, 0);
        assert!(clock.is_plausible(now, monotonic, Some(start)));
        let (now, monotonic) = after(&clock, 1000, 1000);
        assert!(clock.is_plausible(now, monotonic, Some(start)), "a quiet month is no jump");
        for jump in [30_i64 * 24, -30 * 24] {
            let (now, monotonic) = after(&clock, 1001 + jump, 1001);
            assert!(!clock.is_plausible(now, monotonic, Some(now)));
            let (now, monotonic) = after(&clock, 23, 23);
            assert!(!clock.is_plausible(now, monotonic, Some(now)), "not yet");
            let (now, monotonic) = after(&clock, 25, 25);
            assert!(clock.is_plausible(now, monotonic, Some(now)), "a day later");
            clock = Clock::new(start);
        }
    }

    #[test]
    fn a_start_long_after_the_newest_message_is_doubted() {
        let start: Timestamp = "2036-01-15T10:00:00Z".parse().expect("a time");
        let mut clock = Clock::new(start);
        let newest = "2026-01-15T10:00:00Z".parse().expect("a time");
        let (now, monotonic) = after(&clock, 0, 0);
        assert!(!clock.is_plausible(now, monotonic, Some(newest)));
        let mut empty = Clock::new(start);
        assert!(empty.is_plausible(now, monotonic, None));
    }
}
