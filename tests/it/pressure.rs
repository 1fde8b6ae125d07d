//! What is slow or broken in one place stays in its place.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::eventually::{eventually, eventually_within};
use crate::support::fixture_bytes;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::partner::{Make, Partner};
use crate::support::rig::Rig;

/// A channel whose step costs much for a message with many OBX.
fn channel(name: &str, peer: SocketAddr) -> String {
    format!(
        r#"
name = "{name}"
[source]
type = "mllp"
listen = "127.0.0.1:0"
[[transformer]]
each = "OBX"
set = {{ "OBX-6" = "{{{{ msg['OBX-3'] | upper }}}}{{% for i in range(40) %}}{{{{ msg['OBX-5'] }}}}{{% endfor %}}" }}
[destination.peer]
type = "mllp"
address = "{peer}"
"#
    )
}

#[test]
fn large_messages_hold_up_neither_other_channels_nor_the_end() {
    let peer = MllpServer::start();
    let mut rig = Rig::new();
    for name in ["a", "b", "c", "d"] {
        rig.write(&format!("channels/{name}.toml"), channel(name, peer.address()));
    }
    rig.write("channels/quick.toml", channel("quick", peer.address()));
    rig.start();
    let mut large = b"MSH|^~\\&|A|B|C|D|2026||ORU^R01|LARGE|P|2.5\rPID|1\r".to_vec();
    for number in 1..=20_000 {
        large.extend_from_slice(format!("OBX|{number}|NM|glu||5.4\r").as_bytes());
    }
    // More than there are cores: the runtime's own threads must not be the ones that work on them.
    for name in ["a", "b", "c", "d"] {
        let ack = MllpClient::connect(rig.listener(name)).unwrap().send(&large).unwrap();
        assert_eq!(field(&ack, "MSA", 1), "AA");
    }
    let ack = MllpClient::connect(rig.listener("quick")).unwrap().send(&fixture_bytes("hl7/oru-r01.hl7")).unwrap();
    assert_eq!(field(&ack, "MSA", 1), "AA");
    eventually("the small message arrives", || {
        peer.received().iter().any(|message| field(message, "MSH", 10) == "BL20260114000417").then_some(())
    });
    assert_eq!(rig.get("/healthz").0, 200);
    let busy = rig.messages("&state=received").len();
    let start = Instant::now();
    assert_eq!(rig.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(busy > 0, "the large ones were still being worked on");
    rig.start();
    eventually_within(Duration::from_secs(240), "the large messages arrive after all", || {
        (peer.received().iter().filter(|message| field(message, "MSH", 10) == "LARGE").count() >= 4).then_some(())
    });
}

#[test]
fn a_key_that_was_put_right_is_read_again() {
    let partner = Partner::start(Make::OpenSsh);
    let directory = format!("\"{}\"", partner.files().display());
    let options = partner.options(&[("key", "{ file = \"../secrets/key\" }"), ("directory", &directory)]);
    let mut rig = Rig::new();
    rig.write("secrets/key", "not a key");
    rig.write(
        "channels/channel.toml",
        format!(
            "name = \"bills\"\naction = 49\n[source]\ntype = \"event\"\n[destination.partner]\ntype = \"sftp\"\n\
             retry = {{ first = \"50ms\", longest = \"100ms\", attempts = 1 }}\n{options}\n"
        ),
    );
    rig.start();
    rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","data":{}}"#);
    let lane = || rig.get("/api/v1/channels").1["channels"][0]["lanes"][0].clone();
    eventually("the lane is paused", || (lane()["paused"] == true).then_some(()));
    let error = lane()["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("no private key"), "{error}");
    rig.write("secrets/key", std::fs::read(partner.folder.path().join("key")).unwrap());
    // `attempts = 1`: a fault that only a person can mend uses up none.
    rig.wait_for("sent", 1);
    assert_eq!(lane()["paused"], false);
}
