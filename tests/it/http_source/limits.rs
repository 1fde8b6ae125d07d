//! Slow clients, many clients, clients from elsewhere, requests that are none (security A39).

use std::time::{Duration, Instant};

use super::{JSON, counters, rig};
use crate::support::eventually::eventually;
use crate::support::http_client::{HttpClient, post};

#[test]
fn a_client_that_takes_too_long_is_sent_away() {
    let rig = rig("header_timeout = \"400ms\"\nbody_timeout = \"400ms\"");
    let address = rig.listener("orders");
    let soon = |began: Instant| {
        let took = began.elapsed();
        assert!((Duration::from_millis(350)..Duration::from_secs(5)).contains(&took), "{took:?}");
    };
    // A head that drips: each byte does not begin the time anew.
    let (began, mut dripping) = (Instant::now(), HttpClient::connect(address));
    while began.elapsed() < Duration::from_millis(300) {
        dripping.write(b"P");
        std::thread::park_timeout(Duration::from_millis(60));
    }
    assert!(dripping.read().is_none_or(|got| got.status == 408 || got.status == 400));
    assert!(dripping.is_closed());
    soon(began);

    let (began, mut slow) = (Instant::now(), HttpClient::connect(address));
    slow.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
    let got = slow.read().expect("an answer");
    assert_eq!((got.status, got.json()["error"]["code"].as_str()), (408, Some("too_slow")));
    assert!(slow.is_closed());
    soon(began);

    let mut quiet = HttpClient::connect(address);
    assert_eq!(quiet.send("POST", "/", &[JSON], b"{}").status, 202);
    let began = Instant::now();
    assert!(quiet.is_closed(), "between two requests, too");
    soon(began);
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn so_many_connections_and_no_more() {
    let rig = rig("max_connections = 2");
    let address = rig.listener("orders");
    let mut two: Vec<HttpClient> = (0..2).map(|_| HttpClient::connect(address)).collect();
    for client in &mut two {
        assert_eq!(client.send("POST", "/", &[JSON], b"{}").status, 202);
    }
    assert!(HttpClient::connect(address).is_closed());
    assert_eq!(counters(&rig)["connections_refused"], 1);
    two.pop();
    eventually("there is room again", || {
        let mut client = HttpClient::connect(address);
        client.write(&HttpClient::request("POST", "/", &[JSON], b"{}"));
        client.read().filter(|got| got.status == 202).map(drop)
    });
}

#[test]
fn who_comes_from_elsewhere_is_not_let_in() {
    let elsewhere = rig("allow = [\"10.0.0.0/8\"]");
    assert!(HttpClient::connect(elsewhere.listener("orders")).is_closed());
    assert_eq!(counters(&elsewhere)["connections_not_allowed"], 1);
    drop(elsewhere);
    let here = rig("allow = [\"10.0.0.0/8\", \"127.0.0.1\"]");
    assert_eq!(post(here.listener("orders"), "/", &[JSON], "{}").status, 202);
}

#[test]
fn what_is_no_request_is_answered_and_closed() {
    let rig = rig("");
    let address = rig.listener("orders");
    for (bytes, status) in [
        ("\x0bMSH|^~\\&|\x1c\r".to_owned(), 400),
        (format!("POST / HTTP/1.1\r\n{}\r\n", "X-A: b\r\n".repeat(200)), 431),
        (format!("POST / HTTP/1.1\r\nX-A: {}\r\n\r\n", "x".repeat(80 << 10)), 400),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(), 400),
        (format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}", 200_000, "[".repeat(200_000)), 400),
    ] {
        let mut client = HttpClient::connect(address);
        client.write(bytes.as_bytes());
        assert_eq!(client.read().map(|got| got.status), Some(status), "{}", &bytes[..40.min(bytes.len())]);
    }
    let mut client = HttpClient::connect(address);
    client.write(&HttpClient::request("POST", "/", &[JSON], b"{}"));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(
        client.read().map(|got| got.status),
        Some(202),
        "one that closes its side after its request is answered"
    );
}
