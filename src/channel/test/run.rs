//! Runs one test.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::compare;
use super::{Expected, TestSpec};
use crate::channel::ChannelSpec;
use crate::channel::worker::process;
use crate::hl7;
use crate::journal::{NewDelivery, Transformed};
use crate::message::{Format, Message, MessageId, Meta, Origin};
use crate::source::{EventSource, judge};

/// The id that the message of every test has.
const TEST_ID: &str = "01KF0K8Y20TEST000000000001";
/// When the message of every test was received.
const TEST_TIME: &str = "2026-01-15T10:30:00Z";

/// How a test came out.
#[derive(Debug)]
pub struct TestResult {
    /// The channel.
    pub channel: String,
    /// The test.
    pub name: String,
    /// What was not as expected; empty when all was.
    pub failures: Vec<Failure>,
    /// Expected files that differ from what was sent, with what was sent: `--bless` writes them.
    pub to_bless: Vec<(std::path::PathBuf, Bytes)>,
}

/// Something that was not as expected. Holds content: tests run on made-up messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where: `sent.mirth PID-5.1`, `ack`.
    pub place: String,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.place, self.expected, self.found)
    }
}

/// Runs a test of a channel. Fails only where a file cannot be read.
pub fn run(spec: &ChannelSpec, test: &TestSpec) -> TestResult {
    let mut result = TestResult {
        channel: spec.name.to_string(),
        name: test.name.clone(),
        failures: Vec::new(),
        to_bless: Vec::new(),
    };
    match std::fs::read(&test.input.path) {
        Ok(input) => judge_test(spec, test, Bytes::from(input), &mut result),
        Err(error) => result.fail("input", format!("the file {}", test.input.written), error.to_string()),
    }
    result
}

impl TestResult {
    /// Whether everything was as expected.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn fail(&mut self, place: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) {
        self.failures.push(Failure { place: place.into(), expected: expected.into(), found: found.into() });
    }
}

fn judge_test(spec: &ChannelSpec, test: &TestSpec, input: Bytes, result: &mut TestResult) {
    let meta = Meta {
        id: TEST_ID.parse::<MessageId>().expect("a valid id"),
        channel: spec.name.to_string(),
        received_at: TEST_TIME.parse::<Timestamp>().expect("a valid time"),
        origin: Origin { source: spec.source_kind.to_owned(), ..Origin::default() },
    };
    let read = if spec.source_kind == EventSource::NAME {
        if let Some(ack) = &test.ack {
            result.fail("ack", ack.clone(), "events are not acknowledged by HL7: leave `ack` out");
        }
        read_event(spec, meta, &input, result)
    } else {
        read_hl7(test, meta, &input, result)
    };
    let Some(message) = read else { return };
    let processed = process(spec, message);
    match &processed.outcome {
        Transformed::Errored { place, error } => {
            let found = format!("an error at {place}: {error}");
            match &test.error {
                Some(words) if found.contains(words.as_str()) => {}
                Some(words) => result.fail("error", format!("an error with {words:?}"), found),
                None => result.fail("error", "no error", found),
            }
        }
        _ if test.error.is_some() => result.fail("error", "an error", "none"),
        _ => {}
    }
    let filtered = matches!(processed.outcome, Transformed::Filtered { .. });
    if let Some(expected) = test.filtered
        && expected != filtered
    {
        let words = |filtered: bool| if filtered { "filtered" } else { "not filtered" };
        result.fail("filtered", words(expected), words(filtered));
    } else if filtered && test.filtered.is_none() && test.sent.values().any(|expected| !expected.is_empty()) {
        result.fail("filtered", "not filtered", "filtered");
    }
    for (destination, expected) in &test.sent {
        judge_sent(destination, expected, &processed.deliveries, result);
    }
}

fn read_hl7(test: &TestSpec, meta: Meta, input: &Bytes, result: &mut TestResult) -> Option<Message> {
    let judged = judge(input, &hl7::Limits::default());
    let ack = judged.acknowledgement(meta.id, meta.received_at);
    let found = ack
        .and_then(|bytes| hl7::AckReply::parse(&bytes).ok())
        .map_or("none".to_owned(), |reply| reply.code.to_string());
    if let Some(expected) = &test.ack
        && *expected != found
    {
        result.fail("ack", expected.clone(), found);
    }
    match judged.rejection() {
        Some(reason) => {
            match &test.error {
                Some(words) if reason.contains(words.as_str()) => {}
                _ => result.fail("input", "a message that can be read", reason.to_owned()),
            }
            None
        }
        None => Message::read(meta, Format::Hl7, input, &hl7::Limits::default()).ok(),
    }
}

