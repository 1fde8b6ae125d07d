//! What a disk has done to the files while the engine was away.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::mounts::Mount;
use super::scene::{Scene, ids};
use super::shim::Shim;
use crate::support::eventually::eventually;

const MAGIC: &[u8] = &[0xA7, b'L', b'W', b'J'];

fn segment(scene: &Scene, number: u64) -> PathBuf {
    scene.rig.path().join(format!("data/segments/{number:08}.log"))
}

/// As after a restart of the machine: the index is made again from the segments.
pub(super) fn reboot(data: &Path) {
    std::fs::write(data.join("index/boot"), "another boot 1").unwrap();
}

/// Twenty messages queued for a receiver that is not there yet, then `kill -9`, and then this is done to the first segment, which
/// ends with its last record.
fn damaged(harm: impl FnOnce(&mut Vec<u8>)) -> Scene {
    let mut scene = Scene::without_peer("", "", super::scene::free_address());
    scene.rig.start();
    scene.send(&ids("A", 20));
    scene.rig.wait_for("queued", 20);
    scene.kill();
    let path = segment(&scene, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    harm(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    reboot(&scene.rig.path().join("data"));
    scene.start_peer();
    scene
}

/// Where a text stands first.
fn find(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|window| window == text).expect("it is there")
}

/// The record that a text is in begins here.
fn record_of(bytes: &[u8], text: &[u8]) -> usize {
    let at = find(bytes, text);
    (0..at).rev().find(|from| bytes[*from..].starts_with(MAGIC)).expect("a record is before it")
}

/// Everything but these arrives, in order, and so many things are told.
#[track_caller]
fn all_arrive_but(scene: &mut Scene, lost: &[&str], told: usize) -> Vec<String> {
    scene.rig.start();
    for connection in scene.acknowledged.lock().unwrap().values_mut() {
        connection.retain(|id| !lost.contains(&id.as_str()));
    }
    scene.verify();
    let damage = scene.rig.get("/readyz").1["journal_damage"].clone();
    let damage: Vec<String> = damage.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    assert_eq!(damage.len(), told, "{damage:?}");
    assert_eq!(scene.rig.log().contains("the journal is damaged"), told > 0, "{}", scene.rig.log());
    damage
}

#[test]
fn f24_a_flipped_bit_in_a_message_costs_that_message() {
    let mut scene = damaged(|bytes| {
        let at = find(bytes, b"P-A-00007");
        bytes[at] ^= 1;
    });
    let damage = all_arrive_but(&mut scene, &["A-00007"], 2);
    assert!(damage[1].contains("1 events belong to"), "what followed from it is told too: {damage:?}");
    assert!(damage[0].starts_with("segment 1 at byte "), "{damage:?}");
}

#[test]
fn f25_a_flipped_bit_in_a_length_costs_one_record() {
    // The length of the metadata, up to 2 GiB too long: nothing of that size is allocated, and the next record is found.
    for bit in [0, 15, 31] {
        let mut scene = damaged(|bytes| {
            let at = record_of(bytes, b"P-A-00007") + 12;
            bytes[at + bit / 8] ^= 1 << (bit % 8);
        });
        let memory = peak_memory(&mut scene);
        assert!(memory < 400 << 10, "{memory} KiB");
        scene.kill();
        let damage = all_arrive_but(&mut scene, &["A-00007"], 2);
        assert!(damage.iter().any(|text| text.contains("segment 1 at byte")), "{damage:?}");
    }
}

fn peak_memory(scene: &mut Scene) -> u64 {
    scene.rig.start();
    kibibytes(scene.rig.pid(), "VmHWM")
}

/// A number of `/proc/PID/status`, in KiB.
pub(super) fn kibibytes(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Cuts the zeros that were put there for what was to come, and gives the end of the last record.
fn end_of_records(bytes: &mut Vec<u8>) -> usize {
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(end);
    end
}

#[test]
fn f26_a_torn_tail_is_cut_at_the_last_valid_record() {
    let mut scene = damaged(|bytes| {
        let end = end_of_records(bytes);
        bytes.truncate(end - 7);
    });
    // The last record is an attempt: it is made again.
    let damage = all_arrive_but(&mut scene, &[], 0);
    assert_eq!(damage, Vec::<String>::new());
}

#[test]
fn f27_zeros_at_the_tail_are_a_torn_tail_and_in_the_middle_are_damage() {
    let mut scene = damaged(|bytes| {
        let end = end_of_records(bytes);
        bytes.truncate(end - 7);
        bytes.resize(end + 8192, 0);
    });
    all_arrive_but(&mut scene, &[], 0);

    let mut scene = damaged(|bytes| {
        let from = record_of(bytes, b"P-A-00005");
        let length = find(&bytes[from + 1..], MAGIC) + 1;
        bytes[from..from + length].fill(0);
    });
    let damage = all_arrive_but(&mut scene, &["A-00005"], 2);
    assert!(damage.iter().any(|text| text.contains("bytes are damaged")), "{damage:?}");
}

#[test]
fn f28_an_index_that_is_gone_stale_or_garbled_is_made_again() {
    let harms: [fn(&Path); 3] = [
        |index| std::fs::remove_dir_all(index).unwrap(),
        |index| std::fs::write(index.join("boot"), "another boot 1").unwrap(),
        |index| std::fs::write(index.join("db/db"), vec![7; 100_000]).unwrap(),
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let mut scene = Scene::without_peer("", "", super::scene::free_address());
        scene.rig.start();
        scene.send(&ids("A", 50));
        scene.rig.wait_for("queued", 50);
        scene.kill();
        harm(&scene.rig.path().join("data/index"));
        scene.start_peer();
        scene.rig.start();
        assert_eq!(scene.verify().acknowledged, 50, "harm {number}");
    }
}

/// Enough for several segments, all delivered but the last.
fn with_segments(count: u64) -> Scene {
    let mut scene = Scene::new();
    scene.rig.start();
    let mut client = scene.client();
    let mut number = 0;
    while !segment(&scene, count).exists() {
        let id = format!("L-{number:05}");
        let answer = client.send(&super::scene::large_message(&id, 400_000)).unwrap();
        assert!(answer.contains("|AA|") || answer.contains("MSA|AA"), "{answer}");
        scene.acknowledged.lock().unwrap().entry("L".to_owned()).or_default().push(id);
        number += 1;
    }
    scene.drain();
    scene
}

#[test]
fn f29_a_missing_segment_is_told_at_every_start() {
    let mut scene = with_segments(4);
    scene.kill();
    std::fs::remove_file(segment(&scene, 2)).unwrap();
    for _ in 0..2 {
        scene.rig.start();
        let damage = scene.rig.get("/readyz").1["journal_damage"].clone();
        assert!(damage.to_string().contains("segment 2 is missing"), "{damage}");
        assert!(scene.rig.log().contains("segment 2 is missing"), "{}", scene.rig.log());
        scene.kill();
    }
    scene.rig.start();
    scene.acknowledged.lock().unwrap().clear();
    scene.send(&ids("N", 5));
    assert_eq!(scene.verify().acknowledged, 5);
}

#[test]
fn f19_syncs_that_lied_are_told_when_their_data_is_missing() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, "/data/segments/");
    scene.rig.start();
    shim.act("lie");
    scene.send(&ids("A", 20));
    scene.drain();
    shim.calm();
    scene.send(&ids("B", 20));
    scene.drain();
    scene.kill();
    // What the disk never had is zeros where records should be; what came after is there.
    let path = segment(&scene, 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let (from, to) = (record_of(&bytes, b"P-A-00003"), record_of(&bytes, b"P-A-00012"));
    bytes[from..to].fill(0);
    std::fs::write(&path, bytes).unwrap();
    reboot(&scene.rig.path().join("data"));
    scene.rig.start();
    let damage = scene.rig.get("/readyz").1["journal_damage"].to_string();
    assert!(damage.contains(&format!("segment 1 at byte {from}: {} bytes are damaged", to - from)), "{damage}");
    scene.acknowledged.lock().unwrap().get_mut("A").unwrap().drain(3..12);
    scene.verify();
}

#[test]
fn f22_a_segment_that_cannot_be_read_costs_what_is_in_it() {
    let mut scene = with_segments(3);
    let shim = Shim::load(&mut scene.rig, "/data/segments/");
    scene.kill();
    scene.rig.start();
    let first = scene.journal()["L-00000"][0]["id"].as_str().unwrap().to_owned();
    shim.act("eio-read 00000001.log");
    let (status, answer) = scene.rig.get(&format!("/api/v1/messages/{first}"));
    assert!(status >= 500 && answer.to_string().contains("segment"), "{status} {answer}");
    scene.send(&ids("N", 5));
    let last = || scene.rig.messages("&control_id=N-00004")[0]["state"].clone();
    eventually("what is elsewhere goes out", || (last() == "sent").then_some(()));
    shim.calm();
    scene.verify();
}

#[test]
fn f30_a_data_folder_that_cannot_be_written_is_a_clear_error() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.send(&ids("A", 2));
    scene.drain();
    scene.kill();
    let data = scene.rig.path().join("data");
    let chattr = |flag: &str| Command::new("chattr").arg("-R").arg(flag).arg(&data).output();
    if !chattr("+i").is_ok_and(|output| output.status.success()) {
        println!("not run: chattr +i is not possible here (root can, on most file systems)");
        return;
    }
    let started = scene.rig.try_start();
    let status = scene.rig.wait_for_end();
    let log = scene.rig.log();
    chattr("-i").unwrap();
    assert!(!started && status.code() == Some(1), "{status}");
    assert!(log.contains("data/") && log.contains("not permitted"), "{log}");
    scene.rig.start();
    scene.verify();
}

