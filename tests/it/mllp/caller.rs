//! A source that calls: the peer listens, and sends to whoever connects.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{message, short};
use crate::support::eventually::eventually;
use crate::support::mllp_client::MllpClient;
use crate::support::options;
use crate::support::pki::Authority;
use crate::support::rig::Rig;
use crate::support::tls_peer::TlsPeer;

fn channel(source: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\n{source}\n\
         [destination.archive]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"{{{{ meta.id }}}}.hl7\"\n"
    )
}

fn view(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0].clone()
}

/// The engine's next call.
fn called(listener: &TcpListener) -> MllpClient {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = eventually("it calls", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    MllpClient::over(stream)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_peer_that_is_called_is_served_and_called_again() {
    let address = free();
    let rig = Rig::with(&channel(&format!("connect = {{ address = \"{address}\", longest_pause = \"200ms\" }}")));
    // Nobody is there: it says so, once.
    let trouble = eventually("it says so", || view(&rig)["source_error"].as_str().map(str::to_owned));
    assert!(trouble.starts_with(&format!("{address}: cannot connect: ")), "{trouble}");
    assert_eq!((view(&rig)["state"].as_str(), rig.get("/readyz").0), (Some("running"), 200));
    assert!(rig.cli(&["channels"]).1.contains(&format!("<- {trouble}")));
    std::thread::park_timeout(Duration::from_millis(700));
    let lines = |words: &str| rig.log().lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("the source takes nothing in"), 1, "{}", rig.log());
    let listener = TcpListener::bind(address).unwrap();
    let mut peer = called(&listener);
    assert_eq!(short(&peer.send(&message("1")).unwrap()), "AA/1");
    assert_eq!((&view(&rig)["source_error"], lines("takes messages in again")), (&Value::Null, 1));
    let arrived = rig.messages("")[0].clone();
    assert_eq!(arrived["origin"]["peer"], address.to_string(), "{arrived}");
    // It is gone without a word, and comes again with the same message.
    drop(peer);
    let mut peer = called(&listener);
    assert_eq!(short(&peer.send(&message("1")).unwrap()), "AA/1");
    assert_eq!(view(&rig)["counters"]["repeated"], 1);
    // One connection at a time; pausing ends it.
    assert!(listener.accept().is_err());
    assert_eq!(rig.post("/api/v1/channels/results/pause", "").0, 200);
    assert!(peer.is_closed());
}

#[test]
fn a_peer_that_closes_at_once_is_called_less_and_less_often() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let rig = Rig::with(&channel(&format!("connect = {{ address = \"{address}\", longest_pause = \"1s\" }}")));
    let calls: Vec<Instant> = (0..4)
        .map(|_| {
            drop(called(&listener));
            Instant::now()
        })
        .collect();
    // Half a second, a second, a second, each at most a half less by chance.
    let pauses: Vec<Duration> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] >= Duration::from_millis(200) && pauses[2] >= Duration::from_millis(450), "{pauses:?}");
    assert!(pauses[2] <= Duration::from_millis(1600), "{pauses:?}");
    let trouble = eventually("it says so", || view(&rig)["source_error"].as_str().map(str::to_owned));
    assert!(trouble.ends_with("it closes every connection at once"), "{trouble}");
}

/// The peer sends over TLS as a server: the engine verifies it, and shows its own certificate.
#[test]
fn tls_is_that_of_a_client() {
    let authority = Authority::new("Test authority");
    let mut rig = Rig::new();
    let (ours, theirs) = (authority.issue("labwire", &[]), authority.issue("peer", &["localhost"]));
    for (name, identity) in [("our", &ours), ("peer", &theirs)] {
        rig.write(&format!("secrets/{name}.crt"), &identity.cert);
        rig.write(&format!("secrets/{name}.key"), &identity.key);
    }
    rig.write("secrets/ca.pem", authority.pem());
    let path = |name: &str| rig.path().join("secrets").join(name).display().to_string();
    let server = json!({ "cert": path("peer.crt"), "key": path("peer.key"), "ca": path("ca.pem"), "push": true });
    let (peer, address) = TlsPeer::serve(&server);
    let tls = r#"{ ca = { file = "../secrets/ca.pem" }, cert = { file = "../secrets/our.crt" }, key = { file = "../secrets/our.key" } }"#;
    let connect = |tls: &str| {
        format!("connect = {{ address = \"localhost:{}\", longest_pause = \"200ms\", tls = {tls} }}", address.port())
    };
    rig.write("channels/channel.toml", channel(&connect("true")));
    rig.start();
    let trouble = eventually("it does not trust the peer", || view(&rig)["source_error"].as_str().map(str::to_owned));
    assert!(trouble.contains("not known to this system: CN=peer"), "{trouble}");
    rig.write("channels/channel.toml", channel(&connect(tls)));
    // Lines about the handshakes before come first.
    eventually("it is taken", || (peer.line() == "TLSv1.3 pushed").then_some(()));
    eventually("the message", || (rig.messages("").len() == 1).then_some(()));
}

#[test]
fn options_have_places() {
    let mistakes =
        |text: &str| options::source("mllp", text).map(|config| format!("{config:?}")).expect_err("a mistake");
    for (text, expected) in [
        ("connect = \"analyser\"", "test.toml:1:11: `analyser` is not an address to connect to"),
        ("connect = { address = \"a:1\", timeout = \"0s\" }", "test.toml:1:40: no peer is that fast"),
        ("connect = { address = \"a:1\", longest_pause = \"0s\" }", "test.toml:1:46: no peer is that fast"),
        ("connect = { address = \"a:1\", tls = { ca = 1 } }", "test.toml:1:"),
        ("connect = { adress = \"a:1\" }", "test.toml:1:13: unknown key `adress` in connect: did you mean `address`?"),
        ("connect = 7", "test.toml:1:11: `connect` must be a string or a table"),
        ("connect = \"a:1\"\nlisten = \"127.0.0.1:1\"", "test.toml:1:1: [test] has both `listen` and `connect`"),
        ("connect = \"a:1\"\nmax_connections = 3", "test.toml:2:1: `max_connections` beside `connect`"),
        ("connect = \"a:1\"\nmax_connections_per_address = 3", "test.toml:2:1: `max_connections_per_address` beside"),
        ("connect = \"a:1\"\nallow = [\"10.0.0.0/8\"]", "test.toml:2:1: `allow` beside `connect`"),
        ("connect = \"a:1\"\nclients = { a = {} }", "test.toml:2:1: `clients` beside `connect`"),
        (
            "connect = \"a:1\"\ntls = { cert = { file = \"a\" }, key = { file = \"b\" } }",
            "test.toml:2:1: `tls` beside `connect`",
        ),
    ] {
        let found = mistakes(text);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
    }
    let config = options::source("mllp", "connect = { address = \"a:1\", timeout = \"7s\" }").unwrap();
    assert!(config.resources().is_empty() && format!("{config:?}").contains("7s"), "{config:?}");
}

/// A peer that neither takes nor refuses the call is given up after `timeout`.
#[test]
fn a_silent_peer_is_given_up_in_time() {
    let silent = crate::support::half_open::Silent::listen();
    let rig = Rig::with(&channel(&format!("connect = {{ address = \"{}\", timeout = \"300ms\" }}", silent.address)));
    let trouble = eventually("it says so", || view(&rig)["source_error"].as_str().map(str::to_owned));
    assert_eq!(trouble, format!("{}: no connection within 300ms", silent.address));
    assert!(TcpStream::connect(rig.api()).is_ok());
}
