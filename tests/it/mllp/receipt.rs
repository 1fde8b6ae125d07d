//! The journal comes first: what is answered when, and what when the journal fails or the source stops.

use std::time::Duration;

use labwire::message::{Format, RefKind};

use super::{message, short};
use crate::support::eventually::eventually;
use crate::support::listener::Listener;
use crate::support::mllp_client::{MllpClient, field, frame};

/// Long enough for an acknowledgement that leaves too early to arrive.
const A_MOMENT: Duration = Duration::from_millis(100);

#[test]
fn nothing_is_acknowledged_before_it_is_on_disk() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    listener.journal.hold();
    client.write(&frame(&message("1"))).unwrap();
    listener.arrivals(1);
    assert!(client.is_silent(A_MOMENT));
    listener.journal.release();
    assert_eq!(short(&client.read().unwrap()), "AA/1");
}

#[test]
fn what_is_journaled() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    let raw = message("42");
    let reply = client.send(&raw).unwrap();
    let refused = client.send(b"HELLO").unwrap();
    let [arrival, rejected] = &listener.journal.arrivals()[..] else { panic!("two arrivals") };
    assert_eq!(arrival.body, raw, "the bytes as they came, without the frame");
    assert_eq!(arrival.acknowledgement.as_deref(), Some(reply.as_bytes()));
    assert_eq!((arrival.format, arrival.rejected.as_deref()), (Format::Hl7, None));
    assert_eq!(arrival.origin.source, "mllp");
    assert_eq!(arrival.origin.peer, Some(client.stream().local_addr().unwrap().to_string()));
    assert_eq!(arrival.refs.first(RefKind::ControlId), Some("42"));
    assert_eq!(arrival.refs.first(RefKind::MessageType), Some("ADT^A01"));
    assert_eq!(rejected.body, &b"HELLO"[..]);
    assert_eq!(rejected.acknowledgement.as_deref(), Some(refused.as_bytes()));
    assert!(rejected.rejected.is_some());
    assert!(!refused.contains("HELLO"), "the acknowledgement repeats no content");
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let listener = Listener::start("");
    listener.journal.fail();
    let enhanced = |accept: &str| format!("MSH|^~\\&|A|B|C|D|2026||ORU^R01|9|P|2.5|||{accept}\rPID|1\r").into_bytes();
    let cases: [(&str, Vec<u8>, Option<&str>); 6] = [
        ("original mode", message("9"), Some("AE/9")),
        ("enhanced mode", enhanced("AL|NE"), Some("CR/9")),
        ("accept acknowledgement on error only", enhanced("ER|NE"), Some("CR/9")),
        ("accept acknowledgement on success only", enhanced("SU|NE"), None),
        ("application acknowledgement only", enhanced("NE|AL"), Some("AE/9")),
        ("what would have been rejected anyway", b"HELLO".to_vec(), Some("AE/")),
    ];
    for (name, bytes, expected) in cases {
        let mut client = listener.connect();
        // The second frame is not answered: the connection is closed after the refusal.
        client.write(&[frame(&bytes), frame(&message("next"))].concat()).unwrap();
        if let Some(expected) = expected {
            let reply = client.read().unwrap();
            assert_eq!(short(&reply), expected, "{name}");
            assert!(reply.contains("207"), "{name}: {reply}");
            assert!(!reply.contains("space left"), "{name}: the sender learns nothing of our disk");
        }
        assert!(client.is_closed(), "{name}");
    }
    assert_eq!(listener.counters().received, 0);
}

#[test]
fn enhanced_mode_is_answered_as_asked() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    for (accept, application, taken, rejected) in [
        ("AL", "AL", Some("CA"), Some("CR")),
        ("AL", "NE", Some("CA"), Some("CR")),
        ("ER", "NE", None, Some("CR")),
        ("SU", "NE", Some("CA"), None),
        ("NE", "AL", Some("AA"), Some("AR")),
        ("NE", "NE", None, None),
        ("", "ER", None, Some("AR")),
    ] {
        let header = format!("MSH|^~\\&|A|B|C|D|2026||ORU^R01|9|P|2.5|||{accept}|{application}\r");
        for (content, code) in [(header.clone(), taken), (header.repeat(2), rejected)] {
            // What follows shows that nothing more was said.
            client.write(&[frame(content.as_bytes()), frame(&message("next"))].concat()).unwrap();
            if let Some(code) = code {
                assert_eq!(short(&client.read().unwrap()), format!("{code}/9"), "{accept}/{application}");
            }
            assert_eq!(short(&client.read().unwrap()), "AA/next", "{accept}/{application}");
        }
    }
}

#[test]
fn an_acknowledgement_that_cannot_be_sent_is_counted_and_the_message_kept() {
    let listener = Listener::start("");
    listener.journal.hold();
    let mut client = listener.connect();
    client.write(&frame(&message("1"))).unwrap();
    listener.arrivals(1);
    client.reset();
    listener.journal.release();
    eventually("the lost acknowledgement", || (listener.counters().acknowledgements_lost == 1).then_some(()));
    assert_eq!(listener.counters().received, 1);
    assert_eq!(listener.journal.arrivals().len(), 1);
}

#[test]
fn stopping_answers_what_is_pending_and_refuses_the_rest() {
    let mut listener = Listener::start("");
    let (mut idle, mut partial, mut busy) = (listener.connect(), listener.connect(), listener.connect());
    assert_eq!(short(&idle.send(&message("0")).unwrap()), "AA/0");
    partial.write(&[&frame(&message("0"))[..], b"\x0bMSH|"].concat()).unwrap();
    assert_eq!(short(&partial.read().unwrap()), "AA/0");
    listener.journal.hold();
    busy.write(&[frame(&message("1")), frame(&message("2"))].concat()).unwrap();
    listener.arrivals(3);
    listener.begin_stop();
    // Idle peers are let go at once; nobody new gets in.
    assert!(idle.is_closed() && partial.is_closed());
    eventually("the port to close", || MllpClient::connect(listener.address).is_err().then_some(()));
    assert!(busy.is_silent(A_MOMENT));
    listener.journal.release();
    assert_eq!(short(&busy.read().unwrap()), "AA/1");
    let refusal = busy.read().unwrap();
    assert_eq!(short(&refusal), "AE/2");
    assert!(refusal.contains("207"), "{refusal}");
    assert!(busy.is_closed());
    drop(busy);
    listener.wait_for_end();
    assert_eq!(listener.journal.arrivals().len(), 3, "the refused one is not kept");
    assert_eq!(listener.counters().frames_dropped, 1, "the half frame");
}

#[test]
fn messages_of_one_connection_are_kept_in_order_and_each_has_an_id_of_its_own() {
    let listener = Listener::start("");
    let mut client = listener.connect();
    let ids: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    client.write(&ids.iter().flat_map(|id| frame(&message(id))).collect::<Vec<_>>()).unwrap();
    let mut own_ids = std::collections::BTreeSet::new();
    for id in &ids {
        let reply = client.read().unwrap();
        assert_eq!(short(&reply), format!("AA/{id}"));
        own_ids.insert(field(&reply, "MSH", 10));
    }
    assert_eq!(own_ids.len(), ids.len());
    let arrivals = listener.journal.arrivals();
    assert!(
        arrivals
            .iter()
            .map(|arrival| arrival.refs.first(RefKind::ControlId).unwrap())
            .eq(ids.iter().map(String::as_str))
    );
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.recipients[0].id));
}
