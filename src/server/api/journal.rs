//! `GET /journal`, `POST /journal/{prune,backup}`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Problem, detached};
use crate::engine::Engine;
use crate::journal::{Backup, Pruned, Room, Stats};

/// The journal, as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JournalView {
    /// How much is in it.
    #[serde(flatten)]
    pub stats: Stats,
    /// Whether there is room for more on its disk.
    pub room: Room,
    /// Damage found when it was opened.
    pub damage: Vec<String>,
}

/// What is to be removed: one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prune {
    /// What was received before this time.
    before: Option<Timestamp>,
    /// The oldest, until so many bytes were given back.
    bytes: Option<u64>,
}

/// Where the backup goes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackUp {
    /// A folder on the engine's machine, which is not there yet or is empty.
    folder: PathBuf,
}

pub(super) async fn show(State(engine): State<Arc<Engine>>) -> Json<JournalView> {
    let journal = engine.journal();
    Json(JournalView { stats: journal.stats(), room: journal.room(), damage: journal.damage() })
}

pub(super) async fn prune(
    State(engine): State<Arc<Engine>>,
    body: Result<Json<Prune>, JsonRejection>,
) -> Result<Json<Pruned>, Problem> {
    let Json(prune) = body.map_err(|error| Problem::bad_request(error.body_text()))?;
    detached(async move {
        let journal = engine.journal();
        let pruned = match (prune.before, prune.bytes) {
            (Some(before), None) => journal.prune(before).await?,
            (None, Some(bytes)) => engine.free(bytes).await?,
            _ => return Err(Problem::bad_request("say what to remove: either `before`, a time, or `bytes`, a number")),
        };
        let Pruned { segments, messages, carried, bytes } = pruned;
        info!(segments, messages, carried, bytes, "the journal was pruned");
        Ok(Json(pruned))
    })
    .await
}

pub(super) async fn backup(
    State(engine): State<Arc<Engine>>,
    body: Result<Json<BackUp>, JsonRejection>,
) -> Result<Json<Backup>, Problem> {
    let Json(BackUp { folder }) = body.map_err(|error| Problem::bad_request(error.body_text()))?;
    if !folder.is_absolute() {
        return Err(Problem::bad_request(
            "`folder` is a whole path on the engine's machine, as in \"/backup/labwire\"",
        ));
    }
    detached(async move {
        let backup = engine.journal().backup(&folder).await?;
        let Backup { segments, bytes } = backup;
        info!(folder = %folder.display(), segments, bytes, "the journal was backed up");
        Ok(Json(backup))
    })
    .await
}
