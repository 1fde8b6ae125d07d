//! `labwire send`.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::load::LoadFlags;
use super::{ExitCode, OutputFormat, complain, print_json, print_line};
use crate::hl7::{self, AckReply, Header, Mode};
use crate::mllp::{self, Decoder, Event};

/// Acknowledgements are short; a peer that answers more than this does not speak MLLP.
const MAX_REPLY_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Send {
    /// Where to: host and port
    address: String,
    /// Files of messages; a batch or several messages in a file are sent one by one
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How long to wait for each acknowledgement, in seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
    #[command(flatten)]
    load: LoadFlags,
}

/// What became of one message.
struct Sent {
    control_id: String,
    file: String,
    /// None when the message asks for no answer to a success.
    answer: Result<Option<AckReply>, String>,
    took: Duration,
}

impl Sent {
    fn accepted(&self) -> bool {
        self.answer.as_ref().is_ok_and(|reply| reply.as_ref().is_none_or(AckReply::is_positive))
    }

    fn word(&self) -> String {
        match &self.answer {
            Ok(Some(reply)) => reply.code.to_string(),
            Ok(None) => "-".to_owned(),
            Err(_) => "none".to_owned(),
        }
    }
}

impl Send {
    pub(super) fn run(self) -> ExitCode {
        let mut messages = Vec::new();
        for path in &self.files {
            match std::fs::read(path) {
                Ok(content) => {
                    let content = split(Bytes::from(content)).into_iter();
                    messages.extend(content.map(|message| (path.clone(), message)));
                }
                Err(error) => {
                    complain(format!("{}: {error}", path.display()));
                    return ExitCode::Usage;
                }
            }
        }
        let timeout = Duration::from_secs(self.timeout.max(1));
        if self.load.any() {
            return self.load.run(&self.address, &messages, timeout, self.format);
        }
        let mut connection = match Connection::open(&self.address, timeout) {
            Ok(connection) => connection,
            Err(error) => {
                complain(format!("{}: {error}", self.address));
                return ExitCode::Unreachable;
            }
        };
        let mut all_accepted = true;
        let mut rows = Vec::new();
        for (path, message) in messages {
            let control_id = Header::scan(&message)
                .map_or_else(String::new, |header| String::from_utf8_lossy(header.control_id()).into_owned());
            let start = Instant::now();
            let answer = connection.exchange(&message).map_err(|error| error.to_string());
            let sent = Sent { control_id, file: path.display().to_string(), answer, took: start.elapsed() };
            all_accepted &= sent.accepted();
            if sent.answer.is_err() {
                match Connection::open(&self.address, timeout) {
                    Ok(again) => connection = again,
                    Err(error) => complain(format!("{}: {error}", self.address)),
                }
            }
            self.show(&sent, &mut rows);
        }
        if self.format == OutputFormat::Json {
            print_json(&json!({ "messages": rows }));
        }
        if all_accepted { ExitCode::Done } else { ExitCode::No }
    }

    fn show(&self, sent: &Sent, rows: &mut Vec<serde_json::Value>) {
        let millis = sent.took.as_secs_f64() * 1000.0;
        let note = match &sent.answer {
            Ok(Some(reply)) => reply.text.clone().unwrap_or_default(),
            Ok(None) => "sent; it asks for no answer (MSH-15, MSH-16)".to_owned(),
            Err(error) => error.clone(),
        };
        if self.format == OutputFormat::Json {
            rows.push(json!({ "control_id": sent.control_id, "file": sent.file, "ack": sent.word(), "text": note, "milliseconds": millis }));
            return;
        }
        let id = if sent.control_id.is_empty() { "(no MSH-10)" } else { &sent.control_id };
        print_line(format!("{:<4}  {id:<24} {millis:>8.1} ms  {}  {note}", sent.word(), sent.file).trim_end());
    }
}

/// The messages in a file; the file as it is when no message can be told in it.
pub(super) fn split(content: Bytes) -> Vec<Bytes> {
    match hl7::batch::split(&content) {
        Ok(batch) if !batch.messages.is_empty() => {
            batch.messages.iter().map(|message| content.slice_ref(message)).collect()
        }
        _ => vec![content],
    }
}

/// Connects to the first address of a name that answers; nothing on the connection takes longer than the timeout.
pub(super) fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "this name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the sender of a message wants to know of a success (MSH-15 and MSH-16, HL7 v2.5.1 §2.9.2).
pub(super) fn asks_for_an_answer(header: &Header) -> bool {
    header.mode() == Mode::Original || header.accept_ack_wanted(true) || header.application_ack_wanted(true)
}

/// A blocking MLLP client.
pub(super) struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    /// Control ids of messages that asked for no answer.
    unasked: Vec<Vec<u8>>,
}

impl Connection {
    pub(super) fn open(address: &str, timeout: Duration) -> io::Result<Connection> {
        let stream = connect(address, timeout)?;
        Ok(Connection { stream, decoder: Decoder::new(MAX_REPLY_BYTES), unasked: Vec::new() })
    }

    /// Sends a message and waits for its acknowledgement, unless the message asks for none on success (MSH-15 and MSH-16, HL7
    /// v2.5.1 §2.9.2). An answer that comes to such a message all the same is passed over.
    pub(super) fn exchange(&mut self, message: &[u8]) -> io::Result<Option<AckReply>> {
        let frame = mllp::encode(message).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.stream.write_all(&frame)?;
        let header = Header::scan(message);
        if let Some(header) = header.filter(|header| !asks_for_an_answer(header)) {
            self.unasked.push(header.control_id().to_vec());
            return Ok(None);
        }
        let mut buffer = [0; 4096];
        loop {
            while let Some(event) = self.decoder.next_event() {
                let Event::Frame(content) = event else { continue };
                let reply =
                    AckReply::parse(&content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if !self.unasked.contains(&reply.control_id) {
                    return Ok(Some(reply));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the peer closed the connection without an answer",
                    ));
                }
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
