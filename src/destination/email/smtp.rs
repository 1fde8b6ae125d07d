//! The client's side of SMTP (RFC 5321), with STARTTLS (RFC 3207) and AUTH (RFC 4954).

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::Encryption;
use crate::config::HostPort;
use crate::destination::{FaultClass, SendError};
use crate::net;
use crate::net::dial::{DialError, dial};
use crate::net::tls::{Client, Stream, TlsError};

/// The longest reply taken, all its lines together.
const MAX_REPLY_BYTES: usize = 64 << 10;
/// For so many times the time for a command, the server may think about the mail itself (RFC 5321 §4.5.3.2.6: ten minutes).
const FOR_THE_MAIL: u32 = 10;
/// What the server says to our farewell is waited for so long: it has the mail already.
const FAREWELL: Duration = Duration::from_millis(500);

/// A mail server, and how to talk to it.
pub(super) struct Server {
    pub(super) at: HostPort,
    pub(super) encryption: Encryption,
    pub(super) tls: Option<Client>,
    pub(super) login: Option<Login>,
    pub(super) hello: Option<String>,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
}

/// A login.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// From whom to whom: addresses without names.
pub(super) struct Envelope {
    pub(super) from: String,
    pub(super) to: Vec<String>,
}

impl Server {
    /// Sends a mail, its content in two parts. Gives what the server said when it took it.
    pub(super) async fn send(&self, envelope: &Envelope, head: &[u8], rest: &[u8]) -> Result<String, SendError> {
        let mut session = self.open().await?;
        session.login(self.login.as_ref()).await?;
        let size = head.len() + rest.len();
        if let Some(limit) = session.size_limit().filter(|limit| size > *limit) {
            let message = format!("{}: the mail has {size} bytes, and the server takes {limit}", self.at);
            return Err(SendError::new(FaultClass::Permanent, message));
        }
        let from = format!("MAIL FROM:<{}>", envelope.from);
        session.expect(&from, "the sender", 250).await?;
        for (number, to) in (1..).zip(&envelope.to) {
            // Addresses are content: which of them it was is told by its number.
            let which = format!("recipient {number} of {}", envelope.to.len());
            session.expect(&format!("RCPT TO:<{to}>"), &which, 250).await?;
        }
        session.expect("DATA", "the mail", 354).await?;
        let mut content = with_dots(head);
        content.extend_from_slice(&with_dots(rest));
        if !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        content.extend_from_slice(b".\r\n");
        session.timeout *= FOR_THE_MAIL;
        session.write(&content).await?;
        let reply = session.read().await?;
        let text = reply.text();
        session.judge("the mail", reply, 250)?;
        session.leave().await;
        Ok(text)
    }

    /// Connects, and comes to the point at which mail may be sent: greeted, encrypted where that is asked for.
    async fn open(&self) -> Result<Session, SendError> {
        let at = &self.at;
        let fail = |class, message: String| SendError::new(class, format!("{at}: {message}"));
        let deadline = Instant::now() + self.connect_timeout;
        let stream = dial(at, deadline, |_| true).await.map_err(|error| match error {
            DialError::NoSuchName(error) => fail(FaultClass::Dns, format!("the name leads nowhere: {error}")),
            DialError::NotAllowed(_) | DialError::Timeout => {
                fail(FaultClass::Timeout, format!("no connection within {} s", self.connect_timeout.as_secs_f32()))
            }
            DialError::NotConnected(error) => {
                fail(FaultClass::of_connecting(&error), format!("no connection: {error}"))
            }
        })?;
        net::tune(&stream);
        let hello = match &self.hello {
            Some(name) => name.clone(),
            None => stream.local_addr().map_or_else(|_| "[127.0.0.1]".to_owned(), |own| literal(own.ip())),
        };
        let (timeout, at) = (self.timeout, at.clone());
        let new = |stream| Session { stream, at: at.clone(), timeout, unread: Vec::new(), offers: Vec::new() };
        let mut session = match self.encryption {
            Encryption::Implicit => new(self.encrypt(stream).await?),
            Encryption::Starttls | Encryption::None => new(Stream::Plain(stream)),
        };
        let greeting = session.read().await?;
        session.judge("the connection", greeting, 220)?;
        session.hello(&hello).await?;
        if self.encryption == Encryption::Starttls {
            if !session.offers("STARTTLS") {
                let message = "the server does not offer STARTTLS; \"implicit\" is for port 465, and a server that offers neither gets no mail";
                return Err(session.fail(FaultClass::Tls, message));
            }
            session.expect("STARTTLS", "STARTTLS", 220).await?;
            // What came in the clear beside the answer could be anybody's (CVE-2011-0411 and its kin).
            if !session.unread.is_empty() {
                return Err(
                    session.fail(FaultClass::Protocol, "the server says more than it was asked before TLS begins")
                );
            }
            let Stream::Plain(stream) = session.stream else {
                return Err(fail(FaultClass::Internal, "the connection is encrypted already".to_owned()));
            };
            session = new(self.encrypt(stream).await?);
            session.hello(&hello).await?;
        }
        Ok(session)
    }

