//! `labwire messages`.

mod act;
mod export;

use clap::{Args, Subcommand};

use self::act::{Act, Reprocess};
use self::export::Export;
use super::client::Client;
use super::{ExitCode, OutputFormat, print_json, print_line};
use crate::journal::{MessageState, Page, Summary};
use crate::message::RefKind;
use crate::server::{Content, DeliveryView, MessageView, verb_word};

#[derive(Debug, Subcommand)]
pub(super) enum Messages {
    /// List messages, newest first
    List(List),
    /// Show a message's whole way
    Show(Show),
    /// Queue dead or waiting deliveries again
    Retry(Act),
    /// Give up deliveries that wait or are dead
    Cancel(Act),
    /// Send once more what was sent, at the end of its queue
    Resend(Act),
    /// Run messages through today's channel again, as new messages
    Reprocess(Reprocess),
    /// Write messages out: whole stories as lines of JSON, or bodies as files. They are PHI
    Export(Export),
}

#[derive(Debug, Args, Default)]
struct Filter {
    /// Only of this channel
    #[arg(long)]
    channel: Option<String>,
    /// Only in this state: received, rejected, filtered, errored, queued, sent, dead
    #[arg(long)]
    state: Option<MessageState>,
    /// Only with this reference: KIND=VALUE with lab, patient, visit, bill, order, sample, report, control_id, message_type or
    /// parent
    #[arg(long = "ref", value_name = "KIND=VALUE", value_parser = reference)]
    refs: Vec<(String, String)>,
    /// Received at or after this time (2026-01-15T10:30:00Z)
    #[arg(long)]
    since: Option<String>,
    /// Received before this time
    #[arg(long)]
    until: Option<String>,
}

fn reference(text: &str) -> Result<(String, String), String> {
    let (kind, value) = text.split_once('=').ok_or("write KIND=VALUE, as in patient=A-104233")?;
    match RefKind::ALL.iter().find(|known| known.as_str() == kind) {
        Some(_) => Ok((kind.to_owned(), value.to_owned())),
        None => {
            Err(format!("no reference is called `{kind}`: one of {}", RefKind::ALL.map(RefKind::as_str).join(", ")))
        }
    }
}

