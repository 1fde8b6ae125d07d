//! `GET /channels`, `POST /channels/{name}/{start,stop,pause,resume}`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Problem, detached};
use crate::channel::{self, Channel, LaneStatus};
use crate::engine::Engine;
use crate::journal::{Depth, Journal, JournalError, Lane};
use crate::monitor::CountersNow;

/// A channel, as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelView {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The action that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<u16>,
    /// The lab that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    /// The channel file.
    pub file: String,
    /// The source's kind.
    pub source: String,
    /// The address that the source listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listens_on: Option<SocketAddr>,
    /// Why the source takes nothing in although it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_error: Option<String>,
    /// What it is doing.
    #[serde(flatten)]
    pub state: channel::State,
    /// What happened since the engine started.
    pub counters: CountersNow,
    /// How many messages are in which state.
    pub messages: BTreeMap<String, u64>,
    /// Its destinations.
    pub lanes: Vec<LaneView>,
}

/// A lane, as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneView {
    /// What it is doing.
    #[serde(flatten)]
    pub status: LaneStatus,
    /// How much waits.
    #[serde(flatten)]
    pub depth: Depth,
}

impl ChannelView {
    fn of(channel: &Channel, journal: &dyn Journal) -> Result<ChannelView, JournalError> {
        let spec = channel.spec();
        let lane = |status: LaneStatus| {
            let id = Lane { channel: spec.name.to_string(), destination: status.destination.clone() };
            journal.depth(&id).map(|depth| LaneView { status, depth })
        };
        Ok(ChannelView {
            name: spec.name.to_string(),
            description: spec.description.clone(),
            action: spec.action,
            lab: spec.lab.clone(),
            file: spec.file.name.clone(),
            source: spec.source_kind.to_owned(),
            listens_on: channel.listens_on(),
            source_error: channel.source_error(),
            state: channel.state(),
            counters: channel.counters().now(),
            messages: journal
                .counts(&spec.name)?
                .into_iter()
                .map(|(state, count)| (state.to_string(), count))
                .collect(),
            lanes: channel.lanes().into_iter().map(lane).collect::<Result<_, _>>()?,
        })
    }
}

pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Result<Json<Value>, Problem> {
    let views: Result<Vec<ChannelView>, JournalError> =
        engine.channels().iter().map(|channel| ChannelView::of(channel, &**engine.journal())).collect();
    let diagnostics: Vec<String> = engine.diagnostics().iter().map(ToString::to_string).collect();
    let warnings = warnings(&engine).await;
    Ok(Json(json!({
        "channels": views?, "diagnostics": diagnostics, "orphans": engine.orphans(), "warnings": warnings,
    })))
}

/// What somebody should see to soon. Files are read, on a thread that may block.
pub(super) async fn warnings(engine: &Arc<Engine>) -> Vec<String> {
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || engine.warnings()).await.unwrap_or_default()
}

pub(super) async fn command(
    State(engine): State<Arc<Engine>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ChannelView>, Problem> {
    let Path((name, verb)) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
    let channel = engine.channel(&name).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "unknown_channel", format!("no channel is called `{name}`"))
    })?;
    detached(async move {
        let spec = channel.spec();
        if matches!(verb.as_str(), "start" | "resume" | "pause") && !spec.enabled {
            let message = format!(
                "channel `{name}` is out of service by its file: take `enabled = false` out of {} to put it in service",
                spec.file.name
            );
            return Err(Problem::new(StatusCode::CONFLICT, "channel_disabled", message));
        }
        match verb.as_str() {
            "start" | "resume" => channel.start().await,
            "pause" => channel.pause().await,
            "stop" => channel.stop().await,
            _ => {
                let message = format!("a channel cannot `{verb}`: start, stop, pause and resume are known");
                return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_verb", message));
            }
        }
        Ok(Json(ChannelView::of(&channel, &**engine.journal())?))
    })
    .await
}
