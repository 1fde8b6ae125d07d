//! The README's first channel, done as a reader would: its commands in a shell, its files as they stand there.

use std::process::Command;
use std::time::Duration;

use crate::support::root;

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_first_channel_works_as_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("channels")).unwrap();
    let (listen, api) = (free_port().to_string(), free_port().to_string());
    let channel = blocks("toml").remove(0).replace("2575", &listen);
    std::fs::write(folder.path().join("channels/results.toml"), channel).unwrap();
    let commands =
        blocks("sh").into_iter().find(|block| block.contains("labwire check")).unwrap().replace("2575", &listen);
    // A reader types line by line; the script must not go on before the engine is ready, and fails at the first error.
    let commands = commands.replace("sleep 1", "until labwire channels >/dev/null 2>&1; do :; done");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_labwire")).parent().unwrap();
    let output = Command::new("timeout")
        .args(["60", "bash", "-euo", "pipefail", "-c", &format!("{commands}\nwait")])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{}", binary.display(), std::env::var("PATH").unwrap()))
        .env("LABWIRE_LISTEN", format!("127.0.0.1:{api}"))
        .env("LABWIRE_ENGINE", format!("127.0.0.1:{api}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for words in ["1 file checked, no mistakes", "1 passed, 0 failed", "ready", "AA", "-> archive: sent", "NAGY"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    let archived = crate::support::eventually::eventually_within(Duration::from_secs(5), "the file is there", || {
        let day = std::fs::read_dir(folder.path().join("archive")).ok()?.flatten().next()?;
        std::fs::read_to_string(day.path().join("MSG1.hl7")).ok()
    });
    assert!(archived.contains("|EHR|") && archived.contains("NAGY^Ilona"), "{archived}");
}

#[test]
fn the_two_commands_are_targets_of_the_makefile() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["demo", "test"] {
        assert!(blocks("sh")[0].contains(&format!("make {target}")));
        assert!(makefile.contains(&format!("\n{target}:")), "{target}");
    }
    assert!(std::fs::read_to_string(root().join(".ci/run")).unwrap().contains("make test"));
}

#[test]
fn the_demo_ends_well() {
    let start = std::time::Instant::now();
    let output = crate::support::rig::labwire().args(["demo", "--once"]).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("5 of 5 messages arrived as expected"), "{text}");
    // Connections that are held to partners must not hold up the end: an SFTP session once took its whole timeout, 30 s.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    for words in [
        "received",
        "transformed",
        "arrived",
        "is what the channel's test expects",
        "sftp://acme@127.0.0.1",
        "mllp://127.0.0.1",
    ] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
}

#[test]
fn the_demo_leaves_nothing_behind_when_it_is_told_to_end() {
    use std::io::{BufRead as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let mut demo = crate::support::rig::labwire()
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("Look around")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(Command::new("kill").arg(demo.id().to_string()).status().unwrap().success());
    lines.for_each(drop);
    let status = crate::support::eventually::eventually("the demo ends on SIGTERM", || demo.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the folder with the key is gone");
}
