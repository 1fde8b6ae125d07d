//! Lanes: order per key, deliveries side by side, destinations that are down, and what a crash repeats.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::peer::Peer;
use crate::support::rig::Rig;

/// A channel with one MLLP destination.
pub fn channel(peer: &MllpServer, options: &str) -> String {
    channel_to(peer.address(), options)
}

fn channel_to(address: SocketAddr, options: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n\
         [destination.peer]\ntype = \"mllp\"\naddress = \"{address}\"\n{options}\n"
    )
}

/// Sends a message for each MSH-10; the letters before the first digit are the patient.
pub fn send<S: AsRef<str>>(rig: &Rig, ids: &[S]) {
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for id in ids.iter().map(AsRef::as_ref) {
        let message = format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|P|2.5\rPID|1||{}||Nagy\r", patient(id));
        assert_eq!(field(&client.send(message.as_bytes()).unwrap(), "MSA", 1), "AA");
    }
}

pub fn patient(id: &str) -> String {
    id.chars().take_while(|c| !c.is_ascii_digit()).collect()
}

/// The lane of the channel, as the API shows it.
pub fn lane(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0]["lanes"][0].clone()
}

/// The message with this MSH-10.
pub fn message(rig: &Rig, id: &str) -> Value {
    rig.messages(&format!("&control_id={id}")).pop().unwrap_or_default()
}

/// Letters and numbers: twelve patients with so many messages each, in turn.
fn rounds(each: usize) -> Vec<String> {
    let patients: Vec<char> = ('A'..='L').collect();
    (0..each).flat_map(|number| patients.iter().map(move |patient| format!("{patient}{number:04}"))).collect()
}

/// What was received of each patient, in order.
fn by_patient(ids: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in ids {
        found.entry(patient(id)).or_default().push(id.clone());
    }
    found
}

const QUICK: &str = "retry = { first = \"2ms\", longest = \"10ms\" }";
const KEYED: &str = "order_by = \"msg['PID-3.1']\"";

#[test]
fn side_by_side_each_key_keeps_its_order_also_when_some_are_repeated() {
    let peer = MllpServer::start();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    peer.answer_by(move |id| {
        let times = seen.entry(id.to_owned()).or_default();
        *times += 1;
        // Every seventh needs three tries.
        let number: usize = id[1..].parse().unwrap();
        if number % 7 == 3 && *times < 3 { "AE".to_owned() } else { "AA".to_owned() }
    });
    let rig = Rig::with(&channel(&peer, &format!("{KEYED}\nparallel = 8\n{QUICK}")));
    let ids = rounds(20);
    send(&rig, &ids);
    rig.wait_for("sent", ids.len());
    let received = by_patient(&peer.ids());
    for (patient, mut received) in received {
        let expected: Vec<_> = ids.iter().filter(|id| id.starts_with(&patient)).cloned().collect();
        let repeats = received.len() - expected.len();
        received.dedup();
        assert_eq!(received, expected, "what is repeated comes before what follows it");
        assert_eq!(repeats, 2 * 3, "{patient}: nothing but the refused is repeated");
    }
    assert!((2..=8).contains(&peer.connections()), "{} connections", peer.connections());
}

#[test]
fn so_many_are_under_way_at_once_as_the_file_says() {
    for (options, most) in [("", 1), (KEYED, 4), ("order_by = \"msg['PID-3.1']\"\nparallel = 6", 6)] {
        let peer = Peer::start(vec![], vec![]);
        let rig = Rig::with(&channel_to(peer.address(), &format!("{options}\nack_timeout = \"5s\"")));
        send(&rig, &rounds(1));
        eventually("they are under way", || (peer.log().received.len() >= most).then_some(()));
        rig.wait_for("queued", 12);
        assert_eq!(peer.log().received.len(), most);
        assert_eq!(peer.log().connections, most);
    }
}

