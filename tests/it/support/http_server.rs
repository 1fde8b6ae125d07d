//! A small HTTP server that remembers what it was asked and answers as the test says. It shares no code with the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Of which connection, from 1.
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The only header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} came twice");
        value
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// What is done about a request.
pub enum Reply {
    /// Writes this as it is.
    Write(Vec<u8>),
    /// Writes this as it is, then closes.
    Last(Vec<u8>),
    Close,
    Reset,
    /// Says nothing until the other side closes.
    Silent,
}

/// A whole answer.
pub fn answer(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Write(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

pub fn ok() -> Reply {
    answer("200 OK", "", "")
}

pub struct HttpServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

type Handler = Arc<Mutex<dyn FnMut(&Seen) -> Reply + Send>>;

impl HttpServer {
    pub fn start(handler: impl FnMut(&Seen) -> Reply + Send + 'static) -> HttpServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = HttpServer {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            stopped: Arc::default(),
        };
        let handler: Handler = Arc::new(Mutex::new(handler));
        let (seen, connections, stopped) = (server.seen.clone(), server.connections.clone(), server.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let connection = connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, connection, &seen, &handler));
            }
        });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, connection: usize, seen: &Mutex<Vec<Seen>>, handler: &Handler) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let mut pending = Vec::new();
    loop {
        let request = read(&mut stream, &mut pending, connection)?;
        seen.lock().unwrap().push(request.clone());
        let reply = (handler.lock().unwrap())(&request);
        match reply {
            Reply::Write(bytes) => stream.write_all(&bytes).ok()?,
            Reply::Last(bytes) => {
                stream.write_all(&bytes).ok()?;
                return None;
            }
            Reply::Close => return None,
            Reply::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return None;
            }
            Reply::Silent => {
                let _ = stream.read(&mut [0; 64]);
                return None;
            }
        }
    }
}

/// The next request; none when the connection ends.
fn read(stream: &mut TcpStream, pending: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let mut more = |pending: &mut Vec<u8>| {
        let mut buffer = [0; 64 << 10];
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        pending.extend_from_slice(&buffer[..count]);
        Some(())
    };
    let end = loop {
        match pending.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end,
            None => more(pending)?,
        }
    };
    let rest = pending.split_off(end + 4);
    let head = String::from_utf8(std::mem::replace(pending, rest)).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let first: Vec<_> = lines.next().unwrap().split(' ').collect();
    assert_eq!(first[2..], ["HTTP/1.1"], "{head}");
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("a header: {line:?}")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let (method, target) = (first[0].to_owned(), first[1].to_owned());
    let mut seen = Seen { connection, method, target, headers, body: Vec::new() };
    let length = seen.header("Content-Length").map_or(0, |length| length.parse().unwrap());
    while pending.len() < length {
        more(pending)?;
    }
    let rest = pending.split_off(length);
    seen.body = std::mem::replace(pending, rest);
    Some(seen)
}
