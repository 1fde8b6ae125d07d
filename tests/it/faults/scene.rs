//! The checker: senders that remember what was acknowledged, a receiver that remembers what it got, the engine between them,
//! and the one invariant that must hold after every fault.
//!
//! acknowledged ⊆ journal ⊆ delivered ∪ queued ∪ dead ∪ filtered; first arrivals are in order; a repeat has the same control id
//! and the same bytes, and is of what was delivered shortly before; no message content in logs; the health endpoint is honest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::eventually::eventually_within;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

/// A word in every message that must never be in a log.
const CANARY: &str = "CANARIUS";
/// What is repeated was among so many first arrivals before.
const LOOK_BACK: usize = 600;

/// A port that nobody has now.
pub(super) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A result with this control id, the same at every call.
pub(super) fn message(id: &str) -> Vec<u8> {
    large_message(id, 0)
}

/// The same, so many bytes longer.
pub(super) fn large_message(id: &str, bytes: usize) -> Vec<u8> {
    let note = "x".repeat(bytes);
    format!(
        "MSH|^~\\&|LAB|A|B|C|20260115||ORU^R01|{id}|P|2.5\rPID|1||P-{id}||{CANARY}^ANNA\rOBX|1|NM|GLU||5.4\rNTE|1||{note}\r"
    )
    .into_bytes()
}

/// The control ids of one connection: `A-0000`, `A-0001` …
pub(super) fn ids(connection: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{connection}-{number:05}")).collect()
}

/// What the senders know: the control ids that were acknowledged, in the order of each connection.
pub(super) type Acknowledged = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

fn note(acknowledged: &Acknowledged, id: &str) {
    let connection = id.rsplit_once('-').map_or(id, |(connection, _)| connection);
    acknowledged.lock().unwrap().entry(connection.to_owned()).or_default().push(id.to_owned());
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) acknowledged: usize,
    pub(super) delivered: usize,
    pub(super) repeated: usize,
}

/// An engine with one channel from MLLP to MLLP, and what is needed to judge it.
pub(super) struct Scene {
    pub(super) rig: Rig,
    pub(super) address: SocketAddr,
    pub(super) peer_address: SocketAddr,
    pub(super) peer: Option<MllpServer>,
    pub(super) acknowledged: Acknowledged,
    logs: String,
}

impl Scene {
    /// A receiver that acknowledges, and the engine, which is not running yet.
    pub(super) fn new() -> Scene {
        Scene::with("", "")
    }

    /// The same with more keys for the source and for the destination.
    pub(super) fn with(source: &str, destination: &str) -> Scene {
        let peer = MllpServer::start();
        let mut scene = Scene::without_peer(source, destination, peer.address());
        scene.peer = Some(peer);
        scene
    }

    /// The same with nobody at the destination.
    pub(super) fn without_peer(source: &str, destination: &str, peer_address: SocketAddr) -> Scene {
        Scene::on(free_address(), source, destination, peer_address)
    }

    /// The same, listening on this address.
    pub(super) fn on(address: SocketAddr, source: &str, destination: &str, peer_address: SocketAddr) -> Scene {
        let rig = Rig::new();
        rig.write(
            "channels/channel.toml",
            format!(
                "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"{address}\"\n{source}\n\
                 [[transformer]]\nset = {{ \"MSH-5\" = \"EHR\" }}\n\
                 [destination.peer]\ntype = \"mllp\"\naddress = \"{peer_address}\"\n\
                 retry = {{ first = \"20ms\", longest = \"100ms\" }}\n{destination}\n"
            ),
        );
        Scene { rig, address, peer_address, peer: None, acknowledged: Arc::default(), logs: String::new() }
    }

    /// The receiver comes up where it is expected.
    pub(super) fn start_peer(&mut self) {
        self.peer = Some(MllpServer::start_on(&self.peer_address.to_string()));
    }

    pub(super) fn client(&self) -> MllpClient {
        MllpClient::connect(self.address).unwrap()
    }

    /// Sends messages over one connection; each must be acknowledged.
    pub(super) fn send(&self, ids: &[String]) {
        let mut client = self.client();
        for id in ids {
            let answer = client.send(&message(id)).unwrap_or_else(|error| panic!("{id}: {error}\n{}", self.rig.log()));
            assert_eq!(field(&answer, "MSA", 1), "AA", "{answer}");
            note(&self.acknowledged, id);
        }
    }

    /// Sends one message and gives MSA-1 of the answer; none when the connection ended without one. An AA is remembered.
    pub(super) fn try_send(&self, id: &str) -> Option<String> {
        let answer = MllpClient::connect(self.address).and_then(|mut client| client.send(&message(id))).ok()?;
        let code = field(&answer, "MSA", 1);
        if code == "AA" {
            note(&self.acknowledged, id);
        }
        Some(code)
    }

    /// Senders at work in the background, one per connection.
    pub(super) fn load(&self, round: &str, connections: usize, each: usize) -> Load {
        let stop: Arc<AtomicBool> = Arc::default();
        let sent: Arc<AtomicU64> = Arc::default();
        let senders = (0..connections)
            .map(|number| {
                let ids = ids(&format!("{round}C{number}"), each);
                let (address, acknowledged) = (self.address, self.acknowledged.clone());
                let (stop, sent) = (stop.clone(), sent.clone());
                std::thread::spawn(move || send_all(address, &ids, &acknowledged, &stop, &sent))
            })
            .collect();
        Load { senders, stop, sent }
    }

    /// This was acknowledged.
    pub(super) fn remember(&self, id: &str) {
        note(&self.acknowledged, id);
    }

