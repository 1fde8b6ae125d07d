//! TLS for MLLP against OpenSSL, in both directions (peer-cases A32 and D12, security A02 and A04). What goes wrong with
//! certificates while the engine runs: `faults/tls.rs`.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use labwire::journal::Outgoing;
use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::mllp_client::{MllpClient, field, frame};
use crate::support::options;
use crate::support::pki::{Authority, Identity, self_signed};
use crate::support::rig::{Rig, labwire};
use crate::support::tls_peer::TlsPeer;

/// Writes a certificate and its key into the rig's folder, as `NAME.crt` and `NAME.key`.
fn put(rig: &Rig, name: &str, identity: &Identity) {
    rig.write(&format!("secrets/{name}.key"), &identity.key);
    rig.write(&format!("secrets/{name}.crt"), &identity.cert);
}

fn path(rig: &Rig, name: &str) -> String {
    rig.path().join("secrets").join(name).display().to_string()
}

fn message(id: &str, application: &str, facility: &str) -> String {
    format!("MSH|^~\\&|{application}|{facility}|R|RF|2026||ORU^R01|{id}|P|2.5\rPID|1||77||SECRET^PATIENT\r")
}

/// An engine that listens with TLS: its certificate is for `localhost`, and clients come from the authority that is given back.
fn listener(source: &str) -> (Rig, Authority) {
    let mut rig = Rig::new();
    let authority = Authority::new("Test authority");
    put(&rig, "our", &authority.issue("lab.example", &["localhost"]));
    rig.write("secrets/ca.pem", authority.pem());
    rig.write("channels/channel.toml", channel(source));
    rig.start();
    (rig, authority)
}

fn channel(source: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{source}\n\
         [destination.archive]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"{{{{ meta.id }}}}.hl7\"\n"
    )
}

const TLS: &str = r#"tls = { cert = { file = "../secrets/our.crt" }, key = { file = "../secrets/our.key" } }"#;
const MUTUAL: &str = r#"tls = { cert = { file = "../secrets/our.crt" }, key = { file = "../secrets/our.key" }, client_ca = { file = "../secrets/ca.pem" } }"#;

/// Options of a client that trusts the authority, and shows this certificate if one is named.
fn client(rig: &Rig, identity: Option<&str>) -> Value {
    let mut options = json!({ "host": "localhost", "port": rig.listener("results").port(), "ca": path(rig, "ca.pem") });
    if let Some(name) = identity {
        options["cert"] = path(rig, &format!("{name}.crt")).into();
        options["key"] = path(rig, &format!("{name}.key")).into();
    }
    options
}

fn counter(rig: &Rig, name: &str) -> u64 {
    rig.get("/api/v1/channels").1["channels"][0]["counters"][name].as_u64().unwrap()
}

