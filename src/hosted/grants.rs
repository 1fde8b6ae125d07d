//! Which folders there are on one listener, and who opens them.
//!
//! Every channel brings its own folder together with what opens it. A login sees the folders of those channels whose key or password
//! it has: two channels of one user need not know of each other, and a key that is taken out of a channel file opens that channel's
//! folder no longer, whatever stands in others.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use russh::keys::PublicKey;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::credentials::{is_right, nobodys};
use super::files::Files;
use super::folder::Folder;
use super::front::Doorman;
use super::view::{Proof, View, Who};
use super::{Capture, Credentials, Listener, Rules};

/// So many different hashes of one user are tried.
const HASHES: usize = 4;

/// A folder that a channel opens to a user.
pub struct NewGrant {
    /// The channel, for logs.
    pub channel: String,
    /// The login name.
    pub user: String,
    /// What proves that it is them.
    pub credentials: Credentials,
    /// From where they may come.
    pub allows: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// The names of the folder's path as the client sees it; none for the root.
    pub folder: Vec<String>,
    /// Where it is on this machine; made where it is missing.
    pub disk: PathBuf,
    /// What may be done in it.
    pub rules: Rules,
    /// Who takes what is uploaded; none where nothing is.
    pub capture: Option<Arc<dyn Capture>>,
}

pub(super) struct Grant {
    user: String,
    credentials: Credentials,
    allows: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub(super) folder: Vec<String>,
    pub(super) files: Arc<Folder>,
}

/// The grants of one listener.
#[derive(Default)]
pub(super) struct Grants {
    list: RwLock<Vec<Arc<Grant>>>,
    generation: AtomicU64,
}

impl Grants {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn list(&self) -> Vec<Arc<Grant>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Grant>>)) {
        change(&mut self.list.write().unwrap_or_else(PoisonError::into_inner));
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn of_user(&self, who: &Who) -> Vec<Arc<Grant>> {
        self.list().into_iter().filter(|grant| grant.user == who.user && (grant.allows)(who.peer.ip())).collect()
    }

    /// What a login opens, and as of which generation.
    pub(super) fn of(&self, who: &Who, proof: &Proof) -> (u64, Vec<Arc<Grant>>) {
        let generation = self.generation();
        let opens = |grant: &Arc<Grant>| match proof {
            Proof::Key(key) => grant.credentials.know(key),
            Proof::Password(hashes) => grant.credentials.hash().is_some_and(|hash| hashes.contains(&hash)),
        };
        (generation, self.of_user(who).into_iter().filter(opens).collect())
    }
}

/// What the listener asks at a login.
pub(super) struct Register(pub(super) Arc<Grants>);

impl Register {
    fn enter(&self, who: Who, proof: Proof) -> Option<Arc<dyn Files>> {
        Some(Arc::new(View::new(self.0.clone(), who, proof)?))
    }
}

impl Doorman for Register {
    fn by_password(&self, user: &str, password: &str, peer: SocketAddr) -> Option<Arc<dyn Files>> {
        let who = Who { user: user.to_owned(), peer };
        let mut hashes: Vec<String> =
            self.0.of_user(&who).iter().filter_map(|grant| grant.credentials.hash()).collect();
        hashes.sort();
        hashes.dedup();
        hashes.truncate(HASHES);
        if hashes.is_empty() {
            // Somebody who is not known waits as long as somebody who is.
            is_right(password, nobodys());
        }
        hashes.retain(|hash| is_right(password, hash));
        if hashes.is_empty() { None } else { self.enter(who, Proof::Password(hashes)) }
    }

    fn by_key(&self, user: &str, key: &PublicKey, peer: SocketAddr) -> Option<Arc<dyn Files>> {
        self.enter(Who { user: user.to_owned(), peer }, Proof::Key(key.clone()))
    }
}

/// A folder while it is open. Dropping it closes the folder, without waiting for what is just arriving.
pub struct Granted {
    listener: Arc<Listener>,
    grant: Arc<Grant>,
    _sweeping: DropGuard,
}

impl Granted {
    /// Opens a folder on a listener. Must be called within a tokio runtime; blocks for as long as the disk takes.
    pub(super) fn new(listener: Arc<Listener>, new: NewGrant) -> std::io::Result<Granted> {
        let folder = Arc::new(Folder::open(new.channel, &new.disk, new.rules, new.capture)?);
        let stop = CancellationToken::new();
        tokio::spawn(sweep(folder.clone(), stop.clone()));
        let grant = Arc::new(Grant {
            user: new.user,
            credentials: new.credentials,
            allows: new.allows,
            folder: new.folder,
            files: folder,
        });
        listener.grants.change(|list| list.push(grant.clone()));
        Ok(Granted { listener, grant, _sweeping: stop.drop_guard() })
    }

    /// Closes the folder, and returns when nothing arrives in it any more and what arrived was answered.
    pub async fn withdraw(self) {
        self.take_out();
        let folder = self.grant.files.clone();
        let _ = tokio::task::spawn_blocking(move || folder.close()).await;
        self.listener.let_answers_out().await;
    }

    fn take_out(&self) {
        self.listener.grants.change(|list| list.retain(|grant| !Arc::ptr_eq(grant, &self.grant)));
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.take_out();
        let folder = self.grant.files.clone();
        if folder.is_open() {
            // Not here: somebody may be just handing a file over.
            let _ = std::thread::Builder::new().spawn(move || folder.close());
        }
    }
}

async fn sweep(folder: Arc<Folder>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(folder.sweeps_every()) => {}
        }
        let swept = folder.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || swept.sweep()).await {
            tracing::warn!(channel = folder.channel(), %error, "hosted SFTP: the folder cannot be looked through");
        }
    }
}
