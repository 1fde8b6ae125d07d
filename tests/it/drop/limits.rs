//! What clients of the hosted server can use up. Rows A13 and A25 are in `ssh.rs`.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Site, connect, hash};
use crate::support::eventually::eventually;
use crate::support::rig::labwire;

fn is_greeted(site: &Site) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(site.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (stream.read(&mut [0; 1]).unwrap_or(0) == 1).then_some(stream)
}

#[test]
fn connections_and_those_of_one_user() {
    let site = Site::with("limits = { connections = 4, connections_per_user = 2 }");
    let (one, two) = (site.login("acme"), site.login("acme"));
    assert!(site.try_login("acme", "acme").is_err(), "a third of one user");
    assert!(site.rig.log().contains("this user has too many connections"), "{}", site.rig.log());
    let strangers = [is_greeted(&site).unwrap(), is_greeted(&site).unwrap()];
    assert!(is_greeted(&site).is_none(), "a fifth connection");
    drop((strangers, two));
    eventually("there is room again", || site.try_login("acme", "acme").ok());
    assert!(one.names("/").is_ok());
}

#[test]
fn a_login_must_be_made_in_time_and_with_few_tries() {
    let mut site = Site::new();
    site.rig.write("channels/secrets/hash", hash("correct horse"));
    let more =
        "password = { file = \"secrets/hash\" }\nlimits = { login_time = \"3s\", login_tries = 1, failures = 0 }";
    site.rig.write("channels/orders.toml", super::channel("orders", "acme", more));
    site.rig.start();
    let (mut waiting, began) = (is_greeted(&site).unwrap(), Instant::now());
    waiting.read_to_end(&mut Vec::new()).unwrap();
    assert!((Duration::from_secs(2)..Duration::from_secs(9)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let session = connect(site.address());
    assert_eq!(session.userauth_password("acme", "wrong").unwrap_err().code(), ssh2::ErrorCode::Session(-18));
    let second = session.userauth_password("acme", "correct horse").unwrap_err().code();
    assert_ne!(second, ssh2::ErrorCode::Session(-18), "a second try was answered");
    connect(site.address()).userauth_password("acme", "correct horse").unwrap();
}

#[test]
fn who_is_quiet_for_too_long_is_cut_off() {
    let site = Site::with("limits = { idle_time = \"1s\" }");
    let acme = site.login("acme");
    assert!(acme.names("/").is_ok());
    eventually("the server has closed it", || {
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let (port, established) = (format!(":{:04X}", site.address().port()), "01");
        let is_open = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1).is_some_and(|local| local.ends_with(&port)) && words.get(3) == Some(&established)
        };
        (!connections.lines().any(is_open)).then_some(())
    });
    assert!(acme.names("/").is_err());
}

#[test]
fn the_hash_of_a_password_is_made_by_a_command() {
    let first = hash("correct horse");
    assert!(first.starts_with("$argon2id$v=19$") && first != hash("correct horse"), "{first}");
    let output = labwire().args(["key", "hash"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a password has from 1 to 1024 bytes"));
}
