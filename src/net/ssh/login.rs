//! How a channel file says what proves that it is us.

use std::ops::Range;

use super::Login;
use crate::config::{BuildError, Secret, report};

/// The options `password`, `key` and `passphrase`.
#[derive(Debug, Clone)]
pub struct LoginKeys {
    /// The password.
    pub password: Option<Secret>,
    /// The private key.
    pub key: Option<Secret>,
    /// What the private key is encrypted with.
    pub passphrase: Option<Secret>,
}

impl LoginKeys {
    /// Reports what does not go together, in the table of this name.
    pub fn check(&self, span: &Range<usize>, table: &str) {
        let help = || Some("write `key = { file = \"path\" }` or `password = { env = \"NAME\" }`".to_owned());
        match (&self.password, &self.key) {
            (None, None) => report(span.clone(), format!("{table} needs `key` or `password`"), "", help()),
            (Some(_), Some(_)) => report(span.clone(), format!("{table} has both `key` and `password`"), "", help()),
            _ => {}
        }
        if self.passphrase.is_some() && self.key.is_none() {
            let help = Some("a passphrase belongs to a key".to_owned());
            report(span.clone(), format!("{table} has `passphrase` without `key`"), "", help);
        }
    }

    /// Fetches the secrets.
    pub fn fetch(&self) -> Result<Login, BuildError> {
        match (&self.password, &self.key) {
            (Some(password), _) => Ok(Login::Password(password.fetch()?)),
            (None, Some(key)) => {
                let passphrase = self.passphrase.as_ref().map(Secret::fetch).transpose()?;
                Ok(Login::Key { private: private_key(key)?, passphrase })
            }
            (None, None) => Err(BuildError::Secret("neither `key` nor `password` is given".to_owned())),
        }
    }
}

/// The text of a private key; the mistakes that people make with key files are named.
fn private_key(key: &Secret) -> Result<String, BuildError> {
    let text = key.fetch()?;
    let wrong = |what: &str| Err(BuildError::Secret(format!("{key}: {what}")));
    if text.starts_with("PuTTY-User-Key-File") {
        wrong("this is a PuTTY key; `puttygen FILE -O private-openssh -o NEW` converts it")
    } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") {
        wrong("this is a public key; the private one is in the file without `.pub`")
    } else if !text.contains("PRIVATE KEY-----") {
        wrong("this is no private key in OpenSSH or PEM format")
    } else {
        Ok(text + "\n")
    }
}