#[test]
fn a_delivery_that_waits_for_its_retry_holds_back_its_own_key_only() {
    let peer = MllpServer::start();
    peer.answer_by(|id| if id == "A1" { "AE".to_owned() } else { "AA".to_owned() });
    let rig = Rig::with(&channel(&peer, &format!("{KEYED}\n{QUICK}")));
    send(&rig, &["A1", "A2", "B1", "A3", "B2", "C1"]);
    rig.wait_for("sent", 3);
    assert_eq!(by_patient(&peer.ids())["B"], ["B1", "B2"]);
    assert!(!peer.ids().iter().any(|id| id == "A2" || id == "A3"), "{:?}", peer.ids());
    peer.answer_with("AA");
    rig.wait_for("sent", 6);
    let mut ours = by_patient(&peer.ids())["A"].clone();
    ours.dedup();
    assert_eq!(ours, ["A1", "A2", "A3"]);
}

#[test]
fn keys_are_those_of_before_a_restart() {
    let peer = MllpServer::start();
    peer.answer_by(|id| if id.starts_with('A') { "AE".to_owned() } else { "AA".to_owned() });
    let mut rig = Rig::with(&channel(&peer, &format!("{KEYED}\n{QUICK}")));
    send(&rig, &["A1", "A2", "B1"]);
    rig.wait_for("sent", 1);
    rig.kill();
    rig.start();
    send(&rig, &["B2", "A3"]);
    rig.wait_for("sent", 2);
    peer.answer_with("AA");
    rig.wait_for("sent", 5);
    let mut ours = by_patient(&peer.ids())["A"].clone();
    ours.dedup();
    assert_eq!(ours, ["A1", "A2", "A3"]);
}

#[test]
fn what_was_queued_without_a_key_keeps_its_order_with_all_when_the_file_gets_one() {
    let peer = MllpServer::start();
    peer.answer_with("AE");
    let mut rig = Rig::with(&channel(&peer, QUICK));
    send(&rig, &["A1", "B1"]);
    eventually("it is tried", || (!peer.ids().is_empty()).then_some(()));
    rig.terminate();
    rig.write("channels/channel.toml", channel(&peer, &format!("{KEYED}\n{QUICK}")));
    rig.start();
    send(&rig, &["C1", "A2"]);
    let before = peer.ids().len();
    eventually("it is tried again", || (peer.ids().len() > before + 3).then_some(()));
    assert!(peer.ids().iter().all(|id| id == "A1"), "{:?}", peer.ids());
    peer.answer_with("AA");
    rig.wait_for("sent", 4);
    let mut received = peer.ids();
    received.dedup();
    assert_eq!(received[..2], ["A1", "B1"]);
}

#[test]
fn a_destination_that_is_down_is_tried_with_one_message_and_told_of_once() {
    let peer = MllpServer::start();
    peer.answer_with("CLOSE");
    let rig = Rig::with(&channel(
        &peer,
        &format!("{KEYED}\nparallel = 3\nretry = {{ first = \"5ms\", longest = \"20ms\" }}"),
    ));
    let ids = rounds(5);
    send(&rig, &ids);
    eventually("it is tried again and again", || (peer.ids().len() > 40).then_some(()));
    let tried: BTreeSet<String> = peer.ids().into_iter().collect();
    assert!(tried.len() <= 4, "the others wait: {tried:?}");
    let shown = lane(&rig);
    assert!(shown["down_since"].is_string() && shown["next_try"].is_string(), "{shown}");
    assert_eq!(shown["paused"], false, "{shown}");
    let (_, text) = rig.cli(&["channels"]);
    assert!(text.contains("; down since ") && text.contains("; next try "), "{text}");
    let count = |words: &str| rig.log().matches(words).count();
    assert_eq!((count("the destination is down"), count("answers again")), (1, 0), "{}", rig.log());
    peer.answer_with("AA");
    rig.wait_for("sent", ids.len());
    for (patient, mut received) in by_patient(&peer.ids()) {
        received.dedup();
        let expected: Vec<_> = ids.iter().filter(|id| id.starts_with(&patient)).cloned().collect();
        assert_eq!(received, expected);
    }
    assert_eq!((count("the destination is down"), count("answers again")), (1, 1), "{}", rig.log());
    let shown = lane(&rig);
    assert!(shown["down_since"].is_null() && shown["next_try"].is_null() && shown["error"].is_null(), "{shown}");
}

