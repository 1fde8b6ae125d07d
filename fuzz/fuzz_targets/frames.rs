//! MLLP frames from hostile bytes: the first byte chooses how they are framed and cut, the rest is the stream.

#![no_main]

use labwire::mllp::{Decoder, Event, Framing};
use libfuzzer_sys::fuzz_target;

const CAP: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((how, stream)) = input.split_first() else { return };
    let framings = [(&b"\x0b"[..], &b"\x1c\r"[..]), (b"\x02", b"\x03"), (b"\x01", b"\x04\n"), (b"\x0b", b"\x1c")];
    let (start, end) = framings[usize::from(how & 3)];
    let framing = Framing::new(start, end).expect("good bytes");
    let whole = events(framing, [stream].into_iter());
    let cut = events(framing, stream.chunks(1 + usize::from(how >> 2)));
    assert_eq!(whole, cut, "how a stream is cut changes nothing");
    for event in &whole {
        if let Event::Frame(content) = event {
            assert!(!content.is_empty() && content.len() <= CAP && !content.contains(&framing.start()));
            let again = events(framing, [&framing.encode_rest(content)[..]].into_iter());
            assert!(matches!(&again[..], [Event::Frame(_) | Event::Empty]), "{again:?}");
        }
    }
});

/// The events of a stream, neighbouring junk added up.
fn events<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut decoder = Decoder::framed(CAP, framing);
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(event) = decoder.next_event() {
            add(&mut found, event);
        }
        assert!(decoder.held_bytes() <= CAP + 2 + piece.len());
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
