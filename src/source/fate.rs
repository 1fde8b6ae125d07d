//! Waiting for what becomes of a message: for sources that do not acknowledge on receipt alone.
//!
//! Design constraints:
//! - Whoever does not wait pays nothing: the worker and the lanes look at one number, and at nothing else while it is zero.
//! - What is answered is read from the journal and from nowhere else, once it is on disk. So there is one answer: the one who waits,
//!   the one who asks again later, and the one who asks after a restart all get what the journal says.
//! - Nobody waits for ever, and a wake-up that does not come costs time, not the answer: at the end of the time the journal is
//!   looked at once more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Intake;
use crate::journal::{Answered, DeliveryState, MessageState, Story};
use crate::message::MessageId;

/// Once the source is to stop, it is still waited so long at most: it stops within five seconds.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked at what became of the parts of a message that was split.
const LOOK_AT_PARTS_EVERY: Duration = Duration::from_millis(100);

/// Those who wait for what becomes of a message of one channel.
#[derive(Debug, Default)]
pub struct Waiters {
    count: AtomicUsize,
    messages: Mutex<HashMap<MessageId, (watch::Sender<()>, usize)>>,
}

impl Waiters {
    /// Something that concerns these messages is in the journal.
    pub fn tell(&self, messages: impl IntoIterator<Item = MessageId>) {
        // Who comes after this look finds it in the journal.
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let waiting = self.lock();
        for id in messages {
            if let Some((told, _)) = waiting.get(&id) {
                told.send_replace(());
            }
        }
    }

    /// Something that may concern any of them is in the journal.
    pub fn tell_all(&self) {
        if self.count.load(SeqCst) > 0 {
            self.lock().values().for_each(|(told, _)| told.send_replace(()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, (watch::Sender<()>, usize)>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait_for(self: &Arc<Self>, id: MessageId) -> Waiter {
        self.count.fetch_add(1, SeqCst);
        let mut waiting = self.lock();
        let (told, count) = waiting.entry(id).or_insert_with(|| (watch::Sender::new(()), 0));
        *count += 1;
        Waiter { id, told: told.subscribe(), waiters: self.clone() }
    }
}

/// One who waits; told from the moment on at which it is made.
#[derive(Debug)]
pub struct Waiter {
    id: MessageId,
    told: watch::Receiver<()>,
    waiters: Arc<Waiters>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Entry::Occupied(mut entry) = waiting.entry(self.id) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
        self.waiters.count.fetch_sub(1, SeqCst);
    }
}

/// What one who waits has seen so far.
#[derive(Default)]
struct Seen {
    /// The message was split.
    is_split: bool,
    /// The last of its parts up to which all have ended well: they are not looked at again.
    ended_well: u32,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// The transformer is done with the message.
    Transformed,
    /// It was delivered, or will not be: to the destination of this name, or to the first one of the file.
    Delivered(Option<String>),
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A filter, or the `when` of the destination, held it back: all is well.
    Filtered,
    /// It was transformed and waits for its delivery; only where that was not waited for.
    Transformed,
    /// It could not be transformed.
    Errored,
    /// The destination has it.
    Sent,
    /// It is a dead letter.
    Dead,
    /// Somebody gave the delivery up by hand.
    Cancelled,
    /// Nothing of this happened in time. It goes on.
    Pending,
}

impl End {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            End::Filtered => "filtered",
            End::Transformed => "transformed",
            End::Errored => "errored",
            End::Sent => "sent",
            End::Dead => "dead",
            End::Cancelled => "cancelled",
            End::Pending => "pending",
        }
    }
}

/// What became of a message.
#[derive(Clone)]
pub struct Fate {
    /// The message.
    pub id: MessageId,
    /// How it came out.
    pub end: End,
    /// When.
    pub at: Timestamp,
    /// When the message was received.
    pub received_at: Timestamp,
    /// What the destination answered, where its content is kept.
    pub response: Option<Bytes>,
    /// How the destination answered beside that.
    pub answered: Option<Answered>,
}

impl std::fmt::Debug for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fate").field("id", &self.id).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Fate {
    fn of(id: MessageId, story: Story, until: &Until) -> Fate {
        let received_at = story.summary.received_at;
        let transformed_at = story.transformed_at.unwrap_or(received_at);
        let fate = |end, at| Fate { id, end, at, received_at, response: None, answered: None };
        match (story.summary.state, until) {
            (MessageState::Received, _) => return fate(End::Pending, received_at),
            (MessageState::Filtered, _) => return fate(End::Filtered, transformed_at),
            (MessageState::Errored | MessageState::Rejected, _) => return fate(End::Errored, transformed_at),
            // What becomes of its parts is looked at one by one, see `look_at`.
            (MessageState::Split, _) => return fate(End::Pending, transformed_at),
            (_, Until::Transformed) => return fate(End::Transformed, transformed_at),
            (_, Until::Delivered(_)) => {}
        }
        let Until::Delivered(name) = until else { return fate(End::Transformed, transformed_at) };
        let named = |destination: &str| name.as_ref().is_none_or(|name| name == destination);
        let number = story.summary.deliveries.iter().position(|delivery| named(&delivery.destination));
        let delivery = number.and_then(|number| {
            Some((story.summary.deliveries.get(number)?, story.deliveries.get(number)?.attempts.last()))
        });
        // The destination came into the file after the message: nothing of it goes there.
        let Some((summary, last)) = delivery else { return fate(End::Filtered, transformed_at) };
        let end = match summary.state {
            DeliveryState::Sent => End::Sent,
            DeliveryState::Dead => End::Dead,
            DeliveryState::Filtered => End::Filtered,
            DeliveryState::Cancelled => End::Cancelled,
            _ => return fate(End::Pending, transformed_at),
        };
        let has_answer = matches!(end, End::Sent | End::Dead);
        Fate {
            response: last.filter(|_| has_answer).and_then(|last| last.response.as_ref()?.kept().cloned()),
            answered: last.filter(|_| has_answer).and_then(|last| last.attempt.answered.clone()),
            ..fate(end, summary.finished_at.unwrap_or(transformed_at))
        }
    }
}

