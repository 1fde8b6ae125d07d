//! A server that nobody here wrote (Python's `http.server`), in the clear and over TLS, with certificates by OpenSSL.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use labwire::destination::{Disposition, FaultClass};
use serde_json::Value;

use super::{ADT, Sender, adt, channel};
use crate::lanes::{message, send};
use crate::support::eventually::eventually;
use crate::support::python;
use crate::support::rig::Rig;
use crate::support::root;

struct Python {
    process: Child,
    port: u16,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Python {
    fn start(arguments: &[&Path]) -> Python {
        let mut process = Command::new(python::program("python3"))
            .arg(root().join("tests/it/http_server.py"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.next().unwrap().parse().unwrap();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let sink = seen.clone();
        std::thread::spawn(move || {
            for line in lines {
                sink.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Python { process, port, seen }
    }

    fn seen(&self, count: usize) -> Vec<Value> {
        eventually("the requests are seen", || {
            Some(self.seen.lock().unwrap().clone()).filter(|seen| seen.len() == count)
        })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn python_gets_what_was_sent_on_one_connection() {
    let server = Python::start(&[]);
    let url = format!("http://127.0.0.1:{}/in?id={{{{ meta.id }}}}", server.port);
    let rig = Rig::with(&channel(&url, "content_type = \"x-application/hl7-v2+er7\""));
    send(&rig, &["A1", "A2", "A3"]);
    rig.wait_for("sent", 3);
    let seen = server.seen(3);
    assert!(seen.iter().all(|each| each["port"] == seen[0]["port"]), "{seen:?}");
    let id = message(&rig, "A2")["id"].as_str().unwrap().to_owned();
    assert_eq!(seen[1]["path"], format!("/in?id={id}"));
    assert_eq!((&seen[1]["key"], &seen[1]["type"]), (&format!("{id}-web").into(), &"x-application/hl7-v2+er7".into()));
    assert!(seen[1]["body"].as_str().unwrap().contains("|A2|"), "{seen:?}");
    let story = rig.story(&id).to_string();
    let length = seen[1]["body"].as_str().unwrap().len();
    assert!(story.contains(&format!("{{\\\"stored\\\": {length}}}")), "{story}");
}

/// Runs OpenSSL in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a server's and a client's certificate by it.
fn certificates(folder: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN=authority -days 30"));
    std::fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    std::fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "client"] {
        openssl(folder, &format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            folder,
            &format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -out {name}.pem -days 30 -extfile {name}.ext"),
        );
    }
}

#[test]
fn python_is_verified_and_sees_who_calls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let server = Python::start(&[&file("server.pem"), &file("server.key"), &file("ca.pem")]);
    let url = format!("https://localhost:{}/in", server.port);
    let given = |name: &str| format!("{{ file = \"{}\" }}", file(name).display());
    let own = format!("cert = {}, key = {}", given("client.pem"), given("client.key"));
    let mutual = format!("tls = {{ ca = {}, {own} }}", given("ca.pem"));

    let mut sender = Sender::to(&url, &mutual);
    let in_four_weeks = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(28 * 24);
    assert_eq!(sender.config.warnings(in_four_weeks).len(), 1, "our certificate ends soon");
    assert!(sender.config.mistakes().is_empty());
    let absent = format!("url = \"https://lis.example/\"\ntls = {{ ca = {} }}", given("absent.pem"));
    assert_eq!(crate::support::options::destination("http", &absent).unwrap().mistakes().len(), 1);
    for _ in 0..2 {
        assert_eq!(sender.send(&adt()).unwrap().response.unwrap(), format!("{{\"stored\": {}}}", ADT.len()));
    }
    let seen = server.seen(2);
    assert_eq!((&seen[0]["client"], &seen[0]["body"]), (&"client".into(), &ADT.into()));
    assert_eq!(seen[0]["port"], seen[1]["port"], "one handshake for both");

    // An authority that nobody knows, a name that is in no certificate, no certificate of ours, no TLS at all.
    for (url, options, class) in [
        (url.as_str(), "", FaultClass::Tls),
        (
            url.as_str(),
            &format!("tls = {{ ca = {}, server_name = \"lis.example\", {own} }}", given("ca.pem")),
            FaultClass::Tls,
        ),
        (url.as_str(), &format!("tls = {{ ca = {} }}", given("ca.pem")), FaultClass::Tls),
    ] {
        let error = Sender::to(url, options).send(&adt()).unwrap_err();
        assert_eq!((error.class, error.disposition()), (class, Disposition::Pause), "{options}: {error}");
    }
    assert_eq!(server.seen(2).len(), 2, "nothing was sent to whom nobody verified");

    let plain = Python::start(&[]);
    let error = Sender::to(&format!("https://localhost:{}/in", plain.port), &mutual).send(&adt()).unwrap_err();
    assert_eq!((error.class, error.disposition()), (FaultClass::Tls, Disposition::Pause), "{error}");
    let error = Sender::to(&url.replace("https", "http"), "").send(&adt()).unwrap_err();
    assert_ne!(error.disposition(), Disposition::Dead, "{error}");
}

/// A proxy that makes one tunnel, to wherever it is asked; gives what it was asked.
fn tunnel() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = std::thread::spawn(move || {
        let (mut near, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            near.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
        let mut far = TcpStream::connect(line.split(' ').nth(1).unwrap()).unwrap();
        near.write_all(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n").unwrap();
        let (mut from_near, mut to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_near, &mut to_far));
        std::thread::spawn(move || std::io::copy(&mut far, &mut near));
        line
    });
    (port, asked)
}

/// The certificate that is verified is the server's, not the proxy's.
#[test]
fn python_is_reached_through_a_tunnel() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name);
    let server = Python::start(&[&file("server.pem"), &file("server.key")]);
    let (port, asked) = tunnel();
    let options = format!(
        "tls = {{ ca = {{ file = \"{}\" }} }}\nproxy = {{ address = \"127.0.0.1:{port}\" }}",
        file("ca.pem").display()
    );
    Sender::to(&format!("https://localhost:{}/in", server.port), &options).send(&adt()).unwrap();
    assert_eq!(asked.join().unwrap(), format!("CONNECT localhost:{} HTTP/1.1", server.port));
    assert_eq!(server.seen(1)[0]["body"], ADT);
}
