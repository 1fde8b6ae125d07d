//! What somebody does who means harm, at an `mllp` source of the real engine: rows A01 to A12 of `docs/security.md`, which says where
//! the others are. Certificates (A02, A04): `tests/it/tls.rs`.

mod content;
mod fuzz;
mod peers;

use serde_json::Value;

use crate::support::eventually::eventually;
use crate::support::rig::Rig;

fn channel(name: &str, source: &str) -> String {
    format!(
        "name = \"{name}\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{source}\n\
         [destination.archive]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"{{{{ meta.id }}}}.hl7\"\n"
    )
}

fn message(id: &str) -> Vec<u8> {
    format!("MSH|^~\\&|SND|SF|RCV|RF|20260101120000||ADT^A01|{id}|P|2.5\rPID|1||77||DOE^JANE\r").into_bytes()
}

fn counters(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0]["counters"].clone()
}

#[track_caller]
fn logged(rig: &Rig, words: &[&str]) {
    eventually(&format!("the log has a line with {words:?}"), || {
        rig.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

/// A figure of `/proc/PID/status`, in bytes.
fn memory(rig: &Rig, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
