//! Lanes: order, retry, dead letters, and what a destination's own keys do.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

/// A port on which nobody listens.
fn dead_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn channel(head: &str, destinations: &str) -> String {
    format!("name = \"results\"\n{head}\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{destinations}")
}

fn send(rig: &Rig, ids: &[&str]) {
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for id in ids {
        let message = format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|P|2.5\rPID|1||1||Nagy\r");
        assert_eq!(field(&client.send(message.as_bytes()).unwrap(), "MSA", 1), "AA");
    }
}

fn attempts(message: &Value, destination: &str) -> u64 {
    let deliveries = message["deliveries"].as_array().unwrap();
    deliveries.iter().find(|delivery| delivery["destination"] == destination).unwrap()["attempts"].as_u64().unwrap()
}

#[test]
fn retry_gives_up_after_its_attempts_and_waits_no_longer_than_it_says() {
    let dead = dead_port();
    // Without `longest` the waits would double to minutes; without `first` they would begin at up to ten seconds.
    let rig = Rig::with(&channel(
        "retry = { attempts = 12, first = \"1ms\", longest = \"3ms\" }",
        &format!(
            "[destination.one]\ntype = \"mllp\"\naddress = \"{dead}\"\n\
             [destination.two]\ntype = \"mllp\"\naddress = \"{dead}\"\nretry = {{ attempts = 2 }}\n"
        ),
    ));
    send(&rig, &["R1"]);
    let message = eventually("both are given up", || {
        let message = rig.messages("").pop()?;
        let dead = message["deliveries"].as_array()?.iter().filter(|delivery| delivery["state"] == "dead").count();
        (dead == 2).then_some(message)
    });
    assert_eq!((attempts(&message, "one"), attempts(&message, "two")), (12, 2), "the destination's own keys go before");
    let story = rig.story(message["id"].as_str().unwrap());
    let tries = story["deliveries_in_full"][0]["tries"].as_array().unwrap();
    assert_eq!(tries.len(), 12, "every attempt is journaled");
    assert!(tries[0]["error"].as_str().unwrap().contains(&dead.to_string()), "{}", tries[0]);
    assert!(tries[0]["next_at"].is_string() && tries[11]["next_at"].is_null());
}

#[test]
fn a_delivery_that_waits_holds_back_those_behind_it_and_no_other_lane() {
    let (slow, quick) = (MllpServer::start(), MllpServer::start());
    slow.answer_with("AE");
    let rig = Rig::with(&channel(
        "retry = { first = \"20ms\", longest = \"50ms\" }",
        &format!(
            "[destination.slow]\ntype = \"mllp\"\naddress = \"{}\"\n[destination.quick]\ntype = \"mllp\"\naddress = \"{}\"\n",
            slow.address(),
            quick.address()
        ),
    ));
    send(&rig, &["O1", "O2", "O3"]);
    eventually("the other lane goes on", || (quick.received().len() == 3).then_some(()));
    eventually("the first is tried again and again", || (slow.received().len() > 3).then_some(()));
    assert!(slow.received().iter().all(|message| field(message, "MSH", 10) == "O1"), "nothing overtakes");
    let lanes = rig.get("/api/v1/channels").1["channels"][0]["lanes"].clone();
    assert_eq!(lanes[0]["waiting"], 3, "{lanes}");
    assert_eq!(lanes[1]["waiting"], 0, "{lanes}");
    slow.answer_with("AA");
    rig.wait_for("sent", 3);
    let mut order: Vec<String> = slow.received().iter().map(|message| field(message, "MSH", 10)).collect();
    order.dedup();
    assert_eq!(order, ["O1", "O2", "O3"]);
}

