//! SSH connections to partners, by libssh2. Blocking: callers run this on a thread that may block.
//!
//! Design constraints:
//! - The server's key is pinned. It is checked before anything of ours (user name, password) is sent.
//! - Nothing waits longer than the timeout, and [`Plug::pull`] ends what is waiting at once.
//! - What is not safe any more is offered to servers whose channel file names it, and to no others.

mod algorithms;
mod login;
mod offers;
mod options;
mod pool;

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ssh2::{ErrorCode, HashType, KeyboardInteractivePrompt, MethodType, Prompt, Session};

pub use algorithms::{LegacyAlgorithm, warning};
pub use login::LoginKeys;
pub use options::{Host, HostKey};
pub use pool::{Keeping, Lease, OpenError, SftpSession, Sharing};

use algorithms::Offer;

/// Where to connect, as whom, and who must answer.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The login name.
    pub user: String,
    /// What proves that it is us.
    pub login: Login,
    /// What proves that it is them.
    pub host_key: HostKey,
    /// What is not safe any more and may be used with this server.
    pub legacy_algorithms: Vec<LegacyAlgorithm>,
    /// Longest wait: for the connection, and for each answer.
    pub timeout: Duration,
}

impl Target {
    fn timeout_ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }
}

/// What proves that it is us.
#[derive(Clone)]
pub enum Login {
    /// A password; also given where the server asks for it interactively.
    Password(String),
    /// A private key in OpenSSH or PEM format.
    Key {
        /// The text of the key file.
        private: String,
        /// What the key is encrypted with.
        passphrase: Option<String>,
    },
}

/// `Debug` shows no secret.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Password(_) => "Password",
            Login::Key { .. } => "Key",
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The name leads nowhere.
    #[error("`{host}` has no address: {error}; check `host`")]
    Resolve {
        /// The host.
        host: String,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody listens.
    #[error("no connection to {host}:{port}: {error}")]
    Connect {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system said.
        error: io::Error,
    },
    /// No SSH came about.
    #[error("{host}:{port} does not complete the SSH handshake: {reason}")]
    Handshake {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What libssh2 said.
        reason: String,
    },
    /// Both sides have nothing in common.
    #[error("{host}:{port} and Labwire do not come together: {apart}")]
    Algorithms {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What each side offers, and what to do.
        apart: String,
    },
    /// Somebody else answers.
    #[error(
        "host key of {host}:{port} is not the pinned one: pinned {pinned}, presented {presented}; if the partner confirms that \
         the key was changed, put the new fingerprint into `host_key`, else somebody may stand in between; nothing was sent"
    )]
    HostKey {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The pinned fingerprints.
        pinned: String,
        /// The fingerprints of all keys that the server presented.
        presented: String,
    },
    /// We are not let in.
    #[error("{host}:{port} refuses the login of `{user}` by {method}: {advice}")]
    Login {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The login name.
        user: String,
        /// `password` or `key`.
        method: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The private key is of no use.
    #[error(
        "the private key for `{user}` at {host}:{port} cannot be used: it is no private key, or `passphrase` is missing or wrong"
    )]
    Key {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The login name.
        user: String,
    },
    /// The connection broke while logging in.
    #[error("connection to {host}:{port} lost while logging in: {reason}")]
    Lost {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What libssh2 said.
        reason: String,
    },
    /// The caller gave up.
    #[error("given up")]
    Pulled,
}

/// Ends a connection from outside, whatever it is waiting for.
#[derive(Debug, Default)]
pub struct Plug {
    state: Mutex<PlugState>,
}

#[derive(Debug, Default)]
struct PlugState {
    pulled: bool,
    socket: Option<Arc<TcpStream>>,
}

impl Plug {
    /// Ends the connection that is held, and every one that would be held later.
    pub fn pull(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pulled = true;
        if let Some(socket) = state.socket.take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Makes `socket` the one that a pull ends.
    pub fn hold(&self, socket: &Arc<TcpStream>) -> Result<(), SshError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pulled {
            let _ = socket.shutdown(Shutdown::Both);
            return Err(SshError::Pulled);
        }
        state.socket = Some(socket.clone());
        Ok(())
    }
}

/// A session that is logged in. Its socket is shut before libssh2 lets go of it: libssh2 would wait for a dead peer otherwise.
pub struct Connected {
    /// The session.
    pub session: Session,
    /// Its socket.
    pub socket: Arc<TcpStream>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// The kinds of host key that a server may have several of, and what asks for each.
const FAMILIES: [&str; 3] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521", "rsa-sha2-512,rsa-sha2-256,ssh-rsa"];

/// Makes connections to one target.
#[derive(Debug)]
pub struct Client {
    target: Target,
    /// The family of host keys that the pinned one was found in, from 1; 0 while not known.
    family: AtomicUsize,
}

impl Client {
    /// A client; connects at [`Client::connect`].
    pub fn new(target: Target) -> Client {
        Client { target, family: AtomicUsize::new(0) }
    }