#[test]
fn f32_a_journal_that_was_put_back_to_an_older_day_goes_on_from_there() {
    let mut scene = Scene::new();
    scene.rig.start();
    scene.send(&ids("A", 10));
    scene.drain();
    assert_eq!(scene.rig.terminate().code(), Some(0));
    let data = scene.rig.path().join("data");
    let backup = scene.rig.path().join("backup");
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    copy(&data, &backup);
    scene.rig.start();
    scene.send(&ids("B", 10));
    scene.drain();
    scene.rig.terminate();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    scene.rig.start();
    // What came after the backup is gone, and nothing else; senders that send it again find it taken.
    scene.acknowledged.lock().unwrap().remove("B");
    scene.send(&ids("B", 10));
    let tally = scene.verify();
    assert_eq!((tally.acknowledged, tally.repeated), (20, 10));
}

#[test]
fn f31_no_inodes_are_left() {
    let memory = super::mounts::memory();
    let Some(disk) = Mount::ext4(&memory.path().join("image"), 64, &["-N", "64"]) else { return };
    let mut scene = Scene::new();
    disk.hold_data_of(&mut scene.rig);
    scene.rig.start();
    scene.send(&ids("A", 3));
    let crowd = disk.path().join("crowd");
    std::fs::create_dir(&crowd).unwrap();
    while std::fs::File::create(crowd.join(fastrand::u64(..).to_string())).is_ok() {}
    // No new file can be made: what can be taken without one is, and what cannot is not acknowledged.
    let mut client = scene.client();
    for number in 0..20 {
        let id = format!("B-{number:05}");
        match client.send(&super::scene::large_message(&id, 400_000)) {
            Ok(answer) if answer.contains("MSA|AA") => {
                scene.acknowledged.lock().unwrap().entry("B".to_owned()).or_default().push(id);
            }
            _ => break,
        }
    }
    std::fs::remove_dir_all(&crowd).unwrap();
    scene.kill();
    scene.rig.start();
    scene.send(&ids("C", 3));
    scene.verify();
}
