//! Who may post.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;

use super::{JSON, channel, counters};
use crate::support::http_client::{HttpClient, post};
use crate::support::options;
use crate::support::pki::Authority;
use crate::support::rig::Rig;

fn rig(source: &str) -> Rig {
    let mut rig = Rig::new();
    rig.write("secrets/one", "first-secret\n");
    rig.write("secrets/two", "second-secret\n");
    rig.write("secrets/webhook", format!("whsec_{}\n", STANDARD.encode(KEY)));
    rig.write("channels/orders.toml", channel("orders", "127.0.0.1:0", source));
    rig.start();
    rig
}

const KEY: &[u8] = b"this-is-a-key-of-32-bytes-or-so.";

fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn only_who_has_credentials_may_post() {
    let login = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let two = "{ file = \"../secrets/one\" }, { file = \"../secrets/two\" }";
    let tables: [(String, &str, Vec<String>, Vec<String>); 3] = [
        (
            format!("auth = {{ api_key = {{ header = \"X-Key\", keys = [{two}] }} }}"),
            "X-Key",
            vec!["first-secret".into(), "second-secret".into()],
            vec!["third-secret".into(), "first-secre".into(), String::new()],
        ),
        (
            format!("auth = {{ bearer = [{two}] }}"),
            "Authorization",
            vec!["Bearer first-secret".into(), "bearer second-secret".into()],
            vec!["Bearer x".into(), "first-secret".into(), login("first-secret")],
        ),
        (
            "auth = { basic = [{ user = \"app\", password = { file = \"../secrets/one\" } }] }".into(),
            "Authorization",
            vec![login("app:first-secret")],
            vec![login("app:x"), login("other:first-secret"), "Basic %%".into(), "Bearer first-secret".into()],
        ),
    ];
    for (auth, header, good, bad) in tables {
        let rig = rig(&auth);
        let send = |headers: &[(&str, &str)]| post(rig.listener("orders"), "/", headers, "{}");
        for value in &good {
            assert_eq!(send(&[JSON, (header, value)]).status, 202, "{auth}: {value}");
        }
        for value in &bad {
            let got = send(&[JSON, (header, value)]);
            assert_eq!((got.status, got.header("www-authenticate").is_some()), (401, true), "{auth}: {value}");
        }
        assert_eq!(send(&[JSON]).status, 401, "{auth}");
        assert_eq!(rig.messages("").len(), good.len());
        assert_eq!(counters(&rig)["requests_refused"], bad.len() + 1);
        let log = rig.log();
        assert!(!log.contains("-secret"), "{log}");
    }
}

#[test]
fn a_request_is_refused_before_its_content_is_read() {
    let rig = rig("auth = { bearer = [{ file = \"../secrets/one\" }] }");
    let mut client = HttpClient::connect(rig.listener("orders"));
    client.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 401, "and no 100 before it");
    // Who did not ask first is answered all the same: not reset while it still writes.
    let large = vec![b' '; 600_000];
    assert_eq!(post(rig.listener("orders"), "/", &[JSON], &large).status, 401);
}

#[test]
fn a_signature_is_of_this_request_and_of_now() {
    let auth = |more: &str| {
        format!("auth = {{ standard_webhooks = {{ secrets = [{{ file = \"../secrets/webhook\" }}]{more} }} }}")
    };
    let rig = rig(&auth(""));
    let now = Timestamp::now().as_second();
    let send = |rig: &Rig, id: &str, timestamp: i64, signature: &str, body: &str| {
        let timestamp = timestamp.to_string();
        let headers =
            [JSON, ("webhook-id", id), ("webhook-timestamp", timestamp.as_str()), ("webhook-signature", signature)];
        post(rig.listener("orders"), "/", &headers, body)
    };
    let good = signature(KEY, "m1", now, "{}");
    let first = send(&rig, "m1", now, &good, "{}");
    assert_eq!(first.status, 202, "{first:?}");
    // Signed anew at a later attempt, as senders do: the same message.
    let again = signature(KEY, "m1", now + 7, "{}");
    assert_eq!(send(&rig, "m1", now + 7, &again, "{}"), first);
    assert_eq!(send(&rig, "m2", now, &format!("v1,AAAA {}", signature(KEY, "m2", now, "{}")), "{}").status, 202);
    for (id, timestamp, signed, body) in [
        ("m3", now, &good, "{}"),
        ("m1", now, &good, "[]"),
        ("m1", now + 1, &good, "{}"),
        ("m4", now, &signature(b"another key", "m4", now, "{}"), "{}"),
        ("m5", now - 310, &signature(KEY, "m5", now - 310, "{}"), "{}"),
        ("m6", now + 310, &signature(KEY, "m6", now + 310, "{}"), "{}"),
    ] {
        assert_eq!(send(&rig, id, timestamp, signed, body).status, 401, "{id}");
    }
    assert_eq!(post(rig.listener("orders"), "/", &[JSON], "{}").status, 401);
    assert_eq!(rig.messages("").len(), 2);
    drop(rig);

    let rig = self::rig(&auth(", tolerance = \"1h\""));
    assert_eq!(send(&rig, "m5", now - 310, &signature(KEY, "m5", now - 310, "{}"), "{}").status, 202);
}

