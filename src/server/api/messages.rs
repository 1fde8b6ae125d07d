//! `GET /messages`, `GET /messages/{id}`, `POST /messages/{retry,cancel,reprocess}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query as QueryString, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Problem, detached};
use crate::action::event;
use crate::engine::Engine;
use crate::journal::{
    Arrival, Attempt, Command, DeliveryId, DeliveryState, DeliverySummary, JournalError, Page, Query, Recipient, Story,
    Summary, Verb,
};
use crate::message::{Body, Format, Message, MessageId, Meta, RefKind, Refs};

/// Messages on a page when nothing else is asked for, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 1000;

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
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<MessageView>, Problem> {
    let Path(id) = path.map_err(|error| Problem::bad_request(error.body_text()))?;
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
    /// Goes with a filter that names nothing: it means every message there is.
    #[serde(default)]
    all: bool,
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

fn asked(body: AskedJson) -> Result<Asked, Problem> {
    match body {
        Ok(Json(asked)) => Ok(asked),
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::too_large()),
        Err(error) => Err(Problem::bad_request(error.body_text())),
    }
}

pub(super) async fn retry(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    let concerns = |state| matches!(state, DeliveryState::Dead | DeliveryState::Retrying);
    detached(async move { command(&engine, asked, Verb::Retry, concerns).await }).await
}

pub(super) async fn cancel(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    let concerns = |state: DeliveryState| state.is_waiting() || state == DeliveryState::Dead;
    detached(async move { command(&engine, asked, Verb::Cancel, concerns).await }).await
}

async fn command(
    engine: &Engine,
    asked: Asked,
    verb: Verb,
    concerns: impl Fn(DeliveryState) -> bool,
) -> Result<Json<Outcomes>, Problem> {
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

/// The ids that were asked for, each once, oldest first: what is retried keeps its order.
fn selected(engine: &Engine, asked: Asked) -> Result<Vec<MessageId>, Problem> {
    match (asked.ids.is_empty(), asked.filter) {
        (false, None) => {
            let mut ids = asked.ids;
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        }
        (true, Some(filter)) => found(engine, filter, asked.all),
        _ => Err(Problem::bad_request("say which messages: either `ids` or a `filter`")),
    }
}

fn found(engine: &Engine, filter: Filter, all: bool) -> Result<Vec<MessageId>, Problem> {
    if filter.limit.is_some() || filter.before.is_some() {
        let message = "`limit` and `before` belong to lists: a command is for every message that its filter finds";
        return Err(Problem::bad_request(message));
    }
    if filter == Filter::default() && !all {
        let message = "an empty `filter` means every message: say `\"all\": true` beside it if that is what you want";
        return Err(Problem::bad_request(message));
    }
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
    ids.sort_unstable();
    Ok(ids)
}

pub(super) async fn reprocess(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let mut asked = asked(body)?;
    let edited = asked.body.take().map(Bytes::from);
    if edited.is_some() && asked.ids.len() != 1 {
        return Err(Problem::bad_request("an edited `body` goes with exactly one id"));
    }
    if asked.destination.is_some() {
        let message =
            "a message that is run again goes to all its channel's destinations: `destination` cannot be given";
        return Err(Problem::bad_request(message));
    }
    let words = |text: &String| Some(text.as_str()).filter(|text| !text.is_empty()).map(Box::from);
    let by = By { who: words(&asked.who), why: words(&asked.why) };
    detached(async move {
        let mut outcomes = Outcomes::default();
        for id in selected(&engine, asked)? {
            match run_again(&engine, id, edited.clone(), &by).await {
                Ok(new) => outcomes.done.push(Done { id, new: Some(new), deliveries: None }),
                Err(Again::Refused(reason)) => outcomes.refused.push(Refused { id, reason }),
                Err(Again::Journal(error)) => return Err(error.into()),
            }
        }
        Ok(Json(outcomes))
    })
    .await
}

/// Who has a message run again, and why.
struct By {
    who: Option<Box<str>>,
    why: Option<Box<str>>,
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

async fn run_again(engine: &Engine, id: MessageId, edited: Option<Bytes>, by: &By) -> Result<MessageId, Again> {
    let story = engine.journal().story(id)?.ok_or_else(|| Again::Refused(JournalError::Unknown { id }.to_string()))?;
    let summary = story.summary;
    let channel = engine
        .channel(&summary.channel)
        .ok_or_else(|| Again::Refused(format!("its channel `{}` is not loaded", summary.channel)))?;
    if let Some(body) = edited.as_ref().filter(|_| summary.format == Format::Json) {
        let words = |problems: Vec<event::EventProblem>| {
            let each: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.message)).collect();
            Again::Refused(format!("the body is no event: {}", each.join("; ")))
        };
        event::read(body).map_err(words)?;
    }
    let body = edited.unwrap_or(story.body);
    let new = engine.ids().next();
    let received_at = Timestamp::now();
    let mut origin = summary.origin;
    origin.reprocess_of = Some(id);
    (origin.asked_by, origin.reason) = (by.who.clone(), by.why.clone());
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
        identity: None,
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
