//! A lane: the queue before one destination. Sends in order, one delivery at a time; a delivery that waits for its retry holds
//! back the ones behind it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{ChannelSpec, Name};
use crate::destination::{Delivered, Destination, Disposition, SendError};
use crate::journal::{Attempt, DeliveryState, Journal, JournalError, Lane as LaneId, Queued};
use crate::monitor::Counters;

/// How long an attempt that is under way when the engine stops may still take.
const GRACE: Duration = Duration::from_secs(5);
/// A lane looks at its queue at least so often, so that a retry by hand in a waiting lane is never overlooked for longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// After an error of the journal that may pass, the lane tries again after so long.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// What a lane is doing, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The destination's name.
    pub destination: String,
    /// Its kind.
    pub kind: String,
    /// Why the last attempt failed; none after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the destination is unusable until somebody acts (authentication, host key, configuration).
    pub paused: bool,
}

/// What a lane works with.
#[derive(Clone)]
pub(super) struct Lane {
    pub(super) destination: Name,
    pub(super) program: Arc<ArcSwap<ChannelSpec>>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) counters: Arc<Counters>,
    /// Told when deliveries were queued or asked for by hand.
    pub(super) wake: Arc<Notify>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
}

impl Lane {
    /// Sends until `stop`, until the destination is no longer in the channel, or until the journal fails.
    pub(super) async fn run(self, stop: CancellationToken) {
        let channel = self.program.load().name.to_string();
        let id = LaneId { channel, destination: self.destination.to_string() };
        let mut connector = None;
        let mut pauses = 0;
        while !stop.is_cancelled() {
            let mut wake = std::pin::pin!(self.wake.notified());
            wake.as_mut().enable();
            let head = match self.journal.queue(&id, 0, 1) {
                Ok(queued) => queued.into_iter().next(),
                Err(error) => {
                    error!(lane = %id, %error, "the queue cannot be read");
                    if error.is_final() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(AFTER_ERROR) => continue,
                        () = stop.cancelled() => return,
                    }
                }
            };
            let wait = head.as_ref().map_or(LONGEST_SLEEP, due_in);
            if !wait.is_zero() {
                tokio::select! {
                    () = wake => {}
                    () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
                    () = stop.cancelled() => return,
                }
                continue;
            }
            let Some(queued) = head else { continue };
            match self.attempt(&id, &mut connector, queued, &mut pauses, &stop).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    error!(lane = %id, %error, "an attempt cannot be journaled; it is repeated");
                    if error.is_final() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(AFTER_ERROR) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// One attempt, journaled. False when the engine stopped meanwhile: the attempt then counts as not made, and is repeated.
    async fn attempt(
        &self,
        id: &LaneId,
        connector: &mut Option<Box<dyn Destination>>,
        queued: Queued,
        pauses: &mut u32,
        stop: &CancellationToken,
    ) -> Result<bool, JournalError> {
        let started_at = Timestamp::now();
        let clock = Instant::now();
        let result = tokio::select! {
            result = self.send(connector, &queued) => result,
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => return Ok(false),
        };
        if result.as_ref().is_err_and(|error| error.disposition == Disposition::Pause) {
            // Made anew for the next attempt: a password or key that was put right is read again.
            *connector = None;
        }
        let duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let attempt = self.judge(
            result,
            &queued,
            pauses,
            Attempt {
                started_at,
                duration_ms,
                state: DeliveryState::Sent,
                next_at: None,
                error: None,
                counted: true,
                holds: false,
                response: None,
            },
        );
        self.report(id, &queued, &attempt);
        self.journal.attempted(queued.id, attempt).await?;
        Ok(true)
    }

    async fn send(
        &self,
        connector: &mut Option<Box<dyn Destination>>,
        queued: &Queued,
    ) -> Result<Delivered, SendError> {
        if connector.is_none() {
            let spec = self.program.load_full();
            let destination = spec.destinations.iter().find(|destination| destination.name == self.destination);
            let destination =
                destination.ok_or_else(|| SendError::pause("the channel file no longer has this destination"))?;
            let built = destination.config.build(&spec.place(&self.destination)).await;
            *connector = Some(built.map_err(|error| SendError::pause(error.to_string()))?);
        }
        let connector = connector.as_mut().expect("built above");
        // What cannot be read any more is a dead letter: it is seen, and the lane goes on.
        let outgoing = self.journal.outgoing(&queued.id).map_err(|error| match error {
            JournalError::Damaged { .. } => SendError::reject(error.to_string()),
            error => SendError::pause(error.to_string()),
        })?;
        connector.send(&outgoing).await
    }

    /// What an attempt's result means for the delivery.
    fn judge(
        &self,
        result: Result<Delivered, SendError>,
        queued: &Queued,
        pauses: &mut u32,
        attempt: Attempt,
    ) -> Attempt {
        let error = match result {
            Ok(delivered) => {
                *pauses = 0;
                return Attempt { response: delivered.response, ..attempt };
            }
            Err(error) => error,
        };
        let spec = self.program.load();
        let retry =
            spec.destinations.iter().find(|destination| destination.name == self.destination).map(|found| found.retry);
        let retry = retry.unwrap_or_default();
        let failures = match error.disposition {
            Disposition::Pause => {
                *pauses = pauses.saturating_add(1);
                *pauses
            }
            _ => queued.attempts.saturating_add(1),
        };
        let given_up = match error.disposition {
            Disposition::Reject => true,
            Disposition::Retry => retry.is_exhausted(failures),
            Disposition::Pause => false,
        };
        let attempt = Attempt {
            error: Some(error.message),
            response: error.response,
            counted: error.disposition != Disposition::Pause,
            ..attempt
        };
        if given_up {
            return Attempt { state: DeliveryState::Dead, ..attempt };
        }
        let wait =
            SignedDuration::try_from(retry.wait(failures, fastrand::f64())).unwrap_or(SignedDuration::from_secs(60));
        let next_at = Timestamp::now().checked_add(wait).unwrap_or(Timestamp::MAX);
        Attempt { state: DeliveryState::Retrying, next_at: Some(next_at), ..attempt }
    }

    fn report(&self, id: &LaneId, queued: &Queued, attempt: &Attempt) {
        let message = &queued.id.message;
        let error = attempt.error.as_deref().unwrap_or_default();
        match attempt.state {
            DeliveryState::Sent => {
                self.counters.sent.add_one();
                info!(lane = %id, %message, duration_ms = attempt.duration_ms, "sent");
            }
            DeliveryState::Dead => {
                self.counters.dead.add_one();
                warn!(lane = %id, %message, error, "given up: the delivery is a dead letter");
            }
            _ => {
                self.counters.retried.add_one();
                let next_at = attempt.next_at.map(tracing::field::display);
                warn!(lane = %id, %message, error, next_at, "an attempt failed");
            }
        }
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.error = attempt.error.clone();
        status.paused = attempt.error.is_some() && !attempt.counted;
    }
}

/// How long until a delivery is due; nothing when it is.
fn due_in(queued: &Queued) -> Duration {
    let wait = queued.next_at.map_or(SignedDuration::ZERO, |at| at.duration_since(Timestamp::now()));
    Duration::try_from(wait).unwrap_or(Duration::ZERO)
}