    async fn encrypt(&self, stream: tokio::net::TcpStream) -> Result<Stream, SendError> {
        let fail = |class, message: String| SendError::new(class, format!("{}: {message}", self.at));
        let Some(tls) = &self.tls else { return Err(fail(FaultClass::Internal, "there is no TLS".to_owned())) };
        match timeout_at(Instant::now() + self.connect_timeout, tls.connect(stream, &self.at.host)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error @ TlsError::Refused(_))) => Err(fail(FaultClass::Tls, error.to_string())),
            Ok(Err(error @ TlsError::Lost(_))) => Err(fail(FaultClass::Reset, error.to_string())),
            Err(_) => Err(fail(FaultClass::Timeout, "no TLS in time; look whether this port speaks it".to_owned())),
        }
    }
}

/// An address as a name (RFC 5321 §4.1.3).
fn literal(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => format!("[{address}]"),
        std::net::IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// A line that begins with a dot gets another (RFC 5321 §4.5.2), and every line ends with CR LF.
fn with_dots(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// What the server said.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    fn text(&self) -> String {
        format!("{} {}", self.code, self.lines.join("\n"))
    }

    /// `5.7.1`, where it begins with such a code (RFC 3463).
    fn status(&self) -> Option<&str> {
        let word = self.lines.first()?.split_whitespace().next()?;
        let is_status = word.split('.').count() == 3 && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        Some(word).filter(|word| is_status && word.len() < 12)
    }
}

/// A conversation.
struct Session {
    stream: Stream,
    at: HostPort,
    timeout: Duration,
    unread: Vec<u8>,
    /// What the server said it can, in capitals.
    offers: Vec<String>,
}

impl Session {
    fn fail(&self, class: FaultClass, message: &str) -> SendError {
        SendError::new(class, format!("{}: {message}", self.at))
    }

    fn lost(&self, error: &io::Error) -> SendError {
        match TlsError::refusal_in(error) {
            Some(refusal) => self.fail(FaultClass::Tls, &refusal.to_string()),
            None => self.fail(FaultClass::Reset, "the connection broke"),
        }
    }

    fn offers(&self, word: &str) -> bool {
        self.offers.iter().any(|line| line.split([' ', '=']).next() == Some(word))
    }

