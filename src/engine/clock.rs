//! Says so when the wall clock jumps: whoever reads times in the log or of messages later must know it.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Clocks are kept right by small steps; a step of more than this is a jump.
const JUMP: SignedDuration = SignedDuration::from_secs(5);

/// Compares the wall clock with the monotonic one until `stop`.
pub async fn note_clock_jumps(stop: CancellationToken) {
    let mut before = (Timestamp::now(), Instant::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let now = (Timestamp::now(), Instant::now());
        let jump = jump(before, now);
        if jump.abs() > JUMP {
            let seconds = jump.as_secs();
            let way = if jump.is_negative() { "back" } else { "forward" };
            warn!(seconds, "the wall clock went {way}: it was set, or the machine slept; waits do not go by it");
        }
        before = now;
    }
}

/// By how much the wall clock went further than the monotonic one.
fn jump(before: (Timestamp, Instant), now: (Timestamp, Instant)) -> SignedDuration {
    let passed = SignedDuration::try_from(now.1.duration_since(before.1)).unwrap_or(SignedDuration::MAX);
    now.0.duration_since(before.0).saturating_sub(passed)
}
