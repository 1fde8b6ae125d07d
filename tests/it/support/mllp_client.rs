//! A small blocking MLLP client that shares no code with the engine.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct MllpClient {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl MllpClient {
    pub fn connect(address: SocketAddr) -> io::Result<MllpClient> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(MllpClient { stream, pending: Vec::new() })
    }

    /// The same on a connection that the other side made.
    pub fn over(stream: TcpStream) -> MllpClient {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        MllpClient { stream, pending: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a message and waits for its acknowledgement.
    pub fn send(&mut self, message: &[u8]) -> io::Result<String> {
        self.write(&frame(message))?;
        self.read()
    }

    /// The stream, for what this client does not do.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Closes our side only.
    pub fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Resets the connection.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Waits for the peer's close; true when not one byte came before it.
    pub fn is_closed(&mut self) -> bool {
        self.pending.is_empty() && matches!(self.stream.read(&mut [0; 1]), Ok(0))
    }

    /// Whether the peer has closed by now.
    pub fn has_ended(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0; 1]);
        self.stream.set_nonblocking(false).unwrap();
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether nothing comes for so long.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let read = self.stream.read(&mut [0; 1]);
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.pending.is_empty() && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The next frame's content, as bytes.
    pub fn read_bytes(&mut self) -> io::Result<Vec<u8>> {
        self.read_between(0x0b, b"\x1c\r")
    }

    /// The next frame's content, where other bytes make a frame.
    pub fn read_framed(&mut self, start: u8, end: &[u8]) -> io::Result<String> {
        self.read_between(start, end).map(|content| String::from_utf8_lossy(&content).into_owned())
    }

    fn read_between(&mut self, start: u8, end_bytes: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.pending.windows(end_bytes.len()).position(|bytes| bytes == end_bytes) {
                let rest = self.pending.split_off(end + end_bytes.len());
                let frame = std::mem::replace(&mut self.pending, rest);
                assert_eq!(frame[0], start, "a frame begins as it should");
                return Ok(frame[1..end].to_vec());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.pending.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// The next frame's content.
    pub fn read(&mut self) -> io::Result<String> {
        self.read_bytes().map(|content| String::from_utf8_lossy(&content).into_owned())
    }
}

pub fn frame(message: &[u8]) -> Vec<u8> {
    [b"\x0b", message, b"\x1c\r"].concat()
}

/// A field of an HL7 text, as it stands: `field(ack, "MSA", 1)`.
pub fn field(message: &str, segment: &str, number: usize) -> String {
    let line = message.split('\r').find(|line| line.starts_with(segment)).unwrap_or_default();
    let offset = usize::from(segment == "MSH");
    line.split('|').nth(number - offset).unwrap_or_default().to_owned()
}
