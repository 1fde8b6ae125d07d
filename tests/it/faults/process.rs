//! The process is killed, stopped, started twice.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::scene::{Scene, ids, message};
use super::shim::Shim;
use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::rig::labwire;

/// The segments, which are written before a message is acknowledged.
const SEGMENTS: &str = "/data/segments/";

#[test]
fn f01_killed_before_the_journal_write() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, SEGMENTS);
    scene.rig.start();
    scene.send(&ids("A", 3));
    scene.drain();
    shim.act("kill-at:1 .log");
    assert_eq!(scene.try_send("B-00000"), None, "no acknowledgement of what was not written");
    scene.wait_for_end();
    shim.calm();
    scene.rig.start();
    assert!(!scene.journal().contains_key("B-00000"));
    scene.send(&["B-00000".to_owned()]);
    assert_eq!(scene.verify().delivered, 4, "one copy of it");
}

#[test]
fn f02_killed_after_the_sync_before_the_acknowledgement() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, SEGMENTS);
    scene.rig.start();
    scene.send(&ids("A", 3));
    scene.drain();
    shim.act("kill-at:1:fdatasync:after .log");
    assert_eq!(scene.try_send("B-00000"), None);
    scene.wait_for_end();
    shim.calm();
    scene.rig.start();
    assert_eq!(scene.journal()["B-00000"].len(), 1, "it was on disk");
    scene.send(&["B-00000".to_owned()]);
    assert_eq!(scene.journal()["B-00000"].len(), 1, "it is known again");
    assert_eq!(scene.verify().delivered, 4, "and delivered once");
}

#[test]
fn f03_killed_while_the_destination_has_not_answered() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = Scene::without_peer("", "", silent.local_addr().unwrap());
    scene.rig.start();
    scene.send(&ids("A", 3));
    let (mut stream, _) = silent.accept().unwrap();
    let sent = read_frame(&mut stream);
    scene.kill();
    drop((stream, silent));
    scene.start_peer();
    scene.rig.start();
    scene.verify();
    let received = scene.peer.as_ref().unwrap().received();
    assert_eq!(received[0], sent, "the same message with the same MSH-10");
    assert_eq!(received.len(), 3);
}

fn read_frame(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes[1..bytes.len() - 2].to_vec()).unwrap()
}

#[test]
fn f04_killed_after_the_destination_acknowledged() {
    // At each of the writes and syncs that follow a receipt; among them are those of `transformed` and of `sent`.
    for number in 1..=6 {
        for when in ["", ":after"] {
            let mut scene = Scene::new();
            let shim = Shim::load(&mut scene.rig, SEGMENTS);
            scene.rig.start();
            shim.act(&format!("kill-at:{number}:*{when} .log"));
            scene.try_send("A-00000");
            eventually("it is killed or done", || {
                let done = scene.peer.as_ref().is_some_and(|peer| !peer.received().is_empty());
                (done || scene.rig.has_ended()).then_some(())
            });
            // The attempt is journaled only now.
            let received = Instant::now();
            while !scene.rig.has_ended() && received.elapsed() < Duration::from_secs(1) {
                std::thread::park_timeout(Duration::from_millis(10));
            }
            let killed = scene.rig.has_ended();
            shim.calm();
            if killed {
                scene.wait_for_end();
                scene.rig.start();
            }
            let tally = scene.verify();
            assert!(tally.delivered <= 2, "{number}{when}: {tally:?}");
        }
    }
}

