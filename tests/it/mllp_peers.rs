//! The `mllp` destination with peers that speak release 2, frame otherwise, or have several addresses; and how fast it sends.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use labwire::destination::{Disposition, FaultClass};
use serde_json::Value;

use crate::mllp_destination::{Outcome, Sender, adt};
use crate::support::eventually::eventually;
use crate::support::half_open::Silent;
use crate::support::listener::Listener;
use crate::support::mllp_client::MllpClient;
use crate::support::mllp_server::MllpServer;
use crate::support::options;
use crate::support::peer::{Do, Peer};
use crate::support::rig::Rig;

const OK: Do = Do::Ack("AA", "{id}");
const COMMIT: Do = Do::Write(b"\x0b\x06\x1c\r");

fn to(peer: &Peer, text: &str) -> Sender {
    Sender::to(&peer.address().to_string(), text)
}

#[test]
fn release_2_waits_for_the_commit_and_for_the_acknowledgement() {
    for (name, script, outcome, connections, commits) in [
        ("both", &[COMMIT, OK][..], Outcome::Sent, 1, 2),
        ("an error", &[COMMIT, Do::Ack("AE", "{id}")], Outcome::Retry, 1, 2),
        ("a reject", &[COMMIT, Do::Ack("AR", "{id}")], Outcome::Dead, 1, 2),
        ("the acknowledgement of HL7 alone", &[OK], Outcome::Retry, 2, 0),
        ("the commit alone", &[COMMIT], Outcome::Retry, 2, 0),
        ("NAK", &[Do::Write(b"\x0b\x15\x1c\r")], Outcome::Retry, 1, 0),
        ("the commit twice", &[COMMIT, COMMIT, OK], Outcome::Sent, 1, 2),
        ("the commit late", &[COMMIT, OK, COMMIT], Outcome::Sent, 1, 2),
    ] {
        let peer = Peer::start(script.to_vec(), vec![]);
        let mut sender = to(&peer, "release = 2\nack_timeout = \"400ms\"");
        assert_eq!([sender.send("k1"), sender.send("k2")], [outcome; 2], "{name}");
        eventually("what was acknowledged", || (peer.log().commits.len() == commits).then_some(()));
        let log = peer.log();
        assert_eq!((log.connections, log.received), (connections, vec![adt("k1"), adt("k2")]), "{name}");
        assert!(log.commits.iter().all(|byte| *byte == 0x06), "{name}");
    }
}

#[test]
fn release_2_needs_no_more_than_the_commit_where_the_message_asks_for_no_more() {
    let peer = Peer::start(vec![COMMIT], vec![]);
    let mut sender = to(&peer, "release = 2\nack_timeout = \"400ms\"");
    let message = |wants: &str| format!("MSH|^~\\&|S|SF|R|RF|2026||ADT^A01|k|P|2.5|||{wants}\r").into_bytes();
    for (wants, is_sent) in [("NE|NE", true), ("ER|ER", true), ("NE|AL", false), ("AL|NE", false), ("|SU", false)] {
        let sent = sender.try_send(&message(wants));
        assert_eq!(sent.is_ok(), is_sent, "{wants}");
        assert!(sent.is_err() || sent.is_ok_and(|delivered| delivered.response.is_none()));
    }
}

#[test]
fn what_is_said_where_the_releases_do_not_match() {
    let peer = Peer::start(vec![Do::Write(b"\x0b\x15\x1c\r")], vec![]);
    let error = to(&peer, "release = 2").try_send(&adt("k")).unwrap_err();
    assert_eq!((error.class, error.disposition()), (FaultClass::Nak, Disposition::Retry));
    assert!(error.message.ends_with("answered NAK: it could not keep the message"), "{error}");
    let peer = Peer::start(vec![COMMIT, OK], vec![]);
    let error = to(&peer, "release = 1").try_send(&adt("k")).unwrap_err();
    assert!(error.message.contains("it speaks `release = 2` of MLLP"), "{error}");
    let peer = Peer::start(vec![OK], vec![]);
    let error = to(&peer, "release = 2").try_send(&adt("k")).unwrap_err();
    assert!(error.message.contains("it speaks release 1 of MLLP"), "{error}");
}