#[track_caller]
fn logged(rig: &Rig, words: &[&str]) {
    eventually(&format!("the log has a line with {words:?}"), || {
        rig.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

#[test]
fn openssl_s_client_is_acknowledged() {
    let (rig, _) = listener(TLS);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost", version])
            .args(["-CAfile", &path(&rig, "ca.pem"), "-connect", &rig.listener("results").to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(&frame(message(version, "A", "B").as_bytes())).unwrap();
        let mut output = openssl.stdout.take().unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\x1c\r") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut output, &mut byte).unwrap();
            read.push(byte[0]);
        }
        assert_eq!(field(&String::from_utf8_lossy(&read), "MSA", 2), version);
        // With `-quiet` it does not end by itself.
        openssl.kill().unwrap();
        openssl.wait().unwrap();
    }
    assert_eq!(rig.messages("").len(), 2);
}

#[test]
fn a02_only_clients_of_the_authority_get_in() {
    let (rig, authority) = listener(MUTUAL);
    put(&rig, "good", &authority.issue("partner.example", &[]));
    put(&rig, "old", &authority.issue_for("old.example", &[], (-30, -2)));
    put(&rig, "other", &Authority::new("Another authority").issue("other.example", &[]));
    for (identity, words) in [
        (None, "it shows no certificate"),
        (Some("old"), "its certificate expired at "),
        (Some("other"), "its certificate comes from an authority that is not in `client_ca`: CN=other.example"),
    ] {
        let (mut peer, first) = TlsPeer::connect(&client(&rig, identity));
        // In TLS 1.3 a client hears only afterwards that it is not wanted.
        let answer = if first.starts_with("ERROR") { first } else { peer.send(&message("1", "A", "B")) };
        assert!(answer.starts_with("ERROR"), "{identity:?}: {answer}");
        logged(&rig, &["WARN", "no TLS came about", words]);
    }
    let (mut peer, first) = TlsPeer::connect(&client(&rig, Some("good")));
    assert_eq!(first, "TLSv1.3 lab.example");
    assert_eq!(field(&peer.send(&message("2", "A", "B")), "MSA", 1), "AA");
    assert_eq!(counter(&rig, "handshakes_failed"), 3);
    assert_eq!(rig.messages("").len(), 1, "nobody else's message came in");
}

/// A revoked one, one of an authority that has no list here, and a list that is renewed while the engine runs.
#[test]
fn a02_a_revoked_certificate_is_refused() {
    let (authority, other) = (Authority::new("Test authority"), Authority::new("Another authority"));
    let (good, bad, later) = (authority.issue("good", &[]), authority.issue("bad", &[]), authority.issue("later", &[]));
    let mut rig = Rig::new();
    put(&rig, "our", &authority.issue("lab.example", &["localhost"]));
    for (name, identity) in [("good", &good), ("bad", &bad), ("later", &later), ("other", &other.issue("other", &[]))] {
        put(&rig, name, identity);
    }
    rig.write("secrets/ca.pem", [authority.pem(), other.pem()].concat());
    rig.write("secrets/crl.pem", authority.revoke(&[&bad]));
    let tls = format!("{}, client_crl = {{ file = \"../secrets/crl.pem\" }} }}", MUTUAL.strip_suffix(" }").unwrap());
    rig.write("channels/channel.toml", channel(&tls));
    rig.start();
    let code = |name: &str| {
        let (mut peer, first) = TlsPeer::connect(&client(&rig, Some(name)));
        let answer = if first.starts_with("ERROR") { first } else { peer.send(&message(name, "A", "B")) };
        field(&answer, "MSA", 1)
    };
    assert_eq!([code("good"), code("bad"), code("later"), code("other")], ["AA", "", "AA", ""]);
    logged(&rig, &["WARN", "no TLS came about", "its certificate was revoked: CN=bad"]);
    logged(&rig, &["WARN", "no list in `client_crl` is of the authority of its certificate: CN=other"]);
    assert_eq!((counter(&rig, "handshakes_failed"), rig.messages("").len()), (2, 2));
    rig.write("secrets/crl.pem", authority.revoke(&[&bad, &later]));
    eventually("the new list is in effect", || code("later").is_empty().then_some(()));
    assert_eq!(code("good"), "AA");
}

#[test]
fn a04_a_certificate_is_bound_to_what_its_owner_may_send() {
    let authority = Authority::new("Test authority");
    let by_pin = authority.issue("somebody", &[]);
    let mut rig = Rig::new();
    put(&rig, "our", &authority.issue("lab.example", &["localhost"]));
    put(&rig, "analyser", &authority.issue("Analyser", &["Analyser-1.lab.example"]));
    put(&rig, "stranger", &authority.issue("stranger.example", &[]));
    put(&rig, "pinned", &by_pin);
    rig.write("secrets/ca.pem", authority.pem());
    let clients = format!(
        "[source.clients]\n\"analyser-1.lab.example\" = {{ \"MSH-3\" = [\"A1\", \"A2\"], \"MSH-4\" = \"LAB\" }}\n\"{}\" = {{}}\n",
        by_pin.pin
    );
    rig.write("channels/channel.toml", channel(&format!("{MUTUAL}\n{clients}")));
    rig.start();
    let (mut peer, _) = TlsPeer::connect(&client(&rig, Some("analyser")));
    for (id, application, facility, code, why) in [
        ("1", "A1", "LAB", "AA", ""),
        ("2", "A2^1.2^ISO", "LAB", "AA", ""),
        ("3", "A3", "LAB", "AR", "MSH-3 is not one that"),
        ("4", "A1", "WARD", "AR", "MSH-4 is not one that"),
    ] {
        let answer = peer.send(&message(id, application, facility));
        assert_eq!(field(&answer, "MSA", 1), code, "{answer}");
        assert!(field(&answer, "MSA", 3).starts_with(why), "{answer}");
        assert_eq!(answer.contains("ERR|||207^"), code == "AR", "{answer}");
    }
    assert_eq!(rig.messages("&state=rejected").len(), 2, "what was tried is kept");
    let (mut peer, _) = TlsPeer::connect(&client(&rig, Some("pinned")));
    assert_eq!(field(&peer.send(&message("5", "ANY", "THING")), "MSA", 1), "AA");
    let (mut peer, _) = TlsPeer::connect(&client(&rig, Some("stranger")));
    assert!(peer.send(&message("6", "A1", "LAB")).starts_with("ERROR"));
    logged(&rig, &["WARN", "its certificate is not in `clients`", "CN=stranger.example"]);
    assert_eq!(counter(&rig, "connections_not_allowed"), 1);
    assert_eq!(rig.messages("").len(), 5);
}

#[test]
fn a_handshake_that_does_not_end_takes_a_slot_until_its_time_is_up() {
    let tls = format!("{}, handshake_timeout = \"400ms\" }}", TLS.strip_suffix(" }").unwrap());
    let (rig, _) = listener(&format!("max_connections = 1\n{tls}"));
    let mut silent = MllpClient::connect(rig.listener("results")).unwrap();
    let mut second = MllpClient::connect(rig.listener("results")).unwrap();
    assert!(second.is_closed());
    logged(&rig, &["connection refused", "`max_connections`"]);
    assert!(silent.is_closed());
    logged(&rig, &["WARN", "closed: `handshake_timeout` passed"]);
    let (mut peer, _) = TlsPeer::connect(&client(&rig, None));
    assert_eq!(field(&peer.send(&message("1", "A", "B")), "MSA", 1), "AA");
}

#[test]
fn what_calls_with_the_wrong_protocol_is_named() {
    let (rig, _) = listener(TLS);
    for (bytes, protocol) in [
        (frame(message("1", "A", "B").as_bytes()), "MLLP in the clear"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "HTTP"),
        (b"SSH-2.0-x\r\n".to_vec(), "SSH"),
        (b"hello".to_vec(), "no TLS"),
    ] {
        let mut peer = MllpClient::connect(rig.listener("results")).unwrap();
        peer.write(&bytes).unwrap();
        assert!(peer.read().is_err(), "nothing is answered");
        logged(&rig, &["WARN", "wrong protocol on this port, which speaks TLS", protocol]);
    }
    let (_, first) = TlsPeer::connect(&{
        let mut options = client(&rig, None);
        options["most"] = "TLSv1_1".into();
        options
    });
    assert!(first.starts_with("ERROR"), "{first}");
    logged(&rig, &["WARN", "it speaks neither TLS 1.2 nor TLS 1.3"]);
    drop(rig);
    let rig = Rig::with(&channel(""));
    let options = json!({ "host": "localhost", "port": rig.listener("results").port() });
    assert!(TlsPeer::connect(&options).1.starts_with("ERROR"));
    logged(&rig, &["WARN", "wrong protocol on this port, which speaks MLLP", "TLS"]);
}

#[test]
fn only_allowed_networks_get_in() {
    let rig = Rig::with(&channel("allow = [\"10.0.0.0/8\", \"127.0.0.2\"]"));
    let mut peer = MllpClient::connect(rig.listener("results")).unwrap();
    assert!(peer.is_closed());
    logged(&rig, &["WARN", "connection refused: its address is not in `allow`", "127.0.0.1:"]);
    assert_eq!(counter(&rig, "connections_not_allowed"), 1);
    rig.write("channels/channel.toml", channel("allow = [\"127.0.0.0/8\"]"));
    eventually("the new list is in effect", || {
        let address = rig.get("/api/v1/channels").1["channels"][0]["listens_on"].as_str()?.parse().ok()?;
        MllpClient::connect(address).ok()?.send(message("1", "A", "B").as_bytes()).ok()
    });
}

fn outgoing(id: &str) -> Outgoing {
    Outgoing { content: message(id, "A", "B").into_bytes().into(), properties: Default::default() }
}

/// A destination with these options, against a peer with that certificate.
fn send_to(identity: &Identity, more: &Value, tls: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut server = json!({ "cert": file("c", &identity.cert), "key": file("k", &identity.key) });
    server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (peer, address) = TlsPeer::serve(&server);
    let config =
        options::destination("mllp", &format!("address = \"localhost:{}\"\ntls = {tls}", address.port())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut destination = runtime.block_on(config.build(&options::place("peer"))).map_err(|error| error.to_string())?;
    for id in ["1", "2"] {
        runtime.block_on(destination.send(&outgoing(id))).map_err(|error| format!("{:?}: {error}", error.class))?;
    }
    Ok(format!("{}, {}", peer.line(), peer.line()))
}

#[test]
fn every_option_of_a_destination_matters() {
    let authority = Authority::new("Test authority");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("{{ file = \"{}\" }}", path.display())
    };
    let ca = file("ca", &authority.pem());
    let good = authority.issue("peer", &["localhost"]);
    let ok = |result| assert_eq!(result, Ok("TLSv1.3 1, TLSv1.3 2".to_owned()));
    ok(send_to(&good, &json!({}), &format!("{{ ca = {ca} }}")));
    let old = send_to(&good, &json!({ "most": "TLSv1_2" }), &format!("{{ ca = {ca} }}"));
    assert_eq!(old, Ok("TLSv1.2 1, TLSv1.2 2".to_owned()));
    let unknown = send_to(&good, &json!({}), "true").unwrap_err();
    assert!(unknown.contains("Tls: ") && unknown.contains("not known to this system: CN=peer"), "{unknown}");
    // The name.
    let named = authority.issue("peer", &["mirth.example"]);
    let wrong = send_to(&named, &json!({}), &format!("{{ ca = {ca} }}")).unwrap_err();
    assert!(wrong.contains("its certificate is for mirth.example, and not for localhost"), "{wrong}");
    ok(send_to(&named, &json!({}), &format!("{{ ca = {ca}, server_name = \"mirth.example\" }}")));
    // The pin: names, dates and authority do not matter, another certificate is refused.
    let own = self_signed("device", &[], (-30, -2));
    ok(send_to(&own, &json!({}), &format!("{{ pin = \"{}\" }}", own.pin)));
    let pins = format!("{{ pin = [\"{}\", \"{}\"] }}", good.pin, own.pin);
    ok(send_to(&own, &json!({}), &pins));
    let other = send_to(&good, &json!({}), &format!("{{ pin = \"{}\" }}", own.pin)).unwrap_err();
    assert!(other.contains(&format!("pinned {}, presented CN=peer", own.pin)) && other.contains(&good.pin), "{other}");
    // Our certificate.
    let client = authority.issue("labwire", &[]);
    let (cert, key) = (file("client.crt", &client.cert), file("client.key", &client.key));
    let wants = json!({ "ca": folder.path().join("ca").display().to_string() });
    let refused = send_to(&good, &wants, &format!("{{ ca = {ca} }}")).unwrap_err();
    assert!(refused.starts_with("Tls: ") && refused.contains("it wants a certificate of ours"), "{refused}");
    ok(send_to(&good, &wants, &format!("{{ ca = {ca}, cert = {cert}, key = {key} }}")));
    let stranger = self_signed("labwire", &[], (-1, 30));
    let (cert, key) = (file("stranger.crt", &stranger.cert), file("stranger.key", &stranger.key));
    let refused = send_to(&good, &wants, &format!("{{ ca = {ca}, cert = {cert}, key = {key} }}")).unwrap_err();
    assert!(refused.starts_with("Tls: ") && refused.contains("it refuses our certificate"), "{refused}");
}

#[test]
fn a_kept_connection_is_used_again_while_it_is_open() {
    let own = self_signed("device", &[], (-1, 30));
    let pin = format!("{{ pin = \"{}\" }}", own.pin);
    for most in ["TLSv1_2", "TLSv1_3"] {
        let kept = send_to(&own, &json!({ "number": true, "most": most }), &pin).unwrap();
        assert!(kept.ends_with(" 1 1, TLSv1.2 2 1") || kept.ends_with(" 1 1, TLSv1.3 2 1"), "{kept}");
        let closed = send_to(&own, &json!({ "number": true, "once": true, "most": most }), &pin).unwrap();
        assert!(closed.ends_with(" 2 2"), "{closed}");
    }
}

/// A destination's own certificate, renewed on disk, is shown at the next connection.
#[test]
fn a_destinations_renewed_certificate_is_used() {
    let (authority, folder) = (Authority::new("Test authority"), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (server, wrong) = (authority.issue("peer", &["localhost"]), self_signed("labwire", &[], (-1, 30)));
    [
        ("ca", &authority.pem()),
        ("s.crt", &server.cert),
        ("s.key", &server.key),
        ("c.crt", &wrong.cert),
        ("c.key", &wrong.key),
    ]
    .into_iter()
    .for_each(|(name, text)| write(name, text));
    let (_peer, address) = TlsPeer::serve(&json!({ "cert": path("s.crt"), "key": path("s.key"), "ca": path("ca") }));
    let file = |name: &str| format!("{{ file = \"{}\" }}", path(name));
    let (ca, cert, key) = (file("ca"), file("c.crt"), file("c.key"));
    let tls = format!("address = \"localhost:{}\"\ntls = {{ ca = {ca}, cert = {cert}, key = {key} }}", address.port());
    let config = options::destination("mllp", &tls).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut destination = runtime.block_on(config.build(&options::place("peer"))).unwrap();
    let outgoing = outgoing("1");
    let mut send = || runtime.block_on(destination.send(&outgoing));
    assert!(send().unwrap_err().to_string().contains("it refuses our certificate"));
    let right = authority.issue("labwire", &[]);
    write("c.crt", &right.cert);
    write("c.key", &right.key);
    eventually("the new one is shown", || send().ok());
}

#[test]
fn a_peer_that_speaks_no_tls_is_named() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = crate::support::mllp_server::MllpServer::start();
    for (address, more, words) in [
        (
            silent.local_addr().unwrap(),
            "connect_timeout = \"200ms\"",
            "Timeout: ADDRESS: connected, but no TLS within 200ms",
        ),
        (plain.address(), "connect_timeout = \"200ms\"", "Timeout: ADDRESS: connected, but no TLS within 200ms"),
    ] {
        let config = options::destination("mllp", &format!("address = \"{address}\"\ntls = true\n{more}")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outgoing = outgoing("1");
        let error = runtime.block_on(async {
            config.build(&options::place("peer")).await.unwrap().send(&outgoing).await.unwrap_err()
        });
        let said = format!("{:?}: {error}", error.class);
        assert!(said.starts_with(&words.replace("ADDRESS", &address.to_string())), "{said}");
    }
    assert!(plain.received().is_empty());
    // `tls = false` is no TLS.
    let config = options::destination("mllp", &format!("address = \"{}\"\ntls = false", plain.address())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sent =
        runtime.block_on(async { config.build(&options::place("peer")).await.unwrap().send(&outgoing("1")).await });
    assert!(sent.is_ok() && plain.received().len() == 1);
}

/// `tls = true` is about the authorities that the system knows; `SSL_CERT_FILE` names another file of them.
#[test]
fn the_systems_authorities_are_asked() {
    let authority = Authority::new("A hospital's own authority");
    let mut rig = Rig::new();
    put(&rig, "peer", &authority.issue("peer", &["localhost"]));
    rig.write("secrets/ca.pem", authority.pem());
    let (peer, address) = TlsPeer::serve(&json!({ "cert": path(&rig, "peer.crt"), "key": path(&rig, "peer.key") }));
    rig.environment.push(("SSL_CERT_FILE".to_owned(), path(&rig, "ca.pem")));
    rig.write(
        "channels/channel.toml",
        format!(
            "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n\
             [destination.peer]\ntype = \"mllp\"\naddress = \"localhost:{}\"\ntls = true\n",
            address.port()
        ),
    );
    rig.start();
    MllpClient::connect(rig.listener("results")).unwrap().send(message("1", "A", "B").as_bytes()).unwrap();
    assert_eq!(peer.line(), "TLSv1.3 1");
}

#[test]
fn check_looks_into_the_files() {
    let rig = Rig::new();
    let with_crl =
        format!("{}, client_crl = {{ file = \"../secrets/crl.pem\" }} }}", MUTUAL.strip_suffix(" }").unwrap());
    rig.write("channels/channel.toml", channel(&with_crl));
    let check = || {
        let output = labwire().arg("check").arg(rig.channels()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = check();
    assert!(text.contains("our.crt cannot be used: there is no such file") && text.contains("4 mistakes"), "{text}");
    let (ours, other) = (self_signed("a", &[], (-1, 9)), self_signed("b", &[], (-1, 9)));
    put(&rig, "our", &ours);
    let authority = Authority::new("x");
    rig.write("secrets/ca.pem", authority.pem());
    rig.write("secrets/crl.pem", authority.revoke(&[]));
    assert!(check().contains("no mistakes"), "{}", check());
    for (file, content, words) in [
        ("our.crt", ours.key.clone().into_bytes(), "it holds a private key, and no certificate"),
        ("our.crt", b"hello".to_vec(), "it holds no certificate in PEM form"),
        ("our.crt", vec![0x30, 0x82, 0xff], "it is no text (PEM), but binary"),
        ("our.crt", ours.cert.replacen("MII", "AAA", 1).into_bytes(), "certificate 1 in it cannot be read"),
        ("our.key", ours.cert.clone().into_bytes(), "it holds a certificate, and no private key"),
        ("our.key", other.key.clone().into_bytes(), "the key is not that of the certificate"),
        ("our.key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n".to_vec(), "openssl pkey -in FILE -out NEW"),
        ("ca.pem", b"".to_vec(), "it holds no certificate"),
        ("crl.pem", ours.cert.clone().into_bytes(), "it holds no revocation list in PEM form"),
    ] {
        let good = std::fs::read(path(&rig, file)).unwrap();
        rig.write(&format!("secrets/{file}"), content);
        let text = check();
        assert!(text.contains(words) && text.contains(file) && text.contains("1 mistake\n"), "{words}: {text}");
        rig.write(&format!("secrets/{file}"), good);
    }
}

#[test]
fn a_listener_whose_key_is_missing_does_not_listen_in_the_clear() {
    let mut rig = Rig::new();
    rig.write("channels/channel.toml", channel(TLS));
    rig.start();
    let state = || rig.get("/api/v1/channels").1["channels"][0].clone();
    assert!(state()["reason"].as_str().unwrap().contains("our.crt"), "{}", state());
    assert_eq!(rig.get("/readyz").0, 503);
    put(&rig, "our", &self_signed("lab.example", &["localhost"], (-1, 90)));
    crate::support::eventually::eventually_within(Duration::from_secs(20), "it listens", || {
        (state()["state"] == "running").then_some(())
    });
}
