//! What is sent: messages that are large in one way, odd, old or not meant for us (A08 to A11).

use std::time::{Duration, Instant};

use labwire::hl7::{Limits, Message};
use serde_json::Value;

use super::{channel, counters, memory, message};
use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

const HEADER: &[u8] = b"MSH|^~\\&|SND|SF|RCV|RF|20260101||ADT^A01|1|P|2.5\r";

/// A message with so many of something.
fn many(what: &str, count: usize) -> Vec<u8> {
    let (before, each): (&[u8], &[u8]) = match what {
        "fields" => (b"ZZZ", b"|1"),
        "segments" => (b"", b"ZZZ|1\r"),
        "repetitions" => (b"ZZZ|1", b"~1"),
        "components" => (b"ZZZ|1", b"^1"),
        "subcomponents" => (b"ZZZ|1", b"&1"),
        other => panic!("{other}"),
    };
    [HEADER, before, &each.repeat(count), b"\r"].concat()
}

const SHAPES: [&str; 5] = ["fields", "segments", "repetitions", "components", "subcomponents"];

/// The shortest time of some tries: what else the machine does makes it longer, nothing makes it shorter.
fn shortest(mut work: impl FnMut()) -> Duration {
    let time = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..5).map(|_| time(&mut work)).min().unwrap()
}

#[test]
fn a08_reading_takes_time_in_proportion_to_size() {
    // No limit but that of size: the worst that reading can cost.
    let limits = Limits {
        max_segments: usize::MAX,
        max_fields: usize::MAX,
        max_fields_per_segment: usize::MAX,
        max_repetitions: usize::MAX,
        ..Limits::default()
    };
    for what in SHAPES {
        let [small, large] = [50_000, 400_000].map(|count| {
            let bytes = bytes::Bytes::from(many(what, count));
            shortest(|| {
                let message = Message::parse(bytes.clone(), &limits).unwrap();
                let path = "ZZZ-1".parse().unwrap();
                assert!(message.text(&path).is_ok() && message.count("ZZZ") > 0 && message.repetitions(&path) > 0);
            })
        });
        println!("{what}: {small:?}, and {large:?} for eight times as many");
        // Eight times as long, with room for a machine that does other things; with the square it would be 64 times.
        assert!(large < 24 * small.max(Duration::from_micros(200)), "{what}: {small:?}, then {large:?}");
    }
}

#[test]
fn a08_messages_that_are_large_in_one_way_cost_the_engine_little() {
    let rig = Rig::with(&channel("results", ""));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    assert!(client.send(&message("0")).unwrap().contains("MSA|AA"));
    let before = memory(&rig, "VmRSS");
    for (what, count, code) in [
        ("fields", 1_000_000, "AR"),
        ("segments", 1_000_000, "AR"),
        ("repetitions", 99_999, "AA"),
        ("subcomponents", 1_000_000, "AA"),
    ] {
        let began = Instant::now();
        let answer = client.send(&many(what, count)).unwrap();
        assert_eq!(field(&answer, "MSA", 1), code, "{what}: {answer}");
        println!("{count} {what}: {code} after {:?}", began.elapsed());
        // An unoptimised build on a busy machine; a cost that grows with the square would take hours.
        assert!(began.elapsed() < Duration::from_secs(15), "{what}: {:?}", began.elapsed());
    }
    let grown = memory(&rig, "VmHWM").saturating_sub(before) >> 20;
    println!("memory grew by {grown} MiB at most");
    assert!(grown < 128, "{grown} MiB");
    assert!(client.send(&message("9")).unwrap().contains("MSA|AA"));
}

