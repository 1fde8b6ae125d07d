//! A small HTTP/1.1 client that shares no code with the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    /// Names in small letters. Without `date`, so that two answers can be compared.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON: {self:?}"))
    }
}

/// A connection.
pub struct HttpClient {
    pub stream: TcpStream,
    pending: Vec<u8>,
}

impl HttpClient {
    pub fn connect(address: SocketAddr) -> HttpClient {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        HttpClient { stream, pending: Vec::new() }
    }

    /// The bytes of a request.
    pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: lab.example\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        [head.as_bytes(), b"\r\n", body].concat()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
        self.write(&HttpClient::request(method, path, headers, body));
        self.read().expect("an answer")
    }

    /// The next answer; none where the connection ends before it.
    pub fn read(&mut self) -> Option<Got> {
        let end = loop {
            match self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end,
                None => self.more()?,
            }
        };
        let rest = self.pending.split_off(end + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.pending, rest)).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        };
        let headers: Vec<(String, String)> = lines.map(header).filter(|(name, _)| name != "date").collect();
        let mut got = Got { status, headers, body: String::new() };
        let length = got.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.pending.len() < length {
            self.more()?;
        }
        let rest = self.pending.split_off(length);
        got.body = String::from_utf8(std::mem::replace(&mut self.pending, rest)).unwrap();
        Some(got)
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 << 10];
        let count = self.stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        self.pending.extend_from_slice(&buffer[..count]);
        Some(())
    }

    /// Waits for the other side's close; true when no byte comes before it.
    pub fn is_closed(&mut self) -> bool {
        self.pending.is_empty() && self.more().is_none()
    }
}

/// One request on a connection of its own.
pub fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Got {
    HttpClient::connect(address).send("POST", path, headers, body.as_ref())
}
