//! The power is cut: what had not reached the disk is gone, files and names alike.
//!
//! The data folder is on an ext4 file system in an image file. The engine is stopped under load at a random moment and the image
//! copied as it is: the copy holds what had reached the device, and nothing that still sat in the page cache. An engine on the
//! copy must know everything that had been acknowledged.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::mounts::{Mount, memory};
use super::scene::{Scene, journal_of, message};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::rig::Rig;

/// The engine that finds the disk after the cut. Its channel is the same but for its port; nobody is at its destination.
fn after_the_cut(scene: &Scene, copy: &Path) -> Option<(Mount, Rig)> {
    let disk = Mount::image(copy)?;
    let mut rig = Rig::new();
    let channel = std::fs::read_to_string(scene.rig.channels().join("channel.toml")).unwrap();
    let channel = channel.replace(&scene.address.to_string(), "127.0.0.1:0");
    rig.write("channels/channel.toml", channel.replace(&scene.peer_address.to_string(), "127.0.0.1:9"));
    disk.hold_data_of(&mut rig);
    // The machine has started anew: the index must not be trusted because it is of this boot.
    let stamp = disk.path().join("data/index/boot");
    if stamp.exists() {
        std::fs::write(stamp, "another boot 1").unwrap();
    }
    rig.start();
    Some((disk, rig))
}

#[test]
fn f09_power_cuts_lose_nothing_that_was_acknowledged() {
    let rounds: usize = std::env::var("LABWIRE_POWER_CUTS").map_or(3, |rounds| rounds.parse().expect("a number"));
    let mut acknowledged_in_all = 0;
    for round in 0..rounds {
        let folder = memory();
        let Some(disk) = Mount::ext4(&folder.path().join("image"), 160, &[]) else { return };
        let mut scene = Scene::new();
        disk.hold_data_of(&mut scene.rig);
        scene.rig.start();
        let load = scene.load(&format!("P{round}"), 4, 100_000);
        let deadline = Instant::now() + Duration::from_millis(fastrand::u64(100..1500));
        while Instant::now() < deadline || scene.acknowledged_count() < 20 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        scene.rig.signal("STOP");
        let copy = folder.path().join("copy");
        let copied = Command::new("cp").arg("--sparse=always").args([disk.image_file(), &copy]).status().unwrap();
        assert!(copied.success());
        // Acknowledgements that were on their way when the engine was stopped count too.
        let acknowledged = scene.acknowledged.lock().unwrap().clone();
        scene.kill();
        load.stop();
        let Some((copied_disk, mut rig)) = after_the_cut(&scene, &copy) else { return };
        let journal = journal_of(&rig);
        for id in acknowledged.values().flatten() {
            acknowledged_in_all += 1;
            let bodies = journal.get(id).unwrap_or_else(|| panic!("round {round}: {id} was acknowledged and is lost"));
            assert!(!bodies.is_empty());
        }
        let last = acknowledged.values().filter_map(|ids| ids.last()).next().unwrap();
        let story = rig.story(journal[last][0]["id"].as_str().unwrap());
        assert_eq!(story["body"]["text"].as_str().unwrap().as_bytes(), message(last));
        assert_eq!(rig.get("/readyz").1["journal_damage"], serde_json::json!([]), "a torn tail is no damage");
        let answer = MllpClient::connect(rig.listener("results")).unwrap().send(&message("N-00000")).unwrap();
        assert_eq!(field(&answer, "MSA", 1), "AA", "and it goes on");
        rig.kill();
        drop((rig, copied_disk));
    }
    println!("{rounds} power cuts: {acknowledged_in_all} acknowledged, 0 lost");
}
