//! What is taken, what is not, and what comes again.

use serde_json::json;

use super::{JSON, channel, counters, rig};
use crate::support::eventually::eventually;
use crate::support::http_client::{HttpClient, post};
use crate::support::rig::Rig;

const ORDER: &str = r#"{ "order": { "number": "A-1" } }"#;
const HL7: &str = "MSH|^~\\&|APP|WEB|LIS|LAB|2026||ORM^O01|k1|P|2.5\rPID|1||77^^^H^MR\rORC|NW|A-7\r";

#[test]
fn what_is_posted_is_on_disk_when_it_is_answered() {
    let mut rig = rig("path = \"/orders\"");
    let address = rig.listener("orders");
    let mut client = HttpClient::connect(address);
    let first = client.send("POST", "/orders?from=web", &[JSON], ORDER.as_bytes());
    let second = client.send("POST", "/orders", &[], b"[1]");
    rig.kill();
    rig.start();
    assert_eq!((first.status, first.header("content-type")), (202, Some("application/json")));
    assert_eq!(first.json()["state"], "received");
    let messages = rig.wait_for("sent", 2);
    assert_eq!((&messages[0]["id"], &messages[1]["id"]), (&second.json()["id"], &first.json()["id"]));
    let story = rig.story(first.json()["id"].as_str().unwrap());
    assert_eq!(story["body"]["text"], ORDER, "{story}");
    assert!(story["origin"]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{story}");
    let sent = std::fs::read_to_string(rig.path().join("out").join(messages[1]["id"].as_str().unwrap())).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sent).unwrap(), json!({ "order": { "number": "A-1" } }));
}

#[test]
fn what_is_not_taken_and_why() {
    let rig =
        rig("path = \"/orders\"\nmethod = \"PUT\"\nmax_body = \"100B\"\ncontent_types = [\"application/x-ours\"]");
    let address = rig.listener("orders");
    let put = |path: &str, headers: &[(&str, &str)], body: &str| {
        HttpClient::connect(address).send("PUT", path, headers, body.as_bytes())
    };
    let kind = |kind: &'static str| [("Content-Type", kind)];
    for (headers, status) in [
        (&[][..], 202),
        (&kind("application/json")[..], 202),
        (&kind("application/problem+json; charset=UTF-8")[..], 202),
        (&kind("application/x-ours")[..], 202),
        (&kind("application/json; charset=latin1")[..], 415),
        (&kind("text/plain")[..], 415),
        (&kind("application/x-www-form-urlencoded")[..], 415),
        (&[JSON, ("Content-Encoding", "gzip")][..], 415),
        (&[JSON, ("Content-Encoding", "identity")][..], 202),
        (&[JSON, ("Idempotency-Key", "with blanks")][..], 400),
        (&[JSON, ("webhook-id", "")][..], 400),
    ] {
        let got = put("/orders", headers, "{}");
        assert_eq!(got.status, status, "{headers:?}: {got:?}");
    }
    assert_eq!(put("/orders/", &[JSON], "{}").status, 404);
    let got = post(address, "/orders", &[JSON], "{}");
    assert_eq!((got.status, got.header("allow")), (405, Some("PUT")));

    let fits = format!("\"{}\"", "x".repeat(98));
    assert_eq!(put("/orders", &[JSON], &fits).status, 202);
    let got = put("/orders", &[JSON], &(fits.clone() + " "));
    assert_eq!((got.status, got.json()["error"]["code"].as_str()), (413, Some("too_large")));
    let mut chunked = HttpClient::connect(address);
    let head = "PUT /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked.write(format!("{head}64\r\n{fits}\r\n1\r\n \r\n0\r\n\r\n").as_bytes());
    assert_eq!(chunked.read().unwrap().status, 413);
    assert!(chunked.is_closed(), "what is left of it is not read");

    let kept = rig.messages("").len();
    let got = put("/orders", &[JSON], "{\n  no JSON");
    assert_eq!((got.status, &got.json()["state"]), (400, &json!("rejected")));
    assert!(got.body.contains("line 2, column"), "{got:?}");
    let rejected = rig.wait_for("rejected", 1);
    assert_eq!(rejected[0]["id"], got.json()["id"], "it is kept, and can be seen");
    assert_eq!(rig.messages("").len(), kept + 1);
    let counters = counters(&rig);
    assert_eq!((&counters["rejected"], counters["requests_refused"].as_u64()), (&json!(1), Some(8)), "{counters}");
}

