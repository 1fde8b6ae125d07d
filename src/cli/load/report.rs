//! The flags that make `labwire send` a load generator, and what it prints then.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::{Load, MAX_CONNECTIONS, Outcome, Plan, Progress, Template};
use crate::cli::{ExitCode, OutputFormat, complain, print_json, print_line};

/// With any of these, `labwire send` sends copies of the messages, each under a control id of its own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load generator")]
pub(in crate::cli) struct LoadFlags {
    /// Send so many messages in all: those of the files in turn, each copy with a control id of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Send for so long, in seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Send over so many connections at a time; on each, the next message leaves when the last is acknowledged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_CONNECTIONS)))]
    connections: Option<u16>,
    /// Send so many messages a second; latency then counts from when a message was due
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("messages a second, from 0.001 to 1000000".to_owned()),
    }
}

impl LoadFlags {
    pub(in crate::cli) fn any(&self) -> bool {
        self.count.is_some() || self.seconds.is_some() || self.connections.is_some() || self.rate.is_some()
    }

    /// Sends copies of the messages, and prints what came of it.
    pub(in crate::cli) fn run(
        &self,
        address: &str,
        messages: &[(PathBuf, Bytes)],
        timeout: Duration,
        format: OutputFormat,
    ) -> ExitCode {
        let mut templates = Vec::with_capacity(messages.len());
        for (path, message) in messages {
            match Template::new(message) {
                Ok(template) => templates.push(template),
                Err(error) => {
                    complain(format!("{}: a message cannot be sent as load: {error}", path.display()));
                    return ExitCode::Usage;
                }
            }
        }
        let once = templates.len() as u64;
        let lasts = self.seconds.map(Duration::from_secs);
        let count = self.count.or(if lasts.is_none() { Some(once) } else { None });
        let plan = Plan {
            targets: vec![address.to_owned()],
            connections: usize::from(self.connections.unwrap_or(1)),
            count: count.unwrap_or(u64::MAX),
            lasts,
            rate: self.rate,
            timeout,
        };
        let mut progress = Progress::bar("", count, lasts);
        match Load::new(templates).run(&plan, &mut progress, &|_, _| {}) {
            Ok(outcome) => {
                show(&outcome, plan.connections, format);
                if outcome.all_accepted() { ExitCode::Done } else { ExitCode::No }
            }
            Err(error) => {
                complain(format!("{address}: {error}"));
                ExitCode::Unreachable
            }
        }
    }
}

fn show(outcome: &Outcome, connections: usize, format: OutputFormat) {
    let Outcome { sent, accepted, rejected, errors, latency, first_error, .. } = outcome;
    let seconds = outcome.took.as_secs_f64();
    if format == OutputFormat::Json {
        print_json(&json!({
            "sent": sent, "accepted": accepted, "rejected": rejected, "errors": errors, "first_error": first_error,
            "connections": connections, "seconds": seconds, "messages_per_second": outcome.per_second(),
            "latency_ms": latency.to_json(),
        }));
        return;
    }
    print_line(&format!("sent {sent}, accepted {accepted}, rejected {rejected}, errors {errors}"));
    if let Some(error) = first_error {
        print_line(&format!("first: {error}"));
    }
    let plural = if connections == 1 { "" } else { "s" };
    let rate = outcome.per_second();
    print_line(&format!("{rate:.1} messages/s accepted over {connections} connection{plural}, {seconds:.2} s"));
    let figures: Vec<String> = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)]
        .map(|(name, percent)| format!("{name} {:.2}", latency.millis(percent)))
        .to_vec();
    let max = latency.max().as_secs_f64() * 1e3;
    print_line(&format!("acknowledged after {}, max {max:.2} ms", figures.join(", ")));
}
