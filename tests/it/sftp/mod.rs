//! The SFTP destination against two real servers: OpenSSH's, and Labwire's own.

mod connections;
mod faults;
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use labwire::destination::{Disposition, FaultClass, KINDS};
use labwire::message::{Format, Message, MessageIds, Meta, Origin};
use russh::MethodKind;

use crate::support::cutter::Cutter;
use crate::support::eventually::eventually;
use crate::support::interactive::Interactive;
use crate::support::partner::{MAKES, Make, PASSWORD, Partner, names, noise, outgoing, parse, send};
use crate::support::sshd::{fingerprint, keygen};

const ORDER: &str = "MSH|^~\\&|LIS|LAB|PARTNER|X|20260101||ORM^O01|1|P|2.5\rPID|1||4711||Secretname^Anna\r";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_under_its_name_and_nothing_else_is_left() {
    for make in MAKES {
        let partner = Partner::start(make);
        std::fs::create_dir_all(partner.files().join("orders/in")).unwrap();
        let mut destination = partner.destination(&[]).await;
        for content in [ORDER.into(), noise(0), noise(1), noise(32_768), noise(32_769), noise(20_000_000)] {
            let name = format!("X{}.hl7", content.len());
            let answer = send(&mut destination, &outgoing("orders/in", &name, content.clone())).await.unwrap();
            assert_eq!(answer, format!("stored orders/in/{name} ({} bytes)", content.len()), "{make:?}");
            let path = partner.files().join("orders/in");
            assert_eq!(names(&path), [name.as_str()], "{make:?}");
            assert!(std::fs::read(path.join(&name)).unwrap() == content, "{make:?}: {name} differs");
            std::fs::remove_file(path.join(&name)).unwrap();
        }
        let answer = send(&mut destination, &outgoing(".", "at the start.hl7", ORDER)).await.unwrap();
        assert_eq!(answer, format!("stored at the start.hl7 ({} bytes)", ORDER.len()), "{make:?}");
        assert_eq!(std::fs::read_to_string(partner.files().join("at the start.hl7")).unwrap(), ORDER, "{make:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f61_the_same_again_is_success_and_something_else_is_a_conflict() {
    for make in MAKES {
        let partner = Partner::start(make);
        let mut destination = partner.destination(&[]).await;
        let content = noise(300_000);
        let path = partner.files().join("a.hl7");
        send(&mut destination, &outgoing(".", "a.hl7", content.clone())).await.unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let answer = send(&mut destination, &outgoing(".", "a.hl7", content.clone())).await.unwrap();
        assert_eq!(answer, "already there: a.hl7 (300000 bytes)", "{make:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "{make:?}");

        let mut same_size = content.to_vec();
        *same_size.last_mut().unwrap() ^= 1;
        for other in [same_size.into(), noise(299_999), noise(0)] {
            let error = send(&mut destination, &outgoing(".", "a.hl7", other)).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Dead, "{make:?}: {error}");
            assert!(error.message.contains("conflict"), "{make:?}: {error}");
            assert!(std::fs::read(&path).unwrap() == content, "{make:?}: overwritten");
            assert_eq!(names(&partner.files()), ["a.hl7"], "{make:?}");
        }

        std::fs::create_dir(partner.files().join("folder.hl7")).unwrap();
        let error = send(&mut destination, &outgoing(".", "folder.hl7", ORDER)).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Dead, "{make:?}: {error}");
    }
}

/// The name is taken between our look and our rename: what is there wins.
#[tokio::test(flavor = "multi_thread")]
async fn f61_a_name_that_is_taken_meanwhile_is_not_overwritten() {
    for make in MAKES {
        for (theirs, outcome) in [(&b"theirs"[..], Err(Disposition::Dead)), (ORDER.as_bytes(), Ok(()))] {
            let partner = Partner::start(make);
            let files = partner.files();
            let mut content = Some(theirs.to_vec());
            let proxy = Cutter::start(partner.port(), move || {
                if names(&files).iter().any(|name| name.ends_with(".part"))
                    && let Some(theirs) = content.take()
                {
                    std::fs::write(files.join("a.hl7"), theirs).unwrap();
                }
                false
            });
            let port = proxy.await.address.port().to_string();
            let mut destination = partner.destination(&[("port", &port)]).await;
            let sent = send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await;
            assert_eq!(sent.map(drop).map_err(|error| error.disposition()), outcome, "{make:?}");
            assert_eq!(std::fs::read(partner.files().join("a.hl7")).unwrap(), theirs, "{make:?}");
            assert_eq!(names(&partner.files()), ["a.hl7"], "{make:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f59_a_server_killed_in_the_middle_gets_one_whole_file_later() {
    for make in MAKES {
        let mut partner = Partner::start(make);
        let mut destination = partner.destination(&[]).await;
        let order = outgoing(".", "a.hl7", noise(60_000_000));
        let sending = tokio::spawn({
            let order = order.clone();
            async move {
                let sent = send(&mut destination, &order).await;
                (destination, sent)
            }
        });
        let files = partner.files();
        let half = tokio::task::spawn_blocking(move || {
            eventually("the upload is under way", || {
                let part = names(&files).into_iter().find(|name| name.ends_with(".part"))?;
                let bytes = std::fs::metadata(files.join(&part)).ok()?.len();
                (bytes > 1_000_000).then_some(part)
            })
        });
        let half = half.await.unwrap();
        partner.kill().await;
        let (mut destination, sent) = sending.await.unwrap();
        let error = sent.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Retry, "{make:?}: {error}");
        assert_eq!(names(&partner.files()), [half.as_str()], "{make:?}");
        let error = send(&mut destination, &order).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Retry, "{make:?}: {error}");

        // Another destination, as after a restart of the engine: what the first left behind is found and removed.
        std::fs::write(partner.files().join(".b.hl7.1764000000000000.part"), "of another file").unwrap();
        partner.run();
        let mut after_restart = partner.destination(&[]).await;
        send(&mut after_restart, &order).await.unwrap();
        assert_eq!(names(&partner.files()), [".b.hl7.1764000000000000.part", "a.hl7"], "{make:?}");
        assert!(std::fs::read(partner.files().join("a.hl7")).unwrap() == order.content, "{make:?}: differs");
        assert!(send(&mut destination, &order).await.unwrap().starts_with("already there"), "{make:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_died_is_replaced_within_the_attempt() {
    for make in MAKES {
        let mut partner = Partner::start(make);
        let mut destination = partner.destination(&[]).await;
        send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap();
        partner.kill().await;
        partner.run();
        send(&mut destination, &outgoing(".", "b.hl7", ORDER)).await.unwrap();
        assert_eq!(names(&partner.files()), ["a.hl7", "b.hl7"], "{make:?}");
    }
}

/// The connection breaks after the server has renamed and before it can say so.
#[tokio::test(flavor = "multi_thread")]
async fn f60_an_unanswered_rename_is_found_out_by_looking() {
    for make in MAKES {
        for taken_away in [false, true] {
            let partner = Partner::start(make);
            let last = partner.files().join("a.hl7");
            let cut = Arc::new(AtomicBool::new(false));
            let proxy = Cutter::start(partner.port(), {
                let (last, cut) = (last.clone(), cut.clone());
                move || last.exists() && !cut.swap(true, Ordering::Relaxed)
            });
            let port = proxy.await.address.port().to_string();
            let mut destination = partner.destination(&[("port", &port)]).await;
            let order = outgoing(".", "a.hl7", ORDER);
            let error = send(&mut destination, &order).await.unwrap_err();
            assert!(cut.load(Ordering::Relaxed) && error.disposition() == Disposition::Retry, "{make:?}: {error}");
            assert_eq!(std::fs::read_to_string(&last).unwrap(), ORDER, "{make:?}");
            if taken_away {
                std::fs::remove_file(&last).unwrap();
            }
            let answer = send(&mut destination, &order).await.unwrap();
            let (words, left) = if taken_away { ("taken away", vec![]) } else { ("already there", vec!["a.hl7"]) };
            assert!(answer.contains(words), "{make:?}: {answer}");
            assert_eq!(names(&partner.files()), left, "{make:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_attempt_leaves_nothing_under_the_final_name() {
    for make in MAKES {
        let partner = Partner::start(make);
        let mut destination = partner.destination(&[]).await;
        let order = outgoing(".", "a.hl7", noise(60_000_000));
        let under_way = || names(&partner.files()).iter().any(|name| name.ends_with(".part"));
        let begun = Instant::now();
        tokio::select! {
            sent = destination.send(&order) => panic!("{make:?}: not dropped, {sent:?}"),
            () = async { while !under_way() { tokio::task::yield_now().await } } => {}
        }
        assert!(!partner.files().join("a.hl7").exists(), "{make:?}");
        // Were the first attempt still at it, the file would be there already.
        assert!(send(&mut destination, &order).await.unwrap().starts_with("stored"), "{make:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{make:?}: {:?}", begun.elapsed());
        assert_eq!(names(&partner.files()), ["a.hl7"], "{make:?}");
        assert!(std::fs::read(partner.files().join("a.hl7")).unwrap() == order.content, "{make:?}: differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f64_a_changed_host_key_is_refused_with_both_fingerprints() {
    for make in MAKES {
        let mut partner = Partner::start(make);
        let pinned = partner.fingerprint();
        let mut destination = partner.destination(&[]).await;
        send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap();
        partner.change_host_key().await;
        let presented = partner.fingerprint();
        let error = send(&mut destination, &outgoing(".", "b.hl7", ORDER)).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Pause, "{make:?}: {error}");
        assert!(error.message.contains(&pinned) && error.message.contains(&presented), "{make:?}: {error}");
        assert_ne!(pinned, presented);
        assert_eq!(names(&partner.files()), ["a.hl7"], "{make:?}");

        let both = format!("[\"{pinned}\", \"{presented}\"]");
        let mut rotated = partner.destination(&[("host_key", &both)]).await;
        send(&mut rotated, &outgoing(".", "b.hl7", ORDER)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_key_of_any_kind_is_asked_for() {
    let partner = Partner::with_every_host_key();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let pinned = format!("\"{}\"", partner.sshd().fingerprint(kind));
        let mut destination = partner.destination(&[("host_key", &pinned)]).await;
        for name in [format!("{kind}1.hl7"), format!("{kind}2.hl7")] {
            send(&mut destination, &outgoing(".", &name, ORDER)).await.expect(kind);
        }
    }
}

/// The kind of key that was pinned is gone, and with it what we ask for since it was found.
#[tokio::test(flavor = "multi_thread")]
async fn f64_a_host_key_of_another_kind_is_refused_with_both_fingerprints() {
    let mut partner = Partner::with_every_host_key();
    let pinned = partner.sshd().fingerprint("rsa");
    let mut destination = partner.destination(&[("host_key", &format!("\"{pinned}\""))]).await;
    send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap();
    partner.change_kinds(&["ed25519"]);
    let presented = partner.fingerprint();
    let error = send(&mut destination, &outgoing(".", "b.hl7", ORDER)).await.unwrap_err();
    assert_eq!(error.class, FaultClass::HostKey, "{error}");
    assert!(error.message.contains(&pinned) && error.message.contains(&presented), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_pauses_the_destination() {
    for make in MAKES {
        let partner = Partner::start(make);
        let folder = partner.folder.path();
        keygen(&["-t", "ed25519", "-f", folder.join("other").to_str().unwrap()], "");
        std::fs::write(folder.join("wrong"), "wrong horse").unwrap();
        std::fs::write(folder.join("broken"), "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n").unwrap();
        for (more, words) in [
            (&[("key", "{ file = \"other\" }")][..], "by key"),
            (&[("key", ""), ("password", "{ file = \"wrong\" }")], "by password"),
            (&[("user", "\"nobody-here\"")], "by key"),
            (&[("key", "{ file = \"broken\" }")], "cannot be used"),
        ] {
            let mut destination = partner.destination(more).await;
            let error = send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Pause, "{make:?} {more:?}: {error}");
            assert!(error.message.contains(words), "{make:?} {more:?}: {error}");
            assert!(!error.message.contains("horse"), "{make:?}: {error}");
        }
        assert!(names(&partner.files()).is_empty(), "{make:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_the_door() {
    let partner = Partner::start(Make::Hosted);
    assert_eq!(std::fs::read_to_string(partner.folder.path().join("password")).unwrap(), PASSWORD);
    let mut destination = partner.destination(&[("key", ""), ("password", "{ file = \"password\" }")]).await;
    send(&mut destination, &outgoing(".", "a.hl7", ORDER)).await.unwrap();
    assert_eq!(std::fs::read_to_string(partner.files().join("a.hl7")).unwrap(), ORDER);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_with_and_without_passphrase() {
    for make in MAKES {
        for (kind, passphrase) in [
            (&["-t", "ed25519"][..], "pass phrase"),
            (&["-t", "ecdsa"], ""),
            (&["-t", "rsa", "-b", "2048"], "pass phrase"),
            (&["-t", "rsa", "-b", "2048", "-m", "PEM"], ""),
        ] {
            let partner = Partner::start_with_key(make, kind, passphrase);
            std::fs::write(partner.folder.path().join("passphrase"), passphrase).unwrap();
            let right = [("passphrase", "{ file = \"passphrase\" }")];
            let mut destination = partner.destination(if passphrase.is_empty() { &[] } else { &right }).await;
            send(&mut destination, &outgoing(".", "a.hl7", ORDER))
                .await
                .unwrap_or_else(|error| panic!("{make:?} {kind:?}: {error}"));
            if !passphrase.is_empty() {
                std::fs::write(partner.folder.path().join("wrong"), "wrong phrase").unwrap();
                for more in [&[][..], &[("passphrase", "{ file = \"wrong\" }")]] {
                    let mut destination = partner.destination(more).await;
                    let error = send(&mut destination, &outgoing(".", "b.hl7", ORDER)).await.unwrap_err();
                    assert_eq!(error.disposition(), Disposition::Pause, "{make:?} {kind:?}: {error}");
                    assert!(error.message.contains("passphrase"), "{make:?} {kind:?}: {error}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_folder_is_said_and_tried_again() {
    for make in MAKES {
        let partner = Partner::start(make);
        let mut destination = partner.destination(&[]).await;
        let order = outgoing("orders/in", "Secretname.hl7", ORDER);
        let error = send(&mut destination, &order).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Retry, "{make:?}: {error}");
        assert!(
            error.message.contains("the folder is not on the server") && !error.message.contains("orders/in"),
            "{make:?}: {error}"
        );
        assert!(!error.message.contains("Secretname"), "{make:?}: {error}");
        std::fs::create_dir_all(partner.files().join("orders/in")).unwrap();
        send(&mut destination, &order).await.unwrap();
        assert_eq!(names(&partner.files().join("orders/in")), ["Secretname.hl7"], "{make:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_take_the_file_is_tried_again_and_kept_clean() {
    let partner = Partner::with_file_limit(100_000).await;
    let mut destination = partner.destination(&[]).await;
    send(&mut destination, &outgoing(".", "fits.hl7", noise(100_000))).await.unwrap();
    let error = send(&mut destination, &outgoing(".", "large.hl7", noise(2_000_000))).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry, "{error}");
    assert!(error.message.contains("disk or quota may be full"), "{error}");
    assert_eq!(names(&partner.files()), ["fits.hl7"]);

    std::os::unix::fs::symlink("/tmp", partner.files().join("elsewhere")).unwrap();
    let error = send(&mut destination, &outgoing("elsewhere", "a.hl7", ORDER)).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry, "{error}");
    assert!(error.message.contains("permission denied") && !error.message.contains("elsewhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_asked_for_is_given() {
    // The second server refuses every password that is given to it unasked.
    for ways in [&[MethodKind::KeyboardInteractive][..], &[MethodKind::Password, MethodKind::KeyboardInteractive]] {
        let server = Interactive::start(PASSWORD, ways).await;
        let partner = Partner::start(Make::Hosted);
        std::fs::write(partner.folder.path().join("wrong"), "wrong horse").unwrap();
        let (port, host_key) = (server.address.port().to_string(), format!("\"{}\"", server.fingerprint));
        for (file, disposition, words) in
            [("password", Disposition::Retry, "does not start SFTP"), ("wrong", Disposition::Pause, "by password")]
        {
            let password = format!("{{ file = \"{file}\" }}");
            let more = [("port", &*port), ("host_key", &host_key), ("key", ""), ("password", &password)];
            let error = send(&mut partner.destination(&more).await, &outgoing(".", "a.hl7", ORDER)).await.unwrap_err();
            assert_eq!(error.disposition(), disposition, "{ways:?} {file}: {error}");
            assert!(error.message.contains(words), "{ways:?} {file}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_files() {
    let partner = Partner::start(Make::OpenSsh);
    let mut destination = partner.destination(&[]).await;
    let mut connections = Vec::new();
    for number in 0..20 {
        send(&mut destination, &outgoing(".", &format!("{number}.hl7"), ORDER)).await.unwrap();
        connections.push(partner.sshd().sessions());
    }
    assert_eq!(names(&partner.files()).len(), 20);
    assert!(connections.iter().all(|processes| *processes == connections[0]), "{connections:?}");
}

/// What is sent is worked out once, from the message alone.
#[test]
fn folder_and_name_come_from_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let options = format!(
        "host = \"a.example\"\nuser = \"u\"\nkey = {{ file = \"k\" }}\nhost_key = \"SHA256:{}\"\n\
         directory = \"orders/{{{{ meta.lab }}}}\"\nfile_name = \"{{{{ msg['PID-5.1'] }}}}.hl7\"\n",
        "A".repeat(43)
    );
    let origin = Origin { lab: Some("acme".into()), ..Origin::default() };
    let ids = MessageIds::default();
    let meta =
        Meta { id: ids.next(), channel: "c".into(), received_at: "2026-01-01T00:00:00Z".parse().unwrap(), origin };
    let raw = Bytes::from(ORDER.replace("Secretname", "../../etc/x y"));
    let message = Message::read(meta, Format::Hl7, &raw, &labwire::hl7::Limits::default()).unwrap();
    let prepared = parse(&options, folder.path()).expect("readable").prepare(&message).unwrap();
    assert_eq!(prepared.content, raw);
    assert_eq!(prepared.properties["directory"], "orders/acme");
    let name = &prepared.properties["file_name"];
    assert!(name.ends_with(".hl7") && !name.contains('/') && !name.contains(' '), "{name}");

    let example = KINDS.iter().find(|kind| kind.name == "sftp").unwrap().example;
    assert!(parse(&example.replacen("type      = \"sftp\"\n", "", 1), folder.path()).is_ok());
}

#[test]
fn options_that_cannot_work_are_diagnosed() {
    let folder = tempfile::tempdir().unwrap();
    let good = "host = \"a.example\"\nuser = \"u\"\nfile_name = \"a.hl7\"\n";
    let key = "key = { file = \"k\" }\n";
    let host_key = format!("host_key = \"SHA256:{}\"\n", "A".repeat(43));
    let read = |options: &str| parse(options, folder.path()).map(drop).map_err(|found| found.join("\n"));
    assert_eq!(read(&format!("{good}{key}{host_key}")), Ok(()));
    assert_eq!(read(&format!("{good}{key}host_key = [\"SHA256:{0}\", \"SHA256:{0}\"]\n", "A".repeat(43))), Ok(()));
    for (options, words) in [
        (format!("{good}{host_key}"), "needs `key` or `password`"),
        (format!("{good}{key}{host_key}password = {{ env = \"P\" }}\n"), "has both `key` and `password`"),
        (
            format!("{good}password = {{ env = \"P\" }}\n{host_key}passphrase = {{ env = \"Q\" }}\n"),
            "`passphrase` without `key`",
        ),
        (format!("{good}{key}"), "missing key `host_key`"),
        (format!("{good}{key}host_key = \"SHA256:abc\"\n"), "43 characters"),
        (format!("{good}{key}host_key = []\n"), "must be pinned"),
        (format!("{good}{key}host_key = 7\n"), "`host_key` must be a string or an array"),
        (format!("{good}{host_key}password = \"literal\"\n"), "must not be written into a channel file"),
        (format!("{key}{host_key}host = \"sftp://a\"\nuser = \"u\"\nfile_name = \"a\"\n"), "no host name"),
        (format!("{good}{key}{host_key}hostkey = \"x\"\n"), "did you mean `host_key`?"),
        (format!("{good}{key}{host_key}timeout = \"soon\"\n"), "not a duration"),
    ] {
        let found = read(&options).expect_err(words);
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[tokio::test]
async fn secrets_that_are_none_are_said_when_the_channel_starts() {
    let partner = Partner::start(Make::Hosted);
    let folder = partner.folder.path();
    std::fs::write(folder.join("putty"), "PuTTY-User-Key-File-3: ssh-ed25519\n").unwrap();
    std::fs::write(folder.join("text"), "hello\n").unwrap();
    let place = labwire::config::Place { folder: folder.to_owned(), channel: "c".into(), name: "d".into(), data: None };
    for (file, words) in
        [("key.pub", "public key"), ("putty", "puttygen"), ("text", "no private key"), ("none", "No such file")]
    {
        let options = partner.options(&[("key", &format!("{{ file = \"{file}\" }}"))]);
        let error = parse(&options, folder).expect("readable").build(&place).await.err().unwrap().to_string();
        assert!(error.contains(words), "{file}: {error}");
    }
    assert_eq!(fingerprint(&folder.join("key.pub")).len(), 50);
}
