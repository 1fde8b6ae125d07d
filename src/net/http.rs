//! An HTTP/1.1 client of one server (RFC 9112): one request at a time, on a connection that is kept open.
//!
//! Every connection looks the name up anew, refuses addresses that are not public unless they were allowed, and connects to the
//! very address that was looked at: a name that changes its address between two looks gains nothing (server-side request
//! forgery). Redirects are answers like any other. No setting comes from the environment.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::dial::{DialError, dial};
use super::networks::Networks;
use super::tls::{self, Stream, TlsError};
use crate::config::{HostPort, WebOrigin, is_public};

/// The longest head of an answer; what was read already with one read more is still looked at.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// The longest head of a proxy's answer to CONNECT.
const MAX_TUNNEL_BYTES: usize = 8 << 10;
/// A connection that ended tells why at once.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a server is reached.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// The server.
    pub(crate) origin: WebOrigin,
    /// Networks that are allowed beside the public ones.
    pub(crate) networks: Networks,
    /// What stands in between.
    pub(crate) proxy: Option<Proxy>,
    /// How an `https` server is verified.
    pub(crate) tls: Option<Arc<tls::Client>>,
    /// How long looking the name up, connecting and TLS may take together.
    pub(crate) connect_timeout: Duration,
}

/// An HTTP proxy: requests for `http` are sent through it, for `https` it is asked for a tunnel.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Where it is.
    pub(crate) at: HostPort,
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<HeaderValue>,
}

/// A request.
#[derive(Clone)]
pub(crate) struct Ask {
    /// GET, POST …
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: PathAndQuery,
    /// Every header but `Host` and `Content-Length`.
    pub(crate) headers: HeaderMap,
    /// The content.
    pub(crate) body: Bytes,
}

/// What the server answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The content, as far as it was asked for.
    pub(crate) body: Bytes,
    /// There was more of it.
    pub(crate) is_cut: bool,
}

/// Why there is no answer. The connection is thrown away.
#[derive(Debug)]
pub(crate) enum Fault {
    NoSuchName(io::Error),
    /// The name leads only to addresses that are not allowed; this is one of them.
    NotAllowed(IpAddr),
    NotConnected(io::Error),
    ConnectTimeout,
    /// Connected, but no TLS came about in time.
    HandshakeTimeout,
    /// The proxy makes no tunnel; its status.
    NoTunnel(u16),
    /// No TLS came about.
    Tls(TlsError),
    /// Lost before an answer began.
    Closed(Option<io::Error>),
    /// Lost within the answer.
    Broken,
    /// No whole answer in time.
    Timeout,
    /// What came is no HTTP.
    NotHttp,
    /// The head of the answer is too long.
    LongHead,
}

/// `Basic`, as RFC 7617 has it. Marked as sensitive.
pub(crate) fn basic(user: &str, password: &str) -> HeaderValue {
    secret_value(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        .expect("base64 fits into a header")
}

/// A header's value that no `Debug` shows; none when a header cannot hold it.
pub(crate) fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with it: what is dropped in the middle of a request is closed. Gives the fault that ended the connection.
    task: AbortOnDropHandle<Option<Fault>>,
}

/// A client at work.
pub(crate) struct Client {
    route: Route,
    /// Taken out while in use: a request that is dropped half-way takes the connection with it.
    kept: Option<Connection>,
}

impl Client {
    /// A client that connects when it is first used.
    pub(crate) fn new(route: Route) -> Client {
        Client { route, kept: None }
    }

    /// How the server is reached.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Asks and reads the answer, `limit` bytes of its content at most; all of it within `longest`, connecting not counted.
    pub(crate) async fn exchange(&mut self, ask: &Ask, longest: Duration, limit: usize) -> Result<Answer, Fault> {
        let kept = self.kept.take().filter(|connection| !connection.sender.is_closed());
        if let Some(connection) = kept {
            match self.exchange_on(connection, ask, longest, limit).await {
                // The server closed a kept connection just when it was used again, which servers do after a quiet time.
                Err(Fault::Closed(_) | Fault::Tls(_)) => {
                    debug!(server = %self.route.origin, "the kept connection was closed, connecting anew")
                }
                exchanged => return exchanged,
            }
        }
        let connection = self.route.connect().await?;
        self.exchange_on(connection, ask, longest, limit).await
    }

    async fn exchange_on(
        &mut self,
        mut connection: Connection,
        ask: &Ask,
        longest: Duration,
        limit: usize,
    ) -> Result<Answer, Fault> {
        let request = self.route.request(ask);
        let answer = timeout(longest, exchange(&mut connection.sender, request, limit));
        match answer.await.unwrap_or(Err(Fault::Timeout)) {
            Ok(answer) => {
                if !answer.is_cut {
                    self.kept = Some(connection);
                }
                Ok(answer)
            }
            // It ended before the request was begun: only the connection itself knows why. A server that refuses our
            // certificate does so after the handshake (RFC 8446 §4.4.2.4).
            Err(Fault::Closed(None)) => match timeout(CAUSE_TIMEOUT, &mut connection.task).await {
                Ok(Ok(Some(cause))) => Err(cause),
                _ => Err(Fault::Closed(None)),
            },
            Err(fault) => Err(fault),
        }
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, Fault> {
    sender.ready().await.map_err(|_| Fault::Closed(None))?;
    let response = sender.send_request(request).await.map_err(of_hyper)?;
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut is_cut) = (BytesMut::new(), false);
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| Fault::Broken)?.into_data() else { continue };
        let fits = data.len().min(limit - body.len());
        body.extend_from_slice(&data[..fits]);
        if fits < data.len() {
            is_cut = true;
            break;
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.freeze(), is_cut })
}

