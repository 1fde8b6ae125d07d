//! A TCP proxy that cuts the connection in front of what the server wants to say, when the time has come.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

type Condition = Box<dyn FnMut() -> bool + Send>;

/// The proxy. It cuts once, then lets everything pass.
pub struct Cutter {
    pub address: SocketAddr,
}

impl Cutter {
    /// Before each piece that the server sends, `now` is asked; at the first yes both sides are closed and the piece is lost.
    pub async fn start(server: u16, now: impl FnMut() -> bool + Send + 'static) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let condition: Arc<Mutex<Option<Condition>>> = Arc::new(Mutex::new(Some(Box::new(now))));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(pass(client, server, condition.clone()));
            }
        });
        Cutter { address }
    }
}

async fn pass(client: TcpStream, server: TcpStream, condition: Arc<Mutex<Option<Condition>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let back = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let mut condition = condition.lock().await;
            if condition.as_mut().is_some_and(|now| now()) {
                *condition = None;
                return;
            }
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forth => {}
        () = back => {}
    }
}
