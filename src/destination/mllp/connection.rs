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
use crate::hl7::{AckCode, AckReply, Header, Mode, ReplyCode};
use crate::mllp::{self, Decoder, Event, Framing, Protocol};
use crate::net::dial::{ConnectError, DialError, connect};
use crate::net::framing::Release;
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
    /// A negative commit acknowledgement (MLLP release 2). The connection can be kept.
    Nak,
}

impl Fault {
    /// Whether the peer itself is at fault, and not what it thinks of this message.
    pub(super) fn is_of_the_peer(&self) -> bool {
        !matches!(self, Fault::BadAck { .. } | Fault::Nak)
    }

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

/// What the peer said to a message.
pub(super) enum Settled {
    /// It keeps it, and no acknowledgement of HL7 was asked for (MLLP release 2).
    Committed,
    Acknowledged(Acknowledgement),
}

/// How the peer speaks MLLP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) framing: Framing,
    pub(super) release: Release,
}

impl Dialect {
    fn decoder(&self) -> Decoder {
        Decoder::framed(MAX_ACK_BYTES, self.framing)
    }
}

pub(super) struct Connection {
    stream: Stream,
    dialect: Dialect,
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
        dialect: Dialect,
    ) -> Result<Connection, Fault> {
        let stream = connect(address, Instant::now() + longest, tls).await.map_err(|error| match error {
            ConnectError::Dial(DialError::NoSuchName(error)) => Fault::NoSuchName(error),
            ConnectError::Dial(DialError::NotAllowed(_) | DialError::Timeout) => Fault::ConnectTimeout,
            ConnectError::Dial(DialError::NotConnected(error)) => Fault::NotConnected(error),
            ConnectError::HandshakeTimeout => Fault::HandshakeTimeout,
            ConnectError::Tls(error) => Fault::Tls(error),
        })?;
        Ok(Connection { stream, dialect, decoder: dialect.decoder(), settled: None })
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
            let is_commit = |content: &[u8]| matches!(content, [mllp::ACK]) && self.dialect.release == Release::Two;
            if matches!(&event, Event::Frame(content) if is_commit(content)) {
                continue;
            }
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

    /// Sends a frame in one write and waits for the acknowledgement of the message with this header.
    pub(super) async fn exchange(
        &mut self,
        frame: &[u8],
        header: &Header,
        longest: Duration,
    ) -> Result<Settled, Fault> {
        let error = match timeout(longest, self.write(frame)).await {
            Ok(Ok(())) => return self.outcome(header, Instant::now() + longest).await,
            Err(_) => return Err(Fault::WriteTimeout),
            Ok(Err(error)) => error,
        };
        // It may have answered before it closed: too large, say.
        match self.outcome(header, Instant::now() + RETURN_TIMEOUT).await {
            Ok(settled) => Ok(settled),
            Err(refused @ (Fault::Tls(_) | Fault::Nak)) => Err(refused),
            Err(_) => Err(Fault::closed(Some(error))),
        }
    }

    async fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await
    }

    /// What the peer says to the message.
    async fn outcome(&mut self, header: &Header, deadline: Instant) -> Result<Settled, Fault> {
        if self.dialect.release == Release::Two {
            self.commit(deadline).await?;
            if !wants_acknowledgement(header) {
                return Ok(Settled::Committed);
            }
        }
        self.reply(header.control_id(), deadline).await.map(Settled::Acknowledged)
    }

    /// The commit acknowledgement.
    async fn commit(&mut self, deadline: Instant) -> Result<(), Fault> {
        loop {
            let content = self.frame(deadline).await?;
            match content[..] {
                [mllp::ACK] => return Ok(()),
                [mllp::NAK] => return Err(Fault::Nak),
                _ => {}
            }
            if !self.is_repeat(AckReply::parse(&content).ok().as_ref()) {
                let what = "it answers without a commit acknowledgement: it speaks release 1 of MLLP";
                return Err(Fault::BadAck { what, response: content });
            }
            self.confirm().await;
        }
    }

    /// Acknowledges an acknowledgement.
    async fn confirm(&mut self) {
        if self.dialect.release == Release::Two {
            let frame = self.dialect.framing.encode_rest(&[mllp::ACK]);
            // What it said stands. That it cannot be told so shows at the next message.
            let _ = timeout(RETURN_TIMEOUT, self.write(&frame)).await;
        }
    }

    /// The acknowledgement that names `control_id`.
    async fn reply(&mut self, control_id: &[u8], deadline: Instant) -> Result<Acknowledgement, Fault> {
        loop {
            let content = self.frame(deadline).await?;
            match content[..] {
                [mllp::ACK | mllp::NAK] if self.dialect.release == Release::Two => continue,
                [mllp::ACK | mllp::NAK] => {
                    let what = "it answered by a commit acknowledgement: it speaks `release = 2` of MLLP";
                    return Err(Fault::BadAck { what, response: content });
                }
                _ => self.confirm().await,
            }
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
            let last = std::mem::replace(&mut self.decoder, self.dialect.decoder()).finish();
            return match last {
                Some(Event::Frame(content)) => Ok(content),
                _ if answered => Err(Fault::bad("the connection was lost within its acknowledgement")),
                _ => Err(Fault::closed(error)),
            };
        }
    }
}

/// Whether an acknowledgement of HL7 follows the commit acknowledgement of a message that was taken.
fn wants_acknowledgement(header: &Header) -> bool {
    match header.mode() {
        Mode::Original => true,
        Mode::Enhanced { accept, application } => accept.wants(true) || application.wants(true),
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
