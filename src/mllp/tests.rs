use proptest::prelude::*;

use super::*;

const MESSAGE: &[u8] = b"MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\rPID|1||77\r";
const CAP: usize = 256;

/// Every event of a stream that comes in pieces, with neighbouring junk added up: into how many events junk falls depends on the
/// reads, and nothing else does.
fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, cap: usize) -> Vec<Event> {
    decoded(Decoder::new(cap), pieces, cap)
}

fn decoded<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>, cap: usize) -> Vec<Event> {
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.next_event() {
            add(&mut found, event);
        }
        assert!(decoder.held_bytes() <= cap + 2 + piece.len(), "held {} bytes", decoder.held_bytes());
    }
    if let Some(event) = decoder.finish() {
        add(&mut found, event);
    }
    found
}

fn add(found: &mut Vec<Event>, event: Event) {
    match (found.last_mut(), event) {
        (Some(Event::Junk(before)), Event::Junk(more)) => *before += more,
        (Some(Event::Junk(before)), Event::TooMuchJunk(more)) => {
            let all = *before + more;
            found.pop();
            found.push(Event::TooMuchJunk(all));
        }
        (_, event) => found.push(event),
    }
}

fn whole(bytes: &[u8]) -> Vec<Event> {
    events([bytes], CAP)
}

