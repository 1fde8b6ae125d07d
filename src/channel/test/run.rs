//! Runs one test.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::compare;
use super::{Expected, TestSpec};
use crate::action::event;
use crate::channel::ChannelSpec;
use crate::channel::worker::{Processed, process};
use crate::hl7;
use crate::journal::{NewDelivery, Outgoing, Transformed};
use crate::message::{Format, Message, MessageId, Meta, Origin};
use crate::source::{AckWhen, End, EventSource, Fate, FormatOption, Judged, judge};

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
    /// What was not as expected, beside the expected files.
    pub failures: Vec<Failure>,
    /// The expected files.
    pub files: Vec<Compared>,
}

/// An expected file, compared with what was sent.
#[derive(Debug)]
pub struct Compared {
    /// The file.
    pub path: PathBuf,
    /// What was sent: `--bless` writes it where it differs.
    pub sent: Bytes,
    /// The differences.
    pub failures: Vec<Failure>,
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
    let mut result =
        TestResult { channel: spec.name.to_string(), name: test.name.clone(), failures: Vec::new(), files: Vec::new() };
    match std::fs::read(&test.input.path) {
        Ok(input) => judge_test(spec, test, &Bytes::from(input), &mut result),
        Err(error) => result.fail("input", format!("the file {}", test.input.written), error.to_string()),
    }
    result
}

impl TestResult {
    /// Whether everything was as expected.
    pub fn passed(&self) -> bool {
        self.all_failures().next().is_none()
    }

    /// Everything that was not as expected.
    pub fn all_failures(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter().chain(self.files.iter().flat_map(|file| &file.failures))
    }

    fn fail(&mut self, place: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) {
        self.failures.push(Failure { place: place.into(), expected: expected.into(), found: found.into() });
    }
}

fn judge_test(spec: &ChannelSpec, test: &TestSpec, input: &Bytes, result: &mut TestResult) {
    let meta = Meta {
        id: TEST_ID.parse::<MessageId>().expect("a valid id"),
        channel: spec.name.to_string(),
        received_at: TEST_TIME.parse::<Timestamp>().expect("a valid time"),
        origin: Origin { source: spec.source_kind.to_owned(), file_name: file_name(spec, test), ..Origin::default() },
    };
    let mut judged = None;
    let read = if spec.source_kind == EventSource::NAME {
        read_event(spec, meta.clone(), input, result)
    } else if let Some(format) = format_of(spec, test, input) {
        read_as(&format, meta.clone(), input)
    } else {
        read_hl7(meta.clone(), judged.insert(look(spec, input)))
    };
    // What is refused at the door is judged like a step that failed: the test's other words must hold of it too.
    let errored =
        |place: &str, error: String| Processed::ended(Transformed::Errored { place: place.to_owned(), error });
    let processed = match read {
        Ok(message) => catch_unwind(AssertUnwindSafe(|| process(spec, message)))
            .unwrap_or_else(|_| errored("transformer", "it panicked, which is a bug in Labwire".to_owned())),
        Err(reason) => errored("the input", reason),
    };
    if let Some(expected) = &test.ack {
        let found = match &judged {
            Some(judged) => acknowledgement(spec, judged, &meta, &outcome_of(&processed)),
            None => "no acknowledgement by HL7: leave `ack` out".to_owned(),
        };
        if *expected != found {
            result.fail("ack", expected.clone(), found);
        }
    }
    judge_outcome(test, &outcome_of(&processed), result);
    let of_parts = processed.parts.iter().flat_map(|part| &part.deliveries);
    let deliveries: Vec<&NewDelivery> = processed.deliveries.iter().chain(of_parts).collect();
    for (destination, expected) in &test.sent {
        judge_sent(destination, expected, &deliveries, result);
    }
}

/// What became of a message; of one that was split, what became of its parts: an error of any of them, and filtered where all
/// were.
fn outcome_of(processed: &Processed) -> Transformed {
    let parts = || processed.parts.iter().map(|part| &part.outcome);
    let errored = parts().find(|outcome| matches!(outcome, Transformed::Errored { .. }));
    let others: Vec<&Transformed> = parts().filter(|outcome| !matches!(outcome, Transformed::Split { .. })).collect();
    let all_filtered = others.iter().all(|outcome| matches!(outcome, Transformed::Filtered { .. }));
    let outcome = errored.or(others.first().copied().filter(|_| all_filtered));
    outcome.unwrap_or(&processed.outcome).clone()
}

/// The name of the file that the test's input would have come in.
fn file_name(spec: &ChannelSpec, test: &TestSpec) -> Option<String> {
    let name = test.input.path.file_name().filter(|_| matches!(spec.source_kind, "file" | "sftp" | "sftp_server"))?;
    Some(name.to_string_lossy().into_owned())
}

/// How a source that judges nothing reads the input: as it says, or, where it takes in what other channels hand over, by the file's
/// ending. None for one that answers by HL7.
fn format_of(spec: &ChannelSpec, test: &TestSpec, input: &Bytes) -> Option<FormatOption> {
    let by_ending = || match test.input.path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Format::Json,
        _ if input.starts_with(b"MSH") => Format::Hl7,
        _ => Format::Text,
    };
    let own = spec.source.format().cloned();
    own.or_else(|| spec.source.takes_from().map(|_| FormatOption::of(by_ending())))
}

