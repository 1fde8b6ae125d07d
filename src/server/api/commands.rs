//! `POST /messages/{retry,cancel,resend}`: what people have done to deliveries. Which messages and what came of it is the same
//! for `/messages/reprocess`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::unconstrained;

use super::messages::{Filter, MAX_PAGE};
use super::{Problem, detached};
use crate::engine::Engine;
use crate::journal::{Command, DeliveryId, DeliveryState, DeliverySummary, JournalError, Query, Story, Verb};
use crate::message::MessageId;

/// Commands for so many messages share a sync.
pub(super) const TOGETHER: usize = 64;

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
    pub(super) destination: Option<String>,
    /// Who asks and why: kept in the journal.
    #[serde(default)]
    pub(super) who: String,
    #[serde(default)]
    pub(super) why: String,
    /// Says what would be done, and does nothing.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// For `reprocess` of one message: the body to run instead.
    pub(super) body: Option<String>,
}

/// What a command did, message by message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Whether nothing was done, because only what would be was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
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

impl Outcomes {
    pub(super) fn new(dry_run: bool) -> Outcomes {
        Outcomes { dry_run, ..Outcomes::default() }
    }

    pub(super) fn refuse(&mut self, id: MessageId, reason: impl ToString) {
        self.refused.push(Refused { id, reason: reason.to_string() });
    }

    /// Notes an error of the journal at one message. It is the answer to the whole request where nothing was done yet and the
    /// next message would meet it too; later on, what was done must be told.
    pub(super) fn fail(&mut self, id: MessageId, error: JournalError) -> Result<(), JournalError> {
        use JournalError::{Damaged, Removed, State, Unknown};
        let is_of_this_message = matches!(error, Damaged { .. } | Removed { .. } | State { .. } | Unknown { .. });
        if self.done.is_empty() && !is_of_this_message {
            return Err(error);
        }
        self.refuse(id, error);
        Ok(())
    }
}

pub(super) type AskedJson = Result<Json<Asked>, JsonRejection>;

pub(super) fn asked(body: AskedJson) -> Result<Asked, Problem> {
    match body {
        Ok(Json(asked)) => Ok(asked),
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::too_large()),
        Err(error) => Err(Problem::bad_request(error.body_text())),
    }
}