#[test]
fn hl7_and_text_are_read_as_such() {
    let rig = rig("format = \"hl7\"");
    let address = rig.listener("orders");
    for kind in ["application/hl7-v2", "x-application/hl7-v2+er7", "application/hl7-v2; charset=8859-1", "text/plain"] {
        assert_eq!(post(address, "/", &[("Content-Type", kind)], HL7).status, 202, "{kind}");
    }
    assert_eq!(post(address, "/", &[JSON], HL7).status, 415);
    assert_eq!(post(address, "/", &[], "{}").status, 400);
    let found = rig.messages("&order=A-7");
    assert_eq!(found.len(), 1, "found by its order, and four times the same message is one");
    assert_eq!(found[0]["format"], "hl7");
    drop(rig);

    let rig = self::rig("format = \"text\"");
    let address = rig.listener("orders");
    assert_eq!(post(address, "/", &[("Content-Type", "text/csv")], "a;b").status, 202);
    assert_eq!(post(address, "/", &[], b"\xff").status, 400);
    drop(rig);

    // A format that has more to say.
    let batch = format!("BHS|^~\\&|A\r{HL7}");
    for (format, body, status) in [
        ("\"hl7\"", &*batch, 400),
        ("{ type = \"hl7\", trailers = \"optional\" }", &batch, 202),
        ("\"csv\"", "id;n\r\n1,5;2\r\n", 400),
        ("{ type = \"csv\", delimiter = \";\" }", "id;n\r\n1,5;2\r\n", 202),
    ] {
        let rig = self::rig(&format!("format = {format}"));
        assert_eq!(post(rig.listener("orders"), "/", &[], body).status, status, "{format}");
    }
}

#[test]
fn the_same_request_again_gets_the_same_answer() {
    let mut rig = rig("");
    let send = |rig: &Rig, headers: &[(&str, &str)], body: &str| post(rig.listener("orders"), "/", headers, body);
    let key = [JSON, ("Idempotency-Key", "k-1")];
    let first = send(&rig, &key, ORDER);
    assert_eq!(send(&rig, &key, ORDER), first);
    assert_eq!(send(&rig, &[JSON, ("webhook-id", "k-1")], ORDER), first, "either of the two names it");
    rig.kill();
    rig.start();
    assert_eq!(send(&rig, &key, ORDER), first, "also after a restart");
    let other = send(&rig, &key, "{}");
    assert_eq!((other.status, other.json()["error"]["code"].as_str()), (422, Some("key_reused")));
    assert_eq!(rig.messages("").len(), 1);
    assert_eq!(rig.messages("")[0]["origin"]["event_id"], "k-1");
    // Without a key each is a new one.
    assert_ne!(send(&rig, &[JSON], ORDER).json()["id"], send(&rig, &[JSON], ORDER).json()["id"]);
    assert_eq!(rig.messages("").len(), 3);

    let off = self::rig("duplicate_window = \"off\"");
    assert_ne!(send(&off, &key, ORDER), send(&off, &key, ORDER));
}

#[test]
fn while_there_is_no_room_clients_are_told_to_come_back() {
    let mut rig = Rig::new();
    rig.write("channels/orders.toml", channel("orders", "127.0.0.1:0", ""));
    rig.arguments = vec!["--disk-reserve", "100%"];
    rig.start();
    let got = post(rig.listener("orders"), "/", &[JSON], "{}");
    assert_eq!((got.status, got.header("retry-after")), (503, Some("10")));
    assert_eq!(got.json()["error"]["code"], "disk_full");
}

#[test]
fn a_client_that_goes_away_after_its_request_loses_nothing() {
    let rig = rig("ack = \"transformed\"");
    for _ in 0..20 {
        let mut client = HttpClient::connect(rig.listener("orders"));
        client.write(&HttpClient::request("POST", "/", &[JSON], b"{}"));
        drop(client);
    }
    eventually("all that was read is sent", || {
        let messages = rig.messages("");
        let received = counters(&rig)["received"].as_u64().unwrap();
        (received > 0 && messages.iter().all(|message| message["state"] == "sent")).then_some(())
    });
}
