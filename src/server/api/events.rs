//! `POST /events`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Problem, detached};
use crate::engine::{Engine, FireError};

pub(super) async fn post(
    State(engine): State<Arc<Engine>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        status => Problem::new(status, "body", error.body_text()),
    })?;
    detached(fire(engine, body, peer)).await
}

async fn fire(engine: Arc<Engine>, body: Bytes, peer: SocketAddr) -> Result<Response, Problem> {
    match engine.fire(body, Some(peer.to_string())).await {
        Ok(fired) => Ok((StatusCode::ACCEPTED, Json(fired)).into_response()),
        Err(FireError::Invalid(problems)) => {
            let message = "the event is not valid; nothing was kept";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_event", message).with(problems))
        }
        Err(error @ FireError::Conflict) => {
            Err(Problem::new(StatusCode::CONFLICT, "id_reused", format!("{error}; nothing was kept")))
        }
        Err(error @ FireError::Unavailable { .. }) => {
            let message = format!("{error}; nothing was kept, send the event again later");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "channel_unavailable", message))
        }
        Err(FireError::Journal(error)) => Err(error.into()),
    }
}
