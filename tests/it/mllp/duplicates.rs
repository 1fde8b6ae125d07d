//! The same message again: acknowledged as the first time, and not processed a second time.

use std::time::Duration;

use serde_json::Value;

use super::{message, short};
use crate::support::eventually::eventually;
use crate::support::listener::Listener;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

fn channel(name: &str, peer: &MllpServer, options: &str) -> String {
    format!(
        r#"
name = "{name}"
[source]
type = "mllp"
listen = "127.0.0.1:0"
{options}
[destination.peer]
type = "mllp"
address = "{}"
"#,
        peer.address()
    )
}

fn rig(peer: &MllpServer, options: &str) -> Rig {
    Rig::with(&channel("results", peer, options))
}

fn connect(rig: &Rig) -> MllpClient {
    MllpClient::connect(rig.listener("results")).unwrap()
}

fn counters(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0]["counters"].clone()
}

/// What arrived at the peer once `marker`, which is sent last, is there too: by MSH-10.
fn arrived_with(rig: &Rig, peer: &MllpServer, marker: &str) -> Vec<String> {
    assert_eq!(short(&connect(rig).send(&message(marker)).unwrap()), format!("AA/{marker}"));
    eventually("the last one arrives", || {
        let arrived: Vec<String> = peer.received().iter().map(|message| field(message, "MSH", 10)).collect();
        (arrived.last().is_some_and(|last| last == marker)).then_some(arrived)
    })
}

#[test]
fn the_same_message_again_gets_the_acknowledgement_of_the_first_time() {
    let peer = MllpServer::start();
    let rig = rig(&peer, "");
    let mut client = connect(&rig);
    let first = client.send(&message("1")).unwrap();
    let on_the_same_connection = client.send(&message("1")).unwrap();
    let on_another_one = connect(&rig).send(&message("1")).unwrap();
    assert_eq!(short(&first), "AA/1");
    assert_eq!((&on_the_same_connection, &on_another_one), (&first, &first), "byte for byte, with its own MSH-10");
    assert_eq!(arrived_with(&rig, &peer, "last"), ["1", "last"]);
    assert_eq!(rig.messages("").len(), 2);
    let counters = counters(&rig);
    assert_eq!((&counters["received"], &counters["repeated"]), (&2.into(), &2.into()));
    // Who sends a file twice to try a channel is told why nothing comes of it.
    eventually("it is logged", || (rig.log().matches("it came again").count() == 2).then_some(()));
}

#[test]
fn also_while_the_first_is_on_its_way_to_the_disk() {
    let listener = Listener::start("");
    let (mut one, mut two) = (listener.connect(), listener.connect());
    listener.journal.hold();
    one.write(&[frame(&message("1")), frame(&message("1"))].concat()).unwrap();
    listener.arrivals(1);
    two.write(&frame(&message("1"))).unwrap();
    listener.arrivals(2);
    assert!(two.is_silent(Duration::from_millis(100)), "a repeat too is acknowledged once it is on disk");
    listener.journal.release();
    let first = one.read().unwrap();
    assert_eq!(short(&first), "AA/1");
    assert_eq!(one.read().unwrap(), first);
    assert_eq!(two.read().unwrap(), first);
    assert_eq!((listener.counters().received, listener.counters().repeated), (1, 2));
}

