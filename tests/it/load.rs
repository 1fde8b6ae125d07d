//! `labwire send` as a load generator.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::mllp_client::field;
use crate::support::peer::{Do, Peer};
use crate::support::rig::labwire;
use crate::support::{fixture, fixture_bytes};

fn send(peer: &Peer, files: &[&str], flags: &[&str]) -> (i32, Value) {
    let mut command = labwire();
    command.arg("send").arg(peer.address().to_string()).args(files.iter().map(|file| fixture(file)));
    let output = command.args(flags).args(["--format", "json"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
}

fn accepting() -> Peer {
    Peer::start(vec![Do::Ack("AA", "{id}")], vec![])
}

fn counts(report: &Value) -> [u64; 4] {
    ["sent", "accepted", "rejected", "errors"].map(|key| report[key].as_u64().unwrap_or_else(|| panic!("{report}")))
}

#[test]
fn copies_go_out_in_turn_each_with_its_own_control_id() {
    let peer = accepting();
    let files = ["hl7/oru-r01.hl7", "hl7/adt-a01.hl7"];
    let (code, report) = send(&peer, &files, &["--count", "50", "--connections", "4"]);
    assert_eq!((code, counts(&report)), (0, [50, 50, 0, 0]), "{report}");
    let log = eventually("the connections are closed", || Some(peer.log()).filter(|log| log.closed == 4));
    assert_eq!((log.connections, log.received.len()), (4, 50));
    let mut ids = BTreeSet::new();
    let mut alike = [0; 2];
    for message in &log.received {
        let text = String::from_utf8(message.clone()).unwrap();
        let id = field(&text, "MSH", 10);
        assert!(id.len() <= 20, "{id}");
        for (count, file) in alike.iter_mut().zip(files) {
            let original = String::from_utf8(fixture_bytes(file)).unwrap();
            let of_file = field(&original, "MSH", 10);
            *count += usize::from(text.replacen(&id, &of_file, 1).trim_end() == original.trim_end());
        }
        ids.insert(id);
    }
    assert_eq!((ids.len(), alike), (50, [25, 25]));
    let latency = |key: &str| report["latency_ms"][key].as_f64().unwrap();
    let ordered = ["p50", "p90", "p99", "p99_9", "max"].map(latency);
    assert!(ordered[0] > 0.0 && ordered.is_sorted(), "{report}");
    assert!(report["messages_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn without_a_count_each_message_goes_once_or_until_the_time_is_over() {
    let peer = accepting();
    let (code, report) = send(&peer, &["hl7/batch.hl7"], &["--connections", "2"]);
    assert_eq!((code, counts(&report)), (0, [3, 3, 0, 0]), "{report}");
    let (code, report) = send(&peer, &["hl7/batch.hl7"], &["--seconds", "1"]);
    let [sent, accepted, rejected, errors] = counts(&report);
    assert_eq!((code, sent, rejected, errors), (0, accepted, 0, 0), "{report}");
    assert!(sent > 3 && report["seconds"].as_f64().unwrap() >= 1.0, "{report}");
}

#[test]
fn only_a_positive_answer_to_the_message_itself_counts() {
    let refusing = Peer::start(vec![Do::Ack("AE", "{id}")], vec![]);
    let (code, report) = send(&refusing, &["hl7/oru-r01.hl7"], &["--count", "5"]);
    assert_eq!((code, counts(&report)), (1, [5, 0, 5, 0]), "{report}");
    assert_eq!(report["first_error"], "a message was answered AE");

    let stuck = Peer::start(vec![Do::Ack("AA", "{first}")], vec![]);
    let (code, report) = send(&stuck, &["hl7/oru-r01.hl7"], &["--count", "5"]);
    assert_eq!((code, counts(&report)), (1, [5, 1, 0, 4]), "{report}");
    assert!(report["first_error"].as_str().unwrap().contains("MSA-2"), "{report}");
    assert_eq!(stuck.log().connections, 5, "an answer that may still come must not meet the next message");

    let twice = Peer::start(vec![Do::Ack("CA", "{id}"), Do::Ack("AA", "{id}")], vec![]);
    let (code, report) = send(&twice, &["hl7/enhanced-al-al.hl7"], &["--count", "5"]);
    assert_eq!((code, counts(&report)), (0, [5, 5, 0, 0]), "{report}");

    let closing = Peer::start(vec![Do::Close], vec![]);
    let (code, report) = send(&closing, &["hl7/oru-r01.hl7"], &["--count", "3", "--connections", "3"]);
    assert_eq!((code, counts(&report)), (1, [3, 0, 0, 3]), "{report}");
}

#[test]
fn the_rate_is_kept_and_a_stall_shows_in_the_latency() {
    let peer = accepting();
    let flags = ["--count", "20", "--rate", "50", "--connections", "4"];
    let (code, report) = send(&peer, &["hl7/oru-r01.hl7"], &flags);
    assert_eq!((code, counts(&report)), (0, [20, 20, 0, 0]), "{report}");
    assert!(report["seconds"].as_f64().unwrap() >= 19.0 / 50.0, "the last was due then: {report}");

    let slow = Peer::start(vec![Do::Wait(50), Do::Ack("AA", "{id}")], vec![]);
    let (_, report) = send(&slow, &["hl7/oru-r01.hl7"], &["--count", "10", "--rate", "1000"]);
    // The tenth was due after 9 ms and came after nine others of 50 ms each.
    assert!(report["latency_ms"]["max"].as_f64().unwrap() >= 480.0, "{report}");
}

#[test]
fn it_says_what_it_cannot_do() {
    let file = fixture("hl7/oru-r01.hl7");
    let run = |address: &str, arguments: &[&str]| {
        let output = labwire().arg("send").arg(address).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    };
    let file = file.to_str().unwrap();
    let (code, text) = run("127.0.0.1:9", &[file, "--count", "2"]);
    assert!(code == 3 && text.contains("127.0.0.1:9"), "{text}");
    let (code, text) = run("127.0.0.1:9", &[fixture("hl7/not-hl7.txt").to_str().unwrap(), "--count", "2"]);
    assert!(code == 2 && text.contains("does not start with MSH"), "{text}");
    for flags in
        [["--count", "0"], ["--seconds", "0"], ["--connections", "0"], ["--connections", "1025"], ["--rate", "0"]]
    {
        let (code, text) = run("127.0.0.1:9", &[file, flags[0], flags[1]]);
        assert!(code == 2 && text.contains(flags[0]), "{flags:?}: {text}");
    }
    let peer = accepting();
    let (code, text) = run(&peer.address().to_string(), &[file, "--count", "3"]);
    assert_eq!(code, 0, "{text}");
    for words in ["sent 3, accepted 3, rejected 0, errors 0", "messages/s accepted over 1 connection", "p99.9", "max"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
}