    /// The largest mail that the server takes (RFC 1870).
    fn size_limit(&self) -> Option<usize> {
        let line = self.offers.iter().find_map(|line| line.strip_prefix("SIZE "))?;
        line.trim().parse().ok().filter(|limit| *limit > 0)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let stream = &mut self.stream;
        let written = timeout(self.timeout, async {
            stream.write_all(bytes).await?;
            stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => Err(self.fail(FaultClass::Timeout, "the server takes nothing")),
        }
    }

    /// Reads one reply, of one or more lines (RFC 5321 §4.2.1).
    async fn read(&mut self) -> Result<Reply, SendError> {
        let deadline = Instant::now() + self.timeout;
        let (mut lines, mut total) = (Vec::new(), 0);
        loop {
            let line = self.read_line(deadline).await?;
            total += line.len();
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            let code = text.get(..3).and_then(|code| code.parse().ok()).filter(|code| (200..600).contains(code));
            let (Some(code), true) = (code, total <= MAX_REPLY_BYTES) else {
                return Err(self.fail(FaultClass::Protocol, "what answers there is no mail server"));
            };
            lines.push(text.get(4..).unwrap_or_default().to_owned());
            if text.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    async fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, SendError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                return Ok(self.unread.drain(..=end).collect());
            }
            if self.unread.len() > MAX_REPLY_BYTES {
                return Err(self.fail(FaultClass::Protocol, "what answers there is no mail server"));
            }
            match timeout_at(deadline, self.stream.read_buf(&mut self.unread)).await {
                Ok(Ok(0)) => return Err(self.fail(FaultClass::Reset, "the server closed the connection")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.lost(&error)),
                Err(_) => {
                    let message = format!("no answer within {} s", self.timeout.as_secs_f32());
                    return Err(self.fail(FaultClass::Timeout, &message));
                }
            }
        }
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, SendError> {
        self.write(format!("{command}\r\n").as_bytes()).await?;
        self.read().await
    }

    /// Gives a command that must succeed; `what` is refused otherwise.
    async fn expect(&mut self, command: &str, what: &str, code: u16) -> Result<(), SendError> {
        let reply = self.ask(command).await?;
        self.judge(what, reply, code)
    }

    /// What a reply means: only codes go into the error, because servers repeat addresses in their words.
    fn judge(&self, what: &str, reply: Reply, wanted: u16) -> Result<(), SendError> {
        if reply.code == wanted || (wanted == 250 && reply.code == 251) {
            return Ok(());
        }
        let class = match reply.code {
            530 | 534 | 535 | 538 => FaultClass::Authentication,
            400..=499 => FaultClass::Temporary,
            500..=599 => FaultClass::Permanent,
            _ => FaultClass::Protocol,
        };
        let status = reply.status().map_or_else(String::new, |status| format!(" ({status})"));
        let message = format!("the server refuses {what}: {}{status}", reply.code);
        Err(self.fail(class, &message).with_response(bytes::Bytes::from(reply.text())))
    }

    async fn hello(&mut self, name: &str) -> Result<(), SendError> {
        let mut reply = self.ask(&format!("EHLO {name}")).await?;
        if reply.code >= 500 {
            reply = self.ask(&format!("HELO {name}")).await?;
        }
        self.offers = reply.lines.iter().skip(1).map(|line| line.to_ascii_uppercase()).collect();
        self.judge("our greeting", reply, 250)
    }

    async fn login(&mut self, login: Option<&Login>) -> Result<(), SendError> {
        let Some(Login { user, password }) = login else { return Ok(()) };
        if !self.stream.is_encrypted() {
            return Err(self.fail(FaultClass::Configuration, "a password is not sent in the clear"));
        }
        let offered = self.offers.iter().find(|line| line.starts_with("AUTH")).cloned().unwrap_or_default();
        let offers = |mechanism: &str| offered.split([' ', '=']).any(|word| word == mechanism);
        if offers("PLAIN") {
            let secret = STANDARD.encode(format!("\0{user}\0{password}"));
            self.expect(&format!("AUTH PLAIN {secret}"), "the login", 235).await
        } else if offers("LOGIN") {
            self.expect("AUTH LOGIN", "the login", 334).await?;
            self.expect(&STANDARD.encode(user), "the login", 334).await?;
            self.expect(&STANDARD.encode(password), "the login", 235).await
        } else {
            Err(self.fail(FaultClass::Authentication, "the server offers neither AUTH PLAIN nor AUTH LOGIN"))
        }
    }

    /// The mail is there: how the farewell ends does not matter.
    async fn leave(mut self) {
        self.timeout = FAREWELL;
        let _ = self.ask("QUIT").await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_line_ends() {
        for (content, expected) in
            [("a\r\n.b\r\n..c", "a\r\n..b\r\n...c"), (".\r\n", "..\r\n"), ("a\n.\nb\n", "a\r\n..\r\nb\r\n"), ("", "")]
        {
            assert_eq!(with_dots(content.as_bytes()), expected.as_bytes(), "{content:?}");
        }
    }
}