#[test]
fn f07_sigterm_under_load() {
    let mut scene = Scene::new();
    scene.rig.start();
    let load = scene.load("T", 4, 300);
    eventually("some are acknowledged", || (scene.acknowledged_count() > 50).then_some(()));
    let start = Instant::now();
    assert_eq!(scene.rig.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    scene.rig.start();
    load.finish();
    assert_eq!(scene.verify().acknowledged, 1200);
}

#[test]
fn f07_a_second_sigterm_ends_at_once() {
    // A peer that never answers keeps a stop waiting.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = Scene::without_peer("", "", silent.local_addr().unwrap());
    scene.rig.start();
    scene.send(&ids("A", 1));
    let (mut stream, _) = silent.accept().unwrap();
    read_frame(&mut stream);
    scene.rig.signal("TERM");
    eventually("it is stopping", || scene.rig.log().contains("stopping").then_some(()));
    let start = Instant::now();
    scene.rig.signal("TERM");
    assert_eq!(scene.wait_for_end().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    drop((stream, silent));
    scene.start_peer();
    scene.rig.start();
    scene.verify();
}

#[test]
fn f08_two_engines_on_one_data_folder() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.send(&ids("A", 3));
    let second = labwire()
        .args(["run", "--listen", "127.0.0.1:0", "--channels"])
        .arg(scene.rig.channels())
        .arg("--data")
        .arg(scene.rig.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another engine is running") && text.contains(&scene.rig.pid().to_string()), "{text}");
    scene.send(&ids("B", 3));
    assert_eq!(scene.verify().delivered, 6);
    // The lock is the system's: it ends with the process, however that ends.
    assert_eq!(scene.restart_and_verify().acknowledged, 6);
}

#[test]
fn f06_stopped_for_a_while_and_continued() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.send(&ids("A", 3));
    let mut given_up = scene.client();
    let mut waiting = scene.client();
    scene.rig.signal("STOP");
    given_up.write(&frame(&message("B-00000"))).unwrap();
    waiting.write(&frame(&message("C-00000"))).unwrap();
    assert!(given_up.is_silent(Duration::from_millis(300)));
    // This sender's patience ends; what it sent may be taken, but nobody can be told.
    given_up.reset();
    scene.rig.signal("CONT");
    assert_eq!(field(&waiting.read().unwrap(), "MSA", 1), "AA");
    scene.send(&["B-00000".to_owned()]);
    scene.verify();
}

#[test]
fn f11_file_descriptors_run_out() {
    let mut scene = Scene::with("max_connections = 1000", "");
    scene.rig.start();
    let mut first = scene.client();
    assert_eq!(field(&first.send(&message("A-00000")).unwrap(), "MSA", 1), "AA");
    scene.drain();
    let pid = scene.rig.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    limit_files(&pid, open + 8);
    let crowd: Vec<_> = (0..100).filter_map(|_| MllpClient::connect(scene.address).ok()).collect();
    let before = cpu_ticks(&pid);
    // The connection that was there goes on, and so do journal and lane.
    for number in 1..=20 {
        let id = format!("A-{number:05}");
        assert_eq!(field(&first.send(&message(&id)).unwrap(), "MSA", 1), "AA");
    }
    eventually("they are delivered", || (scene.peer.as_ref().unwrap().received().len() == 21).then_some(()));
    let start = Instant::now();
    eventually("a second goes by", || (start.elapsed() > Duration::from_secs(1)).then_some(()));
    let used = cpu_ticks(&pid) - before;
    assert!(used < 80, "the accept loop does not spin: {used} ticks of 10 ms");
    drop(crowd);
    limit_files(&pid, 4096);
    eventually_within(Duration::from_secs(10), "new connections are served again", || {
        (scene.try_send("B-00000").as_deref() == Some("AA")).then_some(())
    });
    scene.verify();
}

fn limit_files(pid: &str, count: usize) {
    let done = std::process::Command::new("prlimit").args(["--pid", pid, &format!("--nofile={count}:4096")]).status();
    assert!(done.unwrap().success());
}

/// Processor time that a process has used, in hundredths of a second.
pub(super) fn cpu_ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn f14_a_step_that_fails_costs_one_message() {
    // No message makes a step panic that we know of; what is caught at the same place is a step that goes wrong.
    let mut scene = Scene::new();
    let channel = std::fs::read_to_string(scene.rig.channels().join("channel.toml")).unwrap();
    let step = "[[transformer]]\nset = { \"MSH-6\" = \"{{ 10 // (msg['OBX-5'] | int) }}\" }\n[destination.peer]";
    scene.rig.write("channels/channel.toml", channel.replace("[destination.peer]", step));
    scene.rig.start();
    scene.send(&ids("A", 2));
    let bad = String::from_utf8(message("B-00000")).unwrap().replace("5.4", "0");
    let answer = scene.client().send(bad.as_bytes()).unwrap();
    assert_eq!(field(&answer, "MSA", 1), "AA", "it is kept, and shown as errored");
    scene.send(&ids("C", 2));
    scene.rig.wait_for("errored", 1);
    assert_eq!(scene.verify().delivered, 4);
}
