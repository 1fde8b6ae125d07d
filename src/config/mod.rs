//! Reading what people wrote in TOML, with a place for every mistake.
//!
//! A file is parsed into spanned values first. Each table is then checked against the JSON Schema of the type that will hold it,
//! which finds every unknown key, wrong type and missing key at once, and only then deserialized. Values that have rules of their
//! own (a duration, an HL7 path, an expression) are newtypes that report through [`report`] while they are read.

mod lint;
mod reading;
mod secret;
mod table;
mod values;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use reading::{Read, collect, load_text, place_name, report, report_in, resolve, text_place};
pub use secret::{PlacedSecret, Secret};
pub(crate) use table::unknown_word;
pub use table::{Entry, Table};
pub use values::{ByteSize, Duration, HostPort, Listen, Rate};
pub(crate) use values::{more_than, parsed, time_limit};
pub(crate) use web::target;
pub use web::{WebOrigin, WebUrl, is_public};

/// The JSON Schema generator that all options are described with.
pub fn schema_generator() -> schemars::SchemaGenerator {
    let mut settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator()
}

/// Where a connector stands, for what it opens and for what it says.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of the channel file: relative paths start here.
    pub folder: PathBuf,
    /// The channel's name.
    pub channel: String,
    /// `source` or the destination's name.
    pub name: String,
}

/// Something that only one channel can hold at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A TCP port.
    Port(SocketAddr),
    /// A path on a TCP port that several channels may share.
    Path(SharedPath),
}

/// A path on an HTTP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPath {
    /// The port.
    pub address: SocketAddr,
    /// The method, as in `POST`.
    pub method: &'static str,
    /// The path, as in `/orders`.
    pub path: String,
    /// What the port's options are: those who share it must say the same.
    pub door: String,
}

impl Resource {
    fn address(&self) -> SocketAddr {
        match self {
            Resource::Port(address) => *address,
            Resource::Path(shared) => shared.address,
        }
    }

    /// Whether both cannot be held at once. Port 0 picks a free one and never collides.
    pub fn conflicts_with(&self, other: &Resource) -> bool {
        self.conflict(other).is_some()
    }

    /// Why both cannot be held at once, and what to do.
    pub fn conflict(&self, other: &Resource) -> Option<(String, &'static str)> {
        let (a, b) = (self.address(), other.address());
        let same_port = a.port() != 0 && a.port() == b.port();
        if !same_port || !(a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()) {
            return None;
        }
        let port = a.port();
        match (self, other) {
            (Resource::Path(one), Resource::Path(two)) if a == b => {
                if one.door != two.door {
                    let message = format!("two channels share port {port} and say different things of it");
                    return Some((
                        message,
                        "`tls`, `max_connections`, `header_timeout` and `allow` must be the same, or choose another port",
                    ));
                }
                let same = one.method == two.method && one.path == two.path;
                let message = || format!("two channels take {} {} on port {port}", one.method, one.path);
                same.then(|| (message(), "choose another path or method"))
            }
            _ => Some((format!("two channels listen on port {port}"), "choose another port")),
        }
    }
}

/// A mistake in what a channel file refers to, found without opening anything: what only `labwire check` looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where the file refers to it.
    pub span: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
}

/// Why a connector could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A port is taken or not ours.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// A secret cannot be had.
    #[error("{0}")]
    Secret(String),
    /// Keys and certificates are of no use.
    #[error("{0}")]
    Tls(String),
}
