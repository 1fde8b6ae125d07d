//! The virtual environment in which peers live that nobody here wrote (Python `hl7`, `paramiko`, `aiosmtpd`).

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::root;

/// A program of the virtual environment that `tests/setup-peers.sh` makes.
pub fn program(name: &str) -> PathBuf {
    let path = root().join("target/venv/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/setup-peers.sh (`make test` does)", path.display());
    path
}

/// Starts a server of `tests/it` with these options: the process, the lines that it prints, and the port, which is the first of them.
pub fn server(script: &str, options: &serde_json::Value) -> (Child, Receiver<String>, u16) {
    let mut process = Command::new(program("python"))
        .arg(root().join("tests/it").join(script))
        .arg(options.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let (told, lines) = channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
    let port = lines.recv_timeout(Duration::from_secs(30)).expect("a port").parse().unwrap();
    (process, lines, port)
}
