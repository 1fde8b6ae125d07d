//! Connecting to a name that may have several addresses.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::tcp;
use super::tls::{Client, Stream, TlsError};
use crate::config::HostPort;

/// Why no connection came about.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The name leads nowhere.
    NoSuchName(io::Error),
    /// It leads to addresses that may not be connected to, this one first.
    NotAllowed(SocketAddr),
    /// The last address that was tried.
    NotConnected(io::Error),
    /// No connection in time.
    Timeout,
}

/// Why there is no connection, with TLS where that is meant.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// None at all.
    Dial(DialError),
    /// Connected, but no TLS came about in time.
    HandshakeTimeout,
    /// Connected, but no TLS came about.
    Tls(TlsError),
}

/// Connects to the peer that a channel file names, which may mean any address.
pub(crate) async fn connect(at: &HostPort, deadline: Instant, tls: Option<&Client>) -> Result<Stream, ConnectError> {
    let stream = dial(at, deadline, |_| true).await.map_err(ConnectError::Dial)?;
    tcp::tune(&stream);
    match tls {
        Some(tls) => match timeout_at(deadline, tls.connect(stream, &at.host)).await {
            Ok(connected) => connected.map_err(ConnectError::Tls),
            Err(_) => Err(ConnectError::HandshakeTimeout),
        },
        None => Ok(Stream::Plain(stream)),
    }
}

/// Connects to the first address of a name that is allowed and answers. One that keeps silent does not use up the time of those
/// after it: each has its share of what is left.
pub(crate) async fn dial(
    at: &HostPort,
    deadline: Instant,
    allowed: impl Fn(SocketAddr) -> bool,
) -> Result<TcpStream, DialError> {
    let found = timeout_at(deadline, lookup_host((at.host.as_str(), at.port))).await;
    let found = found.map_err(|_| DialError::Timeout)?.map_err(DialError::NoSuchName)?;
    let (allowed, refused): (Vec<SocketAddr>, Vec<SocketAddr>) = found.partition(|address| allowed(*address));
    if allowed.is_empty() {
        let none = || DialError::NoSuchName(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
        return Err(refused.first().map_or_else(none, |address| DialError::NotAllowed(*address)));
    }
    first_of(&allowed, deadline).await
}

async fn first_of(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    let mut last = DialError::Timeout;
    for (address, left) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / left;
        last = match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => DialError::NotConnected(error),
            Err(_) => DialError::Timeout,
        };
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use super::*;

    /// A listener whose queue is full: the system neither accepts nor refuses.
    fn silent() -> (socket2::Socket, Vec<io::Result<std::net::TcpStream>>, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
        (socket, (0..3).map(|_| connect()).collect(), address)
    }

    #[tokio::test]
    async fn an_address_that_keeps_silent_does_not_keep_from_the_next() {
        let (_socket, _full, silent) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = listener.local_addr().unwrap();
        let deadline = || Instant::now() + Duration::from_millis(600);
        let stream = first_of(&[silent, silent, good], deadline()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(matches!(first_of(&[silent], deadline()).await, Err(DialError::Timeout)));
    }

    #[tokio::test]
    async fn what_did_not_come_about_and_why() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = |host: &str| HostPort { host: host.to_owned(), port: closed.port() };
        let deadline = || Instant::now() + Duration::from_secs(20);
        let refused = dial(&at("127.0.0.1"), deadline(), |_| true).await;
        assert!(matches!(refused, Err(DialError::NotConnected(_))), "{refused:?}");
        let forbidden = dial(&at("127.0.0.1"), deadline(), |_| false).await;
        assert!(matches!(forbidden, Err(DialError::NotAllowed(address)) if address == closed), "{forbidden:?}");
        let unknown = dial(&at("no-such-host.invalid"), deadline(), |_| true).await;
        assert!(matches!(unknown, Err(DialError::NoSuchName(_))), "{unknown:?}");
    }
}
