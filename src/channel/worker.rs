//! The worker of a channel: takes messages in the order of their arrival, runs the transformer, and journals what is to be sent.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::unconstrained;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::lane::Wake;
use super::{ChannelSpec, DestinationSpec, split};
use crate::expr::{ExprError, Scope};
use crate::hl7;
use crate::journal::{Journal, JournalError, NewDelivery, NewPart, OrderKey, Received, Transformed, Untransformed};
use crate::message::{Body, Message, MessageId, Meta};
use crate::monitor::Counters;
use crate::source::Waiters;
use crate::transformer::Outcome;

/// Messages that are transformed before the journal is waited for: they share one sync.
const BATCH: usize = 64;
/// Once so much is to be sent, the batch is journaled first.
const BATCH_BYTES: usize = 16 << 20;
/// So few messages, of so many bytes together, are transformed at once where the last ones took no longer than this, each.
const FEW: usize = 8;
const SMALL_BYTES: usize = 16 << 10;
const QUICK: Duration = Duration::from_micros(100);
/// The worker looks for messages at least so often.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// After an error of the journal that may pass, the worker tries again after so long.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// What the transformer made of a message.
#[derive(Debug)]
pub(super) struct Processed {
    /// Its fate.
    pub(super) outcome: Transformed,
    /// The deliveries that follow from it, in the order of the channel file.
    pub(super) deliveries: Vec<NewDelivery>,
    /// What it was split into, with what became of each.
    pub(super) parts: Vec<NewPart>,
}

impl Processed {
    /// A message that goes no further.
    pub(super) fn ended(outcome: Transformed) -> Processed {
        Processed { outcome, deliveries: Vec::new(), parts: Vec::new() }
    }
}

/// Runs a channel's steps on a message and works out what goes where. Pure: the same message gives the same result.
pub(super) fn process(spec: &ChannelSpec, mut message: Message) -> Processed {
    // An event names its lab; what comes over MLLP is of the lab that the channel is bound to.
    let lab = &mut message.meta.origin.lab;
    *lab = lab.take().or_else(|| spec.lab.clone());
    let splits = message.meta.origin.part.as_ref().map_or(0, |part| part.splits);
    if let Body::Batch(batch) = &*message.body {
        let parts = batch.messages().iter().cloned().map(Body::Hl7).collect();
        return split::process(spec, &message, "the batch", parts, splits);
    }
    let Some(outcome) = spec.transformer.run_behind(splits, &mut message) else {
        return Processed::ended(split::no_longer_there());
    };
    let outcome = match outcome {
        Outcome::Split { place, parts } => return split::process(spec, &message, &place, parts, splits + 1),
        Outcome::Through => {
            let prepared: Result<Vec<NewDelivery>, Transformed> =
                spec.destinations.iter().map(|destination| prepare(destination, &message)).collect();
            match prepared {
                Ok(deliveries) => return Processed { outcome: Transformed::Queued, deliveries, parts: Vec::new() },
                Err(errored) => errored,
            }
        }
        Outcome::Filtered { place } => Transformed::Filtered { place },
        Outcome::Failed { place, error } => Transformed::Errored { place, error: error.to_string() },
    };
    Processed::ended(outcome)
}

