//! Lets peers in, so many at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::clients::Clients;
use super::connection::{Connection, Options, Peer};
use crate::mllp::{self, Protocol};
use crate::net;
use crate::net::networks::Networks;
use crate::net::tls::{AcceptError, Acceptor, Stream};
use crate::source::{Intake, Source};

/// Connections have so long to answer what they took in once the source is to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A peer that is sent away after the handshake is told so, if it takes that in time.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after an error of the listening socket itself (no file descriptors left, say): at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Whom to let in.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) max_connections: u32,
    pub(super) max_connections_per_address: Option<u32>,
    pub(super) allow: Option<Networks>,
    pub(super) tls: Option<Handshake>,
    pub(super) clients: Option<Clients>,
}

#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) acceptor: Acceptor,
    pub(super) timeout: Duration,
}

pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    doors: Arc<Doors>,
    options: Arc<Options>,
    crowd: Crowd,
}

impl Listener {
    pub(super) fn new(socket: TcpListener, address: SocketAddr, doors: Doors, options: Options) -> Listener {
        Listener { socket, address, doors: Arc::new(doors), options: Arc::new(options), crowd: Crowd::default() }
    }
}

#[async_trait]
impl Source for Listener {
    fn listens_on(&self) -> Option<SocketAddr> {
        Some(self.address)
    }

    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.doors.max_connections as usize));
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
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let channel = intake.channel();
        if self.doors.allow.as_ref().is_some_and(|networks| !networks.hold(peer.ip())) {
            intake.counters().connections_not_allowed.add_one();
            return warn!(channel, %peer, "connection refused: its address is not in `allow`");
        }
        let Some(place) = self.crowd.enter(peer.ip(), self.doors.max_connections_per_address) else {
            intake.counters().connections_refused.add_one();
            let limit = self.doors.max_connections_per_address;
            return warn!(channel, %peer, limit, "connection refused: `max_connections_per_address` of this address are open");
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            intake.counters().connections_refused.add_one();
            let limit = self.doors.max_connections;
            return warn!(channel, %peer, limit, "connection refused: `max_connections` are open");
        };
        net::tune(&stream);
        let (doors, options, intake, stop) = (self.doors.clone(), self.options.clone(), intake.clone(), stop.clone());
        connections.spawn(async move {
            // A handshake takes a slot: who never ends it must not be able to take more than there are.
            if let Some((stream, peer)) = doors.open(stream, peer.to_string(), &intake, &stop).await {
                Connection::new(stream, peer, options, intake, stop).serve().await;
            }
            drop((slot, place));
        });
    }
}

/// How many connections there are from each address.
#[derive(Debug, Clone, Default)]
struct Crowd(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// One connection in a crowd; leaves it when dropped.
struct Place {
    crowd: Crowd,
    from: IpAddr,
}

impl Crowd {
    /// One more from this address; none where there are as many as may be.
    fn enter(&self, from: IpAddr, most: Option<u32>) -> Option<Place> {
        let from = neighbourhood(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_default();
        if most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(self.from) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What counts as one address: with IPv6 a network of 64 bits, all of which one machine may use (RFC 7421).
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

impl Doors {
    /// Does the handshake where there is one; none for a peer that is not let in, which was logged.
    async fn open(
        &self,
        stream: TcpStream,
        address: String,
        intake: &Intake,
        stop: &CancellationToken,
    ) -> Option<(Stream, Peer)> {
        let Some(Handshake { acceptor, timeout: longest }) = &self.tls else {
            return Some((Stream::Plain(stream), Peer { address, sender: None }));
        };
        let (channel, peer) = (intake.channel(), &address);
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = timeout(*longest, acceptor.accept(stream)) => accepted,
        };
        let failed = || intake.counters().handshakes_failed.add_one();
        let (mut stream, certificate) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(AcceptError::Quiet)) => {
                debug!(channel, peer, "closed by the peer before it said anything");
                return None;
            }
            Ok(Err(error)) => {
                match error {
                    AcceptError::NotTls(_) => intake.counters().wrong_protocol.add_one(),
                    _ => failed(),
                }
                log_refused(channel, peer, &error);
                return None;
            }
            Err(_) => {
                failed();
                warn!(channel, peer, "closed: `handshake_timeout` passed before TLS came about");
                return None;
            }
        };
        let Some(clients) = &self.clients else { return Some((stream, Peer { address, sender: None })) };
        let Some(sender) = certificate.as_ref().and_then(|certificate| clients.sender(certificate)).cloned() else {
            intake.counters().connections_not_allowed.add_one();
            let certificate = certificate.map(|certificate| certificate.to_string()).unwrap_or_default();
            warn!(channel, peer, certificate, "connection refused: its certificate is not in `clients`");
            let _ = timeout(FAREWELL, stream.shutdown()).await;
            return None;
        };
        Some((stream, Peer { address, sender: Some(sender) }))
    }
}

fn log_refused(channel: &str, peer: &str, error: &AcceptError) {
    match error {
        AcceptError::Quiet => {}
        AcceptError::NotTls(first) => {
            let protocol = match first.first() {
                Some(&mllp::START) => "MLLP in the clear".to_owned(),
                _ => Protocol::of(first).map_or("no TLS".to_owned(), |protocol| protocol.to_string()),
            };
            warn!(channel, peer, protocol, "closed: wrong protocol on this port, which speaks TLS");
        }
        AcceptError::Refused(reason) => warn!(channel, peer, reason, "closed: no TLS came about with this peer"),
        AcceptError::Lost(error) => warn!(channel, peer, %error, "the connection broke within the TLS handshake"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_counts_those_of_one_address_who_are_there() {
        let crowd = Crowd::default();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (a, b, c) = (address("2001:db8::1"), address("2001:db8::2"), address("2001:db8:0:1::1"));
        let first = crowd.enter(a, Some(2));
        let second = crowd.enter(b, Some(2));
        assert!(first.is_some() && second.is_some());
        assert!(
            crowd.enter(a, Some(2)).is_none() && crowd.enter(c, Some(2)).is_some() && crowd.enter(a, None).is_some()
        );
        drop(first);
        let third = crowd.enter(b, Some(2));
        assert!(third.is_some());
        drop((second, third));
        assert!(crowd.0.lock().expect("whole").is_empty());
        assert!(crowd.enter(address("10.0.0.1"), Some(1)).is_some());
    }
}
