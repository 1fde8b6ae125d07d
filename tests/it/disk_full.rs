//! A disk that is nearly full takes nothing in and lets everything out; one that is quite full ends the engine.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::{Rig, labwire};

const CHANNEL: &str = r#"
name = "results"
[source]
type = "mllp"
listen = "127.0.0.1:0"
[destination.peer]
type = "mllp"
address = "ADDRESS"
retry = { first = "50ms", longest = "100ms" }
"#;

const EVENTS: &str = r#"
name = "bills"
action = 49
[source]
type = "event"
[destination.peer]
type = "mllp"
address = "ADDRESS"
"#;

fn rig(address: &str, arguments: &[&'static str]) -> Rig {
    let mut rig = Rig::new();
    rig.write("channels/results.toml", CHANNEL.replace("ADDRESS", address));
    rig.write("channels/bills.toml", EVENTS.replace("ADDRESS", address));
    rig.arguments = arguments.to_vec();
    rig
}

fn message(id: &str, more: &str) -> Vec<u8> {
    format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|P|2.5\rPID|1\r{more}").into_bytes()
}

fn connect(rig: &Rig) -> MllpClient {
    MllpClient::connect(rig.listener("results")).unwrap()
}

/// Posts an event; gives the answer with its headers.
fn event(rig: &Rig) -> String {
    let body = json!({ "action": 49, "lab": "acme", "data": {} }).to_string();
    let head = "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
    let mut stream = TcpStream::connect(rig.api()).unwrap();
    stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.to_lowercase()
}

fn not_stored(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][1]["counters"]["not_stored"].clone()
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A file system of its own for the rig's data folder.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// None, and a word about it, where this machine does not let us mount.
    fn mount(mebibytes: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { folder });
        }
        println!("not run: a tmpfs cannot be mounted here (root can)");
        None
    }

    fn hold_data_of(&self, rig: &Rig) {
        std::os::unix::fs::symlink(self.folder.path(), rig.path().join("data")).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    fn free_mebibytes(&self) -> u64 {
        let output = Command::new("df").args(["-m", "--output=avail"]).arg(self.folder.path()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().nth(1).unwrap().trim().parse().unwrap()
    }

    /// Fills the disk until no more than this is left.
    fn fill(&self, mebibytes_left: u64) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        while self.free_mebibytes() > mebibytes_left {
            if filler.write_all(&vec![0; 1 << 20]).is_err() {
                break;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[test]
fn what_is_queued_goes_out_of_a_full_disk_and_messages_are_taken_again_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(400) else { return };
    let address = free_address();
    let mut rig = rig(&address, &["--disk-reserve", "100MiB"]);
    disk.hold_data_of(&rig);
    rig.start();
    let mut client = connect(&rig);
    for number in 0..20 {
        assert_eq!(field(&client.send(&message(&format!("Q{number}"), "")).unwrap(), "MSA", 1), "AA");
    }
    let queued = rig.wait_for("queued", 20);
    assert_eq!(rig.get("/readyz").0, 200);

    disk.fill(90);
    let refusal = eventually("messages are refused", || {
        let answer = client.send(&message("R", "")).unwrap();
        (field(&answer, "MSA", 1) != "AA").then_some(answer)
    });
    assert!(field(&refusal, "MSA", 1) == "AE" && refusal.contains("207"), "{refusal}");
    let enhanced = b"MSH|^~\\&|L|A|B|C|2026||ORU^R01|E|P|2.5|||AL|NE\rPID|1\r";
    assert_eq!(field(&client.send(enhanced).unwrap(), "MSA", 1), "CR", "on the same connection");
    assert_eq!(not_stored(&rig), 2);
    let answer = event(&rig);
    assert!(answer.starts_with("http/1.1 503") && answer.contains("\r\nretry-after: 10\r\n"), "{answer}");
    assert!(answer.contains("\"code\":\"disk_full\""), "{answer}");
    let (status, ready) = rig.get("/readyz");
    assert_eq!((status, &ready["ready"], &ready["journal_room"]), (503, &json!(false), &json!("full")));

    // Commands, outcomes and attempts are still written.
    let id = queued[0]["id"].as_str().unwrap();
    let (code, text) = rig.cli(&["messages", "cancel", id, "--why", "to see that it can be"]);
    assert_eq!(code, 0, "{text}");
    let peer = MllpServer::start_on(&address);
    rig.wait_for("queued", 0);
    assert!(peer.received().len() >= 19, "all but the cancelled one");

    std::fs::remove_file(disk.filler()).unwrap();
    eventually("messages are taken again, on the same connection", || {
        (field(&client.send(&message("A", "")).unwrap(), "MSA", 1) == "AA").then_some(())
    });
    let (status, ready) = rig.get("/readyz");
    assert_eq!((status, &ready["journal_room"]), (200, &json!("enough")));
    assert!(event(&rig).starts_with("http/1.1 202"));
    let log = rig.log();
    assert_eq!(log.matches("the disk is nearly full").count(), 1, "said once: {log}");
}

#[test]
fn a_write_that_fails_ends_the_engine_and_what_was_acknowledged_is_there() {
    let Some(disk) = SmallDisk::mount(300) else { return };
    let mut rig = rig(&free_address(), &["--disk-reserve", "0B"]);
    disk.hold_data_of(&rig);
    rig.start();
    let mut client = connect(&rig);
    let large = format!("NTE|1||{}\r", "x".repeat(1 << 20));
    let mut acknowledged = Vec::new();
    disk.fill(0);
    let last = (0..300).find_map(|number| {
        let id = format!("F{number}");
        let answer = client.write(&frame(&message(&id, &large))).and_then(|()| client.read());
        match answer {
            Ok(answer) if field(&answer, "MSA", 1) == "AA" => acknowledged.push(id),
            Ok(answer) => return Some(answer),
            Err(_) => return Some(String::new()),
        }
        None
    });
    let last = last.expect("a disk that is full takes no 300 MiB");
    assert!(last.is_empty() || (field(&last, "MSA", 1) == "AE" && last.contains("207")), "{last}");
    assert_eq!(rig.wait_for_end().code(), Some(1));
    let log = rig.log();
    assert!(log.contains("the journal failed"), "{log}");

    std::fs::remove_file(disk.filler()).unwrap();
    rig.start();
    let kept: Vec<String> = rig.messages("").iter().map(control_id).collect();
    assert!(acknowledged.iter().all(|id| kept.contains(id)), "{acknowledged:?} in {kept:?}");
    assert_eq!(field(&connect(&rig).send(&message("A", "")).unwrap(), "MSA", 1), "AA");
}

fn control_id(message: &Value) -> String {
    let refs = message["refs"].as_array().unwrap();
    refs.iter().find(|entry| entry["kind"] == "control_id").unwrap()["value"].as_str().unwrap().to_owned()
}

#[test]
fn the_margins_can_be_set() {
    let mut rig = rig("127.0.0.1:9", &["--disk-low", "100%", "--disk-reserve", "0B"]);
    rig.start();
    let (status, ready) = rig.get("/readyz");
    assert_eq!((status, &ready["ready"], &ready["journal_room"]), (200, &json!(true), &json!("low")));
    assert_eq!(field(&connect(&rig).send(&message("1", "")).unwrap(), "MSA", 1), "AA", "pushed messages are taken");
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    rig.kill();

    rig.arguments = vec!["--disk-reserve", "100%"];
    rig.start();
    assert_eq!(field(&connect(&rig).send(&message("2", "")).unwrap(), "MSA", 1), "AE");
    assert!(event(&rig).starts_with("http/1.1 503"));
    let (status, answer) = rig.post("/api/v1/messages/reprocess", json!({ "ids": [id] }).to_string());
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("disk_full")));
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn margins_that_make_no_sense_are_refused() {
    for wrong in ["101%", "-1%", "%", "5", "many", ""] {
        let output = labwire().arg("run").arg(format!("--disk-reserve={wrong}")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains("--disk-reserve"), "{wrong}: {text}");
    }
    let output = labwire().arg("run").env("LABWIRE_DISK_LOW", "much").current_dir(Path::new("/")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
