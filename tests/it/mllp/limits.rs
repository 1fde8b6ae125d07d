//! Every limit, at the limit and one beyond.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use super::{message, short};
use crate::support::eventually::eventually;
use crate::support::listener::Listener;
use crate::support::mllp_client::frame;

/// A message of exactly so many bytes.
fn message_of(bytes: usize) -> Vec<u8> {
    let mut message = message("1");
    message.resize(bytes, b'x');
    message
}

#[test]
fn a_frame_at_the_cap_is_taken_and_one_byte_more_is_refused() {
    let listener = Listener::start("max_frame = \"1KiB\"");
    assert_eq!(short(&listener.connect().send(&message_of(1024)).unwrap()), "AA/1");
    let mut client = listener.connect();
    client.write(&frame(&message_of(1025))).unwrap();
    let refusal = client.read().unwrap();
    assert_eq!(short(&refusal), "AR/1");
    assert!(refusal.contains("207") && refusal.contains("larger than 1024 bytes"), "{refusal}");
    assert!(client.is_closed());
    // Without an MSH there is nobody to answer.
    let mut client = listener.connect();
    client.write(&frame(&[b'x'; 1025])).unwrap();
    assert!(client.is_closed());
    assert_eq!(listener.journal.arrivals().len(), 1);
    assert_eq!(listener.counters().frames_dropped, 2);
}

/// The refusal arrives although the sender is not done, and the sender is not listened to for ever.
#[test]
fn the_default_cap_is_16_mib_and_a_sender_in_full_flow_still_gets_its_answer() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    assert_eq!(short(&client.send(&message_of(16 << 20)).unwrap()), "AA/1");
    client.write(&frame(&message_of(20 << 20))).unwrap();
    assert_eq!(short(&client.read().unwrap()), "AR/1");
    assert!(client.is_closed(), "closed, not reset: a reset may take the answer with it");
}

#[test]
fn the_connection_over_the_cap_is_refused_and_counted() {
    let listener = Listener::start("");
    let mut clients: Vec<_> = (0..256).map(|_| listener.connect()).collect();
    for client in &mut clients {
        assert_eq!(short(&client.send(&message("1")).unwrap()), "AA/1");
    }
    assert_eq!(listener.counters().connections_refused, 0);
    assert!(listener.connect().is_closed(), "the 257th");
    assert_eq!(listener.counters().connections_refused, 1);
    clients.pop();
    eventually("a free place", || listener.connect().send(&message("2")).ok());
    assert_eq!(short(&clients[0].send(&message("3")).unwrap()), "AA/3", "the others go on");
}

#[test]
fn junk_at_the_cap_is_skipped_and_one_byte_more_ends_the_connection() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    client.write(&[b'j'; 4096]).unwrap();
    assert_eq!(short(&client.send(&message("1")).unwrap()), "AA/1");
    // A new gap, a new allowance.
    client.write(&[b'j'; 4096]).unwrap();
    assert_eq!(short(&client.send(&message("2")).unwrap()), "AA/2");
    client.write(&[b'j'; 4097]).unwrap();
    assert!(client.is_closed());
    assert_eq!(listener.counters().junk_bytes, 4096 + 4096 + 4097);
}

#[test]
fn silence_within_a_frame_ends_the_connection() {
    let listener = Listener::start("byte_timeout = \"100ms\"");
    // An end byte alone is no end of a frame: it might be content.
    for (dropped, unfinished) in (1..).zip([&b"\x0b"[..], b"\x0bMSH|^~", b"\x0bMSH|^~\\&|A\r\x1c"]) {
        let mut client = listener.connect();
        assert_eq!(short(&client.send(&message("1")).unwrap()), "AA/1");
        client.write(unfinished).unwrap();
        assert!(client.is_closed());
        eventually("the dropped frame", || (listener.counters().frames_dropped == dropped).then_some(()));
    }
    assert_eq!(listener.journal.arrivals().len(), 3, "nothing of the unfinished frames");
    assert_eq!(short(&listener.connect().send(&message("2")).unwrap()), "AA/2");
}

#[test]
fn a_frame_that_trickles_ends_the_connection() {
    let listener = Listener::start("byte_timeout = \"10s\"\nframe_timeout = \"300ms\"");
    let mut client = listener.connect();
    let started = Instant::now();
    client.write(b"\x0b").unwrap();
    // Each byte comes in time, but there is no end of them.
    let closed =
        eventually("the close", || (client.write(b"x").is_err() || client.has_ended()).then(|| started.elapsed()));
    assert!(closed >= Duration::from_millis(300), "{closed:?}");
    eventually("the dropped frame", || (listener.counters().frames_dropped == 1).then_some(()));
}

#[test]
fn the_clock_of_a_frame_does_not_run_between_frames_nor_while_the_journal_works() {
    let listener = Listener::start("byte_timeout = \"500ms\"\nframe_timeout = \"700ms\"");
    let mut client = listener.connect();
    assert!(client.is_silent(Duration::from_millis(900)), "a quiet connection stays open");
    listener.journal.hold();
    let (first, second) = (frame(&message("1")), frame(&message("2")));
    client.write(&first[..20]).unwrap();
    assert!(client.is_silent(Duration::from_millis(250)), "the first frame has begun");
    client.write(&[&first[20..], &second[..20]].concat()).unwrap();
    listener.arrivals(1);
    assert!(client.is_silent(Duration::from_millis(900)), "the journal takes its time");
    listener.journal.release();
    assert_eq!(short(&client.read().unwrap()), "AA/1");
    client.write(&second[20..]).unwrap();
    assert_eq!(short(&client.read().unwrap()), "AA/2");
}

#[test]
fn a_quiet_connection_is_closed_only_where_that_is_asked_for() {
    let listener = Listener::start("idle_timeout = \"500ms\"");
    let mut client = listener.connect();
    assert_eq!(short(&client.send(&message("1")).unwrap()), "AA/1");
    assert!(client.is_closed());
    assert!(listener.connect().is_closed(), "also before the first message");
    assert_eq!(listener.counters().frames_dropped, 0);
}

#[test]
fn a_peer_that_sends_and_never_reads_holds_up_nobody_and_no_stop() {
    let mut listener = Listener::start("");
    let deaf = listener.connect();
    deaf.stream().set_nonblocking(true).unwrap();
    // Until both directions are full: its messages, and the acknowledgements that it does not take.
    let frames = frame(&message("1")).repeat(1000);
    let full = || deaf.stream().write(&frames).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    eventually("full buffers", || full().then_some(()));
    assert_eq!(short(&listener.connect().send(&message("2")).unwrap()), "AA/2");
    let started = Instant::now();
    listener.begin_stop();
    listener.wait_for_end();
    assert!(started.elapsed() < Duration::from_secs(8), "the engine must stop within 10 s: {:?}", started.elapsed());
}