fn read_event(spec: &ChannelSpec, mut meta: Meta, input: &Bytes, result: &mut TestResult) -> Option<Message> {
    let event: serde_json::Value = match serde_json::from_slice(input) {
        Ok(event) => event,
        Err(error) => {
            result.fail("input", "JSON", error.to_string());
            return None;
        }
    };
    let action = event.get("action").and_then(serde_json::Value::as_u64).and_then(|id| u16::try_from(id).ok());
    let lab = event.get("lab").and_then(serde_json::Value::as_str).unwrap_or_default();
    if !action.is_some_and(|action| spec.fires_on(action, lab)) && spec.enabled {
        let bound = format!(
            "an event with action {}{}",
            spec.action.unwrap_or(0),
            spec.lab.as_deref().map_or(String::new(), |lab| format!(" of lab `{lab}`"))
        );
        result.fail("input", bound, format!("action {}, lab `{lab}`", action.unwrap_or(0)));
        return None;
    }
    meta.origin.action = action;
    meta.origin.lab = Some(lab.to_owned());
    meta.origin.event_id = event.get("id").and_then(serde_json::Value::as_str).map(str::to_owned);
    Message::read(meta, Format::Json, input, &hl7::Limits::default()).ok()
}

fn judge_sent(destination: &str, expected: &[Expected], deliveries: &[NewDelivery], result: &mut TestResult) {
    let sent: Vec<&Bytes> = deliveries
        .iter()
        .filter(|delivery| delivery.destination == destination)
        .filter_map(|delivery| delivery.outgoing.as_ref().map(|outgoing| &outgoing.content))
        .collect();
    let place = format!("sent.{destination}");
    if sent.len() != expected.len() {
        result.fail(place, messages(expected.len()), messages(sent.len()));
        return;
    }
    for (expected, sent) in expected.iter().zip(sent) {
        match expected {
            Expected::File(file) => {
                let content = std::fs::read(&file.path).unwrap_or_default();
                if content != **sent {
                    result.failures.extend(compare::contents(&place, &Arc::from(content), sent));
                    result.to_bless.push((file.path.clone(), sent.clone()));
                }
            }
            Expected::Fields(fields) => result.failures.extend(compare::fields(&place, fields, sent)),
        }
    }
}

/// Compares what arrived somewhere with what a test expects there. What depends on the receipt (MSH-7, MSH-10) may differ: a
/// test's message has a time and an id of its own.
pub fn arrived(test: &TestSpec, destination: &str, content: &Bytes) -> Vec<Failure> {
    let place = format!("sent.{destination}");
    match test.sent.get(destination).map(Vec::as_slice) {
        None => Vec::new(),
        Some([Expected::Fields(fields)]) => compare::fields(&place, fields, content),
        Some([Expected::File(file)]) => {
            let expected = std::fs::read(&file.path).unwrap_or_default();
            let (expected, content) = (without_receipt(&Bytes::from(expected)), without_receipt(content));
            if expected == content { Vec::new() } else { compare::contents(&place, &Arc::from(&*expected), &content) }
        }
        Some(several) => {
            let (expected, found) = (messages(several.len()), messages(1));
            vec![Failure { place, expected, found }]
        }
    }
}

fn without_receipt(content: &Bytes) -> Bytes {
    let Ok(mut message) = hl7::Message::parse(content.clone(), &hl7::Limits::default()) else { return content.clone() };
    for path in ["MSH-7", "MSH-10"] {
        if let Ok(path) = path.parse::<hl7::Path>() {
            // A message without the field has nothing to blank.
            let _ = message.set(&path, "");
        }
    }
    message.to_bytes()
}

fn messages(count: usize) -> String {
    match count {
        0 => "nothing sent".to_owned(),
        1 => "one message".to_owned(),
        many => format!("{many} messages"),
    }
}
