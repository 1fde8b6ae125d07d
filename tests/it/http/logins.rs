//! Logins, signatures and proxies.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use labwire::destination::{Disposition, FaultClass};

use super::answers::Case;
use super::{ADT, Sender, adt, channel};
use crate::lanes::{lane, send};
use crate::support::eventually::eventually;
use crate::support::half_open::read_head;
use crate::support::http_server::{HttpServer, Reply, answer, ok};
use crate::support::rig::Rig;

/// A secret in a file of its own.
fn secret(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("{text}\n")).unwrap();
    format!("{{ file = \"{}\" }}", path.display())
}

#[test]
fn logins_that_are_always_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let secret = secret(folder.path(), "s", "pässwörd:1");
    let ascii = self::secret(folder.path(), "a", "k3y-1234");
    let encoded = STANDARD.encode("me:pässwörd:1");
    for (auth, header, value) in [
        (format!("basic = {{ user = \"me\", password = {secret} }}"), "Authorization", format!("Basic {encoded}")),
        (format!("bearer = {ascii}"), "Authorization", "Bearer k3y-1234".to_owned()),
        (format!("api_key = {{ header = \"X-API-Key\", key = {ascii} }}"), "x-api-key", "k3y-1234".to_owned()),
    ] {
        // It repeats what it was told, as some do in their errors.
        let server = HttpServer::start(move |seen| {
            answer("403 Forbidden", "", &format!("no: {}", seen.header(header).unwrap()))
        });
        let mut sender = Sender::to(&server.url("/in"), &format!("auth = {{ {auth} }}"));
        let error = sender.send(&adt()).unwrap_err();
        assert_eq!(server.seen()[0].header(header), Some(value.as_str()));
        let response = String::from_utf8(error.response.clone().unwrap().to_vec()).unwrap();
        assert!(response.starts_with("no: ") && response.ends_with("***"), "{response}");
        for shown in [response, format!("{error} {error:?}")] {
            assert!(!shown.contains("k3y-1234") && !shown.contains(&encoded), "{shown}");
        }
        assert!(!format!("{:?}", sender.config).contains("k3y-1234"));
    }
}

/// A secret that begins just before the limit does not stay there in part.
#[test]
fn a_secret_at_the_limit_of_what_is_kept_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let auth = format!("auth = {{ bearer = {} }}", secret(folder.path(), "a", "k3y-1234"));
    let server = HttpServer::start(|_| answer("200 OK", "", &format!("{}k3y-1234 and more", "x".repeat(98))));
    let mut sender = Sender::to(&server.url("/in"), &format!("{auth}\nmax_response = \"100B\""));
    let response = sender.send(&adt()).unwrap().response.unwrap();
    assert_eq!(response, format!("{}**", "x".repeat(98)));
}

#[test]
fn a_secret_that_is_not_there_pauses_and_is_read_when_it_comes() {
    let server = HttpServer::start(|_| ok());
    let text = "auth = { bearer = { file = \"../token\" } }\nretry = { first = \"2ms\", longest = \"5ms\" }";
    let rig = Rig::with(&channel(&server.url("/in"), text));
    send(&rig, &["A1"]);
    eventually("the pause", || (lane(&rig)["paused"] == true).then_some(()));
    assert!(lane(&rig)["error"].as_str().unwrap().contains("token"), "{}", lane(&rig));
    assert!(server.seen().is_empty());
    rig.write("token", "t0k3n-abcdef\n");
    rig.wait_for("sent", 1);
    assert_eq!(server.seen()[0].header("Authorization"), Some("Bearer t0k3n-abcdef"));
    assert!(!rig.log().contains("t0k3n"), "{}", rig.log());
}

