//! Hostile bytes for what reads them (A12): some seconds of it in every run, `LABWIRE_FUZZ_SECONDS=600` for more. With coverage as a
//! guide the same is done by `fuzz/`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use labwire::hl7::{Ack, AckCode, AckReply, Charset, Header, Limits, Message, batch};
use labwire::mllp::{Decoder, Event, Framing};

use crate::support::root;

/// No input of at most some kilobytes may take longer.
const LONGEST: Duration = Duration::from_secs(2);

fn seconds() -> u64 {
    std::env::var("LABWIRE_FUZZ_SECONDS").map_or(2, |text| text.parse().expect("a number of seconds"))
}

/// Bytes that mean something to what is under test.
const TOKENS: &[&[u8]] = &[
    b"\x0b",
    b"\x1c",
    b"\r",
    b"\n",
    b"\x1c\r",
    b"\x02",
    b"\x03",
    b"|",
    b"^",
    b"~",
    b"\\",
    b"&",
    b"MSH|^~\\&|",
    b"\rMSH",
    b"\rPID|",
    b"\\X0D\\",
    b"\\F\\",
    b"\\.br\\",
    b"8859/1",
    b"UNICODE UTF-8",
    b"~ISO IR87",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"\xe9",
    b"BHS|",
    b"FTS|",
    b"GET ",
    b"\x16\x03",
    b"\x1b$B",
    b"\x8f\xa2",
    b"\xa1",
];

/// Seeds, mutated; the same in every run.
struct Inputs {
    random: fastrand::Rng,
    seeds: Vec<Vec<u8>>,
}

impl Inputs {
    fn new(seed: u64) -> Inputs {
        let mut seeds = vec![Vec::new()];
        for entry in std::fs::read_dir(root().join("fixtures/hl7")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            seeds.push([&b"\x0b"[..], &bytes, b"\x1c\r"].concat());
            seeds.push(bytes);
        }
        Inputs { random: fastrand::Rng::with_seed(seed), seeds }
    }

    fn next(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut bytes = random.choice(&self.seeds).unwrap().clone();
        bytes.truncate(4096);
        for _ in 0..random.usize(1..12) {
            let at = random.usize(0..=bytes.len());
            let end = (at + random.usize(0..40)).min(bytes.len());
            match random.u8(0..6) {
                0 => drop(bytes.splice(at..at, random.choice(TOKENS).unwrap().iter().copied())),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                3 if at < bytes.len() => bytes[at] = random.u8(..),
                4 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
                _ => {
                    let other = random.choice(&self.seeds).unwrap();
                    let from = random.usize(0..=other.len());
                    bytes.extend_from_slice(&other[from..(from + 200).min(other.len())]);
                }
            }
        }
        bytes
    }
}

/// Feeds inputs for as long as is asked; a panic names its input, as does one that takes too long.
fn feed(name: &str, seed: u64, mut read: impl FnMut(&[u8], &mut fastrand::Rng)) {
    let mut inputs = Inputs::new(seed);
    let mut choices = fastrand::Rng::with_seed(seed);
    let until = Instant::now() + Duration::from_secs(seconds());
    let (mut count, mut slowest) = (0u64, Duration::ZERO);
    while Instant::now() < until {
        let input = inputs.next();
        let began = Instant::now();
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&input, &mut choices)));
        assert!(survived.is_ok(), "{name}: a panic at {}", input.escape_ascii());
        slowest = slowest.max(began.elapsed());
        assert!(slowest < LONGEST, "{name}: {slowest:?} for {}", input.escape_ascii());
        count += 1;
    }
    println!("{name}: {count} inputs in {} s, the slowest took {slowest:?}", seconds());
    assert!(count > 100, "{count}");
}

fn events(framing: Framing, pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Bytes>, usize) {
    const CAP: usize = 2048;
    let (mut decoder, mut frames, mut junk) = (Decoder::framed(CAP, framing), Vec::new(), 0);
    let mut take = |event| match event {
        Event::Frame(content) => frames.push(content),
        Event::Junk(count) | Event::TooMuchJunk(count) => junk += count,
        _ => {}
    };
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.next_event() {
            take(event);
        }
        assert!(decoder.held_bytes() <= CAP + 2 + piece.len());
    }
    if let Some(event) = decoder.finish() {
        take(event);
    }
    (frames, junk)
}

#[test]
fn a12_hostile_bytes_for_the_frame_decoder() {
    let framings =
        [Framing::default(), Framing::new(b"\x02", b"\x03").unwrap(), Framing::new(b"\x0b", b"\x1c").unwrap()];
    feed("frames", 1, |input, choices| {
        let framing = *choices.choice(&framings).unwrap();
        let whole = events(framing, &mut [input].into_iter());
        let cut = events(framing, &mut input.chunks(choices.usize(1..64)));
        assert_eq!(whole, cut, "how a stream is cut changes nothing");
    });
}

#[test]
fn a12_hostile_bytes_for_the_hl7_parser() {
    feed("hl7", 2, |input, _| {
        let header = Header::scan(input);
        let ack = Ack { code: AckCode::AR, control_id: "1", timestamp: "2026", text: Some("no"), error: Some(207) };
        assert!(AckReply::parse(&ack.build(header.as_ref())).is_ok());
        let _ = batch::split(input);
        let Ok(mut message) = Message::parse(input.to_vec(), &Limits::default()) else { return };
        assert_eq!(message.to_bytes(), input);
        for path in ["PID-5.1", "MSH-18", "OBX[2]-5[3].2.1", "ZZZ-9"] {
            let path = path.parse().unwrap();
            let _ = (message.text(&path), message.raw(&path), message.repetitions(&path));
            if message.set(&path, "A|B^\u{e9}\r").is_ok() {
                assert!(Message::parse(message.to_bytes(), &Limits::default()).is_ok());
            }
        }
        let _ = message.transcode(Charset::UTF_8);
    });
}

#[test]
fn a12_hostile_bytes_for_the_charset_decoders() {
    let sets = [
        "ASCII",
        "8859/1",
        "8859/2",
        "8859/9",
        "8859/15",
        "windows-1252",
        "UNICODE UTF-8",
        "KS X 1001",
        "EUC-JP",
        "ISO IR87",
        "GB 18030-2000",
        "BIG-5",
    ];
    feed("charsets", 3, |input, choices| {
        let charset = Charset::named(choices.choice(sets).unwrap()).expect("a set");
        let _ = Charset::detect(input, Header::scan(input).as_ref(), Some("8859/2"));
        let Ok(text) = charset.decode(input) else { return };
        // Whatever can be read is written back to what reads the same.
        if let Ok(again) = charset.encode(&text) {
            assert_eq!(charset.decode(&again).as_deref(), Ok(&*text), "{charset}");
        }
    });
}
