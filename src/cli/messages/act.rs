//! `labwire messages retry`, `cancel`, `resend` and `reprocess`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Filter;
use crate::cli::client::Client;
use crate::cli::{ExitCode, OutputFormat, complain, confirmed, print_json, print_line, somebody_is_there};
use crate::server::Outcomes;

#[derive(Debug, Args)]
struct Which {
    /// Ids of the messages; or use the filters
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Why: kept in the journal
    #[arg(long, default_value = "")]
    why: String,
    /// Say how many it would be, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before doing it to all that a filter finds
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    client: Client,
    /// How to print
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Act {
    #[command(flatten)]
    which: Which,
    /// Only deliveries to this destination
    #[arg(long)]
    destination: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Reprocess {
    #[command(flatten)]
    which: Which,
    /// Run the content of this file instead of the message's own; for one message
    #[arg(long)]
    body: Option<PathBuf>,
}

impl Act {
    pub(super) fn run(&self, verb: &str) -> Result<ExitCode, ExitCode> {
        let mut request = self.which.request()?;
        if let Some(destination) = &self.destination {
            request["destination"] = json!(destination);
        }
        self.which.carry_out(verb, request)
    }
}

impl Reprocess {
    pub(super) fn run(&self) -> Result<ExitCode, ExitCode> {
        let mut request = self.which.request()?;
        if let Some(path) = &self.body {
            let body = std::fs::read_to_string(path).map_err(|error| {
                complain(format!("{}: {error}", path.display()));
                ExitCode::Usage
            })?;
            request["body"] = json!(body);
        }
        self.which.carry_out("reprocess", request)
    }
}

impl Which {
    fn request(&self) -> Result<Value, ExitCode> {
        let filter = self.filter.pairs();
        if self.ids.is_empty() == filter.is_empty() {
            complain("say which messages: either their ids or filters such as --state dead");
            return Err(ExitCode::Usage);
        }
        let mut request = json!({ "who": user(), "why": self.why });
        if self.ids.is_empty() {
            request["filter"] = filter
                .into_iter()
                .map(|(key, value)| (key.to_owned(), Value::from(value)))
                .collect::<serde_json::Map<_, _>>()
                .into();
        } else {
            request["ids"] = json!(self.ids);
        }
        Ok(request)
    }

    fn carry_out(&self, verb: &str, mut request: Value) -> Result<ExitCode, ExitCode> {
        let path = format!("/messages/{verb}");
        let asks = self.ids.is_empty() && !self.yes && somebody_is_there();
        if self.dry_run || asks {
            request["dry_run"] = json!(true);
            let would: Outcomes = self.client.post(&path, &request)?;
            if self.dry_run || would.done.is_empty() {
                return Ok(report(verb, &would, self.format));
            }
            if !confirmed(&format!("{verb} {}", count(&would))) {
                complain("nothing was done");
                return Ok(ExitCode::No);
            }
            request["dry_run"] = json!(false);
        }
        let outcomes: Outcomes = self.client.post(&path, &request)?;
        Ok(report(verb, &outcomes, self.format))
    }
}

/// Who asks, as far as this machine knows.
fn user() -> String {
    std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned())
}

/// As in `3 deliveries of 2 messages`.
fn count(outcomes: &Outcomes) -> String {
    let numbered = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let messages = numbered(outcomes.done.len(), "message", "messages");
    let deliveries: Option<usize> = outcomes.done.iter().map(|done| done.deliveries).sum();
    match deliveries.filter(|count| *count > 0) {
        Some(deliveries) => format!("{} of {messages}", numbered(deliveries, "delivery", "deliveries")),
        None => messages,
    }
}

fn report(verb: &str, outcomes: &Outcomes, format: OutputFormat) -> ExitCode {
    if format == OutputFormat::Json {
        print_json(outcomes);
    } else {
        report_in_words(verb, outcomes);
    }
    if outcomes.refused.is_empty() { ExitCode::Done } else { ExitCode::No }
}

fn report_in_words(verb: &str, outcomes: &Outcomes) {
    if outcomes.dry_run {
        print_line(&format!("would {verb} {}", count(outcomes)));
    }
    for done in outcomes.done.iter().filter(|_| !outcomes.dry_run) {
        match (done.new, done.deliveries) {
            (Some(new), _) => print_line(&format!("{}  now runs as {new}", done.id)),
            (None, Some(count)) => print_line(&format!("{}  {count} deliveries", done.id)),
            (None, None) => print_line(&done.id.to_string()),
        }
    }
    for refused in &outcomes.refused {
        print_line(&format!("{}  refused: {}", refused.id, refused.reason));
    }
    if outcomes.done.is_empty() && outcomes.refused.is_empty() && !outcomes.dry_run {
        print_line("no messages");
    }
}
