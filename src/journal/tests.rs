//! What the journal does when the disk refuses, and when its process is killed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::segments::{Full, Medium};
use super::*;
use crate::message::MessageIds;

/// A disk that can be told to refuse.
#[derive(Default)]
struct Faulty {
    refuse_writes: AtomicBool,
    refuse_syncs: AtomicBool,
    /// As quick as no disk is.
    only_says_so: AtomicBool,
    syncs: AtomicUsize,
    syncs_by_the_writers_thread: AtomicUsize,
}

impl Medium for Faulty {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.refuse_writes.load(SeqCst) {
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::Error::from_raw_os_error(28));
        }
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, SeqCst);
        let by_writer = std::thread::current().name() == Some("labwire-journal");
        self.syncs_by_the_writers_thread.fetch_add(by_writer.into(), SeqCst);
        if self.refuse_syncs.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if self.only_says_so.load(SeqCst) { Ok(()) } else { file.sync_data() }
    }
}

fn arrival(ids: &MessageIds, bytes: usize) -> Arrival {
    Arrival {
        recipients: vec![Recipient { id: ids.next(), channel: "a".to_owned() }],
        received_at: Timestamp::now(),
        origin: Origin::default(),
        format: Format::Hl7,
        refs: Refs::default(),
        body: Bytes::from(vec![b'x'; bytes]),
        read: None,
        acknowledgement: None,
        rejected: None,
        identity: None,
    }
}

async fn refusing(tell: fn(&Faulty) -> &AtomicBool, action: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let faulty = Arc::new(Faulty::default());
    let ids = MessageIds::default();
    let disk = Arc::new(Disk::open_on(folder.path(), faulty.clone(), Full::At(1 << 20), 1 << 20).expect("it opens"));
    let kept = disk.receive(arrival(&ids, 100)).await.expect("a receipt").recipients()[0].id;
    tell(&faulty).store(true, SeqCst);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (disk, arrival) = (disk.clone(), arrival(&ids, 100));
            tokio::spawn(async move { disk.receive(arrival).await })
        })
        .collect();
    for task in tasks {
        let refused = task.await.expect("a task").expect_err("nothing is on disk");
        assert!(matches!(refused, JournalError::Disk { .. } | JournalError::Closed { .. }), "{refused}");
    }
    let failed = tokio::time::timeout(Duration::from_secs(5), disk.failed()).await.expect("it failed");
    assert!(failed.to_string().contains(action), "{failed}");
    let syncs = faulty.syncs.load(SeqCst);
    tell(&faulty).store(false, SeqCst);
    // Whoever comes while the writer is still telling the others hears the fault itself.
    let is_refused = |error: JournalError| matches!(error, JournalError::Disk { .. } | JournalError::Closed { .. });
    assert!(disk.receive(arrival(&ids, 1)).await.is_err_and(is_refused));
    assert!(disk.close().await.is_err_and(is_refused));
    assert_eq!(faulty.syncs.load(SeqCst), syncs, "a sync that failed is never tried again");
    assert!(disk.story(kept).expect("reading goes on").is_some());
    drop(disk);
    let disk = Disk::open(folder.path()).expect("it opens again");
    assert!(disk.story(kept).expect("a story").is_some());
    assert!(disk.damage().is_empty(), "{:?}", disk.damage());
    let _ = disk.receive(arrival(&ids, 100)).await.expect("a receipt");
}

