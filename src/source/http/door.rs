//! Who may connect to a port, and how: what all channels on it must say alike.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::take::Taker;
use crate::net::networks::Networks;
use crate::net::tls::{AcceptError, Acceptor, Stream};

/// The door of a port.
pub(super) struct Door {
    /// What the channel file says of it: the same text is the same door.
    pub(super) told: String,
    pub(super) max_connections: usize,
    pub(super) header_timeout: Duration,
    pub(super) allow: Option<Networks>,
    pub(super) tls: Option<(Acceptor, Duration)>,
}

impl Door {
    pub(super) fn lets_in(&self, peer: IpAddr) -> bool {
        self.allow.as_ref().is_none_or(|networks| networks.hold(peer))
    }

    /// Does the handshake where there is one; none for a peer that is not let in, which was logged.
    pub(super) async fn open(&self, stream: TcpStream, peer: SocketAddr, taker: &Taker) -> Option<Stream> {
        let Some((acceptor, longest)) = &self.tls else { return Some(Stream::Plain(stream)) };
        let channel = taker.channel();
        match timeout(*longest, acceptor.accept(stream)).await {
            Ok(Ok((stream, _))) => return Some(stream),
            Ok(Err(AcceptError::Quiet)) => {
                debug!(channel, %peer, "closed by the peer before it said anything");
                return None;
            }
            Ok(Err(AcceptError::NotTls(_))) => {
                warn!(channel, %peer, "closed: wrong protocol on this port, which speaks HTTPS")
            }
            Ok(Err(AcceptError::Refused(reason))) => {
                warn!(channel, %peer, reason, "closed: no TLS came about with this peer")
            }
            Ok(Err(AcceptError::Lost(error))) => {
                warn!(channel, %peer, %error, "the connection broke within the TLS handshake")
            }
            Err(_) => warn!(channel, %peer, "closed: `handshake_timeout` passed before TLS came about"),
        }
        taker.counters().handshakes_failed.add_one();
        None
    }
}
