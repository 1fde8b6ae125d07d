//! The machine gives less: threads, time to read a backlog.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::recovery::kibibytes;
use super::scene::{Scene, free_address, ids, large_message};
use crate::support::eventually::eventually;

/// A control group that holds one process, removed when dropped. None where there are none that we may make.
struct Group(PathBuf);

impl Group {
    fn hold(controller: &str, pid: u32, limits: &[(&str, u64)]) -> Option<Group> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/{controller}/labwire-test-{pid}"));
        let group = std::fs::create_dir(&folder).ok().map(|()| Group(folder.clone()));
        let write = |name: &str, value: u64| std::fs::write(folder.join(name), value.to_string()).is_ok();
        let held = group.is_some()
            && limits.iter().all(|(name, value)| write(name, *value))
            && write("cgroup.procs", u64::from(pid));
        if !held {
            println!("not run: no control group of `{controller}` can be made here (root can, with version 1 of them)");
            return None;
        }
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Group(folder) = self;
        // Also after a failed test, with the engine still in it: it goes back to where it came from.
        for pid in std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write(folder.with_file_name("cgroup.procs"), pid);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&mut *folder).is_err() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

#[test]
fn f10_much_traffic_in_little_memory() {
    let mut scene = Scene::new();
    scene.rig.start();
    let Some(group) = Group::hold("memory", scene.rig.pid(), &[("memory.limit_in_bytes", 256 << 20)]) else { return };
    let start = Instant::now();
    let senders: Vec<_> = (0..8)
        .map(|number| {
            let mut client = scene.client();
            std::thread::spawn(move || {
                let ids = ids(&format!("M{number}"), 8);
                for id in &ids {
                    let answer = client.send(&large_message(id, 5 << 20)).unwrap();
                    assert!(answer.contains("MSA|AA"), "{answer}");
                }
                ids
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap().iter().for_each(|id| scene.remember(id));
    }
    println!("acknowledged after {:?}", start.elapsed());
    assert!(!scene.rig.has_ended(), "it was not killed for its memory");
    let tally = scene.verify();
    assert_eq!((tally.acknowledged, tally.repeated), (64, 0));
    let memory = kibibytes(scene.rig.pid(), "VmHWM") >> 10;
    println!("all went out after {:?}; {memory} MiB at most for 64 messages of 5 MiB", start.elapsed());
    scene.kill();
    drop(group);
}

#[test]
fn f12_no_more_threads() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.send(&ids("A", 20));
    scene.drain();
    let threads = std::fs::read_dir(format!("/proc/{}/task", scene.rig.pid())).unwrap().count() as u64;
    let Some(group) = Group::hold("pids", scene.rig.pid(), &[("pids.max", threads)]) else { return };
    let load = scene.load("B", 4, 50);
    load.finish();
    scene.verify();
    assert!(!scene.rig.log().contains("panicked"), "{}", scene.rig.log());
    scene.kill();
    drop(group);
}

#[test]
fn f15_nobody_reads_the_log() {
    let mut scene = Scene::new();
    scene.rig.environment.push(("LABWIRE_LOG".to_owned(), "debug".to_owned()));
    scene.rig.start();
    let deaf = scene.rig.deaf.clone();
    let nobody_reads = deaf.lock().unwrap();
    // Far more lines than the pipe and the queue hold.
    scene.load("A", 4, 1000).finish();
    scene.drain();
    drop(nobody_reads);
    eventually("it is said that lines are missing", || {
        scene.rig.log().contains("log lines were dropped").then_some(())
    });
    assert_eq!(scene.verify().acknowledged, 4000);
    // Nobody reads when it ends: it ends all the same.
    let nobody_reads = deaf.lock().unwrap();
    scene.load("B", 4, 200).finish();
    assert!(scene.rig.terminate().success());
    drop(nobody_reads);
}

#[test]
fn f33_ready_soon_with_a_long_backlog() {
    let mut scene = Scene::without_peer("", "", free_address());
    scene.rig.start();
    scene.load("H", 8, 600).finish();
    eventually("all are queued", || {
        let counts = scene.rig.get("/api/v1/channels").1["channels"][0]["messages"].clone();
        (counts["queued"] == 4800).then_some(())
    });
    for how in ["killed", "the index made again"] {
        scene.kill();
        if how != "killed" {
            super::recovery::reboot(&scene.rig.path().join("data"));
        }
        let start = Instant::now();
        scene.rig.start();
        let memory = kibibytes(scene.rig.pid(), "VmHWM");
        println!("{how}: ready after {:?} with {} MiB", start.elapsed(), memory >> 10);
        assert!(start.elapsed() < Duration::from_secs(5) && memory < 200 << 10, "{:?} {memory} KiB", start.elapsed());
    }
    scene.start_peer();
    assert_eq!(scene.verify().delivered, 4800);
}
