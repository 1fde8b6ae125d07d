//! The `sftp` source against real servers: OpenSSH's, and Labwire's own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{QUICK, channel, control_ids, files, let_some_polls_pass, message, put, view};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::partner::{MAKES, Make, Partner};
use crate::support::rig::Rig;

/// The source's table for this partner; `more` replaces or adds.
fn source(partner: &Partner, more: &[(&str, &str)]) -> String {
    let folder = partner.folder.path().display();
    let key = format!("{{ file = \"{folder}/key\" }}");
    let mut more = more.to_vec();
    if !more.iter().any(|(name, _)| *name == "key") {
        more.push(("key", &key));
    }
    more.push(("file_name", ""));
    format!("type = \"sftp\"\n{}", partner.options(&more))
}

fn rig(partner: &Partner, more: &[(&str, &str)], options: &str) -> Rig {
    let rig = Rig::new();
    rig.write("channels/files.toml", channel("files", &format!("{}{options}", source(partner, more))));
    rig
}

#[test]
fn files_are_captured_and_moved_on_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    for make in MAKES {
        let partner = Partner::start(make);
        let mut rig = rig(&partner, &[], &format!("{QUICK}after = {{ move = \"done/{{{{ msg['PID-3'] }}}}\" }}"));
        let large = [message("large"), vec![b'x'; 3_000_000]].concat();
        put(&partner.files(), "a b.hl7", message("1"));
        put(&partner.files(), "large.hl7", &large);
        put(&partner.files(), "bad.hl7", "Dear colleagues,");
        rig.start();
        let found = rig.wait_for("sent", 2);
        assert!(found.iter().all(|found| found["origin"]["peer"] == "127.0.0.1"), "{make:?}: {found:?}");
        assert!(found.iter().any(|found| found["bytes"] == large.len()), "{make:?}: {found:?}");
        put(&partner.files(), "again.hl7", message("1"));
        rig.wait_for("rejected", 1);
        eventually("all are moved", || {
            let expected = ["done/P-1/a b.hl7", "done/P-large/large.hl7", "duplicates/again.hl7", "error/bad.hl7"];
            (files(&partner.files()) == expected).then_some(())
        });
        // The new name is taken.
        put(&partner.files(), "bad.hl7", "Dear colleagues!");
        rig.wait_for("rejected", 2);
        eventually("it is beside the first", || (files(&partner.files().join("error")).len() == 2).then_some(()));
        assert_eq!(std::fs::read(partner.files().join("error/bad.hl7")).unwrap(), b"Dear colleagues,", "{make:?}");
    }
}

#[test]
fn f64_a28_a_changed_host_key_is_refused_with_both_fingerprints() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let mut partner = Partner::start(Make::OpenSsh);
    let pinned = partner.fingerprint();
    let mut rig = rig(&partner, &[], &format!("{QUICK}after = \"delete\""));
    rig.start();
    put(&partner.files(), "a.hl7", message("1"));
    rig.wait_for("sent", 1);
    runtime.block_on(partner.change_host_key());
    let presented = partner.fingerprint();
    put(&partner.files(), "b.hl7", message("2"));
    let error = eventually("it is shown", || {
        view(&rig, "files")["source_error"].as_str().filter(|error| error.contains("host key")).map(str::to_owned)
    });
    assert!(error.contains(&pinned) && error.contains(&presented) && pinned != presented, "{error}");
    let (code, shown) = rig.cli(&["channels"]);
    assert!(code == 0 && shown.contains(&presented), "{shown}");
    let_some_polls_pass();
    assert_eq!(files(&partner.files()), ["b.hl7"]);
    // It is not asked again and again; the new key is taken when a person has put it in.
    let both = format!("[\"{pinned}\", \"{presented}\"]");
    let text = channel("files", &format!("{}{QUICK}after = \"delete\"", source(&partner, &[("host_key", &both)])));
    rig.write("channels/files.toml", text);
    rig.wait_for("sent", 2);
    assert!(view(&rig, "files")["source_error"].is_null());
}

#[test]
fn a_server_that_is_away_is_told_of_once_and_found_again() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let mut partner = Partner::start(Make::OpenSsh);
    let mut rig = rig(&partner, &[], &format!("{QUICK}after = \"delete\""));
    rig.start();
    put(&partner.files(), "a.hl7", message("1"));
    rig.wait_for("sent", 1);
    runtime.block_on(partner.kill());
    put(&partner.files(), "b.hl7", message("2"));
    let port = partner.port();
    let error = eventually("it is shown", || {
        let error = view(&rig, "files")["source_error"].as_str().map(str::to_owned);
        error.filter(|error| error.contains("no connection"))
    });
    assert!(error.contains(&format!("no connection to 127.0.0.1:{port}")), "{error}");
    let_some_polls_pass();
    let log = rig.log();
    assert_eq!(log.matches(&format!("no connection to 127.0.0.1:{port}")).count(), 1, "{log}");
    partner.run();
    rig.wait_for("sent", 2);
    eventually("it is well", || view(&rig, "files")["source_error"].is_null().then_some(()));
    assert!(rig.log().contains("takes messages in again"), "{}", rig.log());
}

