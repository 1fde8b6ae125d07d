//! `channel`: one channel feeds another, exactly once, and the journal links the two.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::rig::Rig;

fn feeder(port: u16) -> String {
    format!(
        r#"
name = "intake"
lab = "acme"
[source]
type = "mllp"
listen = "127.0.0.1:{port}"
[destination.next]
type = "channel"
name = "store"
retry = {{ first = "50ms", longest = "200ms" }}
[[destination.next.transformer]]
set = {{ "MSH-6" = "HANDED" }}
"#
    )
}

const STORE: &str = r#"
name = "store"
[source]
type = "channel"
[[transformer]]
set = { "MSH-5" = "{{ meta.parent.channel }}/{{ meta.parent.destination }} {{ meta.lab }}" }
[destination.out]
type = "file"
directory = "../out"
file_name = "{{ meta.id }}.hl7"
"#;

fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|LAB|A|B|C|20260115||ORU^R01|{id}|P|2.5\rPID|1||P-{id}\r").into_bytes()
}

fn send(rig: &Rig, id: &str) {
    let ack = MllpClient::connect(rig.listener("intake")).unwrap().send(&message(id)).unwrap();
    assert_eq!(field(&ack, "MSA", 1), "AA");
}

fn rig(store: &str) -> Rig {
    let mut rig = Rig::new();
    rig.write("channels/intake.toml", feeder(0));
    rig.write("channels/store.toml", store);
    rig.start();
    rig
}

/// The messages of a channel once so many are sent.
fn sent(rig: &Rig, channel: &str, count: usize) -> Vec<Value> {
    eventually_within(Duration::from_secs(60), &format!("{count} of {channel} are sent"), || {
        Some(rig.messages(&format!("&state=sent&channel={channel}"))).filter(|messages| messages.len() >= count)
    })
}

#[test]
fn a_message_goes_on_in_the_other_channel_and_each_names_the_other() {
    let rig = rig(STORE);
    send(&rig, "M1");
    let child = sent(&rig, "store", 1).remove(0);
    let parent = sent(&rig, "intake", 1).remove(0);
    let (parent_id, child_id) = (parent["id"].as_str().unwrap(), child["id"].as_str().unwrap());
    let link = serde_json::json!({ "message": parent_id, "channel": "intake", "destination": "next" });
    assert_eq!(child["origin"]["parent"], link);
    assert_eq!((&child["origin"]["source"], &child["origin"]["lab"]), (&"channel".into(), &"acme".into()));
    let body = std::fs::read_to_string(rig.path().join(format!("out/{child_id}.hl7"))).unwrap();
    assert!(body.starts_with("MSH|^~\\&|LAB|A|intake/next acme|HANDED|"), "{body:?}");
    // Both ways, for programs and for people.
    let story = rig.story(parent_id);
    let expected = serde_json::json!([{ "destination": "next", "id": child_id, "channel": "store" }]);
    assert_eq!(story["children"], expected);
    let (_, text) = rig.cli(&["messages", "show", parent_id]);
    assert!(text.contains(&format!("became message {child_id} of channel store")), "{text}");
    let (_, text) = rig.cli(&["messages", "show", child_id]);
    assert!(text.contains(&format!("handed over by intake/next: message {parent_id}")), "{text}");
    let (_, text) = rig.cli(&["messages", "list", "--ref", &format!("parent={parent_id}")]);
    assert!(text.contains(child_id) && text.lines().count() == 1, "{text}");
    // Its own references, too.
    assert_eq!(rig.messages("&patient=P-M1").len(), 2);
}

#[test]
fn a_delivery_that_is_made_again_is_no_second_message() {
    let rig = rig(STORE);
    send(&rig, "M1");
    let parent = sent(&rig, "intake", 1).remove(0);
    let id = parent["id"].as_str().unwrap();
    let (code, text) = rig.cli(&["messages", "resend", id]);
    assert_eq!(code, 0, "{text}");
    let tries = eventually("it is sent again", || {
        let tries = rig.story(id)["deliveries_in_full"][0]["tries"].as_array().unwrap().clone();
        (tries.len() == 2).then_some(tries)
    });
    assert!(tries[1]["response"]["text"].as_str().unwrap().ends_with(", where it was before"), "{tries:?}");
    assert_eq!(rig.messages("&channel=store").len(), 1);
    // Run again, it is another message, and so is what comes of it.
    assert_eq!(rig.cli(&["messages", "reprocess", id]).0, 0);
    let children = sent(&rig, "store", 2);
    assert_ne!(children[0]["origin"]["parent"]["message"], children[1]["origin"]["parent"]["message"]);
}