impl Intake {
    /// Begins to wait for what becomes of a message; made before the message is handed over, it misses nothing.
    pub fn waiter(&self, id: MessageId) -> Waiter {
        self.waiters().wait_for(id)
    }

    /// Waits until it is known what became of the message, for `longest` at most, and once `stop` is given for a few seconds. At
    /// a message that came just now (`is_new`) it is not worth looking before something is told.
    pub async fn fate(
        &self,
        mut waiter: Waiter,
        until: &Until,
        longest: Duration,
        is_new: bool,
        stop: &CancellationToken,
    ) -> Fate {
        let mut deadline = Instant::now() + longest;
        let (mut look, mut stopping) = (!is_new, false);
        let mut seen = Seen::default();
        loop {
            let is_last = Instant::now() >= deadline;
            if look || is_last {
                let fate = self.look_at(waiter.id, until, &mut seen);
                if fate.end != End::Pending || is_last {
                    return fate;
                }
            }
            // Of its parts nobody tells the one who waits for the whole.
            let again = if seen.is_split { deadline.min(Instant::now() + LOOK_AT_PARTS_EVERY) } else { deadline };
            tokio::select! {
                told = waiter.told.changed() => look = told.is_ok(),
                () = sleep_until(again) => look = true,
                () = stop.cancelled(), if !stopping => {
                    (stopping, look) = (true, false);
                    deadline = deadline.min(Instant::now() + STOP_PATIENCE);
                }
            }
        }
    }

    fn look_at(&self, id: MessageId, until: &Until, seen: &mut Seen) -> Fate {
        match self.journal().story(id) {
            Ok(Some(story)) if story.summary.state == MessageState::Split => {
                seen.is_split = true;
                return self.look_at_parts(id, &story, until, seen);
            }
            Ok(Some(story)) => return Fate::of(id, story, until),
            Ok(None) => {}
            Err(error) => warn!(channel = self.channel(), message = %id, %error, "what became of it cannot be read"),
        }
        let now = Timestamp::now();
        Fate { id, end: End::Pending, at: now, received_at: now, response: None, answered: None }
    }

    /// What became of all parts of a message that was split: the first of them that did not end well is the whole's end, else
    /// the last one's.
    fn look_at_parts(&self, id: MessageId, story: &Story, until: &Until, seen: &mut Seen) -> Fate {
        let (received_at, at) = (story.summary.received_at, story.transformed_at.unwrap_or(story.summary.received_at));
        let mut whole = Fate { id, end: End::Filtered, at, received_at, response: None, answered: None };
        for number in seen.ended_well + 1..=story.summary.parts {
            let part = self.look_at(id.part(number), until, &mut Seen::default());
            whole = Fate { id, received_at, ..part };
            match whole.end {
                End::Filtered | End::Transformed | End::Sent => seen.ended_well = number,
                End::Errored | End::Dead | End::Cancelled | End::Pending => break,
            }
        }
        whole
    }
}
