//! The server's own key.

use std::fmt;
use std::io;
use std::path::PathBuf;

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey};

/// Where the server's own key comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    /// A new ed25519 key for this run alone.
    Generated,
    /// A key file in OpenSSH format, without a passphrase; an ed25519 key is made and kept there where the file is missing.
    File(PathBuf),
    /// The text of such a file.
    Text(String),
}

/// `Debug` shows no key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Generated => f.write_str("Generated"),
            Identity::File(path) => f.debug_tuple("File").field(path).finish(),
            Identity::Text(_) => f.write_str("Text"),
        }
    }
}

impl Identity {
    pub(super) fn load(&self) -> io::Result<PrivateKey> {
        match self {
            Identity::Generated => generate(),
            Identity::Text(text) => read(text).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem)),
            Identity::File(path) => match PrivateKey::read_openssh_file(path) {
                Ok(key) if key.is_encrypted() => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("host key {} has a passphrase", path.display()),
                )),
                Ok(key) => Ok(key),
                Err(_) if !path.exists() => {
                    if let Some(folder) = path.parent() {
                        std::fs::create_dir_all(folder)?;
                    }
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

fn read(text: &str) -> Result<PrivateKey, String> {
    let key =
        PrivateKey::from_openssh(text).map_err(|error| format!("is no private key in OpenSSH format: {error}"))?;
    if key.is_encrypted() { Err("has a passphrase".to_owned()) } else { Ok(key) }
}

/// What is wrong with the text of a key file; none where it is good.
pub fn bad_host_key(text: &str) -> Option<String> {
    read(text).err()
}

/// The fingerprint of a key as OpenSSH prints it: `SHA256:…`.
pub(super) fn fingerprint(key: &PrivateKey) -> String {
    key.public_key().fingerprint(HashAlg::Sha256).to_string()
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
