//! `fax`: a vendor that takes faxes over HTTP, in the two ways that ship as profiles. No fax is sent twice.

use std::io::{Read as _, Write as _};
use std::process::Child;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::pki::Authority;
use crate::support::python;
use crate::support::rig::Rig;

const NUMBER: &str = "+3615550182";
/// A PDF, as far as anybody looks.
const PDF: &str = "%PDF-1.4\n%%EOF\n";

struct Vendor {
    process: Child,
    lines: Receiver<String>,
    port: u16,
}

impl Vendor {
    fn start(options: &Value) -> Vendor {
        let (process, lines, port) = python::server("fax_server.py", options);
        Vendor { process, lines, port }
    }

    /// One whose faxes to the number become this, one after the other.
    fn with(script: Value) -> Vendor {
        Vendor::start(&json!({ "script": { NUMBER: script } }))
    }

    /// The next fax that is handed over.
    fn fax(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(Duration::from_secs(20)).expect("a fax within 20 s")).unwrap()
    }

    fn has_none(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    fn finish(&self) {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /finish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.take(1 << 10).read_to_end(&mut answer).unwrap();
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn channel_file(port: u16, options: &str) -> String {
    let or = |key: &str, value: &str| {
        let is_given = options.lines().any(|line| line.starts_with(&format!("{key} =")));
        if is_given { String::new() } else { format!("{key} = {value}\n") }
    };
    let keys = [
        or("profile", "\"multipart\""),
        or("url", &format!("\"http://localhost:{port}/api\"")),
        or("networks", "[\"127.0.0.0/8\", \"::1\"]"),
        or("poll", "\"20ms\""),
        or("number", "\"{{ msg['PID-13'] }}\""),
        or("document", "\"{{ msg['OBX-5'] }}\""),
    ];
    format!(
        "name = \"faxes\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.ward]\ntype = \"fax\"\n{}\
         retry = {{ first = \"5ms\", longest = \"20ms\" }}\n{options}\n",
        keys.concat()
    )
}

fn send(rig: &Rig, number: &str, document: &str) {
    let message =
        format!("MSH|^~\\&|LAB|A|B|C|2026||ORU^R01|M1|P|2.5\rPID|1||P1||N||||||||{number}\rOBX|1|ED|PDF||{document}\r");
    let ack = MllpClient::connect(rig.listener("faxes")).unwrap().send(message.as_bytes()).unwrap();
    assert_eq!(field(&ack, "MSA", 1), "AA");
}

fn pdf() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(PDF)
}

fn rig(port: u16, options: &str) -> Rig {
    let rig = Rig::with(&channel_file(port, options));
    send(&rig, "+36 1 555-0182", &pdf());
    rig
}

fn delivery(rig: &Rig) -> Option<Value> {
    Some(rig.messages("").first()?["deliveries"][0].clone())
}

fn becomes(rig: &Rig, state: &str) -> Value {
    eventually(&format!("the delivery is {state}"), || delivery(rig).filter(|delivery| delivery["state"] == state))
}

fn tries(rig: &Rig) -> Vec<Value> {
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    rig.story(&id)["deliveries_in_full"][0]["tries"].as_array().unwrap().clone()
}

/// How far the fax had come after an attempt.
fn progress(tried: &Value) -> Value {
    serde_json::from_str(tried["response"]["text"].as_str().unwrap()).unwrap()
}

#[test]
fn a_fax_is_sent_when_it_arrived_and_not_when_the_vendor_took_it() {
    let vendor = Vendor::with(json!([["queued", "sending"]]));
    let options = r#"
caller = "+3615550100"
auth = { bearer = { env = "PATH" } }
cover = { to = "Dr. {{ msg['PID-5'] }}", from = "Labor", subject = "Befund", text = "2 Seiten, ü" }
"#;
    let rig = rig(vendor.port, options);
    let fax = vendor.fax();
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    let reference = format!("{id}-ward-1");
    assert_eq!((&fax["path"], &fax["document"]), (&"/api/faxes".into(), &PDF.into()));
    assert_eq!((&fax["reference"], &fax["key"]), (&json!(reference), &json!(reference)));
    let expected = json!({
        "to": NUMBER, "from": "+3615550100", "reference": reference, "cover_sheet": "true", "cover_to": "Dr. N",
        "cover_from": "Labor", "cover_subject": "Befund", "cover_text": "2 Seiten, ü",
        "file": ["file", format!("{reference}.pdf"), "application/pdf"],
    });
    assert_eq!(fax["fields"], expected);
    assert_eq!(fax["authorization"], format!("Bearer {}", std::env::var("PATH").unwrap()));
    // It is asked again and again, and is not sent before the vendor says so; nothing of it counts as a failure.
    let waiting =
        eventually("it was asked after", || delivery(&rig).filter(|found| found["attempts"].as_u64() > Some(3)));
    assert_eq!(waiting["state"], "retrying");
    assert!(waiting["error"].as_str().unwrap().ends_with("the vendor says `sending`; it is not sent yet"), "{waiting}");
    let lane = crate::lanes::lane(&rig);
    assert_eq!((&lane["paused"], &lane["down_since"]), (&json!(false), &Value::Null), "{lane}");
    assert!(!rig.log().contains("an attempt failed"), "{}", rig.log());
    vendor.finish();
    becomes(&rig, "sent");
    let last = progress(tries(&rig).last().unwrap());
    assert_eq!((&last["step"], &last["job"], &last["pages"]), (&json!("sent"), &json!("4711"), &json!(2)));
    assert!(vendor.has_none(), "once");
}

#[test]
fn a_vendor_that_takes_json_gets_the_same() {
    let vendor = Vendor::start(&json!({ "json": true, "script": { NUMBER: [["queued", "delivered"]] } }));
    let rig = rig(vendor.port, "profile = \"json\"\ncover = { to = \"a \\\"quote\\\"\" }");
    let fax = vendor.fax();
    let reference = fax["reference"].as_str().unwrap();
    let cover = json!({ "to": "a \"quote\"", "from": "", "subject": "", "text": "" });
    assert_eq!(fax["fields"], json!({ "to": NUMBER, "from": "", "client_reference": reference, "cover_sheet": cover }));
    assert_eq!((&fax["path"], &fax["document"]), (&"/api/v1/faxes".into(), &PDF.into()));
    becomes(&rig, "sent");
    assert_eq!(progress(tries(&rig).last().unwrap())["pages"], 2);
    assert!(vendor.has_none());
}

#[test]
fn a_busy_line_is_called_again_and_each_call_is_another_fax() {
    let vendor = Vendor::with(json!([["queued", "busy"], ["no_answer"], ["sending", "success"]]));
    let rig = rig(vendor.port, "");
    let references: Vec<String> = (0..3).map(|_| vendor.fax()["reference"].as_str().unwrap().to_owned()).collect();
    for (number, reference) in (1..).zip(&references) {
        assert!(reference.ends_with(&format!("-ward-{number}")), "{references:?}");
    }
    becomes(&rig, "sent");
    assert!(vendor.has_none());
    // As often as `retry` allows: what was only asked after does not count.
    let vendor = Vendor::with(json!([["queued", "queued", "busy"]]));
    let text = channel_file(vendor.port, "").replace("retry = { ", "retry = { attempts = 2, ");
    let rig = Rig::with(&text);
    send(&rig, NUMBER, &pdf());
    let dead = becomes(&rig, "dead");
    assert!(dead["error"].as_str().unwrap().ends_with("the fax did not arrive: `busy`"), "{dead}");
    assert!(vendor.fax()["reference"] != vendor.fax()["reference"] && vendor.has_none());
}

#[test]
fn a_fax_that_cannot_arrive_is_a_dead_letter_and_is_sent_anew_by_hand_alone() {
    let vendor = Vendor::with(json!([["queued", "failed"], ["success"]]));
    let rig = rig(vendor.port, "");
    let dead = becomes(&rig, "dead");
    assert!(dead["error"].as_str().unwrap().ends_with("the fax did not arrive: `failed`"), "{dead}");
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(rig.cli(&["messages", "retry", &id]).0, 0);
    becomes(&rig, "sent");
    let (first, second) = (vendor.fax(), vendor.fax());
    assert!(
        first["reference"].as_str().unwrap().ends_with("-1") && second["reference"].as_str().unwrap().ends_with("-2")
    );
    // And whoever sends it once more wants it to arrive once more.
    assert_eq!(rig.cli(&["messages", "resend", &id]).0, 0);
    assert!(vendor.fax()["reference"].as_str().unwrap().ends_with("-3"));
    becomes(&rig, "sent");
    let vendor = Vendor::with(json!([["failed"], ["success"]]));
    let rig = self::rig(vendor.port, "on = { permanent = \"retry\" }");
    becomes(&rig, "sent");
}

#[test]
fn a_fax_whose_answer_was_lost_is_found_and_not_sent_again() {
    for profile in ["multipart", "json"] {
        let script = json!({ NUMBER: [["queued", if profile == "json" { "delivered" } else { "success" }]] });
        let vendor = Vendor::start(&json!({ "script": script, "drop": [NUMBER] }));
        let rig = rig(vendor.port, &format!("profile = \"{profile}\""));
        becomes(&rig, "sent");
        assert_eq!(progress(&tries(&rig)[0])["step"], "handing_over");
        vendor.fax();
        assert!(vendor.has_none(), "{profile}");
    }
}

#[test]
fn kill_9_sends_no_fax_twice() {
    // While the vendor is at work: the job's id is in the journal.
    let vendor = Vendor::with(json!([["sending"]]));
    let mut rig = rig(vendor.port, "");
    for _ in 0..3 {
        let before = tries_of(&rig);
        rig.kill();
        rig.start();
        eventually("it is asked after", || (tries_of(&rig) > before + 1).then_some(()));
    }
    vendor.finish();
    becomes(&rig, "sent");
    assert_eq!(vendor.fax()["fields"]["to"], NUMBER);
    assert!(vendor.has_none());
    // Before the vendor has answered: nothing is in the journal, and the fax is found.
    let vendor = Vendor::start(&json!({ "script": { NUMBER: [["success"]] }, "slow": { NUMBER: 3 } }));
    let mut rig = self::rig(vendor.port, "");
    vendor.fax();
    rig.kill();
    rig.start();
    becomes(&rig, "sent");
    assert_eq!(progress(tries(&rig).last().unwrap())["number"], 1);
    assert!(vendor.has_none());
}

fn tries_of(rig: &Rig) -> usize {
    rig.messages("").first().map_or(0, |message| {
        let id = message["id"].as_str().unwrap();
        rig.story(id)["deliveries_in_full"][0]["tries"].as_array().map_or(0, Vec::len)
    })
}

/// A profile of one's own, for a vendor that cannot be asked by reference, but knows an Idempotency-Key again.
#[test]
fn a_vendor_of_ones_own_is_a_file() {
    let profile = r#"
[submit]
path      = "/{values.account}/faxes"
headers   = { "Idempotency-Key" = "{reference}", "X-Account" = "{values.account}" }
multipart = { file = "pdf", fields = { to = "{number}", reference = "{reference}" } }
job       = "/id"
[status]
path    = "/{values.account}/faxes/{job}"
state   = "/status"
pending = ["queued"]
sent    = ["gone"]
"#;
    let options = json!({ "script": { NUMBER: [["queued", "gone"], ["lost"]] }, "drop": [NUMBER], "same": true });
    let vendor = Vendor::start(&options);
    let mut rig = Rig::new();
    rig.write("channels/profiles/vendor.toml", profile);
    let keys = "profile = { file = \"profiles/vendor.toml\" }\nvalues = { account = \"a b\" }";
    rig.write("channels/channel.toml", channel_file(vendor.port, keys));
    rig.start();
    send(&rig, NUMBER, &pdf());
    becomes(&rig, "sent");
    let (first, again) = (vendor.fax(), vendor.fax());
    assert_eq!((&first["path"], &first["account"]), (&"/api/a%20b/faxes".into(), &"a b".into()));
    assert_eq!(first["fields"]["file"][0], "pdf");
    assert_eq!((&again["key"], &again["known"]), (&first["key"], &json!(true)), "the vendor knew that it was the same");
    // What the profile does not know is said, and tried again.
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(rig.cli(&["messages", "resend", &id]).0, 0);
    let error = "the profile does not know the state `lost`: put it into one of its lists";
    eventually("it is said", || {
        delivery(&rig).filter(|found| found["error"].as_str().is_some_and(|text| text.ends_with(error)))
    });
}

#[test]
fn what_is_no_number_or_no_pdf_is_not_sent() {
    let vendor = Vendor::with(json!([["success"]]));
    for (number, document, words) in [
        ("06 1 555 0182", pdf(), "this is no number to call"),
        ("", pdf(), "this is no number to call"),
        (NUMBER, "R0lGODlhAQABAAAAACw=".to_owned(), "the document is no PDF"),
        (NUMBER, "***".to_owned(), "the document is not base64"),
        (NUMBER, String::new(), "the document comes out empty"),
    ] {
        let rig = Rig::with(&channel_file(vendor.port, ""));
        send(&rig, number, &document);
        let errored = rig.wait_for("errored", 1).remove(0);
        let reason = errored["reason"].as_str().unwrap();
        assert!(reason.contains(words) && !reason.contains("555"), "{reason}");
    }
    assert!(vendor.has_none());
}

#[test]
fn the_vendor_is_reached_as_the_channel_file_says() {
    let authority = Authority::new("fax authority");
    let identity = authority.issue("fax", &["localhost"]);
    let keys = Rig::new();
    let (cert, key) = (keys.write("fax.crt", &identity.cert), keys.write("fax.key", &identity.key));
    let ca = keys.write("ca.pem", authority.pem());
    let vendor = Vendor::start(&json!({ "script": {}, "cert": cert, "key": key }));
    let url = format!("url = \"https://localhost:{}/api/\"", vendor.port);
    let rig = rig(vendor.port, &format!("{url}\ntls = {{ ca = {{ file = \"{}\" }} }}", ca.display()));
    becomes(&rig, "sent");
    vendor.fax();
    for (options, words) in [
        (url.clone(), "certificate"),
        (format!("{url}\nnetworks = [\"10.0.0.0/8\"]"), "no public address"),
        (format!("url = \"https://localhost:{}/\"\nconnect_timeout = \"60ms\"", silent()), "no TLS within 60 ms"),
        (format!("url = \"http://localhost:{}/api/\"\ntimeout = \"50ms\"", silent()), "within 50 ms"),
    ] {
        let rig = self::rig(vendor.port, &options);
        let error = eventually("it fails", || delivery(&rig)?["error"].as_str().map(str::to_owned));
        assert!(error.contains(words), "{options}: {error}");
    }
    assert!(vendor.has_none());
    // Asked after as often as is said, and not more often.
    let vendor = Vendor::with(json!([["queued", "success"]]));
    let rig = self::rig(vendor.port, "poll = \"1h\"");
    vendor.fax();
    let next_at = eventually("it waits", || delivery(&rig)?["next_at"].as_str().map(str::to_owned));
    let wait = next_at.parse::<jiff::Timestamp>().unwrap().duration_since(jiff::Timestamp::now());
    assert!((3500..=3600).contains(&wait.as_secs()), "{wait}");
}

/// A port on which nobody says anything.
fn silent() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    port
}
