//! The `http` source, over a socket.

mod access;
mod limits;
mod outcomes;
mod ports;
mod requests;

use serde_json::Value;

use crate::support::rig::Rig;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A channel that takes posts and writes them to files.
fn channel(name: &str, listen: &str, source: &str) -> String {
    format!(
        "name = \"{name}\"\n[source]\ntype = \"http\"\nlisten = \"{listen}\"\n{source}\n\
         [destination.archive]\ntype = \"file\"\ndirectory = \"../out\"\nfile_name = \"{{{{ meta.id }}}}\"\n"
    )
}

fn rig(source: &str) -> Rig {
    Rig::with(&channel("orders", "127.0.0.1:0", source))
}

fn counters(rig: &Rig) -> Value {
    rig.get("/api/v1/channels").1["channels"][0]["counters"].clone()
}

/// An address that nobody listens on just now.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
