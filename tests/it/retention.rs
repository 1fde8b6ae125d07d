//! What is old goes by itself; what is unsent or parked stays.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::rig::{Rig, labwire};

const CHANNEL: &str = r#"
name = "results"
[source]
type = "mllp"
listen = "127.0.0.1:0"
[destination.archive]
type = "file"
directory = "../archive"
file_name = "{{ msg['MSH-10'] }}.hl7"
[destination.peer]
type = "mllp"
address = "127.0.0.1:9"
when = "msg['PID-3'] == 'waits'"
retry = { first = "1h", longest = "1h" }
"#;

fn message(id: &str, patient: &str) -> Vec<u8> {
    format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|P|2.5\rPID|1||{patient}\r").into_bytes()
}

fn rig(arguments: &[&'static str]) -> Rig {
    let mut rig = Rig::new();
    rig.write("channels/results.toml", CHANNEL);
    rig.arguments = arguments.to_vec();
    rig.start();
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for (id, patient) in [("1", "goes"), ("2", "waits"), ("3", "goes")] {
        assert_eq!(field(&client.send(&message(id, patient)).unwrap(), "MSA", 1), "AA");
    }
    rig.wait_for("sent", 2);
    rig
}

#[test]
fn what_is_older_than_it_is_kept_for_is_pruned_at_the_start() {
    let mut rig = rig(&["--keep", "30d"]);
    rig.terminate();
    rig.start();
    assert_eq!(rig.messages("").len(), 3, "a month has not passed");
    let queued = rig.wait_for("queued", 1).remove(0);
    rig.terminate();
    rig.arguments = vec!["--keep", "1ms", "--keep-metadata", "1ms"];
    rig.start();
    let left = eventually_within(Duration::from_secs(20), "what is sent is pruned", || {
        let left = rig.messages("");
        (left.len() == 1).then_some(left)
    });
    assert_eq!(left[0]["id"], queued["id"], "what is unsent stays");
    rig.kill();
    rig.arguments = vec!["--keep", "30d"];
    rig.start();
    assert_eq!(rig.wait_for("queued", 1)[0]["id"], queued["id"]);
    assert_eq!(rig.messages("").len(), 1, "what is gone does not come back");
    let story = rig.story(queued["id"].as_str().unwrap());
    assert!(story["body"].to_string().contains("PID|1||waits"), "with all that was known of it");
}

#[test]
fn content_goes_after_its_time_and_what_is_known_of_it_stays() {
    let mut rig = rig(&[]);
    let bodies =
        |rig: &Rig| rig.messages("").iter().map(|found| rig.story(found["id"].as_str().unwrap())).collect::<Vec<_>>();
    assert!(bodies(&rig).iter().all(|story| story["body"]["text"].is_string() && story["content_removed"].is_null()));
    rig.terminate();
    rig.arguments = vec!["--keep", "1ms"];
    rig.start();
    eventually_within(Duration::from_secs(20), "the content of what is sent is removed", || {
        rig.log().contains("pruned").then_some(())
    });
    rig.kill();
    rig.arguments = vec!["--keep", "30d"];
    rig.start();
    let stories = bodies(&rig);
    let states: Vec<_> = stories.iter().map(|story| story["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sent", "queued", "sent"]);
    assert!(stories[1]["body"]["text"].as_str().unwrap().contains("PID|1||waits"), "what is unsent stays");
    let sent = &stories[0];
    let removed = &sent["body"]["removed"];
    assert_eq!((&removed["bytes"], &removed["at"]), (&json!(message("3", "goes").len()), &sent["content_removed"]));
    assert_eq!(removed["sha256"].as_str().unwrap().len(), 64);
    let archive = &sent["deliveries_in_full"][0];
    assert_eq!((&archive["properties"]["file_name"], &archive["tries"][0]["state"]), (&json!("3.hl7"), &json!("sent")));
    assert!(
        archive["content"]["removed"].is_object() && archive["tries"][0]["response"]["removed"].is_object(),
        "{archive}"
    );
    assert!(sent["acknowledgement"]["removed"].is_object(), "{sent}");
    assert_eq!(rig.messages("&control_id=3").len(), 1, "it is found as before");
    refusals(&rig, sent["id"].as_str().unwrap(), stories[1]["id"].as_str().unwrap());
}

/// What needs the content is refused, in words, at that message alone.
fn refusals(rig: &Rig, gone: &str, waits: &str) {
    let why = |answer: &Value| {
        answer["refused"][0]["reason"].as_str().unwrap_or_default().contains("its content was removed on 2")
    };
    for (verb, dry_run) in [("resend", true), ("resend", false), ("reprocess", true), ("reprocess", false)] {
        let request = json!({ "ids": [gone], "dry_run": dry_run }).to_string();
        let (status, answer) = rig.post(&format!("/api/v1/messages/{verb}"), request);
        assert!(status == 200 && why(&answer) && answer["done"] == json!([]), "{verb}: {status} {answer}");
    }
    let edited = String::from_utf8(message("4", "goes")).unwrap();
    let request = json!({ "ids": [gone], "body": edited }).to_string();
    let (_, answer) = rig.post("/api/v1/messages/reprocess", request);
    assert_eq!(answer["done"].as_array().unwrap().len(), 1, "with a body of its own it can: {answer}");
    let (code, text) = rig.cli(&["messages", "resend", gone]);
    assert!(code == 1 && text.contains("its content was removed on"), "{text}");
    let folder = rig.path().join("export");
    let (code, text) = rig.cli(&["messages", "export", gone, waits, "--to", folder.to_str().unwrap()]);
    assert!(code == 1 && text.contains("its content was removed on") && text.contains("1 messages in"), "{text}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the other one is there");
    let (code, text) = rig.cli(&["messages", "show", gone, "--content"]);
    assert!(code == 0 && text.contains("content removed on 2") && text.contains("0 days after receipt"), "{text}");
    assert!(text.contains("bytes, removed; sha256 ") && text.contains("-> archive: sent, 1 attempts"), "{text}");
    let (_, text) = rig.cli(&["messages", "list"]);
    assert_eq!(text.matches("(content removed)").count(), 2, "{text}");
    let (code, text) = rig.cli(&["journal", "stats"]);
    assert!(code == 0 && text.contains("1 of the segments hold metadata only"), "{text}");
    let data = rig.path().join("data");
    let (code, text) = rig.cli(&["journal", "verify", "--data", data.to_str().unwrap()]);
    assert!(
        code == 0 && text.contains("(1 without content, whose time was over)") && text.contains("all sound"),
        "{text}"
    );
}

#[test]
fn metadata_is_not_kept_for_less_than_content() {
    let output =
        labwire().args(["run", "--channels", "/nowhere", "--keep", "30d", "--keep-metadata", "29d"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("--keep-metadata: is shorter than --keep"), "{text}");
}

#[test]
fn a_full_disk_takes_nothing_that_is_younger_than_a_day() {
    let mut rig = rig(&[]);
    rig.terminate();
    rig.arguments = vec!["--prune-at", "0B"];
    rig.start();
    eventually("the disk was looked at", || rig.log().contains("the disk is fuller than").then_some(()));
    assert_eq!(rig.messages("").len(), 3);
}
