//! `/api/v1`: one file for each resource.

mod actions;
mod channels;
mod commands;
mod events;
mod journal;
mod messages;
mod reprocess;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::FutureExt as _;
use serde::Serialize;
use serde_json::json;

use crate::engine::Engine;
use crate::journal::{JournalError, Room};

pub use channels::{ChannelView, LaneView};
pub use commands::{Outcomes, verb_word};
pub use journal::JournalView;
pub use messages::{Content, DeliveryView, MessageView};

pub(super) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/events", post(events::post))
        .route("/messages", get(messages::list))
        .route("/messages/{id}", get(messages::show))
        .route("/messages/retry", post(commands::retry))
        .route("/messages/cancel", post(commands::cancel))
        .route("/messages/resend", post(commands::resend))
        .route("/messages/reprocess", post(reprocess::reprocess))
        .route("/channels", get(channels::list))
        .route("/channels/{name}/{verb}", post(channels::command))
        .route("/journal", get(journal::show))
        .route("/journal/prune", post(journal::prune))
        .route("/journal/backup", post(journal::backup))
        .route("/actions", get(actions::list))
}

pub(super) fn health() -> Router<Arc<Engine>> {
    Router::new().route("/healthz", get(|| async { Json(json!({ "status": "ok" })) })).route("/readyz", get(ready))
}

/// A client that was refused for want of room may try again after so many seconds.
const RETRY_AFTER_SECONDS: u64 = 10;

/// Ready is who takes messages in, on every channel.
async fn ready(State(engine): State<Arc<Engine>>) -> Response {
    let journal = engine.journal();
    let (damage, room) = (journal.damage(), journal.room());
    let failure = journal.failed().now_or_never().map(|error| error.to_string());
    let running = engine.channels();
    let failed: Vec<&str> = running
        .iter()
        .filter(|channel| matches!(channel.state(), crate::channel::State::Failed { .. }))
        .map(|channel| channel.name())
        .collect();
    let is_ready = failed.is_empty() && failure.is_none() && room != Room::Full;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let answer = json!({
        "ready": is_ready,
        "failed_channels": failed,
        "journal_failed": failure,
        "journal_room": room,
        "journal_damage": damage,
        "warnings": channels::warnings(&engine).await,
    });
    (status, Json(answer)).into_response()
}

/// An error of the API: `{"error": {"code", "message", …}}`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    retry_after_seconds: Option<u64>,
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
        let error = Details { code, message: message.into(), problems: Vec::new() };
        Problem { status, retry_after_seconds: None, error }
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
        let retry_after = self.retry_after_seconds.map(|seconds| [(header::RETRY_AFTER, seconds.to_string())]);
        (self.status, retry_after, Json(self)).into_response()
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Problem {
        let (status, code) = match &error {
            JournalError::Unknown { .. } => (StatusCode::NOT_FOUND, "unknown_message"),
            JournalError::State { .. } => (StatusCode::CONFLICT, "wrong_state"),
            JournalError::Folder { .. } => (StatusCode::CONFLICT, "folder"),
            JournalError::Removed { .. } => (StatusCode::GONE, "content_removed"),
            JournalError::Damaged { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
            JournalError::Full { .. } => (StatusCode::SERVICE_UNAVAILABLE, "disk_full"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "journal"),
        };
        let retry_after_seconds = matches!(error, JournalError::Full { .. }).then_some(RETRY_AFTER_SECONDS);
        Problem { retry_after_seconds, ..Problem::new(status, code, error.to_string()) }
    }
}
