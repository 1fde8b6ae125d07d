//! `tls_peer.py`, started and talked to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use super::{python, root};

pub struct TlsPeer {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl TlsPeer {
    fn start(what: &str, options: &Value) -> TlsPeer {
        let mut process = Command::new(python::program("python"))
            .arg(root().join("tests/it/support/tls_peer.py"))
            .args([what, &options.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let (told, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        TlsPeer { process, input, lines }
    }

    /// A receiver that acknowledges, and its address.
    pub fn serve(options: &Value) -> (TlsPeer, SocketAddr) {
        let peer = TlsPeer::start("serve", options);
        let port = peer.line().parse().expect("a port");
        (peer, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// A sender, connected: what it says first is the version of TLS and whose certificate it saw, or an error.
    pub fn connect(options: &Value) -> (TlsPeer, String) {
        let peer = TlsPeer::start("send", options);
        let first = peer.line();
        (peer, first)
    }

    /// The next line that it prints.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).expect("a line within 20 s")
    }

    /// Sends a message and gives the acknowledgement, or the error.
    pub fn send(&mut self, message: &str) -> String {
        let hex: String = message.bytes().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(self.input, "{hex}");
        let line = self.line();
        if line.starts_with("ERROR") {
            return line;
        }
        let bytes = (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap());
        bytes.map(char::from).collect()
    }
}

impl Drop for TlsPeer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
