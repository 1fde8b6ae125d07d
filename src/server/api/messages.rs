//! `GET /messages`, `GET /messages/{id}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query as QueryString, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::engine::Engine;
use crate::journal::{Attempt, Command, DeliverySummary, JournalError, Page, Query, Removed, Stored, Story, Summary};
use crate::message::{MessageId, RefKind};

/// Messages on a page when nothing else is asked for, and at most.
const PAGE: usize = 50;
pub(super) const MAX_PAGE: usize = 1000;

/// Which messages: the query string of the list and the `filter` of a bulk command.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    channel: Option<String>,
    state: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    before: Option<MessageId>,
    limit: Option<usize>,
    lab: Option<String>,
    patient: Option<String>,
    visit: Option<String>,
    bill: Option<String>,
    order: Option<String>,
    sample: Option<String>,
    report: Option<String>,
    control_id: Option<String>,
    message_type: Option<String>,
    parent: Option<String>,
}

impl Filter {
    /// Whether it cuts a list into pages, which no command wants.
    pub(super) fn is_paged(&self) -> bool {
        self.limit.is_some() || self.before.is_some()
    }

    pub(super) fn into_query(self) -> Result<Query, Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` is a number from 1 to {MAX_PAGE}")));
        }
        let refs = [
            (RefKind::Lab, self.lab),
            (RefKind::Patient, self.patient),
            (RefKind::Visit, self.visit),
            (RefKind::Bill, self.bill),
            (RefKind::Order, self.order),
            (RefKind::Sample, self.sample),
            (RefKind::Report, self.report),
            (RefKind::ControlId, self.control_id),
            (RefKind::MessageType, self.message_type),
            (RefKind::Parent, self.parent),
        ];
        Ok(Query {
            channel: self.channel,
            state: self.state.map(|word| word.parse()).transpose().map_err(Problem::bad_request)?,
            refs: refs.into_iter().filter_map(|(kind, value)| value.map(|value| (kind, value))).collect(),
            since: self.since,
            until: self.until,
            before: self.before,
            limit,
        })
    }
}

pub(super) async fn list(
    State(engine): State<Arc<Engine>>,
    filter: Result<QueryString<Filter>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let QueryString(filter) = filter.map_err(|error| Problem::bad_request(error.body_text()))?;
    Ok(Json(engine.journal().search(&filter.into_query()?)?))
}

/// Content, as JSON can carry it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
    /// What is left of content that was removed.
    Removed(Removed),
}

impl Content {
    fn of(stored: &Stored) -> Content {
        match stored {
            Stored::Removed(removed) => Content::Removed(removed.clone()),
            Stored::Kept(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Content::Text(text.to_owned()),
                Err(_) => Content::Base64(STANDARD.encode(bytes)),
            },
        }
    }
}

/// The whole story of a message, as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageView {
    /// The row of the list.
    #[serde(flatten)]
    pub summary: Summary,
    /// The bytes as they came.
    pub body: Content,
    /// The acknowledgement that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<Content>,
    /// When the transformer was done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformed_at: Option<Timestamp>,
    /// Each delivery's content and attempts.
    pub deliveries_in_full: Vec<DeliveryView>,
    /// What people did to it.
    pub commands: Vec<CommandView>,
    /// The messages of other channels that its deliveries became; the newest hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// A message of another channel that a delivery became.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Child {
    /// The destination that handed it over.
    pub destination: String,
    /// The message there.
    pub id: MessageId,
    /// Its channel.
    pub channel: String,
}

/// More messages that came of one are not shown with it: `parent=ID` in the search finds all.
const CHILDREN: usize = 100;

/// The messages of other channels that a message's deliveries became.
fn children_of(engine: &Engine, id: MessageId) -> Result<Vec<Child>, JournalError> {
    let refs = vec![(RefKind::Parent, id.to_string())];
    let found = engine.journal().search(&Query { refs, limit: CHILDREN, ..Query::default() })?;
    let child = |child: Summary| {
        let parent = child.origin.parent?;
        Some(Child { destination: parent.destination, id: child.id, channel: child.channel })
    };
    Ok(found.messages.into_iter().filter_map(child).collect())
}

/// The whole story of a delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryView {
    /// The row of the list.
    #[serde(flatten)]
    pub summary: DeliverySummary,
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// What the destination worked out: the file's name, the control id.
    pub properties: BTreeMap<String, String>,
    /// Every try.
    pub tries: Vec<AttemptView>,
}

/// A try, with the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptView {
    /// The try.
    #[serde(flatten)]
    pub attempt: Attempt,
    /// What the peer answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Content>,
}

/// A command, with the destination that it was for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandView {
    /// The destination.
    pub destination: String,
    /// The command.
    #[serde(flatten)]
    pub command: Command,
}

impl MessageView {
    fn of(story: Story, children: Vec<Child>) -> MessageView {
        let deliveries = story.summary.deliveries.iter().cloned().zip(story.deliveries);
        let deliveries_in_full = deliveries
            .map(|(summary, delivery)| DeliveryView {
                summary,
                content: delivery.content.as_ref().map(Content::of),
                properties: delivery.properties,
                tries: delivery
                    .attempts
                    .into_iter()
                    .map(|tried| AttemptView {
                        response: tried.response.as_ref().map(Content::of),
                        attempt: tried.attempt,
                    })
                    .collect(),
            })
            .collect();
        MessageView {
            summary: story.summary,
            body: Content::of(&story.body),
            acknowledgement: story.acknowledgement.as_ref().map(Content::of),
            transformed_at: story.transformed_at,
            deliveries_in_full,
            commands: story
                .commands
                .into_iter()
                .map(|(delivery, command)| CommandView { destination: delivery.destination, command })
                .collect(),
            children,
        }
    }
}

pub(super) async fn show(
    State(engine): State<Arc<Engine>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<MessageView>, Problem> {
    let Path(id) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
    let id: MessageId = id.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let story = engine.journal().story(id)?.ok_or(JournalError::Unknown { id })?;
    let children = children_of(&engine, id)?;
    Ok(Json(MessageView::of(story, children)))
}