#[test]
fn without_credentials_only_this_machine_may_post_or_whom_the_file_lets_in() {
    let read = |text: &str| options::source("http", text).map(drop).map_err(|mistakes| mistakes.join("; "));
    let tls = "tls = { cert = { env = \"A\" }, key = { env = \"B\" }, client_ca = { env = \"C\" } }";
    for fine in [
        "listen = \"127.0.0.1:1\"",
        "listen = \"[::1]:1\"",
        "listen = \"0.0.0.0:1\"\nauth = \"none\"",
        &format!("listen = \"0.0.0.0:1\"\n{tls}"),
        "listen = \"0.0.0.0:1\"\nauth = { bearer = [{ env = \"X\" }] }",
    ] {
        assert_eq!(read(fine), Ok(()), "{fine}");
    }
    for (wrong, what) in [
        ("listen = \"0.0.0.0:1\"", "an `http` source without `auth`"),
        ("listen = \"10.0.0.1:1\"", "an `http` source without `auth`"),
        ("listen = \"0.0.0.0:1\"\ntls = { cert = { env = \"A\" }, key = { env = \"B\" } }", "without `auth`"),
        (
            "listen = \"127.0.0.1:1\"\ntls = { cert = { env = \"A\" }, key = { env = \"B\" }, client_crl = { env = \"C\" } }",
            "`client_crl` without `client_ca`",
        ),
        ("listen = \"127.0.0.1:1\"\nauth = \"any\"", "`auth` cannot be this word"),
        ("listen = \"127.0.0.1:1\"\nauth = {}", "needs one kind of credentials"),
        ("listen = \"127.0.0.1:1\"\nauth = { bearer = [] }", "lets nobody in"),
        ("listen = \"127.0.0.1:1\"\nauth = { bearer = [{ env = \"X\" }], basic = [] }", "needs one kind"),
        ("listen = \"127.0.0.1:1\"\nauth = { bearer = [\"secret\"] }", "must not be written into a channel file"),
        ("listen = \"127.0.0.1:1\"\nauth = { api_key = { header = \"a b\", keys = [{ env = \"X\" }] } }", "cannot be"),
        ("listen = \"127.0.0.1:1\"\npath = \"orders\"", "does not begin with `/`"),
        ("listen = \"127.0.0.1:1\"\npath = \"/a?b\"", "has a `?`"),
        ("listen = \"127.0.0.1:1\"\nmax_connections = 0", "nobody could connect"),
        ("listen = \"127.0.0.1:1\"\npass_on = [\"body\"]", "`pass_on` needs"),
        ("listen = \"127.0.0.1:1\"\n[answers.late]\nstatus = 504", "this answer is never given"),
        ("listen = \"127.0.0.1:1\"\n[answers.taken]\nstatus = 99", "no status of an answer"),
        ("listen = \"127.0.0.1:1\"\n[answers.taken]\nheaders = { Date = \"x\" }", "`Date` cannot be set here"),
        ("listen = \"127.0.0.1:1\"\n[answers.taken]\nbody = \"{{ meta.nonsense }}\"", "`meta` has no `nonsense`"),
    ] {
        let found = read(wrong).expect_err(wrong);
        assert!(found.contains(what), "{wrong}: {found}");
    }
}

#[test]
fn curl_posts_over_tls() {
    let mut rig = Rig::new();
    let authority = Authority::new("Test authority");
    let ours = authority.issue("lab.example", &["localhost"]);
    let client = authority.issue("app.example", &["app.example"]);
    let revoked = authority.issue("old.example", &["old.example"]);
    for (name, text) in [
        ("our.crt", &ours.cert),
        ("our.key", &ours.key),
        ("ca.pem", &authority.pem()),
        ("app.crt", &client.cert),
        ("app.key", &client.key),
        ("old.crt", &revoked.cert),
        ("old.key", &revoked.key),
        ("crl.pem", &authority.revoke(&[&revoked])),
    ] {
        rig.write(&format!("secrets/{name}"), text);
    }
    let file = |name: &str| format!("{{ file = \"../secrets/{name}\" }}");
    let tls =
        format!("tls = {{ cert = {}, key = {}, client_ca = {} }}", file("our.crt"), file("our.key"), file("ca.pem"));
    let more = format!("tls = {{ handshake_timeout = \"400ms\", client_crl = {},", file("crl.pem"));
    let tls = tls.replace("tls = {", &more);
    rig.write("channels/orders.toml", channel("orders", "127.0.0.1:0", &tls));
    rig.start();
    let began = std::time::Instant::now();
    assert!(HttpClient::connect(rig.listener("orders")).is_closed(), "who never begins the handshake is sent away");
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    let secret = |name: &str| rig.path().join("secrets").join(name).display().to_string();
    let curl = |more: &[&str]| {
        let port = rig.listener("orders").port();
        let mut child = Command::new("curl")
            .args(["-sS", "--data-binary", "@-", "-H", "Content-Type: application/json", "-w", " %{http_code}"])
            .args(["--cacert", &secret("ca.pem"), "--resolve", &format!("localhost:{port}:127.0.0.1")])
            .args(more)
            .arg(format!("https://localhost:{port}/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"{}").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    };
    let good = curl(&["--cert", &secret("app.crt"), "--key", &secret("app.key")]);
    assert!(good.ends_with(" 202"), "{good}");
    let without = curl(&[]);
    assert!(without.ends_with(" 000"), "{without}");
    let gone = curl(&["--cert", &secret("old.crt"), "--key", &secret("old.key")]);
    assert!(gone.ends_with(" 000"), "{gone}");
    let mut clear = HttpClient::connect(rig.listener("orders"));
    clear.write(&HttpClient::request("POST", "/", &[JSON], b"{}"));
    assert!(clear.is_closed(), "nothing is taken in the clear");
    assert_eq!(rig.messages("").len(), 1);
    assert_eq!(counters(&rig)["handshakes_failed"], 4);
}