fn judge_outcome(test: &TestSpec, outcome: &Transformed, result: &mut TestResult) {
    match (outcome, &test.error) {
        (Transformed::Errored { place, error }, words) => {
            let found = format!("an error at {place}: {error}");
            match words {
                Some(words) if found.contains(words.as_str()) => {}
                Some(words) => result.fail("error", format!("an error with {words:?}"), found),
                None => result.fail("error", "no error", found),
            }
        }
        (_, Some(_)) => result.fail("error", "an error", "none"),
        (_, None) => {}
    }
    // A message that silently goes nowhere is what a test is there to find: it must say that this is right.
    let filtered = matches!(outcome, Transformed::Filtered { .. });
    if test.filtered != filtered {
        let words = |filtered: bool| if filtered { "filtered" } else { "not filtered" };
        result.fail("filtered", words(!filtered), words(filtered));
    }
}

fn look(spec: &ChannelSpec, input: &Bytes) -> Judged {
    spec.source.judge(input).unwrap_or_else(|| judge(input, &hl7::Limits::default()))
}

/// The code that the sender gets. Where the source waits for the delivery, the receiver is taken to be content: a test has none.
fn acknowledgement(spec: &ChannelSpec, judged: &Judged, meta: &Meta, outcome: &Transformed) -> String {
    let end = match outcome {
        Transformed::Filtered { .. } => End::Filtered,
        Transformed::Errored { .. } => End::Errored,
        Transformed::Queued | Transformed::Split { .. } => End::Sent,
    };
    let ack = if spec.source.acknowledges() == AckWhen::Received || judged.rejection().is_some() {
        judged.acknowledgement(meta.id, meta.received_at)
    } else {
        let (at, received_at) = (meta.received_at, meta.received_at);
        judged.outcome(&Fate { id: meta.id, end, at, received_at, response: None, answered: None }, meta.id)
    };
    ack.map_or("none".to_owned(), |ack| codes_of(&ack))
}

fn read_hl7(meta: Meta, judged: &Judged) -> Result<Message, String> {
    match (judged.rejection(), judged.body()) {
        (None, Some(body)) => Ok(Message { meta, body: body.clone(), event: Arc::default() }),
        (reason, _) => Err(reason.unwrap_or("it cannot be read").to_owned()),
    }
}

/// The code of an acknowledgement; of a batch of them each code that occurs.
fn codes_of(ack: &[u8]) -> String {
    let single = [ack];
    let batch = hl7::batch::split(ack).map(|batch| batch.messages).unwrap_or_default();
    let each = if batch.is_empty() { &single[..] } else { &batch };
    let replies = each.iter().filter_map(|ack| hl7::AckReply::parse(ack).ok());
    let mut codes: Vec<String> = replies.map(|reply| reply.code.to_string()).collect();
    codes.dedup();
    if codes.is_empty() { "none".to_owned() } else { codes.join(" ") }
}

/// Reads what comes in without HL7's acknowledgements, as its source's `format` says.
fn read_as(format: &FormatOption, mut meta: Meta, input: &Bytes) -> Result<Message, String> {
    format.note(&mut meta.origin);
    let read = format.read(input);
    match (read.rejected, read.body) {
        (None, Some(body)) => Ok(Message { meta, body, event: Arc::default() }),
        (reason, _) => Err(reason.unwrap_or_default()),
    }
}

fn read_event(spec: &ChannelSpec, mut meta: Meta, input: &Bytes, result: &mut TestResult) -> Result<Message, String> {
    let (_, envelope) = event::read(input).map_err(|problems| {
        let each: Vec<String> =
            problems.iter().map(|problem| format!("{} {}", problem.pointer, problem.message)).collect();
        format!("the API refuses this event: {}", each.join("; "))
    })?;
    let is_bound = spec.action == Some(envelope.action) && spec.lab.as_ref().is_none_or(|lab| *lab == envelope.lab);
    if !is_bound {
        let bound = format!(
            "an event with action {}{}",
            spec.action.unwrap_or(0),
            spec.lab.as_deref().map_or(String::new(), |lab| format!(" of lab `{lab}`"))
        );
        result.fail("input", bound, format!("action {}, lab `{}`", envelope.action, envelope.lab));
    }
    meta.origin.action = Some(envelope.action);
    meta.origin.lab = Some(envelope.lab);
    meta.origin.event_id = envelope.id;
    Message::read(meta, Format::Json, input, &hl7::Limits::default()).map_err(|error| error.to_string())
}

fn judge_sent(destination: &str, expected: &[Expected], deliveries: &[&NewDelivery], result: &mut TestResult) {
    let sent: Vec<Bytes> = deliveries
        .iter()
        .filter(|delivery| delivery.destination == destination)
        .filter_map(|delivery| delivery.outgoing.as_ref().map(Outgoing::main))
        .collect();
    let place = format!("sent.{destination}");
    if sent.len() != expected.len() {
        result.fail(place, messages(expected.len()), messages(sent.len()));
        return;
    }
    for (expected, sent) in expected.iter().zip(sent) {
        match expected {
            Expected::File(file) => {
                let content = std::fs::read(&file.path).ok();
                let failures = if content.as_deref() == Some(&*sent) {
                    Vec::new()
                } else {
                    compare::contents(&place, &Arc::from(content.unwrap_or_default()), &sent)
                };
                result.files.push(Compared { path: file.path.clone(), sent: sent.clone(), failures });
            }
            Expected::Fields(fields) => result.failures.extend(compare::fields(&place, fields, &sent)),
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
