//! `kill -9`: at random moments under load, and at every call that changes a file while the journal opens and rolls.

use std::time::{Duration, Instant};

use super::scene::{Scene, Tally, ids, large_message};
use super::shim::Shim;
use crate::support::eventually::eventually;

/// `LABWIRE_KILLS` rounds under load; few in the suite, 200 for the figures.
fn rounds(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |rounds| rounds.parse().expect("a number"))
}

/// What came of many kills.
struct Kills {
    sent: u64,
    slowest_start: Duration,
    tally: Tally,
}

/// The engine is killed in each round while four connections send; what each round sent is verified together at the end.
fn kill_under_load(rounds: usize) -> Kills {
    let mut scene = Scene::new();
    scene.rig.start();
    let (mut sent, mut slowest_start) = (0, Duration::ZERO);
    for round in 0..rounds {
        let load = scene.load(&format!("R{round}"), 4, 100);
        let deadline = Instant::now() + Duration::from_millis(fastrand::u64(10..150));
        let enough = scene.acknowledged_count() + 300;
        while Instant::now() < deadline && scene.acknowledged_count() < enough {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        scene.kill();
        let start = Instant::now();
        scene.rig.start();
        slowest_start = slowest_start.max(start.elapsed());
        sent += load.finish();
    }
    Kills { sent, slowest_start, tally: scene.verify() }
}

#[test]
fn kill_9_under_load_again_and_again() {
    let rounds = rounds("LABWIRE_KILLS", 10);
    let Kills { sent, slowest_start, tally } = kill_under_load(rounds);
    assert_eq!(tally.acknowledged, rounds * 400);
    println!(
        "{rounds} kills: {sent} sent, {} acknowledged, 0 lost, {} delivered, {} of them repeated; the slowest start took {} ms",
        tally.acknowledged,
        tally.delivered,
        tally.repeated,
        slowest_start.as_millis()
    );
}

#[test]
fn a_start_replays_little_more_than_what_was_in_motion() {
    let mut scene = Scene::new();
    scene.rig.start();
    // More than one segment, and next to nothing in memory.
    send_large(&scene, "A", 12);
    scene.drain();
    scene.restart_and_verify();
    let sealed = scene.rig.path().join("data/segments/00000001.idx");
    assert!(sealed.exists(), "the first segment is at rest: its roster is sealed, and no start goes through it again");
    assert_eq!(scene.restart_and_verify().acknowledged, 12);
}

/// Runs `work` with the engine killed at the first, second, third … of the calls that `which` names, until it is through without;
/// gives how many there were. `step` > 1 leaves some out.
fn at_every_call(which: &str, step: usize, mut work: impl FnMut(usize) -> (Scene, Shim)) -> usize {
    let mut number = 1;
    loop {
        let (mut scene, shim) = work(number);
        let killed = scene.rig.has_ended();
        shim.calm();
        if !killed {
            scene.kill();
        } else {
            scene.wait_for_end();
        }
        scene.rig.start();
        let tally = scene.verify();
        assert_eq!(
            scene.rig.get("/readyz").1["journal_damage"],
            serde_json::json!([]),
            "killed at {number} of {which}"
        );
        assert!(tally.acknowledged > 0);
        if !killed {
            return number - 1;
        }
        number += step;
    }
}

#[test]
fn f05_killed_at_every_call_while_the_journal_opens() {
    // The folder that each round starts from: some messages, killed, and the index lost, so that it is made again.
    let step = if rounds("LABWIRE_KILLS", 10) >= 200 { 1 } else { 7 };
    let calls = at_every_call("opening", step, |number| {
        let mut scene = Scene::new();
        scene.rig.start();
        scene.send(&ids("A", 5));
        scene.kill();
        super::recovery::reboot(&scene.rig.path().join("data"));
        let shim = Shim::load(&mut scene.rig, "/data/");
        shim.act(&format!("kill-at:{number}"));
        if scene.rig.try_start() {
            // Up to here it counts; what it writes later is another matter.
            shim.calm();
        }
        (scene, shim)
    });
    println!("{calls} calls while the journal opens");
    assert!(calls > 10, "{calls}");
}

#[test]
fn f05_killed_at_every_call_while_a_segment_is_begun() {
    let step = if rounds("LABWIRE_KILLS", 10) >= 200 { 1 } else { 5 };
    let calls = at_every_call("rolling", step, |number| {
        let mut scene = Scene::new();
        let shim = Shim::load(&mut scene.rig, "/data/segments/");
        scene.rig.start();
        // A segment of a small journal is full at 4 MiB.
        send_large(&scene, "A", 5);
        scene.drain();
        shim.act(&format!("kill-at:{number} 0000000"));
        send_large(&scene, "B", 4);
        if !scene.rig.has_ended() {
            eventually("it is killed or done", || {
                let done = scene.peer.as_ref().is_some_and(|peer| peer.received().len() >= 9);
                (done || scene.rig.has_ended()).then_some(())
            });
        }
        (scene, shim)
    });
    println!("{calls} calls while a segment is begun");
    assert!(calls > 10, "{calls}");
}

/// A segment that is written anew without its content is there once, in the old way or in the new.
#[test]
fn f05_killed_at_every_call_while_content_is_removed() {
    let step = if rounds("LABWIRE_KILLS", 10) >= 200 { 1 } else { 3 };
    let mut number = 1;
    while killed_while_content_is_removed(number) {
        number += step;
    }
    println!("{number} calls while content is removed");
    assert!(number > 10, "{number}");
}

/// False when it went through before.
fn killed_while_content_is_removed(number: usize) -> bool {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, "/data/segments/");
    scene.rig.start();
    scene.send(&ids("A", 5));
    scene.drain();
    let before = scene.rig.messages("");
    shim.act(&format!("kill-at:{number}"));
    let content = ["journal", "prune", "--before", "2100-01-01T00:00:00Z", "--content"];
    let (code, text) = scene.rig.cli(&content);
    shim.calm();
    let killed = code != 0;
    if killed {
        scene.wait_for_end();
        scene.rig.start();
    }
    let after = scene.rig.messages("");
    let removed: Vec<bool> = after.iter().map(|message| message["content_removed"].is_string()).collect();
    assert!(removed == [true; 5] || (killed && removed == [false; 5]), "killed at {number}: {removed:?} {text}");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before["id"], &before["state"]), (&after["id"], &after["state"]), "killed at {number}");
        let story = scene.rig.story(after["id"].as_str().unwrap());
        let body = if removed[0] { "removed" } else { "text" };
        assert!(!story["body"][body].is_null(), "killed at {number}: {story}");
    }
    let (code, text) = scene.rig.cli(&content);
    assert!(code == 0 && scene.rig.messages("").iter().all(|message| message["content_removed"].is_string()), "{text}");
    scene.send(&ids("B", 2));
    scene.verify();
    assert_eq!(scene.rig.get("/readyz").1["journal_damage"], serde_json::json!([]), "killed at {number}");
    killed
}

/// Sends until the engine is no longer there.
fn send_large(scene: &Scene, connection: &str, count: usize) {
    let mut client = scene.client();
    for id in ids(connection, count) {
        match client.send(&large_message(&id, 450_000)) {
            Ok(answer) if answer.contains("MSA|AA") => scene.remember(&id),
            _ => return,
        }
    }
}
