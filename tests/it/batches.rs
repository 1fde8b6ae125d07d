//! HL7 batches over MLLP, and messages that a step splits: whole or not at all, each part once and in order, through `kill -9`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

fn channel(peer: &MllpServer, port: u16, steps: &str) -> String {
    format!(
        r#"
name = "orders"
[source]
type = "mllp"
listen = "127.0.0.1:{port}"
{steps}
[destination.peer]
type = "mllp"
address = "{}"
retry = {{ first = "50ms", longest = "200ms" }}
"#,
        peer.address()
    )
}

/// An order; `wants` are MSH-15 and MSH-16.
fn order(id: &str, wants: &str) -> String {
    format!("MSH|^~\\&|LIS|A|LAB|B|20260115||ORM^O01|{id}|P|2.5|||{wants}\rPID|1||P{id}\rORC|NW|{id}\r")
}

fn batch(id: &str, declared: usize, orders: &[String]) -> Vec<u8> {
    let orders = orders.concat();
    format!("FHS|^~\\&|LIS|A|LAB|B|||||F{id}\rBHS|^~\\&|LIS|A|LAB|B|20260115||||{id}\r{orders}BTS|{declared}\rFTS|1\r")
        .into_bytes()
}

fn control_ids(peer: &MllpServer) -> Vec<String> {
    peer.received().iter().map(|message| field(message, "MSH", 10)).collect()
}

#[test]
fn a_batch_is_answered_with_a_batch_and_its_messages_arrive_one_by_one() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel(&peer, 0, ""));
    let mut client = MllpClient::connect(rig.listener("orders")).unwrap();
    // Original mode, nobody wants to know, receipt wanted, only errors.
    let orders = [order("1", "|"), order("2", "NE|NE"), order("3", "AL|NE"), order("4", "ER|ER")];
    let sent = batch("B1", 4, &orders);
    let answer = client.send(&sent).unwrap();
    let lines: Vec<&str> = answer.split('\r').filter(|line| !line.is_empty()).collect();
    let kinds: Vec<String> = lines.iter().map(|line| line.chars().take(8).collect()).collect();
    assert_eq!(
        kinds,
        ["FHS|^~\\&", "BHS|^~\\&", "MSH|^~\\&", "MSA|AA|1", "MSH|^~\\&", "MSA|CA|3", "BTS|2", "FTS|1"],
        "{answer}"
    );
    let bhs: Vec<&str> = lines[1].split('|').collect();
    assert_eq!(
        (&bhs[2..6], bhs[11]),
        (&["LAB", "B", "LIS", "A"][..], "B1"),
        "sender and receiver change places: {answer}"
    );
    assert_eq!(field(lines[0], "FHS", 11), "FB1");
    let own: BTreeSet<String> = [lines[2], lines[4]].iter().map(|msh| field(msh, "MSH", 10)).collect();
    assert_eq!(own.len(), 2, "each acknowledgement has a control id of its own");
    eventually("all four arrive", || (control_ids(&peer).len() == 4).then_some(()));
    assert_eq!(control_ids(&peer), ["1", "2", "3", "4"]);
    assert_eq!(peer.received()[2], order("3", "AL|NE"), "byte for byte");

    let whole = &rig.wait_for("split", 1)[0];
    assert_eq!((&whole["reason"], &whole["bytes"]), (&Value::from("split into 4 messages"), &Value::from(sent.len())));
    assert_eq!(whole["parts"], 4);
    let (code, shown) = rig.cli(&["messages", "show", whole["id"].as_str().unwrap()]);
    let parts = rig.wait_for("sent", 4);
    let second = parts.iter().find(|part| part["origin"]["part"]["number"] == 2).unwrap()["id"].as_str().unwrap();
    assert!(code == 0 && shown.contains(&format!("part 2: message {second}")), "{shown}");
    let shown = rig.cli(&["messages", "show", second]).1;
    assert!(shown.contains(&format!("part 2 of message {}", whole["id"].as_str().unwrap())), "{shown}");
    let numbers: BTreeSet<u64> = parts.iter().map(|part| part["origin"]["part"]["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2, 3, 4]));
    assert!(parts.iter().all(|part| part["origin"]["part"]["of"] == whole["id"]));
    assert_eq!(rig.messages("&order=3").len(), 2, "the third order is found in its part, and in the whole");

    // The answer got lost: the batch comes again.
    assert_eq!(client.send(&sent).unwrap(), answer);
    assert_eq!(client.send(&order("marker", "|").into_bytes()).map(|ack| field(&ack, "MSA", 1)).unwrap(), "AA");
    eventually("the marker arrives", || control_ids(&peer).contains(&"marker".to_owned()).then_some(()));
    assert_eq!(control_ids(&peer).len(), 5, "nothing was processed twice");
}

#[test]
fn a_batch_with_a_wrong_count_is_refused_as_a_whole() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel(&peer, 0, ""));
    let mut client = MllpClient::connect(rig.listener("orders")).unwrap();
    let orders = [order("1", "|"), order("2", "|"), order("3", "NE|NE")];
    let answer = client.send(&batch("B1", 4, &orders)).unwrap();
    let reason = "the batch is refused: line 12: BTS-1 says 4 messages, there are 3";
    let refusals: Vec<&str> = answer.split('\r').filter(|line| line.starts_with("MSA")).collect();
    assert_eq!(refusals, [format!("MSA|AR|1|{reason}"), format!("MSA|AR|2|{reason}")]);
    assert_eq!(rig.wait_for("rejected", 1)[0]["reason"], reason);
    // Another one, whose second message is cut: not one of them is processed.
    let cut = batch("B2", 2, &[order("4", "|"), "MSH|^~\\&\r".to_owned()]);
    assert!(client.send(&cut).unwrap().contains("MSA|AA|4"), "a short message is one all the same");
    let stray = batch("B3", 1, &["PID|1\r".to_owned(), order("5", "|")]);
    let answer = client.send(&stray).unwrap();
    assert!(answer.contains("MSA|AR||the batch is refused: line 3: segment stands outside any message"), "{answer}");
    assert_eq!(field(&client.send(&order("marker", "|").into_bytes()).unwrap(), "MSA", 1), "AA");
    let arrived = eventually("the marker arrives", || {
        Some(control_ids(&peer)).filter(|arrived| arrived.last().is_some_and(|last| last == "marker"))
    });
    assert_eq!(arrived, ["4", "", "marker"]);
}

