//! `email`: a real mail server that nobody here wrote (Python `aiosmtpd`), TLS with certificates that the test makes, and Python's own
//! reader of mails.

use std::io::Write as _;
use std::process::{Child, Command};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field};
use crate::support::pki::Authority;
use crate::support::python;
use crate::support::rig::{Rig, labwire};

struct MailServer {
    process: Child,
    lines: Receiver<String>,
    port: u16,
}

impl MailServer {
    fn start(options: &Value) -> MailServer {
        let (process, lines, port) = python::server("smtp_server.py", options);
        MailServer { process, lines, port }
    }

    /// The next mail, with what Python's reader makes of it under `read`.
    fn mail(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).expect("a mail within 20 s");
        let mut mail: Value = serde_json::from_str(&line).unwrap();
        mail["read"] = read(mail["content"].as_str().unwrap());
        mail
    }

    fn has_none(&self) -> bool {
        self.lines.try_recv().is_err()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A mail as Python's own library reads it: headers, then each part with its type, name and content.
fn read(base64: &str) -> Value {
    let program = r#"
import base64, email, email.policy, json, sys
mail = email.message_from_bytes(base64.b64decode(sys.argv[1]), policy=email.policy.default)
assert not mail.defects, mail.defects
parts = []
for part in mail.walk():
    assert not part.defects, part.defects
    if not part.is_multipart():
        parts.append([part.get_content_type(), part.get_filename(), part.get_payload(decode=True).decode("latin-1")])
print(json.dumps({"headers": [[name, str(value)] for name, value in mail.items()], "parts": parts}))
"#;
    let output = Command::new(python::program("python")).args(["-c", program, base64]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn header<'m>(mail: &'m Value, name: &str) -> Vec<&'m str> {
    let headers = mail["read"]["headers"].as_array().unwrap();
    headers.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

/// A channel with one destination, whose name has a dot: that cannot stand in an id as it is.
fn mailer(port: u16, options: &str) -> String {
    let or = |key: &str, value: &str| {
        let is_given = options.lines().any(|line| line.starts_with(&format!("{key} =")));
        if is_given { String::new() } else { format!("{key} = {value}\n") }
    };
    let text = if options.contains("text_template") || options.contains("html = ") {
        String::new()
    } else {
        or("text", "\"see there\"")
    };
    let keys = [
        or("from", "\"Lab <lab@lab.example>\""),
        or("to", "[\"ward@hospital.example\"]"),
        or("tls", "\"none\""),
        or("subject", "\"Report\""),
        text,
    ];
    format!(
        "name = \"mails\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.\"ward.east\"]\ntype = \"email\"\n\
         server = \"localhost:{port}\"\n{}retry = {{ first = \"5ms\", longest = \"20ms\" }}\n{options}\n",
        keys.concat()
    )
}

fn send_with(rig: &Rig, fields: &str) {
    let message = format!(
        "MSH|^~\\&|LAB|A|B|C|2026||ORU^R01|M1|P|2.5\rPID|1||P1||{fields}\rOBX|1|ED|PDF||^AP^^Base64^JVBERi0xLjQKJeLjCg==\r"
    );
    let ack = MllpClient::connect(rig.listener("mails")).unwrap().send(message.as_bytes()).unwrap();
    assert_eq!(field(&ack, "MSA", 1), "AA");
}

fn rig(port: u16, options: &str) -> Rig {
    let rig = Rig::with(&mailer(port, options));
    send_with(&rig, "Nagy^Éva|");
    rig
}

/// The only delivery once it has a state.
fn becomes(rig: &Rig, state: &str) -> Value {
    eventually(&format!("the delivery is {state}"), || {
        let delivery = rig.messages("").first()?["deliveries"][0].clone();
        let enough = state != "retrying" || delivery["attempts"].as_u64() > Some(1);
        Some(delivery).filter(|delivery| delivery["state"] == state && enough)
    })
}

fn tries(rig: &Rig) -> Vec<Value> {
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    rig.story(&id)["deliveries_in_full"][0]["tries"].as_array().unwrap().clone()
}

#[test]
fn a_mail_arrives_with_everything_that_was_asked_for() {
    let server = MailServer::start(&json!({}));
    let rig = rig(
        server.port,
        r#"
to = ["Dr. {{ msg['PID-5.2'] }} <eva@hospital.example>, second@hospital.example", "{{ msg['PID-9'] }}"]
cc = ["\"Copy, Carla\" <copy@hospital.example>"]
bcc = ["hidden@hospital.example", "second@hospital.example"]
reply_to = "answers@lab.example"
subject = "Befund für {{ msg['PID-3.1'] }}"
text = "Grüße\n.\n.. aus dem Labor: {{ msg['PID-5.1'] }} <b>"
html = "<p>{{ msg['PID-5.1'] }} {{ '<i>' }}</p>"
hello = "labwire.lab.example"
[[destination."ward.east".attachment]]
name = "{{ msg['MSH-10'] }}.pdf"
content = "{{ msg['OBX-5.5'] }}"
base64 = true
content_type = "application/pdf"
[[destination."ward.east".attachment]]
name = "message.hl7"
content_type = "application/hl7-v2"
[[destination."ward.east".attachment]]
name = "note.txt"
content = "plain {{ msg['MSH-3'] }}"
content_type = "text/plain; charset=utf-8"
"#,
    );
    let mail = server.mail();
    assert_eq!(mail["from"], "lab@lab.example");
    let all = ["eva@hospital.example", "second@hospital.example", "copy@hospital.example", "hidden@hospital.example"];
    assert_eq!(mail["to"], json!(all), "each once");
    assert_eq!(mail["hello"], "labwire.lab.example");
    assert_eq!(header(&mail, "From"), ["Lab <lab@lab.example>"]);
    assert_eq!(header(&mail, "To"), ["\"Dr. Éva\" <eva@hospital.example>, second@hospital.example"]);
    assert_eq!(header(&mail, "Cc"), ["\"Copy, Carla\" <copy@hospital.example>"]);
    assert_eq!((header(&mail, "Bcc").len(), header(&mail, "Reply-To")), (0, vec!["answers@lab.example"]));
    assert_eq!(header(&mail, "Subject"), ["Befund für P1"]);
    let message = becomes(&rig, "sent");
    assert_eq!(message["attempts"], 1);
    let id = rig.messages("")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(header(&mail, "Message-ID"), [format!("<{id}.ward_east@lab.example>")]);
    let received = rig.messages("")[0]["received_at"].as_str().unwrap().to_owned();
    let date = jiff::fmt::rfc2822::parse(header(&mail, "Date")[0]).unwrap().timestamp();
    assert_eq!(date.to_string()[..19], received[..19]);
    let parts = &mail["read"]["parts"];
    let latin = |text: &str| text.bytes().map(char::from).collect::<String>();
    assert_eq!(parts[0], json!(["text/plain", null, latin("Grüße\r\n.\r\n.. aus dem Labor: Nagy <b>")]));
    assert_eq!(parts[1], json!(["text/html", null, "<p>Nagy &lt;i&gt;</p>"]));
    assert_eq!(parts[2], json!(["application/pdf", "M1.pdf", "%PDF-1.4\n%\u{e2}\u{e3}\n"]));
    assert!(parts[3][2].as_str().unwrap().starts_with("MSH|^~\\&|LAB|A|"), "{}", parts[3]);
    assert_eq!(parts[4], json!(["text/plain", "note.txt", "plain LAB"]));
    assert_eq!(tries(&rig)[0]["response"]["text"], "250 2.0.0 queued as 4711");
}

#[test]
fn bodies_may_stand_in_template_files() {
    let server = MailServer::start(&json!({}));
    let mut rig = Rig::new();
    rig.write("channels/templates/a.txt", "text {{ msg['PID-5.1'] }}&");
    rig.write("channels/templates/a.html", "<p>{{ '&' }}</p>");
    let options = "text_template = \"templates/a.txt\"\nhtml_template = \"templates/a.html\"";
    rig.write("channels/channel.toml", mailer(server.port, options));
    rig.start();
    send_with(&rig, "Nagy|");
    let parts = server.mail()["read"]["parts"].clone();
    assert_eq!(parts, json!([["text/plain", null, "text Nagy&"], ["text/html", null, "<p>&amp;</p>"]]));
}

/// What a message holds cannot become a header, a recipient or a command.
#[test]
fn a_value_cannot_break_out_of_its_header() {
    let server = MailServer::start(&json!({}));
    let rig = rig(
        server.port,
        "subject = \"{{ 'a\\r\\nBcc: evil@evil.example\\r\\n\\r\\nbody' }}\"\nto = [\"{{ 'x\\\"y' }} <ward@hospital.example>\"]",
    );
    let mail = server.mail();
    assert_eq!(mail["to"], json!(["ward@hospital.example"]));
    assert_eq!(header(&mail, "Bcc").len(), 0);
    assert!(header(&mail, "Subject")[0].contains("Bcc: evil@evil.example"), "it is all subject");
    drop(rig);
    for to in [
        "{{ 'a@b.example>\\r\\nRCPT TO:<c@d.example' }}",
        "{{ 'a@b.example> SIZE=1 <' }}",
        "{{ 'no address' }}",
        "{{ '' }}",
    ] {
        let rig = self::rig(server.port, &format!("to = [\"{to}\"]"));
        let errored = rig.wait_for("errored", 1).remove(0);
        let reason = errored["reason"].as_str().unwrap();
        assert!(!reason.contains("b.example"), "an address is content: {reason}");
    }
    assert!(server.has_none());
}

#[test]
fn what_the_server_says_decides() {
    let server = MailServer::start(&json!({}));
    for (options, state, error) in [
        ("to = [\"ok@b.example\", \"busy@b.example\"]", "retrying", "the server refuses recipient 2 of 2: 451 (4.3.0)"),
        ("to = [\"ok@b.example\", \"nobody@b.example\"]", "dead", "the server refuses recipient 2 of 2: 550 (5.1.1)"),
        ("from = \"later@lab.example\"", "retrying", "the server refuses the mail: 452 (4.2.2)"),
        ("from = \"never@lab.example\"", "dead", "the server refuses the mail: 554 (5.7.1)"),
        ("from = \"never@lab.example\"\non = { permanent = \"retry\" }", "retrying", "554"),
        ("from = \"later@lab.example\"\non = { temporary = \"dead\" }", "dead", "452"),
    ] {
        let rig = rig(server.port, options);
        let delivery = becomes(&rig, state);
        let found = delivery["error"].as_str().unwrap();
        assert!(found.contains(error) && !found.contains("b.example is"), "{options}: {found}");
        // The words are kept, but as content.
        assert!(!tries(&rig)[0]["response"]["text"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_mail_that_is_repeated_is_the_same_to_the_letter() {
    let server = MailServer::start(&json!({}));
    let rig = rig(
        server.port,
        "from = \"dropped@lab.example\"\n[[destination.\"ward.east\".attachment]]\nname = \"a.hl7\"\ncontent_type = \"text/plain\"",
    );
    let (first, second) = (server.mail(), server.mail());
    assert_eq!(first["content"], second["content"]);
    assert_eq!(becomes(&rig, "sent")["attempts"], 2);
    assert!(tries(&rig)[0]["error"].as_str().unwrap().contains("closed the connection"), "{:?}", tries(&rig));
}

#[test]
fn the_connection_is_encrypted_and_the_login_is_given() {
    let authority = Authority::new("mail authority");
    let identity = authority.issue("mail", &["localhost"]);
    let keys = Rig::new();
    let cert = keys.write("mail.crt", &identity.cert);
    let key = keys.write("mail.key", &identity.key);
    let ca = keys.write("ca.pem", authority.pem());
    let login = "user = \"labwire\"\npassword = { env = \"MAIL_PASSWORD\" }";
    for (tls, mechanisms) in
        [("starttls", json!(["PLAIN", "LOGIN"])), ("starttls", json!(["LOGIN"])), ("implicit", json!(["PLAIN"]))]
    {
        let mechanism = mechanisms[0].clone();
        let server = MailServer::start(
            &json!({ "tls": tls, "cert": cert, "key": key, "password": "geheim", "mechanisms": mechanisms }),
        );
        let start = |options: &str, password: &str| {
            let mut rig = Rig::new();
            rig.environment = vec![("MAIL_PASSWORD".to_owned(), password.to_owned())];
            let tls = if tls == "starttls" && options.is_empty() { String::new() } else { format!("tls = \"{tls}\"") };
            let text = mailer(server.port, &format!("{tls}\n{login}\n{options}"));
            // `starttls` is what is done where nothing is said.
            rig.write("channels/channel.toml", text.replace("tls = \"none\"", ""));
            rig.start();
            send_with(&rig, "x|");
            rig
        };
        let trust = format!("trust = {{ ca = {{ file = \"{}\" }} }}", ca.display());
        let rig = start(&trust, "geheim");
        becomes(&rig, "sent");
        let mail = server.mail();
        assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!([mechanism, "labwire"])));
        assert!(mail["hello"].as_str().unwrap().starts_with('['), "{}", mail["hello"]);
        // A wrong password, and a certificate of somebody else: nothing goes out, and somebody must act.
        let rig = start(&trust, "falsch");
        let delivery = becomes(&rig, "retrying");
        assert!(delivery["error"].as_str().unwrap().contains("the server refuses the login: 535"), "{delivery}");
        assert_eq!(crate::lanes::lane(&rig)["paused"], true);
        assert!(!rig.log().contains("falsch"));
        let rig = start("", "geheim");
        let delivery = becomes(&rig, "retrying");
        assert!(delivery["error"].as_str().unwrap().contains("certificate"), "{delivery}");
        assert!(server.has_none());
    }
}

#[test]
fn no_mail_and_no_password_leave_in_the_clear_unasked() {
    let server = MailServer::start(&json!({ "password": "geheim" }));
    let mut rig = Rig::new();
    rig.environment = vec![("MAIL_PASSWORD".to_owned(), "geheim".to_owned())];
    let text = mailer(server.port, "tls = \"starttls\"\nuser = \"labwire\"\npassword = { env = \"MAIL_PASSWORD\" }");
    rig.write("channels/channel.toml", text);
    rig.start();
    send_with(&rig, "x|");
    let error = becomes(&rig, "retrying")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("the server does not offer STARTTLS"), "{error}");
    assert!(server.has_none());
}

#[test]
fn a_mail_that_is_too_large_is_not_sent() {
    let server = MailServer::start(&json!({ "size": 1000 }));
    let long = "text = \"{{ '0123456789' | batch(1) | join('') }}{{ '%2000s' | format('x') }}\"";
    let rig = rig(server.port, &format!("max_size = \"1KiB\"\n{long}"));
    let errored = rig.wait_for("errored", 1).remove(0);
    assert!(errored["reason"].as_str().unwrap().contains("`max_size` allows 1024"), "{errored}");
    // The server's own limit is known before the mail goes.
    let rig = self::rig(server.port, long);
    let error = becomes(&rig, "dead")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("and the server takes 1000"), "{error}");
    assert!(server.has_none());
}

/// A port on which everybody is told the same, and then nothing any more.
fn says(greeting: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let greeted = listener.incoming().flatten().map(|mut peer| peer.write_all(greeting.as_bytes()).map(|()| peer));
        greeted.collect::<Vec<_>>()
    });
    port
}

