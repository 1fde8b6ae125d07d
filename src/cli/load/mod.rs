//! Load on MLLP listeners, for `labwire send` and `labwire bench`.
//!
//! The generator shares the machine with what it measures, so it must be cheap: a message is copied once, around its control id,
//! and costs one write and one read on a blocking thread of its connection. Each connection is a closed loop, the next message
//! leaves when the last is acknowledged, unless there is a rate: then messages are due at fixed times, the next free connection
//! takes the next one, and its latency counts from when it was due. A listener that stalls cannot hide behind the messages that
//! were not sent meanwhile.

mod client;
mod latency;
mod progress;
mod report;
mod template;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use client::{Answer, Client};

pub(super) use latency::Latency;
pub(super) use progress::Progress;
pub(super) use report::LoadFlags;
pub(super) use template::Template;

/// At most so many connections, each with its thread.
pub(super) const MAX_CONNECTIONS: u16 = 1024;
/// What a connection's thread needs is on the heap.
const STACK_BYTES: usize = 256 << 10;
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// One run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Where to: connection n goes to the address n, and round again.
    pub(super) targets: Vec<String>,
    /// So many connections.
    pub(super) connections: usize,
    /// At most so many messages.
    pub(super) count: u64,
    /// At most so long.
    pub(super) lasts: Option<Duration>,
    /// Messages a second, over all connections; none means as fast as they are acknowledged.
    pub(super) rate: Option<f64>,
    /// How long to wait for a connection and for an acknowledgement.
    pub(super) timeout: Duration,
}

/// What came of a run, or of a connection's part in it.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    /// Messages written, as a whole or in part.
    pub(super) sent: u64,
    /// Acknowledged with AA or CA, under their own control id.
    pub(super) accepted: u64,
    /// Acknowledged with anything else, under their own control id.
    pub(super) rejected: u64,
    /// Not acknowledged, or under another control id.
    pub(super) errors: u64,
    /// Bytes of the accepted messages, without their frames.
    pub(super) bytes: u64,
    /// From the first message to the last acknowledgement.
    pub(super) took: Duration,
    /// From when an accepted message was sent, or due, until it was acknowledged.
    pub(super) latency: Latency,
    /// What went wrong first. Holds no content.
    pub(super) first_error: Option<String>,
}

impl Outcome {
    /// Accepted messages a second.
    pub(super) fn per_second(&self) -> f64 {
        self.accepted as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Whether every message was accepted.
    pub(super) fn all_accepted(&self) -> bool {
        self.sent > 0 && self.accepted == self.sent
    }

    /// Takes in what another connection, or another run, came to.
    pub(super) fn add(&mut self, other: &Outcome) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.took += other.took;
        self.latency.add(&other.latency);
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    fn failed(&mut self, error: impl std::fmt::Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}

/// Messages, and the numbers that their copies get. Runs of one load never use a number twice.
pub(super) struct Load {
    templates: Vec<Template>,
    prefix: String,
    next: AtomicU64,
}

/// What the connections of a run share.
struct Run<'a> {
    load: &'a Load,
    plan: &'a Plan,
    first: u64,
    began: Instant,
    on_send: &'a (dyn Fn(u64, Instant) + Sync),
}

impl Load {
    pub(super) fn new(templates: Vec<Template>) -> Load {
        const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let random = (0..5).map(|_| char::from(DIGITS[fastrand::usize(..DIGITS.len())]));
        Load { templates, prefix: std::iter::once('L').chain(random).collect(), next: AtomicU64::new(0) }
    }

    /// The number in a control id of this load's making.
    pub(super) fn number(&self, control_id: &[u8]) -> Option<u64> {
        std::str::from_utf8(control_id.strip_prefix(self.prefix.as_bytes())?).ok()?.parse().ok()
    }

    /// MSH-10 has 20 characters up to HL7 v2.6; this fills 15 of them before the billionth message.
    fn control_id(&self, number: u64) -> String {
        format!("{}{number:09}", self.prefix)
    }

