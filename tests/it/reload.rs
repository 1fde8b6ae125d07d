//! Channel files that change while the engine runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use labwire::channel::State;
use labwire::engine::Engine;
use labwire::journal::{Arrival, Journal as _, Recipient};
use labwire::message::{Format, MessageIds, Origin, Refs};
use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::fixture_bytes;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;
use crate::support::test_journal::TestJournal;

fn channel(listen: &str, peer: SocketAddr, set: &str) -> String {
    format!(
        r#"
name = "results"
[source]
type = "mllp"
listen = "{listen}"
[[transformer]]
set = {{ "MSH-5" = "{set}" }}
[destination.peer]
type = "mllp"
address = "{peer}"
"#
    )
}

/// The same under another name.
fn named(name: &str, listen: impl ToString, peer: &MllpServer, set: &str) -> String {
    channel(&listen.to_string(), peer.address(), set).replace("\"results\"", &format!("\"{name}\""))
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn wait_for_mistake(rig: &Rig, words: &[&str]) {
    eventually(&format!("a mistake with {words:?} is shown"), || {
        let shown = view(rig)["diagnostics"].to_string();
        words.iter().all(|word| shown.contains(word)).then_some(())
    });
}

fn wait_for_address(rig: &Rig, channel: usize, address: SocketAddr) {
    eventually(&format!("channel {channel} listens on {address}"), || {
        (view(rig)["channels"][channel]["listens_on"] == address.to_string()).then_some(())
    });
}

fn view(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1
}

/// A message with an MSH-10 of its own: the same one again would not be processed.
fn message() -> Vec<u8> {
    static SENT: AtomicU32 = AtomicU32::new(0);
    let id = format!("R{}", SENT.fetch_add(1, Ordering::Relaxed));
    String::from_utf8(fixture_bytes("hl7/oru-r01.hl7")).unwrap().replace("BL20260114000417", &id).into_bytes()
}

fn send(address: SocketAddr) -> String {
    let ack = MllpClient::connect(address).unwrap().send(&message()).unwrap();
    field(&ack, "MSA", 1)
}

/// What the last message that the peer got has in MSH-5.
fn wait_for_receiver(peer: &MllpServer, expected: &str, send: impl Fn()) {
    eventually(&format!("messages come with MSH-5 = {expected}"), || {
        send();
        let before = peer.received().len();
        let last = eventually("the message arrives", || {
            peer.received().last().cloned().filter(|_| before > 0 || !peer.received().is_empty())
        });
        (field(&last, "MSH", 5) == expected).then_some(())
    });
}

#[test]
fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let address = rig.listener("results");
    wait_for_receiver(&peer, "ONE", || assert_eq!(send(address), "AA"));

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "TWO"));
    wait_for_receiver(&peer, "TWO", || assert_eq!(send(address), "AA"));

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "THREE").replace("set =", "sett ="));
    let mistake = eventually("the mistake is shown", || view(&rig)["diagnostics"][0].as_str().map(str::to_owned));
    assert!(
        mistake.contains("channel.toml:7:1") && mistake.contains("sett") && mistake.contains("did you mean `set`?"),
        "{mistake}"
    );
    assert_eq!(send(address), "AA");
    assert!(peer.received().iter().all(|message| field(message, "MSH", 5) != "THREE"));
    assert!(rig.log().contains("the last good version goes on"), "{}", rig.log());

    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "FOUR"));
    wait_for_receiver(&peer, "FOUR", || assert_eq!(send(address), "AA"));
    assert_eq!(view(&rig)["diagnostics"], serde_json::json!([]));
}

#[test]
fn a_connection_outlives_a_change_that_leaves_the_source_alone() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    assert_eq!(field(&client.send(&message()).unwrap(), "MSA", 1), "AA");
    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "TWO"));
    eventually("the new version is in effect", || {
        assert_eq!(field(&client.send(&message()).unwrap(), "MSA", 1), "AA");
        peer.received().iter().any(|message| field(message, "MSH", 5) == "TWO").then_some(())
    });
}