#[test]
fn logins_of_every_kind() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let partner = Partner::start_with_key(Make::Hosted, &["-t", "ed25519"], "pass phrase");
    std::fs::write(partner.folder.path().join("passphrase"), "pass phrase").unwrap();
    let folder = partner.folder.path().display().to_string();
    let (passphrase, password) =
        (format!("{{ file = \"{folder}/passphrase\" }}"), format!("{{ file = \"{folder}/password\" }}"));
    for (number, more, works) in [
        (1, &[("passphrase", &*passphrase)][..], true),
        (2, &[("key", ""), ("password", &*password)], true),
        (3, &[], false),
        (4, &[("passphrase", &*passphrase), ("user", "\"nobody\"")], false),
    ] {
        put(&partner.files(), &format!("{number}.hl7"), message(&number.to_string()));
        let mut rig = rig(&partner, more, &format!("{QUICK}after = \"delete\"\nfiles = \"{number}.hl7\""));
        rig.start();
        if works {
            assert_eq!(control_ids(&rig.wait_for("sent", 1)), [number.to_string()]);
        } else {
            let error = eventually("it is shown", || view(&rig, "files")["source_error"].as_str().map(str::to_owned));
            assert!(error.contains("refuses the login") || error.contains("cannot be used"), "{error}");
            assert!(!rig.log().contains("pass phrase"), "{}", rig.log());
        }
    }
}

#[test]
fn an_old_server_is_spoken_to_where_the_channel_file_says_so() {
    let old =
        "KexAlgorithms diffie-hellman-group14-sha1\nHostKeyAlgorithms ssh-rsa\nCiphers aes128-cbc\nMACs hmac-sha1\n";
    let partner = Partner::with_config(&["rsa"], old, None);
    let host_key = format!("\"{}\"", partner.sshd().fingerprint("rsa"));
    put(&partner.files(), "a.hl7", message("1"));
    let options = format!("{QUICK}after = \"delete\"");
    let mut rig = rig(&partner, &[("host_key", &host_key)], &options);
    rig.start();
    let error = eventually("it is shown", || view(&rig, "files")["source_error"].as_str().map(str::to_owned));
    // What the error says is what helps.
    let (_, line) = error.split_once("legacy_algorithms = ").unwrap_or_else(|| panic!("{error}"));
    let more = [("host_key", &*host_key), ("legacy_algorithms", line)];
    rig.write("channels/files.toml", channel("files", &format!("{}{options}", source(&partner, &more))));
    rig.wait_for("sent", 1);
}

#[test]
fn the_folder_is_the_one_that_is_given() {
    let partner = Partner::start(Make::OpenSsh);
    put(&partner.files(), "outside.hl7", message("outside"));
    put(&partner.files(), "results/out/a.hl7", message("1"));
    let mut rig =
        rig(&partner, &[("directory", "\"results/out\"")], &format!("{QUICK}after = {{ move = \"../done\" }}"));
    rig.start();
    assert_eq!(control_ids(&rig.wait_for("sent", 1)), ["1"]);
    eventually("it is moved", || (files(&partner.files()) == ["outside.hl7", "results/done/a.hl7"]).then_some(()));
    let text =
        channel("files", &format!("{}{QUICK}after = \"keep\"", source(&partner, &[("directory", "\"nowhere\"")])));
    rig.write("channels/files.toml", text);
    let error = eventually("it is shown", || view(&rig, "files")["source_error"].as_str().map(str::to_owned));
    assert!(error.contains("there is no folder nowhere on 127.0.0.1"), "{error}");
}

/// `kill -9` of the engine, and of the server, while a folder is captured.
#[test]
fn every_file_is_captured_exactly_once_from_a_server() {
    const FILES: usize = 300;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut partner = Partner::start(Make::OpenSsh);
    for number in 0..FILES {
        put(&partner.files(), &format!("{number}.hl7"), message(&number.to_string()));
    }
    let folder = partner.files();
    let left = || files(&folder).iter().filter(|name| !name.contains('/')).count();
    let mut rig = rig(&partner, &[], &format!("{QUICK}after = {{ move = \"done\" }}"));
    for goal in [290, 230, 150, 70] {
        rig.start();
        eventually_within(Duration::from_secs(60), "some are captured", || (left() <= goal).then_some(()));
        rig.kill();
    }
    rig.start();
    eventually_within(Duration::from_secs(60), "some are captured", || (left() <= 50).then_some(()));
    runtime.block_on(partner.kill());
    partner.run();
    eventually_within(Duration::from_secs(60), "all are moved", || (left() == 0).then_some(()));
    let sent = rig.wait_for("sent", FILES);
    let ids: BTreeSet<String> = control_ids(&sent).into_iter().collect();
    assert_eq!((rig.messages("").len(), ids.len()), (FILES, FILES));
    assert_eq!(files(&folder.join("done")).len(), FILES);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn f65_a_folder_with_100_000_files() {
    let partner = Partner::start(Make::OpenSsh);
    let folder = partner.files();
    let mut rig =
        rig(&partner, &[], "every = \"1s\"\nunchanged_polls = 1\nmax_files = 100\nafter = { move = \"done\" }");
    rig.start();
    eventually("the first look", || (view(&rig, "files")["state"] == "running").then_some(()));
    rig.kill();
    for number in 0..100_000 {
        std::fs::write(folder.join(format!("{number:06}.hl7")), message(&number.to_string())).unwrap();
    }
    rig.start();
    let (begun, before) = (Instant::now(), resident_kib(rig.pid()));
    eventually_within(Duration::from_secs(60), "the first is captured", || {
        (!rig.messages("").is_empty()).then_some(())
    });
    let first = begun.elapsed();
    eventually_within(Duration::from_secs(60), "two polls are done", || (rig.messages("").len() >= 200).then_some(()));
    let after = resident_kib(rig.pid());
    println!("first after {first:?}; memory at most {before} KiB at the start, {after} KiB now");
    assert!(first < Duration::from_secs(10), "{first:?}");
    assert!(after - before < 40 << 10, "{before} KiB, then {after} KiB");
}
