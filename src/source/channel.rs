//! `channel`: takes in what other channels of this engine hand over.
//!
//! The source has nothing to run: while it is open, the door of its channel is, and what comes in is journaled there
//! (`channel/doors.rs`).

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use toml::Spanned;

use super::{Intake, Source, SourceConfig, SourceKind};
use crate::config::{BuildError, Place, Table};

pub(super) const KIND: SourceKind = SourceKind {
    name: "channel",
    summary: "Takes in what other channels hand over by a destination of type `channel`.",
    example: "type = \"channel\"\n",
    schema: |generator| generator.subschema_for::<ChannelSource>(),
    parse: |table: Table<'_>| table.read::<ChannelSource>().map(|config| Box::new(config) as Box<dyn SourceConfig>),
};

/// The options of a `channel` source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChannelSource {
    /// The channels that may hand over to this one, as in ["orders", "results"]; another one that names it is a mistake. Without it,
    /// every channel may.
    #[schemars(with = "Option<Vec<String>>")]
    from: Option<Vec<Spanned<String>>>,
}

#[async_trait]
impl SourceConfig for ChannelSource {
    fn takes_from(&self) -> Option<Feeders<'_>> {
        Some(self.from.as_deref().map_or(Feeders::All, Feeders::Only))
    }

    async fn build(&self, _: &Place) -> Result<Box<dyn Source>, BuildError> {
        Ok(Box::new(Door))
    }
}

/// Which channels may hand over to one.
#[derive(Debug, Clone, Copy)]
pub enum Feeders<'s> {
    /// Every channel.
    All,
    /// These.
    Only(&'s [Spanned<String>]),
}

struct Door;

#[async_trait]
impl Source for Door {
    async fn run(self: Box<Self>, _: Intake, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
