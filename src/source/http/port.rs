//! Ports that channels share: one socket for each address, with a table of who takes what.
//!
//! Design constraints:
//! - A port belongs to nobody: each channel that has a path on it lets connections in, and a connection may bring requests for any
//!   of them. It stays when the channel that let it in goes, for as long as another one is there.
//! - Opening takes a seat, which binds the port where nobody has it yet; nothing is let in before the source runs.
//! - A path whose channel is gone while others stay answers 503, not 404: mostly its channel is being replaced, or was paused, and
//!   a client that is told 404 gives its message up.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::answers::Reply;
use super::door::Door;
use super::take::Taker;
use crate::config::BuildError;
use crate::net;

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A client that does not take its answers for so long, in which it asks nothing either, is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// So long a connection may take to end its last request once the port is closed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// All ports that are open. The system knows a port once, and so does this process.
static OPEN: Mutex<Vec<Weak<Port>>> = Mutex::new(Vec::new());

/// A port that is open.
pub(super) struct Port {
    /// The address as channel files have it.
    asked: SocketAddr,
    pub(super) address: SocketAddr,
    door: Door,
    /// None once the last seat is given up.
    socket: Mutex<Option<Arc<TcpListener>>>,
    table: Mutex<Table>,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    closing: CancellationToken,
}

#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    /// What was taken before.
    gone: HashSet<(Method, String)>,
}

struct Route {
    method: Method,
    path: String,
    /// None until the source runs.
    taker: Option<Arc<Taker>>,
}

/// A path on a port, held until dropped.
pub(super) struct Seat {
    pub(super) port: Arc<Port>,
    method: Method,
    path: String,
}