    /// Where it connects to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Connects, checks the host key, and logs in.
    pub fn connect(&self, plug: &Plug) -> Result<Connected, SshError> {
        let connected = self.meet(plug)?;
        self.log_in(&connected.session)?;
        Ok(connected)
    }

    /// A connection to a server whose key is pinned. A server shows one key of several; which one depends on what is asked for,
    /// so the other families are asked for before a key is refused.
    fn meet(&self, plug: &Plug) -> Result<Connected, SshError> {
        let known = self.family.load(Ordering::Relaxed).checked_sub(1);
        let first = match (self.handshake(plug, known), known) {
            // A server that has other kinds of key by now.
            (Err(SshError::Algorithms { .. }), Some(_)) => {
                self.family.store(0, Ordering::Relaxed);
                self.handshake(plug, None)?
            }
            (first, _) => first?,
        };
        let mut presented = vec![fingerprint(&first.session)];
        if self.target.host_key.pins(&presented[0]) {
            return Ok(first);
        }
        let shown = first.session.methods(MethodType::HostKey).unwrap_or_default().to_owned();
        drop(first);
        for (at, family) in FAMILIES.iter().enumerate() {
            if family.split(',').any(|name| name == shown) {
                continue;
            }
            let Ok(other) = self.handshake(plug, Some(at)) else { continue };
            let print = fingerprint(&other.session);
            if self.target.host_key.pins(&print) {
                self.family.store(at + 1, Ordering::Relaxed);
                return Ok(other);
            }
            presented.push(print);
        }
        let Target { host, port, host_key, .. } = &self.target;
        presented.dedup();
        Err(SshError::HostKey {
            host: host.clone(),
            port: *port,
            pinned: host_key.to_string(),
            presented: presented.join(", "),
        })
    }

