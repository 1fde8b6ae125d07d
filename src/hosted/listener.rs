//! Listeners that channels share: one for each address, open for as long as somebody holds it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::front::Front;
use super::grants::{Grants, Register};
use super::{Granted, Identity, Limits, NewGrant, identity};

/// So much time is left for an answer to leave when a folder is closed.
const ANSWERS_LEAVE: Duration = Duration::from_millis(200);

/// What is said of a listener as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The server's own key.
    pub identity: Identity,
    /// What clients can use up.
    pub limits: Limits,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The port is not to be had.
    #[error("{0}")]
    Port(io::Error),
    /// The server's own key is of no use.
    #[error("host key {0}")]
    HostKey(io::Error),
    /// Another channel has it open with other settings.
    #[error("another channel listens on this address with another `host_key` or other `limits`: they must be the same")]
    Differs,
}

/// A listener. It closes when the last who holds it lets go.
pub struct Listener {
    address: SocketAddr,
    fingerprint: String,
    pub(super) grants: Arc<Grants>,
    closed: CancellationToken,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An address that is, or was just, listened on.
struct Known {
    wanted: SocketAddr,
    settings: Settings,
    listener: Weak<Listener>,
    /// Cancelled when the port is free again.
    free: CancellationToken,
}

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl Listener {
    /// The listener on this address: the one that is open, or a new one. Must be called within a tokio runtime.
    pub async fn open(wanted: SocketAddr, settings: Settings) -> Result<Arc<Listener>, ListenerError> {
        let closing = {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|known| !known.free.is_cancelled());
            known
                .iter()
                .find(|known| known.wanted == wanted)
                .map(|known| (known.listener.upgrade(), known.free.clone()))
        };
        if let Some((None, free)) = closing {
            free.cancelled().await;
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let open =
            known.iter().find_map(|known| Some((known.listener.upgrade()?, known)).filter(|_| known.wanted == wanted));
        match open {
            Some((listener, known)) if known.settings == settings => Ok(listener),
            Some(_) => Err(ListenerError::Differs),
            None => {
                let free = CancellationToken::new();
                let listener = Arc::new(Listener::bind(wanted, &settings, free.clone())?);
                known.push(Known { wanted, settings, listener: Arc::downgrade(&listener), free });
                Ok(listener)
            }
        }
    }

    fn bind(wanted: SocketAddr, settings: &Settings, free: CancellationToken) -> Result<Listener, ListenerError> {
        let key = settings.identity.load().map_err(ListenerError::HostKey)?;
        let socket = std::net::TcpListener::bind(wanted).map_err(ListenerError::Port)?;
        socket.set_nonblocking(true).map_err(ListenerError::Port)?;
        let socket = TcpListener::from_std(socket).map_err(ListenerError::Port)?;
        let address = socket.local_addr().map_err(ListenerError::Port)?;
        let fingerprint = identity::fingerprint(&key);
        let grants = Arc::<Grants>::default();
        let front = Front::new(key, Arc::new(Register(grants.clone())), settings.limits.clone());
        let (closed, stop, connections) = (front.closed(), front.stop(), front.tasks());
        tracing::info!(%address, host_key = fingerprint, "hosted SFTP: listening");
        tokio::spawn(async move {
            front.accept(socket).await;
            free.cancel();
        });
        Ok(Listener { address, fingerprint, grants, closed, stop, connections })
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fingerprint of its host key as OpenSSH prints it: `SHA256:…`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Opens a folder, for as long as what comes back is held. Blocks for as long as the disk takes.
    pub fn grant(self: &Arc<Listener>, new: NewGrant) -> io::Result<Granted> {
        Granted::new(self.clone(), new)
    }

    /// Gives answers that are due the time to leave.
    pub(super) async fn let_answers_out(&self) {
        if !self.connections.is_empty() {
            tokio::time::sleep(ANSWERS_LEAVE).await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closed.cancel();
        self.stop.cancel();
    }
}
