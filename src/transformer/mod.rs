//! The transformer: ordered steps that filter and change a message. Pure and synchronous: no I/O, no clock, so that
//! `labwire test` and a reprocessed message tell the truth.

mod convert;
mod copy;
mod delete;
mod field;
mod filter;
mod lookup;
mod set;
mod split;
mod template;

use std::fmt;
use std::sync::Arc;

use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::config::{self, Entry, Table};
use crate::diagnostic::did_you_mean;
use crate::expr::{Each, ExprError, Expression, Scope};
use crate::hl7;
use crate::message::{Body, Message};

use field::Target;

/// A kind of step: everything about it that others need is derived from this.
pub struct StepKind {
    /// The verb: the key in a `[[transformer]]` table.
    pub name: &'static str,
    /// One sentence for the list of kinds.
    pub summary: &'static str,
    /// A step that works, for docs and for the conformance test.
    pub example: &'static str,
    /// The JSON Schema of the verb's value.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the verb's value.
    pub parse: fn(Entry<'_>) -> Option<Box<dyn Step>>,
}

/// Every verb, in the order of the documentation.
pub const KINDS: &[StepKind] =
    &[filter::KIND, set::KIND, copy::KIND, delete::KIND, lookup::KIND, template::KIND, split::KIND, convert::KIND];

/// The table of the channel's own steps.
const CHANNEL_STEPS: &str = "transformer";

/// Keys that any step may have beside its verb.
pub const STEP_KEYS: &[&str] = &["when", "each"];

/// What a step says of the message.
#[derive(Debug)]
pub enum Verdict {
    /// Goes on to the next step.
    Continue,
    /// Goes nowhere.
    Filtered,
    /// Each of these goes on to the next step as a message of its own.
    Split(Vec<Body>),
}

/// A place in a message that a step names.
#[derive(Debug)]
pub struct Place<'s>(&'s Target);

/// One verb at work.
pub trait Step: fmt::Debug + Send + Sync {
    /// The places that the step names, for checks that need the step's other keys.
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    /// Whether it makes several messages of one.
    fn splits(&self) -> bool {
        false
    }

    /// Applies the step to the message, at one of its segments when the step has `each`.
    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError>;
}

/// Why a step failed for a message. Names places, never content.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An expression.
    #[error(transparent)]
    Expression(#[from] ExprError),
    /// A field that cannot be set, copied or deleted.
    #[error("{path}: {error}")]
    Edit {
        /// The field.
        path: String,
        /// What is in the way.
        error: hl7::EditError,
    },
    /// A field whose bytes do not belong to the message's character set.
    #[error("{path}: {error}")]
    Charset {
        /// The field.
        path: String,
        /// What is wrong.
        error: hl7::CharsetError,
    },
    /// An HL7 path in a message that is not HL7, or a JSON pointer in one that is not JSON.
    #[error("{path}: the message is {found} at this step")]
    Format {
        /// The path or pointer.
        path: String,
        /// What the message is.
        found: &'static str,
    },
    /// A JSON pointer that leads nowhere.
    #[error("{path}: {problem}")]
    Pointer {
        /// The pointer.
        path: String,
        /// What is in the way.
        problem: PointerProblem,
    },
    /// A code that the table does not hold.
    #[error("{path}: the table does not hold this code (`otherwise` says what to do then)")]
    NotInTable {
        /// The field.
        path: String,
    },
    /// A message that cannot be made another format.
    #[error("it cannot be converted: {0}")]
    Convert(String),
    /// A message that cannot be taken apart as the step says.
    #[error("it cannot be split: {0}")]
    Split(String),
    /// What a template wrote cannot be read.
    #[error("{place}: what the template wrote is not {format}: {error}")]
    Written {
        /// The template.
        place: String,
        /// The format that its name promises.
        format: &'static str,
        /// What is wrong.
        error: String,
    },
}

/// Why nothing can be written at a JSON pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerProblem {
    /// No such element.
    #[error("the array has {length} elements, counted from 0; `-` appends one")]
    OutOfRange {
        /// How many there are.
        length: usize,
    },
    /// A name where an index is due.
    #[error("an array's elements are numbers from 0, or `-` to append one")]
    NoIndex,
    /// Text, a number or a boolean on the way.
    #[error("what it leads through is neither an object nor an array, and is left as it is")]
    NoParent,
}

