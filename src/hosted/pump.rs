//! What lies between an SSH channel and the SFTP requests on it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest SFTP packet, as in OpenSSH.
pub(super) const PACKET_BYTES: u32 = 256 << 10;

/// What a client may have sent without being answered.
const BACKLOG_BYTES: usize = 16 << 20;

/// Puts a buffer before an SFTP server: returns the stream to serve on and the work that fills it.
///
/// Without the buffer a client that asks for much before it reads (OpenSSH, paramiko) brings the connection to a standstill:
/// the server waits for room in the client's window, and the news of that room waits behind requests that nobody takes.
///
/// The work also watches the packet lengths, because russh-sftp would go on reading in the middle of a packet that is too
/// long. It ends with true when the client is done, with false when it broke that rule.
pub(super) fn buffered<R, W>(mut from: R, to: W) -> (impl AsyncRead + AsyncWrite + Unpin, impl Future<Output = bool>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (taken, mut kept) = tokio::io::simplex(BACKLOG_BYTES);
    let pump = async move {
        let mut lengths = Lengths::default();
        let mut buffer = vec![0; 64 << 10];
        let obeyed = loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break true,
                Ok(count) if !lengths.allow(&buffer[..count]) => break false,
                Ok(count) => {
                    if kept.write_all(&buffer[..count]).await.is_err() {
                        break true;
                    }
                }
            }
        };
        // Dropping the writing half alone would not end what the server reads.
        let _ = kept.shutdown().await;
        obeyed
    };
    (tokio::io::join(taken, to), pump)
}

/// Follows the packet lengths in a stream of packets.
#[derive(Default)]
struct Lengths {
    header: [u8; 4],
    known: usize,
    left: usize,
}

impl Lengths {
    fn allow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = self.left.min(bytes.len());
                self.left -= step;
                bytes = &bytes[step..];
                continue;
            }
            self.header[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if self.known == 4 {
                self.known = 0;
                let length = u32::from_be_bytes(self.header);
                if length == 0 || length > PACKET_BYTES {
                    return false;
                }
                self.left = length as usize;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(stream: &[u8], step: usize) -> bool {
        let mut lengths = Lengths::default();
        stream.chunks(step).all(|part| lengths.allow(part))
    }

    #[test]
    fn a_packet_at_the_limit_passes_and_one_byte_more_does_not() {
        for (length, right) in
            [(1, true), (PACKET_BYTES, true), (PACKET_BYTES + 1, false), (0, false), (u32::MAX, false)]
        {
            let mut stream = vec![0, 0, 0, 2, 9, 9];
            stream.extend(length.to_be_bytes());
            stream.resize(stream.len() + length.min(PACKET_BYTES) as usize, 0xff);
            stream.extend([0, 0, 0, 1, 7]);
            for step in [1, 3, 4, 5, 70_000, usize::MAX] {
                assert_eq!(allowed(&stream, step), right, "length {length}, {step} bytes at a time");
            }
        }
    }

    #[tokio::test]
    async fn requests_are_taken_while_nobody_reads_the_answers() {
        let (client, server) = tokio::io::duplex(1 << 10);
        let (from, to) = tokio::io::split(server);
        let (_stream, pump) = buffered(from, to);
        tokio::spawn(pump);
        let (_answers, mut requests) = tokio::io::split(client);
        let packet = [&65_536u32.to_be_bytes()[..], &[0; 65_536]].concat();
        let all = async {
            for _ in 0..100 {
                requests.write_all(&packet).await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all).await.expect("taken");
    }
}