/// The two halves of Labwire with each other.
#[test]
fn both_halves_speak_the_same() {
    for options in [
        "release = 2",
        "framing = { start = \"STX\", end = \"ETX\" }",
        "framing = { start = \"0x01\", end = \"0x04 0x0A\" }\nrelease = 2",
    ] {
        let listener = Listener::start(options);
        let mut sender = Sender::to(&listener.address.to_string(), options);
        for id in ["k1", "k2", "k1"] {
            assert_eq!(sender.send(id), Outcome::Sent, "{options}");
        }
        let arrivals = listener.journal.arrivals();
        assert_eq!(
            arrivals.iter().map(|arrival| arrival.body.to_vec()).collect::<Vec<_>>(),
            [adt("k1"), adt("k2"), adt("k1")]
        );
        assert_eq!(listener.counters().repeated, 1, "{options}: it came again");
        // A byte that only other framing keeps for itself.
        let content = [&adt("k3")[..], b"NTE|1||\x0b\r"].concat();
        if options.contains("framing") {
            assert!(sender.try_send(&content).is_ok(), "{options}");
        }
    }
    let listener = Listener::start("framing = { start = \"STX\", end = \"ETX\" }");
    let mut client = listener.connect();
    client.write(&[&b"\x02"[..], &adt("k"), b"\x03\r\n"].concat()).unwrap();
    let answer = client.read_framed(0x02, b"\x03").unwrap();
    assert!(answer.contains("MSA|AA|k\r"), "{answer}");
}

fn channel(address: &str, more: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n\
         [destination.peer]\ntype = \"mllp\"\naddress = {address}\nretry = {{ first = \"20ms\", longest = \"100ms\" }}\n{more}\n"
    )
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", addresses.join(", "))
}

fn send(client: &mut MllpClient, ids: &[&str]) {
    for id in ids {
        assert!(client.send(&adt(id)).unwrap().contains("MSA|AA"));
    }
}

/// The attempts of a message's only delivery.
fn attempts(rig: &Rig, id: &str) -> Vec<Value> {
    let found = rig.messages(&format!("&control_id={id}"));
    let story = rig.story(found[0]["id"].as_str().unwrap());
    story["deliveries_in_full"][0]["tries"].as_array().unwrap().clone()
}

#[test]
fn the_next_address_is_used_while_the_first_fails() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second = MllpServer::start();
    let rig = Rig::with(&channel(&list(&[first, second.address()]), "address_pause = \"300ms\""));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    send(&mut client, &["k1", "k2", "k3"]);
    eventually("they arrive", || (second.ids() == ["k1", "k2", "k3"]).then_some(()));
    rig.wait_for("sent", 3);
    for id in ["k1", "k3"] {
        let attempts = attempts(&rig, id);
        assert_eq!((attempts.len(), &attempts[0]["to"]), (1, &second.address().to_string().into()), "{attempts:?}");
    }
    assert_eq!(second.connections(), 1, "the connection is kept meanwhile");
    // It comes back, and is preferred.
    let first = MllpServer::start_on(&first.to_string());
    let mut number = 4;
    eventually("the first address is used again", || {
        send(&mut client, &[&format!("k{number}")]);
        number += 1;
        (!first.ids().is_empty()).then_some(())
    });
    send(&mut client, &["last"]);
    eventually("the last one arrives there", || first.ids().contains(&"last".to_owned()).then_some(()));
    let all = [second.ids(), first.ids()].concat();
    let expected: Vec<String> = (1..number).map(|number| format!("k{number}")).chain(["last".to_owned()]).collect();
    assert_eq!(all, expected, "in order, each once");
    assert!(rig.log().contains("an address failed") && rig.log().contains("takes connections again"));
    let shown = rig.cli(&["messages", "show", rig.messages("&control_id=last")[0]["id"].as_str().unwrap()]).1;
    assert!(shown.contains(&format!("sent to {} after", first.address())), "{shown}");
}

