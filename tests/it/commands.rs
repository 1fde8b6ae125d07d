//! What people have done to messages: retry, cancel, resend, reprocess, export; by id, by filter, with who and why.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::{Rig, labwire};

fn rig(destinations: &[(&str, &MllpServer)]) -> Rig {
    let mut text = "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n".to_owned();
    for (name, peer) in destinations {
        text += &format!(
            "[destination.{name}]\ntype = \"mllp\"\naddress = \"{}\"\non_poison = \"dead_letter\"\n",
            peer.address()
        );
    }
    Rig::with(&text)
}

fn message(id: &str) -> String {
    format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|T|2.5\rPID|1||P-{id}\r")
}

/// Sends messages; gives their ids, oldest first.
fn send(rig: &Rig, ids: &[&str]) -> Vec<String> {
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for id in ids {
        assert_eq!(field(&client.send(message(id).as_bytes()).unwrap(), "MSA", 1), "AA");
    }
    let newest_first = rig.messages("");
    let sent = newest_first[..ids.len()].iter().rev();
    sent.map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

fn control_ids(peer: &MllpServer) -> Vec<String> {
    peer.received().iter().map(|message| field(message, "MSH", 10)).collect()
}

fn post(rig: &Rig, verb: &str, body: Value) -> (u16, Value) {
    rig.post(&format!("/api/v1/messages/{verb}"), body.to_string())
}

#[test]
fn what_was_sent_is_sent_once_more_with_who_and_why() {
    let (one, two) = (MllpServer::start(), MllpServer::start());
    let rig = rig(&[("one", &one), ("two", &two)]);
    let ids = send(&rig, &["A", "B"]);
    rig.wait_for("sent", 2);
    let (status, answer) = post(&rig, "resend", json!({ "ids": [ids[0]], "who": "ilona", "why": "their disk broke" }));
    assert_eq!((status, &answer["done"]), (200, &json!([{ "id": ids[0], "deliveries": 2 }])), "{answer}");
    eventually("both get it again", || (one.received().len() == 3 && two.received().len() == 3).then_some(()));
    assert_eq!(control_ids(&one), ["A", "B", "A"]);
    assert_eq!(one.received()[0], one.received()[2], "byte for byte");
    rig.wait_for("sent", 2);
    let (_, story) = rig.cli(&["messages", "show", &ids[0]]);
    for destination in ["one", "two"] {
        assert!(story.contains(&format!("resend of {destination} by ilona: their disk broke")), "{story}");
    }
    // By a filter, to one destination, from the command line; why need not be said.
    let (code, text) = rig.cli(&["messages", "resend", "--state", "sent", "--destination", "two"]);
    assert_eq!((code, text.matches("  1 deliveries").count()), (0, 2), "{text}");
    eventually("the second gets both again", || (two.received().len() == 5).then_some(()));
    assert_eq!(control_ids(&two)[3..], ["A", "B"], "oldest first");
    assert_eq!(one.received().len(), 3);
    let command = &rig.story(&ids[1])["commands"][0];
    assert_eq!((&command["verb"], &command["why"]), (&json!("resend"), &json!("")));
}

#[test]
fn a_refusal_names_message_destination_and_state() {
    let (good, bad) = (MllpServer::start(), MllpServer::start());
    bad.answer_with("AR");
    let rig = rig(&[("good", &good), ("bad", &bad)]);
    let id = &send(&rig, &["A"])[0];
    rig.wait_for("dead", 1);
    eventually("the other is sent", || (rig.story(id)["deliveries"][0]["state"] == "sent").then_some(()));
    MllpClient::connect(rig.listener("results")).unwrap().send(b"HELLO").unwrap();
    let rejected = rig.wait_for("rejected", 1)[0]["id"].as_str().unwrap().to_owned();
    let unknown = "01KF0K8Y20TEST000000000001";
    for (verb, id, destination, expected) in [
        ("retry", &**id, Some("good"), format!("message {id}, destination `good`: is sent, cannot retry")),
        ("cancel", id, Some("good"), format!("message {id}, destination `good`: is sent, cannot cancel")),
        ("resend", id, Some("bad"), format!("message {id}, destination `bad`: is dead, cannot resend")),
        ("retry", id, Some("other"), format!("message {id}: is dead, has no delivery to `other`")),
        ("resend", &rejected, None, format!("message {rejected}: is rejected, has no deliveries to resend")),
        ("retry", unknown, None, format!("message {unknown}: not in the journal")),
    ] {
        let (status, answer) = post(&rig, verb, json!({ "ids": [id], "destination": destination }));
        assert_eq!((status, &answer["done"]), (200, &json!([])), "{answer}");
        assert_eq!(answer["refused"], json!([{ "id": id, "reason": expected }]));
    }
    let (code, text) = rig.cli(&["messages", "resend", id, "--destination", "bad"]);
    assert!(code == 1 && text.contains("destination `bad`: is dead, cannot resend"), "{text}");
    assert_eq!(rig.story(id)["commands"], json!([]), "a refusal is no command");
    let (status, answer) = post(&rig, "retry", json!({ "ids": [id], "body": "MSH|" }));
    assert_eq!(status, 400, "{answer}");
}

#[test]
fn what_was_cancelled_is_retried_only_where_it_is_named() {
    let peer = MllpServer::start();
    peer.answer_with("AR");
    let rig = rig(&[("peer", &peer)]);
    let id = &send(&rig, &["A"])[0];
    rig.wait_for("dead", 1);
    let (_, answer) = post(&rig, "cancel", json!({ "ids": [id], "who": "ilona", "why": "by fax" }));
    assert_eq!(answer["done"][0]["deliveries"], 1, "{answer}");
    peer.answer_with("AA");
    let (_, answer) = post(&rig, "retry", json!({ "filter": { "channel": "results" } }));
    assert!(answer["refused"][0]["reason"].as_str().unwrap().contains("is cancelled, cannot retry"), "{answer}");
    let (_, answer) = post(&rig, "retry", json!({ "ids": [id], "destination": "peer" }));
    assert_eq!(answer["done"][0]["deliveries"], 1, "{answer}");
    rig.wait_for("sent", 1);
    let verbs: Vec<Value> =
        rig.story(id)["commands"].as_array().unwrap().iter().map(|command| command["verb"].clone()).collect();
    assert_eq!(verbs, ["cancel", "retry"]);
}

#[test]
fn a_dry_run_says_how_many_and_does_nothing() {
    let (good, bad) = (MllpServer::start(), MllpServer::start());
    bad.answer_with("AR");
    let rig = rig(&[("good", &good), ("bad", &bad)]);
    let ids = send(&rig, &["A", "B", "C"]);
    rig.wait_for("dead", 3);
    bad.answer_with("AA");
    for (verb, expected) in [
        ("retry", "would retry 3 deliveries of 3 messages"),
        ("cancel", "would cancel 3 deliveries of 3 messages"),
        ("resend", "would resend 3 deliveries of 3 messages"),
        ("reprocess", "would reprocess 3 messages"),
    ] {
        let (code, text) = rig.cli(&["messages", verb, "--state", "dead", "--dry-run"]);
        assert_eq!((code, text.trim()), (0, expected));
        let (_, answer) = post(&rig, verb, json!({ "ids": [ids[0]], "dry_run": true }));
        assert_eq!((&answer["dry_run"], answer["done"].as_array().unwrap().len()), (&json!(true), 1), "{answer}");
    }
    let (code, text) = rig.cli(&["messages", "retry", "--ref", "control_id=none", "--dry-run"]);
    assert_eq!((code, text.trim()), (0, "would retry 0 messages"));
    assert_eq!(rig.wait_for("dead", 3).len(), rig.messages("").len());
    assert!(ids.iter().all(|id| rig.story(id)["commands"] == json!([])));
}

#[test]
fn on_a_terminal_a_filter_asks_first() {
    if Command::new("script").arg("--version").output().is_err() {
        return println!("not run: there is no `script` (util-linux) to make a terminal with");
    }
    let peer = MllpServer::start();
    let rig = rig(&[("peer", &peer)]);
    let id = &send(&rig, &["A"])[0];
    rig.wait_for("sent", 1);
    let on_a_terminal = |arguments: &str, typed: &str| {
        let command = format!("{} messages resend {arguments}", labwire().get_program().to_str().unwrap());
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("LABWIRE_ENGINE", rig.api().to_string());
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let asked = "resend 1 delivery of 1 message? [y/N]";
    let (code, text) = on_a_terminal("--state sent", "n\n");
    assert!(code == 1 && text.contains(asked) && text.contains("nothing was done"), "{text}");
    assert_eq!(rig.story(id)["commands"], json!([]));
    for (arguments, typed, asks) in
        [("--state sent", "y\n", true), ("--state sent --yes", "", false), (&**id, "", false)]
    {
        let (code, text) = on_a_terminal(arguments, typed);
        assert_eq!((code, text.contains(asked)), (0, asks), "{arguments}: {text}");
        rig.wait_for("sent", 1);
    }
    eventually("each was sent again", || (peer.received().len() == 4).then_some(()));
}

#[test]
fn an_edited_body_goes_with_a_filter_that_finds_one_message() {
    let peer = MllpServer::start();
    let rig = rig(&[("peer", &peer)]);
    let ids = send(&rig, &["A", "B"]);
    rig.wait_for("sent", 2);
    let edited = rig.write("edited.hl7", message("EDITED"));
    let edited = edited.to_str().unwrap();
    let (code, text) = rig.cli(&["messages", "reprocess", "--state", "sent", "--body", edited]);
    assert!(code == 1 && text.contains("exactly one message, not with 2"), "{text}");
    let arguments = ["messages", "reprocess", "--ref", "control_id=A", "--body", edited, "--why", "a wrong name"];
    let (code, text) = rig.cli(&arguments);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", 3);
    assert_eq!(control_ids(&peer).last().unwrap(), "EDITED");
    let (_, story) = rig.cli(&["messages", "show", rig.messages("")[0]["id"].as_str().unwrap()]);
    assert!(story.contains(&format!("made from message {} by", ids[0])) && story.contains(": a wrong name"), "{story}");
    let (_, answer) = post(&rig, "reprocess", json!({ "ids": [ids[0]], "body": "no HL7" }));
    let reason = answer["refused"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("message {}: the body cannot be read", ids[0])), "{reason}");
}

#[test]
fn many_are_done_in_their_order() {
    let peer = MllpServer::start();
    let rig = rig(&[("peer", &peer)]);
    let ids: Vec<String> = (0..200).map(|number| format!("M{number:03}")).collect();
    send(&rig, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    rig.wait_for("sent", ids.len());
    for verb in ["resend", "reprocess"] {
        let before = peer.received().len();
        let (status, answer) = post(&rig, verb, json!({ "filter": { "state": "sent" } }));
        assert_eq!(status, 200, "{answer}");
        eventually("all arrive", || (peer.received().len() == before + ids.len()).then_some(()));
        assert_eq!(control_ids(&peer)[before..], ids, "{verb}");
    }
}

#[test]
fn messages_are_exported_as_files_and_as_lines_of_json() {
    let peer = MllpServer::start();
    let rig = rig(&[("peer", &peer)]);
    let ids = send(&rig, &["A", "B", "C"]);
    let latin = b"MSH|^~\\&|L|A|B|C|2026||ORU^R01|D|T|2.5\rPID|1||||Jos\xe9\r";
    MllpClient::connect(rig.listener("results")).unwrap().send(latin).unwrap();
    rig.wait_for("sent", 4);
    let folder = rig.path().join("out/of/it");
    let (code, text) = rig.cli(&["messages", "export", "--channel", "results", "--to", folder.to_str().unwrap()]);
    assert!(code == 0 && text.contains("4 messages in"), "{text}");
    let files: BTreeSet<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4);
    let bodies: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(bodies[..3], ["A", "B", "C"].map(|id| message(id).into_bytes()));
    assert_eq!(bodies[3], latin, "the bytes as they came");
    assert!(files.iter().all(|path| path.metadata().unwrap().permissions().mode() & 0o077 == 0), "for nobody else");
    let (code, lines) = rig.cli(&["messages", "export", &ids[1], &ids[0]]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len(), &lines[0]["id"], &lines[1]["id"]), (0, 2, &json!(ids[1]), &json!(ids[0])));
    assert_eq!(lines[0]["deliveries_in_full"][0]["tries"][0]["state"], "sent");
    assert_eq!(rig.cli(&["messages", "export"]).0, 2);
    assert_eq!(rig.cli(&["messages", "export", "01KF0K8Y20TEST000000000001"]).0, 1);
}