fn prepare(destination: &DestinationSpec, message: &Message) -> Result<NewDelivery, Transformed> {
    let errored = |place: &str, error: String| Transformed::Errored {
        place: format!("destination `{}`, {place}", destination.name),
        error,
    };
    let expression = |error: ExprError| errored(&error.place, error.message);
    let delivery = |outgoing, key| NewDelivery { destination: destination.name.to_string(), outgoing, key };
    if let Some(when) = &destination.when
        && !when.is_true(&Scope::new(message)).map_err(expression)?
    {
        return Ok(delivery(None, None));
    }
    let mut message = message.clone();
    match destination.transformer.run(&mut message) {
        Outcome::Through => {}
        Outcome::Filtered { .. } => return Ok(delivery(None, None)),
        Outcome::Failed { place, error } => return Err(errored(&place, error.to_string())),
        Outcome::Split { .. } => unreachable!("refused when the channel file was read"),
    }
    if let Some(charset) = destination.charset {
        let encoded = message.body.in_charset(charset);
        message.body = encoded.map_err(|error| errored("charset", error.to_string()))?;
    }
    let outgoing = destination.config.prepare(&message).map_err(expression)?;
    let key = match &destination.dispatch.order_by {
        Some(order_by) => Some(order_by.eval(&Scope::new(&message)).map_err(expression)?.to_string()),
        None => None,
    };
    Ok(delivery(Some(outgoing), key.as_deref().map(OrderKey::of)))
}

/// Where a worker stands.
#[derive(Default)]
struct Progress {
    /// Up to this place in the order of arrival everything is done.
    after: u64,
    /// Whether the last messages took little time.
    is_quick: bool,
}

/// What a worker works with.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) program: Arc<ArcSwap<ChannelSpec>>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) counters: Arc<Counters>,
    /// Told by the source that a message waits.
    pub(super) wake: Arc<Notify>,
    /// Told when deliveries were queued.
    pub(super) lanes: Arc<Wake>,
    /// Those who wait for what becomes of a message.
    pub(super) waiters: Arc<Waiters>,
    /// Room on the threads that transform.
    pub(super) transforming: Arc<Semaphore>,
}

