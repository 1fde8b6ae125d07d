//! The disk refuses, is slow, or takes only a part.

use std::time::{Duration, Instant};

use super::mounts::{Mount, memory};
use super::scene::{Scene, ids, message};
use super::shim::Shim;
use crate::support::eventually::eventually;
use crate::support::mllp_client::{field, frame};

const SEGMENTS: &str = "/data/segments/";

/// After a write or a sync that failed: nothing is acknowledged, the engine is not ready and ends with an error; started again on
/// a disk that works, it has everything.
fn the_journal_is_fenced(action: &str) {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, SEGMENTS);
    scene.rig.start();
    scene.send(&ids("A", 5));
    scene.drain();
    shim.act(action);
    let mut client = scene.client();
    let answer = client.send(&message("B-00000"));
    assert!(!answer.is_ok_and(|answer| field(&answer, "MSA", 1) == "AA"), "not acknowledged");
    let status = scene.wait_for_end();
    assert_eq!(status.code(), Some(1), "whoever looks after the engine starts it again");
    assert!(scene.rig.log().contains("nothing more is accepted"), "{}", scene.rig.log());
    shim.calm();
    scene.rig.start();
    scene.send(&["B-00000".to_owned()]);
    assert_eq!(scene.verify().acknowledged, 6);
}

#[test]
fn f18_a_failed_sync_is_final() {
    the_journal_is_fenced("eio-sync .log");
}

#[test]
fn f18_a_failed_write_is_final() {
    the_journal_is_fenced("enospc .log");
}

#[test]
fn f16_a_full_disk_that_fills_up_while_the_engine_runs() {
    let Some(disk) = Mount::tmpfs(16) else { return };
    let mut scene = Scene::new();
    disk.hold_data_of(&mut scene.rig);
    // The reserve is tested in `disk_full.rs`; here is none, and the disk is full to the last byte.
    scene.rig.start();
    scene.send(&ids("A", 20));
    scene.drain();
    disk.fill();
    let load = scene.load("B", 2, 400);
    let mut ends = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) && !load.is_finished() {
        if scene.rig.has_ended() {
            assert_eq!(scene.wait_for_end().code(), Some(1));
            ends += 1;
            if !scene.rig.try_start() {
                assert!(scene.rig.log().contains("No space left"), "{}", scene.rig.log());
                break;
            }
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    println!("the engine ended {ends} times on the full disk");
    disk.empty();
    if scene.rig.has_ended() {
        scene.wait_for_end();
        scene.rig.start();
    }
    load.finish();
    assert_eq!(scene.restart_and_verify().acknowledged, 820);
}

#[test]
fn f17_a_full_disk_under_one_file_destination_leaves_the_others_alone() {
    let Some(disk) = Mount::tmpfs(1) else { return };
    let archive = disk.path().join("archive");
    let more = format!(
        "[destination.archive]\ntype = \"file\"\ndirectory = \"{}\"\nfile_name = \"{{{{ msg['MSH-10'] }}}}.hl7\"\n\
         retry = {{ first = \"20ms\", longest = \"100ms\" }}",
        archive.display()
    );
    let mut scene = Scene::with("", &more);
    scene.rig.start();
    disk.fill();
    scene.send(&ids("A", 10));
    let peer = scene.peer.as_ref().unwrap();
    eventually("the other destination has them", || (peer.received().len() == 10).then_some(()));
    let archive_lane = || scene.rig.get("/api/v1/channels").1["channels"][0]["lanes"][1].clone();
    eventually("the gap is shown", || archive_lane()["error"].as_str().map(str::to_owned));
    assert_eq!(archive_lane()["waiting"], 10);
    disk.empty();
    scene.verify();
    let mut names: Vec<_> =
        std::fs::read_dir(&archive).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ids("A", 10).iter().map(|id| format!("{id}.hl7")).collect::<Vec<_>>(),
        "whole files and nothing else"
    );
}

#[test]
fn f20_short_and_interrupted_writes_leave_records_whole() {
    for action in ["short:1 .log", "short:1000 .log", "eintr .log"] {
        let mut scene = Scene::new();
        let shim = Shim::load(&mut scene.rig, SEGMENTS);
        scene.rig.start();
        shim.act(action);
        scene.send(&ids("A", 10));
        scene.drain();
        shim.calm();
        scene.kill();
        super::recovery::reboot(&scene.rig.path().join("data"));
        scene.rig.start();
        assert_eq!(scene.verify().acknowledged, 10, "{action}");
        assert_eq!(scene.rig.get("/readyz").1["journal_damage"], serde_json::json!([]), "{action}");
    }
}

#[test]
fn f21_a_slow_sync_slows_acknowledgements_and_nothing_else() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, SEGMENTS);
    scene.rig.start();
    scene.send(&ids("A", 3));
    scene.drain();
    shim.act("delay:1500 .log");
    let start = Instant::now();
    let mut clients: Vec<_> = (0..8).map(|_| scene.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(&frame(&message(&format!("B{number}-00000")))).unwrap();
    }
    let asked = Instant::now();
    assert_eq!(scene.rig.get("/healthz").0, 200);
    assert_eq!(scene.rig.messages("").len(), 3);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(clients[0].is_silent(Duration::from_millis(100)), "not acknowledged before the sync");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(field(&client.read().unwrap(), "MSA", 1), "AA");
        scene.acknowledged.lock().unwrap().insert(format!("B{number}"), vec![format!("B{number}-00000")]);
    }
    assert!(start.elapsed() < Duration::from_secs(6), "they share their syncs: {:?}", start.elapsed());
    shim.calm();
    scene.verify();
}

#[test]
fn f23_a_disk_that_becomes_read_only() {
    let memory = memory();
    let Some(disk) = Mount::ext4(&memory.path().join("image"), 64, &[]) else { return };
    let mut scene = Scene::new();
    disk.hold_data_of(&mut scene.rig);
    let shim = Shim::load(&mut scene.rig, SEGMENTS);
    scene.rig.start();
    scene.send(&ids("A", 5));
    scene.drain();
    // A file that is open for writing keeps a disk from being made read-only by hand; when the kernel does it, after an error of
    // the disk, the next sync says so.
    shim.act("eio-sync .log");
    assert_ne!(scene.try_send("B-00000").as_deref(), Some("AA"));
    assert_eq!(scene.wait_for_end().code(), Some(1));
    shim.calm();
    disk.remount("ro");
    assert!(!scene.rig.try_start(), "it does not start without being able to write");
    let log = scene.rig.log();
    assert!(log.contains("Read-only file system"), "{log}");
    disk.remount("rw");
    scene.rig.start();
    scene.send(&["B-00000".to_owned()]);
    scene.verify();
}

#[test]
fn f13_processors_that_others_use() {
    // Four busy loops per processor.
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy: Vec<_> = (0..4 * cores)
        .map(|_| std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
        .collect();
    let mut scene = Scene::new();
    scene.rig.start();
    let mut client = scene.client();
    let mut slowest = Duration::ZERO;
    for id in ids("A", 50) {
        let start = Instant::now();
        assert_eq!(field(&client.send(&message(&id)).unwrap(), "MSA", 1), "AA");
        slowest = slowest.max(start.elapsed());
    }
    for mut child in busy {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let log = scene.rig.log();
    assert!(!log.contains("timeout") && !log.contains("an attempt failed"), "{log}");
    scene.verify();
}
