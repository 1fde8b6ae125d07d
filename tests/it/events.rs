//! Events: posted to the API, journaled once, sent as the channel files say.

use serde_json::json;

use crate::support::rig::Rig;
use crate::support::root;

fn channel(name: &str, action: u16, more: &str) -> String {
    format!(
        r#"
name = "{name}"
action = {action}
{more}
[source]
type = "event"

[[transformer]]
when = "event.data.note is defined"
set = {{ "/data/seen" = "yes" }}

[destination.out]
type = "file"
directory = "../out/{name}"
file_name = "{{{{ event.id | default('none') }}}}-{{{{ meta.id }}}}.json"
"#
    )
}

fn event(id: Option<&str>, lab: &str) -> String {
    let mut event = json!({ "action": 49, "lab": lab, "data": { "bill": { "number": "B-1" } } });
    if let Some(id) = id {
        event["id"] = json!(id);
    }
    event.to_string()
}

#[test]
fn an_event_fires_the_channels_of_its_action_and_lab() {
    let mut rig = Rig::new();
    rig.write("channels/all.toml", channel("all", 49, ""));
    rig.write("channels/acme.toml", channel("acme", 49, "lab = \"acme\""));
    rig.write("channels/other-lab.toml", channel("other-lab", 49, "lab = \"other\""));
    rig.write("channels/other-action.toml", channel("other-action", 50, ""));
    rig.write("channels/off.toml", channel("off", 49, "enabled = false"));
    rig.start();
    let (status, answer) = rig.post("/api/v1/events", event(Some("e-1"), "acme"));
    assert_eq!(status, 202, "{answer}");
    let mut channels: Vec<_> =
        answer["messages"].as_array().unwrap().iter().map(|message| message["channel"].as_str().unwrap()).collect();
    channels.sort_unstable();
    assert_eq!(channels, ["acme", "all"]);
    rig.wait_for("sent", 2);
    for name in channels {
        let files: Vec<_> = std::fs::read_dir(rig.path().join("out").join(name)).unwrap().collect();
        assert_eq!(files.len(), 1, "{name}");
    }
    assert_eq!(rig.messages("&bill=B-1&lab=acme").len(), 2);
    assert_eq!(rig.messages("&bill=B-2").len(), 0);
}

#[test]
fn the_same_id_again_answers_the_same_ids_and_sends_nothing() {
    let mut rig = Rig::with(&channel("bills", 49, ""));
    let (_, first) = rig.post("/api/v1/events", event(Some("e-1"), "acme"));
    let (status, again) = rig.post("/api/v1/events", event(Some("e-1"), "acme"));
    assert_eq!((status, &again["messages"]), (202, &first["messages"]));
    assert_eq!((&first["repeated"], &again["repeated"]), (&json!(false), &json!(true)));
    let (_, other_lab) = rig.post("/api/v1/events", event(Some("e-1"), "other"));
    assert_ne!(other_lab["messages"], first["messages"]);
    let (_, without_id) = rig.post("/api/v1/events", event(None, "acme"));
    let (_, without_id_again) = rig.post("/api/v1/events", event(None, "acme"));
    assert_ne!(without_id["messages"], without_id_again["messages"]);
    let changed = event(Some("e-1"), "acme").replace("B-1", "B-2");
    let (status, conflict) = rig.post("/api/v1/events", changed);
    assert_eq!((status, &conflict["error"]["code"]), (409, &json!("id_reused")));
    rig.wait_for("sent", 4);
    rig.kill();
    rig.start();
    let (_, after_restart) = rig.post("/api/v1/events", event(Some("e-1"), "acme"));
    assert_eq!(after_restart["messages"], first["messages"]);
    assert_eq!(rig.messages("").len(), 4);
}

#[test]
fn a_bad_event_is_refused_with_every_problem_and_nothing_is_kept() {
    let rig = Rig::with(&channel("bills", 49, ""));
    for (body, status, pointers) in [
        ("{", 422, vec![""]),
        ("[]", 422, vec![""]),
        (r#"{"action":8,"lab":"","data":[],"extra":1}"#, 422, vec!["/extra", "/action", "/lab", "/data"]),
    ] {
        let (found, answer) = rig.post("/api/v1/events", body);
        assert_eq!(found, status, "{answer}");
        let problems = answer["error"]["problems"].as_array().unwrap();
        let found: Vec<_> = problems.iter().map(|problem| problem["pointer"].as_str().unwrap()).collect();
        assert_eq!(found, pointers, "{answer}");
    }
    let (status, answer) = rig.post("/api/v1/events", r#"{"action":57,"lab":"acme","data":{}}"#);
    assert_eq!((status, &answer["messages"]), (202, &json!([])), "an event that nobody listens to");
    assert_eq!(rig.messages("").len(), 0);
}

#[test]
fn a_message_that_cannot_be_transformed_is_kept_visible_and_can_be_run_again() {
    let channel = |path: &str| {
        format!(
            r#"
name = "bills"
action = 49
[source]
type = "event"
[[transformer]]
set = {{ "/total" = "{{{{ {path} }}}}" }}
[destination.out]
type = "file"
directory = "../out"
file_name = "{{{{ meta.id }}}}.json"
"#
        )
    };
    let rig = Rig::with(&channel("event.data.bill.missing"));
    rig.post("/api/v1/events", event(None, "acme"));
    let message = rig.wait_for("errored", 1).remove(0);
    let reason = message["reason"].as_str().unwrap();
    assert!(reason.contains("step 1") && reason.contains("channel.toml:6"), "{reason}");
    assert!(!reason.contains("B-1"), "no content in errors: {reason}");
    rig.write("channels/channel.toml", channel("event.data.bill.number"));
    let id = message["id"].as_str().unwrap();
    crate::support::eventually::eventually("the new version is in effect", || {
        let (_, answer) = rig.post("/api/v1/messages/reprocess", json!({ "ids": [id] }).to_string());
        let new = answer["done"][0]["new"].as_str()?.to_owned();
        let story = crate::support::eventually::eventually("it is transformed", || {
            Some(rig.story(&new)).filter(|story| story["state"] != "received")
        });
        assert_eq!(story["origin"]["reprocess_of"], id);
        (story["state"] == "sent").then_some(())
    });
}

#[test]
fn only_programs_on_this_machine_are_answered() {
    let rig = Rig::with(&channel("bills", 49, ""));
    let get = |header: &str, value: &str| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let request =
            ureq::Agent::from(config).get(format!("http://{}/api/v1/messages", rig.api())).header(header, value);
        request.call().unwrap().status().as_u16()
    };
    assert_eq!(get("host", "evil.example"), 403);
    assert_eq!(get("origin", "http://evil.example"), 403);
    assert_eq!(get("origin", "http://localhost:8080"), 200);
    assert_eq!(rig.get("/healthz").0, 200);
    assert_eq!(rig.get("/readyz").0, 200);
    assert_eq!(rig.get("/nowhere").0, 404);
}

#[test]
fn the_shipped_channels_know_their_actions() {
    let output =
        crate::support::rig::labwire().current_dir(root()).args(["actions", "--format", "json"]).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let actions = answer["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 31);
    let bound: [(_, &[&str]); 4] = [
        (28, &["hl7-results", "results-lis"]),
        (49, &["bill-hl7-sftp"]),
        (50, &["report-email", "report-sftp"]),
        (56, &["report-fax"]),
    ];
    for (id, channels) in bound {
        let action = actions.iter().find(|action| action["id"] == id).unwrap();
        assert_eq!(action["channels"], json!(channels));
    }
}