#[test]
fn a_destination_has_its_own_when_and_its_own_steps() {
    let (all, some) = (MllpServer::start(), MllpServer::start());
    let rig = Rig::with(&channel(
        "",
        &format!(
            "[destination.all]\ntype = \"mllp\"\naddress = \"{}\"\n\
             [destination.some]\ntype = \"mllp\"\naddress = \"{}\"\nwhen = \"msg['MSH-10'] != 'W1'\"\n\
             [[destination.some.transformer]]\nset = {{ \"MSH-6\" = \"ONLY HERE\" }}\n\
             [[destination.some.transformer]]\nfilter = \"msg['MSH-10'] != 'W3'\"\n",
            all.address(),
            some.address()
        ),
    ));
    send(&rig, &["W1", "W2", "W3"]);
    rig.wait_for("sent", 3);
    let got = |peer: &MllpServer| -> Vec<(String, String)> {
        peer.received().iter().map(|message| (field(message, "MSH", 10), field(message, "MSH", 6))).collect()
    };
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(id, receiver)| ((*id).to_owned(), (*receiver).to_owned())).collect()
    };
    assert_eq!(got(&all), pairs(&[("W1", "C"), ("W2", "C"), ("W3", "C")]));
    assert_eq!(got(&some), pairs(&[("W2", "ONLY HERE")]));
    let states: Vec<Value> =
        rig.messages("").iter().rev().map(|message| message["deliveries"][1]["state"].clone()).collect();
    assert_eq!(states, [json!("filtered"), json!("sent"), json!("filtered")]);
}

#[test]
fn a_waiting_delivery_is_cancelled_and_the_next_goes_on() {
    let peer = MllpServer::start();
    peer.answer_with("AE");
    let rig = Rig::with(&channel(
        "retry = { first = \"20ms\", longest = \"50ms\" }",
        &format!("[destination.peer]\ntype = \"mllp\"\naddress = \"{}\"\n", peer.address()),
    ));
    send(&rig, &["C1", "C2"]);
    eventually("the first is tried", || (!peer.received().is_empty()).then_some(()));
    let first = rig.messages("").pop().unwrap()["id"].as_str().unwrap().to_owned();
    let (code, text) = rig.cli(&["messages", "cancel", &first, "--why", "sent by fax"]);
    assert_eq!(code, 0, "{text}");
    eventually("the second is tried", || {
        peer.received().iter().any(|message| field(message, "MSH", 10) == "C2").then_some(())
    });
    peer.answer_with("AA");
    eventually("the second is sent", || (rig.messages("")[0]["state"] == "sent").then_some(()));
    let story = rig.story(&first);
    assert_eq!(story["deliveries"][0]["state"], "cancelled");
    assert_eq!(story["commands"][0]["why"], "sent by fax");
}

#[test]
fn a_control_id_is_the_same_at_every_attempt_and_after_a_restart() {
    let peer = MllpServer::start();
    peer.answer_with("AE");
    let mut rig = Rig::new();
    rig.write(
        "channels/channel.toml",
        format!(
            "name = \"bills\"\naction = 49\n[source]\ntype = \"event\"\n[[transformer]]\ntemplate = \"templates/m.hl7\"\n\
             [destination.peer]\ntype = \"mllp\"\naddress = \"{}\"\nretry = {{ first = \"20ms\", longest = \"50ms\" }}\n",
            peer.address()
        ),
    );
    rig.write(
        "channels/templates/m.hl7",
        "MSH|^~\\&|L|A|||{{ now() | hl7_ts }}||ORM^O01|{{ ulid()[-20:] }}|P|2.5\nPID|1\n",
    );
    rig.start();
    rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","data":{}}"#);
    eventually("it is tried", || (peer.received().len() > 2).then_some(()));
    rig.kill();
    rig.start();
    let before = peer.received().len();
    eventually("it is tried after the restart", || (peer.received().len() > before).then_some(()));
    peer.answer_with("AA");
    rig.wait_for("sent", 1);
    let received = peer.received();
    assert!(received.iter().all(|message| *message == received[0]), "the same bytes at every attempt");
    assert_eq!(field(&received[0], "MSH", 10).len(), 20);
}