fn frame(content: &[u8]) -> Event {
    Event::Frame(Bytes::copy_from_slice(content))
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The framing cases of other people's suites: peer-cases A1 to A23.
#[test]
fn streams_and_their_events() {
    let m = MESSAGE;
    let (m1, m2) = (&b"MSH|1"[..], &b"MSH|2"[..]);
    let cases: Vec<(&str, Vec<u8>, Vec<Event>)> = vec![
        ("A1 one frame", join(&[b"\x0b", m, b"\x1c\r"]), vec![frame(m)]),
        ("A2 empty frame", b"\x0b\x1c\r".to_vec(), vec![Event::Empty]),
        ("A3 no end", join(&[b"\x0b", m, b"\r"]), vec![Event::Incomplete(m.len() + 1)]),
        ("A3 no start", join(&[m1, b"\x1c\r"]), vec![Event::Junk(m1.len() + 1)]),
        ("A3 start and return only", b"\x0b\r".to_vec(), vec![Event::Incomplete(1)]),
        ("A3 nothing", vec![], vec![]),
        ("A4 end byte, then the connection ends", join(&[b"\x0b", m, b"\x1c"]), vec![frame(m)]),
        ("A4 end byte and line feed, then the connection ends", join(&[b"\x0b", m, b"\x1c\n"]), vec![frame(m)]),
        ("A4 start and end byte, then the connection ends", b"\x0b\x1c".to_vec(), vec![Event::Empty]),
        (
            "A12 three frames",
            b"\x0bMSH|1\x1c\r\x0bMSH|2\x1c\r\x0bMSH|1\x1c\r".to_vec(),
            vec![frame(m1), frame(m2), frame(m1)],
        ),
        ("A13 a frame and a half", b"\x0bMSH|1\x1c\r\x0bMS".to_vec(), vec![frame(m1), Event::Incomplete(2)]),
        (
            "A14 junk with a start byte in it",
            b"j\x0bunk\x1cx\x0bMSH|1\x1c\r\x0bMSH|2\x1c\r".to_vec(),
            vec![Event::Junk(1), Event::Restarted(5), frame(m1), frame(m2)],
        ),
        (
            "A15 junk before, between and after",
            b"\x00\x01\x02\x03\x04\x05\x0bMSH|1\x1c\r\x00\x01\x02\xff\xfe\xfd\x0bMSH|2\x1c\r\xaa\xbb\xcc\xdd".to_vec(),
            vec![Event::Junk(5), frame(m1), Event::Junk(5), frame(m2), Event::Junk(4)],
        ),
        ("A16 junk only", b"hello".to_vec(), vec![Event::Junk(5)]),
        ("A17 start byte within", b"\x0bMSH|1\x0bMSH|2\x1c\r".to_vec(), vec![Event::Restarted(5), frame(m2)]),
        ("A18 end byte within", b"\x0bMSH\x1c|1\x1c\r".to_vec(), vec![frame(b"MSH\x1c|1")]),
        ("A18 end byte twice", b"\x0bMSH|1\x1c\x1c\r".to_vec(), vec![frame(b"MSH|1\x1c")]),
        ("A18 end byte and line feed within", b"\x0bMSH\x1c\n|1\x1c\r".to_vec(), vec![frame(b"MSH\x1c\n|1")]),
        ("A20 not HL7", b"\x0bINVALID PAYLOAD\x1c\r".to_vec(), vec![frame(b"INVALID PAYLOAD")]),
        ("A21 line feed after a frame", b"\x0bMSH|1\x1c\r\n\x0bMSH|2\x1c\r\n".to_vec(), vec![frame(m1), frame(m2)]),
        ("A21 end byte, then the next frame", b"\x0bMSH|1\x1c\x0bMSH|2\x1c\r".to_vec(), vec![frame(m1), frame(m2)]),
        ("A21 line feed for return", b"\x0bMSH|1\x1c\n\x0bMSH|2\x1c\r".to_vec(), vec![frame(m1), frame(m2)]),
        (
            "A21 end byte at once, then the next frame",
            b"\x0b\x1c\x0bMSH|2\x1c\r".to_vec(),
            vec![Event::Empty, frame(m2)],
        ),
        ("A21 white space before", b" \r\n\0\x0bMSH|1\x1c\r".to_vec(), vec![frame(m1)]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), vec![Event::WrongProtocol(Protocol::Http)]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![Event::WrongProtocol(Protocol::Http)]),
        ("HTTP after blank lines", b"\r\nPOST / HTTP/1.1\r\n".to_vec(), vec![Event::WrongProtocol(Protocol::Http)]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x0b\x1c\r".to_vec(), vec![Event::WrongProtocol(Protocol::Tls)]),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), vec![Event::WrongProtocol(Protocol::Ssh)]),
        ("nearly HTTP", b"GE\x0bMSH|1\x1c\r".to_vec(), vec![Event::Junk(2), frame(m1)]),
        ("HTTP, cut short", b"GET".to_vec(), vec![Event::Junk(3)]),
        ("HTTP within a frame", b"\x0bGET / HTTP/1.1\x1c\r".to_vec(), vec![frame(b"GET / HTTP/1.1")]),
        (
            "HTTP after a frame",
            b"\x0bMSH|1\x1c\rGET \x0bMSH|2\x1c\r".to_vec(),
            vec![frame(m1), Event::Junk(3), frame(m2)],
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(whole(&bytes), expected, "{name}");
        assert_eq!(events(bytes.chunks(1), CAP), expected, "{name}, byte by byte");
    }
}

#[test]
fn a_frame_ends_at_once_when_its_last_byte_is_there() {
    let mut decoder = Decoder::new(CAP);
    decoder.push(b"\x0bMSH|1");
    assert_eq!(decoder.next_event(), None);
    assert!(decoder.in_frame() && !decoder.awaits_return());
    decoder.push(b"\x1c");
    assert_eq!(decoder.next_event(), None);
    assert!(decoder.in_frame() && decoder.awaits_return());
    decoder.push(b"\r");
    assert_eq!(decoder.next_event(), Some(frame(b"MSH|1")));
    assert!(!decoder.in_frame());
}

#[test]
fn a_frame_at_the_cap_passes_and_one_byte_more_does_not() {
    for (extra, end) in [(0, &b"\x1c\r"[..]), (0, b"\x1c\n\x0b\x1c\r"), (1, b"\x1c\r"), (1, b"\x1c\x0b"), (1, b"\x0b")]
    {
        let content = vec![b'x'; CAP + extra];
        let stream = join(&[b"\x0b", &content, end]);
        let expected = if extra == 0 { frame(&content) } else { Event::TooLarge { head: vec![b'x'; CAP].into() } };
        for found in [whole(&stream), events(stream.chunks(1), CAP)] {
            assert_eq!(found.first(), Some(&expected), "{extra} over the cap, ended by {end:?}");
            assert_eq!(found.len(), if end.len() > 2 { 2 } else { 1 });
        }
    }
}

#[test]
fn of_a_frame_that_is_too_large_the_head_is_given_and_the_rest_is_not_kept() {
    let mut decoder = Decoder::new(1 << 20);
    decoder.push(b"\x0bMSH|head|");
    for _ in 0..1 << 10 {
        decoder.push(&[b'x'; 1024]);
        match decoder.next_event() {
            None => {}
            Some(Event::TooLarge { head }) => {
                assert_eq!(head.len(), HEAD_BYTES);
                assert!(head.starts_with(b"MSH|head|"));
                assert_eq!(decoder.held_bytes(), 0);
                decoder.push(b"\x0bMSH|1\x1c\r");
                assert_eq!(decoder.next_event(), None, "nothing more is read");
                assert_eq!(decoder.finish(), None);
                return;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    panic!("the cap was not noticed");
}

#[test]
fn junk_is_tolerated_up_to_its_cap_in_each_gap() {
    let cases: [(&str, usize, u8, Event); 6] = [
        ("junk at the cap", MAX_JUNK_BYTES, b'x', Event::Junk(MAX_JUNK_BYTES)),
        ("junk over the cap", MAX_JUNK_BYTES + 1, b'x', Event::TooMuchJunk(MAX_JUNK_BYTES + 1)),
        ("much junk", 10 * MAX_JUNK_BYTES, b'x', Event::TooMuchJunk(MAX_JUNK_BYTES + 1)),
        ("white space over its cap", MAX_BLANK_BYTES + 1, b' ', Event::Junk(1)),
        ("white space at both caps", MAX_BLANK_BYTES + MAX_JUNK_BYTES, b'\n', Event::Junk(MAX_JUNK_BYTES)),
        ("endless white space", 10 * MAX_JUNK_BYTES, 0, Event::TooMuchJunk(MAX_JUNK_BYTES + 1)),
    ];
    for (name, count, byte, expected) in cases {
        let gap = vec![byte; count];
        let stream = join(&[b"\x0bMSH|1\x1c\r", &gap, b"\x0bMSH|2\x1c\r", &gap, b"\x0bMSH|1\x1c\r"]);
        let (m1, m2) = (frame(b"MSH|1"), frame(b"MSH|2"));
        // The return that ends a frame belongs to it, not to the gap.
        let expected = match expected {
            Event::Junk(_) => vec![m1.clone(), expected.clone(), m2, expected, m1],
            _ => vec![m1, expected],
        };
        assert_eq!(whole(&stream), expected, "{name}");
        assert_eq!(events(stream.chunks(1), CAP), expected, "{name}, byte by byte");
        assert_eq!(whole(&gap).last(), expected.get(1), "{name}, at the start of a connection");
    }
    let tolerated = join(&[&[b' '; MAX_BLANK_BYTES], b"\x0bMSH|1\x1c\r", &[b'\n'; MAX_BLANK_BYTES]]);
    assert_eq!(whole(&tolerated), vec![frame(b"MSH|1")]);
}

#[test]
fn every_byte_but_the_two_of_mllp_survives() {
    let content: Vec<u8> = (0..=255).filter(|byte| ![START, END].contains(byte)).collect();
    let framed = encode(&content).expect("no byte of MLLP in it");
    assert_eq!(framed[0], START);
    assert_eq!(framed[framed.len() - 2..], [END, b'\r']);
    assert_eq!(whole(&framed), vec![frame(&content)]);
    assert_eq!(content_of(&framed), content);
    assert_eq!(encode(b"MSH|\x0b"), Err(Unframeable { at: 4, byte: START }));
    assert_eq!(encode(b"MSH\x1c|"), Err(Unframeable { at: 3, byte: END }));
}

#[test]
fn one_byte_can_end_a_frame() {
    let framing = Framing::new(b"\x02", b"\x03").expect("good bytes");
    let stream = b"\x02MSH|1\x03\r\n\x02MSH|2\x03\x02MSH\x0b|\x1c\r3\x03\x02\x03\x02MSH|4";
    for size in 1..stream.len() {
        let found = decoded(Decoder::framed(CAP, framing), stream.chunks(size), CAP);
        let expected =
            [frame(b"MSH|1"), frame(b"MSH|2"), frame(b"MSH\x0b|\x1c\r3"), Event::Empty, Event::Incomplete(5)];
        assert_eq!(found, expected);
    }
    let mut decoder = Decoder::framed(CAP, framing);
    decoder.push(b"\x02MSH|1");
    assert_eq!(decoder.next_event(), None);
    assert!(decoder.in_frame() && !decoder.awaits_return());
}

/// Time must not grow with the square of a frame's size, however it is cut: byte by byte, and with an end byte before each.
#[test]
fn bytes_that_come_one_by_one_are_looked_at_once() {
    let mut decoder = Decoder::new(16 << 20);
    decoder.push(b"\x0b");
    let started = std::time::Instant::now();
    for _ in 0..1 << 20 {
        decoder.push(b"x");
        assert_eq!(decoder.next_event(), None);
        decoder.push(b"\x1c");
        assert_eq!(decoder.next_event(), None);
    }
    // Some 0.2 s; looking again at what was seen would be 10^12 steps.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert_eq!(decoder.held_bytes(), 2 << 20);
}

#[test]
fn the_room_for_reads_grows_with_the_frame_and_no_further() {
    let mut decoder = Decoder::new(1 << 20);
    decoder.push(b"\x0b");
    let mut most = 0;
    loop {
        let mut space = decoder.space();
        assert!((1..=READ_BYTES).contains(&space.chunk_mut().len()));
        let count = space.chunk_mut().len();
        space.put_bytes(b'x', count);
        most = most.max(decoder.buffer.capacity());
        if let Some(event) = decoder.next_event() {
            assert!(matches!(event, Event::TooLarge { .. }), "{event:?}");
            break;
        }
    }
    assert!(most <= (1 << 20) + READ_BYTES, "{most} bytes for a cap of 1 MiB");
    assert!(decoder.buffer.capacity() <= READ_BYTES, "what was held is given back");
}

/// Bytes in which what matters to MLLP is frequent.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => proptest::collection::vec(prop_oneof![Just(START), Just(END), Just(CR), Just(LF), Just(b' '), any::<u8>()], 0..40),
        2 => proptest::collection::vec(any::<u8>(), 0..300),
        2 => Just(b"\x0bMSH|1\x1c\r".to_vec()),
        1 => Just(b"GET / HTTP/1.1\r\n".to_vec()),
        1 => Just(vec![b'j'; 3000]),
        1 => Just(vec![b' '; 700]),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

fn cut<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*size));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_cut_anywhere_give_the_same_events(bytes in stream(), sizes in proptest::collection::vec(1usize..50, 1..20)) {
        prop_assert_eq!(events(cut(&bytes, &sizes), CAP), whole(&bytes));
    }

    /// The bytes that frame are swapped for others, in the stream and in the decoder: nothing else changes.
    #[test]
    fn other_framing_bytes_do_the_same(bytes in stream(), sizes in proptest::collection::vec(1usize..50, 1..20)) {
        let swap = |bytes: &[u8]| bytes.iter().map(|byte| match *byte {
            START => 0x01, 0x01 => START, END => 0x04, 0x04 => END, other => other,
        }).collect::<Vec<u8>>();
        let framing = Framing::new(&[0x01], &[0x04, CR]).expect("good bytes");
        let swapped = swap(&bytes);
        let found: Vec<Event> = decoded(Decoder::framed(CAP, framing), cut(&swapped, &sizes), CAP).into_iter().map(|event| match event {
            Event::Frame(content) => Event::Frame(swap(&content).into()),
            Event::TooLarge { head } => Event::TooLarge { head: swap(&head).into() },
            other => other,
        }).collect();
        prop_assert_eq!(found, whole(&bytes));
    }

    #[test]
    fn no_byte_is_lost_or_counted_twice(bytes in stream()) {
        let found = whole(&bytes);
        let over = found.iter().any(|event| {
            matches!(event, Event::TooLarge { .. } | Event::TooMuchJunk(_) | Event::WrongProtocol(_))
        });
        let counted: usize = found.iter().map(|event| match event {
            Event::Frame(content) => content.len(),
            Event::Junk(count) | Event::Restarted(count) | Event::Incomplete(count) | Event::TooMuchJunk(count) => *count,
            _ => 0,
        }).sum();
        let framing = bytes.iter().filter(|byte| **byte == START || **byte == END || is_blank(**byte)).count();
        prop_assert!(counted <= bytes.len());
        prop_assert!(over || counted + framing >= bytes.len());
    }

    #[test]
    fn what_is_encoded_decodes(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..CAP), 1..8), size in 1usize..20) {
        let contents: Vec<Vec<u8>> = contents
            .into_iter()
            .map(|content| content.into_iter().map(|byte| if [START, END].contains(&byte) { b'|' } else { byte }).collect())
            .collect();
        let stream: Vec<u8> = contents.iter().flat_map(|content| encode(content).expect("no byte of MLLP in it")).collect();
        let expected: Vec<Event> = contents.iter().map(|content| frame(content)).collect();
        prop_assert_eq!(events(stream.chunks(size), CAP), expected);
    }
}
