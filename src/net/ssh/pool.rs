//! Connections that are kept and shared: all who log in to one server as one user with one key use the same few.
//!
//! Partners allow a handful of connections per user. A channel cannot know how many others go to the same place, so what is
//! counted is counted here, for the whole process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::{Client, Connected, Login, Plug, SshError, Target};

/// Who shares connections: all whose target has the same digest. A wait for an answer may differ.
type Key = [u8; 32];

static POOLS: Mutex<Option<HashMap<Key, Weak<Pool>>>> = Mutex::new(None);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(target: &Target) -> Key {
    let (how, secret, passphrase) = match &target.login {
        Login::Password(password) => ("password", password, None),
        Login::Key { private, passphrase } => ("key", private, passphrase.as_ref()),
    };
    let mut digest = Sha256::new();
    let legacy: Vec<_> = target.legacy_algorithms.iter().map(|old| old.name()).collect();
    let (port, host_key, legacy) = (target.port.to_string(), target.host_key.to_string(), legacy.join(","));
    let passphrase = passphrase.map_or("", String::as_str);
    for part in [target.host.as_str(), &port, &target.user, how, secret, passphrase, &host_key, &legacy] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// How long a connection is kept, and what is done meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Most connections of all who share them.
    pub connections: usize,
    /// One that nobody has used for so long is closed.
    pub idle: Duration,
    /// A sign of life is sent after so long without work.
    pub keep_alive: Duration,
}

/// An SFTP session, and the connection that it runs on.
pub struct SftpSession {
    /// Before `sftp`, so that it is dropped first: with its socket shut, libssh2 does not wait for the peer to close the channel.
    connected: Connected,
    /// The session.
    pub sftp: ssh2::Sftp,
    keeping: Option<Keeping>,
    used: Instant,
    last_sign: Instant,
}

/// Why there is no SFTP session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// There is one, and no SFTP on it.
    #[error(
        "{server} lets `{user}` in but does not start SFTP: {reason}; ask the partner whether this user may use SFTP"
    )]
    Sftp {
        /// Host and port.
        server: String,
        /// The login name.
        user: String,
        /// What libssh2 said.
        reason: String,
    },
}

/// The connections of those who share them.
#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    in_use: usize,
    idle: Vec<SftpSession>,
    is_tended: bool,
}

/// A way to one server, by connections that others may share.
#[derive(Clone)]
pub struct Sharing {
    client: Arc<Client>,
    pool: Arc<Pool>,
    keeping: Keeping,
}

impl Sharing {
    /// Finds those who go the same way.
    pub fn new(target: Target, keeping: Keeping) -> Sharing {
        let mut pools = locked(&POOLS);
        let pools = pools.get_or_insert_default();
        pools.retain(|_, pool| pool.strong_count() > 0);
        let known = pools.entry(key_of(&target)).or_default();
        let pool = known.upgrade().unwrap_or_else(|| {
            let pool = Arc::new(Pool::default());
            *known = Arc::downgrade(&pool);
            pool
        });
        Sharing { client: Arc::new(Client::new(target)), pool, keeping }
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        self.client.target()
    }

    /// Waits until a connection may be used. Whoever waits can give up at any time.
    pub async fn lease(&self) -> Lease {
        loop {
            let mut changed = std::pin::pin!(self.pool.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = locked(&self.pool.state);
                if state.in_use < self.keeping.connections.max(1) {
                    state.in_use += 1;
                    return Lease { sharing: self.clone() };
                }
            }
            changed.await;
        }
    }
}

/// The right to use one connection.
pub struct Lease {
    sharing: Sharing,
}

impl Drop for Lease {
    fn drop(&mut self) {
        locked(&self.sharing.pool.state).in_use -= 1;
        self.sharing.pool.changed.notify_waiters();
    }
}

impl Lease {
    /// Where it leads.
    pub fn target(&self) -> &Target {
        self.sharing.target()
    }

