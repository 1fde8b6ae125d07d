//! Labwire's own SFTP server: partners drop files and pick files up, each in a folder of their own.
//!
//! Design constraints:
//! - A user reaches what is below their own folder and nothing else; the kernel sees to it (`openat2`, by cap-std), not a check
//!   of names.
//! - Closing an uploaded file is answered with OK only after the file is on disk.
//! - SFTP alone: no shell, no commands, no forwarding, no links.
//! - Everything a client can make grow has a limit, see [`Limits`].

mod accounts;
mod connection;
mod cut;
mod identity;
mod jail;
mod pump;
mod sftp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{MethodKind, MethodSet, Preferred, SshId, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use accounts::Accounts;
use connection::Connection;
use cut::Cut;

pub use identity::Identity;

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
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at one time; one more is closed at once.
    pub connections: usize,
    /// Time from connecting to being logged in.
    pub login: Duration,
    /// Refused logins on one connection.
    pub login_attempts: usize,
    /// SFTP channels on one connection.
    pub channels: usize,
    /// Files and folders that one channel has open.
    pub handles: usize,
    /// Size of one file.
    pub file_bytes: u64,
    /// Time without a word from the client.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 64,
            login: Duration::from_secs(30),
            login_attempts: 6,
            channels: 4,
            handles: 64,
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
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let accounts = Arc::new(Accounts::new(&config.users)?);
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let front = Front {
            ssh: Arc::new(ssh_config(key, &config.limits)),
            accounts,
            slots: Arc::new(Semaphore::new(config.limits.connections)),
            limits: config.limits,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let hosted = Hosted { address, fingerprint, stop: front.stop.clone(), tasks: front.tasks.clone() };
        front.tasks.clone().spawn(front.accept(listener));
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

/// The side that accepts connections.
struct Front {
    ssh: Arc<server::Config>,
    accounts: Arc<Accounts>,
    slots: Arc<Semaphore>,
    limits: Limits,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Front {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "hosted SFTP: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::warn!(%peer, connections = self.limits.connections, "hosted SFTP: connection refused, all slots are taken");
            return;
        };
        let _ = stream.set_nodelay(true);
        let cut = self.stop.child_token();
        let connection =
            Connection::new(peer, self.accounts.clone(), self.limits.clone(), cut.clone(), self.tasks.token());
        let logged_in = connection.logged_in();
        let ssh = self.ssh.clone();
        let login = self.limits.login;
        self.tasks.spawn(async move {
            let deadline = cut.clone();
            let session = async {
                match server::run_stream(ssh, Cut::new(stream, cut.clone()), connection).await {
                    Ok(running) => running.await,
                    Err(error) => Err(error),
                }
            };
            let too_late = async {
                tokio::time::sleep(login).await;
                if logged_in.is_cancelled() { std::future::pending().await } else { deadline.cancel() }
            };
            tokio::pin!(session);
            let ended = tokio::select! {
                ended = &mut session => ended,
                () = too_late => {
                    tracing::info!(%peer, "hosted SFTP: no login in time");
                    session.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "hosted SFTP: connection ended");
            }
            cut.cancel();
            drop(slot);
        });
    }
}

/// SSH as we speak it: what a scanner would complain about is not offered.
fn ssh_config(key: russh::keys::PrivateKey, limits: &Limits) -> server::Config {
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
