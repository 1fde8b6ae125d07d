//! A27: an SFTP server that means ill; and F67: files that vanish or change under our hands.

use std::time::Duration;

use super::{QUICK, channel, control_ids, let_some_polls_pass, message, view};
use crate::support::eventually::{eventually, eventually_within};
use crate::support::hostile::{Hostile, Play, Pretence};
use crate::support::rig::Rig;

/// A rig whose channel `files` captures from this server.
fn rig(server: &Hostile, options: &str) -> Rig {
    let rig = Rig::new();
    rig.write("password", "any");
    let source = format!(
        "type = \"sftp\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"u\"\npassword = {{ file = \"../password\" }}\n\
         host_key = \"{}\"\ndirectory = \"in\"\ntimeout = \"5s\"\n{options}",
        server.address.port(),
        server.fingerprint
    );
    rig.write("channels/files.toml", channel("files", &source));
    rig
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_names_that_are_paths_or_worse_are_never_used() {
    let bad = [
        "../../etc/passwd",
        "/etc/passwd",
        "a/b.hl7",
        "..",
        "evil\nERROR forged=line.hl7",
        "\u{1b}[2Jevil.hl7",
        "nul\0.hl7",
        "c1\u{9b}31m.hl7",
        &"n".repeat(4000),
    ];
    let mut files: Vec<Pretence> = bad.iter().map(|name| Pretence::new(name, message(name))).collect();
    files.push(Pretence::new("good.hl7", message("good")));
    let server = Hostile::start(Play { files, ..Play::default() }).await;
    let mut rig = rig(&server, &format!("{QUICK}after = {{ move = \"done\" }}"));
    blocking(move || {
        rig.start();
        let found = rig.wait_for("sent", 1);
        assert_eq!(found[0]["origin"]["peer"], "127.0.0.1");
        eventually("it is told", || rig.log().contains("names no file should have").then_some(()));
        let_some_polls_pass();
        assert_eq!(control_ids(&rig.messages("")), ["good"]);
        let log = rig.log();
        assert_eq!(log.matches("names no file should have").count(), 1, "{log}");
        assert!(log.contains("\"files\":8"), "of `..` nothing is said: {log}");
        assert!(!log.contains("evil") && !log.contains("passwd") && !log.contains('\u{9b}'), "{log}");
    })
    .await;
    let play = server.play.lock().unwrap();
    let fine = |path: &String| ["in", "in/", "in/good.hl7", "in/done", "in/done/good.hl7"].contains(&path.as_str());
    assert!(play.paths.iter().all(fine), "{:?}", play.paths.iter().find(|path| !fine(path)));
}

/// libssh2 takes no name of more than 4 KiB: such a listing is no listing, and the channel says so.
#[tokio::test(flavor = "multi_thread")]
async fn a27_a_name_of_64_kib_is_told_and_harms_nothing_else() {
    let files = vec![Pretence::new(&"n".repeat(64 << 10), "x"), Pretence::new("good.hl7", message("good"))];
    let server = Hostile::start(Play { files, ..Play::default() }).await;
    let mut rig = rig(&server, &format!("{QUICK}after = \"delete\""));
    blocking(move || {
        rig.start();
        let error = eventually("it is shown", || view(&rig, "files")["source_error"].as_str().map(str::to_owned));
        assert!(error.contains("lost while listing the folder") && error.len() < 200, "{error}");
        assert_eq!(rig.get("/healthz").0, 200);
        assert_eq!(rig.terminate().code(), Some(0));
    })
    .await;
    assert_eq!(server.play.lock().unwrap().files.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_a_listing_without_end_is_left() {
    let files = (0..100).map(|number| Pretence::new(&format!("{number}.hl7"), message(&number.to_string()))).collect();
    let server = Hostile::start(Play { files, is_endless: true, ..Play::default() }).await;
    let mut rig =
        rig(&server, "every = \"1h\"\nunchanged_polls = 1\nmin_age = \"0s\"\nmax_listing = 5000\nafter = \"keep\"");
    blocking(move || {
        rig.start();
        rig.wait_for("sent", 100);
        assert!(rig.log().contains("more names than `max_listing`"), "{}", rig.log());
    })
    .await;
    let listed = server.play.lock().unwrap().listed;
    assert!((5000..10_000).contains(&listed), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_sizes_and_files_without_end_are_bounded() {
    let huge = Pretence { size: 1 << 63, is_endless: true, ..Pretence::new("huge.hl7", "") };
    let most = Pretence { size: u64::MAX, is_endless: true, ..Pretence::new("most.hl7", "") };
    let endless = Pretence { is_endless: true, ..Pretence::new("endless.hl7", message("endless")) };
    let short = Pretence { size: 1_000_000, ..Pretence::new("short.hl7", message("short")) };
    let files = vec![huge, most, endless, short, Pretence::new("good.hl7", message("good"))];
    let server = Hostile::start(Play { files, ..Play::default() }).await;
    let mut rig = rig(&server, &format!("{QUICK}after = {{ move = \"done\" }}"));
    blocking(move || {
        rig.start();
        rig.wait_for("sent", 1);
        let rejected = rig.wait_for("rejected", 2);
        let reason = rejected.iter().find(|message| message["origin"]["file_name"] == "huge.hl7").unwrap();
        assert_eq!(reason["reason"], "the file has 9223372036854775808 bytes, `max_size` is 16777216");
        let_some_polls_pass();
        assert_eq!(rig.messages("").len(), 3);
        assert_eq!(rig.terminate().code(), Some(0));
    })
    .await;
    let play = server.play.lock().unwrap();
    assert_eq!(play.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["endless.hl7", "short.hl7"]);
    // Each poll reads what the file should hold, and what libssh2 asks for ahead of that.
    assert!(play.read < 64 << 20, "{}", play.read);
}

#[tokio::test(flavor = "multi_thread")]
async fn f67_a_file_that_vanishes_or_changes_while_it_is_read() {
    let vanishing = Pretence { missing: 3, ..Pretence::new("vanishing.hl7", message("vanishing")) };
    let growing = Pretence { growing: 3, ..Pretence::new("growing.hl7", message("growing")) };
    let files = vec![vanishing, growing, Pretence::new("good.hl7", message("good"))];
    let server = Hostile::start(Play { files, ..Play::default() }).await;
    let mut rig = rig(&server, &format!("{QUICK}after = {{ move = \"done\" }}"));
    blocking(move || {
        rig.start();
        let mut found = control_ids(&rig.wait_for("sent", 3));
        assert_eq!(found.remove(0), "good", "the first poll takes what is whole");
        found.sort();
        assert_eq!(found, ["growing", "vanishing"]);
        assert!(!rig.log().contains("WARN"), "{}", rig.log());
        assert!(view(&rig, "files")["source_error"].is_null());
    })
    .await;
}

/// A server that accepts a connection and then says nothing.
#[test]
fn a_server_that_keeps_silent_is_left_after_the_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new();
    rig.write("password", "any");
    let source = format!(
        "type = \"sftp\"\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"u\"\npassword = {{ file = \"../password\" }}\n\
         host_key = \"SHA256:{}\"\ntimeout = \"300ms\"\nafter = \"keep\"",
        "A".repeat(43)
    );
    rig.write("channels/files.toml", channel("files", &source));
    rig.start();
    let error = eventually_within(Duration::from_secs(10), "it is shown", || {
        view(&rig, "files")["source_error"].as_str().map(str::to_owned)
    });
    assert!(error.contains(&format!("127.0.0.1:{port} does not complete the SSH handshake")), "{error}");
    // With the default of 30 s the end would have to wait for its being cut.
    assert_eq!(rig.terminate().code(), Some(0));
}