#[test]
fn any_format_is_handed_over_as_it_is() {
    let mut rig = Rig::new();
    let timer = r#"
name = "clock"
[source]
type = "timer"
every = "100ms"
format = "FORMAT"
content = 'CONTENT'
[destination.next]
type = "channel"
name = "store"
"#;
    rig.write("channels/a.toml", timer.replace("FORMAT", "json").replace("CONTENT", r#"{"a": [1, "ü"]}"#));
    let text = timer.replace("FORMAT", "text").replace("CONTENT", "ü").replace("\"clock\"", "\"text\"");
    rig.write("channels/b.toml", text);
    rig.write("channels/store.toml", STORE.replace("set = { \"MSH-5\"", "when = \"false\"\nset = { \"MSH-5\""));
    rig.start();
    for (from, format, body) in [("clock", "json", r#"{"a":[1,"ü"]}"#), ("text", "text", "ü")] {
        let child = eventually("it arrives", || {
            let mut found = rig.messages("&channel=store&state=sent");
            found.retain(|child| child["origin"]["parent"]["channel"] == from);
            found.pop()
        });
        assert_eq!(child["format"], format);
        assert!(child["origin"]["scheduled_at"].is_string());
        let file = format!("out/{}.hl7", child["id"].as_str().unwrap());
        assert_eq!(std::fs::read_to_string(rig.path().join(file)).unwrap(), body);
    }
}

/// What was HL7 in an older set is UTF-8 once it is JSON, and is read as that.
#[test]
fn the_other_channel_reads_what_was_written_and_not_what_came() {
    let mut rig = Rig::new();
    rig.write(
        "channels/intake.toml",
        "name = \"intake\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\ncharset = \"8859/1\"\n\
         [[transformer]]\nconvert = \"json\"\n[destination.next]\ntype = \"channel\"\nname = \"store\"\n",
    );
    rig.write(
        "channels/store.toml",
        "name = \"store\"\n[source]\ntype = \"channel\"\n\
         [destination.out]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"one.json\"\n",
    );
    rig.start();
    let latin = [&message("1")[..], b"PV1|1||Jos\xe9\r"].concat();
    let ack = MllpClient::connect(rig.listener("intake")).unwrap().send(&latin).unwrap();
    assert_eq!(field(&ack, "MSA", 1), "AA");
    sent(&rig, "store", 1);
    let content = std::fs::read_to_string(rig.path().join("out/one.json")).unwrap();
    assert!(content.contains("Jos\u{e9}"), "{content}");
}

#[test]
fn what_is_for_a_channel_that_takes_nothing_waits_until_it_does() {
    let rig = rig(STORE);
    for verb in ["pause", "stop"] {
        assert_eq!(rig.cli(&["channels", verb, "store"]).0, 0);
        send(&rig, verb);
        let error = "channel `store` takes nothing in: it is stopped, paused or not loaded";
        eventually("the failure is seen", || {
            let waiting = rig.messages("&channel=intake&state=queued");
            waiting.iter().any(|parent| parent["deliveries"][0]["error"] == error).then_some(())
        });
        assert_eq!(rig.cli(&["channels", if verb == "pause" { "resume" } else { "start" }, "store"]).0, 0);
        let count = if verb == "pause" { 1 } else { 2 };
        sent(&rig, "intake", count);
        assert_eq!(sent(&rig, "store", count).len(), count);
    }
}

#[test]
fn a_channel_whose_own_file_has_mistakes_is_waited_for() {
    let rig = rig("name = \"store\"\n[source]\ntype = \"channel\"\nnonsense = 1\n");
    send(&rig, "M1");
    rig.write("channels/store.toml", STORE);
    assert_eq!(sent(&rig, "store", 1).len(), 1);
}

#[test]
fn one_file_alone_may_name_a_channel_of_another() {
    let rig = rig(STORE);
    let (code, text) = rig.cli(&["check", rig.path().join("channels/intake.toml").to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    std::fs::remove_file(rig.path().join("channels/store.toml")).unwrap();
    let (code, text) = rig.cli(&["check", rig.channels().to_str().unwrap()]);
    assert!(code == 1 && text.contains("no channel is called `store`"), "{text}");
}

#[test]
fn a_reload_that_would_make_a_loop_changes_nothing() {
    let rig = rig(STORE);
    let back = STORE
        .replace("[destination.out]", "[destination.back]\ntype = \"channel\"\nname = \"more\"\n[destination.out]");
    let more = STORE.replace("\"store\"", "\"more\"").replace("\"file\"", "\"channel\"\nname = \"store\"");
    let more = more.lines().filter(|line| !line.starts_with("directory") && !line.starts_with("file_name"));
    let more: Vec<&str> = more.collect();
    rig.write("channels/more.toml", more.join("\n"));
    rig.wait_for_log("\"channel\":\"more\"");
    rig.write("channels/store.toml", back);
    rig.wait_for_log("channels feed each other in a loop: store -> more -> store");
    send(&rig, "M1");
    assert_eq!(sent(&rig, "store", 1).len(), 1, "the last good version goes on");
    assert_eq!(rig.messages("").len(), 2);
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn kill_9_at_random_moments_hands_each_message_over_exactly_once() {
    const ROUNDS: usize = 8;
    const MESSAGES: usize = 120;
    let port = free_port();
    let mut rig = Rig::new();
    rig.write("channels/intake.toml", feeder(port));
    rig.write("channels/store.toml", STORE);
    rig.start();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for round in 0..ROUNDS {
        let sender = std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut client: Option<MllpClient> = None;
            for number in 0..MESSAGES {
                loop {
                    assert!(Instant::now() < deadline, "the engine does not come back");
                    let Some(mut connected) = client.take().or_else(|| MllpClient::connect(address).ok()) else {
                        std::thread::park_timeout(Duration::from_millis(10));
                        continue;
                    };
                    if let Ok(ack) = connected.send(&message(&format!("R{round}M{number}")))
                        && field(&ack, "MSA", 1) == "AA"
                    {
                        client = Some(connected);
                        break;
                    }
                }
            }
        });
        // While what came in before is on its way to the other channel.
        let deadline = Instant::now() + Duration::from_millis(fastrand::u64(50..400));
        while Instant::now() < deadline && !sender.is_finished() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        rig.kill();
        rig.start();
        sender.join().unwrap();
    }
    sent(&rig, "intake", ROUNDS * MESSAGES);
    let parents = rig.messages("&channel=intake");
    let children = sent(&rig, "store", parents.len());
    let mut of: BTreeMap<&str, usize> = BTreeMap::new();
    for child in &children {
        *of.entry(child["origin"]["parent"]["message"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(rig.messages("&channel=store").len(), parents.len());
    assert!(parents.iter().all(|parent| of.get(parent["id"].as_str().unwrap()) == Some(&1)), "each exactly once");
    println!("{ROUNDS} kills, {} messages handed over, each once", parents.len());
}
