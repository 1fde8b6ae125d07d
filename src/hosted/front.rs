//! The side that accepts connections: who may come in at all, and how many.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PublicKey};
use russh::{MethodKind, MethodSet, Preferred, SshId, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Limits;
use super::bans::Bans;
use super::connection::Connection;
use super::cut::Cut;
use super::files::Files;

/// So many passwords are worked out at the same time.
const PASSWORDS_AT_ONCE: usize = 2;

/// Knows who may log in, and what that opens. Blocking. An unknown name costs the same work as a known one.
pub(super) trait Doorman: Send + Sync {
    fn by_password(&self, user: &str, password: &str, peer: SocketAddr) -> Option<Arc<dyn Files>>;
    fn by_key(&self, user: &str, key: &PublicKey, peer: SocketAddr) -> Option<Arc<dyn Files>>;
}

/// What the connections of one server share.
pub(super) struct Shared {
    pub(super) doorman: Arc<dyn Doorman>,
    pub(super) limits: Limits,
    pub(super) bans: Bans,
    pub(super) passwords: Arc<Semaphore>,
    users: Mutex<HashMap<String, usize>>,
    /// Connections that are not logged in yet, the oldest first.
    logging_in: Mutex<Vec<Waiting>>,
}

/// A connection that is not logged in yet.
struct Waiting {
    peer: SocketAddr,
    cut: CancellationToken,
}

/// One of the connections that a user may have.
pub(super) struct Seat {
    shared: Arc<Shared>,
    user: String,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.shared.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = users.get_mut(&self.user) {
            *taken -= 1;
            if *taken == 0 {
                users.remove(&self.user);
            }
        }
    }
}

impl Shared {
    /// A seat for this user; none where all are taken.
    pub(super) fn seat(self: &Arc<Shared>, user: &str) -> Option<Seat> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = users.entry(user.to_owned()).or_default();
        (*taken < self.limits.connections_per_user).then(|| {
            *taken += 1;
            Seat { shared: self.clone(), user: user.to_owned() }
        })
    }

    /// Notes a connection that is to log in. Where there are too many, the oldest of the address that has most is cut: whoever
    /// floods the door pushes out their own, and a login that goes on at once comes through.
    fn note(&self, peer: SocketAddr, cut: &CancellationToken) {
        let mut waiting = self.logging_in.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| !other.cut.is_cancelled());
        if waiting.len() >= self.limits.logging_in {
            let count = |address: IpAddr| waiting.iter().filter(|other| other.peer.ip() == address).count();
            let most = waiting.iter().map(|other| count(other.peer.ip())).max().unwrap_or_default();
            if let Some(at) = waiting.iter().position(|other| count(other.peer.ip()) == most) {
                let oldest = waiting.remove(at);
                let peer = oldest.peer;
                tracing::info!(%peer, "hosted SFTP: closed before its login, too many connections are not logged in");
                oldest.cut.cancel();
            }
        }
        waiting.push(Waiting { peer, cut: cut.clone() });
    }

    /// It is logged in, or gone.
    fn settled(&self, peer: SocketAddr) {
        let mut waiting = self.logging_in.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|other| other.peer != peer);
    }
}

/// A server that accepts connections.
pub(super) struct Front {
    ssh: Arc<server::Config>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    /// Ends once nothing more is accepted, while what is connected goes on.
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Front {
    pub(super) fn new(key: PrivateKey, doorman: Arc<dyn Doorman>, limits: Limits) -> Front {
        Front {
            ssh: Arc::new(ssh_config(key, &limits)),
            slots: Arc::new(Semaphore::new(limits.connections)),
            shared: Arc::new(Shared {
                doorman,
                bans: Bans::new(limits.failures, limits.ban),
                passwords: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE)),
                users: Mutex::default(),
                logging_in: Mutex::default(),
                limits,
            }),
            stop: CancellationToken::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Cuts everything when it is cancelled.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Closes the port when it is cancelled.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Everything that is at work for this server.
    pub(super) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.closed.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
                Err(error) => {
                    tracing::warn!(%error, "hosted SFTP: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        if self.shared.bans.bans(peer.ip()) {
            tracing::debug!(%peer, "hosted SFTP: connection refused, its address is banned");
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            let connections = self.shared.limits.connections;
            tracing::warn!(%peer, connections, "hosted SFTP: connection refused, all slots are taken");
            return;
        };
        let _ = stream.set_nodelay(true);
        let cut = self.stop.child_token();
        self.shared.note(peer, &cut);
        let connection = Connection::new(peer, self.shared.clone(), cut.clone(), self.tasks.token());
        let logged_in = connection.logged_in();
        let (ssh, shared) = (self.ssh.clone(), self.shared.clone());
        self.tasks.spawn(async move {
            let deadline = cut.clone();
            let session = async {
                match server::run_stream(ssh, Cut::new(stream, cut.clone()), connection).await {
                    Ok(running) => running.await,
                    Err(error) => Err(error),
                }
            };
            let login = async {
                tokio::select! {
                    () = logged_in.cancelled() => shared.settled(peer),
                    () = tokio::time::sleep(shared.limits.login) => {
                        tracing::info!(%peer, "hosted SFTP: no login in time");
                        deadline.cancel();
                    }
                }
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = session => ended,
                () = login => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "hosted SFTP: connection ended");
            }
            cut.cancel();
            shared.settled(peer);
            drop(slot);
        });
    }
}

/// SSH as we speak it: what a scanner would complain about is not offered.
fn ssh_config(key: PrivateKey, limits: &Limits) -> server::Config {
    let keys = [
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ];
    server::Config {
        server_id: SshId::Standard("SSH-2.0-Labwire".into()),
        methods: MethodSet::from([MethodKind::PublicKey, MethodKind::Password].as_slice()),
        auth_rejection_time: Duration::from_secs(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: limits.login_attempts,
        inactivity_timeout: Some(limits.idle),
        keepalive_interval: Some(Duration::from_secs(30)),
        keys: vec![key],
        preferred: Preferred {
            key: keys.to_vec().into(),
            compression: vec![russh::compression::NONE].into(),
            ..Preferred::DEFAULT
        },
        // A 32 KiB write fits into one packet: with less, clients without TCP_NODELAY wait 40 ms for each.
        maximum_packet_size: 65_535,
        window_size: 8 << 20,
        ..server::Config::default()
    }
}