/// The steps of a channel or of a destination.
#[derive(Debug, Default)]
pub struct Transformer {
    steps: Vec<Placed>,
}

#[derive(Debug)]
struct Placed {
    step: Box<dyn Step>,
    when: Option<Expression>,
    each: Option<Target>,
    /// `step 2 (channels/a.toml:12)`.
    place: String,
}

/// How a message came out.
#[derive(Debug)]
pub enum Outcome {
    /// Through all the steps.
    Through,
    /// Held back by this step.
    Filtered {
        /// Which, as `step 2 (channels/a.toml:12)`.
        place: String,
    },
    /// Taken apart by this step: each of the parts goes on behind it.
    Split {
        /// Which, as `step 2 (channels/a.toml:12)`.
        place: String,
        /// The parts, in order.
        parts: Vec<Body>,
    },
    /// A step failed.
    Failed {
        /// Which.
        place: String,
        /// Why.
        error: StepError,
    },
}

impl Transformer {
    /// Reads `[[transformer]]` tables; `owner` is the table's name in diagnostics.
    pub fn parse(entry: Entry<'_>, owner: &str) -> Transformer {
        let toml::de::DeValue::Array(items) = entry.value.get_ref() else {
            let help = Some(format!("write [[{owner}]], once for each step"));
            config::report(entry.value.span(), format!("`{owner}` must be a list of tables"), "", help);
            return Transformer::default();
        };
        let mut steps = Vec::new();
        for (number, item) in (1..).zip(items.iter()) {
            match item.get_ref() {
                toml::de::DeValue::Table(entries) => {
                    let name = format!("[[{owner}]] step {number}");
                    let step = parse_step(Table::new(entries.clone(), item.span(), name), number);
                    if step.as_ref().is_some_and(|step| step.step.splits()) && owner != CHANNEL_STEPS {
                        let help = Some(format!("write it among the channel's own steps, [[{CHANNEL_STEPS}]]"));
                        let message = "`split` makes several messages for all destinations";
                        config::report(item.span(), message, "a destination sends one for each message", help);
                    }
                    steps.extend(step);
                }
                _ => config::report(item.span(), "a step is a table", "", None),
            }
        }
        Transformer { steps }
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Runs the steps in order. After a failure the message is of no use: a step may have done half of its work.
    pub fn run(&self, message: &mut Message) -> Outcome {
        self.run_from(0, message)
    }

    /// Runs the steps behind so many of those that split. None where there are not so many.
    pub fn run_behind(&self, splits: u16, message: &mut Message) -> Option<Outcome> {
        let from = match usize::from(splits).checked_sub(1) {
            None => 0,
            Some(before) => {
                let mut splitting = self.steps.iter().enumerate().filter(|(_, placed)| placed.step.splits());
                splitting.nth(before)?.0 + 1
            }
        };
        Some(self.run_from(from, message))
    }

    fn run_from(&self, from: usize, message: &mut Message) -> Outcome {
        for placed in &self.steps[from..] {
            match placed.run(message) {
                Ok(Verdict::Continue) => {}
                Ok(Verdict::Split(parts)) => return Outcome::Split { place: placed.place.clone(), parts },
                Ok(Verdict::Filtered) => return Outcome::Filtered { place: placed.place.clone() },
                Err(error) => return Outcome::Failed { place: placed.place.clone(), error },
            }
        }
        Outcome::Through
    }
}

fn parse_step(mut table: Table<'_>, number: usize) -> Option<Placed> {
    let place = format!("step {number} ({})", config::place_name(&table.span()));
    let when = table.take("when").and_then(Entry::read::<Expression>);
    let each = table.take("each").and_then(|entry| Target::parse_each(&entry));
    let verbs: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let mut found = None;
    for (key, span) in table.keys() {
        match KINDS.iter().find(|kind| kind.name == key) {
            Some(kind) if found.is_none() => found = Some(kind),
            Some(kind) => {
                let help = "a step has one verb: write a further [[transformer]] table for the other".to_owned();
                config::report(
                    span,
                    format!("a step cannot both `{}` and `{}`", found?.name, kind.name),
                    "",
                    Some(help),
                );
                return None;
            }
            None => {
                let known = verbs.iter().chain(STEP_KEYS).copied();
                let label = did_you_mean(&key, known).map_or(String::new(), |near| format!("did you mean `{near}`?"));
                let help = format!("a step is one of {}, with `when` and `each` if need be", verbs.join(", "));
                config::report(span, format!("no step is called `{key}`"), label, Some(help));
                return None;
            }
        }
    }
    let Some(kind) = found else {
        let help = format!("a step is one of {}", verbs.join(", "));
        config::report(table.span(), format!("{} has no verb", table.name()), "", Some(help));
        return None;
    };
    let entry = table.take(kind.name)?;
    let span = entry.value.span();
    let step = (kind.parse)(entry)?;
    for Place(target) in step.places() {
        if target.has_loose_star(each.as_ref()) {
            let help =
                "`*` is the element that the step's `each` is at: each = \"/list\" and \"/list/*/name\"".to_owned();
            config::report(span.clone(), format!("the `*` of `{target}` stands for no element"), "", Some(help));
        }
    }
    if each.is_some() && step.splits() {
        let message = "`split` works on the whole message: it cannot have `each`";
        config::report(span, message, "", None);
    }
    Some(Placed { step, when, each, place })
}

impl Placed {
    fn run(&self, message: &mut Message) -> Result<Verdict, StepError> {
        let Some(target) = &self.each else { return self.apply(message, None) };
        let (name, indices) = match target {
            Target::Hl7(path) => {
                let count = hl7_body(message, target)?.count(path.segment());
                (path.segment().to_owned(), 1..=u32::try_from(count).unwrap_or(u32::MAX))
            }
            Target::Pointer(pointer) => {
                let length = json_body(message, target)?.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
                match u32::try_from(length).unwrap_or(u32::MAX).checked_sub(1) {
                    Some(last) => (pointer.clone(), 0..=last),
                    None => return Ok(Verdict::Continue),
                }
            }
        };
        // From the last to the first, so that a segment deleted on the way does not shift the ones still to come.
        for index in indices.rev() {
            let each = Each { segment: name.clone(), index };
            match self.apply(message, Some(&each))? {
                Verdict::Continue => {}
                other => return Ok(other),
            }
        }
        Ok(Verdict::Continue)
    }

