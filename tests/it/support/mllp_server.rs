//! A small MLLP receiver that remembers what it got, and shares no code with the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::mllp_client::{field, frame};

/// Accepts connections until dropped.
pub struct MllpServer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
    code: Arc<Mutex<Answer>>,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

/// MSA-1 for an MSH-10, or with "{id}" in it all that follows `MSA|`; "CLOSE" closes the connection instead.
type Answer = Box<dyn FnMut(&str) -> String + Send>;

impl MllpServer {
    pub fn start() -> MllpServer {
        MllpServer::start_on("127.0.0.1:0")
    }

    pub fn start_on(address: &str) -> MllpServer {
        let listener = TcpListener::bind(address).unwrap();
        let server = MllpServer {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            code: Arc::new(Mutex::new(Box::new(|_| "AA".to_owned()))),
            connections: Arc::default(),
            stopped: Arc::default(),
        };
        let (received, code, stopped) = (server.received.clone(), server.code.clone(), server.stopped.clone());
        let connections = server.connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let (received, code, stopped) = (received.clone(), code.clone(), stopped.clone());
                std::thread::spawn(move || serve(stream, &received, &code, &stopped));
            }
        });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was received and answered, in order.
    pub fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    /// MSA-1 of the answers from now on.
    pub fn answer_with(&self, code: &str) {
        let code = code.to_owned();
        self.answer_by(move |_| code.clone());
    }

    /// MSA-1 of the answer to each MSH-10 from now on; "CLOSE" closes the connection instead.
    pub fn answer_by(&self, answer: impl FnMut(&str) -> String + Send + 'static) {
        *self.code.lock().unwrap() = Box::new(answer);
    }

    /// MSH-10 of everything that was received, in order.
    pub fn ids(&self) -> Vec<String> {
        self.received().iter().map(|message| field(message, "MSH", 10)).collect()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for MllpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, received: &Mutex<Vec<String>>, code: &Mutex<Answer>, stopped: &AtomicBool) {
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        // Only what is new is searched: looking through a large message at every read takes seconds.
        let mut from = pending.len().saturating_sub(1);
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
        }
        while let Some(end) = pending[from..].windows(2).position(|pair| pair == b"\x1c\r").map(|at| from + at) {
            from = 0;
            let rest = pending.split_off(end + 2);
            let message = String::from_utf8_lossy(&pending[1..end]).into_owned();
            pending = rest;
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let code = (code.lock().unwrap())(&field(&message, "MSH", 10));
            let id = field(&message, "MSH", 10);
            let msa = if code.contains("{id}") { code.replace("{id}", &id) } else { format!("{code}|{id}") };
            let answer = format!("MSH|^~\\&|||||||ACK|A|P|2.5\rMSA|{msa}\r");
            received.lock().unwrap().push(message);
            if code == "CLOSE" {
                return;
            }
            if stream.write_all(&frame(answer.as_bytes())).is_err() {
                return;
            }
        }
    }
}
