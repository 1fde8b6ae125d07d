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

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a message and waits for its acknowledgement.
    pub fn send(&mut self, message: &[u8]) -> io::Result<String> {
        self.write(&frame(message))?;
        self.read()
    }

    /// The next frame's content.
    pub fn read(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\x1c\r") {
                let rest = self.pending.split_off(end + 2);
                let frame = std::mem::replace(&mut self.pending, rest);
                assert_eq!(frame[0], 0x0b, "a frame begins with VT");
                return Ok(String::from_utf8_lossy(&frame[1..end]).into_owned());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.pending.extend_from_slice(&buffer[..count]),
            }
        }
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
