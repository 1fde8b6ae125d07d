//! The API where clients are in a hurry, mistaken or late.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::rig::Rig;

fn channel(name: &str, more: &str) -> String {
    format!(
        r#"
name = "{name}"
action = 49
{more}
[source]
type = "event"

[[transformer]]
set = {{ "/shown" = "n={{{{ event.data.n | default('none') }}}}" }}

[destination.out]
type = "file"
directory = "../out/{name}"
file_name = "{{{{ meta.id }}}}.json"
"#
    )
}

fn event(lab: &str) -> String {
    json!({ "action": 49, "lab": lab, "data": {} }).to_string()
}

/// What arrived in a channel's folder, in the order of arrival.
fn arrived(rig: &Rig, channel: &str) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(rig.path().join("out").join(channel)) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

fn ids(outcomes: &Value) -> Vec<&str> {
    outcomes["done"].as_array().unwrap().iter().map(|done| done["id"].as_str().unwrap()).collect()
}

#[test]
fn a_client_that_hangs_up_at_once_loses_no_event() {
    const COUNT: u64 = 80;
    let mut rig = Rig::new();
    for number in 0..COUNT {
        let name = format!("c{number}");
        rig.write(&format!("channels/{name}.toml"), channel(&name, &format!("lab = \"{name}\"")));
    }
    rig.start();
    // Each event is the only one of its channel: nothing that comes later wakes the channel.
    // They hang up sooner and later: before the event is read, while it is on its way to the disk, after the answer.
    for number in 0..COUNT {
        let body = event(&format!("c{number}"));
        let head = "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        let mut stream = TcpStream::connect(rig.api()).unwrap();
        stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        let (sent, patience) = (Instant::now(), Duration::from_micros(50 * number));
        while sent.elapsed() < patience {
            std::hint::spin_loop();
        }
    }
    // Some were not taken at all, which is the client's loss. One that stays comes after them in the journal.
    assert_eq!(rig.post("/api/v1/events", event("c0")).0, 202);
    eventually("every event that is on disk went through its channel", || {
        let messages = rig.messages("");
        let waits = messages.iter().any(|message| message["state"] == "received" || message["state"] == "queued");
        (messages.len() > 1 && !waits).then_some(())
    });
}

#[test]
fn an_event_that_fires_no_channel_can_be_sent_again_when_one_is_there() {
    let mut rig = Rig::new();
    rig.write("channels/broken.toml", "name = \"broken\"\naction = \"none\"\n");
    rig.write("channels/other.toml", channel("other", "lab = \"other\""));
    rig.start();
    let body = json!({ "action": 49, "lab": "acme", "id": "e-1", "data": { "n": 1 } }).to_string();
    let (status, answer) = rig.post("/api/v1/events", &body);
    assert_eq!((status, &answer["messages"]), (202, &json!([])), "{answer}");
    assert_eq!(answer["note"], "1 channel file has mistakes and was not considered", "{answer}");
    assert_eq!(rig.messages("").len(), 0);
    eventually("it is logged", || rig.log().contains("fired no channel").then_some(()));
    rig.write("channels/broken.toml", channel("mended", ""));
    let answer = eventually("the channel is there", || {
        let (status, answer) = rig.post("/api/v1/events", &body);
        (status == 202 && answer["messages"][0]["channel"] == "mended").then_some(answer)
    });
    assert_eq!((&answer["repeated"], &answer["note"]), (&json!(false), &Value::Null));
    rig.wait_for("sent", 1);
}

