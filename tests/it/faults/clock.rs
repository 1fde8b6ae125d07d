//! The wall clock jumps, or was wrong from the start. The shim moves the engine's wall clock and leaves the monotonic one alone.

use std::time::{Duration, SystemTime};

use super::scene::{Scene, free_address, ids};
use super::shim::Shim;
use crate::support::eventually::{eventually, eventually_within};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

#[test]
fn f34_the_clock_jumps_forward_and_back() {
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, "/data/");
    scene.rig.start();
    for (number, wrong) in [0, HOUR, -HOUR, 0].into_iter().enumerate() {
        shim.wrong_by(wrong);
        scene.send(&ids(&format!("A{number}"), 10));
    }
    scene.drain();
    shim.wrong_by(-HOUR);
    assert_eq!(scene.restart_and_verify().acknowledged, 40);
    // In the order of arrival, whatever the clock said at each.
    let arrived = scene.peer.as_ref().unwrap().received();
    let order: Vec<bool> = (0..4).map(|n| arrived[n * 10].contains(&format!("|A{n}-00000|"))).collect();
    assert_eq!(order, [true; 4], "{arrived:?}");
}

/// What waits for its retry when the clock is put back goes out when it would have, also after a restart.
fn a_retry_does_not_wait_for_the_clock(restart: bool) {
    let mut scene = Scene::without_peer("", "", free_address());
    let shim = Shim::load(&mut scene.rig, "/data/");
    shim.wrong_by(HOUR);
    scene.rig.start();
    scene.send(&ids("A", 5));
    eventually("it was tried", || scene.rig.log().contains("the destination is down").then_some(()));
    if restart {
        scene.kill();
    }
    shim.wrong_by(-HOUR);
    if restart {
        scene.rig.start();
    } else {
        eventually("the jump is noted", || scene.rig.log().contains("the wall clock went back").then_some(()));
    }
    scene.start_peer();
    eventually_within(Duration::from_secs(10), "they go out now, not in two hours", || {
        (scene.peer.as_ref().unwrap().received().len() == 5).then_some(())
    });
    scene.verify();
}

#[test]
fn f34_a_retry_does_not_wait_for_a_clock_that_was_put_back() {
    a_retry_does_not_wait_for_the_clock(false);
}

#[test]
fn f34_a_retry_does_not_wait_for_a_clock_that_was_put_back_before_a_restart() {
    a_retry_does_not_wait_for_the_clock(true);
}

#[test]
fn f35_started_in_1970_and_after_2038() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut scene = Scene::new();
    let shim = Shim::load(&mut scene.rig, "/data/");
    for (number, wrong) in [1000 - now, 20 * YEAR, 0].into_iter().enumerate() {
        shim.wrong_by(wrong);
        scene.rig.start();
        scene.send(&ids(&format!("A{number}"), 10));
        scene.drain();
        scene.kill();
    }
    scene.rig.start();
    let tally = scene.verify();
    assert_eq!((tally.acknowledged, tally.delivered), (30, 30));
}
