//! What is old goes by itself; what is unsent or parked stays.

use std::time::Duration;

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::rig::Rig;

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
    rig.arguments = vec!["--keep", "1ms"];
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
fn a_full_disk_takes_nothing_that_is_younger_than_a_day() {
    let mut rig = rig(&[]);
    rig.terminate();
    rig.arguments = vec!["--prune-at", "0B"];
    rig.start();
    eventually("the disk was looked at", || rig.log().contains("the disk is fuller than").then_some(()));
    assert_eq!(rig.messages("").len(), 3);
}