#[test]
fn a09_separators_that_cannot_separate_are_rejected() {
    let rig = Rig::with(&channel("results", ""));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    for (name, content) in [
        ("MSH-1 is a return", &b"MSH\r^~\\&\rA\r"[..]),
        ("MSH-1 is a letter", b"MSHA^~\\&A1A2A\r"),
        ("MSH-1 is a tab", b"MSH\t^~\\&\tA\tB\r"),
        ("MSH-1 is above ASCII", b"MSH\xff^~\\&\xff1\r"),
        ("MSH-1 is missing", b"MSH"),
        ("MSH-2 is empty", b"MSH||A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
        ("MSH-2 names one twice", b"MSH|^^\\&|A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
        ("MSH-2 is letters", b"MSH|ABCD|A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
        ("MSH-2 is digits", b"MSH|1234|A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
        ("MSH-2 is long", b"MSH|^~\\&#!@%|A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
        ("MSH-2 holds a space", b"MSH|^ \\&|A|B|C|D|2026||ADT^A01|1|P|2.5\r"),
    ] {
        let answer = client.send(content).unwrap();
        assert_eq!(field(&answer, "MSA", 1), "AR", "{name}: {answer}");
    }
    assert!(client.send(&message("1")).unwrap().contains("MSA|AA"), "on the same connection");
    assert!(!rig.log().contains("panicked"));
}

/// MSH-7 as it is now.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y%m%d%H%M%S+0000").to_string()
}

#[test]
fn a10_a_message_that_is_played_again_later_is_flagged_or_rejected() {
    for (then, code) in [("flag", "AA"), ("reject", "AR")] {
        let stale =
            format!("duplicate_window = \"3s\"\nstale_timestamp = {{ older_than = \"1s\", then = \"{then}\" }}");
        let rig = Rig::with(&channel("results", &stale));
        let mut client = MllpClient::connect(rig.listener("results")).unwrap();
        let recorded = format!("MSH|^~\\&|A|B|C|D|{}||ADT^A01|1|P|2.5\r", now());
        let mut send = || field(&client.send(recorded.as_bytes()).unwrap(), "MSA", 1);
        assert_eq!(send(), "AA");
        // Within the window it is the same message; after it, an old one.
        let answer = eventually("it is known no longer", || {
            let answer = send();
            (counters(&rig)["stale"] == 1).then_some(answer)
        });
        assert_eq!(answer, code);
        let messages = rig.messages("");
        let flags: Vec<&Value> = messages.iter().map(|message| &message["origin"]["stale_timestamp"]).collect();
        assert_eq!(flags, [&Value::Bool(true), &Value::Null], "newest first");
        assert_eq!(messages[0]["state"] == "rejected", then == "reject", "{}", messages[0]);
        let listed = rig.cli(&["messages", "list"]).1;
        assert_eq!(listed.matches("(stale timestamp)").count(), 1, "{listed}");
    }
}

fn acknowledgement(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|SND|SF|RCV|RF|20260101||ACK^A01|{id}|P|2.5|||AL|AL\rMSA|AA|77\r").into_bytes()
}

fn chain(name: &str, source: &str, address: std::net::SocketAddr) -> String {
    format!(
        "name = \"{name}\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{source}\n\
         [destination.next]\ntype = \"mllp\"\naddress = \"{address}\"\nack_timeout = \"300ms\"\nretry = {{ attempts = 1 }}\n"
    )
}

#[test]
fn a11_an_acknowledgement_as_a_message_is_kept_and_neither_answered_nor_sent_on() {
    let peer = MllpServer::start();
    let rig = Rig::with(&chain("results", "", peer.address()));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    client.write(&[frame(&acknowledgement("1")), frame(&message("2"))].concat()).unwrap();
    // The next answer is for the next message.
    assert_eq!(field(&client.read().unwrap(), "MSA", 2), "2");
    eventually("the message arrives", || (peer.ids() == ["2"]).then_some(()));
    let rejected = rig.messages("&state=rejected");
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0]["reason"].as_str().unwrap().contains("it is an acknowledgement"), "{}", rejected[0]);
    drop(rig);
    // Where the channel says so it goes on, and still is not answered.
    let rig = Rig::with(&chain("results", "acknowledgements = \"process\"", peer.address()));
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    client.write(&[frame(&acknowledgement("3")), frame(&message("4"))].concat()).unwrap();
    assert_eq!(field(&client.read().unwrap(), "MSA", 2), "4");
    eventually("both arrive", || (peer.ids() == ["2", "3", "4"]).then_some(()));
}

/// Two engines, each a destination of the other: nothing goes round.
#[test]
fn a11_two_engines_back_to_back_do_not_answer_each_others_acknowledgements() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (here, there) = (free(), free());
    let listening = |at: std::net::SocketAddr, channel: String| channel.replace("127.0.0.1:0", &at.to_string());
    let first = Rig::with(&listening(here, chain("first", "acknowledgements = \"process\"", there)));
    let second = Rig::with(&listening(there, chain("second", "", here)));
    let mut client = MllpClient::connect(here).unwrap();
    client.write(&frame(&acknowledgement("1"))).unwrap();
    assert!(client.is_silent(Duration::from_millis(500)), "no acknowledgement of an acknowledgement");
    let dead = eventually("the first gives up", || {
        let messages = first.messages("");
        (messages[0]["deliveries"][0]["state"] == "dead").then(|| messages[0].clone())
    });
    assert_eq!(dead["deliveries"][0]["attempts"], 1, "{dead}");
    assert_eq!((first.messages("").len(), second.messages("").len()), (1, 1), "it went one way, once");
    assert_eq!(second.messages("&state=rejected").len(), 1);
}
