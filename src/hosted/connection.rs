//! One SSH connection: who it is, and nothing but SFTP on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{Algorithm, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::accounts::Accounts;
use super::cut::Cut;
use super::jail::Jail;
use super::sftp::Sftp;
use super::{Limits, pump};

/// What russh asks about a connection.
pub(super) struct Connection {
    peer: SocketAddr,
    accounts: Arc<Accounts>,
    limits: Limits,
    cut: CancellationToken,
    logged_in: CancellationToken,
    /// The folder of the user who logged in.
    root: Option<PathBuf>,
    /// Open channels; the channel itself is there until SFTP starts on it.
    channels: HashMap<ChannelId, Option<Channel<Msg>>>,
    /// Keeps [`super::Hosted::stop`] waiting for what this connection has at work.
    at_work: TaskTrackerToken,
}

impl Connection {
    pub(super) fn new(
        peer: SocketAddr,
        accounts: Arc<Accounts>,
        limits: Limits,
        cut: CancellationToken,
        at_work: TaskTrackerToken,
    ) -> Connection {
        let logged_in = CancellationToken::new();
        Connection { peer, accounts, limits, cut, logged_in, root: None, channels: HashMap::new(), at_work }
    }

    /// Is cancelled once somebody has logged in.
    pub(super) fn logged_in(&self) -> CancellationToken {
        self.logged_in.clone()
    }

    fn answer(&mut self, user: &str, method: &'static str, root: Option<PathBuf>) -> Auth {
        let peer = self.peer;
        match root {
            Some(root) => {
                tracing::info!(%peer, user, method, "hosted SFTP: logged in");
                self.root = Some(root);
                Auth::Accept
            }
            None => {
                tracing::warn!(%peer, ?user, method, "hosted SFTP: login refused");
                Auth::reject()
            }
        }
    }

    fn serve(&mut self, id: ChannelId, channel: Channel<Msg>, jail: Jail, handle: server::Handle) {
        let ended = CancellationToken::new();
        let sftp = Sftp::new(jail, &self.limits, ended.clone().drop_guard(), self.at_work.clone());
        let (peer, cut) = (self.peer, self.cut.clone());
        let (from, to) = tokio::io::split(Cut::new(channel.into_stream(), cut.clone()));
        let (stream, pump) = pump::buffered(from, to);
        tokio::spawn(async move {
            let obeyed = pump.await;
            if !obeyed {
                tracing::warn!(%peer, "hosted SFTP: connection cut, a packet is longer than {} bytes", pump::PACKET_BYTES);
                cut.cancel();
            }
            ended.cancelled().await;
            let _ = handle.eof(id).await;
            let _ = handle.close(id).await;
        });
        let config = russh_sftp::server::Config { max_client_packet_len: pump::PACKET_BYTES };
        tokio::spawn(russh_sftp::server::run_with_config(stream, sftp, config));
    }
}

/// RSA keys sign with SHA-2; the SHA-1 form is refused.
fn is_weak(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None } | Algorithm::Dsa)
}

fn key_owner(accounts: &Accounts, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Option<PathBuf> {
    accounts.by_key(user, key).filter(|_| !is_weak(algorithm)).map(Path::to_owned)
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        let root = self.accounts.by_password(user, password).map(Path::to_owned);
        Ok(self.answer(user, "password", root))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        match key_owner(&self.accounts, user, offer.public_key, offer.algorithm) {
            Some(_) => Ok(Auth::Accept),
            None => Ok(self.answer(user, "key", None)),
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let root = key_owner(&self.accounts, user, key.public_key, key.algorithm);
        Ok(self.answer(user, "key", root))
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), russh::Error> {
        self.logged_in.cancel();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        if self.channels.len() >= self.limits.channels {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.channels.insert(channel.id(), Some(channel));
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let waiting = self.channels.get_mut(&id).filter(|_| name == "sftp").and_then(Option::take);
        let (Some(channel), Some(root)) = (waiting, self.root.as_deref()) else {
            return session.channel_failure(id);
        };
        match Jail::open(root) {
            Ok(jail) => {
                session.channel_success(id)?;
                self.serve(id, channel, jail, session.handle());
                Ok(())
            }
            Err(error) => {
                tracing::error!(peer = %self.peer, folder = %root.display(), %error, "hosted SFTP: no folder to serve");
                session.channel_failure(id)
            }
        }
    }

    // Everything below is refused; russh leaves requests that nobody answers hanging.

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }

    async fn signal(&mut self, _: ChannelId, _: Sig, _: &mut Session) -> Result<(), russh::Error> {
        Ok(())
    }
}
