//! The `mllp` destination against peers that answer well, badly and not at all (peer-cases D and I).

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use labwire::destination::{Delivered, Destination, DestinationConfig, Disposition, SendError};
use labwire::hl7;
use labwire::journal::Outgoing;
use labwire::message::{Body, Format, Message, MessageIds, Meta, Origin};
use tokio::runtime::Runtime;

use crate::support::eventually::eventually;
use crate::support::half_open::Silent;
use crate::support::options;
use crate::support::peer::{Do, Log, Peer};
use crate::support::python;

pub struct Sender {
    runtime: Runtime,
    config: Box<dyn DestinationConfig>,
    pub destination: Box<dyn Destination>,
}

impl Sender {
    pub fn to(address: &str, text: &str) -> Sender {
        Sender::with(&format!("address = \"{address}\"\n{text}"))
    }

    pub fn with(text: &str) -> Sender {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = options::destination("mllp", text).unwrap();
        let destination = runtime.block_on(config.build(&options::place("peer"))).unwrap();
        Sender { runtime, config, destination }
    }

    pub fn try_send(&mut self, content: &[u8]) -> Result<Delivered, SendError> {
        let outgoing = self.config.prepare(&message(content)).unwrap();
        assert_eq!(outgoing.content, content, "what leaves is the message, byte for byte");
        self.runtime.block_on(self.destination.send(&outgoing))
    }

