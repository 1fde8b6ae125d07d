//! An MLLP server that does nothing but acknowledge: the yardstick. One thread for all connections, so that it never waits for
//! another thread to be woken; with 64 connections that is quicker than a thread for each.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use crate::cli::{ExitCode, complain, print_line};
use crate::mllp;

/// What the listener's events carry; connections have their place in the table.
const LISTENER: u64 = u64::MAX;
const READ_BYTES: usize = 64 << 10;

/// Serves until standard input ends: whoever started it holds the other end, so it never outlives them.
pub(super) fn run() -> ExitCode {
    let listening = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
        let address = listener.local_addr()?;
        let mut server = Server::on(listener)?;
        std::thread::Builder::new().name("null-server".to_owned()).spawn(move || server.serve())?;
        Ok(address)
    });
    match listening {
        Ok(address) => print_line(&format!("listens on {address}")),
        Err(error) => {
            complain(error);
            return ExitCode::No;
        }
    }
    let mut nothing = [0; 64];
    while io::stdin().read(&mut nothing).is_ok_and(|count| count > 0) {}
    ExitCode::Done
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
}

struct Connection {
    stream: TcpStream,
    /// What came of a frame that has not ended.
    held: Vec<u8>,
}

impl Server {
    fn on(listener: TcpListener) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Server { epoll, listener, connections: Vec::new() })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let mut buffer = vec![0; READ_BYTES];
        let mut answer = Vec::new();
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let place = event.data.u64();
                if place == LISTENER {
                    self.accept()?;
                } else if let Some(slot) = self.connections.get_mut(place as usize)
                    && let Some(connection) = slot
                    && connection.answer(&mut buffer, &mut answer).is_err()
                {
                    *slot = None;
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let place = self.connections.len() as u64;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(place), epoll::EventFlags::IN)?;
            self.connections.push(Some(Connection { stream, held: Vec::new() }));
        }
        Ok(())
    }
}

impl Connection {
    /// Reads once and answers every frame that is whole. An error when the connection is over.
    fn answer(&mut self, buffer: &mut [u8], answer: &mut Vec<u8>) -> io::Result<()> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        answer.clear();
        let mut rest = &buffer[..count];
        // The load generator's messages hold no end byte, so that the first one is the frame's end.
        while let Some(end) = memchr::memchr(mllp::END, rest) {
            if self.held.is_empty() {
                acknowledge(&rest[..end], answer);
            } else {
                self.held.extend_from_slice(&rest[..end]);
                acknowledge(&self.held, answer);
                self.held.clear();
            }
            rest = &rest[end + 1..];
        }
        // The carriage return after the end byte begins what is held of the next frame, and does no harm there.
        if rest != b"\r" {
            self.held.extend_from_slice(rest);
        }
        if answer.is_empty() { Ok(()) } else { self.stream.write_all(answer) }
    }
}

/// Appends an acknowledgement of the message in a frame.
fn acknowledge(frame: &[u8], answer: &mut Vec<u8>) {
    let message = memchr::memchr(b'M', frame).map_or(frame, |start| &frame[start..]);
    let end = memchr::memchr(b'\r', message).unwrap_or(message.len());
    let control_id = message[..end].split(|byte| *byte == b'|').nth(9).unwrap_or_default();
    answer.push(mllp::START);
    answer.extend_from_slice(b"MSH|^~\\&|NULL|NULL|LAB|ACME|20260115103000||ACK|1|P|2.5.1\rMSA|AA|");
    answer.extend_from_slice(control_id);
    answer.extend_from_slice(&[b'\r', mllp::END, b'\r']);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7::AckReply;

    #[test]
    fn it_answers_each_message_under_its_own_id() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::on(listener).unwrap();
        std::thread::spawn(move || server.serve());
        let mut stream = TcpStream::connect(address).unwrap();
        let mut decoder = mllp::Decoder::new(1 << 20);
        for (id, padding) in [("A1", 10), ("A2", 3 * READ_BYTES), ("A3", 10)] {
            let message = format!("MSH|^~\\&|A|B|C|D|2026||ADT^A01|{id}|P|2.5\rNTE|1||{}\r", "x".repeat(padding));
            stream.write_all(&mllp::encode(message.as_bytes()).unwrap()).unwrap();
            let reply = loop {
                if let Some(mllp::Event::Frame(content)) = decoder.next_event() {
                    break AckReply::parse(&content).unwrap();
                }
                let mut buffer = [0; 512];
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "{id}");
                decoder.push(&buffer[..count]);
            };
            assert!(reply.is_positive() && reply.control_id == id.as_bytes());
        }
    }
}