/// The ids that were asked for, each once, oldest first: what is done keeps their order.
pub(super) fn selected(engine: &Engine, asked: Asked) -> Result<Vec<MessageId>, Problem> {
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
    if filter.is_paged() {
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

pub(super) async fn retry(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    detached(async move { command(&engine, asked, Verb::Retry).await }).await
}

pub(super) async fn cancel(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    detached(async move { command(&engine, asked, Verb::Cancel).await }).await
}

pub(super) async fn resend(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    detached(async move { command(&engine, asked, Verb::Resend).await }).await
}

/// What is to be done at one message.
struct Planned {
    id: MessageId,
    channel: String,
    deliveries: Vec<DeliveryId>,
}

async fn command(engine: &Engine, asked: Asked, verb: Verb) -> Result<Json<Outcomes>, Problem> {
    if asked.body.is_some() {
        return Err(Problem::bad_request(
            "a `body` goes with `reprocess`: a delivery is sent as it was first worked out",
        ));
    }
    let destination = asked.destination.clone();
    let template = Command { verb, who: asked.who.clone(), why: asked.why.clone(), at: Timestamp::now() };
    let mut outcomes = Outcomes::new(asked.dry_run);
    for ids in selected(engine, asked)?.chunks(TOGETHER) {
        let mut planned = Vec::with_capacity(ids.len());
        for id in ids {
            match engine.journal().story(*id).and_then(|story| story.ok_or(JournalError::Unknown { id: *id })) {
                Ok(story) => match plan(&story, verb, destination.as_deref()) {
                    Ok(plan) => planned.push(plan),
                    Err(reason) => outcomes.refuse(*id, reason),
                },
                Err(error) => outcomes.fail(*id, error)?,
            }
        }
        if outcomes.dry_run {
            outcomes.done.extend(planned.iter().map(|plan| done(plan.id, plan.deliveries.len())));
        } else {
            carry_out(engine, planned, &template, &mut outcomes).await?;
        }
    }
    Ok(Json(outcomes))
}

/// The deliveries that a command concerns, or why there are none.
fn plan(story: &Story, verb: Verb, destination: Option<&str>) -> Result<Planned, String> {
    let summary = &story.summary;
    let wanted: Vec<&DeliverySummary> = summary
        .deliveries
        .iter()
        .filter(|delivery| destination.is_none_or(|name| name == delivery.destination))
        .collect();
    let concerns = |delivery: &&&DeliverySummary| concerns(verb, delivery.state, destination.is_some());
    let id =
        |delivery: &&DeliverySummary| DeliveryId { message: summary.id, destination: delivery.destination.clone() };
    let deliveries: Vec<DeliveryId> = wanted.iter().filter(concerns).map(id).collect();
    if let Some(at) = summary.content_removed.filter(|_| verb != Verb::Cancel && !deliveries.is_empty()) {
        return Err(JournalError::Removed { id: summary.id, at }.to_string());
    }
    if !deliveries.is_empty() {
        return Ok(Planned { id: summary.id, channel: summary.channel.clone(), deliveries });
    }
    let refusal = |delivery: &&DeliverySummary| {
        let DeliverySummary { destination, state, .. } = (*delivery).clone();
        JournalError::State { id: summary.id, destination, state, verb: verb_word(verb) }.to_string()
    };
    Err(match (wanted.is_empty(), destination) {
        (false, _) => wanted.iter().map(refusal).collect::<Vec<_>>().join("; "),
        (true, Some(name)) => format!("message {}: is {}, has no delivery to `{name}`", summary.id, summary.state),
        (true, None) => {
            format!("message {}: is {}, has no deliveries to {}", summary.id, summary.state, verb_word(verb))
        }
    })
}

/// Whether a verb is for deliveries in a state. What somebody cancelled is retried only where its destination is named: a retry
/// of all that failed does not mean it.
fn concerns(verb: Verb, state: DeliveryState, is_named: bool) -> bool {
    use DeliveryState::{Cancelled, Dead, Retrying, Sent};
    match verb {
        Verb::Retry => matches!(state, Dead | Retrying) || (is_named && state == Cancelled),
        Verb::Cancel => state.is_waiting() || state == Dead,
        Verb::Resend => state == Sent,
    }
}

async fn carry_out(
    engine: &Engine,
    planned: Vec<Planned>,
    template: &Command,
    outcomes: &mut Outcomes,
) -> Result<(), Problem> {
    let commanded = planned.iter().map(|plan| {
        let each = plan.deliveries.iter().map(|id| engine.journal().command(id.clone(), template.clone()));
        join_all(each)
    });
    // Unconstrained: futures that tokio puts off for fairness are woken last first, and would change their order.
    let results = unconstrained(join_all(commanded)).await;
    let mut channels = BTreeSet::new();
    let mut failure = None;
    for (plan, results) in planned.iter().zip(results) {
        let count = results.iter().filter(|result| result.is_ok()).count();
        if count > 0 {
            outcomes.done.push(done(plan.id, count));
            channels.insert(plan.channel.as_str());
        }
        for error in results.into_iter().filter_map(Result::err) {
            failure = outcomes.fail(plan.id, error).err().or(failure);
        }
    }
    for channel in channels.into_iter().filter_map(|name| engine.channel(name)) {
        channel.wake();
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

fn done(id: MessageId, deliveries: usize) -> Done {
    Done { id, new: None, deliveries: Some(deliveries) }
}

/// A verb as people say it, and as the paths of the API have it.
pub fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Retry => "retry",
        Verb::Cancel => "cancel",
        Verb::Resend => "resend",
    }
}