/// A channel that splits each message of a batch in its turn: a part of a part goes its way like any other.
#[test]
fn a_part_is_split_again_and_run_again() {
    let peer = MllpServer::start();
    let steps = "[[transformer]]\nset = { \"MSH-5\" = \"BEFORE\" }\n[[transformer]]\nsplit = \"ORC\"\n[[transformer]]\nset = { \"MSH-6\" = \"{{ meta.part.number }} {{ msg['MSH-5'] }}\" }";
    let rig = Rig::with(&channel(&peer, 0, steps));
    let mut client = MllpClient::connect(rig.listener("orders")).unwrap();
    let order = |id: &str| order(id, "|") + "OBR|1\rORC|NW|second\rOBR|2\r";
    client.send(&batch("B1", 2, &[order("1"), order("2")])).unwrap();
    eventually("four arrive", || (peer.received().len() == 4).then_some(()));
    assert_eq!(control_ids(&peer), ["1.1", "1.2", "2.1", "2.2"]);
    let second = "MSH|^~\\&|LIS|A|BEFORE|2 BEFORE|20260115||ORM^O01|1.2|P|2.5||||\rPID|1||P1\rORC|NW|second\rOBR|2\r";
    assert_eq!(peer.received()[1], second);
    assert_eq!(rig.wait_for("split", 3).len(), 3, "the batch, and each message in it");
    let part = rig.messages("&control_id=1.2").remove(0);
    let id = part["id"].as_str().unwrap();
    let asked = serde_json::json!({ "ids": [id], "who": "anna", "why": "a test" }).to_string();
    let (status, answer) = rig.post("/api/v1/messages/reprocess", asked);
    assert_eq!(status, 200, "{answer}");
    eventually("it arrives again", || (peer.received().len() == 5).then_some(()));
    assert_eq!(peer.received()[4], second, "from behind the split on");
}