/// It takes the message and does not answer: another may have it already, so this attempt says so, and the next goes elsewhere.
#[test]
fn an_attempt_that_failed_says_where_and_the_next_goes_to_the_other_address() {
    let deaf = Peer::start(vec![], vec![]);
    let well = MllpServer::start();
    let rig = Rig::with(&channel(
        &list(&[deaf.address(), well.address()]),
        "ack_timeout = \"200ms\"\naddress_pause = \"1h\"",
    ));
    send(&mut MllpClient::connect(rig.listener("results")).unwrap(), &["k1", "k2"]);
    eventually("they arrive", || (well.ids() == ["k1", "k2"]).then_some(()));
    rig.wait_for("sent", 2);
    let tried = attempts(&rig, "k1");
    let [failed, sent] = &tried[..] else { panic!("two attempts: {tried:?}") };
    assert_eq!((&failed["to"], &sent["to"]), (&deaf.address().to_string().into(), &well.address().to_string().into()));
    let error = failed["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("{}: no acknowledgement within 200ms", deaf.address())), "{error}");
    assert_eq!(attempts(&rig, "k2").len(), 1, "the deaf one is left alone");
    assert_eq!(deaf.log().received, [adt("k1")]);
}

#[test]
fn where_no_address_takes_a_connection_all_are_named() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Silent::listen();
    let text = format!(
        "address = [\"no-such-host.invalid:1\", \"{closed}\", \"{}\"]\nconnect_timeout = \"300ms\"",
        silent.address
    );
    let mut sender = Sender::with(&text);
    let error = sender.try_send(&adt("k1")).unwrap_err();
    assert_eq!(
        error.class,
        FaultClass::Refused,
        "what passes by itself goes before what somebody must see to: {error}"
    );
    for words in [
        "no-such-host.invalid:1: ",
        &format!("{closed}: cannot connect"),
        &format!("{}: no connection within 300ms", silent.address),
    ] {
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!(sender.destination.used(), None);
    // An answer is no fault of the address: the next message goes to the same one.
    let (strict, other) = (Peer::start(vec![Do::Ack("AE", "{id}")], vec![]), MllpServer::start());
    let mut sender = Sender::with(&format!("address = [\"{}\", \"{}\"]", strict.address(), other.address()));
    assert_eq!([sender.send("k1"), sender.send("k2")], [Outcome::Retry; 2]);
    assert_eq!((strict.log().received.len(), other.received().len()), (2, 0));
    assert_eq!(sender.destination.used(), Some(strict.address().to_string()));
}

#[test]
fn a_lane_is_paced_and_its_parallel_workers_share_the_pace() {
    for more in ["", "order_by = \"msg['MSH-10']\"\nparallel = 4"] {
        let peer = MllpServer::start();
        let rig = Rig::with(&channel(&format!("\"{}\"", peer.address()), &format!("rate = \"20/s\"\n{more}")));
        let ids: Vec<String> = (0..11).map(|number| format!("k{number:02}")).collect();
        let mut client = MllpClient::connect(rig.listener("results")).unwrap();
        let began = Instant::now();
        send(&mut client, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        eventually("all arrive", || (peer.ids().len() == ids.len()).then_some(()));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(480), "ten pauses of 50 ms: {took:?} {more}");
        assert_eq!(peer.ids(), ids, "in order");
    }
}

#[test]
fn options_have_places() {
    for (line, expected) in [
        ("address = []", "test.toml:1:11: no address is in this list"),
        ("address = [\"a:1\", \"b\"]", "test.toml:1:19: `b` is not an address to connect to"),
        ("address = [\"a:1\", \"b:1\", \"a:1\"]", "test.toml:1:11: `a:1` is in this list twice"),
        ("address = 1", "test.toml:1:11: `address` must be a string or an array"),
        ("address = \"a:1\"\naddress_pause = \"0s\"", "test.toml:2:17: no peer is that fast"),
        ("address = \"a:1\"\nrelease = 3", "test.toml:2:11: `release` must be between 1 and 2"),
        ("address = \"a:1\"\nframing = { begin = \"VT\" }", "test.toml:2:13: unknown key `begin` in framing"),
        ("address = \"a:1\"\nframing = { start = \"M\" }", "test.toml:2:11: `M` are no bytes"),
        ("address = \"a:1\"\nframing = { start = \"0x4D\" }", "test.toml:2:11: 0x4d cannot frame a message"),
        (
            "address = \"a:1\"\nframing = { end = \"0x0B\" }",
            "test.toml:2:11: the bytes that frame a message must differ",
        ),
    ] {
        let found =
            options::destination("mllp", line).map(|config| format!("{config:?}")).expect_err("a mistake in it");
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}
