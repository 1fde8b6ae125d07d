//! `ack = "transformed"` and `"delivered"` of the `mllp` source: answers that wait for what becomes of a message, and are true.

use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mllp::{message, short};
use crate::support::eventually::eventually;
use crate::support::half_open::Silent;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::mllp_server::MllpServer;
use crate::support::rig::Rig;

fn channel(options: &str, rest: &str) -> String {
    format!("name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{options}\n{rest}\n")
}

fn to(name: &str, address: &str, more: &str) -> String {
    format!("[destination.{name}]\ntype = \"mllp\"\naddress = \"{address}\"\n{more}\n")
}

fn delivered(peer: &MllpServer, options: &str) -> Rig {
    let peer = to("peer", &peer.address().to_string(), "retry = { first = \"100ms\", longest = \"100ms\" }");
    Rig::with(&channel(&format!("ack = \"delivered\"\n{options}"), &peer))
}

fn connect(rig: &Rig) -> MllpClient {
    MllpClient::connect(rig.listener("results")).unwrap()
}

fn counters(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0]["counters"].clone()
}

#[test]
fn transformed_tells_what_the_transformer_made_of_it() {
    let peer = MllpServer::start();
    let steps = "[[transformer]]\nfilter = \"msg['MSH-10'] != 'out'\"\n\
                 [[transformer]]\nwhen = \"msg['MSH-10'] == 'bad'\"\nset = { \"PID-1\" = \"{{ event.no.such }}\" }\n";
    let rest = format!("{steps}{}", to("peer", &peer.address().to_string(), ""));
    for (options, expected) in
        [("ack = \"transformed\"", ["AA/good", "AA/out", "AE/bad"]), ("", ["AA/good", "AA/out", "AA/bad"])]
    {
        let rig = Rig::with(&channel(options, &rest));
        let mut client = connect(&rig);
        let answers = ["good", "out", "bad"].map(|id| client.send(&message(id)).unwrap());
        assert_eq!(answers.each_ref().map(|answer| short(answer)), expected, "{options}");
        if !options.is_empty() {
            let states: Vec<_> = rig.messages("").iter().map(|message| message["state"].clone()).collect();
            assert!(!states.contains(&"received".into()), "each was done with when it was answered: {states:?}");
            assert_eq!(field(&answers[2], "MSA", 3), "message could not be transformed");
        }
        // The same message again, also where it failed: the same answer to the byte, and nothing is done twice.
        let again = ["good", "out", "bad"].map(|id| connect(&rig).send(&message(id)).unwrap());
        assert_eq!(again, answers);
        assert_eq!(rig.messages("").len(), 3);
    }
    eventually("each engine sent one", || (peer.ids() == ["good", "good"]).then_some(()));
}

#[test]
fn delivered_passes_on_what_the_receiver_said() {
    let peer = MllpServer::start();
    let mut rig = delivered(&peer, "");
    let error = "ERR||PID^1^5|101^Required field missing^HL70357|E";
    peer.answer_by(move |id| match id {
        "no" => format!("AR|{{id}}|not ours\r{error}"),
        id => format!("AA|{id}|as {{id}}"),
    });
    let mut client = connect(&rig);
    let sent = client.send(&message("yes")).unwrap();
    assert_eq!((short(&sent), field(&sent, "MSA", 3)), ("AA/yes".into(), "as yes".into()));
    assert_eq!([3, 4, 5, 6].map(|n| field(&sent, "MSH", n)), ["RCV", "RF", "SND", "SF"], "the sender's own header");
    assert_ne!(field(&sent, "MSH", 10), "A", "our own MSH-10, not the receiver's");
    let refused = client.send(&message("no")).unwrap();
    assert_eq!((short(&refused), field(&refused, "MSA", 3)), ("AR/no".into(), "not ours".into()));
    assert!(refused.contains(&format!("\r{error}\r")), "{refused}");

    // Both are asked about again after a restart: the journal knows what was said, to the byte.
    rig.kill();
    rig.start();
    let mut client = connect(&rig);
    assert_eq!(client.send(&message("yes")).unwrap(), sent);
    assert_eq!(client.send(&message("no")).unwrap(), refused);
    assert_eq!(peer.ids(), ["yes", "no"]);

    // Somebody retries the dead letter, and it is taken: the answer changes with what is so.
    let id = rig.messages("&state=dead")[0]["id"].as_str().unwrap().to_owned();
    peer.answer_with("AA");
    let (code, text) = rig.cli(&["messages", "retry", &id, "--why", "they take it now"]);
    assert_eq!(code, 0, "{text}");
    rig.wait_for("sent", 2);
    assert_eq!(short(&client.send(&message("no")).unwrap()), "AA/no");
}