    pub fn send(&mut self, id: &str) -> Outcome {
        match self.try_send(&adt(id)) {
            Ok(delivered) => {
                assert!(delivered.response.is_some());
                Outcome::Sent
            }
            Err(error) => {
                assert!(!error.message.contains("SECRET"), "content in an error: {error}");
                match error.disposition() {
                    Disposition::Retry => Outcome::Retry,
                    Disposition::Dead => Outcome::Dead,
                    Disposition::Sent => Outcome::Sent,
                    Disposition::Pause => Outcome::Pause,
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    Sent,
    Retry,
    Dead,
    Pause,
}

pub fn adt(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|S|SF|R|RF|2026||ADT^A01|{id}|P|2.5\rPID|1||77||SECRET^PATIENT\r").into_bytes()
}

pub fn message(content: &[u8]) -> Message {
    let meta = Meta {
        id: MessageIds::default().next(),
        channel: "test".into(),
        received_at: "2026-01-15T10:30:00Z".parse().unwrap(),
        origin: Origin::default(),
    };
    Message::read(meta, Format::Hl7, &Bytes::copy_from_slice(content), &hl7::Limits::default()).unwrap()
}

/// What the peer does, what becomes of two messages, over how many connections.
type Case = (&'static str, &'static [Do], [Outcome; 2], usize);

const OK: Do = Do::Ack("AA", "{id}");
const ACK: &str = "MSH|^~\\&|R|RF|S|SF|2026||ACK|X|P|2.5\rMSA|AA|{id}\r";

use Outcome::{Dead, Pause, Retry, Sent};

const CASES: &[Case] = &[
    ("AA", &[OK], [Sent, Sent], 1),
    ("CA", &[Do::Ack("CA", "{id}")], [Sent, Sent], 1),
    ("AE", &[Do::Ack("AE", "{id}")], [Retry, Retry], 1),
    ("CE", &[Do::Ack("CE", "{id}")], [Retry, Retry], 1),
    ("AR", &[Do::Ack("AR", "{id}")], [Dead, Dead], 1),
    ("CR", &[Do::Ack("CR", "{id}")], [Dead, Dead], 1),
    ("silent", &[], [Retry, Retry], 2),
    ("slow", &[Do::Wait(50), OK], [Sent, Sent], 1),
    ("close before the acknowledgement", &[Do::Close], [Retry, Retry], 2),
    ("reset before the acknowledgement", &[Do::Reset], [Retry, Retry], 2),
    ("half an acknowledgement, then close", &[Do::Write(b"\x0bMSH|^~\\&|R"), Do::Close], [Retry, Retry], 2),
    ("close after the acknowledgement", &[OK, Do::Close], [Sent, Sent], 2),
    ("reset after the acknowledgement", &[OK, Do::Wait(100), Do::Reset], [Sent, Sent], 2),
    ("byte by byte", &[Do::Drip("AA", "{id}")], [Sent, Sent], 1),
    ("junk before", &[Do::Write(b"\r\nXYZ"), OK], [Sent, Sent], 1),
    ("line feed after", &[OK, Do::Write(b"\n")], [Sent, Sent], 1),
    ("two acknowledgements", &[OK, OK], [Sent, Sent], 1),
    ("a second acknowledgement later", &[OK, Do::Wait(50), Do::Ack("AE", "{id}")], [Sent, Sent], 1),
    ("an application acknowledgement at once", &[Do::Ack("CA", "{id}"), OK], [Sent, Sent], 1),
    ("an application acknowledgement later", &[Do::Ack("CA", "{id}"), Do::Wait(50), OK], [Sent, Sent], 1),
    ("another MSA-2", &[Do::Ack("AA", "WRONG")], [Retry, Retry], 2),
    ("an empty MSA-2", &[Do::Ack("AA", "")], [Retry, Retry], 2),
    ("an unknown code", &[Do::Ack("ZZ", "{id}")], [Retry, Retry], 2),
    ("no MSA", &[Do::Write(b"\x0bMSH|^~\\&|||||||ACK|1\r\x1c\r")], [Retry, Retry], 2),
    ("no HL7", &[Do::Write(b"\x0bA VERY BAD ACKNOWLEDGEMENT\x1c\r")], [Retry, Retry], 2),
    ("an empty frame", &[Do::Write(b"\x0b\x1c\r")], [Retry, Retry], 2),
    ("junk without end", &[Do::Write(&[b'j'; 5000])], [Retry, Retry], 2),
    ("HTTP", &[Do::Write(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Do::Close], [Pause, Pause], 2),
    ("TLS", &[Do::Write(b"\x15\x03\x01\x00\x02\x02\x46"), Do::Close], [Pause, Pause], 2),
];

/// Sends two messages; `ack_timeout` is short where it must pass, and long where it must not.
fn run(script: &[Do], on_connect: &[Do], ack_timeout: &str) -> ([Outcome; 2], Log) {
    let peer = Peer::start(script.to_vec(), on_connect.to_vec());
    let mut sender = Sender::to(&peer.address().to_string(), &format!("ack_timeout = \"{ack_timeout}\""));
    let first = sender.send("k1");
    // Until what the script still does has been done.
    let waits: u64 = script.iter().map(|step| if let Do::Wait(millis) = step { *millis } else { 0 }).sum();
    std::thread::park_timeout(Duration::from_millis(2 * waits));
    let second = sender.send("k2");
    ([first, second], peer.log())
}

#[test]
fn what_a_peer_does_and_what_becomes_of_the_delivery() {
    for (name, script, outcomes, connections) in CASES {
        let (found, log) = run(script, &[], if script.is_empty() { "300ms" } else { "10s" });
        assert_eq!((found, log.connections), (*outcomes, *connections), "{name}");
        assert_eq!(log.received, [adt("k1"), adt("k2")], "{name}: each attempt sends once");
    }
}

#[test]
fn acknowledgements_that_are_not_quite_mllp() {
    let bytes =
        |before: &str, ack: &str, after: &str| -> &'static [u8] { format!("{before}{ack}{after}").into_bytes().leak() };
    for (name, answer, outcome) in [
        ("no return", bytes("\x0b", ACK, "\x1c"), Sent),
        ("line feed for the return", bytes("\x0b", ACK, "\x1c\n"), Sent),
        ("no end", bytes("\x0b", ACK, ""), Retry),
        ("no start", bytes("", ACK, "\x1c\r"), Retry),
        ("line feeds between segments", bytes("\x0b", &ACK.replace('\r', "\n"), "\x1c\r"), Sent),
        ("a start byte within", bytes("\x0b", &ACK.replace("|P|", "\x0b|P|"), "\x1c\r"), Retry),
        ("an end byte within", bytes("\x0b", &ACK.replace("|P|", "\x1c|P|"), "\x1c\r"), Sent),
        ("other separators", bytes("\x0b", &ACK.replace('|', "$"), "\x1c\r"), Sent),
    ] {
        let started = Instant::now();
        let (found, log) = run(&[Do::Write(answer)], &[], if outcome == Sent { "10s" } else { "300ms" });
        assert!(started.elapsed() < Duration::from_secs(5), "{name}: {:?}", started.elapsed());
        assert_eq!(found, [outcome; 2], "{name}");
        assert_eq!(log.connections, if outcome == Sent { 1 } else { 2 }, "{name}");
    }
}

/// What comes unasked is never taken for the answer to the next message.
#[test]
fn an_unsolicited_acknowledgement_settles_nothing() {
    let (found, _) = run(&[], &[Do::Ack("AA", "nobody")], "10s");
    assert_eq!(found, [Retry, Retry]);
    let (found, log) = run(&[OK, Do::Wait(50), Do::Ack("AA", "k2"), Do::Wait(50), Do::Close], &[], "10s");
    assert_eq!((found, log.connections, log.received.len()), ([Sent, Sent], 2, 2));
}

/// A peer that never gets past the first MSH-10 settles nothing but the first message.
#[test]
fn an_answer_to_the_message_before_is_passed_over_and_never_settles_the_next() {
    let (found, log) = run(&[Do::Ack("AA", "{first}")], &[], "300ms");
    assert_eq!((found, log.connections), ([Sent, Retry], 1));
    let (found, log) = run(&[OK, Do::Ack("AR", "{id}")], &[], "10s");
    assert_eq!((found, log.received.len()), ([Sent, Sent], 2));
}

/// The peer closes a quiet connection just when it is used again: nothing can be known of that before the message is written.
#[test]
fn a_kept_connection_that_closes_without_an_answer_is_replaced_once() {
    let (found, log) = run(&[Do::CloseLater, OK], &[], "10s");
    assert_eq!((found, log.connections), ([Sent, Sent], 2));
    assert_eq!(log.received, [adt("k1"), adt("k2"), adt("k2")]);
}

#[test]
fn the_answer_is_kept_and_the_error_says_what_happened_without_it() {
    for (code, expected) in [("AE", "answered AE"), ("AR", "answered AR")] {
        let peer = Peer::start(vec![Do::Ack(code, "{id}")], vec![]);
        let address = peer.address().to_string();
        let error = Sender::to(&address, "").try_send(&adt("k1")).unwrap_err();
        assert_eq!(error.message, format!("{address} {expected}"));
        let response = error.response.unwrap();
        assert!(response.starts_with(b"MSH|") && response.ends_with(b"SECRET of the peer\r"), "without its frame");
    }
    let peer = Peer::start(
        vec![Do::Write(b"\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AE|{id}\rERR|||101^x|E||||SECRET\r\x1c\r")],
        vec![],
    );
    let error = Sender::to(&peer.address().to_string(), "").try_send(&adt("k1")).unwrap_err();
    assert!(error.message.ends_with("answered AE, error 101"), "{error}");
}

#[test]
fn a_peer_that_cannot_be_reached() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, outcome, words) in [
        (closed.to_string(), Disposition::Retry, "cannot connect"),
        ("no-such-host.invalid:2575".to_owned(), Disposition::Pause, "the name cannot be resolved"),
    ] {
        let error = Sender::to(&address, "connect_timeout = \"5s\"").try_send(&adt("k1")).unwrap_err();
        assert_eq!(error.disposition(), outcome, "{error}");
        assert!(error.message.starts_with(&format!("{address}: {words}")), "{error}");
    }
    // A full backlog: the system neither accepts nor refuses.
    let silent = Silent::listen();
    let address = silent.address;
    let error = Sender::to(&address.to_string(), "connect_timeout = \"200ms\"").try_send(&adt("k1")).unwrap_err();
    assert_eq!(
        (error.disposition(), error.message),
        (Disposition::Retry, format!("{address}: no connection within 200ms"))
    );
}

#[test]
fn a_timeout_is_as_long_as_it_says_and_ends_the_connection() {
    let peer = Peer::start(vec![], vec![]);
    let mut sender = Sender::to(&peer.address().to_string(), "ack_timeout = \"300ms\"");
    let started = Instant::now();
    let error = sender.try_send(&adt("k1")).unwrap_err();
    assert!((300..5000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert!(error.message.ends_with("no acknowledgement within 300ms"), "{error}");
    eventually("the close", || (peer.log().closed == 1).then_some(()));
}

/// The engine stops, or the channel is reloaded, in the middle of an attempt.
#[test]
fn a_dropped_send_throws_the_connection_away() {
    let peer = Peer::start(vec![Do::Wait(200), OK], vec![]);
    let mut sender = Sender::to(&peer.address().to_string(), "");
    assert_eq!(sender.send("k0"), Sent);
    let outgoing = sender.config.prepare(&message(&adt("k1"))).unwrap();
    let dropped = async { tokio::time::timeout(Duration::from_millis(50), sender.destination.send(&outgoing)).await };
    assert!(sender.runtime.block_on(dropped).is_err());
    assert_eq!(sender.send("k2"), Sent, "not taken for the late answer to k1");
    eventually("the close", || (peer.log().closed == 1).then_some(()));
    assert_eq!(peer.log().connections, 2);
}

#[test]
fn a_message_leaves_in_one_write_and_a_large_one_whole() {
    let peer = Peer::start(vec![OK], vec![]);
    let mut sender = Sender::to(&peer.address().to_string(), "");
    assert_eq!(sender.send("small"), Sent);
    let large = [adt("large"), b"OBX|1|ED|PDF||".to_vec(), vec![b'A'; 8 << 20], b"\r".to_vec()].concat();
    assert!(sender.try_send(&large).is_ok());
    let log = peer.log();
    assert_eq!(log.first_reads[0], adt("small").len() + 3);
    assert_eq!(log.received[1], large);
    assert_eq!(log.connections, 1);
}

/// A peer that refuses before it has read everything: its answer counts, not the broken pipe.
#[test]
fn an_answer_to_half_a_message_is_heard() {
    let large = [adt("large"), vec![b'A'; 32 << 20], b"\r".to_vec()].concat();
    let peer = Peer::start(vec![OK], vec![Do::Ack("AR", "large"), Do::Wait(100), Do::Close]);
    let error = Sender::to(&peer.address().to_string(), "").try_send(&large).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Dead, "{error}");
    // The same between the two halves of Labwire.
    let listener = crate::support::listener::Listener::start("max_frame = \"64KiB\"");
    let mut sender = Sender::to(&listener.address.to_string(), "");
    let error = sender.try_send(&large).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Dead, "{error}");
    assert!(error.message.ends_with("answered AR, error 207"), "{error}");
    assert_eq!(sender.send("small"), Sent);
}

#[test]
fn msa_2_is_compared_byte_for_byte() {
    let peer = Peer::start(vec![OK], vec![]);
    let mut sender = Sender::to(&peer.address().to_string(), "");
    for id in [&b"\xe9\xff"[..], b"a^b", b"", &[b'9'; 199]] {
        let content = [b"MSH|^~\\&|S|SF|R|RF|2026||ADT^A01|", id, b"|P|2.5\r"].concat();
        assert!(sender.try_send(&content).is_ok(), "{}", id.escape_ascii());
    }
    // Two ids that differ in the high bit only.
    let peer = Peer::start(vec![Do::Write(b"\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|i\r\x1c\r")], vec![]);
    let error = Sender::to(&peer.address().to_string(), "").try_send(&adt("\u{e9}")).unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry);
}

#[test]
fn what_cannot_be_sent_is_known_before() {
    let config = options::destination("mllp", "address = \"127.0.0.1:1\"").unwrap();
    let outgoing = config.prepare(&message(&adt("k1"))).unwrap();
    assert_eq!(outgoing.properties.get("control_id").map(String::as_str), Some("k1"));
    for byte in [b'\x0b', b'\x1c'] {
        let error = config.prepare(&message(&[&adt("k1")[..], &[byte], b"SECRET"].concat())).unwrap_err();
        assert!(error.message.contains("which MLLP keeps for itself") && !error.message.contains("SECRET"), "{error}");
    }
    let mut json = message(&adt("k1"));
    json.body = Arc::new(Body::Json(serde_json::json!({"SECRET": 1})));
    let error = config.prepare(&json).unwrap_err();
    assert!(error.message.contains("`template`") && !error.message.contains("SECRET"), "{error}");
}

/// The journal may hold what was edited by hand since.
#[test]
fn what_is_no_message_is_not_sent() {
    let peer = Peer::start(vec![OK], vec![]);
    let mut sender = Sender::to(&peer.address().to_string(), "");
    for content in [&b"SECRET"[..], b"MSH|^~\\&|\x1c\rSECRET"] {
        let outgoing = Outgoing { content: Bytes::copy_from_slice(content), ..Outgoing::default() };
        let error = sender.runtime.block_on(sender.destination.send(&outgoing)).unwrap_err();
        assert_eq!(error.disposition(), Disposition::Dead);
        assert!(!error.message.contains("SECRET"), "{error}");
    }
    assert_eq!(peer.log().connections, 0);
}

#[test]
fn options_have_places_and_limits() {
    for (line, expected) in [
        ("address = \"mirth\"", "test.toml:1:11: `mirth` is not an address to connect to"),
        ("address = \"a:1\"\nack_timeout = \"0s\"", "test.toml:2:15: no peer is that fast"),
        ("address = \"a:1\"\nconnect_timeout = \"0s\"", "test.toml:2:19: no peer is that fast"),
        (
            "address = \"a:1\"\nacktimeout = \"5s\"",
            "test.toml:2:1: unknown key `acktimeout` in [test]: did you mean `ack_timeout`?",
        ),
    ] {
        let found = options::destination("mllp", line).expect_err("a mistake in it");
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}

/// A server that nobody here wrote: the asyncio server of the Python package `hl7`.
#[test]
fn the_server_of_python_hl7_acknowledges() {
    let mut server = Command::new(python::program("python"))
        .arg(crate::support::root().join("tests/it/mllp_server.py"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut sender = Sender::to(&format!("127.0.0.1:{}", printed.next().unwrap()), "");
    for id in ["k1", "k2", "k3"] {
        assert_eq!(sender.send(id), Sent);
        assert_eq!(printed.next().as_deref(), Some(id));
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
