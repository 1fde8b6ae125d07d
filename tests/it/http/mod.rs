//! The `http` destination against servers that answer well, badly and not at all.

mod answers;
mod logins;
mod requests;
mod tls;

use bytes::Bytes;
use labwire::destination::{Delivered, Destination, DestinationConfig, SendError};
use labwire::hl7;
use labwire::journal::Outgoing;
use labwire::message::{Format, Message, MessageIds, Meta, Origin};
use tokio::runtime::Runtime;

use crate::support::options;

/// A destination on its own, without an engine.
struct Sender {
    runtime: Runtime,
    config: Box<dyn DestinationConfig>,
    destination: Box<dyn Destination>,
}

/// This machine is no public address.
const HERE: &str = "networks = [\"127.0.0.0/8\"]";

impl Sender {
    fn to(url: &str, text: &str) -> Sender {
        Sender::with(&format!("url = \"{url}\"\n{HERE}\n{text}"))
    }

    fn with(text: &str) -> Sender {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = options::destination("http", text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:?}"));
        let destination = runtime.block_on(config.build(&options::place("w.eb"))).unwrap();
        Sender { runtime, config, destination }
    }

    fn send(&mut self, message: &Message) -> Result<Delivered, SendError> {
        let outgoing = self.config.prepare(message).unwrap();
        self.attempt(&outgoing)
    }

    fn attempt(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        self.runtime.block_on(self.destination.send(outgoing)).inspect_err(|error| {
            assert!(!format!("{error} {error:?}").contains("SECRET"), "content in an error: {error:?}");
        })
    }
}

const ADT: &str = "MSH|^~\\&|S|SF|R|RF|2026||ADT^A01|k1|P|2.5\rPID|1||77||SECRET^PATIENT\r";

fn message_of(format: Format, content: &str) -> Message {
    let meta = Meta {
        id: MessageIds::default().next(),
        channel: "test".into(),
        received_at: "2026-01-15T10:30:00Z".parse().unwrap(),
        origin: Origin::default(),
    };
    Message::read(meta, format, &Bytes::copy_from_slice(content.as_bytes()), &hl7::Limits::default()).unwrap()
}

fn adt() -> Message {
    message_of(Format::Hl7, ADT)
}

/// A channel that takes HL7 over MLLP, with an `http` destination.
fn channel(url: &str, text: &str) -> String {
    format!(
        "name = \"results\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n\
         [destination.web]\ntype = \"http\"\nurl = \"{url}\"\n{HERE}\n{text}\n"
    )
}