    pub(super) fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().unwrap().values().map(Vec::len).sum()
    }

    /// `kill -9`; the log is kept.
    pub(super) fn kill(&mut self) {
        self.logs += &self.rig.log();
        self.rig.kill();
    }

    /// Waits until the engine, which was killed by something else, is gone; the log is kept.
    pub(super) fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let status = self.rig.wait_for_end();
        self.logs += &self.rig.log();
        status
    }

    /// Every message of the journal by its control id.
    pub(super) fn journal(&self) -> HashMap<String, Vec<Value>> {
        journal_of(&self.rig)
    }

    /// Restarts the engine, lets everything go out, and checks the invariant.
    #[track_caller]
    pub(super) fn restart_and_verify(&mut self) -> Tally {
        self.kill();
        self.rig.start();
        self.verify()
    }

    /// Waits until nothing waits any more, and checks the invariant.
    #[track_caller]
    pub(super) fn verify(&mut self) -> Tally {
        self.drain();
        let journal = self.journal();
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let received = self.peer.as_ref().map(MllpServer::received).unwrap_or_default();
        let arrived: BTreeSet<String> = received.iter().map(|message| field(message, "MSH", 10)).collect();
        for id in acknowledged.values().flatten() {
            let messages = journal.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is not in the journal"));
            let states: Vec<&str> = messages.iter().map(|message| message["state"].as_str().unwrap()).collect();
            let is_done = states.iter().any(|state| match *state {
                "sent" => arrived.contains(id),
                state => ["queued", "retrying", "dead", "filtered", "cancelled"].contains(&state),
            });
            assert!(is_done, "{id} is {states:?} in the journal; arrived: {}", arrived.contains(id));
        }
        let repeated = check_arrivals(&received, acknowledged.values());
        let (status, ready) = self.rig.get("/readyz");
        assert_eq!((status, &ready["ready"]), (200, &Value::Bool(true)), "{ready}");
        let log = self.logs.clone() + &self.rig.log();
        assert!(!log.contains(CANARY), "content in the log: {log}");
        Tally { acknowledged: acknowledged.values().map(Vec::len).sum(), delivered: received.len(), repeated }
    }

    /// Waits until no message is on its way.
    #[track_caller]
    pub(super) fn drain(&self) {
        eventually_within(Duration::from_secs(120), "everything goes out", || {
            let counts = self.rig.get("/api/v1/channels").1["channels"][0]["messages"].clone();
            let waiting = ["received", "queued", "retrying"].map(|state| counts[state].as_u64().unwrap_or(0));
            (waiting.iter().sum::<u64>() == 0).then_some(())
        });
    }
}

/// First arrivals in the order of each connection; repeats alike and near. Gives the number of repeats.
fn check_arrivals<'a>(received: &[String], connections: impl Iterator<Item = &'a Vec<String>>) -> usize {
    let mut first: HashMap<String, (usize, &String)> = HashMap::new();
    let mut repeated = 0;
    for message in received {
        let id = field(message, "MSH", 10);
        let count = first.len();
        let (position, text) = *first.entry(id.clone()).or_insert((count, message));
        if position < count {
            repeated += 1;
            assert_eq!(text, message, "a repeat of {id} is not the same");
            assert!(count - position <= LOOK_BACK, "{id} is repeated after {} others", count - position);
        }
    }
    for ids in connections {
        let order: Vec<usize> = ids.iter().filter_map(|id| first.get(id)).map(|(position, _)| *position).collect();
        assert!(order.is_sorted(), "out of order: {ids:?} arrived as {order:?}");
    }
    repeated
}

/// Every message of an engine's journal by its control id.
pub(super) fn journal_of(rig: &Rig) -> HashMap<String, Vec<Value>> {
    let mut found: HashMap<String, Vec<Value>> = HashMap::new();
    let mut before = String::new();
    loop {
        let (status, page) = rig.get(&format!("/api/v1/messages?limit=1000{before}"));
        assert_eq!(status, 200, "{page}");
        for message in page["messages"].as_array().unwrap() {
            let refs = message["refs"].as_array().unwrap();
            for id in refs.iter().filter(|found| found["kind"] == "control_id") {
                found.entry(id["value"].as_str().unwrap().to_owned()).or_default().push(message.clone());
            }
        }
        match page["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => return found,
        }
    }
}

/// Senders in the background.
pub(super) struct Load {
    senders: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Load {
    /// Waits until every message was acknowledged; says how many sendings that took.
    pub(super) fn finish(self) -> u64 {
        for sender in self.senders {
            sender.join().unwrap();
        }
        self.sent.load(Ordering::SeqCst)
    }

    /// No new messages; says how many were sent.
    pub(super) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.finish()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.senders.iter().all(JoinHandle::is_finished)
    }
}

/// Sends messages until each is acknowledged once, through as many restarts as it takes: a message without an answer, or with a
/// refusal, is sent again, as real senders do.
fn send_all(address: SocketAddr, ids: &[String], acknowledged: &Acknowledged, stop: &AtomicBool, sent: &AtomicU64) {
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut client = None;
    for id in ids {
        loop {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            assert!(Instant::now() < deadline, "the engine does not come back");
            let Some(mut connected) = client.take().or_else(|| MllpClient::connect(address).ok()) else {
                std::thread::park_timeout(Duration::from_millis(10));
                continue;
            };
            sent.fetch_add(1, Ordering::SeqCst);
            if let Ok(answer) = connected.send(&message(id))
                && field(&answer, "MSA", 1) == "AA"
            {
                assert_eq!(&field(&answer, "MSA", 2), id);
                note(acknowledged, id);
                client = Some(connected);
                break;
            }
        }
    }
}
