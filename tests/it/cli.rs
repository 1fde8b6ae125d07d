//! The commands, as a user meets them.

use std::process::{Command, Stdio};

use crate::support::mllp_server::MllpServer;
use crate::support::rig::{Rig, labwire};
use crate::support::{fixture, fixture_bytes, root};

fn run(arguments: &[&str]) -> (i32, String) {
    let output = labwire().current_dir(root()).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

fn results(peer: &MllpServer) -> String {
    format!(
        r#"
name = "results"
[source]
type = "mllp"
listen = "127.0.0.1:0"
[[transformer]]
filter = "msg['MSH-9.1'] == 'ORU'"
[[transformer]]
set = {{ "MSH-5" = "EHR" }}
[destination.peer]
type = "mllp"
address = "{}"
on_poison = "dead_letter"
[destination.archive]
type = "file"
directory = "../archive"
file_name = "{{{{ msg['MSH-10'] }}}}.hl7"
when = "msg['MSH-11'] == 'P'"
"#,
        peer.address()
    )
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &["nonsense"][..],
        &["run", "--listen", "0.0.0.0:0"],
        &["run", "--listen", "nonsense"],
        &["run", "--channels", "no/such/folder"],
        &["check", "no/such/folder"],
        &["messages", "retry"],
        &["messages", "list", "--ref", "colour=blue"],
        &["messages", "list", "--state", "bogus"],
        &["messages", "retry", "--state", "bogus"],
        &["actions", "--channels", "no/such/folder"],
        &["check", "fixtures/hl7"],
        &["test", "fixtures/hl7"],
        &["send", "127.0.0.1:1"],
    ] {
        let (code, text) = run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(!text.is_empty());
    }
}

#[test]
fn an_engine_that_is_not_there_is_3() {
    for arguments in [&["channels"][..], &["messages", "list"], &["messages", "show", "01KF0K8Y20TEST000000000001"]] {
        let output = labwire().args(arguments).env("LABWIRE_ENGINE", "127.0.0.1:9").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:9"));
    }
}

#[test]
fn the_schema_is_a_json_schema_and_is_the_one_in_the_repository() {
    let (code, text) = run(&["schema"]);
    assert_eq!(code, 0);
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    up_to_date("channel.schema.json", &text, "labwire schema");
    let (code, text) = run(&["schema", "--format", "markdown"]);
    assert_eq!(code, 0);
    up_to_date("docs/options.md", &text, "labwire schema --format markdown");
}

