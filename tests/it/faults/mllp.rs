//! Senders and their connections. More of them: `tests/it/mllp/`.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};

use super::recovery::kibibytes;
use super::scene::{Scene, ids, message};
use super::shim::Shim;
use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field, frame};

fn is_taken(client: &mut MllpClient, id: &str) -> bool {
    client.send(&message(id)).is_ok_and(|answer| field(&answer, "MSA", 1) == "AA")
}

#[test]
fn f36_half_open_connections_are_probed() {
    let mut scene = Scene::new();
    scene.rig.start();
    let mut client = scene.client();
    assert!(is_taken(&mut client, "A-00000"));
    // A peer that vanished answers no probe, and the system then ends the connection; here we see that probes are sent.
    let Ok(output) = Command::new("ss").args(["-tno", "state", "established"]).output() else {
        println!("not run: ss (iproute2) is not there");
        return;
    };
    let sockets = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = client.stream().local_addr().unwrap().to_string();
    // The local address comes first: the line that ends with our address is the engine's.
    let line = sockets.lines().find(|line| line.split_whitespace().nth(3) == Some(ours.as_str())).unwrap();
    assert!(line.contains("timer:(keepalive,"), "{line}");
    let mut again = scene.client();
    assert!(is_taken(&mut again, "B-00000"), "a new connection is served meanwhile");
    scene.verify();
}

#[test]
fn f37_a_reset_in_the_middle_of_a_frame() {
    let mut scene = Scene::with("max_connections = 1", "");
    scene.rig.start();
    let mut client = scene.client();
    client.write(b"\x0bMSH|^~\\&|LAB|A|B|C|2026||ORU^R01|HALF|P|2.5\rPID|1||CANARIUS").unwrap();
    client.reset();
    eventually("the place is free", || {
        is_taken(&mut MllpClient::connect(scene.address).ok()?, "A-00000").then_some(())
    });
    assert!(!scene.journal().contains_key("HALF"));
    scene.verify();
}

#[test]
fn f38_a_frame_without_an_end() {
    let mut scene = Scene::with("max_connections = 1\nbyte_timeout = \"300ms\"", "");
    scene.rig.start();
    let mut client = scene.client();
    client.write(&frame(&message("HALF"))[..100]).unwrap();
    assert!(client.is_closed(), "closed without an answer");
    eventually("the place is free", || {
        is_taken(&mut MllpClient::connect(scene.address).ok()?, "A-00000").then_some(())
    });
    assert!(!scene.journal().contains_key("HALF"));
    scene.verify();
}

#[test]
fn f41_a_frame_of_200_mb_takes_no_memory() {
    let mut scene = Scene::new();
    scene.rig.start();
    assert!(is_taken(&mut scene.client(), "A-00000"));
    let mut client = scene.client();
    client.write(&frame(&message("HUGE"))[..100]).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let taken = (0..200).take_while(|_| client.write(&piece).is_ok()).count();
    let peak = kibibytes(scene.rig.pid(), "VmHWM");
    assert!(peak < 200 << 10, "{peak} KiB after {taken} MiB");
    drop(client);
    assert!(is_taken(&mut scene.client(), "B-00000"));
    scene.verify();
}

#[test]
fn f42_500_senders_that_trickle_hold_up_nobody() {
    let mut scene = Scene::with("max_connections = 600", "");
    scene.rig.start();
    let mut crowd: Vec<MllpClient> = (0..500).map(|_| scene.client()).collect();
    for client in &mut crowd {
        client.write(b"\x0bMSH|").unwrap();
    }
    let mut client = scene.client();
    for id in ids("A", 20) {
        let start = Instant::now();
        assert!(is_taken(&mut client, &id));
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    scene.verify();
}

#[test]
fn f44_the_same_message_on_a_second_connection_while_the_first_is_in_flight() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, "/data/segments/");
    scene.rig.start();
    scene.send(&ids("A", 1));
    scene.drain();
    shim.act("delay:500 .log");
    let mut clients = [scene.client(), scene.client()];
    for client in &mut clients {
        client.write(&frame(&message("B-00000"))).unwrap();
    }
    for client in &mut clients {
        assert_eq!(field(&client.read().unwrap(), "MSA", 1), "AA", "both are answered");
    }
    shim.calm();
    assert_eq!(scene.journal()["B-00000"].len(), 1, "it is one message");
    assert_eq!(scene.verify().delivered, 2);
}

#[test]
fn f45_a_frame_that_comes_slowly_but_comes() {
    let mut scene = Scene::with("byte_timeout = \"500ms\"", "");
    scene.rig.start();
    let mut client = scene.client();
    let bytes = frame(&message("A-00000"));
    for piece in bytes.chunks(bytes.len() / 20) {
        assert!(client.is_silent(Duration::from_millis(50)), "nothing is answered before the end");
        client.write(piece).unwrap();
    }
    assert_eq!(field(&client.read().unwrap(), "MSA", 1), "AA");
    scene.remember("A-00000");
    scene.verify();
}

#[test]
fn f47_a_port_that_is_taken_is_tried_again() {
    let mut scene = Scene::new();
    let taken = std::net::TcpListener::bind(scene.address).unwrap();
    scene.rig.start();
    let (status, ready) = scene.rig.get("/readyz");
    assert_eq!((status, ready["ready"].as_bool()), (503, Some(false)), "{ready}");
    let channel = scene.rig.get("/api/v1/channels").1["channels"][0].clone();
    assert_eq!(channel["state"], "failed", "{channel}");
    drop(taken);
    eventually_within(Duration::from_secs(40), "it listens", || {
        is_taken(&mut MllpClient::connect(scene.address).ok()?, "A-00000").then_some(())
    });
    scene.verify();
}

/// As many connections as the row asks for, or as this machine lets two processes have.
fn a_crowd() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    // Inherited by the engine.
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).unwrap();
    most.saturating_sub(200).min(5000) as usize
}

#[test]
fn f48_many_idle_connections_then_a_burst() {
    let count = a_crowd();
    let mut scene = Scene::with(&format!("max_connections = {}", count + 1), "");
    scene.rig.start();
    assert!(is_taken(&mut scene.client(), "A-00000"));
    let before = kibibytes(scene.rig.pid(), "VmRSS");
    let mut crowd: Vec<MllpClient> = (0..count).map(|_| scene.client()).collect();
    let idle = kibibytes(scene.rig.pid(), "VmRSS").saturating_sub(before);
    for (number, client) in crowd.iter_mut().enumerate() {
        client.write(&frame(&message(&format!("B{number}-00000")))).unwrap();
    }
    for (number, client) in crowd.iter_mut().enumerate() {
        assert_eq!(field(&client.read().unwrap(), "MSA", 1), "AA");
        scene.remember(&format!("B{number}-00000"));
    }
    let used = kibibytes(scene.rig.pid(), "VmRSS").saturating_sub(before);
    let (idle, each) = (idle / count as u64, used / count as u64);
    println!("{count} connections: {idle} KiB for each that is idle, {each} KiB for each after a message");
    assert!(each < 64, "{used} KiB");
    assert_eq!(scene.verify().acknowledged, count);
}
