//! What the tests share.

pub mod cutter;
pub mod eventually;
pub mod half_open;
pub mod hostile;
pub mod http_client;
pub mod http_server;
pub mod interactive;
pub mod listener;
pub mod mllp_client;
pub mod mllp_server;
pub mod options;
pub mod partner;
pub mod peer;
pub mod pki;
pub mod python;
pub mod rig;
pub mod sshd;
pub mod test_journal;
pub mod tls_peer;

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    root().join("fixtures").join(path)
}

/// The content of a file of `fixtures/`.
pub fn fixture_bytes(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap_or_else(|error| panic!("fixtures/{path}: {error}"))
}