fn of_hyper(error: hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::LongHead;
    }
    if error.is_parse() {
        return Fault::NotHttp;
    }
    // It may lie deeper: within what cancelled a request that was not begun.
    let sources = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    let source = sources.into_iter().find_map(|error| error.downcast_ref::<io::Error>());
    if let Some(refusal) = source.and_then(TlsError::refusal_in) {
        return Fault::Tls(refusal);
    }
    // A close without TLS's own farewell is a close.
    let source = source.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
    Fault::Closed(source.map(|error| io::Error::from(error.kind())))
}

impl From<DialError> for Fault {
    fn from(error: DialError) -> Fault {
        match error {
            DialError::NoSuchName(error) => Fault::NoSuchName(error),
            DialError::NotAllowed(address) => Fault::NotAllowed(address.ip()),
            DialError::NotConnected(error) => Fault::NotConnected(error),
            DialError::Timeout => Fault::ConnectTimeout,
        }
    }
}

impl Route {
    fn request(&self, ask: &Ask) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        request.headers_mut().clone_from(&ask.headers);
        let host = HeaderValue::from_str(&self.origin.authority()).expect("a host fits into a header");
        request.headers_mut().insert(HOST, host);
        let through = self.proxy.as_ref().filter(|_| !self.origin.is_https);
        let mut uri = Uri::builder().path_and_query(ask.target.clone());
        if through.is_some() {
            uri = uri.scheme("http").authority(self.origin.authority());
        }
        *request.uri_mut() = uri.build().expect("a URL of sound parts");
        if let Some(authorization) = through.and_then(|proxy| proxy.authorization.as_ref()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn connect(&self) -> Result<Connection, Fault> {
        let deadline = Instant::now() + self.connect_timeout;
        let stream = timeout_at(deadline, self.open(deadline)).await.unwrap_or(Err(Fault::ConnectTimeout))?;
        let stream = match self.tls.as_ref().filter(|_| self.origin.is_https) {
            Some(tls) => match timeout_at(deadline, tls.connect(stream, &self.origin.at.host)).await {
                Ok(connected) => connected.map_err(Fault::Tls)?,
                Err(_) => return Err(Fault::HandshakeTimeout),
            },
            None if self.origin.is_https => {
                return Err(Fault::Tls(TlsError::Refused("no TLS settings were read for it".to_owned())));
            }
            None => Stream::Plain(stream),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Fault::Closed(None))?;
        let task = tokio::spawn(async move { connection.await.err().map(of_hyper) });
        Ok(Connection { sender, task: AbortOnDropHandle::new(task) })
    }

    /// A connection that reaches the server, in the clear so far.
    async fn open(&self, deadline: Instant) -> Result<TcpStream, Fault> {
        let at = self.proxy.as_ref().map_or(&self.origin.at, |proxy| &proxy.at);
        let mut stream = dial(at, deadline, |address| Route::permits(&self.networks, address.ip())).await?;
        super::tune(&stream);
        if let Some(proxy) = self.proxy.as_ref().filter(|_| self.origin.is_https) {
            self.tunnel(proxy, &mut stream).await?;
        }
        Ok(stream)
    }

    /// Whether this address may be connected to.
    pub(crate) fn permits(networks: &Networks, address: IpAddr) -> bool {
        is_public(address) || networks.hold(address)
    }

    /// Asks the proxy for a tunnel to the server (RFC 9110 §9.3.6).
    async fn tunnel(&self, proxy: &Proxy, stream: &mut TcpStream) -> Result<(), Fault> {
        let mut ask = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n", self.origin.at).into_bytes();
        if let Some(authorization) = &proxy.authorization {
            ask.extend_from_slice(b"Proxy-Authorization: ");
            ask.extend_from_slice(authorization.as_bytes());
            ask.extend_from_slice(b"\r\n");
        }
        ask.extend_from_slice(b"\r\n");
        stream.write_all(&ask).await.map_err(|error| Fault::Closed(Some(error)))?;
        // Byte by byte: what follows the head belongs to the tunnel.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_TUNNEL_BYTES {
                return Err(Fault::LongHead);
            }
            head.push(stream.read_u8().await.map_err(|error| Fault::Closed(Some(error)))?);
        }
        let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        match status {
            Some(200..=299) => Ok(()),
            Some(status) => Err(Fault::NoTunnel(status)),
            None => Err(Fault::NotHttp),
        }
    }
}