#[test]
fn somebody_who_retries_by_hand_does_not_wait_for_the_next_try() {
    let peer = MllpServer::start();
    peer.answer_with("CLOSE");
    let rig = Rig::with(&channel(&peer, "retry = { first = \"1h\", longest = \"1h\" }"));
    send(&rig, &["A1", "A2"]);
    let first = eventually("it waits", || {
        Some(message(&rig, "A1")).filter(|message| message["deliveries"][0]["state"] == "retrying")
    });
    peer.answer_with("AA");
    let (code, text) = rig.cli(&["messages", "retry", first["id"].as_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", 2);
    assert_eq!(peer.ids(), ["A1", "A1", "A2"]);
}

#[test]
fn what_is_cancelled_while_it_waits_is_not_sent() {
    let peer = MllpServer::start();
    peer.answer_with("AE");
    let rig = Rig::with(&channel(&peer, QUICK));
    send(&rig, &["A1", "A2", "A3"]);
    eventually("the first is tried", || (!peer.ids().is_empty()).then_some(()));
    let second = message(&rig, "A2")["id"].as_str().unwrap().to_owned();
    assert_eq!(rig.cli(&["messages", "cancel", &second]).0, 0);
    peer.answer_with("AA");
    eventually("the last is sent", || (message(&rig, "A3")["state"] == "sent").then_some(()));
    let mut received = peer.ids();
    received.dedup();
    assert_eq!(received, ["A1", "A3"]);
}

#[test]
fn without_a_crash_nothing_is_sent_twice() {
    let peer = MllpServer::start();
    let mut rig = Rig::with(&channel(&peer, QUICK));
    let ids: Vec<String> = (0..600).map(|number| format!("A{number:05}")).collect();
    send(&rig, &ids[..300]);
    assert_eq!(rig.terminate().code(), Some(0));
    rig.start();
    send(&rig, &ids[300..]);
    rig.wait_for("sent", ids.len());
    assert_eq!(peer.ids(), ids);
}

/// 32 whose result waits for its sync, and the one that is on its way.
const REPEATED_AT_MOST: usize = 33;

#[test]
fn kill_9_repeats_a_few_in_their_order_and_byte_for_byte() {
    let peer = MllpServer::start();
    let mut rig = Rig::with(&channel(&peer, QUICK));
    let ids: Vec<String> = (0..900).map(|number| format!("A{number:05}")).collect();
    peer.answer_with("AE");
    send(&rig, &ids);
    peer.answer_with("AA");
    for round in 1..=4 {
        let so_far = round * 200;
        eventually_within(std::time::Duration::from_secs(60), "some arrive", || {
            peer.ids().iter().collect::<BTreeSet<_>>().len().ge(&so_far).then_some(())
        });
        rig.kill();
        let before = peer.ids().len();
        rig.start();
        eventually("it goes on", || (peer.ids().len() > before).then_some(()));
    }
    rig.wait_for("sent", ids.len());
    let mut received = peer.received();
    let mut bodies: BTreeMap<String, String> = BTreeMap::new();
    for message in &received {
        let first = bodies.entry(field(message, "MSH", 10)).or_insert_with(|| message.clone());
        assert_eq!(first, message);
    }
    // The first was refused some times before the first kill.
    received.dedup();
    let order: Vec<usize> = received.iter().map(|message| field(message, "MSH", 10)[1..].parse().unwrap()).collect();
    let mut steps_back = 0;
    for pair in order.windows(2) {
        if pair[1] != pair[0] + 1 {
            assert!(pair[1] <= pair[0] && pair[0] + 1 - pair[1] <= REPEATED_AT_MOST, "{pair:?}");
            steps_back += 1;
        }
    }
    assert!(steps_back <= 4, "{steps_back}");
    assert_eq!(bodies.len(), ids.len());
}
