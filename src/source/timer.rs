//! `timer`: makes a message by itself, by the clock.
//!
//! Each time of the schedule makes one message: it is known by its channel and that time, so that the same time is not journaled
//! twice, also across a restart. Times that went by while the channel did not run are left out, or made up for by one message,
//! that of the last of them.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use toml::Spanned;
use tracing::{info, warn};

use super::schedule::{Schedule, Tick};
use super::{FormatOption, Intake, IntakeError, Source, SourceConfig, SourceKind, Taken};
use crate::config::{self, BuildError, Place, Table, report};
use crate::expr::{ENDINGS, Escaping, Scope, Template, hl7_segments};
use crate::hl7;
use crate::journal::{Identity, OtherBody};
use crate::message::{Body, Event, Format, Message, MessageId, Meta, Origin, Refs};

pub(super) const KIND: SourceKind = SourceKind {
    name: NAME,
    summary: "Makes a message by itself, every so often or at times of the day.",
    example: "type = \"timer\"\ncron = \"0 6 * * mon-fri\"\ntime_zone = \"Europe/Vienna\"\ncontent = \"good morning, it is {{ now() }}\"\n",
    schema: |generator| Schedule::add_to(generator.subschema_for::<Keys>()),
    parse,
};

const NAME: &str = "timer";

/// What cannot be kept is tried again after so long.
const AFTER_ERROR: StdDuration = StdDuration::from_secs(5);

/// The options of a `timer` source, beside its schedule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The message, with expressions on `meta` (`meta.scheduled_at` is the time of the schedule) and `now()`.
    #[schemars(with = "Option<String>")]
    content: Option<Spanned<String>>,
    /// A template file instead, its path from the channel file; its ending says what it writes.
    #[schemars(with = "Option<String>")]
    template: Option<Spanned<String>>,
    /// What `content` writes: values are escaped for it ("text" if not given).
    #[schemars(with = "Option<Writes>")]
    format: Option<Spanned<Writes>>,
    /// What becomes of times that went by while the channel did not run: "skip" (nothing; if not given) or "once" (one message for all
    /// of them, that of the last).
    #[serde(default)]
    missed: Missed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Writes {
    /// HL7 v2, a segment a line.
    Hl7,
    /// JSON.
    Json,
    /// Text.
    Text,
}