/// The same when the writer was lent to whoever brings a message.
#[tokio::test]
async fn a_refused_sync_is_final_for_one_who_writes_alone() {
    let (folder, faulty) = (tempfile::tempdir().expect("a folder"), Arc::new(Faulty::default()));
    let ids = MessageIds::default();
    let disk = Disk::open_on(folder.path(), faulty.clone(), Full::At(1 << 20), 1 << 20).expect("it opens");
    faulty.only_says_so.store(true, SeqCst);
    let by_writer = || faulty.syncs_by_the_writers_thread.load(SeqCst);
    let mut alone = 0;
    // A machine that stands still for a moment looks like a slow disk.
    for _ in 0..10_000 {
        let before = by_writer();
        let _ = disk.receive(arrival(&ids, 100)).await.expect("a receipt");
        alone = if by_writer() == before { alone + 1 } else { 0 };
        if alone == 20 {
            break;
        }
    }
    assert_eq!(alone, 20, "nobody else asks, and the disk is quick");
    let syncs = faulty.syncs.load(SeqCst);
    faulty.refuse_syncs.store(true, SeqCst);
    let error = disk.receive(arrival(&ids, 100)).await.expect_err("nothing is on disk");
    assert!(matches!(error, JournalError::Disk { .. }), "{error}");
    assert!(disk.failed().await.to_string().contains("syncing of"));
    faulty.refuse_syncs.store(false, SeqCst);
    for _ in 0..3 {
        let error = disk.receive(arrival(&ids, 100)).await.expect_err("it is over");
        assert!(matches!(error, JournalError::Closed { .. }), "{error}");
    }
    assert!(disk.failed().await.to_string().contains("syncing of"), "the first failure is what is told");
    assert!(disk.close().await.is_err());
    assert_eq!(faulty.syncs.load(SeqCst), syncs + 1, "a sync that failed is never tried again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sync_is_final() {
    refusing(|faulty| &faulty.refuse_syncs, "syncing of").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_final() {
    refusing(|faulty| &faulty.refuse_writes, "writing of").await;
}

/// From the moment on at which it is looked at what may go, nothing of it is sent again: it would find its content gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_again_while_its_content_is_being_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("it opens");
    let ids = MessageIds::default();
    let id = disk.receive(arrival(&ids, 100)).await.expect("a receipt").recipients()[0].id;
    let out = |name: &str| NewDelivery { destination: name.to_owned(), outgoing: Some(Outgoing::default()), key: None };
    disk.transformed(id, Timestamp::now(), Transformed::Queued, vec![out("x"), out("y")]).await.expect("kept");
    let act = |name: &str, verb| {
        let command = Command { verb, who: String::new(), why: String::new(), at: Timestamp::now() };
        disk.command(DeliveryId { message: id, destination: name.to_owned() }, command)
    };
    act("x", Verb::Cancel).await.expect("kept");
    let going = disk.going(1).await.expect("nothing else is going");
    act("x", Verb::Retry).await.expect("it is not finished: its content stays");
    act("x", Verb::Cancel).await.expect("kept");
    act("y", Verb::Cancel).await.expect("kept");
    let refused = act("y", Verb::Retry).await.expect_err("it is finished");
    assert!(matches!(refused, JournalError::Removed { .. }), "{refused}");
    drop(going);
    act("y", Verb::Retry).await.expect("it was not removed after all");
}

#[tokio::test]
async fn failed_does_not_complete_without_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("it opens");
    disk.close().await.expect("it closes");
    assert!(tokio::time::timeout(Duration::from_millis(50), disk.failed()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_waits_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let ids = MessageIds::default();
    let disk = Arc::new(Disk::open(folder.path()).expect("it opens"));
    // The largest goes alone: it takes all the room there is.
    let sizes = [70 << 20, 20 << 20, 1, 20 << 20, 300_000, 30 << 20];
    let tasks: Vec<_> = sizes
        .into_iter()
        .map(|bytes| {
            let (disk, arrival) = (disk.clone(), arrival(&ids, bytes));
            tokio::spawn(async move {
                let receipt = disk.receive(arrival).await.expect("a receipt");
                disk.story(receipt.recipients()[0].id)
                    .expect("a story")
                    .expect("a message")
                    .body
                    .kept()
                    .map_or(0, Bytes::len)
            })
        })
        .collect();
    for (task, bytes) in tasks.into_iter().zip(sizes) {
        assert_eq!(task.await.expect("a task"), bytes);
    }
    disk.close().await.expect("it closes");
    drop(disk);
    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    let disk = Disk::open(folder.path()).expect("it opens");
    assert!(disk.damage().is_empty());
    assert_eq!(disk.untransformed("a", 0, 100).expect("a list").len(), sizes.len());
}

/// Runs in a process of its own, started by `kill_9_loses_nothing`: works until it is killed and says what is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(folder) = std::env::var_os("JOURNAL_FOLDER") else { return };
    let disk = Arc::new(
        Disk::open_on(Path::new(&folder), Arc::new(super::segments::RealDisk), Full::At(1 << 20), 1 << 20)
            .expect("it opens"),
    );
    tokio::spawn({
        let disk = disk.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                disk.prune(Prune::content(Timestamp::now())).await.expect("pruned");
            }
        }
    });
    let ids = Arc::new(MessageIds::default());
    let tasks = (0..16).map(|task| {
        let (disk, ids) = (disk.clone(), ids.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let id = disk.receive(arrival(&ids, 700)).await.expect("a receipt").recipients()[0].id;
                let mut said = format!("{id} received\n");
                if n % 2 == task % 2 {
                    let out = |name: &str| NewDelivery {
                        destination: name.to_owned(),
                        outgoing: Some(Outgoing::default()),
                        key: None,
                    };
                    let deliveries = vec![out("x"), out("y")];
                    disk.transformed(id, Timestamp::now(), Transformed::Queued, deliveries).await.expect("kept");
                    let attempt = |state| Attempt {
                        started_at: Timestamp::now(),
                        duration_ms: 1,
                        state,
                        next_at: None,
                        error: None,
                        counted: true,
                        holds: false,
                        to: None,
                        answered: None,
                        response: None,
                    };
                    let delivery = |name: &str| DeliveryId { message: id, destination: name.to_owned() };
                    let state = [DeliveryState::Sent, DeliveryState::Dead, DeliveryState::Retrying][n % 3];
                    disk.attempted(delivery("x"), attempt(state)).await.expect("kept");
                    if n % 3 == 0 {
                        disk.attempted(delivery("y"), attempt(state)).await.expect("kept");
                    }
                    said = format!("{id} {}\n", ["sent", "dead", "queued"][n % 3]);
                }
                use std::io::Write;
                std::io::stdout().lock().write_all(said.as_bytes()).expect("the parent reads");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a task");
    }
}

#[test]
fn kill_9_loses_nothing() {
    let rounds = std::env::var("JOURNAL_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4_u64);
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged = std::collections::BTreeMap::new();
    let mut stripped = 0;
    for round in 0..rounds {
        let program = std::env::current_exe().expect("this program");
        let mut child = Process::new(program)
            .args(["--exact", "--nocapture", "journal::tests::child"])
            .env("JOURNAL_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        std::thread::park_timeout(Duration::from_millis(150 + fastrand::u64(..1600)));
        child.kill().expect("it is killed");
        child.wait().expect("it is gone");
        for line in reading.join().expect("the reader") {
            let Some((id, state)) = line.rsplit_once(' ') else { continue };
            let (Ok(id), Ok(state)) = (id.parse::<MessageId>(), state.parse::<MessageState>()) else { continue };
            acknowledged.insert(id, state);
        }
        let disk = Disk::open(folder.path()).expect("it opens");
        assert_eq!(disk.damage(), Vec::<String>::new(), "round {round}");
        for (id, state) in &acknowledged {
            let story = disk.story(*id).expect("a story").expect("acknowledged, so there");
            let found = story.summary.state;
            // The child may have got further than it could say.
            assert!(found == *state || *state == MessageState::Received, "round {round}: {id} {found} {state}");
            match story.body {
                Stored::Kept(body) => assert_eq!(body.len(), 700),
                Stored::Removed(removed) => {
                    assert!(
                        found == MessageState::Sent && removed.bytes == 700,
                        "round {round}: {id} {found} {removed:?}"
                    );
                    stripped += 1;
                }
            }
        }
        recount(&disk);
    }
    assert!(acknowledged.len() > 100 && stripped > 10, "{} {stripped}", acknowledged.len());
}

/// Counters and lists say the same.
fn recount(disk: &Disk) {
    let mut total = 0;
    for (state, count) in disk.counts("a").expect("counts") {
        let query = Query { channel: Some("a".to_owned()), state: Some(state), limit: usize::MAX, ..Query::default() };
        let page = disk.search(&query).expect("a page");
        assert!(page.messages.iter().all(|found| found.state == state));
        assert_eq!(page.messages.len() as u64, count, "{state}");
        total += page.messages.len();
    }
    let all = disk.search(&Query { limit: usize::MAX, ..Query::default() }).expect("a page").messages;
    assert_eq!(all.len(), total);
    for name in ["x", "y"] {
        let lane = Lane { channel: "a".to_owned(), destination: name.to_owned() };
        let waiting = all
            .iter()
            .flat_map(|found| &found.deliveries)
            .filter(|delivery| delivery.destination == name && delivery.state.is_waiting());
        let waiting = waiting.count();
        assert_eq!(disk.depth(&lane).expect("a depth").waiting, waiting as u64);
        assert_eq!(disk.queue(&lane, 0, usize::MAX >> 1).expect("a queue").len(), waiting);
    }
}
