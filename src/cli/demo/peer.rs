//! A receiver that acknowledges and remembers, as Mirth would stand there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::hl7::{Ack, AckCode, Header};
use crate::mllp::{self, Decoder, Event};

/// The largest message that it takes.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// A running receiver.
pub(super) struct Peer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Bytes>>>,
    stop: CancellationToken,
}

impl Peer {
    /// Starts on a free port of this machine.
    pub(super) async fn start() -> std::io::Result<Peer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let peer = Peer { address: listener.local_addr()?, received: Arc::default(), stop: CancellationToken::new() };
        let (received, stop) = (peer.received.clone(), peer.stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (received, stop) = (received.clone(), stop.clone());
                tokio::spawn(async move { stop.run_until_cancelled(serve(stream, &received)).await });
            }
        });
        Ok(peer)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The message with this control id, as it arrived.
    pub(super) fn received(&self, control_id: &str) -> Option<Bytes> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let has =
            |message: &&Bytes| Header::scan(message).is_some_and(|header| header.control_id() == control_id.as_bytes());
        received.iter().find(has).cloned()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

async fn serve(mut stream: TcpStream, received: &Mutex<Vec<Bytes>>) -> std::io::Result<()> {
    let mut decoder = Decoder::new(MAX_FRAME_BYTES);
    let mut buffer = vec![0; 16 << 10];
    loop {
        while let Some(event) = decoder.next_event() {
            if let Event::Frame(message) = event {
                let header = Header::scan(&message);
                let count = {
                    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
                    received.push(message);
                    received.len()
                };
                let ack = Ack {
                    code: AckCode::AA,
                    control_id: &format!("PEER{count}"),
                    timestamp: "",
                    text: None,
                    error: None,
                };
                let frame = mllp::encode(&ack.build(header.as_ref())).map_err(std::io::Error::other)?;
                stream.write_all(&frame).await?;
            }
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => decoder.push(&buffer[..count]),
        }
    }
}
