//! What servers answer, and what becomes of the delivery.

use std::io::Write as _;
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant, SystemTime};

use labwire::destination::{Disposition, FaultClass};
use labwire::message::Format;

use super::{ADT, HERE, Sender, adt, channel, message_of};
use crate::lanes::{lane, message, send};
use crate::support::eventually::eventually;
use crate::support::half_open::{Silent, read_head};
use crate::support::http_server::{HttpServer, Reply, answer, ok};
use crate::support::options;
use crate::support::peer::{Do, Peer};
use crate::support::rig::Rig;

use Disposition::{Dead, Pause, Retry, Sent};

/// What a server does.
pub(super) type Answering = fn() -> Reply;
/// What it does, what becomes of the delivery, by which fault, and words of the error.
pub(super) type Case = (Answering, Disposition, FaultClass, &'static str);

/// What becomes of one message at a server that answers so.
fn outcome(reply: Answering, options: &str) -> (Disposition, Option<FaultClass>, String) {
    let server = HttpServer::start(move |_| reply());
    match Sender::to(&server.url("/in"), options).send(&adt()) {
        Ok(_) => (Sent, None, String::new()),
        Err(error) => (error.disposition(), Some(error.class), error.message.replace(&server.url(""), "SERVER")),
    }
}

#[test]
fn what_a_server_answers_and_what_becomes_of_the_delivery() {
    for (status, expected) in [
        ("200 OK", Sent),
        ("201 Created", Sent),
        ("202 Accepted", Sent),
        ("204 No Content", Sent),
        ("301 Moved Permanently", Pause),
        ("307 Temporary Redirect", Pause),
        ("400 Bad Request", Dead),
        ("401 Unauthorized", Pause),
        ("403 Forbidden", Pause),
        ("404 Not Found", Dead),
        ("407 Proxy Authentication Required", Pause),
        ("408 Request Timeout", Retry),
        ("409 Conflict", Dead),
        ("413 Content Too Large", Dead),
        ("422 Unprocessable Content", Dead),
        ("425 Too Early", Retry),
        ("429 Too Many Requests", Retry),
        ("500 Internal Server Error", Retry),
        ("503 Service Unavailable", Retry),
        ("599 Odd", Retry),
    ] {
        let reply = answer(status, "", if status.starts_with("204") { "" } else { "SECRET" });
        let Reply::Write(bytes) = reply else { unreachable!() };
        let server = HttpServer::start(move |_| Reply::Write(bytes.clone()));
        let sent = Sender::to(&server.url("/in"), "").send(&adt());
        let found = sent.as_ref().map_or_else(|error| error.disposition(), |_| Sent);
        assert_eq!(found, expected, "{status}");
        if let Err(error) = sent {
            assert_eq!(error.class, FaultClass::Status(status[..3].parse().unwrap()));
            assert!(error.message.starts_with(&format!("{} answered {}", server.url(""), &status[..3])), "{error}");
            assert_eq!(error.response.as_deref(), Some(&b"SECRET"[..]), "{status}");
        }
        assert_eq!(server.seen().len(), 1, "{status}: one attempt is one request");
    }
}

#[test]
fn a_redirect_is_never_followed() {
    let other = HttpServer::start(|_| ok());
    let location = format!("Location: {}\r\n", other.url("/SECRET"));
    let server = HttpServer::start(move |_| answer("308 Permanent Redirect", &location, ""));
    let error = Sender::to(&server.url("/in"), "").send(&adt()).unwrap_err();
    let expected = format!(
        "{} answered 308 Permanent Redirect: redirects are not followed; write the new address into `url`, and reprocess what waits: it keeps its path",
        server.url("")
    );
    assert_eq!((error.disposition(), error.message), (Pause, expected));
    assert_eq!((server.seen().len(), other.connections()), (1, 0));
}

#[test]
fn connections_that_go_wrong() {
    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let long_head = || Reply::Last(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300_000)).into_bytes());
    let cases: [Case; 7] = [
        (|| Reply::Close, Retry, FaultClass::Reset, "SERVER: the server closed the connection before it answered"),
        (
            || Reply::Reset,
            Retry,
            FaultClass::Reset,
            "SERVER: the connection was lost before an answer came: connection reset",
        ),
        (|| Reply::Last(HALF.to_vec()), Retry, FaultClass::Reset, "SERVER: the connection was lost within the answer"),
        (|| Reply::Write(HALF.to_vec()), Retry, FaultClass::Timeout, "SERVER: no whole answer within 300 ms"),
        (|| Reply::Silent, Retry, FaultClass::Timeout, "SERVER: no whole answer within 300 ms"),
        (
            || Reply::Last(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
            Pause,
            FaultClass::Protocol,
            "SERVER: what it answered is no HTTP",
        ),
        (long_head, Retry, FaultClass::Answer, "SERVER: the head of its answer is longer"),
    ];
    for (reply, then, class, words) in cases {
        let (found, fault, said) = outcome(reply, "timeout = \"300ms\"");
        assert_eq!((found, fault), (then, Some(class)), "{said}");
        assert!(said.starts_with(words), "{said}");
    }
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, then, class) in [
        (format!("http://{dead}/"), Retry, FaultClass::Refused),
        ("http://no-such-host.invalid/".to_owned(), Pause, FaultClass::Dns),
    ] {
        let error = Sender::to(&url, "").send(&adt()).unwrap_err();
        assert_eq!((error.disposition(), error.class), (then, class), "{error}");
    }
}

