//! What the journal's promises cost, next to the disk that they rest on: `cargo bench --bench journal`.
//!
//! Each step of a message's way is written by one task, and by 64 at a time, as many connections would; beside it the same bytes
//! go to a plain file, as many at a time, with a sync for each group. Prints writes a second, the plain file's, and the ratio;
//! asserts nothing. Works below `target/`: on another disk the figures are another's.
#![allow(clippy::unwrap_used, clippy::disallowed_macros, missing_docs)]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use labwire::journal::*;
use labwire::message::{Format, MessageId, MessageIds, Origin, Refs};

use support::message;

const BYTES: usize = 1000;
const CHANNEL: &str = "bench";
const DESTINATION: &str = "peer";

fn arrival(id: MessageId, body: &Bytes) -> Arrival {
    Arrival {
        recipients: vec![Recipient { id, channel: CHANNEL.to_owned() }],
        received_at: Timestamp::now(),
        origin: Origin { source: "mllp".to_owned(), ..Origin::default() },
        format: Format::Hl7,
        refs: Refs::default(),
        body: body.clone(),
        read: None,
        acknowledgement: Some(Bytes::from_static(b"MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|MSG00001\r")),
        rejected: None,
        identity: None,
    }
}

fn attempt() -> Attempt {
    Attempt {
        started_at: Timestamp::now(),
        duration_ms: 1,
        state: DeliveryState::Sent,
        next_at: None,
        error: None,
        counted: true,
        holds: false,
        to: None,
        answered: None,
        response: Some(Bytes::from_static(b"MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|MSG00001\r")),
    }
}

/// A step of a message's way.
#[derive(Clone, Copy)]
enum Step {
    Receive,
    Transformed,
    Attempted,
}

impl Step {
    async fn write(self, journal: &dyn Journal, id: MessageId, body: &Bytes) {
        match self {
            Step::Receive => drop(journal.receive(arrival(id, body)).await.unwrap()),
            Step::Transformed => {
                let outgoing = Outgoing { content: body.clone(), ..Outgoing::default() };
                let delivery = NewDelivery { destination: DESTINATION.to_owned(), outgoing: Some(outgoing), key: None };
                journal.transformed(id, Timestamp::now(), Transformed::Queued, vec![delivery]).await.unwrap();
            }
            Step::Attempted => {
                let delivery = DeliveryId { message: id, destination: DESTINATION.to_owned() };
                journal.attempted(delivery, attempt()).await.unwrap();
            }
        }
    }
}

/// Writes a step of all messages, so many at a time; gives writes a second.
async fn journaled(journal: &Arc<Disk>, step: Step, ids: &Arc<Vec<MessageId>>, at_a_time: usize) -> f64 {
    let (next, body) = (Arc::new(AtomicUsize::new(0)), message(BYTES));
    let start = Instant::now();
    let tasks: Vec<_> = (0..at_a_time)
        .map(|_| {
            let (journal, ids, next, body) = (journal.clone(), ids.clone(), next.clone(), body.clone());
            tokio::spawn(async move {
                while let Some(id) = ids.get(next.fetch_add(1, Relaxed)) {
                    step.write(&*journal, *id, &body).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    ids.len() as f64 / start.elapsed().as_secs_f64()
}

/// Appends the messages to a plain file, a sync for each group; gives messages a second.
fn plain(folder: &Path, group: usize) -> f64 {
    let path = folder.join("plain");
    let mut file = std::fs::File::create(&path).unwrap();
    let group_bytes = vec![b'x'; group * BYTES];
    let (start, mut groups) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(700) {
        file.write_all(&group_bytes).unwrap();
        file.sync_data().unwrap();
        groups += 1;
    }
    std::fs::remove_file(path).unwrap();
    (groups * group) as f64 / start.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("{:<12}  {:>9}  {:>9}  {:>12}  {:>6}", "write", "at a time", "writes/s", "plain file/s", "ratio");
    for (at_a_time, count) in [(1, 1000), (64, 20_000)] {
        let journal = Arc::new(Disk::open(&folder.path().join(at_a_time.to_string())).unwrap());
        let source = MessageIds::default();
        let ids: Arc<Vec<MessageId>> = Arc::new((0..count).map(|_| source.next()).collect());
        let steps = [("receive", Step::Receive), ("transformed", Step::Transformed), ("attempted", Step::Attempted)];
        for (name, step) in steps {
            let before = plain(folder.path(), at_a_time);
            let rate = journaled(&journal, step, &ids, at_a_time).await;
            // Before and after, because a disk shared with others has better and worse seconds.
            let limit = (before + plain(folder.path(), at_a_time)) / 2.0;
            println!("{name:<12}  {at_a_time:>9}  {rate:>9.0}  {limit:>12.0}  {:>6.2}", rate / limit);
        }
        journal.close().await.unwrap();
    }
}
