//! What an attempt's result means for its delivery. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::{OnPoison, Retry};
use crate::destination::{Delivered, Disposition, FaultClass, Rules, SendError};
use crate::journal::{Attempt, DeliveryState, Queued};

/// A peer's own wish for when to come back is honoured up to here: a wrong clock must not put a delivery off for years.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 3600);

/// What a destination's options say of faults.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) rules: Rules,
    pub(super) retry: Retry,
    pub(super) on_poison: OnPoison,
}

/// What an attempt's result means.
#[derive(Debug)]
pub(super) struct Verdict {
    /// What is journaled.
    pub(super) attempt: Attempt,
    /// The destination as a whole is at fault: nothing more is tried before this time.
    pub(super) down_until: Option<Timestamp>,
    /// The destination is unusable until somebody acts.
    pub(super) pauses: bool,
    /// The destination has it, and is at work: no failure.
    pub(super) pending: bool,
}

impl Policy {
    /// Judges the result of one attempt. `in_a_row` counts the faults of the destination as a whole before this one; `random` is
    /// from 0 to 1.
    pub(super) fn judge(
        &self,
        result: Result<Delivered, SendError>,
        queued: &Queued,
        attempt: Attempt,
        in_a_row: u32,
        (now, random): (Timestamp, f64),
    ) -> Verdict {
        let sent = |response| Verdict {
            attempt: Attempt { state: DeliveryState::Sent, response, ..attempt.clone() },
            down_until: None,
            pauses: false,
            pending: false,
        };
        let error = match result {
            Ok(delivered) => return sent(delivered.response),
            Err(error) => error,
        };
        let then = error.then.unwrap_or_else(|| self.rules.of(error.class));
        if then == Disposition::Sent {
            return sent(error.response);
        }
        let pauses = then == Disposition::Pause;
        let is_whole = pauses || (error.class.fault().whole && then == Disposition::Retry);
        let pending = error.class == FaultClass::Pending;
        let counted = !pauses && !pending;
        let tries = queued.attempts.saturating_add(u32::from(counted));
        let failures = if is_whole { tries.max(in_a_row.saturating_add(1)) } else { tries };
        let oldest = self.retry.max_age.map(|age| later(queued.received_at, age.get()));
        let given_up = then == Disposition::Dead
            || (then == Disposition::Retry && !pending && self.retry.is_exhausted(tries))
            || oldest.is_some_and(|oldest| oldest <= now);
        // What is pending is asked after in the destination's own rhythm.
        let wait = if pending { Duration::ZERO } else { self.retry.wait(failures, random) };
        let mut next_at = later(now, wait);
        if let Some(oldest) = oldest.filter(|oldest| *oldest > now) {
            next_at = next_at.min(oldest);
        }
        if let Some(wish) = error.retry_after {
            next_at = next_at.max(later(now, wish.min(LONGEST_WISH)));
        }
        let attempt = Attempt {
            state: if given_up { DeliveryState::Dead } else { DeliveryState::Retrying },
            next_at: Some(next_at).filter(|_| !given_up),
            error: Some(error.message),
            counted,
            holds: given_up && self.on_poison != OnPoison::DeadLetter,
            response: error.response,
            ..attempt
        };
        Verdict { attempt, down_until: is_whole.then_some(next_at), pauses, pending }
    }
}

fn later(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}
