//! `GET /messages`, `GET /messages/{id}`, `POST /messages/{retry,cancel,reprocess}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query as QueryString, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::engine::Engine;
use crate::journal::{
    Arrival, Attempt, Command, DeliveryId, DeliveryState, DeliverySummary, JournalError, Page, Query, Recipient, Story,
    Summary, Verb,
};
use crate::message::{Body, Message, MessageId, Meta, RefKind, Refs};

/// Messages on a page when nothing else is asked for, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 1000;

/// Which messages: the query string of the list and the `filter` of a bulk command.
#[derive(Debug, Default, Deserialize)]
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
}

impl Filter {
    fn into_query(self) -> Result<Query, Problem> {
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
    filter: Result<QueryString<Filter>, axum::extract::rejection::QueryRejection>,
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
}

impl Content {
    fn of(bytes: &[u8]) -> Content {
        match std::str::from_utf8(bytes) {
            Ok(text) => Content::Text(text.to_owned()),
            Err(_) => Content::Base64(STANDARD.encode(bytes)),
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
    fn of(story: Story) -> MessageView {
        let deliveries = story.summary.deliveries.iter().cloned().zip(story.deliveries);
        let deliveries_in_full = deliveries
            .map(|(summary, delivery)| DeliveryView {
                summary,
                content: delivery.outgoing.as_ref().map(|outgoing| Content::of(&outgoing.content)),
                properties: delivery.outgoing.map(|outgoing| outgoing.properties).unwrap_or_default(),
                tries: delivery
                    .attempts
                    .into_iter()
                    .map(|attempt| AttemptView { response: attempt.response.as_deref().map(Content::of), attempt })
                    .collect(),
            })
            .collect();
        MessageView {
            summary: story.summary,
            body: Content::of(&story.body),
            acknowledgement: story.acknowledgement.as_deref().map(Content::of),
            transformed_at: story.transformed_at,
            deliveries_in_full,
            commands: story
                .commands
                .into_iter()
                .map(|(delivery, command)| CommandView { destination: delivery.destination, command })
                .collect(),
        }
    }
}

pub(super) async fn show(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
) -> Result<Json<MessageView>, Problem> {
    let id: MessageId = id.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let story = engine.journal().story(id)?.ok_or(JournalError::Unknown { id })?;
    Ok(Json(MessageView::of(story)))
}

/// A command for messages: by their ids, or all that a filter finds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    ids: Vec<MessageId>,
    filter: Option<Filter>,
    /// Only deliveries to this destination.
    destination: Option<String>,
    /// Who asks and why: kept in the journal.
    #[serde(default)]
    who: String,
    #[serde(default)]
    why: String,
    /// For `reprocess` of one message: the body to run instead.
    body: Option<String>,
}

/// What a command did, message by message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Messages at which it was done; for `reprocess` with the new message's id.
    pub done: Vec<Done>,
    /// Messages at which it was not, and why.
    pub refused: Vec<Refused>,
}

/// A message at which a command was done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The message.
    pub id: MessageId,
    /// The message that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<MessageId>,
    /// How many deliveries it concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<usize>,
}

/// A message at which a command was not done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    /// The message.
    pub id: MessageId,
    /// Why not.
    pub reason: String,
}

type AskedJson = Result<Json<Asked>, JsonRejection>;

pub(super) async fn retry(State(engine): State<Arc<Engine>>, asked: AskedJson) -> Result<Json<Outcomes>, Problem> {
    command(&engine, asked, Verb::Retry, |state| matches!(state, DeliveryState::Dead | DeliveryState::Retrying)).await
}

pub(super) async fn cancel(State(engine): State<Arc<Engine>>, asked: AskedJson) -> Result<Json<Outcomes>, Problem> {
    command(&engine, asked, Verb::Cancel, |state| state.is_waiting() || state == DeliveryState::Dead).await
}

