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
use crate::engine::{Engine, oldest};
use crate::journal::{self, Backup, Pruned, Room, Stats};

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
    /// With `before`: only the content; what is known of the messages stays.
    #[serde(default)]
    content: bool,
    /// Only says what would be removed.
    #[serde(default)]
    dry_run: bool,
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
        let what = match (prune.before, prune.bytes) {
            (Some(before), None) if prune.content => journal::Prune::content(before),
            (Some(before), None) => journal::Prune::messages(before),
            (None, Some(bytes)) if !prune.content => oldest(bytes),
            _ => {
                return Err(Problem::bad_request(
                    "say what to remove: either `before`, a time (and `content`), or `bytes`, a number",
                ));
            }
        };
        let pruned = engine.journal().prune(journal::Prune { dry_run: prune.dry_run, ..what }).await?;
        let Pruned { stripped_messages: contents, segments, messages, carried, bytes, .. } = pruned;
        if !prune.dry_run {
            info!(contents, segments, messages, carried, bytes, "the journal was pruned");
        }
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