/// What is made by a command is in the repository as it is made; `LABWIRE_BLESS=1` makes it anew.
#[track_caller]
fn up_to_date(path: &str, text: &str, command: &str) {
    if std::env::var_os("LABWIRE_BLESS").is_some() {
        std::fs::write(root().join(path), text).unwrap();
    }
    let kept = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(text == kept, "{path} is out of date: run `{command} > {path}`");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text) = run(&["completions", shell]);
        assert!(code == 0 && text.contains("labwire"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = labwire().arg("schema").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn send_a_file_and_look_at_its_whole_way() {
    let peer = MllpServer::start();
    let rig = Rig::with(&results(&peer));
    let address = rig.listener("results").to_string();
    let file = fixture("hl7/oru-r01.hl7");
    let (code, text) = run(&["send", &address, file.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("AA") && text.contains("BL20260114000417"), "{text}");
    let message = rig.wait_for("sent", 1).remove(0);
    let id = message["id"].as_str().unwrap();

    let (code, list) = rig.cli(&["messages", "list", "--ref", "control_id=BL20260114000417", "--state", "sent"]);
    assert!(code == 0 && list.contains(id) && list.contains("peer: sent, archive: sent"), "{list}");
    let (code, story) = rig.cli(&["messages", "show", id]);
    assert_eq!(code, 0, "{story}");
    for words in
        [id, "received by mllp", "transformed", "-> peer: sent, 1 attempts", "-> archive: sent", "channel results"]
    {
        assert!(story.contains(words), "{words} is not in:\n{story}");
    }
    assert!(!story.contains("Nagy"), "content only when asked for:\n{story}");
    let (_, story) = rig.cli(&["messages", "show", id, "--content"]);
    assert!(story.contains("Nagy") && story.contains("|EHR|") && story.contains("MSA|AA|"), "{story}");
    let archived = std::fs::read(rig.path().join("archive/BL20260114000417.hl7")).unwrap();
    assert_eq!(peer.received()[0].as_bytes(), archived);

    let (code, channels) = rig.cli(&["channels"]);
    assert!(code == 0 && channels.contains("results  running") && channels.contains("sent 2"), "{channels}");
    let (code, missing) = rig.cli(&["messages", "show", "01KF0K8Y20TEST000000000001"]);
    assert_eq!(code, 1, "{missing}");
}

#[test]
fn send_says_no_when_a_message_is_refused() {
    let peer = MllpServer::start();
    let rig = Rig::with(&results(&peer));
    let address = rig.listener("results").to_string();
    let (code, text) = run(&["send", &address, fixture("hl7/not-hl7.txt").to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    let (code, text) = run(&["send", &address, fixture("hl7/batch.hl7").to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("AA").count(), 3, "each message of a batch is sent: {text}");
    let silent = rig.write(
        "silent.hl7",
        "MSH|^~\\&|L|A|B|C|2026||ADT^A01|S1|P|2.5|||NE|NE\rPID|1\rMSH|^~\\&|L|A|B|C|2026||ADT^A01|S2|P|2.5\rPID|1\r",
    );
    let (code, text) = run(&["send", &address, silent.to_str().unwrap()]);
    assert!(code == 0 && text.contains("-     S1") && text.contains("AA    S2"), "no answer is waited for: {text}");
    let (code, text) = run(&["send", "127.0.0.1:9", fixture("hl7/oru-r01.hl7").to_str().unwrap()]);
    assert_eq!(code, 3, "{text}");
}

#[test]
fn a_dead_letter_is_retried_and_a_message_is_run_again() {
    let peer = MllpServer::start();
    peer.answer_with("AR");
    let rig = Rig::with(&results(&peer));
    let address = rig.listener("results").to_string();
    run(&["send", &address, fixture("hl7/oru-r01.hl7").to_str().unwrap()]);
    let message = rig.wait_for("dead", 1).remove(0);
    let id = message["id"].as_str().unwrap();
    let (_, story) = rig.cli(&["messages", "show", id]);
    assert!(story.contains("-> peer: dead") && story.contains("AR"), "{story}");

    peer.answer_with("AA");
    let (code, text) = rig.cli(&["messages", "retry", id, "--destination", "peer", "--why", "the partner mended it"]);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", 1);
    assert_eq!(peer.received().len(), 2);
    let (_, story) = rig.cli(&["messages", "show", id]);
    assert!(story.contains("the partner mended it"), "{story}");
    let (code, text) = rig.cli(&["messages", "retry", id]);
    assert_eq!(code, 1, "nothing to retry: {text}");

    let edited = rig.write(
        "edited.hl7",
        String::from_utf8(fixture_bytes("hl7/oru-r01.hl7")).unwrap().replace("BL20260114000417", "EDITED1"),
    );
    let (code, text) = rig.cli(&["messages", "reprocess", id, "--body", edited.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", 2);
    assert!(peer.received().last().unwrap().contains("EDITED1"));
    let (code, _) = rig.cli(&["messages", "reprocess", "--ref", "control_id=EDITED1"]);
    assert_eq!(code, 0);
}

#[test]
fn many_dead_letters_are_retried_by_a_filter_in_their_order() {
    let peer = MllpServer::start();
    peer.answer_with("AR");
    let rig = Rig::with(&results(&peer));
    let mut client = crate::support::mllp_client::MllpClient::connect(rig.listener("results")).unwrap();
    let ids: Vec<String> = (0..30).map(|number| format!("F{number:03}")).collect();
    for id in &ids {
        let message = format!("MSH|^~\\&|L|A|B|C|2026||ORU^R01|{id}|T|2.5\rPID|1\r");
        client.send(message.as_bytes()).unwrap();
    }
    rig.wait_for("dead", ids.len());
    peer.answer_with("AA");
    let (code, text) = rig.cli(&["messages", "retry", "--state", "dead", "--channel", "results"]);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", ids.len());
    let last: Vec<String> =
        peer.received()[ids.len()..].iter().map(|message| message.split('|').nth(9).unwrap().to_owned()).collect();
    assert_eq!(last, ids);
}

#[test]
fn a_channel_is_stopped_paused_and_started() {
    let peer = MllpServer::start();
    let rig = Rig::with(&results(&peer));
    let connects = |view: &serde_json::Value| view["listens_on"].as_str().is_some();
    for (verb, state, listens) in [
        ("pause", "paused", false),
        ("resume", "running", true),
        ("stop", "stopped", false),
        ("start", "running", true),
    ] {
        let (code, text) = rig.cli(&["channels", verb, "results"]);
        assert!(code == 0 && text.contains(state), "{verb}: {text}");
        let view = rig.get("/api/v1/channels").1["channels"][0].clone();
        assert_eq!((view["state"].as_str(), connects(&view)), (Some(state), listens), "{verb}");
    }
    assert_eq!(rig.cli(&["channels", "stop", "nonsense"]).0, 1);
}

#[test]
fn messages_are_listed_page_by_page() {
    let peer = MllpServer::start();
    let rig = Rig::with(&results(&peer));
    let mut client = crate::support::mllp_client::MllpClient::connect(rig.listener("results")).unwrap();
    for number in 0..5 {
        client.send(format!("MSH|^~\\&|L|A|B|C|2026||ADT^A01|P{number}|T|2.5\rPID|1\r").as_bytes()).unwrap();
    }
    rig.wait_for("filtered", 5);
    let (_, first) = rig.cli(&["messages", "list", "--limit", "3", "--format", "json"]);
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    let next = first["next"].as_str().unwrap();
    let (_, second) = rig.cli(&["messages", "list", "--limit", "3", "--before", next, "--format", "json"]);
    let second: serde_json::Value = serde_json::from_str(&second).unwrap();
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["messages"].as_array().unwrap().iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = [ids(&first), ids(&second)].concat();
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0] > pair[1]), "newest first: {all:?}");
    assert_eq!(second["next"], serde_json::Value::Null);
}

#[test]
fn test_shows_differences_field_by_field_and_blesses() {
    let rig = Rig::new();
    let peer_less = |more: &str| {
        format!(
            "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[[transformer]]\nset = {{ \"PID-8\" = \"U\" }}\n[destination.out]\ntype = \"file\"\ndirectory = \"out\"\nfile_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\n{more}\n"
        )
    };
    rig.write("channels/in.hl7", "MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5\rPID|1||1||N||1980|F\r");
    let file =
        rig.write("channels/c.toml", peer_less("sent.out = { \"PID-8\" = \"F\", \"PID-3\" = \"1\" }\nack = \"AR\""));
    let path = file.to_str().unwrap();
    let (code, text) = run(&["test", path]);
    assert_eq!(code, 1, "{text}");
    for words in [
        "FAILED  c: t",
        "sent.out PID-8",
        "expected `F`",
        "found    `U`",
        "ack",
        "expected AR",
        "found    AA",
        "0 passed, 1 failed",
    ] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    assert!(!text.contains("PID-3"), "{text}");
    rig.write("channels/c.toml", peer_less("sent.out = \"expected.hl7\""));
    let expected =
        rig.write("channels/expected.hl7", "MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5\rPID|1||1||N||1980|X\r");
    let (code, text) = run(&["test", path]);
    assert!(code == 1 && text.contains("PID[1]-8"), "{text}");
    let (code, text) = run(&["test", "--bless", path]);
    assert!(code == 0 && text.contains("1 expected file written"), "{text}");
    assert!(std::fs::read_to_string(expected).unwrap().contains("|U\r"));
    assert_eq!(run(&["test", path]).0, 0);
}

#[test]
fn help_names_every_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_labwire")).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for command in [
        "run",
        "demo",
        "check",
        "test",
        "send",
        "bench",
        "messages",
        "journal",
        "channels",
        "actions",
        "schema",
        "completions",
    ] {
        assert!(text.contains(&format!("  {command}")), "{command}");
    }
}