#[test]
fn after_a_restart_and_after_kill_9() {
    let peer = MllpServer::start();
    let mut rig = rig(&peer, "");
    let first = connect(&rig).send(&message("1")).unwrap();
    rig.kill();
    rig.start();
    assert_eq!(connect(&rig).send(&message("1")).unwrap(), first);
    assert_eq!(rig.terminate().code(), Some(0));
    rig.start();
    assert_eq!(connect(&rig).send(&message("1")).unwrap(), first);
    rig.kill();
    // The index is made again from the segments, and still knows it.
    std::fs::remove_dir_all(rig.path().join("data/index")).unwrap();
    rig.start();
    assert_eq!(connect(&rig).send(&message("1")).unwrap(), first);
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn after_the_content_of_the_first_one_was_removed() {
    let peer = MllpServer::start();
    let rig = rig(&peer, "");
    assert_eq!(short(&connect(&rig).send(&message("1")).unwrap()), "AA/1");
    rig.wait_for("sent", 1);
    let (code, text) = rig.cli(&["journal", "prune", "--before", "2100-01-01T00:00:00Z", "--content"]);
    assert!(code == 0 && text.starts_with("the content of 1 messages removed"), "{text}");
    assert_eq!(short(&connect(&rig).send(&message("1")).unwrap()), "AA/1", "it is answered");
    assert_eq!(arrived_with(&rig, &peer, "2"), ["1", "2"], "and not sent again");
}

#[test]
fn the_same_control_id_with_another_body_is_a_new_message_and_flagged() {
    let peer = MllpServer::start();
    let rig = rig(&peer, "");
    let mut client = connect(&rig);
    let first = client.send(&message("1")).unwrap();
    let other = [&message("1")[..], b"NTE|1||CANARY\r"].concat();
    let second = client.send(&other).unwrap();
    assert_eq!(short(&second), "AA/1");
    assert_ne!(field(&first, "MSH", 10), field(&second, "MSH", 10));
    assert_eq!(client.send(&other).unwrap(), second, "the new one is what is known from now on");
    assert_eq!(arrived_with(&rig, &peer, "last"), ["1", "1", "last"]);
    let messages = rig.messages("");
    let flags: Vec<&Value> = messages.iter().map(|message| &message["origin"]["reused_key"]).collect();
    assert_eq!(flags, [&Value::Null, &true.into(), &Value::Null]);
    let counters = counters(&rig);
    let counted = [&counters["received"], &counters["repeated"], &counters["reused_keys"]];
    assert_eq!(counted, [&Value::from(3), &1.into(), &1.into()]);
    let log = rig.log();
    assert!(log.contains("its control id came shortly before") && !log.contains("CANARY"), "{log}");
    let (_, list) = rig.cli(&["messages", "list"]);
    assert_eq!(list.matches("(reused control id)").count(), 1, "{list}");
    let (_, story) = rig.cli(&["messages", "show", messages[1]["id"].as_str().unwrap()]);
    assert!(story.contains("its control id came shortly before with another content"), "{story}");
}

#[test]
fn devices_that_repeat_control_ids_can_be_taken_at_their_word() {
    let peer = MllpServer::start();
    let rig = rig(&peer, "duplicate_window = \"off\"");
    let mut client = connect(&rig);
    let (first, second) = (client.send(&message("1")).unwrap(), client.send(&message("1")).unwrap());
    assert_ne!(first, second);
    client.send(&[&message("1")[..], b"NTE|1\r"].concat()).unwrap();
    assert_eq!(arrived_with(&rig, &peer, "last"), ["1", "1", "1", "last"]);
    let counters = counters(&rig);
    assert_eq!((&counters["repeated"], &counters["reused_keys"]), (&0.into(), &0.into()));
}

#[test]
fn after_its_window_a_message_is_a_new_one() {
    let peer = MllpServer::start();
    let rig = rig(&peer, "duplicate_window = \"1s\"");
    let mut client = connect(&rig);
    let first = client.send(&message("1")).unwrap();
    assert_eq!(client.send(&message("1")).unwrap(), first);
    let later =
        eventually("the window passes", || Some(client.send(&message("1")).unwrap()).filter(|ack| *ack != first));
    assert_eq!(client.send(&message("1")).unwrap(), later, "and has a window of its own");
    assert_eq!(rig.messages("").len(), 2);
    assert_eq!(counters(&rig)["reused_keys"], 0);
}

#[test]
fn other_senders_and_other_channels_have_control_ids_of_their_own() {
    let peer = MllpServer::start();
    let mut rig = Rig::new();
    rig.write("channels/results.toml", channel("results", &peer, ""));
    rig.write("channels/orders.toml", channel("orders", &peer, ""));
    rig.start();
    let senders = ["A|B", "A|C", "AB|", "|AB", "A^B|"];
    let sent_by = |sender: &str| format!("MSH|^~\\&|{sender}|R|F|2026||ADT^A01|1|P|2.5\rPID|1\r");
    let mut client = connect(&rig);
    for sender in senders {
        client.send(sent_by(sender).as_bytes()).unwrap();
    }
    MllpClient::connect(rig.listener("orders")).unwrap().send(sent_by(senders[0]).as_bytes()).unwrap();
    let messages = rig.messages("");
    assert_eq!(messages.len(), senders.len() + 1);
    assert!(messages.iter().all(|message| message["origin"]["reused_key"].is_null()), "{messages:?}");
}

#[test]
fn what_has_no_control_id_or_was_rejected_is_looked_at_anew() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    for raw in [&message("")[..], &message("\"\"")[..], b"HELLO"] {
        let (first, second) = (client.send(raw).unwrap(), client.send(raw).unwrap());
        assert_ne!(field(&first, "MSH", 10), field(&second, "MSH", 10));
    }
    // Two messages in one frame are rejected; the first of them, sent alone, is not taken for a reused control id.
    let twice = message("7").repeat(2);
    assert_eq!(short(&client.send(&twice).unwrap()), "AR/7");
    assert_eq!(short(&client.send(&message("7")).unwrap()), "AA/7");
    let counters = listener.counters();
    assert_eq!((counters.repeated, counters.reused_keys, counters.rejected), (0, 0, 3));
}

#[test]
fn a_repeat_of_what_wanted_no_answer_gets_none() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    let silent = b"MSH|^~\\&|A|B|C|D|2026||ORU^R01|9|P|2.5|||NE|NE\rPID|1\r";
    client.write(&[frame(silent), frame(silent), frame(&message("next"))].concat()).unwrap();
    assert_eq!(short(&client.read().unwrap()), "AA/next");
    assert_eq!(listener.counters().repeated, 1);
}
