//! `kill -9`, SIGTERM and restarts: nothing that was acknowledged is lost, everything arrives, in order.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::{Rig, labwire};

const MESSAGES: usize = 1000;
const CONNECTIONS: usize = 4;
const ROUNDS: usize = 20;

fn channel(peer: SocketAddr, port: u16) -> String {
    format!(
        r#"
name = "results"
[source]
type = "mllp"
listen = "127.0.0.1:{port}"
[[transformer]]
set = {{ "MSH-5" = "EHR" }}
[destination.peer]
type = "mllp"
address = "{peer}"
retry = {{ first = "50ms", longest = "200ms" }}
"#
    )
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn message(control_id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|A|B|C|20260115||ORU^R01|{control_id}|P|2.5\rPID|1||P-{control_id}\rOBX|1|NM|GLU||5.4\r")
        .into_bytes()
}

/// Sends messages until each is acknowledged once, through as many restarts of the engine as it takes: a message without an
/// answer is sent again, as real senders do.
fn send_all(address: SocketAddr, ids: &[String], acknowledged: &Mutex<BTreeSet<String>>) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut client = None;
    for id in ids {
        loop {
            assert!(Instant::now() < deadline, "the engine does not come back");
            let connected = client.take().or_else(|| MllpClient::connect(address).ok());
            let Some(mut connected) = connected else {
                std::thread::park_timeout(Duration::from_millis(10));
                continue;
            };
            match connected.send(&message(id)) {
                Ok(ack) if field(&ack, "MSA", 1) == "AA" => {
                    assert_eq!(&field(&ack, "MSA", 2), id);
                    acknowledged.lock().unwrap().insert(id.clone());
                    client = Some(connected);
                    break;
                }
                // Stopping: AE with 207. Anything else: the connection broke.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

#[test]
fn kill_9_at_random_moments_loses_nothing_that_was_acknowledged() {
    let peer = MllpServer::start();
    let port = free_port();
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(peer.address(), port));
    rig.start();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut kills = 0;
    for round in 0..ROUNDS {
        let ids: Vec<String> = (0..MESSAGES).map(|number| format!("R{round:02}M{number:05}")).collect();
        let senders: Vec<_> = ids
            .chunks(MESSAGES / CONNECTIONS)
            .map(|ids| {
                let (ids, acknowledged) = (ids.to_vec(), acknowledged.clone());
                std::thread::spawn(move || send_all(address, &ids, &acknowledged))
            })
            .collect();
        // At the latest when half of the round is acknowledged, so that the kill falls into the run on any machine.
        let deadline = Instant::now() + Duration::from_millis(fastrand::u64(20..300));
        let half = (round * MESSAGES) + MESSAGES / 2;
        while Instant::now() < deadline && acknowledged.lock().unwrap().len() < half {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        assert!(!senders.iter().all(std::thread::JoinHandle::is_finished), "killed in the middle of the run");
        rig.kill();
        rig.start();
        kills += 1;
        for sender in senders {
            sender.join().unwrap();
        }
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert_eq!(acknowledged.len(), ROUNDS * MESSAGES);
    eventually_within(Duration::from_secs(120), "everything acknowledged arrives", || {
        let arrived: BTreeSet<String> = peer.received().iter().map(|message| field(message, "MSH", 10)).collect();
        acknowledged.is_subset(&arrived).then_some(())
    });
    let received = peer.received();
    assert!(received.iter().all(|message| field(message, "MSH", 5) == "EHR"), "each was transformed");
    let journaled: u64 = rig.get("/api/v1/channels").1["channels"][0]["messages"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert!(journaled >= acknowledged.len() as u64, "{journaled} are in the journal");
    println!(
        "{kills} kills; {} messages acknowledged, 0 lost; {journaled} journaled (a message whose acknowledgement was cut off is \
         sent again), {} deliveries arrived",
        acknowledged.len(),
        received.len()
    );
}

#[test]
fn what_waits_goes_out_in_order_after_a_restart() {
    let port = free_port();
    let peer_port = free_port();
    let peer_address = SocketAddr::from(([127, 0, 0, 1], peer_port));
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(peer_address, port));
    rig.start();
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    let ids: Vec<String> = (0..200).map(|number| format!("Q{number:05}")).collect();
    for id in &ids {
        assert_eq!(field(&client.send(&message(id)).unwrap(), "MSA", 1), "AA");
    }
    rig.kill();
    rig.start();
    let peer = MllpServer::start_on(&peer_address.to_string());
    eventually_within(Duration::from_secs(30), "everything arrives", || {
        (peer.received().len() >= ids.len()).then_some(())
    });
    let arrived: Vec<String> = peer.received().iter().map(|message| field(message, "MSH", 10)).collect();
    assert_eq!(arrived, ids);
    rig.wait_for("sent", ids.len());
}

#[test]
fn sigterm_under_load_ends_in_time_and_loses_nothing() {
    let peer = MllpServer::start();
    let port = free_port();
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(peer.address(), port));
    rig.start();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let ids: Vec<String> = (0..400).map(|number| format!("T{number:05}")).collect();
    let sender = {
        let (ids, acknowledged) = (ids.clone(), acknowledged.clone());
        std::thread::spawn(move || send_all(address, &ids, &acknowledged))
    };
    eventually("some are acknowledged", || (acknowledged.lock().unwrap().len() > 50).then_some(()));
    let start = Instant::now();
    let status = rig.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    rig.start();
    sender.join().unwrap();
    eventually("everything arrives", || {
        let arrived: BTreeSet<String> = peer.received().iter().map(|message| field(message, "MSH", 10)).collect();
        ids.iter().all(|id| arrived.contains(id)).then_some(())
    });
}

#[test]
fn a_second_engine_on_the_same_data_refuses_to_start() {
    let mut rig = Rig::with(&channel(SocketAddr::from(([127, 0, 0, 1], 9)), 0));
    let output = labwire()
        .args(["run", "--listen", "127.0.0.1:0", "--channels"])
        .arg(rig.channels())
        .arg("--data")
        .arg(rig.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another engine is running") && text.contains(&rig.pid().to_string()), "{text}");
    assert_eq!(rig.get("/readyz").0, 200, "the first one is not disturbed");
    rig.kill();
    rig.start();
}

#[test]
fn a_damaged_segment_is_reported_and_the_rest_is_delivered() {
    let port = free_port();
    let peer_port = free_port();
    let peer_address = SocketAddr::from(([127, 0, 0, 1], peer_port));
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(peer_address, port));
    rig.start();
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for number in 0..20 {
        client.send(&message(&format!("D{number:05}"))).unwrap();
    }
    rig.wait_for("queued", 20);
    rig.kill();
    let segments = rig.path().join("data/segments");
    let segment = std::fs::read_dir(&segments).unwrap().flatten().map(|entry| entry.path()).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let needle = b"P-D00007";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    std::fs::remove_dir_all(rig.path().join("data/index")).unwrap();
    let peer = MllpServer::start_on(&peer_address.to_string());
    rig.start();
    eventually("the others arrive", || {
        let arrived: BTreeSet<String> = peer.received().iter().map(|message| field(message, "MSH", 10)).collect();
        (0..20).filter(|number| *number != 7).all(|number| arrived.contains(&format!("D{number:05}"))).then_some(())
    });
    let damage = rig.get("/readyz").1["journal_damage"].clone();
    assert!(damage[0].as_str().is_some_and(|text| text.contains("segment 1 at byte")), "{damage}");
    assert!(rig.log().contains("damaged"), "{}", rig.log());
}

#[test]
fn no_message_content_is_logged() {
    let peer = MllpServer::start();
    peer.answer_with("AR");
    let mut rig = Rig::with(&channel(peer.address(), 0));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    let canary = "MSH|^~\\&|L|A|B|C|2026||ORU^R01|C1|P|2.5\rPID|1||CANARY7||CANARYNAME\r";
    client.send(canary.as_bytes()).unwrap();
    client.send(b"CANARYGARBAGE not HL7").unwrap();
    client.write(b"\x0bMSH|^~\\&|CANARYPARTIAL").unwrap();
    std::io::stdout().flush().unwrap();
    rig.wait_for("dead", 1);
    rig.wait_for("rejected", 1);
    drop(client);
    let status = rig.get("/api/v1/channels").1.to_string();
    assert!(!status.contains("CANARY"), "{status}");
    let log = rig.log();
    rig.terminate();
    assert!(!log.is_empty() && !log.contains("CANARY"), "{log}");
    let help = Command::new(env!("CARGO_BIN_EXE_labwire")).arg("--help").output().unwrap();
    assert!(help.status.success());
}