/// One who waits for the delivery is answered once the parts of the parts are delivered, too.
#[test]
fn a_batch_is_answered_when_all_that_became_of_it_is_delivered() {
    let peer = MllpServer::start();
    let file = channel(&peer, 0, "[[transformer]]\nsplit = \"ORC\"");
    let file = file.replacen("listen = ", "ack = \"delivered\"\nack_timeout = \"20s\"\nlisten = ", 1);
    let rig = Rig::with(&file);
    let mut client = MllpClient::connect(rig.listener("orders")).unwrap();
    let order = |id: &str| order(id, "|") + "OBR|1\rORC|NW|second\rOBR|2\r";
    let content = batch("B1", 2, &[order("1"), order("2")]);
    let answer = client.send(&content).unwrap();
    assert!(answer.contains("MSA|AA|1\r") && answer.contains("MSA|AA|2\r"), "{answer}");
    assert_eq!(control_ids(&peer), ["1.1", "1.2", "2.1", "2.2"], "all are there by then");
    assert_eq!(client.send(&content).unwrap(), answer, "it is told again");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

const ROUNDS: usize = 6;
const BATCHES: usize = 12;
const ORDERS: usize = 20;

/// Sends batches until each is acknowledged, through as many restarts as it takes.
fn send_all(address: SocketAddr, round: usize, acknowledged: &Mutex<usize>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut client = None;
    for number in 0..BATCHES {
        let id = format!("{round}-{number:02}");
        let orders: Vec<String> =
            (0..ORDERS).map(|order_number| order(&format!("{id}-{order_number:02}"), "|")).collect();
        let content = batch(&id, ORDERS, &orders);
        loop {
            assert!(Instant::now() < deadline, "the engine does not come back");
            let connected = client.take().or_else(|| MllpClient::connect(address).ok());
            let Some(mut connected) = connected else {
                std::thread::park_timeout(Duration::from_millis(10));
                continue;
            };
            match connected.send(&content) {
                Ok(answer) if answer.matches("MSA|AA|").count() == ORDERS => {
                    *acknowledged.lock().unwrap() += 1;
                    client = Some(connected);
                    break;
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}

#[test]
fn kill_9_leaves_a_batch_whole_or_all_of_its_parts() {
    let peer = MllpServer::start();
    let port = free_port();
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(&peer, port, ""));
    rig.start();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for round in 0..ROUNDS {
        let acknowledged: Arc<Mutex<usize>> = Arc::default();
        let sender = std::thread::spawn({
            let acknowledged = acknowledged.clone();
            move || send_all(address, round, &acknowledged)
        });
        let until = fastrand::usize(1..BATCHES);
        eventually("some are acknowledged", || (*acknowledged.lock().unwrap() >= until).then_some(()));
        rig.kill();
        rig.start();
        sender.join().unwrap();
    }
    let wholes = ROUNDS * BATCHES;
    eventually_within(Duration::from_secs(60), "all parts are sent", || {
        let counts = rig.get("/api/v1/channels").1["channels"][0]["messages"].clone();
        (counts["sent"] == wholes * ORDERS && counts["split"] == wholes).then_some(())
    });
    // Each part is in the journal once, whatever happened between.
    let mut of: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut before = String::new();
    loop {
        let page = rig.messages(&format!("&state=sent{before}"));
        let Some(last) = page.last() else { break };
        before = format!("&before={}", last["id"].as_str().unwrap());
        for part in page {
            let part = &part["origin"]["part"];
            let is_new =
                of.entry(part["of"].as_str().unwrap().to_owned()).or_default().insert(part["number"].as_u64().unwrap());
            assert!(is_new, "{part} is there twice");
        }
    }
    assert_eq!(of.len(), wholes);
    assert!(of.values().all(|numbers| numbers.len() == ORDERS));
    // What the kill cut off is sent again; what arrives for the first time is in order.
    let mut seen = BTreeSet::new();
    let firsts: Vec<String> = control_ids(&peer).into_iter().filter(|id| seen.insert(id.clone())).collect();
    assert_eq!(firsts.len(), wholes * ORDERS);
    assert!(firsts.is_sorted(), "in the order of arrival");
}