/// A server that gives tokens `T1`, `T2` … for so many seconds, and the requests that it got.
fn token_server(life: &'static str) -> HttpServer {
    let mut given = 0;
    HttpServer::start(move |_| {
        given += 1;
        let body = format!(r#"{{"access_token":"T0K3N-{given}","token_type":"bearer"{life}}}"#);
        answer("200 OK", "Content-Type: application/json\r\nCache-Control: no-store\r\n", &body)
    })
}

fn oauth2(url: &str, more: &str) -> String {
    format!(
        "auth = {{ oauth2 = {{ token_url = \"{url}\", client_id = \"lab:1\", client_secret = {{ env = \"CARGO_PKG_NAME\" }}{more} }} }}"
    )
}

#[test]
fn a_token_is_fetched_once_and_used_until_it_ends() {
    let server = HttpServer::start(|seen| answer("200 OK", "", seen.header("Authorization").unwrap()));
    for (life, fetched) in
        [(r#","expires_in":3600"#, 1), (r#","expires_in":"3600""#, 1), ("", 1), (r#","expires_in":0"#, 3)]
    {
        let tokens = token_server(life);
        let mut sender = Sender::to(&server.url("/in"), &oauth2(&tokens.url("/token?x=1"), ""));
        for _ in 0..3 {
            let response = sender.send(&adt()).unwrap().response.unwrap();
            assert_eq!(response, "Bearer ***", "the token is not kept with the answer");
        }
        assert_eq!(tokens.seen().len(), fetched, "{life}");
        assert_eq!(
            server.seen().last().unwrap().header("Authorization"),
            Some(format!("Bearer T0K3N-{fetched}").as_str())
        );
    }
}

#[test]
fn a_token_is_asked_for_as_the_file_says() {
    let login = format!("Basic {}", STANDARD.encode("lab%3A1:labwire"));
    for (more, form, authorization) in [
        ("", "grant_type=client_credentials", Some(login.as_str())),
        (", scope = \"a b\"", "grant_type=client_credentials&scope=a+b", Some(&login)),
        (
            ", parameters = { audience = \"https://lis\" }",
            "grant_type=client_credentials&audience=https%3A%2F%2Flis",
            Some(&login),
        ),
        (", credentials = \"body\"", "grant_type=client_credentials&client_id=lab%3A1&client_secret=labwire", None),
    ] {
        let (server, tokens) = (HttpServer::start(|_| ok()), token_server(""));
        Sender::to(&server.url("/in"), &oauth2(&tokens.url("/token?x=1"), more)).send(&adt()).unwrap();
        let seen = &tokens.seen()[0];
        assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.text().as_str()), ("POST", "/token?x=1", form));
        assert_eq!(seen.header("Authorization"), authorization);
        assert_eq!(seen.header("Content-Type"), Some("application/x-www-form-urlencoded"));
    }
}

#[test]
fn a_token_that_is_refused_is_replaced_once() {
    // The kept token is withdrawn; the next one is good.
    let withdrawn = Arc::new(Mutex::new(String::new()));
    let refused = withdrawn.clone();
    let server = HttpServer::start(move |seen| match seen.header("Authorization") == Some(&*refused.lock().unwrap()) {
        true => answer("401 Unauthorized", "", ""),
        false => ok(),
    });
    let tokens = token_server(r#","expires_in":3600"#);
    let mut sender = Sender::to(&server.url("/in"), &oauth2(&tokens.url("/"), ""));
    sender.send(&adt()).unwrap();
    *withdrawn.lock().unwrap() = "Bearer T0K3N-1".to_owned();
    sender.send(&adt()).unwrap();
    assert_eq!((server.seen().len(), tokens.seen().len()), (3, 2));

    // A token that was fetched just now is refused: no second try, and it is not kept.
    let server = HttpServer::start(|_| answer("401 Unauthorized", "", ""));
    let tokens = token_server(r#","expires_in":3600"#);
    let mut sender = Sender::to(&server.url("/in"), &oauth2(&tokens.url("/"), ""));
    for attempt in 1..3 {
        let error = sender.send(&adt()).unwrap_err();
        assert_eq!((error.disposition(), error.class), (Disposition::Pause, FaultClass::Status(401)));
        assert_eq!((server.seen().len(), tokens.seen().len()), (attempt, attempt));
    }
}

#[test]
fn a_token_server_that_gives_none() {
    let cases: [Case; 6] = [
        (
            || answer("401 Unauthorized", "", r#"{"error":"invalid_client","error_description":"SECRET"}"#),
            Disposition::Pause,
            FaultClass::Authentication,
            "gives no token: it answered 401 Unauthorized, invalid_client; look at `client_id`",
        ),
        (
            || answer("400 Bad Request", "", r#"{"error":"SECRET"}"#),
            Disposition::Pause,
            FaultClass::Authentication,
            "400 Bad Request;",
        ),
        (
            || answer("200 OK", "", r#"{"access_token":"SECRET","token_type":"mac"}"#),
            Disposition::Pause,
            FaultClass::Authentication,
            "no bearer token",
        ),
        (|| answer("200 OK", "", "SECRET"), Disposition::Pause, FaultClass::Authentication, "no bearer token"),
        (
            || answer("503 Service Unavailable", "Retry-After: 7\r\n", ""),
            Disposition::Retry,
            FaultClass::Refused,
            "where tokens come from, answered 503",
        ),
        (|| Reply::Close, Disposition::Retry, FaultClass::Reset, "closed the connection before it answered"),
    ];
    for (reply, then, class, words) in cases {
        let (server, tokens) = (HttpServer::start(|_| ok()), HttpServer::start(move |_| reply()));
        let error = Sender::to(&server.url("/in"), &oauth2(&tokens.url("/"), "")).send(&adt()).unwrap_err();
        assert_eq!((error.then, error.class), (Some(then), class), "{error}");
        assert!(error.message.contains(words) && error.message.starts_with(&tokens.url("")), "{error}");
        assert!(error.response.is_none(), "what a token server answers is not kept");
        assert_eq!(error.retry_after.map(|wait| wait.as_secs()), words.contains("503").then_some(7));
        assert!(server.seen().is_empty());
    }
}

/// Four connections at once, one token.
#[test]
fn one_token_serves_all_connections_of_a_destination() {
    let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_once, highest) = (busy.clone(), most.clone());
    let tokens = HttpServer::start(move |_| {
        highest.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        at_once.fetch_sub(1, Ordering::SeqCst);
        answer("200 OK", "", r#"{"access_token":"T0K3N-1","expires_in":3600}"#)
    });
    let server = HttpServer::start(|seen| answer("200 OK", "", seen.header("Authorization").unwrap()));
    let options = format!("{}\norder_by = \"msg['PID-3']\"", oauth2(&tokens.url("/"), ""));
    let mut rig = Rig::new();
    rig.environment.push(("LABWIRE_LOG".to_owned(), "trace".to_owned()));
    rig.environment.push(("CARGO_PKG_NAME".to_owned(), "s3cr3t-of-the-client".to_owned()));
    rig.write("channels/channel.toml", channel(&server.url("/in"), &options));
    rig.start();
    send(&rig, &["A1", "B1", "C1", "D1", "E1", "F1"]);
    let sent = rig.wait_for("sent", 6);
    assert_eq!(tokens.seen().len(), 1);
    assert!(server.connections() > 1, "{}", server.connections());
    let story = rig.story(sent[0]["id"].as_str().unwrap()).to_string();
    assert!(story.contains("Bearer ***"), "{story}");
    for shown in [story, rig.log()] {
        assert!(!shown.contains("T0K3N") && !shown.contains("s3cr3t"), "{shown}");
    }
}

/// Checked by Python's own HMAC.
#[test]
fn a_signed_request_is_what_standard_webhooks_says() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = [[7_u8; 24], [9; 24]].map(|key| format!("whsec_{}", STANDARD.encode(key)));
    let [old, new] = [0, 1].map(|at| secret(folder.path(), ["old", "new"][at], &secrets[at]));
    let server = HttpServer::start(|_| ok());
    let mut sender = Sender::to(&server.url("/in"), &format!("sign = {{ standard_webhooks = [{old}, {new}] }}"));
    sender.send(&adt()).unwrap();
    let seen = server.seen().pop().unwrap();
    let (id, timestamp) = (seen.header("webhook-id").unwrap(), seen.header("webhook-timestamp").unwrap());
    assert_eq!(Some(id), seen.header("Idempotency-Key"));
    assert!(id.ends_with("-w~eb"), "no full stop: {id}");
    let age = jiff::Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{age}");
    const SCRIPT: &str = r"
import base64, hashlib, hmac, sys
data = sys.stdin.buffer.read()
for key in (b'\x07' * 24, b'\x09' * 24):
    print('v1,' + base64.b64encode(hmac.new(key, data, hashlib.sha256).digest()).decode())
";
    let mut python = std::process::Command::new(crate::support::python::program("python3"))
        .args(["-c", SCRIPT])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(format!("{id}.{timestamp}.{ADT}").as_bytes()).unwrap();
    let output = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    let expected = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(seen.header("webhook-signature"), Some(expected.as_str()));
}

#[test]
fn a_secret_that_cannot_sign_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (text, words) in [("plain", "begins with `whsec_`"), ("whsec_*", "no base64"), ("whsec_AAAA", "24 to 64 bytes")]
    {
        let sign = format!(
            "url = \"http://lis.example/\"\nsign = {{ standard_webhooks = [{}] }}",
            secret(folder.path(), "s", text)
        );
        let config = crate::support::options::destination("http", &sign).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(config.build(&crate::support::options::place("web"))).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains(text), "{error}");
    }
}

#[test]
fn requests_go_through_the_proxy_of_the_file_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = HttpServer::start(|seen| match seen.header("Proxy-Authorization") {
        Some(_) => answer("200 OK", "", "by proxy"),
        None => answer("407 Proxy Authentication Required", "", ""),
    });
    let login = format!(", user = \"me\", password = {}", secret(folder.path(), "p", "s3cr3t"));
    for (login, expected) in [(login.as_str(), Ok(())), ("", Err(FaultClass::Status(407)))] {
        let options = format!("proxy = {{ address = \"{}\"{login} }}", proxy.address());
        let sent = Sender::to("http://no-such-host.invalid:81/in?x=1", &options).send(&adt());
        assert_eq!(sent.map(|_| ()).map_err(|error| error.class), expected);
        let seen = proxy.seen().pop().unwrap();
        assert_eq!(seen.target, "http://no-such-host.invalid:81/in?x=1");
        assert_eq!(seen.header("Host"), Some("no-such-host.invalid:81"));
        let value = format!("Basic {}", STANDARD.encode("me:s3cr3t"));
        assert_eq!(seen.header("Proxy-Authorization"), expected.is_ok().then_some(value.as_str()));
    }
    // Where the proxy itself is private and not allowed.
    let options = format!("url = \"http://lis.example/\"\nproxy = {{ address = \"{}\" }}", proxy.address());
    assert_eq!(Sender::with(&options).send(&adt()).unwrap_err().class, FaultClass::Address);

    // The environment's proxies are not used.
    let (server, unused) = (HttpServer::start(|_| ok()), HttpServer::start(|_| ok()));
    let mut rig = Rig::new();
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        rig.environment.push((name.to_owned(), unused.url("")));
    }
    rig.write("channels/channel.toml", channel(&server.url("/in"), ""));
    rig.start();
    send(&rig, &["A1"]);
    rig.wait_for("sent", 1);
    assert_eq!((server.seen().len(), unused.connections()), (1, 0));
}

/// A proxy is asked for a tunnel to an `https` server, with its login; what it says otherwise is told.
#[test]
fn a_tunnel_is_asked_for_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let login = format!(", user = \"me\", password = {}", secret(folder.path(), "p", "s3cr3t"));
    for (reply, class) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", FaultClass::Status(407)),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", FaultClass::Refused),
        ("nonsense\r\n\r\n", FaultClass::Protocol),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = format!(
            "tls = {{ pin = \"sha256:{}\" }}\nproxy = {{ address = \"{}\"{login} }}",
            "0".repeat(64),
            listener.local_addr().unwrap()
        );
        let proxy = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            stream.write_all(reply.as_bytes()).unwrap();
            head
        });
        let error = Sender::to("https://lis.example/in", &options).send(&adt()).unwrap_err();
        assert_eq!(error.class, class, "{error}");
        let value = STANDARD.encode("me:s3cr3t");
        assert_eq!(
            proxy.join().unwrap(),
            format!(
                "CONNECT lis.example:443 HTTP/1.1\r\nHost: lis.example:443\r\nProxy-Authorization: Basic {value}\r\n\r\n"
            )
        );
    }
}
