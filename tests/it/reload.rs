//! Channel files that change while the engine runs.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::fixture_bytes;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

fn channel(listen: &str, peer: SocketAddr, set: &str) -> String {
    format!(
        r#"
name = "results"
[source]
type = "mllp"
listen = "{listen}"
[[transformer]]
set = {{ "MSH-5" = "{set}" }}
[destination.peer]
type = "mllp"
address = "{peer}"
"#
    )
}

fn view(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1
}

fn send(address: SocketAddr) -> String {
    let ack = MllpClient::connect(address).unwrap().send(&fixture_bytes("hl7/oru-r01.hl7")).unwrap();
    field(&ack, "MSA", 1)
}

/// What the last message that the peer got has in MSH-5.
fn wait_for_receiver(peer: &MllpServer, expected: &str, send: impl Fn()) {
    eventually(&format!("messages come with MSH-5 = {expected}"), || {
        send();
        let before = peer.received().len();
        let last = eventually("the message arrives", || {
            peer.received().last().cloned().filter(|_| before > 0 || !peer.received().is_empty())
        });
        (field(&last, "MSH", 5) == expected).then_some(())
    });
}

#[test]
fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let address = rig.listener("results");
    wait_for_receiver(&peer, "ONE", || assert_eq!(send(address), "AA"));

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "TWO"));
    wait_for_receiver(&peer, "TWO", || assert_eq!(send(address), "AA"));

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "THREE").replace("set =", "sett ="));
    let mistake = eventually("the mistake is shown", || view(&rig)["diagnostics"][0].as_str().map(str::to_owned));
    assert!(
        mistake.contains("channel.toml:7:1") && mistake.contains("sett") && mistake.contains("did you mean `set`?"),
        "{mistake}"
    );
    assert_eq!(send(address), "AA");
    assert!(peer.received().iter().all(|message| field(message, "MSH", 5) != "THREE"));
    assert!(rig.log().contains("the last good version goes on"), "{}", rig.log());

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "FOUR"));
    wait_for_receiver(&peer, "FOUR", || assert_eq!(send(address), "AA"));
    assert_eq!(view(&rig)["diagnostics"], serde_json::json!([]));
}

#[test]
fn a_connection_outlives_a_change_that_leaves_the_source_alone() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    let message = fixture_bytes("hl7/oru-r01.hl7");
    assert_eq!(field(&client.send(&message).unwrap(), "MSA", 1), "AA");
    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "TWO"));
    eventually("the new version is in effect", || {
        assert_eq!(field(&client.send(&message).unwrap(), "MSA", 1), "AA");
        peer.received().iter().any(|message| field(message, "MSH", 5) == "TWO").then_some(())
    });
}

#[test]
fn a_port_that_is_taken_leaves_the_old_source_running() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    rig.write("channels/channel.toml", channel(&taken_address, peer.address(), "TWO"));
    eventually("the failure is logged", || rig.log().contains("its new version cannot be used").then_some(()));
    let address: SocketAddr =
        eventually("the old source is open again", || view(&rig)["channels"][0]["listens_on"].as_str()?.parse().ok());
    wait_for_receiver(&peer, "ONE", || assert_eq!(send(address), "AA"));
}

#[test]
fn a_source_that_cannot_be_opened_at_the_start_is_tried_again_and_others_work() {
    let peer = MllpServer::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let mut rig = Rig::new();
    rig.write(
        "channels/a.toml",
        channel(&taken_address.to_string(), peer.address(), "A").replace("\"results\"", "\"a\""),
    );
    rig.write("channels/b.toml", channel("127.0.0.1:0", peer.address(), "B").replace("\"results\"", "\"b\""));
    rig.start();
    assert_eq!(send(rig.listener("b")), "AA");
    assert_eq!(rig.get("/readyz").0, 503);
    assert_eq!(view(&rig)["channels"][0]["state"], "failed");
    drop(taken);
    eventually("the source opens by itself", || (view(&rig)["channels"][0]["state"] == "running").then_some(()));
    assert_eq!(send(taken_address), "AA");
    assert_eq!(rig.get("/readyz").0, 200);
}

#[test]
fn files_come_and_go_with_their_channels() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    rig.write(
        "channels/more/second.toml",
        channel("127.0.0.1:0", peer.address(), "TWO").replace("\"results\"", "\"second\""),
    );
    eventually("the new channel runs", || (view(&rig)["channels"].as_array()?.len() == 2).then_some(()));
    std::fs::remove_file(rig.channels().join("more/second.toml")).unwrap();
    eventually("the channel is gone", || (view(&rig)["channels"].as_array()?.len() == 1).then_some(()));
    assert_eq!(send(rig.listener("results")), "AA");
}

#[test]
fn a_template_that_changes_is_a_change_of_its_channel() {
    let rig = Rig::new();
    let channel = r#"
name = "bills"
action = 49
[source]
type = "event"
[[transformer]]
template = "templates/out.txt"
[destination.out]
type = "file"
directory = "../out"
file_name = "{{ meta.id }}.txt"
"#;
    rig.write("channels/templates/out.txt", "one");
    rig.write("channels/channel.toml", channel);
    let mut rig = rig;
    rig.start();
    rig.write("channels/templates/out.txt", "two");
    eventually("the new template is used", || {
        rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","data":{}}"#);
        let files = std::fs::read_dir(rig.path().join("out")).ok()?;
        files.flatten().any(|file| std::fs::read(file.path()).is_ok_and(|content| content == b"two")).then_some(())
    });
}