    /// Opens the connections, then sends. `on_send` is told each message's number and when it was sent, or due.
    ///
    /// # Errors
    /// When a connection cannot be opened: nothing was sent then.
    pub(super) fn run(
        &self,
        plan: &Plan,
        progress: &mut Progress,
        on_send: &(dyn Fn(u64, Instant) + Sync),
    ) -> io::Result<Outcome> {
        let clients: Vec<Client> = (0..plan.connections)
            .map(|index| Client::open(&plan.targets[index % plan.targets.len()], plan.timeout))
            .collect::<io::Result<_>>()?;
        let first = self.next.load(Relaxed);
        let (done, ended) = mpsc::channel();
        let mut total = Outcome::default();
        let began = Instant::now();
        std::thread::scope(|scope| {
            for client in clients {
                let (done, run) = (done.clone(), Run { load: self, plan, first, began, on_send });
                let work = move || {
                    let _ = done.send(run.connection(client));
                };
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
            }
            drop(done);
            loop {
                match ended.recv_timeout(SHOW_EVERY) {
                    Ok(outcome) => total.add(&outcome),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Ok::<_, io::Error>(()),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
                progress.show(self.next.load(Relaxed) - first, began.elapsed());
            }
        })?;
        total.took = began.elapsed();
        progress.clear();
        Ok(total)
    }
}

impl Run<'_> {
    /// One connection's part.
    fn connection(&self, mut client: Client) -> Outcome {
        let mut outcome = Outcome::default();
        let mut frame = Vec::new();
        while let Some((number, due)) = self.next_message() {
            if let Some(due) = due {
                wait_until(due);
            }
            let id = self.load.control_id(number);
            let template = &self.load.templates[(number % self.load.templates.len() as u64) as usize];
            template.write_frame(&id, &mut frame);
            let from = due.unwrap_or_else(Instant::now);
            (self.on_send)(number, from);
            outcome.sent += 1;
            match client.exchange(&frame, id.as_bytes(), template.is_enhanced()) {
                Ok(Answer::Accepted) => {
                    outcome.latency.record(from.elapsed());
                    outcome.accepted += 1;
                    outcome.bytes += (frame.len() - template::FRAMING_BYTES) as u64;
                }
                Ok(Answer::Rejected(code)) => {
                    outcome.rejected += 1;
                    outcome.first_error.get_or_insert_with(|| format!("a message was answered {code}"));
                }
                Err(error) => {
                    outcome.failed(error);
                    // What may still come on the old connection would answer the wrong message.
                    match client.open_again() {
                        Ok(again) => client = again,
                        Err(_) => break,
                    }
                }
            }
        }
        outcome
    }

    /// The next message's number, and when it is due; none when the run is over.
    fn next_message(&self) -> Option<(u64, Option<Instant>)> {
        let number = self.load.next.fetch_add(1, Relaxed);
        let place = number - self.first;
        let due = self.plan.rate.map(|rate| self.began + Duration::from_secs_f64(place as f64 / rate));
        let over = |end: Instant| due.unwrap_or_else(Instant::now) >= end;
        if place >= self.plan.count || self.plan.lasts.is_some_and(|lasts| over(self.began + lasts)) {
            return None;
        }
        Some((number, due))
    }
}

fn wait_until(due: Instant) {
    while let Some(rest) = due.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_id_gives_its_number_back() {
        let load = Load::new(Vec::new());
        assert_eq!(load.control_id(17).len(), 15);
        assert_eq!(load.number(load.control_id(17).as_bytes()), Some(17));
        assert_eq!(load.number(b"MSG1"), None);
        assert_eq!(load.number(Load::new(Vec::new()).control_id(17).replace('L', "M").as_bytes()), None);
    }

    #[test]
    fn what_was_sent_twice_over_adds_up() {
        let mut outcome =
            Outcome { sent: 2, accepted: 1, errors: 1, took: Duration::from_secs(1), ..Outcome::default() };
        assert!(!outcome.all_accepted());
        outcome.add(&Outcome { sent: 3, accepted: 3, took: Duration::from_secs(1), ..Outcome::default() });
        assert_eq!((outcome.sent, outcome.accepted, outcome.errors, outcome.per_second()), (5, 4, 1, 2.0));
    }
}
