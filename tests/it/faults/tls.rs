//! Certificates that go wrong, theirs and ours. What TLS does when all is well: `tests/it/tls.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::scene::message;
use super::shim::Shim;
use crate::support::eventually::{eventually, eventually_within};
use crate::support::mllp_client::{MllpClient, field};
use crate::support::pki::{Authority, Identity, self_signed};
use crate::support::rig::Rig;
use crate::support::tls_peer::TlsPeer;

fn put(rig: &Rig, name: &str, identity: &Identity) {
    rig.write(&format!("secrets/{name}.key"), &identity.key);
    rig.write(&format!("secrets/{name}.crt"), &identity.cert);
}

fn serve(rig: &Rig, name: &str, identity: &Identity, more: &Value) -> (TlsPeer, u16) {
    put(rig, name, identity);
    let path = |end: &str| rig.path().join(format!("secrets/{name}.{end}")).display().to_string();
    let mut options = json!({ "cert": path("crt"), "key": path("key") });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (peer, address) = TlsPeer::serve(&options);
    (peer, address.port())
}

/// Peers that are all wrong but the first: name, certificate, more options, what the lane says.
fn untrustworthy(authority: &Authority) -> [(&'static str, Identity, Value, &'static str); 7] {
    let other = Authority::new("Unknown authority");
    let ours = |name: &str, hosts: &[&str], days| authority.issue_for(name, hosts, days);
    let (local, good) = (&["localhost"], (-1, 90));
    let own = "its certificate is self-signed: CN=device (issued by itself, for localhost";
    let name = "its certificate is for mirth.example, 10.1.2.3, and not for localhost: CN=name";
    let stranger = "an authority that is not in `ca`: CN=stranger (issued by CN=Unknown authority";
    let none = || json!({});
    [
        ("good", ours("good", local, good), none(), ""),
        ("expired", ours("old", local, (-400, -35)), none(), "its certificate expired at "),
        ("early", ours("early", local, (2, 90)), none(), "its certificate is good only from "),
        ("own", self_signed("device", local, good), none(), own),
        ("name", ours("name", &["mirth.example", "10.1.2.3"], good), none(), name),
        ("stranger", other.issue("stranger", local), none(), stranger),
        ("weak", ours("weak", local, good), json!({ "most": "TLSv1_1" }), "it speaks neither TLS 1.2 nor TLS 1.3"),
    ]
}

#[test]
fn f54_peers_that_are_not_to_be_trusted() {
    let authority = Authority::new("Partner authority");
    let mut rig = Rig::new();
    rig.write("secrets/ca.pem", authority.pem());
    let cases = untrustworthy(&authority);
    let mut peers = BTreeMap::new();
    let mut channel = "name = \"results\"\nretry = { first = \"20ms\", longest = \"100ms\", attempts = 1 }\n\
                       [source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n"
        .to_owned();
    for (name, identity, more, _) in &cases {
        let (peer, port) = serve(&rig, name, identity, more);
        peers.insert(*name, peer);
        channel += &format!(
            "[destination.{name}]\ntype = \"mllp\"\naddress = \"localhost:{port}\"\n\
             tls = {{ ca = {{ file = \"../secrets/ca.pem\" }} }}\n"
        );
    }
    rig.write("channels/channel.toml", &channel);
    rig.start();
    let mut client = MllpClient::connect(rig.listener("results")).unwrap();
    assert_eq!(field(&client.send(&message("A-1")).unwrap(), "MSA", 1), "AA");
    assert_eq!(peers["good"].line(), "TLSv1.3 A-1");
    let lane = |at: usize| rig.get("/api/v1/channels").1["channels"][0]["lanes"][at].clone();
    for (at, (name, _, _, words)) in cases.iter().enumerate().skip(1) {
        eventually(&format!("the lane to `{name}` says {words}"), || {
            lane(at)["error"].as_str().is_some_and(|error| error.contains(words)).then_some(())
        });
        assert_eq!((&lane(at)["paused"], &lane(at)["waiting"]), (&json!(true), &json!(1)), "{}", lane(at));
        // `attempts = 1`, and it was tried more than once.
        for _ in 0..2 {
            assert!(peers[name].line().starts_with("ERROR"), "nothing was sent to `{name}`");
        }
    }
    assert_eq!(rig.messages("&state=dead").len(), 0);
    // What the error says is what helps.
    let own = &cases[3].1;
    assert!(lane(3)["error"].as_str().unwrap().contains(&format!("`pin = \"{}\"`", own.pin)), "{}", lane(3));
    let table = channel.split("[destination.own]").nth(1).unwrap();
    let pinned = table.replacen("ca = { file = \"../secrets/ca.pem\" }", &format!("pin = \"{}\"", own.pin), 1);
    rig.write("channels/channel.toml", channel.replace(table, &pinned));
    eventually("the device gets it", || (peers["own"].line() == "TLSv1.3 A-1").then_some(()));
}

