//! Settings of a TCP connection.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

/// A quiet connection is probed after so long …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// … then so often …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// … and given up after so many probes without an answer. The system's own settings take two hours.
const KEEPALIVE_PROBES: u32 = 3;

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
    use tokio::net::TcpListener;

    use super::*;

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