#[test]
fn a_channel_out_of_service_takes_no_events_and_none_is_half_taken() {
    let mut rig = Rig::new();
    rig.write("channels/one.toml", channel("one", ""));
    rig.write("channels/two.toml", channel("two", "lab = \"acme\""));
    rig.write("channels/off.toml", channel("off", "enabled = false"));
    rig.start();
    let body = json!({ "action": 49, "lab": "acme", "id": "e-1", "data": {} }).to_string();
    for verb in ["pause", "stop"] {
        assert_eq!(rig.post(&format!("/api/v1/channels/two/{verb}"), "").0, 200);
        let (status, answer) = rig.post("/api/v1/events", &body);
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("channel_unavailable")), "{verb}: {answer}");
        assert_eq!(rig.messages("").len(), 0, "{verb}: nothing is kept");
        assert_eq!(rig.post("/api/v1/channels/two/start", "").0, 200);
    }
    rig.post("/api/v1/channels/two/stop", "");
    assert_eq!(rig.post("/api/v1/events", event("other")).0, 202, "the others go on");
    rig.post("/api/v1/channels/two/resume", "");
    let (status, answer) = rig.post("/api/v1/events", &body);
    assert_eq!((status, answer["messages"].as_array().unwrap().len(), &answer["repeated"]), (202, 2, &json!(false)));
    for verb in ["start", "resume", "pause"] {
        let (status, answer) = rig.post(&format!("/api/v1/channels/off/{verb}"), "");
        assert_eq!((status, &answer["error"]["code"]), (409, &json!("channel_disabled")), "{verb}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("off.toml"), "{message}");
    }
    let (code, text) = rig.cli(&["channels", "start", "off"]);
    assert!(code == 1 && text.contains("enabled = false"), "{text}");
}

#[test]
fn the_layout_of_an_event_does_not_make_it_another_one() {
    let rig = Rig::with(&channel("bills", ""));
    let (_, first) = rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","id":"e-1","data":{"n":1,"m":2}}"#);
    let (status, again) = rig.post(
        "/api/v1/events",
        "{ \"id\": \"e-1\", \"lab\": \"acme\", \"action\": 49,\n\"data\": {\"m\": 2, \"n\": 1} }",
    );
    assert_eq!((status, &again["repeated"]), (202, &json!(true)), "{again}");
    assert_eq!(again["messages"], first["messages"]);
    let (status, _) = rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","id":"e-1","data":{"n":1,"m":3}}"#);
    assert_eq!(status, 409);
    let odd = |lab: &str, id: &str| json!({ "action": 49, "lab": lab, "id": id, "data": {} }).to_string();
    let (_, one) = rig.post("/api/v1/events", odd("a\0b", "c"));
    let (status, other) = rig.post("/api/v1/events", odd("a", "b\0c"));
    assert_eq!((status, &one["repeated"], &other["repeated"]), (202, &json!(false), &json!(false)));
    assert_eq!(rig.messages("").len(), 3);
}

