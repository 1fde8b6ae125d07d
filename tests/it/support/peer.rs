//! An MLLP receiver that follows a script, good or bad. It shares no code with the engine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::mllp_client::frame;

/// What the peer does once it has read a message. `{id}` stands for the message's MSH-10, `{first}` for that of the first
/// message it ever got.
#[derive(Debug, Clone, Copy)]
pub enum Do {
    /// Writes a frame with an acknowledgement: MSA-1 and MSA-2.
    Ack(&'static str, &'static str),
    /// Writes bytes as they are.
    Write(&'static [u8]),
    /// Writes the acknowledgement byte by byte.
    Drip(&'static str, &'static str),
    /// Waits.
    Wait(u64),
    Close,
    /// Closes if this is not the first message of its connection.
    CloseLater,
    Reset,
}

pub struct Peer {
    address: SocketAddr,
    log: Arc<Mutex<Log>>,
    stopped: Arc<AtomicBool>,
}

#[derive(Default, Clone)]
pub struct Log {
    pub connections: usize,
    pub received: Vec<Vec<u8>>,
    /// Commit acknowledgements that came (MLLP release 2).
    pub commits: Vec<u8>,
    /// Connections that the other side has closed.
    pub closed: usize,
    /// Sizes of the first read of each message.
    pub first_reads: Vec<usize>,
}

impl Peer {
    /// A peer that does this at every message, and the other thing at every new connection.
    pub fn start(on_message: Vec<Do>, on_connect: Vec<Do>) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer { address: listener.local_addr().unwrap(), log: Arc::default(), stopped: Arc::default() };
        let (log, stopped) = (peer.log.clone(), peer.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                log.lock().unwrap().connections += 1;
                let (log, on_message, on_connect) = (log.clone(), on_message.clone(), on_connect.clone());
                std::thread::spawn(move || serve(stream, &log, &on_message, &on_connect));
            }
        });
        peer
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn log(&self) -> Log {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Log>, on_message: &[Do], on_connect: &[Do]) {
    stream.set_nodelay(true).unwrap();
    let mut messages = 0;
    if run(&mut stream, on_connect, messages, b"", b"").is_none() {
        return;
    }
    let (mut pending, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => {
                log.lock().unwrap().closed += 1;
                return;
            }
            Ok(count) => count,
        };
        if pending.is_empty() {
            log.lock().unwrap().first_reads.push(count);
        }
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\x1c\r") {
            let rest = pending.split_off(end + 2);
            let message = pending[1..end].to_vec();
            pending = rest;
            if let [commit @ (0x06 | 0x15)] = message[..] {
                log.lock().unwrap().commits.push(commit);
                continue;
            }
            let id = control_id(&message);
            let first = {
                let mut log = log.lock().unwrap();
                log.received.push(message);
                control_id(&log.received[0])
            };
            messages += 1;
            if run(&mut stream, on_message, messages, &id, &first).is_none() {
                return;
            }
        }
    }
}

fn control_id(message: &[u8]) -> Vec<u8> {
    let header = message.split(|byte| *byte == b'\r').next().unwrap_or_default();
    header.split(|byte| *byte == b'|').nth(9).unwrap_or_default().to_vec()
}

/// None when the connection is done with.
fn run(stream: &mut TcpStream, script: &[Do], messages: usize, id: &[u8], first: &[u8]) -> Option<()> {
    let acknowledgement = |code: &str, of: &str| {
        let of = match of {
            "{id}" => id,
            "{first}" => first,
            other => other.as_bytes(),
        };
        let head = format!("MSH|^~\\&|R|RF|S|SF|20260101120000||ACK|X|P|2.5\rMSA|{code}|");
        frame(&[head.as_bytes(), of, b"|SECRET of the peer\r"].concat())
    };
    for step in script {
        match step {
            Do::Ack(code, of) => stream.write_all(&acknowledgement(code, of)).ok()?,
            Do::Write(bytes) => stream.write_all(&expand(bytes, id)).ok()?,
            Do::Drip(code, of) => {
                for byte in acknowledgement(code, of) {
                    stream.write_all(&[byte]).ok()?;
                }
            }
            Do::Wait(millis) => std::thread::park_timeout(Duration::from_millis(*millis)),
            Do::Close => return None,
            Do::CloseLater if messages > 1 => return None,
            Do::CloseLater => {}
            Do::Reset => {
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
                return None;
            }
        }
    }
    Some(())
}

fn expand(bytes: &[u8], id: &[u8]) -> Vec<u8> {
    match bytes.windows(4).position(|window| window == b"{id}") {
        Some(at) => [&bytes[..at], id, &bytes[at + 4..]].concat(),
        None => bytes.to_vec(),
    }
}
