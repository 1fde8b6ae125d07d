//! What the SFTP destination does about connections: old servers, sharing, keeping alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use labwire::destination::Disposition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::ORDER;
use crate::support::eventually::eventually;
use crate::support::partner::{Make, Partner, names, noise, outgoing, parse, send};
use crate::support::rig::labwire;

/// A server that knows nothing newer than 2010.
const OLD: &str =
    "KexAlgorithms diffie-hellman-group14-sha1\nHostKeyAlgorithms ssh-rsa\nCiphers aes128-cbc\nMACs hmac-sha1\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_spoken_to_where_the_channel_file_says_so() {
    let partner = Partner::with_config(&["rsa"], OLD, None);
    let host_key = format!("\"{}\"", partner.sshd().fingerprint("rsa"));
    let mut destination = partner.destination(&[("host_key", &host_key)]).await;
    let error = send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Pause, "{error}");
    for words in [
        "no common key exchange: it offers diffie-hellman-group14-sha1; Labwire offers curve25519-sha256, ",
        "no common kind of host key: it offers ssh-rsa; Labwire offers ssh-ed25519",
        "no common cipher: it offers aes128-cbc; Labwire offers ",
        "no common checksum (MAC): it offers hmac-sha1; Labwire offers ",
    ] {
        assert!(error.message.contains(words), "{words}: {error}");
    }
    // What the error says is what helps.
    let (_, line) = error.message.split_once("legacy_algorithms = ").unwrap();
    assert_eq!(line, "[\"diffie-hellman-group14-sha1\", \"ssh-rsa\", \"aes128-cbc\", \"hmac-sha1\"]");
    let mut destination = partner.destination(&[("host_key", &host_key), ("legacy_algorithms", line)]).await;
    send(&mut destination, &outgoing(".", "a.hl7", noise(300_000))).await.unwrap();
    assert!(std::fs::read(partner.files().join("a.hl7")).unwrap() == noise(300_000));

    let part = "[\"diffie-hellman-group14-sha1\", \"ssh-rsa\", \"aes128-cbc\"]";
    let mut destination = partner.destination(&[("host_key", &host_key), ("legacy_algorithms", part)]).await;
    let error = send(&mut destination, &outgoing(".", "b.hl7", ORDER)).await.unwrap_err();
    assert!(!error.message.contains("key exchange") && error.message.contains("no common checksum"), "{error}");
    assert!(error.message.ends_with(&line.replace('[', "legacy_algorithms = [")), "{error}");
}

#[test]
fn algorithms_that_are_unknown_are_mistakes_and_old_ones_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let host_key = format!("SHA256:{}", "A".repeat(43));
    let options = |legacy: &str| {
        format!(
            "host = \"old.example\"\nuser = \"u\"\nkey = {{ file = \"k\" }}\nhost_key = \"{host_key}\"\nfile_name = \"a\"\n\
             legacy_algorithms = {legacy}\n"
        )
    };
    let found = parse(&options("[\"ssh-rsb\"]"), folder.path()).unwrap_err().join("\n");
    assert!(found.contains("did you mean `ssh-rsa`?"), "{found}");
    assert!(parse(&options("[\"none\"]"), folder.path()).is_err());

    let channel =
        "name = \"a\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.partner]\ntype = \"sftp\"\n";
    let file = folder.path().join("a.toml");
    for (legacy, words) in [
        ("[]", ""),
        ("[\"ssh-rsa\"]", "partner: old.example may use `ssh-rsa`, which is not safe any more"),
        ("[\"ssh-rsa\", \"3des-cbc\"]", "old.example may use `ssh-rsa`, `3des-cbc`, which are not safe any more"),
    ] {
        std::fs::write(&file, format!("{channel}{}", options(legacy))).unwrap();
        let output = labwire().arg("check").arg(&file).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(words) && said.contains("warning: ") != words.is_empty(), "{said}");
        let output = labwire().args(["check", "--format", "json"]).arg(&file).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["warnings"].as_array().unwrap().len(), usize::from(!words.is_empty()), "{said}");
    }
}

/// Destinations of several channels to one place share their connections; one with another password does not.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_go_the_same_way_share_a_few_connections() {
    let partner = Partner::start(Make::OpenSsh);
    let two = [("connections", "2")];
    let mut destinations = Vec::new();
    for _ in 0..6 {
        destinations.push(partner.destination(&two).await);
    }
    let sending = destinations.into_iter().enumerate().map(|(at, mut destination)| {
        tokio::spawn(async move {
            for number in 0..5 {
                let name = format!("{at}-{number}.hl7");
                send(&mut destination, &outgoing(".", &name, noise(400_000))).await.unwrap();
            }
            destination
        })
    });
    let sending: Vec<_> = sending.collect();
    let most = Arc::new(AtomicUsize::new(0));
    let watching = async {
        loop {
            most.fetch_max(partner.sshd().connections(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut kept = Vec::new();
    let all = async {
        for one in sending {
            kept.push(one.await.unwrap());
        }
    };
    tokio::select! { () = all => {}, () = watching => {} }
    assert_eq!(names(&partner.files()).len(), 30);
    assert_eq!(most.load(Ordering::Relaxed), 2, "connections at once");

    // A wider limit of another destination lets it have more: the smallest number binds only who names it.
    let mut wide = partner.destination(&[("connections", "4")]).await;
    send(&mut wide, &outgoing(".", "wide.hl7", ORDER)).await.unwrap();
    assert_eq!(partner.sshd().connections(), 2, "a kept connection is used by whoever comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_needs_is_closed_after_a_while() {
    let partner = Partner::start(Make::OpenSsh);
    let mut long = partner.destination(&[]).await;
    send(&mut long, &outgoing(".", "a.hl7", ORDER)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(partner.sshd().connections(), 1);
    let mut short = partner.destination(&[("idle_timeout", "\"100ms\"")]).await;
    send(&mut short, &outgoing(".", "b.hl7", ORDER)).await.unwrap();
    eventually("the connection is closed", || (partner.sshd().connections() == 0).then_some(()));
    send(&mut long, &outgoing(".", "c.hl7", ORDER)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_of_life_are_sent_while_nothing_else_is() {
    let partner = Partner::start(Make::OpenSsh);
    let pieces = Arc::new(AtomicUsize::new(0));
    let port = counter(partner.port(), pieces.clone()).await.to_string();
    for (keep_alive, some) in [("\"20s\"", false), ("\"1s\"", true)] {
        let options = [("port", &*port), ("keep_alive", keep_alive), ("user", &format!("\"{}\"", partner.user()))];
        // Another timeout does not matter, another user would: each round has a destination, and a connection, of its own.
        let mut destination = partner.destination(&options).await;
        send(&mut destination, &outgoing(".", &format!("{some}.hl7"), ORDER)).await.unwrap();
        let before = pieces.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        let more = pieces.load(Ordering::Relaxed) - before;
        assert_eq!(more > 0, some, "keep_alive = {keep_alive}: {more} pieces");
        assert!(more < 6, "keep_alive = {keep_alive}: {more} pieces");
        // What was kept is still good.
        send(&mut destination, &outgoing(".", &format!("{some}2.hl7"), ORDER)).await.unwrap();
    }
}

/// A proxy that counts what clients send.
async fn counter(server: u16, pieces: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let pieces = pieces.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                    pieces.fetch_add(1, Ordering::Relaxed);
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
        }
    });
    port
}
