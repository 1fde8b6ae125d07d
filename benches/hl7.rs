//! Indexing and editing HL7, next to a parser that builds a tree, in one run: `cargo bench --bench hl7`.
//!
//! Prints microseconds per message and the ratio; asserts nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_macros, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use labwire::hl7::{Limits, Message, Path};

/// An ORU^R01 of about so many bytes.
fn message(bytes: usize) -> Bytes {
    let mut text = "MSH|^~\\&|LAB|ACME|EHR|CLINIC|20260115103000||ORU^R01^ORU_R01|MSG00001|P|2.5.1\r\
        PID|1||A-104233^^^ACME^MR||Nagy^Ilona^Maria||19800101|F|||Fo utca 1^^Szeged^^6720^HU||+3615550100\r\
        PV1|1|O||||||D-17^Kovacs^Peter\rOBR|1|O-1|F-1|CBC^Complete blood count^L|||20260115085500\r"
        .to_owned();
    let mut number = 0;
    while text.len() < bytes {
        number += 1;
        text += &format!("OBX|{number}|NM|WBC^Leukocytes^L||6.{number}|10*9/L|4.0-10.0|N|||F|||20260115085500\r");
    }
    Bytes::from(text)
}

/// The best of several rounds: what the code costs when nothing else runs.
fn microseconds(mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..200 {
            work();
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e6 / 200.0
}

fn main() {
    let limits = Limits::default();
    let path: Path = "PID-5.1".parse().unwrap();
    println!(
        "{:>8}  {:>10}  {:>10}  {:>10}  {:>12}  {:>6}",
        "bytes", "index µs", "get µs", "set µs", "hl7-parser µs", "ratio"
    );
    for bytes in [1_000, 3_000, 30_000] {
        let raw = message(bytes);
        let text = String::from_utf8(raw.to_vec()).unwrap();
        let index = microseconds(|| drop(black_box(Message::parse(black_box(raw.clone()), &limits).unwrap())));
        let parsed = Message::parse(raw.clone(), &limits).unwrap();
        let get = microseconds(|| drop(black_box(parsed.text(&path).unwrap())));
        let set = microseconds(|| {
            let mut message = parsed.clone();
            message.set(&path, "NAGY").unwrap();
            black_box(message.to_bytes());
        });
        let theirs = microseconds(|| {
            black_box(hl7_parser::Message::parse(black_box(&text)).unwrap());
        });
        println!("{:>8}  {index:>10.2}  {get:>10.2}  {set:>10.2}  {theirs:>12.2}  {:>6.1}", raw.len(), theirs / index);
    }
}
