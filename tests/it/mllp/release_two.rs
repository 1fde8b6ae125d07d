//! MLLP release 2: a commit acknowledgement for each frame, before HL7's.

use std::time::Duration;

use super::{message, short};
use crate::support::eventually::eventually;
use crate::support::listener::Listener;
use crate::support::mllp_client::frame;

const ACK: &str = "\x06";
const NAK: &str = "\x15";
const A_MOMENT: Duration = Duration::from_millis(100);

#[test]
fn the_commit_comes_when_it_is_on_disk_and_then_the_acknowledgement() {
    let listener = Listener::start("release = 2");
    let mut client = listener.connect();
    listener.journal.hold();
    client.write(&frame(&message("1"))).unwrap();
    listener.arrivals(1);
    assert!(client.is_silent(A_MOMENT));
    listener.journal.release();
    assert_eq!(client.read().unwrap(), ACK);
    let first = client.read().unwrap();
    assert_eq!(short(&first), "AA/1");
    client.write(&frame(b"\x06")).unwrap();
    // The same again: both answers again.
    client.write(&frame(&message("1"))).unwrap();
    assert_eq!([client.read().unwrap(), client.read().unwrap()], [ACK, &first]);
    // What cannot be processed is on disk all the same, and who wants no acknowledgement of HL7 gets none.
    client.write(&[frame(b"HELLO"), frame(b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|2|P|2.5|||NE|NE\r")].concat()).unwrap();
    assert_eq!(client.read().unwrap(), ACK);
    assert_eq!(short(&client.read().unwrap()), "AR/");
    assert_eq!(client.read().unwrap(), ACK);
    assert!(client.is_silent(A_MOMENT));
    assert_eq!(listener.counters().repeated, 1);
}

#[test]
fn an_acknowledgement_that_the_peer_refuses_is_sent_again_twice() {
    let listener = Listener::start("release = 2");
    let mut client = listener.connect();
    client.write(&frame(&message("1"))).unwrap();
    assert_eq!(client.read().unwrap(), ACK);
    let first = client.read().unwrap();
    for _ in 0..2 {
        client.write(&frame(b"\x15")).unwrap();
        assert_eq!(client.read().unwrap(), first);
    }
    client.write(&frame(b"\x15")).unwrap();
    eventually("it is given up", || (listener.counters().acknowledgements_lost == 1).then_some(()));
    // Of nothing.
    client.write(&frame(b"\x15")).unwrap();
    client.write(&frame(&message("2"))).unwrap();
    assert_eq!(client.read().unwrap(), ACK);
    assert_eq!(short(&client.read().unwrap()), "AA/2");
}

#[test]
fn what_is_not_on_disk_is_answered_by_nak() {
    let listener = Listener::start("release = 2\nmax_frame = \"1KiB\"");
    let mut client = listener.connect();
    client.write(&frame(&vec![b'x'; 2000])).unwrap();
    assert_eq!(client.read().unwrap(), NAK);
    assert!(client.is_closed());
    listener.journal.fail();
    let mut client = listener.connect();
    client.write(&frame(&message("1"))).unwrap();
    assert_eq!(client.read().unwrap(), NAK);
    assert!(client.is_silent(A_MOMENT) || client.has_ended(), "and by nothing else");
    assert_eq!(listener.counters().received, 0);
}
