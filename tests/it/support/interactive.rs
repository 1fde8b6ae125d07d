//! An SSH server that asks for the password instead of taking it, as servers with PAM do, and has no SFTP.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Response, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::net::TcpListener;

/// The server.
pub struct Interactive {
    pub address: SocketAddr,
    pub fingerprint: String,
}

impl Interactive {
    /// Starts a server that lets in who answers `password`, and says that it knows these ways to log in.
    pub async fn start(password: &'static str, ways: &[MethodKind]) -> Interactive {
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let config = Arc::new(server::Config {
            keys: vec![key],
            methods: MethodSet::from(ways),
            auth_rejection_time: Duration::from_millis(1),
            ..server::Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let session = server::run_stream(config.clone(), stream, Asker { password });
                tokio::spawn(async move {
                    if let Ok(session) = session.await {
                        drop(session.await)
                    }
                });
            }
        });
        Interactive { address, fingerprint }
    }
}

struct Asker {
    password: &'static str,
}

impl server::Handler for Asker {
    type Error = russh::Error;

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Some(mut answers) = response else {
            let prompts = vec![(Cow::Borrowed("Password: "), false)].into();
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts });
        };
        let right = answers.next().is_some_and(|answer| answer == self.password.as_bytes());
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, _: &str, session: &mut Session) -> Result<(), russh::Error> {
        session.channel_failure(id)
    }
}
