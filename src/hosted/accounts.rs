//! Who may log in, and with what.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;
use sha2::{Digest, Sha256};

use super::User;
use super::files::Files;
use super::front::Doorman;
use super::jail::Jail;

/// The users by name.
#[derive(Debug)]
pub(super) struct Accounts {
    accounts: HashMap<String, Account>,
    nobody: Account,
    file_bytes: u64,
}

struct Account {
    password: Option<[u8; 32]>,
    keys: Vec<KeyData>,
    root: PathBuf,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Accounts {
    pub(super) fn new(users: &[User], file_bytes: u64) -> io::Result<Accounts> {
        let mut accounts = HashMap::new();
        for user in users {
            if accounts.insert(user.name.clone(), Account::new(user)?).is_some() {
                return Err(wrong(user, "is there twice"));
            }
        }
        Ok(Accounts { accounts, nobody: Account { password: None, keys: vec![], root: PathBuf::new() }, file_bytes })
    }

    /// The folder of the user who has this name and password. An unknown name costs the same work as a known one.
    fn folder_by_password(&self, name: &str, password: &str) -> Option<&Path> {
        let account = self.accounts.get(name).unwrap_or(&self.nobody);
        let kept = account.password.unwrap_or_default();
        let given = digest(password);
        let difference = kept.iter().zip(given).fold(0, |difference, (kept, given)| difference | (kept ^ given));
        (difference == 0 && account.password.is_some()).then_some(account.root.as_path())
    }

    /// The folder of the user who has this name and key.
    fn folder_by_key(&self, name: &str, key: &PublicKey) -> Option<&Path> {
        let account = self.accounts.get(name).unwrap_or(&self.nobody);
        account.keys.contains(key.key_data()).then_some(account.root.as_path())
    }
}

impl Doorman for Accounts {
    fn by_password(&self, user: &str, password: &str, _: SocketAddr) -> Option<Arc<dyn Files>> {
        self.enter(self.folder_by_password(user, password)?)
    }

    fn by_key(&self, user: &str, key: &PublicKey, _: SocketAddr) -> Option<Arc<dyn Files>> {
        self.enter(self.folder_by_key(user, key)?)
    }
}

impl Accounts {
    fn enter(&self, root: &Path) -> Option<Arc<dyn Files>> {
        match Jail::open(root) {
            Ok(jail) => Some(Arc::new(jail.with_limit(self.file_bytes))),
            Err(error) => {
                tracing::error!(folder = %root.display(), %error, "hosted SFTP: no folder to serve");
                None
            }
        }
    }
}

impl Account {
    fn new(user: &User) -> io::Result<Account> {
        if user.name.is_empty() || user.password.as_deref() == Some("") {
            return Err(wrong(user, "needs a name, and a password of at least one character or none at all"));
        }
        if user.password.is_none() && user.keys.is_empty() {
            return Err(wrong(user, "has neither a password nor a key"));
        }
        let mut keys = Vec::new();
        for text in &user.keys {
            let key = PublicKey::from_openssh(text)
                .map_err(|error| wrong(user, &format!("has a public key that cannot be read: {error}")))?;
            keys.push(key.key_data().clone());
        }
        std::fs::create_dir_all(&user.root)
            .map_err(|error| wrong(user, &format!("has no folder {}: {error}", user.root.display())))?;
        Ok(Account { password: user.password.as_deref().map(digest), keys, root: user.root.clone() })
    }
}

/// Passwords are compared by their digests: same length, and nothing to learn from where they differ.
fn digest(password: &str) -> [u8; 32] {
    Sha256::digest(password.as_bytes()).into()
}

fn wrong(user: &User, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("hosted SFTP user `{}` {what}", user.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ someone";

    fn user(name: &str, password: Option<&str>, keys: &[&str], root: &Path) -> User {
        User {
            name: name.into(),
            password: password.map(str::to_owned),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            root: root.join(name),
        }
    }

    #[test]
    fn name_and_password_must_both_be_right() {
        let folder = tempfile::tempdir().unwrap();
        let users = [user("acme", Some("right"), &[], folder.path()), user("keyed", None, &[KEY], folder.path())];
        let accounts = Accounts::new(&users, u64::MAX).unwrap();
        for (name, password, right) in [
            ("acme", "right", true),
            ("acme", "wrong", false),
            ("acme", "", false),
            ("acme", "right ", false),
            ("nobody", "right", false),
            ("keyed", "", false),
            ("", "", false),
        ] {
            assert_eq!(accounts.folder_by_password(name, password).is_some(), right, "{name} {password}");
        }
        let key = PublicKey::from_openssh(KEY).unwrap();
        assert!(accounts.folder_by_key("keyed", &key).is_some());
        assert!(accounts.folder_by_key("acme", &key).is_none() && accounts.folder_by_key("nobody", &key).is_none());
    }

    #[test]
    fn users_that_make_no_sense_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for users in [
            vec![user("a", Some(""), &[], root)],
            vec![user("a", None, &[], root)],
            vec![user("", Some("x"), &[], root)],
            vec![user("a", None, &["ssh-ed25519 nonsense"], root)],
            vec![user("a", Some("x"), &[], root), user("a", Some("y"), &[], root)],
        ] {
            assert!(Accounts::new(&users, u64::MAX).is_err(), "{users:?}");
        }
    }
}