#[test]
fn a_number_arrives_as_it_was_or_is_refused() {
    let rig = Rig::with(&channel("bills", ""));
    for (number, kept) in [
        ("12345678901234567890123", false),
        ("0.12345678901234567890", false),
        ("250.10", true),
        ("18446744073709551615", true),
    ] {
        let body = format!("{{\"action\":49,\"lab\":\"acme\",\"data\":{{\"n\":{number}}}}}");
        let (status, answer) = rig.post("/api/v1/events", body);
        assert_eq!(status, if kept { 202 } else { 422 }, "{number}: {answer}");
    }
    rig.wait_for("sent", 2);
    let arrived = arrived(&rig, "bills");
    for (content, shown) in arrived.iter().zip(["n=250.1\"", "n=18446744073709551615\""]) {
        assert!(content.contains(shown), "{shown} is not in {content}");
    }
    let (status, answer) = rig.post("/api/v1/events", r#"{"action":49,"lab":"a","lab":"b","data":{}}"#);
    assert_eq!(status, 422);
    assert!(answer["error"]["problems"][0]["message"].as_str().unwrap().contains("twice"), "{answer}");
}

#[test]
fn a_command_for_many_messages_means_what_it_says() {
    let rig = Rig::with(&channel("bills", ""));
    let mut all: Vec<String> = Vec::new();
    for _ in 0..4 {
        let (_, answer) = rig.post("/api/v1/events", event("acme"));
        all.push(answer["messages"][0]["id"].as_str().unwrap().to_owned());
    }
    rig.wait_for("sent", 4);
    let reprocess = |body: Value| rig.post("/api/v1/messages/reprocess", body.to_string());
    for (body, words) in [
        (json!({ "filter": {} }), "all"),
        (json!({ "filter": { "state": "sent", "limit": 1 } }), "limit"),
        (json!({ "filter": { "state": "sent", "before": all[1] } }), "before"),
        (json!({ "filter": { "sate": "sent" } }), "sate"),
        (json!({ "ids": [all[0]], "destination": "out" }), "destination"),
    ] {
        let (status, answer) = reprocess(body.clone());
        assert_eq!(status, 400, "{body}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{body}: {answer}");
    }
    assert_eq!(rig.messages("").len(), 4, "nothing was run again");
    let (status, answer) = reprocess(json!({ "ids": [all[2], all[0], all[2], all[1]] }));
    assert_eq!((status, ids(&answer)), (200, vec![&*all[0], &*all[1], &*all[2]]), "once each, oldest first");
    rig.wait_for("sent", 7);
    let (_, answer) = reprocess(json!({ "filter": {}, "all": true }));
    assert_eq!(ids(&answer).len(), 7);
}

#[test]
fn who_had_a_message_run_again_is_kept() {
    let rig = Rig::with(&channel("bills", ""));
    let (_, answer) = rig.post("/api/v1/events", event("acme"));
    let id = answer["messages"][0]["id"].as_str().unwrap().to_owned();
    let body = json!({ "ids": [id], "who": "ilona", "why": "the partner lost it" });
    let (_, answer) = rig.post("/api/v1/messages/reprocess", body.to_string());
    let new = answer["done"][0]["new"].as_str().unwrap();
    let (_, shown) = rig.cli(&["messages", "show", new]);
    assert!(shown.contains(&format!("made from message {id} by ilona: the partner lost it")), "{shown}");
    // A later one has its own.
    let (_, answer) = rig.post("/api/v1/messages/reprocess", json!({ "ids": [new] }).to_string());
    let (_, shown) = rig.cli(&["messages", "show", answer["done"][0]["new"].as_str().unwrap()]);
    assert!(shown.contains(&format!("made from message {new}\n")), "{shown}");
    let (status, answer) = rig.post(
        "/api/v1/messages/reprocess",
        json!({ "ids": [id], "body": r#"{"action":49,"lab":"acme","data":{"n":12345678901234567890123}}"# })
            .to_string(),
    );
    assert_eq!(status, 200);
    assert!(answer["refused"][0]["reason"].as_str().unwrap().contains("more digits"), "{answer}");
}

#[test]
fn every_refusal_is_a_problem_in_json() {
    let rig = Rig::with(&channel("bills", ""));
    for (path, status, code) in [
        ("/api/v1/events", 405, "method_not_allowed"),
        ("/api/v1/messages/retry/x", 404, "not_found"),
        ("/api/v1/messages/%FF", 400, "bad_request"),
        ("/api/v1/messages?limit=x", 400, "bad_request"),
    ] {
        let (found, answer) = rig.get(path);
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{path}: {answer}");
    }
    let (status, answer) = rig.post("/healthz", "");
    assert_eq!((status, &answer["error"]["code"]), (405, &json!("method_not_allowed")), "{answer}");
    let (status, answer) = rig.post("/api/v1/channels/%FF/stop", "");
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("bad_request")), "{answer}");
    let large = vec![b' '; (32 << 20) + 1];
    for path in ["/api/v1/events", "/api/v1/messages/retry"] {
        let (status, answer) = rig.post(path, &large);
        assert_eq!((status, &answer["error"]["code"]), (413, &json!("too_large")), "{path}: {answer}");
    }
}
