//! The real journal with a switch before it: it can be made to wait and to fail, and tells what came to it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use labwire::journal::*;
use labwire::message::MessageId;
use tokio::sync::watch;

pub struct TestJournal {
    disk: Disk,
    arrivals: Mutex<Vec<Arrival>>,
    fails: AtomicBool,
    open: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl TestJournal {
    pub fn new() -> TestJournal {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let (open, _) = watch::channel(true);
        TestJournal { disk, arrivals: Mutex::default(), fails: AtomicBool::new(false), open, _folder: folder }
    }

    /// What came so far, also what is held or failed.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// From now on nothing gets to the disk until `release`.
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// From now on everything fails, as on a full disk.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Journal for TestJournal {
    fn folder(&self) -> Option<&Path> {
        None
    }

    async fn receive(&self, arrival: Arrival) -> Result<Receipt, JournalError> {
        self.arrivals.lock().unwrap().push(arrival.clone());
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        if self.fails.load(Ordering::SeqCst) {
            return Err(JournalError::Disk {
                action: "sync",
                path: "000001".into(),
                error: "No space left on device".into(),
            });
        }
        self.disk.receive(arrival).await
    }

    async fn transformed(
        &self,
        id: MessageId,
        at: Timestamp,
        outcome: Transformed,
        deliveries: Vec<NewDelivery>,
    ) -> Result<(), JournalError> {
        self.disk.transformed(id, at, outcome, deliveries).await
    }

    async fn split(&self, id: MessageId, at: Timestamp, parts: Vec<NewPart>) -> Result<(), JournalError> {
        self.disk.split(id, at, parts).await
    }

    async fn attempted(&self, delivery: DeliveryId, attempt: Attempt) -> Result<(), JournalError> {
        self.disk.attempted(delivery, attempt).await
    }

    async fn command(&self, delivery: DeliveryId, command: Command) -> Result<(), JournalError> {
        self.disk.command(delivery, command).await
    }

    fn untransformed(&self, channel: &str, after: u64, limit: usize) -> Result<Vec<Untransformed>, JournalError> {
        self.disk.untransformed(channel, after, limit)
    }

    fn queue(&self, lane: &Lane, after: u64, limit: usize) -> Result<Vec<Queued>, JournalError> {
        self.disk.queue(lane, after, limit)
    }

    fn outgoing(&self, delivery: &DeliveryId) -> Result<Outgoing, JournalError> {
        self.disk.outgoing(delivery)
    }

    fn holding(&self, lane: &Lane) -> Result<Vec<Holding>, JournalError> {
        self.disk.holding(lane)
    }

    fn depth(&self, lane: &Lane) -> Result<Depth, JournalError> {
        self.disk.depth(lane)
    }

    fn waiting(&self) -> Result<Vec<Waiting>, JournalError> {
        self.disk.waiting()
    }

    fn counts(&self, channel: &str) -> Result<Vec<(MessageState, u64)>, JournalError> {
        self.disk.counts(channel)
    }

    fn at_hand(&self, id: MessageId) -> Option<usize> {
        self.disk.at_hand(id)
    }

    fn received(&self, id: MessageId) -> Result<Option<Received>, JournalError> {
        self.disk.received(id)
    }

    fn story(&self, id: MessageId) -> Result<Option<Story>, JournalError> {
        self.disk.story(id)
    }

    fn search(&self, query: &Query) -> Result<Page, JournalError> {
        self.disk.search(query)
    }

    fn room(&self) -> Room {
        self.disk.room()
    }

    fn damage(&self) -> Vec<String> {
        self.disk.damage()
    }

    async fn prune(&self, prune: Prune) -> Result<Pruned, JournalError> {
        self.disk.prune(prune).await
    }

    fn disk(&self) -> Option<DiskSpace> {
        self.disk.disk()
    }

    async fn backup(&self, to: &std::path::Path) -> Result<Backup, JournalError> {
        self.disk.backup(to).await
    }

    fn stats(&self) -> Stats {
        self.disk.stats()
    }

    async fn failed(&self) -> JournalError {
        self.disk.failed().await
    }

    async fn close(&self) -> Result<(), JournalError> {
        self.disk.close().await
    }
}
