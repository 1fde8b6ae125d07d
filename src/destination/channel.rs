//! `channel`: hands each message over to another channel of this engine.
//!
//! A delivery is sent once the other channel has it on disk. It is known there by its parent message and this destination, for as
//! long as it is kept: a delivery that is made again, after a crash or by hand, is no second message.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use toml::Spanned;

use super::{
    Delivered, Destination, DestinationConfig, DestinationKind, Doors, FaultClass, HandOverError, Handover, SendError,
};
use crate::config::{BuildError, Place, Table};
use crate::expr::ExprError;
use crate::journal::Outgoing;
use crate::message::{Body, Format, Message, Origin, Parent};

pub(super) const KIND: DestinationKind = DestinationKind {
    name: NAME,
    summary: "Hands each message over to another channel, whose source is of type `channel`.",
    example: "type = \"channel\"\nname = \"archive\"\n",
    schema: |generator| generator.subschema_for::<ChannelConfig>(),
    faults: &["refused", "full", "content"],
    parse: |table: Table<'_>| {
        table
            .read_with_more::<ChannelConfig>(super::COMMON_KEYS)
            .map(|config| Box::new(config) as Box<dyn DestinationConfig>)
    },
};

const NAME: &str = "channel";

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChannelConfig {
    /// The name of the other channel.
    #[schemars(with = "String")]
    name: Spanned<String>,
}

#[async_trait]
impl DestinationConfig for ChannelConfig {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let meta = &message.meta;
        let parent = Parent { message: meta.id, channel: meta.channel.clone(), destination: String::new() };
        let origin = Origin {
            source: NAME.to_owned(),
            action: meta.origin.action,
            lab: meta.origin.lab.clone(),
            event_id: meta.origin.event_id.clone(),
            charset: charset_of(message),
            csv: meta.origin.csv.clone().filter(|_| message.body.format() == Format::Csv),
            file_name: meta.origin.file_name.clone(),
            scheduled_at: meta.origin.scheduled_at,
            parent: Some(Box::new(parent)),
            ..Origin::default()
        };
        let properties = [("origin", json!(origin).to_string()), ("format", json!(message.body.format()).to_string())];
        let properties = properties.map(|(key, value)| (key.to_owned(), value));
        Ok(Outgoing { content: message.body.to_bytes(), properties: BTreeMap::from(properties) })
    }

    fn feeds(&self) -> Option<&Spanned<String>> {
        Some(&self.name)
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        Ok(Box::new(Next { channel: self.name.get_ref().clone(), destination: place.name.clone(), doors: None }))
    }
}

/// The character set that the other channel reads the bytes in: HL7 as our source did, what is left unsaid as UTF-8.
fn charset_of(message: &Message) -> Option<Box<str>> {
    match &*message.body {
        Body::Hl7(_) | Body::Batch(_) => message.meta.origin.charset.clone(),
        Body::Encoded(encoded) => Some(encoded.charset.name().into()),
        _ => None,
    }
}

/// The other channel.
struct Next {
    channel: String,
    /// The name of this destination.
    destination: String,
    doors: Option<Arc<dyn Doors>>,
}

#[async_trait]
impl Destination for Next {
    fn meet(&mut self, doors: &Arc<dyn Doors>) {
        self.doors = Some(doors.clone());
    }

    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let Some(handover) = self.handover(outgoing) else {
            let error = "this delivery was queued for a destination of another kind: reprocess its message";
            return Err(SendError::new(FaultClass::Content, error));
        };
        let doors = self.doors.as_ref().ok_or_else(|| SendError::new(FaultClass::Internal, "there is no door"))?;
        let handed_over = doors.hand_over(&self.channel, handover).await.map_err(|error| {
            let class = match error {
                HandOverError::Closed { .. } => FaultClass::Refused,
                HandOverError::Full(_) => FaultClass::Full,
                HandOverError::NotKept(_) => FaultClass::Internal,
            };
            SendError::new(class, error.to_string())
        })?;
        let again = if handed_over.again { ", where it was before" } else { "" };
        let response = format!("message {} of channel {}{again}", handed_over.id, self.channel);
        Ok(Delivered { response: Some(Bytes::from(response)) })
    }
}

impl Next {
    fn handover(&self, outgoing: &Outgoing) -> Option<Handover> {
        let property = |key: &str| outgoing.properties.get(key);
        let mut origin: Origin = serde_json::from_str(property("origin")?).ok()?;
        origin.parent.as_mut()?.destination.clone_from(&self.destination);
        let format: Format = serde_json::from_str(property("format")?).ok()?;
        Some(Handover { origin, format, body: outgoing.content.clone() })
    }
}