#[test]
fn a_port_that_is_taken_leaves_the_old_source_running() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    rig.write("channels/channel.toml", channel(&taken_address, peer.address(), "TWO"));
    eventually("the failure is logged", || rig.log().contains("its new version cannot be used").then_some(()));
    let address: SocketAddr =
        eventually("the old source is open again", || view(&rig)["channels"][0]["listens_on"].as_str()?.parse().ok());
    wait_for_receiver(&peer, "ONE", || assert_eq!(send(address), "AA"));
}

#[test]
fn a_source_that_cannot_be_opened_at_the_start_is_tried_again_and_others_work() {
    let peer = MllpServer::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let mut rig = Rig::new();
    rig.write(
        "channels/a.toml",
        channel(&taken_address.to_string(), peer.address(), "A").replace("\"results\"", "\"a\""),
    );
    rig.write("channels/b.toml", channel("127.0.0.1:0", peer.address(), "B").replace("\"results\"", "\"b\""));
    rig.start();
    assert_eq!(send(rig.listener("b")), "AA");
    assert_eq!(rig.get("/readyz").0, 503);
    assert_eq!(view(&rig)["channels"][0]["state"], "failed");
    drop(taken);
    eventually("the source opens by itself", || (view(&rig)["channels"][0]["state"] == "running").then_some(()));
    assert_eq!(send(taken_address), "AA");
    assert_eq!(rig.get("/readyz").0, 200);
}

#[test]
fn files_come_and_go_with_their_channels() {
    let peer = MllpServer::start();
    let rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    rig.write(
        "channels/more/second.toml",
        channel("127.0.0.1:0", peer.address(), "TWO").replace("\"results\"", "\"second\""),
    );
    eventually("the new channel runs", || (view(&rig)["channels"].as_array()?.len() == 2).then_some(()));
    std::fs::remove_file(rig.channels().join("more/second.toml")).unwrap();
    eventually("the channel is gone", || (view(&rig)["channels"].as_array()?.len() == 1).then_some(()));
    assert_eq!(send(rig.listener("results")), "AA");
}