async fn command(
    engine: &Engine,
    asked: AskedJson,
    verb: Verb,
    concerns: impl Fn(DeliveryState) -> bool,
) -> Result<Json<Outcomes>, Problem> {
    let Json(asked) = asked.map_err(|error| Problem::bad_request(error.body_text()))?;
    let destination = asked.destination.clone();
    let template = Command { verb, who: asked.who.clone(), why: asked.why.clone(), at: Timestamp::now() };
    let mut outcomes = Outcomes::default();
    for id in selected(engine, asked)? {
        let Some(story) = engine.journal().story(id)? else {
            outcomes.refused.push(Refused { id, reason: JournalError::Unknown { id }.to_string() });
            continue;
        };
        let wanted =
            |delivery: &&DeliverySummary| destination.as_ref().is_none_or(|name| *name == delivery.destination);
        let concerned: Vec<&DeliverySummary> =
            story.summary.deliveries.iter().filter(wanted).filter(|delivery| concerns(delivery.state)).collect();
        if concerned.is_empty() {
            let reason = format!(
                "no delivery of this message can be {}",
                if verb == Verb::Retry {
                    "retried: none is dead or waits for a retry"
                } else {
                    "cancelled: all came to rest"
                }
            );
            outcomes.refused.push(Refused { id, reason });
            continue;
        }
        for delivery in &concerned {
            let delivery = DeliveryId { message: id, destination: delivery.destination.clone() };
            engine.journal().command(delivery, template.clone()).await?;
        }
        outcomes.done.push(Done { id, new: None, deliveries: Some(concerned.len()) });
        if let Some(channel) = engine.channel(&story.summary.channel) {
            channel.wake();
        }
    }
    Ok(Json(outcomes))
}

/// The ids that were asked for, oldest first: what is retried keeps its order.
fn selected(engine: &Engine, asked: Asked) -> Result<Vec<MessageId>, Problem> {
    match (asked.ids.is_empty(), asked.filter) {
        (false, None) => Ok(asked.ids),
        (true, Some(filter)) => {
            let mut query = Query { limit: MAX_PAGE, ..filter.into_query()? };
            let mut ids = Vec::new();
            loop {
                let page = engine.journal().search(&query)?;
                ids.extend(page.messages.iter().map(|message| message.id));
                match page.next {
                    Some(next) => query.before = Some(next),
                    None => break,
                }
            }
            ids.reverse();
            Ok(ids)
        }
        _ => Err(Problem::bad_request("say which messages: either `ids` or a `filter`")),
    }
}

pub(super) async fn reprocess(State(engine): State<Arc<Engine>>, asked: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let Json(mut asked) = asked.map_err(|error| Problem::bad_request(error.body_text()))?;
    let edited = asked.body.take().map(Bytes::from);
    if edited.is_some() && asked.ids.len() != 1 {
        return Err(Problem::bad_request("an edited `body` goes with exactly one id"));
    }
    let mut outcomes = Outcomes::default();
    for id in selected(&engine, asked)? {
        match run_again(&engine, id, edited.clone()).await {
            Ok(new) => outcomes.done.push(Done { id, new: Some(new), deliveries: None }),
            Err(Again::Refused(reason)) => outcomes.refused.push(Refused { id, reason }),
            Err(Again::Journal(error)) => return Err(error.into()),
        }
    }
    Ok(Json(outcomes))
}

enum Again {
    Refused(String),
    Journal(JournalError),
}

impl From<JournalError> for Again {
    fn from(error: JournalError) -> Again {
        Again::Journal(error)
    }
}

async fn run_again(engine: &Engine, id: MessageId, edited: Option<Bytes>) -> Result<MessageId, Again> {
    let story = engine.journal().story(id)?.ok_or_else(|| Again::Refused(JournalError::Unknown { id }.to_string()))?;
    let summary = story.summary;
    let channel = engine
        .channel(&summary.channel)
        .ok_or_else(|| Again::Refused(format!("its channel `{}` is not loaded", summary.channel)))?;
    let body = edited.unwrap_or(story.body);
    let new = engine.ids().next();
    let received_at = Timestamp::now();
    let mut origin = summary.origin;
    origin.reprocess_of = Some(id);
    let meta = Meta { id: new, channel: summary.channel.clone(), received_at, origin: origin.clone() };
    let refs = match Message::read(meta, summary.format, &body, &crate::hl7::Limits::default()) {
        Ok(message) => refs_of(&message),
        Err(error) => return Err(Again::Refused(format!("the body cannot be read: {error}"))),
    };
    let arrival = Arrival {
        recipients: vec![Recipient { id: new, channel: summary.channel }],
        received_at,
        origin,
        format: summary.format,
        refs,
        body,
        acknowledgement: None,
        rejected: None,
        idempotency_key: None,
    };
    let receipt = engine.journal().receive(arrival).await?;
    channel.counters().received.add_one();
    channel.wake();
    Ok(receipt.recipients().first().map_or(new, |recipient| recipient.id))
}

fn refs_of(message: &Message) -> Refs {
    match &*message.body {
        Body::Hl7(body) => Refs::of_hl7(body),
        Body::Json(event) => Refs::of_event(event),
        Body::Text(_) => Refs::default(),
    }
}
