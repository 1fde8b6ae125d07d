//! `/api/v1`: one file for each resource.

mod actions;
mod channels;
mod events;
mod messages;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;

use crate::engine::Engine;
use crate::journal::JournalError;

pub use channels::{ChannelView, LaneView};
pub use messages::{Content, DeliveryView, MessageView, Outcomes};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/events", post(events::post))
        .route("/messages", get(messages::list))
        .route("/messages/{id}", get(messages::show))
        .route("/messages/retry", post(messages::retry))
        .route("/messages/cancel", post(messages::cancel))
        .route("/messages/reprocess", post(messages::reprocess))
        .route("/channels", get(channels::list))
        .route("/channels/{name}/{verb}", post(channels::command))
        .route("/actions", get(actions::list))
}

pub(super) fn health() -> Router<Arc<Engine>> {
    Router::new().route("/healthz", get(|| async { Json(json!({ "status": "ok" })) })).route("/readyz", get(ready))
}

async fn ready(State(engine): State<Arc<Engine>>) -> Response {
    let damage = engine.journal().damage();
    let channels = engine.channels();
    let failed: Vec<&str> = channels
        .iter()
        .filter(|channel| matches!(channel.state(), crate::channel::State::Failed { .. }))
        .map(|channel| channel.name())
        .collect();
    let status = if failed.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": failed.is_empty(), "failed_channels": failed, "journal_damage": damage })))
        .into_response()
}

/// An error of the API: `{"error": {"code", "message", …}}`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    error: Details,
}

#[derive(Debug, Serialize)]
struct Details {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<crate::engine::EventProblem>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, error: Details { code, message: message.into(), problems: Vec::new() } }
    }

    fn with(mut self, problems: Vec<crate::engine::EventProblem>) -> Problem {
        self.error.problems = problems;
        self
    }

    fn bad_request(message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn too_large() -> Problem {
        let message = format!("the request's body is larger than {} bytes", super::MAX_BODY_BYTES);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }
}

/// Does work that must not end half done. A client that goes away takes its request's future with it, at whatever point that is:
/// what it asked for goes on in a task of its own.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|_| {
        let message = "this request met a bug in Labwire; please report it";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
    })
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Problem {
        let (status, code) = match &error {
            JournalError::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown_message"),
            JournalError::State { .. } => (StatusCode::CONFLICT, "wrong_state"),
            JournalError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "journal"),
        };
        Problem::new(status, code, error.to_string())
    }
}
