//! A connection to an MLLP peer that acknowledges.

use std::io::{self, Read as _};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::config::HostPort;
use crate::hl7::{AckCode, AckReply, ReplyCode};
use crate::mllp::{Decoder, Event, Protocol};
use crate::net;
use crate::net::dial::{DialError, dial};
use crate::net::tls::{self, Stream, TlsError};

/// The largest acknowledgement taken.
const MAX_ACK_BYTES: usize = 1 << 20;
/// After an acknowledgement's end byte so long is waited for the return that some peers leave out. A cut acknowledgement does
/// no harm: it must still name our message.
const RETURN_TIMEOUT: Duration = Duration::from_millis(250);

/// What the system has of an encrypted connection must become a whole record within so long.
const RECORD_TIMEOUT: Duration = Duration::from_millis(50);

/// Why there is no acknowledgement to go by. The connection is thrown away.
pub(super) enum Fault {
    NoSuchName(io::Error),
    NotConnected(io::Error),
    ConnectTimeout,
    /// Connected, but no TLS came about in time.
    HandshakeTimeout,
    Tls(TlsError),
    /// Lost before one byte of an answer came.
    Closed {
        error: Option<io::Error>,
    },
    WriteTimeout,
    AckTimeout {
        junk: usize,
    },
    /// Something came, and it is no acknowledgement of ours.
    BadAck {
        what: &'static str,
        response: Bytes,
    },
    WrongProtocol(Protocol),
}

impl Fault {
    /// The connection ended before one byte of an answer came.
    fn closed(error: Option<io::Error>) -> Fault {
        match error {
            Some(error) if TlsError::is_in(&error) => Fault::Tls(TlsError::of(error)),
            // A close without TLS's own farewell is a close.
            error => Fault::Closed { error: error.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof) },
        }
    }

    fn bad(what: &'static str) -> Fault {
        Fault::BadAck { what, response: Bytes::new() }
    }
}

/// The acknowledgement of the message that was sent.
pub(super) struct Acknowledgement {
    pub(super) code: AckCode,
    /// The code of table 0357 that came with it.
    pub(super) error: Option<u16>,
    pub(super) content: Bytes,
}

pub(super) struct Connection {
    stream: Stream,
    decoder: Decoder,
    /// MSH-10 of the message that was acknowledged last, until the peer acknowledges it once more: some do so twice, or send
    /// an application acknowledgement after CA.
    settled: Option<Vec<u8>>,
}

impl Connection {
    /// Connects to the first address of the name that answers, with TLS where it is given.
    pub(super) async fn open(
        address: &HostPort,
        longest: Duration,
        tls: Option<&tls::Client>,
    ) -> Result<Connection, Fault> {
        let deadline = Instant::now() + longest;
        // The channel file names the peer: there is no address that it may not mean.
        let stream = dial(address, deadline, |_| true).await.map_err(|error| match error {
            DialError::NoSuchName(error) => Fault::NoSuchName(error),
            DialError::NotAllowed(_) | DialError::Timeout => Fault::ConnectTimeout,
            DialError::NotConnected(error) => Fault::NotConnected(error),
        })?;
        net::tune(&stream);
        let stream = match tls {
            Some(tls) => match timeout_at(deadline, tls.connect(stream, &address.host)).await {
                Ok(connected) => connected.map_err(Fault::Tls)?,
                Err(_) => return Err(Fault::HandshakeTimeout),
            },
            None => Stream::Plain(stream),
        };
        Ok(Connection { stream, decoder: Decoder::new(MAX_ACK_BYTES), settled: None })
    }

    /// Whether a connection that was kept can be used again: it is open, and nothing waits in it that the next acknowledgement
    /// could be mistaken for. Asks the system, not the runtime, which may not have heard yet.
    pub(super) async fn is_usable(&mut self) -> bool {
        let is_open = match &self.stream {
            Stream::Plain(stream) => read_waiting(stream, &mut self.decoder),
            Stream::Tls(_) => self.read_waiting_records().await,
        };
        if !is_open {
            return false;
        }
        while let Some(event) = self.decoder.next_event() {
            if !matches!(event, Event::Frame(content) if self.is_repeat(AckReply::parse(&content).ok().as_ref())) {
                return false;
            }
        }
        !self.decoder.in_frame() || self.settled.is_some()
    }