impl Filter {
    fn pairs(&self) -> Vec<(&str, String)> {
        let state = self.state.map(|state| state.to_string());
        let plain = [("channel", &self.channel), ("state", &state), ("since", &self.since), ("until", &self.until)];
        let plain = plain.into_iter().filter_map(|(key, value)| value.clone().map(|value| (key, value)));
        plain.chain(self.refs.iter().map(|(kind, value)| (kind.as_str(), value.clone()))).collect()
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    filter: Filter,
    /// Only messages older than this one: the next page
    #[arg(long)]
    before: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The message's id
    id: String,
    #[command(flatten)]
    client: Client,
    /// Show contents too: they are PHI
    #[arg(long)]
    content: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

impl Messages {
    pub(super) fn run(self) -> ExitCode {
        let result = match &self {
            Messages::List(list) => list.run(),
            Messages::Show(show) => show.run(),
            Messages::Retry(act) => act.run("retry"),
            Messages::Cancel(act) => act.run("cancel"),
            Messages::Resend(act) => act.run("resend"),
            Messages::Reprocess(reprocess) => reprocess.run(),
            Messages::Export(export) => export.run(),
        };
        result.unwrap_or_else(|code| code)
    }
}

impl List {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let mut query = self.filter.pairs();
        query.push(("limit", self.limit.to_string()));
        query.extend(self.before.iter().map(|before| ("before", before.clone())));
        let page: Page = self.client.get("/messages", &query)?;
        if self.format == OutputFormat::Json {
            return Ok(print_json(&page));
        }
        for message in &page.messages {
            print_line(&row(message));
        }
        match page.next {
            Some(next) => print_line(&format!("more: --before {next}")),
            None if page.messages.is_empty() => print_line("no messages"),
            None => {}
        }
        Ok(ExitCode::Done)
    }
}

fn row(message: &Summary) -> String {
    let kind = message.refs.first(RefKind::MessageType).map_or_else(
        || message.origin.action.map_or(String::new(), |action| format!("action {action}")),
        str::to_owned,
    );
    let deliveries: Vec<String> =
        message.deliveries.iter().map(|delivery| format!("{}: {}", delivery.destination, delivery.state)).collect();
    format!(
        "{}  {:.19}Z  {:<9} {:<20} {:<10} {}{}{}{}",
        message.id,
        message.received_at.to_string(),
        message.state,
        message.channel,
        kind,
        deliveries.join(", "),
        if message.origin.reused_key { "  (reused control id)" } else { "" },
        if message.origin.stale_timestamp { "  (stale timestamp)" } else { "" },
        if message.content_removed.is_some() { "  (content removed)" } else { "" }
    )
    .trim_end()
    .to_owned()
}

impl Show {
    fn run(&self) -> Result<ExitCode, ExitCode> {
        let view: MessageView = self.client.get(&format!("/messages/{}", self.id), &[])?;
        if self.format == OutputFormat::Json {
            return Ok(print_json(&view));
        }
        print_line(&story(&view, self.content));
        Ok(ExitCode::Done)
    }
}

/// More parts than this are left to `labwire messages list`.
const MAX_PARTS_SHOWN: usize = 100;

/// A message's whole way in a few lines.
pub(super) fn story(view: &MessageView, content: bool) -> String {
    let summary = &view.summary;
    let mut lines = vec![format!("message {}  {}  channel {}", summary.id, summary.state, summary.channel)];
    let from = summary.origin.peer.as_ref().map_or(String::new(), |peer| format!(" from {peer}"));
    lines.push(format!(
        "  {}  received by {}{from}, {} bytes",
        summary.received_at, summary.origin.source, summary.bytes
    ));
    if let Some(origin) = summary.origin.reprocess_of {
        let by = summary.origin.asked_by.as_ref().map_or(String::new(), |who| format!(" by {who}"));
        let why = summary.origin.reason.as_ref().map_or(String::new(), |why| format!(": {why}"));
        lines.push(format!("  made from message {origin}{by}{why}"));
    }
    if let Some(part) = &summary.origin.part {
        lines.push(format!("  part {} of message {}", part.number, part.of));
    }
    for number in (1..=summary.parts).take(MAX_PARTS_SHOWN) {
        lines.push(format!("  part {number}: message {}", summary.id.part(number)));
    }
    if let Some(at) = summary.origin.scheduled_at {
        lines.push(format!("  made for {at}"));
    }
    if let Some(parent) = &summary.origin.parent {
        lines.push(format!("  handed over by {}/{}: message {}", parent.channel, parent.destination, parent.message));
    }
    if summary.origin.reused_key {
        lines.push("  its control id came shortly before with another content".to_owned());
    }
    if summary.origin.stale_timestamp {
        lines.push("  the time in its header lies further back than its source believes".to_owned());
    }
    let refs: Vec<String> = summary.refs.iter().map(|entry| format!("{} {}", entry.kind, entry.value)).collect();
    if !refs.is_empty() && content {
        lines.push(format!("  refs: {}", refs.join(", ")));
    }
    if let Some(reason) = &summary.reason {
        lines.push(format!("  {}: {reason}", summary.state));
    }
    if let Some(at) = summary.content_removed {
        let days = at.duration_since(summary.received_at).as_hours() / 24;
        lines.push(format!("  content removed on {}, {days} days after receipt", at.strftime("%Y-%m-%d")));
    }
    push_content(&mut lines, content.then_some(&view.body));
    if let Some(acknowledgement) = view.acknowledgement.as_ref().filter(|_| content) {
        lines.push("  acknowledged:".to_owned());
        push_content(&mut lines, Some(acknowledgement));
    }
    if let Some(at) = view.transformed_at {
        lines.push(format!("  {at}  transformed"));
    }
    for delivery in &view.deliveries_in_full {
        push_delivery(&mut lines, delivery, content);
        for child in view.children.iter().filter(|child| child.destination == delivery.summary.destination) {
            lines.push(format!("     became message {} of channel {}", child.id, child.channel));
        }
    }
    for command in &view.commands {
        let given = |before: &str, text: &str| Some(format!("{before}{text}")).filter(|_| !text.is_empty());
        let by = given(" by ", &command.command.who).unwrap_or_default();
        let why = given(": ", &command.command.why).unwrap_or_default();
        let (at, verb) = (command.command.at, verb_word(command.command.verb));
        lines.push(format!("  {at}  {verb} of {}{by}{why}", command.destination));
    }
    lines.join("\n")
}

fn push_delivery(lines: &mut Vec<String>, delivery: &DeliveryView, content: bool) {
    let summary = &delivery.summary;
    let next = summary.next_at.map_or(String::new(), |at| format!(", next try {at}"));
    lines.push(format!("  -> {}: {}, {} attempts{next}", summary.destination, summary.state, summary.attempts));
    push_content(lines, delivery.content.as_ref().filter(|_| content));
    for tried in &delivery.tries {
        let attempt = &tried.attempt;
        let error = attempt.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        let to = attempt.to.as_ref().map_or(String::new(), |to| format!(" to {to}"));
        lines.push(format!(
            "     {}  {}{to} after {} ms{error}",
            attempt.started_at, attempt.state, attempt.duration_ms
        ));
        push_content(lines, tried.response.as_ref().filter(|_| content));
    }
}

fn push_content(lines: &mut Vec<String>, content: Option<&Content>) {
    match content {
        Some(Content::Text(text)) => {
            lines.extend(
                text.split(['\r', '\n']).filter(|line| !line.is_empty()).map(|line| format!("       | {line}")),
            );
        }
        Some(Content::Base64(text)) => lines.push(format!("       | base64 {text}")),
        Some(Content::Removed(removed)) => {
            let sha256 =
                removed.sha256.as_ref().map_or_else(|| "damaged before".to_owned(), |hash| format!("sha256 {hash}"));
            lines.push(format!("       ({} bytes, removed; {sha256})", removed.bytes));
        }
        None => {}
    }
}