/// A channel that listens with `secrets/our.crt`.
fn listening(more: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n\
         tls = {{ cert = {{ file = \"../secrets/our.crt\" }}, key = {{ file = \"../secrets/our.key\" }} }}\n\
         [destination.archive]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"{{{{ meta.id }}}}.hl7\"\n{more}"
    )
}

fn connect(rig: &Rig) -> (TlsPeer, String) {
    let ca = rig.path().join("secrets/ca.pem").display().to_string();
    TlsPeer::connect(&json!({ "host": "localhost", "port": rig.listener("results").port(), "ca": ca }))
}

fn send(peer: &mut TlsPeer, id: &str) -> String {
    field(&peer.send(&String::from_utf8(message(id)).unwrap()), "MSA", 1)
}

#[test]
fn f55_our_certificate_ends_and_is_renewed() {
    let authority = Authority::new("Test authority");
    let mut rig = Rig::new();
    rig.write("secrets/ca.pem", authority.pem());
    put(&rig, "our", &authority.issue_for("ending", &["localhost"], (-350, 15)));
    rig.write("channels/channel.toml", listening(""));
    rig.start();
    let warning = "channel results: source: our certificate CN=ending ends in 14 days, at 20";
    let warnings = || rig.get("/readyz").1["warnings"].to_string();
    assert!(warnings().contains(warning), "{}", warnings());
    assert_eq!(rig.get("/readyz").0, 200, "it works until then");
    assert!(rig.get("/api/v1/channels").1["warnings"].to_string().contains(warning));
    assert!(rig.cli(&["channels"]).1.contains(&format!("warning: {warning}")), "{}", rig.cli(&["channels"]).1);
    eventually("the log says so", || rig.log().contains(warning).then_some(()));
    let (mut old, first) = connect(&rig);
    assert_eq!(first, "TLSv1.3 ending");
    assert_eq!(send(&mut old, "A-1"), "AA");
    // Renewed, one file after the other: between the two, nobody is turned away.
    let renewed = authority.issue("renewed", &["localhost"]);
    rig.write("secrets/our.crt", &renewed.cert);
    eventually("what does not fit together is said", || {
        assert_eq!(connect(&rig).1, "TLSv1.3 ending");
        rig.log().contains("the old ones stay in use").then_some(())
    });
    assert!(warnings().contains("the key is not that of the certificate"), "{}", warnings());
    rig.write("secrets/our.key", &renewed.key);
    let mut new = eventually("new connections get the new one", || {
        Some(connect(&rig)).filter(|(_, first)| first == "TLSv1.3 renewed").map(|(peer, _)| peer)
    });
    assert_eq!((send(&mut old, "A-2"), send(&mut new, "B-1")), ("AA".to_owned(), "AA".to_owned()));
    assert_eq!(warnings(), "[]");
    rig.write("secrets/our.crt", "no certificate");
    eventually("a broken file is said", || {
        assert_eq!(connect(&rig).1, "TLSv1.3 renewed");
        rig.log().contains("it holds no certificate in PEM form").then_some(())
    });
}

#[test]
fn f55_a_certificate_that_expires_while_the_engine_runs() {
    let authority = Authority::new("Test authority");
    let mut rig = Rig::new();
    rig.write("secrets/ca.pem", authority.pem());
    put(&rig, "our", &authority.issue_for("ours", &["localhost"], (-1, 45)));
    let (peer, port) = serve(&rig, "theirs", &authority.issue_for("theirs", &["localhost"], (-1, 45)), &json!({}));
    let destination = format!(
        "[destination.peer]\ntype = \"mllp\"\naddress = \"localhost:{port}\"\ntls = {{ ca = {{ file = \"../secrets/ca.pem\" }} }}\n\
         retry = {{ first = \"20ms\", longest = \"100ms\" }}\n"
    );
    rig.write("channels/channel.toml", listening(&destination));
    let shim = Shim::load(&mut rig, "nothing");
    rig.start();
    let (mut sender, _) = connect(&rig);
    assert_eq!(send(&mut sender, "A-1"), "AA");
    assert_eq!(peer.line(), "TLSv1.3 A-1");
    assert_eq!(rig.get("/readyz").1["warnings"], json!([]));
    shim.wrong_by(46 * 86_400);
    let warnings = || rig.get("/readyz").1["warnings"].to_string();
    eventually("it is said", || warnings().contains("our certificate CN=ours expired at ").then_some(()));
    // What was agreed on before goes on; a new connection looks at the clock.
    assert_eq!(send(&mut sender, "A-2"), "AA");
    assert_eq!(peer.line(), "TLSv1.3 A-2");
    drop(peer);
    let theirs = authority.issue_for("theirs", &["localhost"], (-1, 45));
    let (peer, _) = serve(&rig, "same", &theirs, &json!({ "port": port }));
    assert_eq!(send(&mut sender, "A-3"), "AA");
    let lane = || rig.get("/api/v1/channels").1["channels"][0]["lanes"][1].clone();
    eventually_within(Duration::from_secs(20), "the lane pauses", || {
        lane()["error"].as_str().is_some_and(|error| error.contains("its certificate expired at ")).then_some(())
    });
    drop(peer);
    let renewed = authority.issue_for("theirs", &["localhost"], (-1, 90));
    let (peer, _) = serve(&rig, "renewed", &renewed, &json!({ "port": port }));
    assert_eq!(peer.line(), "TLSv1.3 A-3");
}