    /// Reads what waits in an encrypted connection; false when it is closed. What the system has may be no data yet: half a
    /// record, or one that concerns TLS alone.
    async fn read_waiting_records(&mut self) -> bool {
        let mut waiting = [0; 4 << 10];
        loop {
            let has_more = match SockRef::from(self.stream.tcp()).peek(&mut [std::mem::MaybeUninit::uninit(); 1]) {
                Ok(0) => return false,
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(_) => return false,
            };
            let longest = if has_more { RECORD_TIMEOUT } else { Duration::ZERO };
            match timeout(longest, self.stream.read(&mut waiting)).await {
                Ok(Ok(_)) if self.decoder.held_bytes() > MAX_ACK_BYTES => return false,
                Ok(Ok(count)) if count > 0 => self.decoder.push(&waiting[..count]),
                Ok(_) => return false,
                Err(_) if has_more => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether a reply is one more acknowledgement of the message before. It changes nothing: what was settled stays so.
    fn is_repeat(&mut self, reply: Option<&AckReply>) -> bool {
        let Some(reply) = reply.filter(|reply| self.settled.as_ref().is_some_and(|id| reply.answers(id))) else {
            return false;
        };
        if reply.is_positive() {
            debug!("passed over: one more acknowledgement of the message before");
        } else {
            warn!(code = %reply.code, "passed over: one more acknowledgement of the message before, and this one is negative");
        }
        self.settled = None;
        true
    }

    /// Sends a frame in one write and waits for the acknowledgement that names `control_id`.
    pub(super) async fn exchange(
        &mut self,
        frame: &[u8],
        control_id: &[u8],
        longest: Duration,
    ) -> Result<Acknowledgement, Fault> {
        let writing = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        match timeout(longest, writing).await {
            Ok(Ok(())) => self.reply(control_id, Instant::now() + longest).await,
            Err(_) => Err(Fault::WriteTimeout),
            // It may have answered before it closed: too large, say.
            Ok(Err(error)) => match self.reply(control_id, Instant::now() + RETURN_TIMEOUT).await {
                Ok(reply) => Ok(reply),
                Err(Fault::Tls(refused)) => Err(Fault::Tls(refused)),
                Err(_) => Err(Fault::closed(Some(error))),
            },
        }
    }

    /// The acknowledgement that names `control_id`.
    async fn reply(&mut self, control_id: &[u8], deadline: Instant) -> Result<Acknowledgement, Fault> {
        loop {
            let content = self.frame(deadline).await?;
            let reply = AckReply::parse(&content).ok();
            let what = match &reply {
                Some(reply) if reply.answers(control_id) => match reply.code {
                    ReplyCode::Known(code) => {
                        self.settled = Some(control_id.to_vec());
                        return Ok(Acknowledgement { code, error: reply.error, content });
                    }
                    ReplyCode::Unknown(_) => "its acknowledgement has an unknown code in MSA-1",
                },
                _ if self.is_repeat(reply.as_ref()) => continue,
                None => "what it answered is no acknowledgement",
                Some(reply) if reply.control_id.is_empty() => {
                    "its acknowledgement does not say for which message it is (MSA-2 is empty)"
                }
                Some(_) => "its acknowledgement is for another message (MSA-2 is not our MSH-10)",
            };
            return Err(Fault::BadAck { what, response: content });
        }
    }

    /// The next frame.
    async fn frame(&mut self, deadline: Instant) -> Result<Bytes, Fault> {
        let (mut junk, mut answered) = (0, false);
        loop {
            while let Some(event) = self.decoder.next_event() {
                match event {
                    Event::Frame(content) => return Ok(content),
                    Event::Junk(count) => junk += count,
                    Event::Empty => return Err(Fault::bad("its acknowledgement is empty")),
                    Event::Restarted(_) => return Err(Fault::bad("a frame began within its acknowledgement")),
                    Event::TooLarge { .. } => return Err(Fault::bad("its acknowledgement is larger than 1 MiB")),
                    Event::TooMuchJunk(_) => return Err(Fault::bad("what it answers is no MLLP")),
                    Event::WrongProtocol(protocol) => return Err(Fault::WrongProtocol(protocol)),
                    Event::Incomplete(_) => {}
                }
            }
            let until =
                if self.decoder.awaits_return() { deadline.min(Instant::now() + RETURN_TIMEOUT) } else { deadline };
            let mut space = self.decoder.space();
            let read = timeout_at(until, self.stream.read_buf(&mut space)).await;
            let error = match read {
                Ok(Ok(count)) if count > 0 => {
                    answered = true;
                    continue;
                }
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) if self.decoder.awaits_return() => None,
                Err(_) => return Err(Fault::AckTimeout { junk }),
            };
            // The connection ended, or the return after the end byte does not come.
            let last = std::mem::replace(&mut self.decoder, Decoder::new(MAX_ACK_BYTES)).finish();
            return match last {
                Some(Event::Frame(content)) => Ok(content),
                _ if answered => Err(Fault::bad("the connection was lost within its acknowledgement")),
                _ => Err(Fault::closed(error)),
            };
        }
    }
}

/// Reads what waits in a connection in the clear; false when it is closed.
fn read_waiting(stream: &TcpStream, decoder: &mut Decoder) -> bool {
    let mut waiting = [0; 4 << 10];
    loop {
        match (&*SockRef::from(stream)).read(&mut waiting) {
            Ok(0) => return false,
            // Whoever sends so much that nobody asked for is not to be kept.
            Ok(_) if decoder.held_bytes() > MAX_ACK_BYTES => return false,
            Ok(count) => decoder.push(&waiting[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}
