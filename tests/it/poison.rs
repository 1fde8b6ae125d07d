//! What a dead letter does to what comes after it: `on_poison`.

use serde_json::Value;

use crate::lanes::{channel, lane, message, send};
use crate::support::eventually::eventually;
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

const KEYED: &str = "order_by = \"msg['PID-3.1']\"";

fn refuse(peer: &MllpServer, refused: &'static str) {
    peer.answer_by(move |id| if id == refused { "AR".to_owned() } else { "AA".to_owned() });
}

fn is_dead(rig: &Rig, id: &str) -> Value {
    eventually(&format!("{id} is a dead letter"), || {
        Some(message(rig, id)).filter(|message| message["state"] == "dead")
    })
}

/// What the lane shows once it does.
fn shown(rig: &Rig, what: &str) -> Value {
    eventually(&format!("the lane shows `{what}`"), || Some(lane(rig)).filter(|lane| !lane[what].is_null()))
}

fn command(rig: &Rig, verb: &str, message: &Value) {
    let (code, text) = rig.cli(&["messages", verb, message["id"].as_str().unwrap(), "--why", "seen to"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn without_keys_the_lane_waits_for_a_dead_letter_also_after_a_restart_until_it_is_retried() {
    let peer = MllpServer::start();
    refuse(&peer, "A2");
    let mut rig = Rig::with(&channel(&peer, ""));
    send(&rig, &["A1", "A2", "B1", "B2"]);
    let dead = is_dead(&rig, "A2");
    let blocked = shown(&rig, "blocked_by");
    assert_eq!(blocked["blocked_by"]["message"], dead["id"], "{blocked}");
    assert_eq!(blocked["blocked_by"]["since"], dead["deliveries"][0]["finished_at"], "{blocked}");
    eventually("the others wait", || (lane(&rig)["waiting"] == 2).then_some(()));
    let (_, text) = rig.cli(&["channels"]);
    assert!(text.contains(&format!("blocked by the dead letter {}", dead["id"].as_str().unwrap())), "{text}");
    rig.kill();
    rig.start();
    assert_eq!(shown(&rig, "blocked_by")["blocked_by"]["message"], dead["id"]);
    send(&rig, &["C1"]);
    eventually("the new one is queued", || (lane(&rig)["waiting"] == 3).then_some(()));
    assert_eq!(peer.ids(), ["A1", "A2"]);
    peer.answer_with("AA");
    command(&rig, "retry", &dead);
    rig.wait_for("sent", 5);
    assert_eq!(peer.ids(), ["A1", "A2", "A2", "B1", "B2", "C1"], "it has kept its place");
    assert!(lane(&rig)["blocked_by"].is_null(), "{}", lane(&rig));
}

#[test]
fn cancelling_the_dead_letter_lets_the_others_go() {
    for (options, waits) in [("on_poison = \"block\"", "blocked_by"), (KEYED, "held_by")] {
        let peer = MllpServer::start();
        refuse(&peer, "A1");
        let rig = Rig::with(&channel(&peer, options));
        send(&rig, &["A1", "A2", "A3"]);
        let dead = is_dead(&rig, "A1");
        shown(&rig, waits);
        assert_eq!(peer.ids(), ["A1"]);
        command(&rig, "cancel", &dead);
        // What was cancelled has come to rest, too.
        rig.wait_for("sent", 3);
        assert_eq!(peer.ids(), ["A1", "A2", "A3"]);
        assert!(lane(&rig)[waits].is_null(), "{}", lane(&rig));
    }
}

#[test]
fn with_keys_only_the_dead_letters_key_waits_also_after_a_restart() {
    let peer = MllpServer::start();
    refuse(&peer, "A1");
    let mut rig = Rig::with(&channel(&peer, KEYED));
    send(&rig, &["A1", "A2", "B1", "A3", "B2"]);
    let dead = is_dead(&rig, "A1");
    rig.wait_for("sent", 2);
    let held = shown(&rig, "held_by");
    assert_eq!((&held["held_by"][0]["message"], &held["held_keys"]), (&dead["id"], &Value::from(1)), "{held}");
    let (_, text) = rig.cli(&["channels"]);
    assert!(text.contains("1 key is held by dead letters"), "{text}");
    rig.kill();
    rig.start();
    send(&rig, &["B3", "A4"]);
    rig.wait_for("sent", 3);
    shown(&rig, "held_by");
    let ours = |peer: &MllpServer| -> Vec<String> { peer.ids().into_iter().filter(|id| id.starts_with('A')).collect() };
    assert_eq!(ours(&peer), ["A1"]);
    peer.answer_with("AA");
    command(&rig, "retry", &dead);
    rig.wait_for("sent", 7);
    assert_eq!(ours(&peer), ["A1", "A1", "A2", "A3", "A4"]);
}

#[test]
fn a_lane_with_keys_can_wait_as_a_whole() {
    let peer = MllpServer::start();
    refuse(&peer, "A1");
    let rig = Rig::with(&channel(&peer, &format!("{KEYED}\nparallel = 1\non_poison = \"block\"")));
    send(&rig, &["A1", "B1", "C1"]);
    let dead = is_dead(&rig, "A1");
    shown(&rig, "blocked_by");
    eventually("the others wait", || (lane(&rig)["waiting"] == 2).then_some(()));
    assert_eq!(peer.ids(), ["A1"]);
    command(&rig, "cancel", &dead);
    rig.wait_for("sent", 3);
}

#[test]
fn a_lane_that_may_goes_on_after_a_dead_letter() {
    for options in ["on_poison = \"dead_letter\"".to_owned(), format!("{KEYED}\non_poison = \"dead_letter\"")] {
        let peer = MllpServer::start();
        refuse(&peer, "A1");
        let rig = Rig::with(&channel(&peer, &options));
        send(&rig, &["A1", "A2", "A3"]);
        rig.wait_for("sent", 2);
        assert_eq!(peer.ids(), ["A1", "A2", "A3"]);
        peer.answer_with("AA");
        command(&rig, "retry", &is_dead(&rig, "A1"));
        rig.wait_for("sent", 3);
    }
}

#[test]
fn a_file_that_says_so_lets_a_waiting_lane_go() {
    let peer = MllpServer::start();
    refuse(&peer, "A1");
    let rig = Rig::with(&channel(&peer, ""));
    send(&rig, &["A1", "A2"]);
    shown(&rig, "blocked_by");
    rig.write("channels/channel.toml", channel(&peer, "on_poison = \"dead_letter\""));
    rig.wait_for("sent", 1);
    assert_eq!(peer.ids(), ["A1", "A2"]);
}

#[test]
fn used_up_attempts_hold_up_the_lane_like_a_rejection() {
    let peer = MllpServer::start();
    peer.answer_by(|id| if id == "A1" { "AE".to_owned() } else { "AA".to_owned() });
    let rig = Rig::with(&channel(&peer, "retry = { attempts = 3, first = \"1ms\", longest = \"2ms\" }"));
    send(&rig, &["A1", "A2"]);
    let dead = is_dead(&rig, "A1");
    assert_eq!(dead["deliveries"][0]["attempts"], 3);
    shown(&rig, "blocked_by");
    assert_eq!(peer.ids(), ["A1"; 3]);
}
