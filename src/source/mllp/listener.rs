//! Lets peers in, so many at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::connection::{Connection, Options};
use crate::net;
use crate::source::{Intake, Source};

/// Connections have so long to answer what they took in once the source is to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause after an error of the listening socket itself (no file descriptors left, say): at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    max_connections: u32,
    options: Arc<Options>,
}

impl Listener {
    pub(super) fn new(socket: TcpListener, address: SocketAddr, max_connections: u32, options: Options) -> Listener {
        Listener { socket, address, max_connections, options: Arc::new(options) }
    }
}

#[async_trait]
impl Source for Listener {
    fn listens_on(&self) -> Option<SocketAddr> {
        Some(self.address)
    }

    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.max_connections as usize));
        let mut connections = JoinSet::new();
        let mut back_off = BACK_OFF.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    report_panic(&intake, ended);
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    back_off = BACK_OFF.0;
                    self.let_in(stream, peer, &slots, &intake, &stop, &mut connections);
                }
                // The peer gave up before it was let in.
                Err(error) if is_the_peers(&error) => {
                    debug!(channel = intake.channel(), %error, "a connection was not taken")
                }
                Err(error) => {
                    warn!(channel = intake.channel(), %error, "no connection can be taken for the moment");
                    tokio::select! {
                        () = sleep(back_off) => back_off = (back_off * 2).min(BACK_OFF.1),
                        () = stop.cancelled() => break,
                    }
                }
            }
        }
        // From here on connections are refused by the system.
        drop(self.socket);
        let all_ended = async {
            while let Some(ended) = connections.join_next().await {
                report_panic(&intake, ended);
            }
        };
        if timeout(STOP_GRACE, all_ended).await.is_err() {
            warn!(
                channel = intake.channel(),
                connections = connections.len(),
                "connections were cut off while stopping"
            );
            connections.shutdown().await;
        }
    }
}

impl Listener {
    fn let_in(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slots: &Arc<Semaphore>,
        intake: &Intake,
        stop: &CancellationToken,
        connections: &mut JoinSet<()>,
    ) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string();
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            intake.counters().connections_refused.add_one();
            let limit = self.max_connections;
            return warn!(channel = intake.channel(), peer, limit, "connection refused: `max_connections` are open");
        };
        net::tune(&stream);
        let connection = Connection::new(stream, peer, self.options.clone(), intake.clone(), stop.clone());
        connections.spawn(async move {
            connection.serve().await;
            drop(slot);
        });
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report_panic(intake: &Intake, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(channel = intake.channel(), "a connection ended by a panic, which is a bug; the others go on");
    }
}