#[test]
fn a_template_that_changes_is_a_change_of_its_channel() {
    let rig = Rig::new();
    let channel = r#"
name = "bills"
action = 49
[source]
type = "event"
[[transformer]]
template = "templates/out.txt"
[destination.out]
type = "file"
directory = "../out"
file_name = "{{ meta.id }}.txt"
"#;
    rig.write("channels/templates/out.txt", "one");
    rig.write("channels/channel.toml", channel);
    let mut rig = rig;
    rig.start();
    rig.write("channels/templates/out.txt", "two");
    eventually("the new template is used", || {
        rig.post("/api/v1/events", r#"{"action":49,"lab":"acme","data":{}}"#);
        let files = std::fs::read_dir(rig.path().join("out")).ok()?;
        files.flatten().any(|file| std::fs::read(file.path()).is_ok_and(|content| content == b"two")).then_some(())
    });
}

#[test]
fn a_copy_of_a_file_takes_neither_name_nor_port_from_the_channel_that_runs() {
    let peer = MllpServer::start();
    let address = free();
    let rig = Rig::with(&channel(&address.to_string(), peer.address(), "ONE"));
    let mut client = MllpClient::connect(address).unwrap();
    rig.write("channels/a-copy.toml", channel("127.0.0.1:0", peer.address(), "COPY"));
    wait_for_mistake(&rig, &["a-copy.toml:2:8: two channels are called `results`", "channel.toml)"]);
    rig.write("channels/a-copy.toml", named("copy", address, &peer, "COPY"));
    wait_for_mistake(&rig, &["a-copy.toml:3:2: two channels listen on port", "`results`", "channel.toml)"]);
    // Also while the file of the channel that runs is broken.
    rig.write("channels/channel.toml", "name = ");
    wait_for_mistake(&rig, &["a-copy.toml:3:2: two channels listen on port", "channel.toml:1:"]);
    rig.write("channels/a-copy.toml", channel("127.0.0.1:0", peer.address(), "COPY"));
    wait_for_mistake(&rig, &["a-copy.toml:2:8: two channels are called `results`", "channel.toml:1:"]);

    assert_eq!(field(&client.send(&message()).unwrap(), "MSA", 1), "AA", "the connection is the old one");
    eventually("it is sent", || peer.received().last().map(|last| assert_eq!(field(last, "MSH", 5), "ONE")));
    assert_eq!(view(&rig)["channels"].as_array().unwrap().len(), 1);
}

#[test]
fn at_the_start_neither_of_two_files_with_one_name_or_port_is_taken() {
    let peer = MllpServer::start();
    let address = free();
    let mut rig = Rig::new();
    for (file, name, listen) in [
        ("a", "twice", "127.0.0.1:0".to_owned()),
        ("b", "twice", "127.0.0.1:0".to_owned()),
        ("c", "left", address.to_string()),
        ("d", "right", address.to_string()),
        ("e", "alone", "127.0.0.1:0".to_owned()),
    ] {
        rig.write(&format!("channels/{file}.toml"), named(name, listen, &peer, "X"));
    }
    rig.start();
    let shown = view(&rig);
    assert_eq!(shown["channels"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["channels"][0]["name"], "alone");
    for (at, (file, other)) in [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")].into_iter().enumerate() {
        let line = shown["diagnostics"][at].as_str().unwrap();
        assert!(line.contains(&format!("/{file}.toml:")) && line.contains(&format!("/{other}.toml)")), "{line}");
    }
    std::fs::remove_file(rig.channels().join("b.toml")).unwrap();
    eventually("the other one is taken", || (view(&rig)["channels"].as_array()?.len() == 2).then_some(()));
}

#[test]
fn two_channels_swap_their_ports() {
    let peer = MllpServer::start();
    let (one, two, three) = (free(), free(), free());
    let mut rig = Rig::new();
    rig.write("channels/a.toml", named("a", one, &peer, "A"));
    rig.write("channels/b.toml", named("b", two, &peer, "B"));
    rig.start();
    rig.write("channels/a.toml", named("a", two, &peer, "A"));
    rig.write("channels/b.toml", named("b", one, &peer, "B"));
    wait_for_address(&rig, 0, two);
    wait_for_address(&rig, 1, one);
    // One after the other: a goes where b was.
    rig.write("channels/b.toml", named("b", three, &peer, "B"));
    rig.write("channels/a.toml", named("a", one, &peer, "A"));
    wait_for_address(&rig, 0, one);
    wait_for_address(&rig, 1, three);
    wait_for_receiver(&peer, "A", || assert_eq!(send(one), "AA"));
    wait_for_receiver(&peer, "B", || assert_eq!(send(three), "AA"));
    assert_eq!(view(&rig)["diagnostics"], serde_json::json!([]));
}

#[test]
fn a_new_source_that_cannot_be_opened_is_shown_and_tried_until_it_can_while_the_old_one_runs() {
    let peer = MllpServer::start();
    let old = free();
    let rig = Rig::with(&channel(&old.to_string(), peer.address(), "ONE"));
    let mut client = MllpClient::connect(old).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let new = taken.local_addr().unwrap();
    rig.write("channels/channel.toml", channel(&new.to_string(), peer.address(), "TWO"));
    wait_for_mistake(&rig, &["channel.toml:3:2: its new version cannot be used: cannot listen on", &new.to_string()]);
    assert_eq!(field(&client.send(&message()).unwrap(), "MSA", 1), "AA", "the connection is the old one");
    drop(taken);
    wait_for_address(&rig, 0, new);
    wait_for_receiver(&peer, "TWO", || assert_eq!(send(new), "AA"));
    eventually("nothing is wrong any more", || (view(&rig)["diagnostics"] == serde_json::json!([])).then_some(()));
    assert_eq!(rig.log().matches("its new version cannot be used").count(), 1, "{}", rig.log());
}

#[test]
fn an_option_of_the_source_changes_on_the_same_port() {
    let peer = MllpServer::start();
    let address = free();
    let text = channel(&address.to_string(), peer.address(), "ONE");
    let rig = Rig::with(&text);
    let limited = text.replace("listen =", "max_frame = \"1KiB\"\nlisten =").replace("ONE", "TWO");
    rig.write("channels/channel.toml", limited);
    eventually("large messages are refused", || {
        let large = MllpClient::connect(address).and_then(|mut client| client.send(&[b'x'; 4096]));
        large
            .map_or(Some(()), |answer| (!answer.contains("AA")).then_some(()))
            .filter(|()| rig.log().contains("its new version is in effect"))
    });
    assert_eq!(view(&rig)["diagnostics"], serde_json::json!([]));
    wait_for_address(&rig, 0, address);
}

#[test]
fn a_channel_that_is_taken_out_of_service_never_opens_its_new_source() {
    let peer = MllpServer::start();
    let old = free();
    let rig = Rig::with(&channel(&old.to_string(), peer.address(), "ONE"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let new = taken.local_addr().unwrap().to_string();
    rig.write("channels/channel.toml", format!("enabled = false{}", channel(&new, peer.address(), "TWO")));
    eventually("it is stopped", || (view(&rig)["channels"][0]["state"] == "stopped").then_some(()));
    assert!(MllpClient::connect(old).is_err(), "the old source is closed");
    assert!(!rig.log().contains("cannot listen"), "{}", rig.log());
    assert_eq!(view(&rig)["diagnostics"], serde_json::json!([]));
}

#[test]
fn files_that_change_all_the_time_keep_neither_a_change_nor_the_end_waiting() {
    let peer = MllpServer::start();
    let mut rig = Rig::with(&channel("127.0.0.1:0", peer.address(), "ONE"));
    let address = rig.listener("results");
    let busy = rig.channels().join("tables/busy.csv");
    std::fs::create_dir(busy.parent().unwrap()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        for round in 0_u64.. {
            std::fs::write(&busy, round.to_string()).unwrap();
            if stopped.recv_timeout(Duration::from_millis(30)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    eventually("the writer writes", || rig.channels().join("tables/busy.csv").exists().then_some(()));
    rig.write("channels/channel.toml", channel("127.0.0.1:0", peer.address(), "TWO"));
    wait_for_receiver(&peer, "TWO", || assert_eq!(send(address), "AA"));
    let asked = Instant::now();
    assert!(rig.terminate().success());
    assert!(asked.elapsed() < Duration::from_secs(7), "it was cut off, after {:?}", asked.elapsed());
    drop(stop);
    writer.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_any_more_once_the_engine_stops() {
    let peer = MllpServer::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.toml"), named("a", "127.0.0.1:0", &peer, "A")).unwrap();
    let engine = Engine::start(folder.path(), Arc::new(TestJournal::new())).await.unwrap();
    engine.stop().await;
    std::fs::write(folder.path().join("b.toml"), named("b", "127.0.0.1:0", &peer, "B")).unwrap();
    engine.reload().await;
    let states: Vec<_> = engine.channels().iter().map(|channel| (channel.name().to_owned(), channel.state())).collect();
    assert_eq!(states, [("a".to_owned(), State::Stopped)]);
}

#[test]
fn what_waits_under_a_name_that_is_gone_is_shown_until_the_name_is_back() {
    let dead = free();
    let text =
        format!("{}[destination.other]\ntype = \"mllp\"\naddress = \"{dead}\"\n", channel("127.0.0.1:0", dead, "ONE"));
    let rig = Rig::with(&text);
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for _ in 0..2 {
        assert_eq!(field(&client.send(&message()).unwrap(), "MSA", 1), "AA");
    }
    rig.wait_for("queued", 2);
    assert_eq!(view(&rig)["orphans"], serde_json::json!([]));

    // The destination is removed, then the channel renamed.
    rig.write("channels/channel.toml", channel("127.0.0.1:0", dead, "ONE"));
    let no_destination =
        "destination `other` of channel `results`: 2 deliveries wait, but the channel file has no such destination";
    eventually("the destination's queue is shown", || {
        (view(&rig)["orphans"] == serde_json::json!([no_destination])).then_some(())
    });
    rig.write("channels/channel.toml", text.replace("\"results\"", "\"renamed\""));
    let gone = |name: &str| {
        format!("destination `{name}` of channel `results`: 2 deliveries wait, but no such channel is loaded")
    };
    eventually("the channel's queues are shown", || {
        (view(&rig)["orphans"] == serde_json::json!([gone("other"), gone("peer")])).then_some(())
    });
    let (_, listed) = rig.cli(&["channels"]);
    assert!(listed.contains(&format!("waiting without an owner: {}", gone("peer"))), "{listed}");
    eventually("it is logged", || rig.log().contains(&gone("peer")).then_some(()));

    let peer = MllpServer::start();
    rig.write("channels/channel.toml", text.replace(&dead.to_string(), &peer.address().to_string()));
    eventually("nothing waits any more", || (view(&rig)["orphans"] == serde_json::json!([])).then_some(()));
    rig.wait_for("sent", 2);
    assert_eq!(peer.received().len(), 4);
}

#[tokio::test]
async fn messages_before_the_transformer_of_a_channel_that_is_gone_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(TestJournal::new());
    let ids = MessageIds::default();
    let arrival = Arrival {
        recipients: vec![Recipient { id: ids.next(), channel: "old".to_owned() }],
        received_at: jiff::Timestamp::now(),
        origin: Origin::default(),
        format: Format::Json,
        refs: Refs::default(),
        body: "{}".into(),
        read: None,
        acknowledgement: None,
        rejected: None,
        identity: None,
    };
    let _receipt = journal.receive(arrival).await.unwrap();
    let engine = Engine::start(folder.path(), journal).await.unwrap();
    let expected = "channel `old`: 1 message waits for its transformer, but no such channel is loaded";
    assert_eq!(engine.orphans(), [expected]);
}

#[test]
fn a_sender_cannot_write_channel_files() {
    let peer = MllpServer::start();
    let mut rig = Rig::new();
    let archive =
        "[destination.archive]\ntype = \"file\"\ndirectory = \"DIRECTORY\"\nfile_name = \"{{ msg['MSH-10'] }}\"\n";
    let text = channel("127.0.0.1:0", peer.address(), "ONE") + archive;
    std::os::unix::fs::symlink(rig.channels(), rig.path().join("link")).unwrap();
    for (file, directory) in [("a", "archive"), ("b", "../channels/x"), ("c", "{{ meta.channel }}"), ("d", "../link/x")]
    {
        let text = text.replace("DIRECTORY", directory).replace("\"results\"", &format!("\"{file}\""));
        rig.write(&format!("channels/{file}.toml"), text);
    }
    let deep = text.replace("DIRECTORY", "archive").replace("\"results\"", "\"e\"");
    rig.write("channels/e/deep.toml", deep);
    rig.write("channels/good.toml", text.replace("DIRECTORY", "../archive/{{ meta.channel }}"));
    rig.start();
    let shown = view(&rig);
    for (at, file) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let line = shown["diagnostics"][at].as_str().unwrap_or_default();
        assert!(
            line.contains(&format!("/{file}.toml:13:13: files written here would be read as channel files")),
            "{shown}"
        );
    }
    assert!(shown["diagnostics"][4].as_str().unwrap_or_default().contains("as in `../../archive`"), "{shown}");
    assert_eq!(shown["channels"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(send(rig.listener("results")), "AA");
    eventually("it is archived", || rig.path().join("archive/results").read_dir().ok()?.next()?.ok());
}
