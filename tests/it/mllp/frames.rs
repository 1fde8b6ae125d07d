//! Streams of bytes and the exact replies: the cases of other people's suites (peer-cases A, B, C) and the probes that were run
//! against eight receivers (peer-cases H).

use super::{message, short};
use crate::support::listener::Listener;
use crate::support::mllp_client::{field, frame};

struct Case {
    name: &'static str,
    stream: Vec<u8>,
    /// `MSA-1/MSA-2` of every reply, in order.
    replies: &'static [&'static str],
    /// How many messages are kept, acknowledged or not.
    kept: usize,
}

fn case(name: &'static str, stream: impl AsRef<[u8]>, replies: &'static [&'static str]) -> Case {
    Case { name, stream: stream.as_ref().to_vec(), replies, kept: replies.len() }
}

/// Joins what is bytes and what is text.
fn join(parts: &[&dyn AsRef<[u8]>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.as_ref().to_vec()).collect()
}

fn replace(bytes: &[u8], what: &str, by: &[u8]) -> Vec<u8> {
    let at = bytes.windows(what.len()).position(|window| window == what.as_bytes()).unwrap();
    [&bytes[..at], by, &bytes[at + what.len()..]].concat()
}

/// The message with other ends of segments.
fn with_ends(id: &str, end: &str) -> Vec<u8> {
    String::from_utf8(message(id)).unwrap().replace('\r', end).into_bytes()
}

fn framing() -> Vec<Case> {
    let f = |id: &str| frame(&message(id));
    let m = message;
    vec![
        case("one frame", f("p1"), &["AA/p1"]),
        case("three frames at once", join(&[&f("p1"), &f("p2"), &f("p3")]), &["AA/p1", "AA/p2", "AA/p3"]),
        case("junk before the first frame", join(&[&"XYZ", &f("p6")]), &["AA/p6"]),
        case("junk between frames", join(&[&f("p7"), &"\r\nJUNK\r\n", &f("p8")]), &["AA/p7", "AA/p8"]),
        case("junk with a start byte in it", join(&[&"j\x0bunk\x1cx", &f("a"), &f("b")]), &["AA/a", "AA/b"]),
        case(
            "binary junk everywhere",
            join(&[b"\x00\x01\x02", &f("a"), b"\xff\xfe", &f("b"), b"\xaa"]),
            &["AA/a", "AA/b"],
        ),
        case("no return after the end byte", join(&[b"\x0b", &m("p9"), b"\x1c", &f("p10")]), &["AA/p9", "AA/p10"]),
        case("line feed for the return", join(&[b"\x0b", &m("p9"), b"\x1c\n", &f("p10")]), &["AA/p9", "AA/p10"]),
        case("line feed after the return", join(&[&f("p16"), b"\n", &f("p17"), b"\n"]), &["AA/p16", "AA/p17"]),
        case("no start byte", join(&[&m("p11"), b"\x1c\r"]), &[]),
        case("a frame begun anew", join(&[b"\x0b", &&m("p13")[..40], &f("p14")]), &["AA/p14"]),
        case("an empty frame", join(&[b"\x0b\x1c\r", &f("p15")]), &["AA/p15"]),
        case("an end byte within a value", frame(&replace(&m("p28"), "Jane", b"Ja\x1cne")), &["AA/p28"]),
        case("white space between frames", join(&[b" \r\n\0", &f("a"), b"\r\n", &f("b")]), &["AA/a", "AA/b"]),
    ]
}

fn contents() -> Vec<Case> {
    let f = |content: &[u8]| frame(content);
    let m = message;
    let changed = |id: &str, what: &str, by: &[u8]| frame(&replace(&m(id), what, by));
    vec![
        case("segments end with line feeds", f(&with_ends("p18", "\n")), &["AA/p18"]),
        case("segments end with both", f(&with_ends("p19", "\r\n")), &["AA/p19"]),
        case("no end of the last segment", f(m("p20").trim_ascii_end()), &["AA/p20"]),
        case("a byte that is not UTF-8", changed("p21", "Jane", b"Jan\xe9"), &["AA/p21"]),
        case("a byte order mark", f(&join(&[b"\xef\xbb\xbf", &m("p22")])), &["AA/p22"]),
        case("two million bytes in a field", changed("p23", "Jane", &[b'x'; 2_000_000]), &["AA/p23"]),
        case("MSH-10 empty", f(b"MSH|^~\\&|S|F|R|F|20260101||ADT^A01||P|2.5\r"), &["AA/"]),
        case("version 9.9", changed("p24", "2.5", b"9.9"), &["AA/p24"]),
        case("an unknown type", changed("p25", "ADT^A01", b"ZZZ^Z99"), &["AA/p25"]),
        case("a fifth encoding character", changed("p26", "^~\\&", b"^~\\&#"), &["AA/p26"]),
        case("no escape character", changed("p26", "^~\\&", b"^~&"), &["AA/p26"]),
        case("an escape in MSH-10", changed("ID", "ID|P", b"a\\F\\b|P"), &["AA/a\\F\\b"]),
        case("an unknown MSH-18", changed("p31", "|2.5", b"|2.5||||||ISO_IR 999"), &["AA/p31"]),
        case("text", f(b"HELLO\r"), &["AR/"]),
        case("nothing but white space", f(b"\r\n"), &["AR/"]),
        case("no separators", f(b"MSHABCDEFGHIJ"), &["AR/"]),
        case("UTF-16", f(&"MSH|^~".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()), &["AR/"]),
        case("a batch", f(&join(&[&"FHS|^~\\&|A\rBHS|^~\\&|B\r", &m("1"), &m("2"), &"BTS|2\rFTS|1\r"])), &["AA/1"]),
        case("two messages in a frame", f(&join(&[&m("p32"), &m("p33")])), &["AR/p32"]),
        Case { kept: 1, ..case("an acknowledgement", f(b"MSH|^~\\&|A|B|C|D|2026||ACK^A01|x1|P|2.5\rMSA|AA|1\r"), &[]) },
        Case { kept: 1, ..case("a negative one", f(b"MSH|^~\\&|A|B|C|D|2026||ACK|x1|P|2.3\rMSA|AE|1\r"), &[]) },
        Case {
            kept: 1,
            ..case("two acknowledgements in a frame", f(b"MSH|^~\\&|||||||ACK|1\rMSH|^~\\&|||||||ACK|2\r"), &[])
        },
    ]
}

/// Every stream gets the expected replies, however it is cut, and the connection then still works.
#[test]
fn streams_and_their_replies() {
    let listener = Listener::start("");
    for case in framing().into_iter().chain(contents()) {
        for piece in [usize::MAX, 1, 7] {
            let pieces = case.stream.chunks(piece.min(case.stream.len()));
            if pieces.len() > 10_000 {
                continue;
            }
            let before = listener.journal.arrivals().len();
            let mut client = listener.connect();
            pieces.for_each(|piece| client.write(piece).unwrap());
            client.write(&frame(&message("probe"))).unwrap();
            let mut expected = case.replies.to_vec();
            expected.push("AA/probe");
            let replies: Vec<String> = expected.iter().map(|_| short(&client.read().unwrap())).collect();
            assert_eq!(replies, expected, "{}, in pieces of {piece}", case.name);
            let kept = listener.journal.arrivals().len() - before - 1;
            assert_eq!(kept, case.kept, "{}, in pieces of {piece}", case.name);
        }
    }
}

/// Half a frame is never acknowledged, a whole one is, also where the connection ends before the return.
#[test]
fn streams_that_end() {
    let listener = Listener::start("");
    let cases: [(&str, Vec<u8>, &[&str], u64); 6] = [
        ("nothing", vec![], &[], 0),
        ("a frame", frame(&message("a")), &["AA/a"], 0),
        ("no end", join(&[b"\x0b", &message("p12")]), &[], 1),
        ("an end byte at the end", join(&[b"\x0b", &message("a"), b"\x1c"]), &["AA/a"], 0),
        ("an end byte and a line feed at the end", join(&[b"\x0b", &message("a"), b"\x1c\n"]), &["AA/a"], 0),
        ("a frame and a half", join(&[&frame(&message("a")), b"\x0bMSH|"]), &["AA/a"], 1),
    ];
    for (name, stream, replies, dropped) in cases {
        let before = listener.counters().frames_dropped;
        let mut client = listener.connect();
        client.write(&stream).unwrap();
        client.finish();
        for reply in replies {
            assert_eq!(short(&client.read().unwrap()), *reply, "{name}");
        }
        assert!(client.is_closed(), "{name}");
        assert_eq!(listener.counters().frames_dropped - before, dropped, "{name}");
    }
    assert_eq!(listener.journal.arrivals().len(), 4);
}

#[test]
fn another_protocol_gets_no_byte_back() {
    let listener = Listener::start("");
    for first in
        [&b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-OpenSSH_9.2p1\r\n"]
    {
        let mut client = listener.connect();
        client.write(first).unwrap();
        assert!(client.is_closed(), "{}", first.escape_ascii());
    }
    assert_eq!(listener.journal.arrivals().len(), 0);
}

/// A load balancer looks whether the port is open.
#[test]
fn connections_without_a_byte_leave_no_trace() {
    let listener = Listener::start("");
    for round in 0..10 {
        let client = listener.connect();
        if round % 2 == 0 { client.reset() } else { drop(client) }
    }
    assert_eq!(short(&listener.connect().send(&message("1")).unwrap()), "AA/1");
    let counters = listener.counters();
    assert_eq!((counters.frames_dropped, counters.junk_bytes, counters.received), (0, 0, 1));
}

#[test]
fn an_acknowledgement_answers_in_the_messages_own_terms() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    let standard = client.send(&message("p1")).unwrap();
    assert_eq!([3, 4, 5, 6].map(|number| field(&standard, "MSH", number)), ["RCV", "RF", "SND", "SF"]);
    assert!(field(&standard, "MSH", 9).starts_with("ACK"), "{standard}");
    assert_eq!((field(&standard, "MSH", 11), field(&standard, "MSH", 12)), ("P".to_owned(), "2.5".to_owned()));
    let time = field(&standard, "MSH", 7);
    assert!(time.len() == 19 && time.ends_with("+0000") && time.starts_with("20"), "{time}");
    let custom = client.send(b"MSH$%~\\@$SND$SF$RCV$RF$2026$$ORU%R01$i|d^1$T$2.3.1\rPID$1\r").unwrap();
    assert!(custom.starts_with("MSH$%~\\@$RCV$RF$SND$SF$"), "{custom}");
    assert!(custom.contains("\rMSA$AA$i|d^1\r"), "{custom}");
    let arrivals = listener.journal.arrivals();
    let own_ids = [field(&standard, "MSH", 10), custom.split('$').nth(9).unwrap().to_owned()];
    assert_eq!(own_ids, [arrivals[0].recipients[0].id.short(), arrivals[1].recipients[0].id.short()]);
    assert!(own_ids.iter().all(|id| id.len() == 20));
}

#[test]
fn msh_10_comes_back_byte_for_byte() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    for id in [&b"\xe9\xff\xc3"[..], b"a^b~c&d", b"  padded  ", &[b'9'; 199]] {
        client.write(&frame(&replace(&message("ID"), "ID|P", &[id, b"|P"].concat()))).unwrap();
        let reply = client.read_bytes().unwrap();
        let expected = [b"\rMSA|AA|", id, b"\r"].concat();
        assert!(reply.windows(expected.len()).any(|window| window == expected), "{}", reply.escape_ascii());
    }
    // An end byte cannot be echoed: it would end the acknowledgement's frame.
    client.write(&frame(&replace(&message("ID"), "ID|P", b"a\x1cb|P"))).unwrap();
    assert_eq!(short(&client.read().unwrap()), "AA/ab");
}

#[test]
fn what_is_counted() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    let stream =
        join(&[&"junk", &frame(&message("a")), b"\r\n\x0b\x1c\r\x0bMSH", &frame(b"HELLO"), &frame(&message("b"))]);
    client.write(&stream).unwrap();
    let replies: Vec<_> = (0..3).map(|_| short(&client.read().unwrap())).collect();
    assert_eq!(replies, ["AA/a", "AR/", "AA/b"]);
    let counters = listener.counters();
    assert_eq!((counters.received, counters.rejected, counters.junk_bytes), (2, 1, 4));
    assert_eq!((counters.frames_empty, counters.frames_dropped), (1, 1));
}
