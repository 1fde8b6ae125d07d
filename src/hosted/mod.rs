//! Labwire's own SFTP server: partners drop files and pick files up.
//!
//! Two servers share all that is SSH (`front`, `connection`, `pump`) and the SFTP requests (`sftp`); they differ in what a login
//! opens, behind the trait `files::Files`:
//! - [`Hosted`]: each user a whole tree of their own (`jail`), as a partner's server has it. `labwire demo` and the tests use it.
//! - [`Listener`]: the folders that channels open ([`NewGrant`]), each with its rules (`view`, `folder`). What is uploaded is handed
//!   to the channel ([`Capture`]) before the client's close or rename is answered.
//!
//! Design constraints:
//! - A user reaches what is theirs and nothing else; the kernel sees to it (`openat2`, by cap-std), not a check of names.
//! - Closing an uploaded file is answered with OK only after it is on disk: the file, or the journal's record of it.
//! - SFTP alone: no shell, no commands, no forwarding, no links.
//! - Everything a client can make grow has a limit, see [`Limits`] and [`Rules`].

mod accounts;
mod bans;
mod connection;
mod credentials;
mod cut;
mod files;
mod folder;
mod front;
mod globs;
mod grants;
mod identity;
mod jail;
mod listener;
mod place;
mod pump;
mod rules;
mod sftp;
mod upload;
mod view;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use accounts::Accounts;
use front::Front;

pub use credentials::{Credentials, bad_hash, bad_key, hash};
pub use globs::Glob;
pub use grants::{Granted, NewGrant};
pub use identity::{Identity, bad_host_key};
pub use listener::{Listener, ListenerError, Settings};
pub use place::{Placed, fits, place};
pub use rules::{Access, Capture, Captured, INCOMPLETE, PLACED_MODE, Rules, Verdict, folder_of, make_folder};

/// How a hosted server is set up.
#[derive(Debug)]
pub struct HostedConfig {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The server's own key.
    pub identity: Identity,
    /// Who may log in.
    pub users: Vec<User>,
    /// What clients can use up.
    pub limits: Limits,
}

/// Somebody who may log in.
#[derive(Clone)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The password, where this user has one.
    pub password: Option<String>,
    /// Public keys as in `authorized_keys`: `ssh-ed25519 AAAA… comment`.
    pub keys: Vec<String>,
    /// The folder that is `/` for this user; made where it is missing.
    pub root: PathBuf,
}

/// `Debug` shows no password.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("root", &self.root).finish_non_exhaustive()
    }
}

/// What clients can use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time; one more is closed at once.
    pub connections: usize,
    /// Connections of one user.
    pub connections_per_user: usize,
    /// Connections that are not logged in yet; where there are more, the oldest of the address that has most is closed.
    pub logging_in: usize,
    /// Time from connecting to being logged in.
    pub login: Duration,
    /// Refused logins on one connection.
    pub login_attempts: usize,
    /// SFTP channels on one connection.
    pub channels: usize,
    /// Files and folders that one channel has open.
    pub handles: usize,
    /// Refused logins from one address, within [`Limits::ban`], after which it is banned for so long; 0: never.
    pub failures: u32,
    /// For how long an address is banned.
    pub ban: Duration,
    /// Size of one file, where a user has a whole tree.
    pub file_bytes: u64,
    /// Time without a word from the client.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 64,
            connections_per_user: 64,
            logging_in: 64,
            login: Duration::from_secs(30),
            login_attempts: 6,
            channels: 4,
            handles: 64,
            failures: 0,
            ban: Duration::from_secs(600),
            file_bytes: 4 << 30,
            idle: Duration::from_secs(600),
        }
    }
}

/// A running server. Dropping it stops it, without waiting.
#[derive(Debug)]
pub struct Hosted {
    address: SocketAddr,
    fingerprint: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Hosted {
    /// Starts listening. Must be called within a tokio runtime.
    pub fn start(config: HostedConfig) -> io::Result<Hosted> {
        let key = config.identity.load()?;
        let fingerprint = identity::fingerprint(&key);
        let accounts = Arc::new(Accounts::new(&config.users, config.limits.file_bytes)?);
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let front = Front::new(key, accounts, config.limits);
        let hosted = Hosted { address, fingerprint, stop: front.stop(), tasks: front.tasks() };
        front.tasks().spawn(front.accept(listener));
        Ok(hosted)
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fingerprint of its host key as OpenSSH prints it: `SHA256:…`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Cuts all connections and returns when nothing of this server is at work any more.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
