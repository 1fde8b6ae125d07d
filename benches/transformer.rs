//! What the steps of a transformer cost, next to reading the message that they work on: `cargo bench --bench transformer`.
//!
//! Prints microseconds per message and how often the message could be read in that time; asserts nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_macros, missing_docs)]

mod support;

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use labwire::channel::{ChannelSpec, load_paths};
use labwire::hl7::Limits;
use labwire::message::{Format, Message, MessageIds, Meta, Origin};
use labwire::transformer::Outcome;

use support::{message, microseconds};

const STEPS: &[(&str, &str)] = &[
    ("filter", "filter = \"msg['MSH-9.1'] == 'ORU'\""),
    ("when, false", "when = \"msg['MSH-9.1'] == 'ADT'\"\ndelete = [\"PID-8\"]"),
    ("set, a text", "set = { \"MSH-5\" = \"EHR\" }"),
    ("set, an expression", "set = { \"PID-5.1\" = \"{{ msg['PID-5.1'] | upper }}\" }"),
    ("copy", "copy = { \"PID-2\" = \"PID-3.1\" }"),
    ("delete", "delete = [\"PID-13\", \"PID-11\"]"),
    ("each OBX, a text", "each = \"OBX\"\nset = { \"OBX-3.3\" = \"LN\" }"),
    ("each OBX, an expression", "each = \"OBX\"\nset = { \"OBX-6\" = \"{{ msg['OBX-6'] | lower }}\" }"),
];

fn channel(steps: &str) -> ChannelSpec {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n{steps}\n\
         [destination.d]\ntype = \"mllp\"\naddress = \"127.0.0.1:9\"\n"
    );
    let path = folder.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    one(&path)
}

fn one(path: &Path) -> ChannelSpec {
    let mut set = load_paths(&[path.to_owned()]).unwrap();
    assert!(set.diagnostics.is_empty(), "{:?}", set.diagnostics);
    set.channels.remove(0)
}

fn read(format: Format, raw: &Bytes) -> Message {
    let id = MessageIds::default().next();
    // JSON is an event here.
    let origin = Origin { action: (format == Format::Json).then_some(49), ..Origin::default() };
    let meta = Meta { id, channel: "c".into(), received_at: jiff::Timestamp::now(), origin };
    Message::read(meta, format, raw, &Limits::default()).unwrap()
}

/// Reading, and running the steps on what was read, with the bytes that come of it.
fn measure(name: &str, spec: &ChannelSpec, format: Format, raw: &Bytes) {
    let reading = microseconds(|| drop(black_box(read(format, black_box(raw)))));
    let original = read(format, raw);
    let running = microseconds(|| {
        let mut message = original.clone();
        assert!(matches!(spec.transformer.run(&mut message), Outcome::Through));
        black_box(message.body.to_bytes());
    });
    println!("{name:<26}  {:>8}  {reading:>8.2}  {running:>9.2}  {:>6.1}", raw.len(), running / reading);
}

fn main() {
    println!("{:<26}  {:>8}  {:>8}  {:>9}  {:>6}", "step", "bytes", "read µs", "step µs", "ratio");
    let raw = message(1000);
    for (name, step) in STEPS {
        measure(name, &channel(&format!("[[transformer]]\n{step}")), Format::Hl7, &raw);
    }
    let ten: String = STEPS.iter().chain(&STEPS[2..4]).map(|(_, step)| format!("[[transformer]]\n{step}\n")).collect();
    measure("all of these, ten steps", &channel(&ten), Format::Hl7, &raw);

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bill = Bytes::from(std::fs::read(root.join("fixtures/events/bill-two-tests.json")).unwrap());
    let spec = one(&root.join("channels/bill-hl7-sftp.toml"));
    measure("template, a bill to ORM", &spec, Format::Json, &bill);
}
