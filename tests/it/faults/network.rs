//! The network goes away under the engine. The test starts itself again in a network of its own, where it can do no harm; its
//! peers are in a second one, at the other end of a cable.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::cpu_ticks;
use super::scene::{Scene, free_address, ids, message};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;

/// Set in the network of our own.
const INSIDE: &str = "LABWIRE_TEST_NETWORK";
/// The engine's end of the cable, and the peers' (RFC 5737: addresses of nobody).
const NEAR: &str = "192.0.2.1:2575";
const FAR: &str = "192.0.2.2:2576";

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// The network at the far end, which lives as long as a process in it.
struct FarEnd(Child);

impl FarEnd {
    fn connect() -> FarEnd {
        run("ip link set lo up");
        run("ip link add lw0 type veth peer name lw1");
        let mut process = Command::new("unshare");
        process.args(["--net", "sh", "-c", "echo here; exec sleep 300"]).stdout(Stdio::piped());
        let mut far = FarEnd(process.spawn().unwrap());
        let mut here = [0; 5];
        std::io::Read::read_exact(far.0.stdout.as_mut().unwrap(), &mut here).unwrap();
        let pid = far.0.id();
        run(&format!("ip link set lw1 netns {pid}"));
        run(&format!("nsenter --net=/proc/{pid}/ns/net ip address add 192.0.2.2/24 dev lw1"));
        run(&format!("nsenter --net=/proc/{pid}/ns/net ip link set lw1 up"));
        run("ip address add 192.0.2.1/24 dev lw0");
        run("ip link set lw0 up");
        far
    }

    /// Does something there.
    fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let work = || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn f46_an_interface_goes_down_and_up() {
    if std::env::var_os(INSIDE).is_some() {
        return interface_goes_down_and_up();
    }
    let possible = Command::new("unshare").args(["--net", "ip", "link", "add", "lw0", "type", "veth"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("not run: there can be no network of our own here (root can, with iproute2 and veth)");
        return;
    }
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::network::f46_an_interface_goes_down_and_up", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.contains("ticks")).for_each(|line| println!("{line}"));
}

fn interface_goes_down_and_up() {
    let far = FarEnd::connect();
    let mut scene = Scene::on(NEAR.parse().unwrap(), "", "", FAR.parse().unwrap());
    scene.peer = Some(far.there(|| MllpServer::start_on(FAR)));
    // The second channel takes messages while the interface is down.
    let inside: SocketAddr = free_address();
    let results = std::fs::read_to_string(scene.rig.channels().join("channel.toml")).unwrap();
    let text = results.replace("\"results\"", "\"inside\"").replace(NEAR, &inside.to_string());
    scene.rig.write("channels/inside.toml", text);
    scene.rig.start();
    far.there(|| scene.send(&ids("A", 20)));
    scene.drain();

    run("ip link set lw0 down");
    let mut client = MllpClient::connect(inside).unwrap();
    let meanwhile = ids("B", 20);
    for id in &meanwhile {
        let answer = client.send(&message(id)).unwrap();
        assert_eq!(field(&answer, "MSA", 1), "AA", "what does not need the interface goes on");
        scene.remember(id);
    }
    eventually("the destination is seen to be down", || {
        scene.rig.log().contains("the destination is down").then_some(())
    });
    let pid = scene.rig.pid().to_string();
    let (ticks, start) = (cpu_ticks(&pid), Instant::now());
    assert_eq!(far.there(|| scene.try_send("X-00000")), None, "the interface is down");
    eventually("three seconds go by", || (start.elapsed() > Duration::from_secs(3)).then_some(()));
    let (used, time) = (cpu_ticks(&pid) - ticks, start.elapsed());
    println!("{used} ticks of 10 ms in {time:?} with the interface down");
    assert!(u128::from(used) * 10 * 20 < time.as_millis(), "a tight loop: {used} ticks of 10 ms in {time:?}");

    run("ip link set lw0 up");
    // The listener is still there, and the destination is reached again, with nobody's help.
    far.there(|| {
        let reached = || MllpClient::connect(scene.address).ok();
        eventually_within(Duration::from_secs(20), "the listener is reached again", reached);
        scene.send(&ids("C", 20));
    });
    eventually_within(Duration::from_secs(40), "everything goes out", || {
        let arrived = scene.peer.as_ref().unwrap().ids();
        meanwhile.iter().all(|id| arrived.contains(id)).then_some(())
    });
    assert_eq!(scene.verify().acknowledged, 60);
}
