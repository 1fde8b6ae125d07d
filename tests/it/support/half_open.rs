//! Sockets that do only half of what a server does.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A listener whose queue is full: the system neither accepts nor refuses. It is so for as long as this is held.
pub struct Silent {
    pub address: SocketAddr,
    _socket: socket2::Socket,
    _waiting: Vec<std::io::Result<TcpStream>>,
}

impl Silent {
    pub fn listen() -> Silent {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
        Silent { address, _waiting: (0..3).map(|_| connect()).collect(), _socket: socket }
    }
}

/// The head of an HTTP request, and not a byte more.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
