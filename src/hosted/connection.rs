//! One SSH connection: who it is, and nothing but SFTP on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use russh::keys::{Algorithm, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::cut::Cut;
use super::files::Files;
use super::front::{Seat, Shared};
use super::pump;
use super::sftp::Sftp;

/// What russh asks about a connection.
pub(super) struct Connection {
    peer: SocketAddr,
    shared: Arc<Shared>,
    cut: CancellationToken,
    logged_in: CancellationToken,
    /// What the user who logged in may use.
    files: Option<(Arc<dyn Files>, Seat)>,
    /// Whether a refused key was counted: clients offer all the keys that they have.
    key_counted: bool,
    /// Channels on which SFTP has not begun yet.
    channels: HashMap<ChannelId, (Channel<Msg>, OwnedSemaphorePermit)>,
    /// One for each channel that may be open. Not given back by `channel_close`, which is not called where we close first.
    seats: Arc<Semaphore>,
    /// Keeps [`super::Hosted::stop`] waiting for what this connection has at work.
    at_work: TaskTrackerToken,
}

impl Connection {
    pub(super) fn new(
        peer: SocketAddr,
        shared: Arc<Shared>,
        cut: CancellationToken,
        at_work: TaskTrackerToken,
    ) -> Connection {
        let logged_in = CancellationToken::new();
        let seats = Arc::new(Semaphore::new(shared.limits.channels));
        let channels = HashMap::new();
        Connection { peer, shared, cut, logged_in, files: None, key_counted: false, channels, seats, at_work }
    }

    /// Is cancelled once somebody has logged in.
    pub(super) fn logged_in(&self) -> CancellationToken {
        self.logged_in.clone()
    }

    fn answer(&mut self, user: &str, method: &'static str, files: Option<Arc<dyn Files>>) -> Auth {
        let peer = self.peer;
        let Some(files) = files else {
            tracing::warn!(%peer, ?user, method, "hosted SFTP: login refused");
            if method == "password" || !std::mem::replace(&mut self.key_counted, true) {
                self.shared.bans.failed(peer.ip());
            }
            return Auth::reject();
        };
        match self.shared.seat(user) {
            Some(seat) => {
                tracing::info!(%peer, user, method, "hosted SFTP: logged in");
                self.files = Some((files, seat));
                Auth::Accept
            }
            None => {
                tracing::warn!(%peer, user, "hosted SFTP: login refused, this user has too many connections");
                Auth::reject()
            }
        }
    }

    /// Asks who this is, on a thread that may block.
    async fn ask(
        &self,
        work: impl FnOnce(&Shared) -> Option<Arc<dyn Files>> + Send + 'static,
    ) -> Option<Arc<dyn Files>> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared)).await.ok().flatten()
    }

    async fn by_key(&self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Option<Arc<dyn Files>> {
        if is_weak(algorithm) {
            return None;
        }
        let (user, key, peer) = (user.to_owned(), key.clone(), self.peer);
        self.ask(move |shared| shared.doorman.by_key(&user, &key, peer)).await
    }

    fn serve(&self, channel: (Channel<Msg>, OwnedSemaphorePermit), files: Arc<dyn Files>, handle: server::Handle) {
        let (channel, seat) = channel;
        let id = channel.id();
        let ended = CancellationToken::new();
        let sftp = Sftp::new(files, &self.shared.limits, ended.clone().drop_guard(), self.at_work.clone());
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
            drop(seat);
        });
        let config = russh_sftp::server::Config { max_client_packet_len: pump::PACKET_BYTES };
        tokio::spawn(russh_sftp::server::run_with_config(stream, sftp, config));
    }
}

/// RSA keys sign with SHA-2; the SHA-1 form is refused.
fn is_weak(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None } | Algorithm::Dsa)
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, russh::Error> {
        // A few at a time: working a password out takes memory.
        let turn = self.shared.passwords.clone().acquire_owned().await.ok();
        let (name, password, peer) = (user.to_owned(), password.to_owned(), self.peer);
        let files = self.ask(move |shared| shared.doorman.by_password(&name, &password, peer)).await;
        drop(turn);
        Ok(self.answer(user, "password", files))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        match self.by_key(user, offer.public_key, offer.algorithm).await {
            Some(_) => Ok(Auth::Accept),
            None => Ok(self.answer(user, "key", None)),
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let files = self.by_key(user, key.public_key, key.algorithm).await;
        Ok(self.answer(user, "key", files))
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
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        self.channels.insert(channel.id(), (channel, seat));
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
        let Some(files) = self.files.as_ref().map(|(files, _)| files.clone()).filter(|_| name == "sftp") else {
            return session.channel_failure(id);
        };
        let Some(channel) = self.channels.remove(&id) else { return session.channel_failure(id) };
        session.channel_success(id)?;
        self.serve(channel, files, session.handle());
        Ok(())
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
