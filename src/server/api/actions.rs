//! `GET /actions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::action::ACTIONS;
use crate::engine::Engine;

pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let specs: Vec<_> = engine.channels().iter().map(|channel| channel.spec()).collect();
    let actions: Vec<Value> = ACTIONS
        .iter()
        .map(|action| {
            let bound: Vec<&str> =
                specs.iter().filter(|spec| spec.action == Some(action.id)).map(|spec| &*spec.name).collect();
            let mut row = json!(action);
            row["channels"] = json!(bound);
            row
        })
        .collect();
    Json(json!({ "actions": actions }))
}
