//! The HTTP API. Until API keys exist it listens on loopback alone and answers only requests that name this machine, so that no
//! web page a browser shows can reach it.

mod api;

pub use api::{ChannelView, Content, DeliveryView, JournalView, LaneView, MessageView, Outcomes, verb_word};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// The longest request body: an event with a PDF in it fits.
const MAX_BODY_BYTES: usize = 32 << 20;

/// The API's socket, open and not yet served.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Opens the socket. Port 0 picks a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Server { listener, address })
    }

    /// The address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop`; those under way are finished.
    pub async fn run(self, engine: Arc<Engine>, stop: CancellationToken) -> io::Result<()> {
        let app = Router::new()
            .nest("/api/v1", api::routes())
            .merge(api::health())
            .method_not_allowed_fallback(|| async {
                let message = "this path is there, but not for this method";
                api::Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            })
            .fallback(|| async { api::Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such path") })
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn(only_this_machine))
            .with_state(engine);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(self.listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await
    }
}

/// A web page from elsewhere can make a browser send requests to loopback: it then names another host (DNS rebinding), or says
/// that it comes from another origin. Both are refused.
async fn only_this_machine(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !names_this_machine(headers) || has_foreign_origin(headers) {
        let message = "the API answers programs on this machine only, until API keys exist";
        return api::Problem::new(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    }
    next.run(request).await
}

fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(is_local)
}

fn has_foreign_origin(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        !origin.strip_prefix("http://").or(origin.strip_prefix("https://")).is_some_and(is_local)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for name in ["localhost", "localhost:8080", "127.0.0.1:1", "127.0.0.2", "[::1]", "[::1]:8080"] {
            assert!(is_local(name), "{name}");
        }
        for name in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "[::2]:80",
        ] {
            assert!(!is_local(name), "{name}");
        }
    }
}
