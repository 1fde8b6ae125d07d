//! Answers that wait for what becomes of a message, and answers as the channel file words them.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{JSON, rig};
use crate::support::http_client::{HttpClient, post};
use crate::support::http_server::{HttpServer, Reply, answer};
use crate::support::rig::Rig;

/// A channel that passes posts on to a server.
fn relay(server: &HttpServer, source: &str, steps: &str) -> Rig {
    Rig::with(&format!(
        "name = \"orders\"\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\n{source}\n{steps}\n\
         [destination.lis]\ntype = \"http\"\nurl = \"{}\"\nnetworks = [\"127.0.0.0/8\"]\n\
         retry = {{ first = \"50ms\", longest = \"50ms\" }}\non_poison = \"dead_letter\"\n",
        server.url("/")
    ))
}

/// A server that answers as the posted content asks it to.
fn obedient() -> HttpServer {
    HttpServer::start(|seen| {
        let asked = String::from_utf8_lossy(&seen.body).into_owned();
        match asked.as_str() {
            refuse if refuse.contains("refuse") => {
                answer("422 No", "Content-Type: application/problem+json\r\n", r#"{"why":"\"so\""}"#)
            }
            "\"busy\"" => answer("503 Busy", "", ""),
            _ => answer("201 Created", "Content-Type: text/x-made\r\n", "made"),
        }
    })
}

const FILTER: &str = "[[transformer]]\nfilter = \"msg['/0'] != 'skip'\"\n\
    [[transformer]]\nwhen = \"msg['/0'] == 'bad'\"\nset = { \"/x\" = \"{{ event.no.such }}\" }\n";

#[test]
fn transformed_and_delivered_tell_what_became_of_it() {
    let server = obedient();
    for (ack, expected) in [
        ("", [(202, "received"), (202, "received"), (202, "received"), (202, "received")]),
        ("ack = \"transformed\"", [(200, "transformed"), (200, "filtered"), (422, "errored"), (200, "transformed")]),
        ("ack = \"delivered\"", [(200, "sent"), (200, "filtered"), (422, "errored"), (502, "dead")]),
    ] {
        let rig = relay(&server, ack, FILTER);
        let send =
            |body: &str| post(rig.listener("orders"), "/", &[JSON, ("Idempotency-Key", body)], format!("[\"{body}\"]"));
        let got = ["fine", "skip", "bad", "refuse"].map(send);
        let found = got.each_ref().map(|got| (got.status, got.json()["state"].as_str().unwrap().to_owned()));
        assert_eq!(found, expected.map(|(status, state)| (status, state.to_owned())), "{ack}");
        assert_eq!(["fine", "skip", "bad", "refuse"].map(send), got, "asked again: the same answers");
        assert_eq!(rig.messages("").len(), 4);
    }
}

#[test]
fn what_the_destination_answered_is_passed_on_as_far_as_the_file_says() {
    let server = obedient();
    for (pass_on, fine, refused) in [
        ("", (200, None), (502, None)),
        ("pass_on = [\"status\"]", (201, None), (422, None)),
        (
            "pass_on = [\"body\"]",
            (200, Some(("text/x-made", "made"))),
            (502, Some(("application/problem+json", r#"{"why":"\"so\""}"#))),
        ),
        (
            "pass_on = [\"status\", \"body\"]",
            (201, Some(("text/x-made", "made"))),
            (422, Some(("application/problem+json", r#"{"why":"\"so\""}"#))),
        ),
    ] {
        let mut rig = relay(&server, &format!("ack = \"delivered\"\n{pass_on}"), "");
        let send = |rig: &Rig, body: &str| {
            post(rig.listener("orders"), "/", &[JSON, ("Idempotency-Key", body)], format!("\"{body}\""))
        };
        let got = [send(&rig, "fine"), send(&rig, "refuse")];
        for (got, (status, content)) in got.iter().zip([fine, refused]) {
            assert_eq!(got.status, status, "{pass_on}: {got:?}");
            match content {
                Some((kind, body)) => assert_eq!((got.header("content-type"), got.body.as_str()), (Some(kind), body)),
                None => assert_eq!(got.header("content-type"), Some("application/json"), "{pass_on}: {got:?}"),
            }
        }
        rig.kill();
        rig.start();
        assert_eq!([send(&rig, "fine"), send(&rig, "refuse")], got, "{pass_on}: also after a restart");
    }
    assert_eq!(server.seen().len(), 8, "each was sent once");
}

#[test]
fn the_destination_that_is_named_counts() {
    let server = obedient();
    let to = |name: &str, status: &str| {
        format!(
            "[destination.{name}]\ntype = \"http\"\nurl = \"{}\"\nnetworks = [\"127.0.0.0/8\"]\n\
             responses = [{{ status = 201, then = \"{status}\" }}]\n",
            server.url("/")
        )
    };
    for (from, expected) in [("", 200), ("ack_from = \"one\"", 200), ("ack_from = \"two\"", 502)] {
        let source = format!("type = \"http\"\nlisten = \"127.0.0.1:0\"\nack = \"delivered\"\n{from}\n");
        let rig =
            Rig::with(&format!("name = \"orders\"\n[source]\n{source}{}{}", to("one", "sent"), to("two", "dead")));
        assert_eq!(post(rig.listener("orders"), "/", &[JSON], "1").status, expected, "{from}");
    }
}

#[test]
fn who_waited_long_enough_is_told_that_the_message_is_safe() {
    let (go, wait) = mpsc::channel::<()>();
    let server = HttpServer::start(move |_| {
        wait.recv().unwrap();
        answer("200 OK", "", "late")
    });
    let rig = relay(&server, "ack = \"delivered\"\nack_timeout = \"300ms\"\npass_on = [\"body\"]", "");
    let key = [JSON, ("Idempotency-Key", "k")];
    let began = Instant::now();
    let late = post(rig.listener("orders"), "/", &key, "1");
    assert_eq!((late.status, late.json()["state"].as_str()), (202, Some("pending")));
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    go.send(()).unwrap();
    rig.wait_for("sent", 1);
    assert_eq!(post(rig.listener("orders"), "/", &key, "1").body, "late");
    assert_eq!(rig.messages("").len(), 1);
}

#[test]
fn answers_say_what_the_file_says() {
    let server = obedient();
    let answers = r#"
[source.answers.taken]
status       = 299
headers      = { "X-Id" = "{{ meta.id }}", "X-State" = "{{ answer.state }}" }
content_type = "application/xml"
body         = "<a said='{{ answer.body }}' n='{{ answer.status }}'>{{ msg.text }}</a>"
[source.answers.late]
status = 504
[source.answers.failed]
status = 409
body   = '{ "text": {{ msg.text }}, "why": {{ answer.json.why }} }'
"#;
    let rig = relay(&server, &format!("ack = \"delivered\"\nack_timeout = \"300ms\"\n{answers}"), "");
    let send = |body: serde_json::Value| post(rig.listener("orders"), "/", &[JSON], body.to_string());
    let taken = send(json!({ "text": "<&>" }));
    assert_eq!((taken.status, taken.header("x-state")), (299, Some("sent")));
    assert_eq!(taken.header("x-id"), rig.messages("")[0]["id"].as_str());
    assert_eq!(taken.header("content-type"), Some("application/xml"));
    assert_eq!(taken.body, "<a said='made' n='201'>&lt;&amp;&gt;</a>", "escaped for what it is put into");
    let failed = send(json!({ "text": "refuse" }));
    assert_eq!((failed.status, failed.json()), (409, json!({ "text": "refuse", "why": "\"so\"" })), "{failed:?}");
    // This one has no `text`, so that the template fails: the usual answer is due then, and the log says why.
    let failed = send(json!("refuse"));
    assert_eq!((failed.status, failed.json()["state"].as_str()), (502, Some("dead")), "{failed:?}");
    assert!(rig.log().contains("the answer of the file cannot be made"));
    assert_eq!(send(json!("busy")).status, 504);
    drop(rig);

    let rig =
        self::rig("[source.answers.taken]\nstatus = 200\nbody = '{ \"got\": {{ meta.id }}, \"q\": {{ msg.q }} }'");
    let key = [JSON, ("Idempotency-Key", "k")];
    let got = post(rig.listener("orders"), "/", &key, r#"{ "q": "a\"b" }"#);
    assert_eq!((got.status, &got.json()["q"]), (200, &json!("a\"b")), "{got:?}");
    assert_eq!(got.json()["got"], rig.messages("")[0]["id"]);
    rig.write("channels/channel.toml", super::channel("orders", "127.0.0.1:0", ""));
    let address = crate::support::eventually::eventually("the new version listens", || {
        let (_, channels) = rig.get("/api/v1/channels");
        let text = channels["channels"][0]["listens_on"].as_str()?.to_owned();
        text.parse().ok().filter(|address| *address != rig.listener("orders"))
    });
    assert_eq!(post(address, "/", &key, r#"{ "q": "a\"b" }"#), got, "kept as it was given");
}

#[test]
fn a_stop_does_not_cut_off_who_waits() {
    let server = HttpServer::start(|_| Reply::Silent);
    let mut rig = relay(&server, "ack = \"delivered\"", "");
    let mut client = HttpClient::connect(rig.listener("orders"));
    client.write(&HttpClient::request("POST", "/", &[JSON], b"1"));
    rig.wait_for("queued", 1);
    assert!(rig.terminate().success());
    let got = client.read().expect("an answer");
    assert_eq!((got.status, got.json()["state"].as_str()), (202, Some("pending")));
}