/// A full backlog: the system neither accepts nor refuses.
#[test]
fn a_connection_that_does_not_come_about_in_time() {
    let silent = Silent::listen();
    let address = silent.address;
    let started = Instant::now();
    let error = Sender::to(&format!("http://{address}/"), "connect_timeout = \"200ms\"").send(&adt()).unwrap_err();
    assert_eq!(
        (error.class, error.message),
        (FaultClass::Timeout, format!("http://{address}: no connection within 200 ms"))
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_connection_carries_many_requests_and_is_replaced_when_it_was_closed() {
    let server = HttpServer::start(|_| answer("200 OK", "", "fine"));
    let mut sender = Sender::to(&server.url("/in"), "");
    for _ in 0..3 {
        assert_eq!(sender.send(&adt()).unwrap().response.as_deref(), Some(&b"fine"[..]));
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 3));

    // It closes a kept connection without an answer just when it is used again.
    let mut on_connection = std::collections::BTreeSet::new();
    let server = HttpServer::start(move |seen| if on_connection.insert(seen.connection) { ok() } else { Reply::Close });
    let mut sender = Sender::to(&server.url("/in"), "");
    let outgoing = sender.config.prepare(&adt()).unwrap();
    for _ in 0..2 {
        sender.attempt(&outgoing).unwrap();
    }
    let seen = server.seen();
    assert_eq!((server.connections(), seen.len()), (2, 3));
    assert!(seen.iter().all(|seen| seen.header("idempotency-key") == seen.header("Idempotency-Key")));

    // It says that it closes.
    let server = HttpServer::start(|_| {
        Reply::Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    let mut sender = Sender::to(&server.url("/in"), "");
    sender.send(&adt()).unwrap();
    sender.send(&adt()).unwrap();
    assert_eq!((server.connections(), server.seen().len()), (2, 2));
}

/// The engine stops, or the channel is reloaded, in the middle of an attempt.
#[test]
fn a_dropped_request_ends_its_connection() {
    let peer = Peer::start(vec![Do::Wait(10_000)], vec![]);
    let mut sender = Sender::to(&format!("http://{}/", peer.address()), "");
    let outgoing = sender.config.prepare(&adt()).unwrap();
    let Sender { runtime, destination, .. } = &mut sender;
    let waited =
        runtime.block_on(async { tokio::time::timeout(Duration::from_millis(200), destination.send(&outgoing)).await });
    assert!(waited.is_err());
    runtime.block_on(tokio::task::yield_now());
    eventually("the close", || {
        runtime.block_on(tokio::task::yield_now());
        (peer.log().closed == 1).then_some(())
    });
}

#[test]
fn so_much_of_an_answer_is_kept() {
    for (length, kept) in [(99, 99), (100, 100), (101, 100), (5_000_000, 100)] {
        let server = HttpServer::start(move |_| answer("200 OK", "", &"x".repeat(length)));
        let mut sender = Sender::to(&server.url("/"), "max_response = \"100B\"");
        assert_eq!(sender.send(&adt()).unwrap().response.unwrap().len(), kept);
        sender.send(&adt()).unwrap();
        assert_eq!(server.connections(), if length > 100 { 2 } else { 1 }, "what is not read is not waited for");
    }
    let server = HttpServer::start(|_| answer("200 OK", "", &"x".repeat(2 << 20)));
    assert_eq!(Sender::to(&server.url("/"), "").send(&adt()).unwrap().response.unwrap().len(), 1 << 20);
    let server = HttpServer::start(|_| ok());
    assert!(Sender::to(&server.url("/"), "").send(&adt()).unwrap().response.is_none());
}

/// Servers refuse what is too large as soon as they have read how large it is.
#[test]
fn an_answer_that_comes_before_the_whole_request_was_taken_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/in", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let large = format!("{ADT}NTE|1||{}\r", "x".repeat(8 << 20));
    let error = Sender::to(&url, "").send(&message_of(Format::Hl7, &large)).unwrap_err();
    assert_eq!((error.class, error.disposition()), (FaultClass::Status(413), Dead), "{error}");
    server.join().unwrap();
}

#[test]
fn rules_on_answers_go_before_the_status() {
    const RULES: &str = r#"responses = [
        { status = 409, then = "sent" },
        { status = "2xx", pointer = "/status", equals = "busy", then = "retry" },
        { status = "2xx", pointer = "/status", equals = "error", then = "dead" },
        { header = "X-Maintenance", then = "pause" },
        { status = "2xx", contains = "<fault>", then = "dead" },
    ]"#;
    let cases: [(Answering, Disposition, Option<usize>); 7] = [
        (|| answer("409 Conflict", "", "{}"), Sent, None),
        (|| answer("200 OK", "", r#"{"status":"busy"}"#), Retry, Some(2)),
        (|| answer("200 OK", "", r#"{"status":"error","text":"SECRET"}"#), Dead, Some(3)),
        (|| answer("503 Service Unavailable", "X-Maintenance: yes\r\n", ""), Pause, Some(4)),
        (|| answer("200 OK", "", "<a><fault>SECRET</fault></a>"), Dead, Some(5)),
        (|| answer("200 OK", "", r#"{"status":"done"}"#), Sent, None),
        (|| answer("500 Internal Server Error", "", r#"{"status":"error"}"#), Retry, None),
    ];
    for (reply, then, rule) in cases {
        let (found, _, said) = outcome(reply, RULES);
        assert_eq!(found, then, "{said}");
        let words = rule.map(|rule| format!("and rule {rule} of `responses` fits"));
        assert!(words.is_none_or(|words| said.ends_with(&words)), "{said}");
    }
    let (found, class, said) =
        outcome(|| answer("200 OK", "", &"x".repeat(200)), &format!("max_response = \"100B\"\n{RULES}"));
    // It may have the message already: the same answer would come for ever.
    assert_eq!((found, class), (Dead, Some(FaultClass::Answer)));
    assert!(
        said.contains("more than the 100 bytes of `max_response`: rule 2 of `responses` cannot be judged"),
        "{said}"
    );
}

#[test]
fn a_server_says_for_how_long_it_wants_to_be_left_alone() {
    let in_a_minute = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60));
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
    for (status, value, expected) in [
        ("429 Too Many Requests", "120", Some(120..=120)),
        ("503 Service Unavailable", "0", Some(0..=0)),
        ("503 Service Unavailable", &in_a_minute, Some(50..=60)),
        ("503 Service Unavailable", &long_ago, Some(0..=0)),
        ("503 Service Unavailable", "soon", None),
        ("503 Service Unavailable", "-5", None),
    ] {
        let header = format!("Retry-After: {value}\r\n");
        let server = HttpServer::start(move |_| answer(status, &header, ""));
        let error = Sender::to(&server.url("/"), "").send(&adt()).unwrap_err();
        let wait = error.retry_after.map(|wait| wait.as_secs());
        assert_eq!(wait.is_some(), expected.is_some(), "{value}");
        assert!(expected.is_none_or(|expected| expected.contains(&wait.unwrap())), "{value}: {wait:?}");
    }
}

/// A43 of the table of attacks: addresses of this machine, of the house and of cloud metadata, in all spellings.
#[test]
fn a43_addresses_that_are_not_public_are_refused_unless_the_file_allows_them() {
    for url in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://[fd00::1]/",
        "http://[fe80::1]/",
    ] {
        let mistakes = options::destination("http", &format!("url = \"{url}\"")).expect_err(url);
        assert!(mistakes[0].contains("which is no public address"), "{url}: {mistakes:?}");
    }
    for url in ["file:///etc/passwd", "gopher://127.0.0.1/", "unix:/run/docker.sock"] {
        options::destination("http", &format!("url = \"{url}\"")).expect_err(url);
    }
    // A name: only known when it is looked up.
    let server = HttpServer::start(|_| ok());
    let url = format!("http://localhost:{}/", server.address().port());
    let error = Sender::with(&format!("url = \"{url}\"")).send(&adt()).unwrap_err();
    assert_eq!((error.class, error.disposition()), (FaultClass::Address, Pause), "{error}");
    assert!(error.message.contains("which is no public address; write it, or its network, into `networks`"), "{error}");
    let error = Sender::with(&format!("url = \"{url}\"\nnetworks = [\"10.0.0.0/8\"]")).send(&adt()).unwrap_err();
    assert_eq!(error.class, FaultClass::Address);
    assert_eq!(server.connections(), 0);
    Sender::with(&format!("url = \"{url}\"\n{HERE}")).send(&adt()).unwrap();
}

const QUICK: &str = "retry = { first = \"2ms\", longest = \"5ms\" }";

/// F56: 429 with Retry-After, 503, an error in a 200, a reset after the whole request was read; the same key and the same content
/// each time.
#[test]
fn f56_http_answers_of_all_kinds() {
    let (mut asked, mut times) = (0, Vec::new());
    let server = HttpServer::start(move |_| {
        asked += 1;
        times.push(Instant::now());
        match asked {
            1 => answer("429 Too Many Requests", "Retry-After: 1\r\n", ""),
            2 => {
                let waited = times[1].duration_since(times[0]);
                assert!(waited >= Duration::from_millis(900), "Retry-After was not waited for: {waited:?}");
                answer("503 Service Unavailable", "", "")
            }
            3 => answer("200 OK", "", r#"{"status":"error"}"#),
            4 => Reply::Reset,
            5 => Reply::Close,
            _ => answer("200 OK", "", r#"{"status":"done"}"#),
        }
    });
    let rules = r#"responses = [{ pointer = "/status", equals = "error", then = "retry" }]"#;
    let rig = Rig::with(&channel(&server.url("/in"), &format!("{rules}\n{QUICK}")));
    send(&rig, &["A1"]);
    rig.wait_for("sent", 1);
    let seen = server.seen();
    assert_eq!(seen.len(), 6);
    let story = rig.story(message(&rig, "A1")["id"].as_str().unwrap());
    let key = format!("{}-web", story["id"].as_str().unwrap());
    assert!(seen.iter().all(|seen| seen.header("Idempotency-Key") == Some(&key)));
    assert!(seen.iter().all(|each| each.body == seen[0].body && each.target == "/in"));
    let delivery = &message(&rig, "A1")["deliveries"][0];
    // The reset came on a kept connection, which is replaced within the attempt.
    assert_eq!((&delivery["state"], &delivery["attempts"]), (&"sent".into(), &5.into()), "{delivery}");
    let text = serde_json::to_string(&story).unwrap();
    assert!(text.contains("answered 429 Too Many Requests") && text.contains("rule 1 of `responses` fits"), "{text}");
    assert!(text.contains(r#"{\"status\":\"done\"}"#), "the response is kept: {text}");
}

/// The channel file has the last word; a pause burns no attempts.
#[test]
fn the_file_says_what_an_answer_means() {
    for (status, options, state, paused) in [
        ("409 Conflict", "on = { 409 = \"sent\" }", "sent", false),
        ("500 Internal Server Error", "on = { \"5xx\" = \"dead\" }", "dead", false),
        (
            "409 Conflict",
            "on = { 409 = \"dead\" }\nresponses = [{ status = 409, then = \"retry\" }]",
            "retrying",
            false,
        ),
        ("404 Not Found", "on = { 404 = \"retry\" }", "retrying", false),
        ("401 Unauthorized", "", "retrying", true),
        ("403 Forbidden", "on = { 403 = \"dead\" }", "dead", false),
        ("302 Found", "", "retrying", true),
        ("200 OK", "responses = [{ status = 200, then = \"dead\" }]", "dead", false),
        ("200 OK", "responses = [{ status = 200, then = \"pause\" }]", "retrying", true),
    ] {
        let server = HttpServer::start(move |_| answer(status, "", ""));
        let retry = if paused { "retry = { attempts = 1, first = \"2ms\", longest = \"5ms\" }" } else { QUICK };
        let rig = Rig::with(&channel(&server.url("/in"), &format!("{options}\n{retry}")));
        send(&rig, &["A1"]);
        eventually(&format!("{status} {options}: {state}"), || {
            let delivery = message(&rig, "A1")["deliveries"][0].clone();
            (delivery["state"] == state && (state != "retrying" || server.seen().len() > 1)).then_some(())
        });
        assert_eq!(lane(&rig)["paused"], paused, "{status} {options}");
    }
}

#[test]
fn what_leaves_is_the_message_byte_for_byte() {
    let server = HttpServer::start(|_| ok());
    Sender::to(&server.url("/in"), "").send(&adt()).unwrap();
    assert_eq!(server.seen()[0].text(), ADT);
}
