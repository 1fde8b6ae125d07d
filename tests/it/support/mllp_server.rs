//! A small MLLP receiver that remembers what it got, and shares no code with the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::mllp_client::{field, frame};

/// Accepts connections until dropped.
pub struct MllpServer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
    code: Arc<Mutex<String>>,
    stopped: Arc<AtomicBool>,
}

impl MllpServer {
    pub fn start() -> MllpServer {
        MllpServer::start_on("127.0.0.1:0")
    }

    pub fn start_on(address: &str) -> MllpServer {
        let listener = TcpListener::bind(address).unwrap();
        let server = MllpServer {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            code: Arc::new(Mutex::new("AA".to_owned())),
            stopped: Arc::default(),
        };
        let (received, code, stopped) = (server.received.clone(), server.code.clone(), server.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
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
        *self.code.lock().unwrap() = code.to_owned();
    }
}

impl Drop for MllpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, received: &Mutex<Vec<String>>, code: &Mutex<String>, stopped: &AtomicBool) {
    let mut pending = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
        }
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\x1c\r") {
            let rest = pending.split_off(end + 2);
            let message = String::from_utf8_lossy(&pending[1..end]).into_owned();
            pending = rest;
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let code = code.lock().unwrap().clone();
            let answer = format!("MSH|^~\\&|||||||ACK|A|P|2.5\rMSA|{code}|{}\r", field(&message, "MSH", 10));
            received.lock().unwrap().push(message);
            if stream.write_all(&frame(answer.as_bytes())).is_err() {
                return;
            }
        }
    }
}
