//! One connection of the load generator: blocking, one message at a time.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::cli::send::connect;
use crate::hl7::{AckReply, ReplyCode};
use crate::mllp::{Decoder, Event};

/// Acknowledgements are short; a peer that answers more than this does not speak MLLP.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// What the peer said of the message.
pub(super) enum Answer {
    Accepted,
    Rejected(ReplyCode),
}

pub(super) struct Client {
    stream: TcpStream,
    decoder: Decoder,
    buffer: Box<[u8; 4096]>,
    target: String,
    timeout: Duration,
    /// The message before, if it was in enhanced mode: a second acknowledgement of it may still come (HL7 v2.5.1 §2.9.3).
    last: Vec<u8>,
}

impl Client {
    pub(super) fn open(target: &str, timeout: Duration) -> io::Result<Client> {
        Ok(Client {
            stream: connect(target, timeout)?,
            decoder: Decoder::new(MAX_REPLY_BYTES),
            buffer: Box::new([0; 4096]),
            target: target.to_owned(),
            timeout,
            last: Vec::new(),
        })
    }

    pub(super) fn open_again(&self) -> io::Result<Client> {
        Client::open(&self.target, self.timeout)
    }

    /// Sends a frame, and waits for the acknowledgement under the message's control id.
    pub(super) fn exchange(&mut self, frame: &[u8], id: &[u8], enhanced: bool) -> io::Result<Answer> {
        self.stream.write_all(frame)?;
        loop {
            while let Some(event) = self.decoder.next_event() {
                if let Event::Frame(content) = event
                    && let Some(answer) = self.judge(&content, id)?
                {
                    self.last.clear();
                    self.last.extend_from_slice(if enhanced { id } else { b"" });
                    return Ok(answer);
                }
            }
            match self.stream.read(&mut self.buffer[..]) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
                Ok(count) => self.decoder.push(&self.buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// None for a second answer to the message before.
    fn judge(&self, content: &[u8], id: &[u8]) -> io::Result<Option<Answer>> {
        // The plain answer, which nearly all are, is told without taking it to pieces.
        if let Some((b"AA" | b"CA", of)) = plain_msa(content)
            && of == id
        {
            return Ok(Some(Answer::Accepted));
        }
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let reply = AckReply::parse(content).map_err(|error| invalid(error.to_string()))?;
        if reply.control_id == id {
            let positive = reply.is_positive();
            return Ok(Some(if positive { Answer::Accepted } else { Answer::Rejected(reply.code) }));
        }
        if !self.last.is_empty() && reply.control_id == self.last {
            return Ok(None);
        }
        Err(invalid("an acknowledgement names another message (MSA-2)".to_owned()))
    }
}

/// MSA-1 and MSA-2, where MSA is the second segment and `|` separates.
fn plain_msa(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\r', content)?;
    let mut fields = content[end + 1..].strip_prefix(b"MSA|")?.split(|byte| matches!(byte, b'|' | b'\r'));
    Some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msa_is_found_where_it_is_plain() {
        assert_eq!(plain_msa(b"MSH|^~\\&|A\rMSA|AA|7\r"), Some((&b"AA"[..], &b"7"[..])));
        assert_eq!(plain_msa(b"MSH|^~\\&|A\rMSA|AE|7|text\rERR|1"), Some((&b"AE"[..], &b"7"[..])));
        assert_eq!(plain_msa(b"MSH|^~\\&|A\rSFT|1\rMSA|AA|7\r"), None);
        assert_eq!(plain_msa(b"MSH|^~\\&|A"), None);
    }
}
