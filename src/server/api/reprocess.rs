//! `POST /messages/reprocess`: journaled messages through today's channels, as new messages.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::task::unconstrained;

use super::commands::{Asked, AskedJson, Done, Outcomes, TOGETHER, asked, selected};
use super::{Problem, detached};
use crate::action::event;
use crate::channel::Channel;
use crate::engine::Engine;
use crate::hl7::{Charset, Header};
use crate::journal::{Arrival, JournalError, Recipient, Summary};
use crate::message::{Format, Message, MessageId, Meta, Origin};

/// So much content is in memory at a time, and one body more.
const TOGETHER_BYTES: usize = 16 << 20;

pub(super) async fn reprocess(State(engine): State<Arc<Engine>>, body: AskedJson) -> Result<Json<Outcomes>, Problem> {
    let asked = asked(body)?;
    if asked.destination.is_some() {
        let message =
            "a message that is run again goes to all its channel's destinations: `destination` cannot be given";
        return Err(Problem::bad_request(message));
    }
    detached(async move { run_all(&engine, asked).await.map(Json) }).await
}

async fn run_all(engine: &Engine, mut asked: Asked) -> Result<Outcomes, Problem> {
    let edited = asked.body.take().map(Bytes::from);
    let words = |text: &String| Some(text.as_str()).filter(|text| !text.is_empty()).map(Box::from);
    let by = By { who: words(&asked.who), why: words(&asked.why) };
    let mut outcomes = Outcomes::new(asked.dry_run);
    let ids = selected(engine, asked)?;
    if edited.is_some() && ids.len() != 1 {
        let message = format!("an edited `body` goes with exactly one message, not with {}", ids.len());
        return Err(Problem::bad_request(message));
    }
    let (mut together, mut bytes) = (Vec::new(), 0);
    for id in ids {
        match prepare(engine, id, edited.clone(), &by) {
            Ok(again) => {
                bytes += again.arrival.body.len();
                together.push(again);
            }
            Err(Refusal::Words(reason)) => outcomes.refuse(id, reason),
            Err(Refusal::Journal(error)) => outcomes.fail(id, error)?,
        }
        if together.len() >= TOGETHER || bytes >= TOGETHER_BYTES {
            take_in(engine, std::mem::take(&mut together), &mut outcomes).await?;
            bytes = 0;
        }
    }
    take_in(engine, together, &mut outcomes).await?;
    Ok(outcomes)
}

/// Who has a message run again, and why.
struct By {
    who: Option<Box<str>>,
    why: Option<Box<str>>,
}

/// A message that is to be run again.
struct Again {
    id: MessageId,
    new: MessageId,
    channel: Arc<Channel>,
    arrival: Arrival,
}

/// Why one is not.
enum Refusal {
    Words(String),
    Journal(JournalError),
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Refusal {
        Refusal::Journal(error)
    }
}

fn prepare(engine: &Engine, id: MessageId, edited: Option<Bytes>, by: &By) -> Result<Again, Refusal> {
    let story = engine.journal().story(id)?.ok_or(JournalError::Unknown { id })?;
    let summary = story.summary;
    let refused = |reason: String| Refusal::Words(format!("message {id}: {reason}"));
    let channel = engine
        .channel(&summary.channel)
        .ok_or_else(|| refused(format!("its channel `{}` is not loaded", summary.channel)))?;
    if let Some(body) = edited.as_ref().filter(|_| is_event(&summary)) {
        let words = |problems: Vec<event::EventProblem>| {
            let each: Vec<String> =
                problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.message)).collect();
            refused(format!("the body is no event: {}", each.join("; ")))
        };
        event::read(body).map_err(words)?;
    }
    let mut origin = summary.origin;
    let body = match edited {
        Some(text) => in_its_set(text, summary.format, &mut origin).map_err(refused)?,
        None => story.body.into_bytes(id)?,
    };
    let new = engine.ids().next();
    let received_at = Timestamp::now();
    origin.reprocess_of = Some(id);
    (origin.reused_key, origin.stale_timestamp) = (false, false);
    (origin.asked_by, origin.reason) = (by.who.clone(), by.why.clone());
    let meta = Meta { id: new, channel: summary.channel.clone(), received_at, origin: origin.clone() };
    let refs = match Message::read(meta, summary.format, &body, &crate::hl7::Limits::default()) {
        Ok(message) => origin.refs(Some(&message.body)),
        Err(error) => return Err(refused(format!("the body cannot be read: {error}"))),
    };
    let arrival = Arrival {
        recipients: vec![Recipient { id: new, channel: summary.channel }],
        received_at,
        origin,
        format: summary.format,
        refs,
        body,
        read: None,
        acknowledgement: None,
        rejected: None,
        identity: None,
    };
    Ok(Again { id, new, channel, arrival })
}

/// An edited body as its format is read: what is edited is text, and comes as UTF-8.
fn in_its_set(text: Bytes, format: Format, origin: &mut Origin) -> Result<Bytes, String> {
    if format != Format::Hl7 {
        origin.charset = Some(Charset::UTF_8.name().into());
        return Ok(text);
    }
    let declared = Header::scan(&text).and_then(|header| header.declared_charset());
    let (Some(set), Ok(content)) = (declared.filter(|set| *set != Charset::ASCII), std::str::from_utf8(&text)) else {
        return Ok(text);
    };
    let problem = |position| format!("character {position} of the body does not exist in {set}, which MSH-18 names");
    Ok(Bytes::from(set.encode(content).map_err(problem)?.into_owned()))
}

/// Journals messages that are to be run again; together, they share a sync.
async fn take_in(engine: &Engine, together: Vec<Again>, outcomes: &mut Outcomes) -> Result<(), Problem> {
    if outcomes.dry_run {
        outcomes.done.extend(together.iter().map(|again| Done { id: again.id, new: None, deliveries: None }));
        return Ok(());
    }
    let received = together.into_iter().map(|Again { id, new, channel, arrival }| async move {
        (id, new, channel, engine.journal().receive(arrival).await)
    });
    let mut failure = None;
    // Unconstrained: as with commands, for their order.
    for (id, new, channel, receipt) in unconstrained(join_all(received)).await {
        match receipt {
            Ok(_) => {
                outcomes.done.push(Done { id, new: Some(new), deliveries: None });
                channel.counters().received.add_one();
                channel.wake();
            }
            Err(error) => failure = outcomes.fail(id, error).err().or(failure),
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Whether a message is an event as the API took it in, and neither a part of one nor handed over by a channel.
fn is_event(summary: &Summary) -> bool {
    summary.origin.action.is_some() && summary.origin.part.is_none() && summary.origin.parent.is_none()
}
