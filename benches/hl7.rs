//! Indexing and editing HL7, next to a parser that builds a tree, in one run: `cargo bench --bench hl7`.
//!
//! Prints microseconds per message and how often our index is made in the time of one tree; asserts nothing. Edits are set beside
//! the index of the same message.
#![allow(clippy::unwrap_used, clippy::disallowed_macros, missing_docs)]

mod support;

use std::hint::black_box;

use labwire::hl7::{Limits, Message, Path};

use support::{message, microseconds};

fn main() {
    let limits = Limits::default();
    let path: Path = "PID-5.1".parse().unwrap();
    let ten: Vec<Path> =
        ["MSH-3", "MSH-4", "MSH-5", "MSH-6", "PID-2", "PID-5.1", "PID-5.2", "PV1-3.1", "OBR-4.1", "OBX-6"]
            .iter()
            .map(|path| path.parse().unwrap())
            .collect();
    println!(
        "{:>8}  {:>10}  {:>10}  {:>10}  {:>10}  {:>12}  {:>11}  {:>12}",
        "bytes", "index µs", "get µs", "set µs", "set 10 µs", "hl7-parser µs", "tree/index", "set 10/index"
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
        let set_ten = microseconds(|| {
            let mut message = parsed.clone();
            for path in &ten {
                message.set(path, "NEW").unwrap();
            }
            black_box(message.to_bytes());
        });
        let theirs = microseconds(|| {
            black_box(hl7_parser::Message::parse(black_box(&text)).unwrap());
        });
        println!(
            "{:>8}  {index:>10.2}  {get:>10.2}  {set:>10.2}  {set_ten:>10.2}  {theirs:>12.2}  {:>11.1}  {:>12.1}",
            raw.len(),
            theirs / index,
            set_ten / index
        );
    }
}