/// MLLP release 2: the frame is answered for when it is on disk, the message when it is delivered.
#[test]
fn delivered_waits_after_the_commit() {
    let peer = MllpServer::start();
    let rig = delivered(&peer, "release = 2\nack_timeout = \"30s\"");
    peer.answer_with("AE");
    let mut client = connect(&rig);
    let read = |client: &mut MllpClient| client.read().unwrap();
    client.write(&frame(&message("1"))).unwrap();
    assert_eq!(read(&mut client), "\x06");
    assert!(client.is_silent(Duration::from_millis(200)), "it is not delivered yet");
    peer.answer_with("AA");
    let answer = read(&mut client);
    assert_eq!(short(&answer), "AA/1");
    client.write(&[frame(b"\x06"), frame(&message("1"))].concat()).unwrap();
    assert_eq!([read(&mut client), read(&mut client)], ["\x06", &answer], "the same again: both again");
}

#[test]
fn delivered_waits_across_retries_but_not_for_ever() {
    let peer = MllpServer::start();
    let rig = delivered(&peer, "ack_timeout = \"700ms\"");
    peer.answer_with("AE");
    let mut client = connect(&rig);
    let began = Instant::now();
    let late = client.send(&message("1")).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(short(&late), "AE/1");
    assert!(field(&late, "MSA", 3).starts_with("message is kept"), "{late}");
    assert!(peer.received().len() > 1, "it was tried more than once meanwhile");
    // The sender sends it again, on another connection; then the receiver relents.
    let mut other = connect(&rig);
    other.write(&frame(&message("1"))).unwrap();
    eventually("the repeat is seen", || (counters(&rig)["repeated"] == 1).then_some(()));
    peer.answer_with("AA");
    let sent = other.read().unwrap();
    assert_eq!(short(&sent), "AA/1");
    assert_ne!(field(&sent, "MSH", 10), field(&late, "MSH", 10), "two answers are two acknowledgements");
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn who_waits_holds_up_nobody_else_and_keeps_the_order_of_its_own() {
    let peer = MllpServer::start();
    let (go, wait) = mpsc::channel::<()>();
    peer.answer_by(move |id| {
        if id == "slow" {
            wait.recv().unwrap();
        }
        "AA".to_owned()
    });
    let steps = "[[transformer]]\nfilter = \"msg['MSH-10'] != 'quick'\"\n";
    let rig =
        Rig::with(&channel("ack = \"delivered\"", &(steps.to_owned() + &to("peer", &peer.address().to_string(), ""))));
    let mut slow = connect(&rig);
    // The second one is filtered: its answer is known long before the first one's, and comes after it all the same.
    slow.write(&[frame(&message("slow")), frame(&message("quick"))].concat()).unwrap();
    rig.wait_for("queued", 1);
    for _ in 0..3 {
        assert_eq!(short(&connect(&rig).send(&message("quick")).unwrap()), "AA/quick");
    }
    assert!(slow.is_silent(Duration::from_millis(100)));
    go.send(()).unwrap();
    assert_eq!(short(&slow.read().unwrap()), "AA/slow");
    assert_eq!(short(&slow.read().unwrap()), "AA/quick");
}

#[test]
fn after_a_crash_while_it_waited_the_sender_gets_a_true_answer() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let peer = to("peer", &address.to_string(), "retry = { first = \"100ms\", longest = \"100ms\" }");
    let mut rig = Rig::with(&channel("ack = \"delivered\"", &peer));
    let mut client = connect(&rig);
    client.write(&frame(&message("1"))).unwrap();
    eventually("it was tried", || (counters(&rig)["retried"].as_u64() > Some(0)).then_some(()));
    rig.kill();
    assert!(client.read().is_err(), "no answer was given");
    rig.start();
    let mut client = connect(&rig);
    client.write(&frame(&message("1"))).unwrap();
    eventually("it is known again", || (counters(&rig)["repeated"] == 1).then_some(()));
    let peer = MllpServer::start_on(&address.to_string());
    assert_eq!(short(&client.read().unwrap()), "AA/1");
    assert_eq!(peer.ids(), ["1"]);
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn the_destination_that_is_named_answers_and_otherwise_the_first() {
    let (one, two) = (MllpServer::start(), MllpServer::start());
    one.answer_by(|_| "AA|{id}|one".to_owned());
    two.answer_by(|_| "AA|{id}|two".to_owned());
    let destinations = to("one", &one.address().to_string(), "when = \"msg['MSH-10'] != 'skip'\"")
        + &to("two", &two.address().to_string(), "");
    for (from, expected) in [("", "one"), ("ack_from = \"one\"", "one"), ("ack_from = \"two\"", "two")] {
        let rig = Rig::with(&channel(&format!("ack = \"delivered\"\n{from}"), &destinations));
        let mut client = connect(&rig);
        assert_eq!(field(&client.send(&message("1")).unwrap(), "MSA", 3), expected, "{from}");
        // Its `when` holds this one back: that is no error.
        let skipped = client.send(&message("skip")).unwrap();
        assert_eq!((short(&skipped).as_str(), field(&skipped, "MSA", 3) == "two"), ("AA/skip", expected == "two"));
    }
}

#[test]
fn what_nobody_waits_for_is_answered_as_before() {
    // A receiver that never answers: whoever waits would wait for 30 seconds.
    let silent = Silent::listen();
    let rig = Rig::with(&channel("ack = \"delivered\"", &to("peer", &silent.address.to_string(), "")));
    let mut client = connect(&rig);
    assert!(short(&client.send(b"HELLO").unwrap()).starts_with("AR"), "what cannot be processed is known at once");
    let never = b"MSH|^~\\&|S|SF|R|RF|2026||ADT^A01|never|P|2.5|||NE|NE\r";
    client.write(&frame(never)).unwrap();
    rig.wait_for("queued", 1);
    assert!(short(&client.send(b"HELLO AGAIN").unwrap()).starts_with("AR"), "nothing was to be said of the one before");
}

#[test]
fn a_stop_does_not_wait_for_the_delivery() {
    let silent = Silent::listen();
    let mut rig = Rig::with(&channel("ack = \"delivered\"", &to("peer", &silent.address.to_string(), "")));
    let mut client = connect(&rig);
    client.write(&frame(&message("1"))).unwrap();
    rig.wait_for("queued", 1);
    let began = Instant::now();
    let ended = rig.terminate();
    assert!(ended.success() && began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(short(&client.read().unwrap()), "AE/1", "the sender is told to send it again");
}

/// A wake-up that is lost would cost its sender thirty seconds.
#[test]
fn many_wait_at_once_and_none_is_forgotten() {
    let peer = MllpServer::start();
    let rest = to("peer", &peer.address().to_string(), "order_by = \"msg['MSH-10']\"\nparallel = 8");
    for ack in ["transformed", "delivered"] {
        let rig = Rig::with(&channel(&format!("ack = \"{ack}\""), &rest));
        let began = Instant::now();
        std::thread::scope(|scope| {
            for sender in 0..8 {
                let mut client = connect(&rig);
                scope.spawn(move || {
                    for number in 0..50 {
                        let id = format!("{sender}-{number}");
                        assert_eq!(short(&client.send(&message(&id)).unwrap()), format!("AA/{id}"));
                    }
                });
            }
        });
        assert!(began.elapsed() < Duration::from_secs(25), "{ack}: {:?}", began.elapsed());
        println!("{ack}: 400 answers in {:?}", began.elapsed());
        let states = rig.messages("").into_iter().filter(|message| message["state"] == "sent").count();
        assert!(ack == "transformed" || states == 400, "each was delivered when it was answered: {states}");
    }
}