    /// The connection that was used last, if one is left. It may be dead.
    pub fn kept(&self, plug: &Plug) -> Option<SftpSession> {
        let session = locked(&self.sharing.pool.state).idle.pop()?;
        session.connected.session.set_timeout(self.target().timeout_ms());
        plug.hold(&session.connected.socket).is_ok().then_some(session)
    }

    /// A new connection; blocks.
    pub fn connect(&self, plug: &Plug) -> Result<SftpSession, OpenError> {
        let Target { host, port, user, .. } = self.target();
        // Those that are kept count with the server: room is made for this one.
        let too_many = {
            let mut state = locked(&self.sharing.pool.state);
            let room = self.sharing.keeping.connections.saturating_sub(state.in_use);
            let surplus = state.idle.len().saturating_sub(room);
            state.idle.drain(..surplus).collect::<Vec<_>>()
        };
        drop(too_many);
        let connected = self.sharing.client.connect(plug)?;
        let now = Instant::now();
        match connected.session.sftp() {
            Ok(sftp) => Ok(SftpSession { connected, sftp, keeping: None, used: now, last_sign: now }),
            Err(error) => Err(OpenError::Sftp {
                server: format!("{host}:{port}"),
                user: user.clone(),
                reason: error.message().to_owned(),
            }),
        }
    }

    /// Keeps a connection for whoever comes next.
    pub fn keep(&self, mut session: SftpSession) {
        let now = Instant::now();
        (session.used, session.last_sign, session.keeping) = (now, now, Some(self.sharing.keeping));
        let mut state = locked(&self.sharing.pool.state);
        state.idle.push(session);
        if !state.is_tended
            && let Ok(runtime) = Handle::try_current()
        {
            state.is_tended = true;
            runtime.spawn(tend(Arc::downgrade(&self.sharing.pool)));
        }
    }
}

/// Looks after connections that nobody uses, until there are none.
async fn tend(pool: Weak<Pool>) {
    loop {
        let next = {
            let Some(pool) = pool.upgrade() else { return };
            let mut state = locked(&pool.state);
            let Some(next) = state.idle.iter().map(SftpSession::next_care).min() else {
                state.is_tended = false;
                return;
            };
            next
        };
        // One that is kept for a shorter time may come meanwhile.
        tokio::time::sleep_until(next.min(Instant::now() + Duration::from_millis(500)).into()).await;
        let Some(pool) = pool.upgrade() else { return };
        let cared = tokio::task::spawn_blocking(move || drop(pool.care()));
        if cared.await.is_err() {
            return;
        }
    }
}

impl Pool {
    /// Takes out those that are to be closed, and sends a sign of life on the others that are due.
    fn care(&self) -> Vec<SftpSession> {
        let now = Instant::now();
        let mut state = locked(&self.state);
        let (mut over, mut kept) = (Vec::new(), Vec::new());
        for mut session in state.idle.drain(..) {
            let due = session.next_care() <= now;
            match session.keeping {
                Some(keeping) if due && now.duration_since(session.used) < keeping.idle => {
                    if session.sign_of_life(now) { kept.push(session) } else { over.push(session) }
                }
                _ if due => over.push(session),
                _ => kept.push(session),
            }
        }
        state.idle = kept;
        over
    }
}

impl SftpSession {
    /// When something is to be done for it.
    fn next_care(&self) -> Instant {
        match self.keeping {
            Some(keeping) => (self.used + keeping.idle).min(self.last_sign + keeping.keep_alive),
            None => self.used,
        }
    }

    /// Waits for nothing: what cannot be written now is not.
    fn sign_of_life(&mut self, now: Instant) -> bool {
        let session = &self.connected.session;
        self.last_sign = now;
        session.set_blocking(false);
        // The interval of libssh2 is in seconds, and it counts for itself: with one second it sends whenever it is asked to.
        session.set_keepalive(false, 1);
        let sent = session.keepalive_send().is_ok();
        session.set_blocking(true);
        sent
    }
}