impl Seat {
    /// Takes a path on a port, which is opened where it is not.
    pub(super) fn take(asked: SocketAddr, door: Door, method: Method, path: &str) -> Result<Seat, BuildError> {
        let failed = |error| BuildError::Listen { address: asked, error };
        let taken = |why: String| failed(io::Error::new(io::ErrorKind::AddrInUse, why));
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|port| port.strong_count() > 0);
        let shared = open
            .iter()
            .filter_map(Weak::upgrade)
            .find(|port| asked.port() != 0 && port.asked == asked && !port.closing.is_cancelled());
        let port = match shared {
            Some(port) if port.door.told != door.told => {
                return Err(taken("another channel has it, and says other things of it".to_owned()));
            }
            Some(port) => port,
            None => {
                let socket = net::listen(asked).map_err(failed)?;
                let address = socket.local_addr().map_err(failed)?;
                let port = Arc::new(Port {
                    asked,
                    address,
                    slots: Arc::new(Semaphore::new(door.max_connections)),
                    door,
                    socket: Mutex::new(Some(Arc::new(socket))),
                    table: Mutex::default(),
                    connections: TaskTracker::new(),
                    closing: CancellationToken::new(),
                });
                open.push(Arc::downgrade(&port));
                port
            }
        };
        let mut table = port.table();
        if table.routes.iter().any(|route| route.method == method && route.path == path) {
            return Err(taken(format!("another channel takes {method} {path} there")));
        }
        table.routes.push(Route { method: method.clone(), path: path.to_owned(), taker: None });
        drop(table);
        Ok(Seat { port, method, path: path.to_owned() })
    }

    /// From now on requests are handed to this one.
    pub(super) fn serve(&self, taker: Arc<Taker>) {
        let mut table = self.port.table();
        if let Some(route) =
            table.routes.iter_mut().find(|route| route.method == self.method && route.path == self.path)
        {
            route.taker = Some(taker);
        }
    }

    /// Lets connections in until `stop`.
    pub(super) async fn let_in(&self, taker: &Arc<Taker>, stop: &CancellationToken) {
        const BACK_OFF: Duration = Duration::from_millis(200);
        let socket = self.port.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(socket) = socket else { return };
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.port.clone().begin(stream, peer, taker),
                Err(error) => {
                    warn!(channel = taker.channel(), %error, "no connection can be taken for the moment");
                    let _ = timeout(BACK_OFF, stop.cancelled()).await;
                }
            }
        }
    }

    /// Gives the path up. Where it was the last one on its port, the port is closed, and its connections end.
    pub(super) async fn give_up(self) {
        let port = self.port.clone();
        drop(self);
        if port.closing.is_cancelled() {
            port.connections.close();
            // Each ends by itself within its time.
            port.connections.wait().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // So that nobody joins a port that is being closed.
        let _open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.port.table();
        let is_ours = |route: &Route| route.method == self.method && route.path == self.path;
        // One that never ran was never there for anybody.
        let was_served = table.routes.iter().any(|route| is_ours(route) && route.taker.is_some());
        table.routes.retain(|route| !is_ours(route));
        if was_served {
            table.gone.insert((self.method.clone(), self.path.clone()));
        }
        if table.routes.is_empty() {
            self.port.closing.cancel();
            self.port.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// What a request leads to.
pub(super) enum Found {
    Taker(Arc<Taker>),
    Reply(Reply),
}

impl Port {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who takes this.
    fn find(&self, method: &Method, path: &str) -> Found {
        let table = self.table();
        let on_path = || table.routes.iter().filter(|route| route.path == path);
        if let Some(route) = on_path().find(|route| route.method == *method) {
            if let Some(taker) = route.taker.as_ref().filter(|taker| !taker.is_stopping()) {
                return Found::Taker(taker.clone());
            }
            return Found::Reply(Reply::unavailable("unavailable", "this channel takes nothing for the moment"));
        }
        let methods: Vec<&str> = on_path().map(|route| route.method.as_str()).collect();
        Found::Reply(if table.gone.contains(&(method.clone(), path.to_owned())) {
            Reply::unavailable("unavailable", "this channel takes nothing for the moment")
        } else if methods.is_empty() {
            Reply::refusal(StatusCode::NOT_FOUND, "not_found", "nothing is taken here")
        } else {
            let allowed = HeaderValue::from_str(&methods.join(", ")).expect("methods are ASCII");
            let message = "this path takes another method";
            Reply::refusal(StatusCode::METHOD_NOT_ALLOWED, "method", message).with(ALLOW, allowed)
        })
    }

    fn begin(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, taker: &Arc<Taker>) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let (channel, counters) = (taker.channel(), taker.counters());
        if !self.door.lets_in(peer.ip()) {
            counters.connections_not_allowed.add_one();
            return warn!(channel, %peer, "connection refused: its address is not in `allow`");
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            counters.connections_refused.add_one();
            let limit = self.door.max_connections;
            return warn!(channel, %peer, limit, "connection refused: `max_connections` are open");
        };
        net::tune(&stream);
        let (connections, taker) = (self.connections.clone(), taker.clone());
        connections.spawn(self.serve(stream, peer, taker, slot));
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        taker: Arc<Taker>,
        slot: OwnedSemaphorePermit,
    ) {
        let opened = tokio::select! {
            () = self.closing.cancelled() => return,
            opened = self.door.open(stream, peer, &taker) => opened,
        };
        // What let it in may go; the connection stays.
        drop(taker);
        let Some(stream) = opened else { return };
        let activity = Arc::new(Activity::default());
        let (port, seen) = (self.clone(), activity.clone());
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (port, seen) = (port.clone(), seen.clone());
            async move {
                let _busy = seen.begin();
                let reply = match port.find(request.method(), request.uri().path()) {
                    Found::Taker(taker) => taker.take(request, peer).await,
                    Found::Reply(reply) => reply,
                };
                Ok::<_, Infallible>(reply.into_response())
            }
        });
        let header_timeout = self.door.header_timeout;
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(header_timeout)
                .max_buf_size(MAX_HEAD_BYTES)
                // Some clients close their side once they have asked, and wait for the answer.
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service)
        );
        let patience = header_timeout + WRITE_TIMEOUT;
        let mut until = None;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%peer, %error, "an HTTP connection ended early");
                    }
                    break;
                }
                () = self.closing.cancelled(), if until.is_none() => {
                    until = Some(Instant::now() + STOP_GRACE);
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                () = sleep_until(activity.deadline(patience)) => {
                    if activity.is_idle_for(patience) {
                        debug!(%peer, "closed: the client does not take its answers");
                        break;
                    }
                }
            }
        }
        drop(slot);
    }
}

/// What a connection is doing.
struct Activity {
    requests: AtomicUsize,
    since: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity { requests: AtomicUsize::new(0), since: Mutex::new(Instant::now()) }
    }
}

struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::SeqCst);
        Busy(self)
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it is worth to look again.
    fn deadline(&self, patience: Duration) -> Instant {
        (self.since() + patience).max(Instant::now() + patience / 4)
    }

    fn is_idle_for(&self, patience: Duration) -> bool {
        self.requests.load(Ordering::SeqCst) == 0 && self.since().elapsed() >= patience
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
    }
}
