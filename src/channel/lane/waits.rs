//! When deliveries that wait for their retry are due, by a clock that nobody sets.
//!
//! Design constraints:
//! - The journal keeps times of the wall clock: they are shown to people, and outlive the process.
//! - A wait that began in this process goes by the monotonic clock: a wall clock that is put back holds nobody up, and one that is
//!   put forward does not make everybody try at once.
//! - Of a wait that began before, the wall clock is all that is known. It is no longer than the longest that the lane would choose;
//!   so a peer's own wish (`Retry-After`) for more than that does not outlive a restart or a reload, which costs it one try.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::journal::Queued;

/// So many waits are remembered. Those that were cancelled by hand meanwhile are among them until there are more.
const REMEMBERED: usize = 20_000;

/// The waits of a lane.
#[derive(Debug)]
pub(super) struct Waits {
    /// One moment by both clocks.
    began: (Timestamp, Instant),
    /// The longest wait that the lane would choose.
    longest: SignedDuration,
    /// By their place, those that began in this process: what the journal says, and when they are due in lane time.
    known: HashMap<u64, (Timestamp, Timestamp)>,
}

impl Waits {
    pub(super) fn new(longest: Duration) -> Waits {
        let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX);
        Waits { began: (Timestamp::now(), Instant::now()), longest, known: HashMap::new() }
    }

    /// Lane time: the wall clock's when the lane began, and what went by since.
    pub(super) fn now(&self) -> Timestamp {
        let (wall, since) = self.began;
        let gone = SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        wall.checked_add(gone).unwrap_or(Timestamp::MAX)
    }

    /// A time of the wall clock, as it goes now, in lane time.
    pub(super) fn due(&self, next_at: Timestamp) -> Timestamp {
        moved(next_at, Timestamp::now(), self.now())
    }

    /// The other way round, to be shown.
    pub(super) fn shown(&self, due: Timestamp) -> Timestamp {
        moved(due, self.now(), Timestamp::now())
    }

    /// A delivery was tried: it waits until a time of the wall clock, or waits no more.
    pub(super) fn tried(&mut self, place: u64, next_at: Option<Timestamp>) {
        let Some(next_at) = next_at else {
            self.known.remove(&place);
            return;
        };
        self.remember(place, next_at, self.due(next_at));
    }

    fn remember(&mut self, place: u64, next_at: Timestamp, due: Timestamp) {
        if self.known.len() >= REMEMBERED {
            let now = self.now();
            self.known.retain(|_, (_, due)| *due > now);
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
        }
        self.known.insert(place, (next_at, due));
    }

    /// A delivery as the journal has it, with its time in lane time: the same however often it is read.
    pub(super) fn read(&mut self, mut queued: Queued) -> Queued {
        let Some(next_at) = queued.next_at else { return queued };
        let due = match self.known.get(&queued.sequence) {
            Some((known, due)) if *known == next_at => *due,
            _ => {
                let due = self.due(next_at).min(self.now().checked_add(self.longest).unwrap_or(Timestamp::MAX));
                self.remember(queued.sequence, next_at, due);
                due
            }
        };
        queued.next_at = Some(due);
        queued
    }
}

/// As far from one time as from the other.
fn moved(time: Timestamp, from: Timestamp, to: Timestamp) -> Timestamp {
    let away = time.duration_since(from);
    let limit = if away.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    to.checked_add(away).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::DeliveryId;
    use crate::message::MessageIds;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn queued(next_at: Timestamp) -> Queued {
        let id = DeliveryId { message: MessageIds::default().next(), destination: "peer".to_owned() };
        Queued { id, sequence: 7, key: None, attempts: 1, next_at: Some(next_at), received_at: next_at }
    }

    /// How long a delivery waits whose time the journal gives, in whole minutes.
    fn minutes(waits: &mut Waits, next_at: Timestamp) -> i64 {
        let due = waits.read(queued(next_at)).next_at.unwrap();
        (due.duration_since(waits.now()) + SignedDuration::from_secs(1)).as_mins()
    }

    /// Were it counted anew at each look, it would never be over.
    #[test]
    fn a_wait_of_before_does_not_begin_again_when_it_is_read_again() {
        let mut waits = Waits::new(Duration::from_secs(300));
        let next_at = Timestamp::now() + HOUR;
        let first = waits.read(queued(next_at)).next_at;
        assert_eq!(waits.read(queued(next_at)).next_at, first);
    }

    #[test]
    fn a_wait_of_before_is_no_longer_than_the_lane_would_choose() {
        let mut waits = Waits::new(Duration::from_secs(300));
        assert_eq!(minutes(&mut waits, Timestamp::now() + HOUR), 5, "the clock was put back meanwhile");
        assert_eq!(minutes(&mut waits, Timestamp::now() + HOUR / 30), 2);
        assert!(minutes(&mut waits, Timestamp::now() - HOUR) < 0, "due");
        assert!(minutes(&mut waits, Timestamp::MIN) < 0 && minutes(&mut waits, Timestamp::MAX) == 5);
    }

    #[test]
    fn a_wait_that_began_here_is_as_long_as_it_was_meant() {
        let mut waits = Waits::new(Duration::from_secs(300));
        let wish = Timestamp::now() + HOUR;
        waits.tried(7, Some(wish));
        assert_eq!(minutes(&mut waits, wish), 60, "the peer's own wish");
        // As if the wall clock had been an hour ahead when it began, and was put right since.
        waits.known.insert(7, (wish, waits.now() + HOUR / 60));
        assert_eq!(minutes(&mut waits, wish), 1, "it does not wait for the wall clock");
        assert_eq!(minutes(&mut waits, wish + HOUR / 60), 5, "somebody changed it");
        waits.tried(7, None);
        assert_eq!(minutes(&mut waits, wish), 5, "it is forgotten");
        let shown = waits.shown(waits.due(wish)).duration_since(wish);
        assert!(shown.abs() < SignedDuration::from_secs(1), "{shown}");
    }
}