#[test]
fn time_limits_hold() {
    let silent = says("220 hello\r\n");
    let rig = rig(silent, "timeout = \"50ms\"\nconnect_timeout = \"5s\"");
    let error = becomes(&rig, "retrying")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("no answer within 0.05 s"), "{error}");
    // No TLS within the time for the connection.
    let rig = self::rig(says(""), "tls = \"implicit\"\ntimeout = \"20s\"\nconnect_timeout = \"60ms\"");
    let error = becomes(&rig, "retrying")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("TLS"), "{error}");
    // Something that is no mail server.
    let rig = self::rig(says("HTTP/1.1 400 Bad Request\r\n\r\n"), "");
    let error = becomes(&rig, "retrying")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("no mail server"), "{error}");
}

#[test]
fn a_test_of_a_channel_file_sees_the_whole_mail() {
    let rig = Rig::new();
    rig.write("channels/in.hl7", "MSH|^~\\&|LAB|A|B|C|2026||ORU^R01|M1|P|2.5\rPID|1||P1||Nagy\r");
    let tests = "\n[[test]]\nname = \"t\"\ninput = \"in.hl7\"\nsent.\"ward.east\" = \"mail.eml\"\n";
    let path = rig.write("channels/channel.toml", mailer(25, "text = \"{{ msg['PID-5.1'] }}\"") + tests);
    let output = labwire().args(["test", "--bless"]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mail = std::fs::read_to_string(rig.path().join("channels/mail.eml")).unwrap();
    assert!(
        mail.contains("Subject: Report\r\n") && mail.ends_with("\r\n\r\nNagy\r\n") || mail.ends_with("\r\n\r\nNagy"),
        "{mail}"
    );
    let output = labwire().arg("test").arg(&path).output().unwrap();
    assert!(output.status.success(), "the same again: {}", String::from_utf8_lossy(&output.stdout));
}
