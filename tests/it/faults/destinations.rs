//! Receivers that are away, silent, wrong. More of them: `tests/it/mllp_destination.rs`, `tests/it/sftp.rs`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::process::cpu_ticks;
use super::recovery::kibibytes;
use super::scene::{Scene, free_address, ids};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{field, frame};

#[test]
fn f49_a_long_backlog_behind_a_closed_port() {
    let mut scene = Scene::without_peer("", "", free_address());
    scene.rig.start();
    scene.send(&ids("A", 200));
    scene.rig.wait_for("queued", 200);
    let before = kibibytes(scene.rig.pid(), "VmRSS");
    let load = scene.load("B", 4, 750);
    load.finish();
    let grown = kibibytes(scene.rig.pid(), "VmRSS").saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 3,000 more that wait");
    let pid = scene.rig.pid().to_string();
    let (ticks, lines) = (cpu_ticks(&pid), scene.rig.log().lines().count());
    let start = std::time::Instant::now();
    eventually("a second goes by", || (start.elapsed() > Duration::from_secs(1)).then_some(()));
    let used = cpu_ticks(&pid) - ticks;
    assert!(used < 50, "it does not hammer: {used} ticks of 10 ms in a second");
    let said = scene.rig.log().lines().count() - lines;
    assert!(said < 100, "one message is tried, not every one: {said} lines in a second");
    scene.start_peer();
    let tally = scene.verify();
    assert_eq!((tally.acknowledged, tally.delivered, tally.repeated), (3200, 3200, 0));
}

fn read_frame(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    Some(String::from_utf8(bytes[1..bytes.len() - 2].to_vec()).unwrap())
}

fn acknowledge(stream: &mut TcpStream, message: &str) {
    let answer = format!("MSH|^~\\&|||||||ACK|A|P|2.5\rMSA|AA|{}\r", field(message, "MSH", 10));
    stream.write_all(&frame(answer.as_bytes())).unwrap();
}

#[test]
fn f50_a_receiver_that_never_answers_gets_the_same_again() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = Scene::without_peer("", "ack_timeout = \"200ms\"", silent.local_addr().unwrap());
    scene.rig.start();
    scene.send(&ids("A", 3));
    let (mut first, _) = silent.accept().unwrap();
    let sent = read_frame(&mut first).unwrap();
    let (mut second, _) = silent.accept().unwrap();
    assert_eq!(read_frame(&mut second).unwrap(), sent);
    // The late answer on the dead connection settles nothing: the same comes once more.
    let _ = first.write_all(&frame(b"MSH|^~\\&|||||||ACK|A|P|2.5\rMSA|AA|A-00000\r"));
    let (mut third, _) = silent.accept().unwrap();
    assert_eq!(read_frame(&mut third).unwrap(), sent);
    acknowledge(&mut third, &sent);
    assert_eq!(field(&read_frame(&mut third).unwrap(), "MSH", 10), "A-00001");
    // This receiver has it, and is gone now.
    scene.acknowledged.lock().unwrap().get_mut("A").unwrap().remove(0);
    drop((first, second, third, silent));
    scene.start_peer();
    scene.verify();
}

#[test]
fn f51_what_receivers_answer() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.peer.as_ref().unwrap().answer_with("AE");
    scene.send(&ids("A", 1));
    eventually("AE is tried again", || (scene.peer.as_ref().unwrap().received().len() > 2).then_some(()));
    scene.peer.as_ref().unwrap().answer_with("AA");
    scene.drain();
    scene.peer.as_ref().unwrap().answer_with("AR");
    scene.send(&ids("B", 1));
    scene.rig.wait_for("dead", 1);
    scene.peer.as_ref().unwrap().answer_with("AA");
    scene.verify();
    // Codes and control ids that are none: `what_a_peer_does_and_what_becomes_of_the_delivery` in `mllp_destination.rs`.
}

#[test]
fn f52_a_receiver_that_keeps_a_message_and_dies_before_it_answers() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut scene = Scene::without_peer("", "", receiver.local_addr().unwrap());
    scene.rig.start();
    scene.send(&ids("A", 1));
    let (mut first, _) = receiver.accept().unwrap();
    let kept = read_frame(&mut first).unwrap();
    drop(first);
    let (mut second, _) = receiver.accept().unwrap();
    let again = read_frame(&mut second).unwrap();
    assert_eq!(again, kept, "the same bytes with the same MSH-10: the receiver can know it again");
    acknowledge(&mut second, &again);
    scene.rig.wait_for("sent", 1);
}

#[test]
fn f53_a_name_that_leads_nowhere_pauses_its_lane_and_no_other() {
    let more = "[destination.lost]\ntype = \"mllp\"\naddress = \"no-such-host.invalid:2575\"\n\
                retry = { first = \"20ms\", longest = \"100ms\", attempts = 1 }";
    let mut scene = Scene::with("", more);
    scene.rig.start();
    scene.send(&ids("A", 20));
    let peer = scene.peer.as_ref().unwrap();
    eventually("the other lane goes on", || (peer.received().len() == 20).then_some(()));
    let lane = || scene.rig.get("/api/v1/channels").1["channels"][0]["lanes"][1].clone();
    eventually_within(Duration::from_secs(30), "the lane says what is wrong", || {
        lane()["error"].as_str().is_some_and(|error| error.contains("no-such-host.invalid")).then_some(())
    });
    assert_eq!(lane()["waiting"], 20, "`attempts = 1`, and none was used up: {}", lane());
    assert_eq!(scene.rig.messages("&state=dead").len(), 0);
    // The name is mended, in the channel file.
    let channel = std::fs::read_to_string(scene.rig.channels().join("channel.toml")).unwrap();
    let address = scene.peer_address.to_string();
    scene.rig.write("channels/channel.toml", channel.replace("no-such-host.invalid:2575", &address));
    scene.drain();
    let arrived = scene.peer.as_ref().unwrap().received();
    assert_eq!(arrived.len(), 40);
}