    fn apply(&self, message: &mut Message, each: Option<&Each>) -> Result<Verdict, StepError> {
        if let Some(when) = &self.when
            && !when.is_true(&scope(message, each))?
        {
            return Ok(Verdict::Continue);
        }
        self.step.apply(message, each)
    }
}

fn scope(message: &Message, each: Option<&Each>) -> Scope {
    match each {
        Some(each) => Scope::at(message, each.clone()),
        None => Scope::new(message),
    }
}

fn hl7_body<'m>(message: &'m Message, target: &Target) -> Result<&'m hl7::Message, StepError> {
    match &*message.body {
        Body::Hl7(body) => Ok(body),
        other => Err(StepError::Format { path: target.to_string(), found: other.format().name() }),
    }
}

fn hl7_body_mut<'m>(message: &'m mut Message, target: &Target) -> Result<&'m mut hl7::Message, StepError> {
    match Arc::make_mut(&mut message.body) {
        Body::Hl7(body) => Ok(body),
        other => Err(StepError::Format { path: target.to_string(), found: other.format().name() }),
    }
}

fn json_body<'m>(message: &'m Message, target: &Target) -> Result<&'m Value, StepError> {
    match &*message.body {
        Body::Json(body) => Ok(body),
        other => Err(StepError::Format { path: target.to_string(), found: other.format().name() }),
    }
}

fn json_body_mut<'m>(message: &'m mut Message, target: &Target) -> Result<&'m mut Value, StepError> {
    match Arc::make_mut(&mut message.body) {
        Body::Json(body) => Ok(body),
        other => Err(StepError::Format { path: target.to_string(), found: other.format().name() }),
    }
}
