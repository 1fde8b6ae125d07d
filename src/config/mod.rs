//! Reading what people wrote in TOML, with a place for every mistake.
//!
//! A file is parsed into spanned values first. Each table is then checked against the JSON Schema of the type that will hold it,
//! which finds every unknown key, wrong type and missing key at once, and only then deserialized. Values that have rules of their
//! own (a duration, an HL7 path, an expression) are newtypes that report through [`report`] while they are read.

mod lint;
mod reading;
mod resource;
mod secret;
mod table;
mod values;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use reading::{Read, collect, load_text, place_name, report, report_in, resolve, text_place};
pub use resource::{Resource, SharedPath};
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
    /// The engine's data folder; none where there is no engine.
    pub data: Option<PathBuf>,
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
    /// Labwire's own SFTP server cannot be made.
    #[error("{0}")]
    Hosted(String),
    /// Keys and certificates are of no use.
    #[error("{0}")]
    Tls(String),
}