impl Worker {
    /// Works until `stop`, or until the journal takes nothing more. A message that is being transformed then is transformed
    /// again by whoever comes next: nothing of it was journaled.
    pub(super) async fn run(self, stop: CancellationToken) {
        let work = async {
            let mut progress = Progress::default();
            loop {
                let pause = match self.work(&stop, &mut progress).await {
                    Ok(0) => LONGEST_SLEEP,
                    Ok(_) => continue,
                    Err(error) => {
                        progress = Progress::default();
                        error!(channel = %self.program.load().name, %error, "messages cannot be transformed");
                        if error.is_final() {
                            return;
                        }
                        AFTER_ERROR
                    }
                };
                // Also without being told: a message must not wait for the next one to be noticed.
                let _ = tokio::time::timeout(pause, self.wake.notified()).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Transforms what waits, up to a batch; says how many. Looks after the place up to which everything is done: what is done is
    /// not gone through again. Now and then from the beginning, because pruning carries old messages along.
    async fn work(&self, stop: &CancellationToken, progress: &mut Progress) -> Result<usize, JournalError> {
        // Before it is seen what waits: by the time it is this channel's turn, more may.
        let turn = self.transforming.acquire().await.map_err(|_| closed("the engine is stopping"))?;
        let spec = self.program.load_full();
        let mut waiting = self.journal.untransformed(&spec.name, progress.after, BATCH)?;
        if waiting.is_empty() && std::mem::take(&mut progress.after) > 0 {
            waiting = self.journal.untransformed(&spec.name, 0, BATCH)?;
        }
        if waiting.is_empty() {
            return Ok(0);
        }
        let batch = waiting.clone();
        // Not on the runtime's own threads: a large message must not hold up acknowledgements. But for what takes no longer than
        // to change threads and back.
        let began = Instant::now();
        let transformed = if progress.is_quick && self.are_small(&waiting) {
            self.transform_all(&spec, &waiting, stop)?
        } else {
            let (worker, stop) = (self.clone(), stop.clone());
            let transforming = tokio::task::spawn_blocking(move || worker.transform_all(&spec, &waiting, &stop));
            transforming.await.map_err(|_| closed("a transformer thread ended early"))??
        };
        progress.is_quick = began.elapsed() < QUICK * transformed.len() as u32;
        drop(turn);
        let count = transformed.len();
        let kept = transformed.into_iter().map(|(id, processed)| {
            let Processed { outcome, deliveries, parts } = processed;
            self.count(&outcome);
            parts.iter().for_each(|part| self.count(&part.outcome));
            let (journal, now) = (self.journal.clone(), Timestamp::now());
            async move {
                match outcome {
                    Transformed::Split { .. } => journal.split(id, now, parts).await,
                    outcome => journal.transformed(id, now, outcome, deliveries).await,
                }
            }
        });
        // Unconstrained: futures that tokio puts off for fairness are woken last first, and would be journaled in that order.
        let kept = unconstrained(join_all(kept)).await;
        self.waiters.tell(batch[..count].iter().map(|done| done.id));
        kept.into_iter().collect::<Result<Vec<()>, JournalError>>()?;
        progress.after = count.checked_sub(1).map_or(0, |last| batch[last].sequence);
        self.lanes.queued();
        Ok(count)
    }

    /// Whether these are few and small, and in memory.
    fn are_small(&self, waiting: &[Untransformed]) -> bool {
        let mut left = SMALL_BYTES;
        waiting.len() <= FEW
            && waiting.iter().all(|waiting| match self.journal.at_hand(waiting.id) {
                Some(bytes) if bytes <= left => {
                    left -= bytes;
                    true
                }
                _ => false,
            })
    }

    fn transform_all(
        &self,
        spec: &ChannelSpec,
        waiting: &[Untransformed],
        stop: &CancellationToken,
    ) -> Result<Vec<(MessageId, Processed)>, JournalError> {
        let mut done = Vec::with_capacity(waiting.len());
        let mut bytes = 0;
        for waiting in waiting {
            if stop.is_cancelled() || bytes > BATCH_BYTES {
                break;
            }
            let processed = self.transform(spec, waiting.id)?;
            let of_parts = processed.parts.iter().flat_map(|part| &part.deliveries);
            let outgoing =
                processed.deliveries.iter().chain(of_parts).filter_map(|delivery| delivery.outgoing.as_ref());
            bytes += outgoing.map(|outgoing| outgoing.content.len()).sum::<usize>();
            done.push((waiting.id, processed));
        }
        Ok(done)
    }

    fn transform(&self, spec: &ChannelSpec, id: MessageId) -> Result<Processed, JournalError> {
        let errored =
            |place: &str, error: String| Ok(Processed::ended(Transformed::Errored { place: place.to_owned(), error }));
        let received = match self.journal.received(id) {
            Ok(Some(received)) => received,
            Ok(None) => return Err(JournalError::Unknown { id }),
            Err(error @ (JournalError::Damaged { .. } | JournalError::Removed { .. })) => {
                return errored("journal", error.to_string());
            }
            Err(error) => return Err(error),
        };
        let Received { channel, received_at, origin, format, body, read } = received;
        let meta = Meta { id, channel, received_at, origin };
        let message = match read {
            Some(body) => Ok(Message { meta, body, event: Arc::default() }),
            None => Message::read(meta, format, &body, &hl7::Limits::default()),
        };
        let mut message = match message {
            Ok(message) => message,
            Err(error) => return errored("reading the message", error.to_string()),
        };
        if let Some(event) = split::event_of(&message.meta.origin, &*self.journal)? {
            message.event = Arc::new(event);
        }
        catch_unwind(AssertUnwindSafe(|| process(spec, message))).map_or_else(
            |_| errored("transformer", "it panicked, which is a bug in Labwire; please report it".to_owned()),
            Ok,
        )
    }

    fn count(&self, outcome: &Transformed) {
        match outcome {
            Transformed::Filtered { .. } => self.counters.filtered.add_one(),
            Transformed::Errored { place, error } => {
                self.counters.errored.add_one();
                warn!(channel = %self.program.load().name, place, error, "a message could not be transformed");
            }
            Transformed::Queued | Transformed::Split { .. } => {}
        }
    }
}

fn closed(reason: &str) -> JournalError {
    JournalError::Closed { reason: reason.to_owned() }
}
