//! `labwire journal`: what is in it, whether it is sound, pruning, backup and restore.

use serde_json::{Value, json};

use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::{Rig, labwire};

fn rig(peer: &MllpServer) -> Rig {
    Rig::with(&format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.peer]\ntype = \"mllp\"\naddress = \"{}\"\n",
        peer.address()
    ))
}

fn send(rig: &Rig, ids: &[&str]) {
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for id in ids {
        let message = format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|T|2.5\rPID|1||P-{id}\r");
        assert_eq!(field(&client.send(message.as_bytes()).unwrap(), "MSA", 1), "AA");
    }
}

/// Runs a command on a folder, without an engine.
fn offline(arguments: &[&str]) -> (i32, String) {
    let output = labwire().args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn a_backup_of_a_running_engine_is_restored_and_goes_on() {
    let peer = MllpServer::start();
    let mut rig = rig(&peer);
    send(&rig, &["A", "B"]);
    rig.wait_for("sent", 2);
    let backup = rig.path().join("backup");
    let backup = backup.to_str().unwrap().to_owned();
    let (code, text) = rig.cli(&["journal", "backup", &backup]);
    assert!(code == 0 && text.contains("1 segments") && text.contains(&backup), "{text}");
    let (code, text) = rig.cli(&["journal", "backup", &backup]);
    assert!(code == 1 && text.contains("not empty"), "{text}");
    let (status, answer) = rig.post("/api/v1/journal/backup", json!({ "folder": "backup" }).to_string());
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_request")), "{answer}");
    send(&rig, &["C"]);
    assert_eq!(rig.terminate().code(), Some(0));

    let data = rig.path().join("data");
    let (code, text) = offline(&["journal", "restore", &backup, "--data", data.to_str().unwrap()]);
    assert!(code == 1 && text.contains("not empty"), "{text}");
    std::fs::remove_dir_all(&data).unwrap();
    let (code, text) = offline(&["journal", "restore", &backup, "--data", data.to_str().unwrap(), "--format", "json"]);
    let copied: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &copied["segments"]), (0, &json!(1)), "{text}");
    rig.start();
    assert_eq!(rig.messages("").len(), 2, "as it was when the backup was made");
    send(&rig, &["D"]);
    rig.wait_for("sent", 3);
}

#[test]
fn verify_says_what_is_damaged() {
    let peer = MllpServer::start();
    let mut rig = rig(&peer);
    send(&rig, &["A", "B", "C"]);
    rig.wait_for("sent", 3);
    let data = rig.path().join("data").to_str().unwrap().to_owned();
    let (code, text) = offline(&["journal", "verify", "--data", &data]);
    assert!(code == 0 && text.contains("3 messages") && text.contains("all sound"), "beside the engine: {text}");
    rig.kill();
    let segment = std::fs::read_dir(rig.path().join("data/segments")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|extension| extension == "log")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // In the body: the reference has no separators before it.
    let at = bytes.windows(5).position(|window| window == b"||P-B").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (code, text) = offline(&["journal", "verify", "--data", &data]);
    assert!(code == 1 && text.contains("segment 1 at byte") && text.contains("1 places are damaged"), "{text}");
    assert!(!text.contains("P-"), "no content: {text}");
    let (code, text) = offline(&["journal", "verify", "--data", &data, "--format", "json"]);
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, found["damage"].as_array().unwrap().len(), &found["messages"]), (1, 1, &json!(3)), "{text}");
    assert_eq!(offline(&["journal", "verify", "--data", "/nowhere"]).0, 1);
}

#[test]
fn old_messages_are_pruned_by_age_or_size_and_the_figures_say_so() {
    let peer = MllpServer::start();
    let rig = rig(&peer);
    send(&rig, &["A", "B", "C"]);
    rig.wait_for("sent", 3);
    let (code, text) = rig.cli(&["journal", "stats"]);
    assert!(code == 0 && text.contains("there is room on the disk") && text.contains("segments"), "{text}");
    let (code, text) = rig.cli(&["journal", "stats", "--format", "json"]);
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert!(code == 0 && stats["appended"].as_u64().unwrap() >= 3 && stats["room"] == "enough", "{text}");
    let (code, text) = rig.cli(&["journal", "prune", "--older-than", "1d"]);
    assert!(code == 0 && text.starts_with("0 messages removed"), "{text}");
    assert_eq!(rig.messages("").len(), 3);
    let content = ["journal", "prune", "--before", "2100-01-01T00:00:00Z", "--content"];
    let (code, text) = rig.cli(&[&content[..], &["--dry-run"]].concat());
    assert!(
        code == 0 && text.starts_with("nothing was done; it would be: the content of 3 messages removed; 0"),
        "{text}"
    );
    assert!(rig.messages("").iter().all(|message| message["content_removed"].is_null()));
    let (code, text) = rig.cli(&content);
    assert!(code == 0 && text.starts_with("the content of 3 messages removed; 0 messages removed"), "{text}");
    assert!(rig.messages("").iter().all(|message| message["content_removed"].is_string()));
    let (code, text) = rig.cli(&["journal", "prune", "--before", "2100-01-01T00:00:00Z", "--dry-run"]);
    assert!(code == 0 && text.starts_with("nothing was done; it would be: 3 messages removed"), "{text}");
    assert_eq!(rig.messages("").len(), 3);
    let (code, text) = rig.cli(&["journal", "prune", "--before", "2100-01-01T00:00:00Z", "--format", "json"]);
    let pruned: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &pruned["messages"]), (0, &json!(3)), "{text}");
    assert_eq!(rig.messages("").len(), 0);
    send(&rig, &["D"]);
    rig.wait_for("sent", 1);
    let (code, text) = rig.cli(&["journal", "prune", "--free", "1GiB"]);
    assert!(code == 0 && text.starts_with("0 messages removed"), "the newest segment stays: {text}");
    for wrong in [
        &["journal", "prune"][..],
        &["journal", "prune", "--free", "1", "--yes"],
        &["journal", "prune", "--older-than", "old"],
        &["journal", "prune", "--free", "1MiB", "--content"],
    ] {
        assert_eq!(rig.cli(wrong).0, 2, "{wrong:?}");
    }
    let (status, answer) = rig.post("/api/v1/journal/prune", "{}");
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("before"), "{answer}");
}
