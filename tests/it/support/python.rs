//! The virtual environment in which peers live that nobody here wrote (Python `hl7`, `paramiko`, `aiosmtpd`).

use std::path::PathBuf;

use super::root;

/// A program of the virtual environment that `tests/setup-peers.sh` makes.
pub fn program(name: &str) -> PathBuf {
    let path = root().join("target/venv/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/setup-peers.sh (`make test` does)", path.display());
    path
}
