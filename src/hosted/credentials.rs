//! What proves who somebody is: keys, and passwords as argon2 hashes.

use std::fmt;
use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;

/// A longer password is not looked at.
const PASSWORD_BYTES: usize = 1024;

/// RSA keys with fewer bits are refused (NIST SP 800-131A).
const RSA_BITS: u32 = 2048;

/// Reads what is needed at each login, so that what was changed counts from the next one on.
pub struct Credentials {
    /// The public keys, as in `authorized_keys`.
    pub keys: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The hash of the password, where there is one.
    pub password: Option<Box<dyn Fn() -> Option<String> + Send + Sync>>,
}

/// `Debug` shows nothing.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Whether the key is one of these.
    pub(super) fn know(&self, key: &PublicKey) -> bool {
        (self.keys)().iter().any(|text| read(text).is_ok_and(|known| known.key_data() == key.key_data()))
    }

    pub(super) fn hash(&self) -> Option<String> {
        self.password.as_ref().and_then(|password| password())
    }
}

fn read(text: &str) -> Result<PublicKey, String> {
    let key = PublicKey::from_openssh(text)
        .map_err(|error| format!("it is no public key as in authorized_keys ({error})"))?;
    match key.key_data() {
        KeyData::Rsa(rsa) if rsa.key_size() < RSA_BITS => Err(format!("an RSA key needs {RSA_BITS} bits")),
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::Rsa(_) => Ok(key),
        _ => Err("a key is one of ssh-ed25519, ecdsa-sha2-… or ssh-rsa".to_owned()),
    }
}

/// What is wrong with a public key as in `authorized_keys`; none where it is good.
pub fn bad_key(text: &str) -> Option<String> {
    read(text).err()
}

/// What is wrong with the hash of a password; none where it is good.
pub fn bad_hash(text: &str) -> Option<String> {
    match PasswordHash::new(text) {
        Ok(hash) if hash.algorithm.as_str().starts_with("argon2") && hash.hash.is_some() => None,
        _ => Some("it is no argon2 hash in PHC form ($argon2id$…); `labwire key hash` makes one".to_owned()),
    }
}

/// The hash of a password, argon2id with a new salt, in PHC form.
pub fn hash(password: &str) -> Result<String, String> {
    if password.is_empty() || password.len() > PASSWORD_BYTES {
        return Err(format!("a password has from 1 to {PASSWORD_BYTES} bytes"));
    }
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether this is the password.
pub(super) fn is_right(password: &str, hash: &str) -> bool {
    let short_enough = !password.is_empty() && password.len() <= PASSWORD_BYTES;
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok() && short_enough)
}

/// The hash of a password that nobody has: what is compared with where a user is not known, or has no password.
pub(super) fn nobodys() -> &'static str {
    static HASH: LazyLock<String> = LazyLock::new(|| hash(&fastrand::u128(..).to_string()).unwrap_or_default());
    &HASH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_password() {
        let kept = hash("correct horse").expect("a hash");
        assert!(kept.starts_with("$argon2id$v=19$") && bad_hash(&kept).is_none(), "{kept}");
        assert_ne!(kept, hash("correct horse").expect("a hash"), "each has a salt of its own");
        assert!(is_right("correct horse", &kept));
        for wrong in ["", "correct horse ", "Correct horse"] {
            assert!(!is_right(wrong, &kept), "{wrong}");
        }
        assert!(!is_right("", nobodys()) && !is_right("x", "no hash"));
        for wrong in ["", "secret", "$1$abc$def", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ"] {
            assert!(bad_hash(wrong).is_some(), "{wrong}");
        }
        assert!(hash("").is_err());
    }

    #[test]
    fn keys_of_no_use_are_told() {
        let good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ someone";
        assert_eq!(bad_key(good), None);
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "from=\"10.0.0.1\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
            "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAICFo/k5LU8863u66YC9eUO2170QduohPURkQnbLa/dczAAAABHNzaDo=",
        ] {
            assert!(bad_key(bad).is_some(), "{bad}");
        }
    }
}