impl Writes {
    fn format(self) -> Format {
        match self {
            Writes::Hl7 => Format::Hl7,
            Writes::Json => Format::Json,
            Writes::Text => Format::Text,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// One message for all of them.
    Once,
}

/// The options, read and checked.
#[derive(Debug, Clone)]
struct Timer {
    schedule: Schedule,
    template: Template,
    writes: Writes,
    /// The same, for tests of channel files.
    format: FormatOption,
    missed: Missed,
}

fn parse(mut table: Table<'_>) -> Option<Box<dyn SourceConfig>> {
    let (name, span) = (table.name().to_owned(), table.span());
    let schedule = Schedule::take(&mut table, None);
    let keys = table.read_with_more::<Keys>(Schedule::KEYS)?;
    let (template, writes, place) = match (&keys.content, &keys.template) {
        (Some(content), None) => of_content(content, keys.format.as_ref().map(|format| *format.get_ref())),
        (None, Some(path)) => of_file(path, keys.format.as_ref())?,
        (Some(content), Some(_)) => {
            let help = "keep one of them".to_owned();
            report(content.span(), "both `content` and `template`", "it is either the one or the other", Some(help));
            return None;
        }
        (None, None) => {
            let help = "write `content = \"…\"`, or `template = \"templates/…\"`".to_owned();
            report(span, format!("{name} says nothing of what it makes"), "", Some(help));
            return None;
        }
    };
    let format = FormatOption::of(writes.format());
    let timer = Timer { schedule: schedule?, template, writes, format, missed: keys.missed };
    // What goes wrong now goes wrong each time: there is nothing in it that depends on what comes.
    let (id, at) = (MessageId::from_bytes([0; 16]), Timestamp::UNIX_EPOCH);
    if let Err(error) = timer.write(&timer.meta(id, "channel", at, Some(at))) {
        let help = "a timer's message has `meta`, `now()` and `ulid()`; `msg` and `event` are empty".to_owned();
        report(place, format!("this makes no message: {error}"), "", Some(help));
        return None;
    }
    Some(Box::new(timer))
}

type Written = (Template, Writes, std::ops::Range<usize>);

fn of_content(content: &Spanned<String>, format: Option<Writes>) -> Written {
    let writes = format.unwrap_or(Writes::Text);
    let escaping = match writes {
        Writes::Hl7 => Escaping::of_file("content.hl7", content.get_ref()).unwrap_or(Escaping::None),
        Writes::Json => Escaping::Json,
        Writes::Text => Escaping::None,
    };
    (Template::compile(content.get_ref(), &content.span(), escaping), writes, content.span())
}

fn of_file(path: &Spanned<String>, format: Option<&Spanned<Writes>>) -> Option<Written> {
    if let Some(format) = format {
        let help = format!("leave it out: a template file ends in .{}", ENDINGS.join(", ."));
        report(format.span(), "`format` beside `template`", "the file's ending says it", Some(help));
    }
    let file = config::load_text(&path.span(), path.get_ref(), "template")?;
    let Some(escaping) = Escaping::of_file(path.get_ref(), &file.text) else {
        let message = format!("`{}` has no ending that says what it writes", path.get_ref());
        let help = format!("a template file ends in .{}: values are escaped for that format", ENDINGS.join(", ."));
        report(path.span(), message, "", Some(help));
        return None;
    };
    let writes = match escaping {
        Escaping::Hl7(_) => Writes::Hl7,
        Escaping::Json => Writes::Json,
        _ => Writes::Text,
    };
    Some((Template::compile_file(&file, escaping), writes, path.span()))
}

impl Timer {
    fn meta(&self, id: MessageId, channel: &str, now: Timestamp, at: Option<Timestamp>) -> Meta {
        let origin = Origin { source: NAME.to_owned(), scheduled_at: at, ..Origin::default() };
        Meta { id, channel: channel.to_owned(), received_at: now, origin }
    }

    /// Writes a message, and reads it again as whoever takes it will.
    fn write(&self, meta: &Meta) -> Result<(Bytes, Arc<Body>), String> {
        let nothing = Arc::new(Body::Json(serde_json::Value::Null));
        let scope = Scope::new(&Message { meta: meta.clone(), body: nothing, event: Arc::new(Event::default()) });
        let text = self.template.render(&scope).map_err(|error| error.message)?;
        let text = if self.writes == Writes::Hl7 { hl7_segments(&text) } else { text };
        let bytes = Bytes::from(text);
        let read = Message::read(meta.clone(), self.format.format(), &bytes, &hl7::Limits::default());
        read.map(|message| (bytes, message.body)).map_err(|error| error.to_string())
    }

    fn taken(&self, intake: &Intake, tick: Tick) -> Taken {
        let meta = self.meta(intake.next_id(), intake.channel(), Timestamp::now(), Some(tick.at));
        let (body, read, rejected) = match self.write(&meta) {
            Ok((body, read)) => (body, Some(read), None),
            // Seen, instead of silently not made.
            Err(error) => (Bytes::new(), None, Some(error)),
        };
        // A clock that was put back: there may be a message of this time already, and this is not the same.
        let key = (!tick.again).then(|| json!([NAME, intake.channel(), tick.at]).to_string());
        Taken {
            id: meta.id,
            received_at: meta.received_at,
            body,
            refs: read.as_deref().map(Refs::of).unwrap_or_default(),
            read: read.filter(|_| self.writes == Writes::Hl7),
            format: self.format.format(),
            origin: meta.origin,
            acknowledgement: None,
            rejected,
            identity: key.map(|key| Identity { key, window: None, other_body: OtherBody::Refused }),
        }
    }

    /// The last time that went by since the channel made its last message; none for a channel that made none.
    fn missed(&self, intake: &Intake) -> Option<Timestamp> {
        let newest = intake.newest().unwrap_or_else(|error| {
            warn!(channel = intake.channel(), %error, "it cannot be told whether a time was missed");
            None
        })?;
        let since = newest.origin.scheduled_at.unwrap_or(newest.received_at);
        self.schedule.last_before(Timestamp::now(), since)
    }
}

#[async_trait]
impl SourceConfig for Timer {
    fn format(&self) -> Option<&FormatOption> {
        Some(&self.format)
    }

    async fn build(&self, _: &Place) -> Result<Box<dyn Source>, BuildError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Source for Timer {
    async fn run(self: Box<Self>, intake: Intake, stop: CancellationToken) {
        let mut ticks = self.schedule.ticks();
        if self.missed == Missed::Once
            && let Some(at) = self.missed(&intake)
        {
            info!(channel = intake.channel(), %at, "a time was missed; its message is made now");
            self.make(&intake, Tick { at, again: false }, &stop).await;
        }
        while let Some(tick) = stop.run_until_cancelled(ticks.next()).await {
            self.make(&intake, tick, &stop).await;
        }
    }
}

impl Timer {
    /// Makes the message of one time, as often as it takes to keep it.
    async fn make(&self, intake: &Intake, tick: Tick, stop: &CancellationToken) {
        loop {
            let error: IntakeError = match intake.accept(self.taken(intake, tick)).await {
                Ok(_) => return,
                Err(error) => error,
            };
            warn!(channel = intake.channel(), %error, "a timer's message cannot be kept; trying again");
            if stop.run_until_cancelled(tokio::time::sleep(AFTER_ERROR)).await.is_none() {
                return;
            }
        }
    }
}
