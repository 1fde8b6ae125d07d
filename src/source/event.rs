//! `event`: fires when an event with the channel's action is posted to `/api/v1/events`.
//!
//! The API hands events to the journal itself, one record for all the channels that an event fires; the source has nothing to
//! open and nothing to run.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Intake, Source, SourceConfig, SourceKind};
use crate::config::{BuildError, Place, Table};

pub(super) const KIND: SourceKind = SourceKind {
    name: EventSource::NAME,
    summary: "Fires when an event with the channel's `action` (and `lab`, where the channel has one) is posted to the API.",
    example: "type = \"event\"\n",
    schema: |generator| generator.subschema_for::<EventSource>(),
    parse: |table: Table<'_>| table.read::<EventSource>().map(|config| Box::new(config) as Box<dyn SourceConfig>),
};

/// The options of an `event` source: none.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventSource {}

impl EventSource {
    /// The word after `type =`.
    pub const NAME: &'static str = "event";
}

#[async_trait]
impl SourceConfig for EventSource {
    async fn build(&self, _: &Place) -> Result<Box<dyn Source>, BuildError> {
        Ok(Box::new(EventSource {}))
    }
}

#[async_trait]
impl Source for EventSource {
    async fn run(self: Box<Self>, _: Intake, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
