//! Settings of a TCP connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::debug;

/// A quiet connection is probed after so long …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// … then so often …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// … and given up after so many probes without an answer. The system's own settings take two hours.
const KEEPALIVE_PROBES: u32 = 3;

/// So many connections may wait to be let in. With tokio's 128, all analysers and gateways of a site that come back at the same
/// moment would not fit: who does not fit tries again after a second, and a second later after two.
const BACKLOG: u32 = 1024;

/// A listening socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // After a restart: the last run's connections may still be dying.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sends small writes at once, and notices within a minute a peer that is gone without a word. Hints only: where the system
/// refuses, the connection works all the same.
pub(crate) fn tune(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    let tuned = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        debug!(%error, "a connection runs without keep-alive");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_connections_may_wait_to_be_let_in() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let crowd: Vec<_> = (0..500).map(|_| connect().expect("there is room")).collect();
        assert_eq!(crowd.len(), 500);
    }

    #[tokio::test]
    async fn a_tuned_connection_is_kept_alive_and_does_not_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        tune(&stream);
        assert!(stream.nodelay().expect("read"));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("read"));
        assert_eq!(socket.tcp_keepalive_time().expect("read"), KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().expect("read"), KEEPALIVE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().expect("read"), KEEPALIVE_PROBES);
    }
}
