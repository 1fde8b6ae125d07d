//! The server's own key.

use std::io;
use std::path::PathBuf;

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// Where the server's own key comes from.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A new ed25519 key for this run alone.
    Generated,
    /// A key file in OpenSSH format, without a passphrase; an ed25519 key is made and kept there where the file is missing.
    File(PathBuf),
}

impl Identity {
    pub(super) fn load(&self) -> io::Result<PrivateKey> {
        match self {
            Identity::Generated => generate(),
            Identity::File(path) => match PrivateKey::read_openssh_file(path) {
                Ok(key) if key.is_encrypted() => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("host key {} has a passphrase", path.display()),
                )),
                Ok(key) => Ok(key),
                Err(_) if !path.exists() => {
                    let key = generate()?;
                    // Creates the file for its owner alone (mode 0600).
                    key.write_openssh_file(path, LineEnding::LF).map_err(io::Error::other)?;
                    Ok(key)
                }
                Err(error) => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, format!("host key {}: {error}", path.display())))
                }
            },
        }
    }
}

fn generate() -> io::Result<PrivateKey> {
    PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::File(folder.path().join("host_key"));
        let first = identity.load().unwrap();
        assert_eq!(first.public_key(), identity.load().unwrap().public_key());
        let mode = std::fs::metadata(folder.path().join("host_key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_key_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host_key");
        std::fs::write(&path, "no key").unwrap();
        assert!(Identity::File(path.clone()).load().is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "no key");
    }
}