    fn handshake(&self, plug: &Plug, family: Option<usize>) -> Result<Connected, SshError> {
        let socket = Arc::new(self.dial()?);
        plug.hold(&socket)?;
        let Target { host, port, legacy_algorithms, .. } = &self.target;
        let failed = |error: ssh2::Error| SshError::Handshake {
            host: host.clone(),
            port: *port,
            reason: error.message().to_owned(),
        };
        let mut session = Session::new().map_err(failed)?;
        session.set_timeout(self.target.timeout_ms());
        let mut offer = Offer::of(&session, legacy_algorithms);
        if let Some(family) = family {
            offer.only_host_keys(FAMILIES[family]);
        }
        offer.put(&session).map_err(failed)?;
        session.set_tcp_stream(socket.clone());
        let mut connected = Connected { session, socket };
        match connected.session.handshake() {
            Ok(()) => Ok(connected),
            Err(error) if is_disagreement(&error) => {
                drop(connected);
                Err(self.disagreement(plug, &offer).unwrap_or_else(|| failed(error)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// What keeps us apart: asks the server what it offers.
    fn disagreement(&self, plug: &Plug, offer: &Offer) -> Option<SshError> {
        let socket = Arc::new(self.dial().ok()?);
        plug.hold(&socket).ok()?;
        socket.set_read_timeout(Some(self.target.timeout)).ok()?;
        socket.set_write_timeout(Some(self.target.timeout)).ok()?;
        let theirs = offers::ask(&socket).ok()?;
        let Target { host, port, legacy_algorithms, .. } = &self.target;
        let apart = offers::apart(offer, &theirs, legacy_algorithms)?;
        Some(SshError::Algorithms { host: host.clone(), port: *port, apart })
    }

    fn dial(&self) -> Result<TcpStream, SshError> {
        let Target { host, port, timeout, .. } = &self.target;
        let addresses = (host.as_str(), *port)
            .to_socket_addrs()
            .map_err(|error| SshError::Resolve { host: host.clone(), error })?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(&address, *timeout) {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(SshError::Connect { host: host.clone(), port: *port, error: last })
    }

    fn log_in(&self, session: &Session) -> Result<(), SshError> {
        let Target { user, login, .. } = &self.target;
        match login {
            Login::Key { private, passphrase } => session
                .userauth_pubkey_memory(user, None, private, passphrase.as_deref())
                .map_err(|error| self.login_error(&error, "key")),
            Login::Password(password) => {
                let methods = session.auth_methods(user).map_err(|error| self.login_error(&error, "password"))?;
                let offers = |method: &str| methods.split(',').any(|offered| offered == method);
                let result = if session.authenticated() {
                    Ok(())
                } else if offers("keyboard-interactive") && !offers("password") {
                    session.userauth_keyboard_interactive(user, &mut Answers(password))
                } else {
                    let given = session.userauth_password(user, password);
                    // Servers that have both may take it in one way only.
                    match given {
                        Err(error) if is_refusal(&error) && offers("keyboard-interactive") => {
                            session.userauth_keyboard_interactive(user, &mut Answers(password))
                        }
                        given => given,
                    }
                };
                result.map_err(|error| self.login_error(&error, "password"))
            }
        }
    }

    fn login_error(&self, error: &ssh2::Error, method: &'static str) -> SshError {
        let Target { host, port, user, .. } = self.target.clone();
        let advice = match (error.code(), method) {
            (ErrorCode::Session(libssh2::FILE | libssh2::ALGO_UNSUPPORTED), "key") => {
                return SshError::Key { host, port, user };
            }
            (ErrorCode::Session(libssh2::PASSWORD_EXPIRED), _) => {
                "the password has expired; ask the partner for a new one"
            }
            (ErrorCode::Session(libssh2::AUTHENTICATION_FAILED | libssh2::PUBLICKEY_UNVERIFIED), "key") => {
                "check `user`, and that the partner has put the public key in place"
            }
            (
                ErrorCode::Session(libssh2::AUTHENTICATION_FAILED | libssh2::METHOD_NOT_SUPPORTED | libssh2::INVAL),
                _,
            ) => "check `user` and `password`, and that the server takes passwords",
            _ => return SshError::Lost { host, port, reason: error.message().to_owned() },
        };
        SshError::Login { host, port, user, method, advice }
    }
}

/// Whether the two sides may have found nothing in common. libssh2 uses these codes for more than that.
fn is_disagreement(error: &ssh2::Error) -> bool {
    let codes = [libssh2::KEX_FAILURE, libssh2::KEY_EXCHANGE_FAILURE, libssh2::METHOD_NONE];
    matches!(error.code(), ErrorCode::Session(code) if codes.contains(&code))
}

fn is_refusal(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(libssh2::AUTHENTICATION_FAILED)
}

/// Error codes of libssh2 (`LIBSSH2_ERROR_…`), which the crate does not name.
mod libssh2 {
    pub(super) const KEX_FAILURE: i32 = -5;
    pub(super) const KEY_EXCHANGE_FAILURE: i32 = -8;
    pub(super) const METHOD_NONE: i32 = -17;
    pub(super) const PASSWORD_EXPIRED: i32 = -15;
    pub(super) const FILE: i32 = -16;
    pub(super) const AUTHENTICATION_FAILED: i32 = -18;
    pub(super) const PUBLICKEY_UNVERIFIED: i32 = -19;
    pub(super) const METHOD_NOT_SUPPORTED: i32 = -33;
    pub(super) const INVAL: i32 = -34;
    pub(super) const ALGO_UNSUPPORTED: i32 = -51;
}

/// Answers with the password wherever the server does not want to see what is typed.
struct Answers<'a>(&'a str);

impl KeyboardInteractivePrompt for Answers<'_> {
    fn prompt<'a>(&mut self, _: &str, _: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
        prompts.iter().map(|prompt| if prompt.echo { String::new() } else { self.0.to_owned() }).collect()
    }
}

/// A host key's fingerprint as OpenSSH prints it.
fn fingerprint(session: &Session) -> String {
    match session.host_key_hash(HashType::Sha256) {
        Some(hash) => format!("SHA256:{}", STANDARD_NO_PAD.encode(hash)),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn client(port: u16, timeout: Duration) -> Client {
        let login = Login::Password("secret-word".to_owned());
        let host_key = HostKey::new(&[&format!("SHA256:{}", "A".repeat(43))]).expect("a fingerprint");
        Client::new(Target {
            host: "127.0.0.1".into(),
            port,
            user: "acme".into(),
            login,
            host_key,
            legacy_algorithms: vec![],
            timeout,
        })
    }

    #[test]
    fn a_dead_port_and_an_unknown_name_are_told_apart() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = client(port, Duration::from_secs(5)).connect(&Plug::default()).err().unwrap();
        assert!(matches!(error, SshError::Connect { .. }), "{error}");
        let mut unknown = client(22, Duration::from_secs(5));
        unknown.target.host = "no-such-host.invalid".into();
        let error = unknown.connect(&Plug::default()).err().unwrap();
        assert!(matches!(error, SshError::Resolve { .. }), "{error}");
    }

    #[test]
    fn a_server_that_says_nothing_is_left_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let silent = client(listener.local_addr().unwrap().port(), Duration::from_millis(300));
        let error = silent.connect(&Plug::default()).err().unwrap();
        assert!(matches!(error, SshError::Handshake { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_pulled_plug_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = client(listener.local_addr().unwrap().port(), Duration::from_secs(60));
        let plug = Arc::new(Plug::default());
        let waiting = std::thread::spawn({
            let plug = plug.clone();
            move || silent.connect(&plug).is_err()
        });
        let (_peer, _) = listener.accept().unwrap();
        let begun = Instant::now();
        plug.pull();
        assert!(waiting.join().unwrap());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(matches!(
            client(22, Duration::from_secs(1)).handshake(&plug, None),
            Err(SshError::Pulled | SshError::Connect { .. })
        ));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", client(22, Duration::from_secs(1))).contains("secret-word"));
    }
}
