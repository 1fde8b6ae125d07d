//! The expression language: Jinja by minijinja, one for `filter`, `when`, `set`, `file_name` and templates.
//!
//! Expressions are compiled when the channel file is read. What can be known then is an error then: syntax, unknown variables,
//! filters and tests, HL7 paths that cannot be. What cannot is an error of the message, with the place in the channel file. No
//! error text holds message content: details that come from minijinja are shown only where they name code, not values.
//!
//! Variables: `msg` (HL7 paths or JSON pointers), `meta`, `event`, within `each` also `each.index`. `now()` and `ulid()` are
//! those of the message's receipt, so that the same input gives the same output.

mod answer;
mod arguments;
mod check;
mod cost;
mod escaping;
mod filters;
mod path;
mod scope;
mod view;
mod web;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use minijinja::{Environment, ErrorKind, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config;
use crate::diagnostic::SourceFile;
use crate::hl7;
use crate::lookup_table::LookupTable;

pub use answer::{AnswerExpression, AnswerHeader, AnswerTemplate, AnswerView};
pub(crate) use check::line_span;
pub use escaping::{ENDINGS, Escaping};
pub(crate) use escaping::{hl7_line_breaks, hl7_segments};
pub use path::{FileNameTemplate, PathTemplate};
pub use scope::{Each, Scope};
pub use web::{HeaderTemplate, UrlTemplate};

/// Upper bound of minijinja instructions for one evaluation: a loop over a large message fits, an endless one ends.
const FUEL: u64 = 20_000_000;

/// How deep macros may call each other: frames are large, and worker threads have stacks of 2 MiB.
const RECURSION_MAX: usize = 100;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| environment(&Escaping::None));

/// The same for HL7 templates, whose line breaks matter.
static HL7_ENVIRONMENT: LazyLock<Environment<'static>> =
    LazyLock::new(|| environment(&Escaping::Hl7(hl7::Separators::default())));

fn environment(escaping: &Escaping) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(escaping::of_template);
    environment.set_formatter(escaping::format);
    environment.set_syntax(check::syntax(escaping));
    filters::register(&mut environment);
    environment
}

type Tables = Arc<BTreeMap<String, LookupTable>>;

/// A boolean or a value: `filter`, `when`.
#[derive(Clone)]
pub struct Expression {
    compiled: Option<Arc<minijinja::Expression<'static, 'static>>>,
    text: &'static str,
    place: String,
    tables: Tables,
}

/// Text with expressions in it: `set`, `file_name`, template files.
#[derive(Clone)]
pub struct Template {
    compiled: Option<Arc<minijinja::Template<'static, 'static>>>,
    text: &'static str,
    place: String,
    tables: Tables,
}

/// An expression that could not be evaluated for a message. Holds no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ExprError {
    /// Where, as `channels/a.toml:12`.
    pub place: String,
    /// What happened.
    pub message: String,
}

impl Expression {
    /// Compiles; mistakes are reported at their place within `span` of the file that is being read.
    pub fn compile(text: &str, span: &Range<usize>) -> Expression {
        Expression::compile_at(text, span, &check::At::Value { span, text })
    }

    fn compile_at(text: &str, span: &Range<usize>, at: &check::At<'_>) -> Expression {
        let place = config::place_name(span);
        let mut tables = BTreeMap::new();
        let clean = check::expression(text, at, &mut tables);
        let text = keep(text);
        let compiled = clean.then(|| ENVIRONMENT.compile_expression(text).ok().map(Arc::new)).flatten();
        Expression { compiled, text, place, tables: Arc::new(tables) }
    }

    /// Evaluates.
    pub fn eval(&self, scope: &Scope) -> Result<Value, ExprError> {
        let compiled = self.compiled.as_ref().ok_or_else(|| not_loaded(&self.place))?;
        compiled.eval(scope.with_tables(&self.tables)).map_err(|error| message_error(&self.place, &error))
    }

    /// Evaluates to true or false, by Jinja's truth: empty text, zero and nothing are false.
    pub fn is_true(&self, scope: &Scope) -> Result<bool, ExprError> {
        self.eval(scope).map(|value| value.is_true())
    }

    /// Where it stands, as `channels/a.toml:12`.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl Template {
    /// Compiles a value of a channel file.
    pub fn compile(text: &str, span: &Range<usize>, escaping: Escaping) -> Template {
        let place = config::place_name(span);
        Template::compile_at(text, place, escaping, &check::At::Value { span, text })
    }

    /// Compiles a template file that the channel file names; its own mistakes are shown in its own lines.
    pub fn compile_file(file: &Arc<SourceFile>, escaping: Escaping) -> Template {
        Template::compile_at(&file.text, file.name.clone(), escaping, &check::At::File(file))
    }

    fn compile_at(text: &str, place: String, escaping: Escaping, at: &check::At<'_>) -> Template {
        let mut tables = BTreeMap::new();
        let clean = check::template(text, &escaping, at, &mut tables);
        let environment = if matches!(escaping, Escaping::Hl7(_)) { &HL7_ENVIRONMENT } else { &ENVIRONMENT };
        let text = keep(text);
        let name = keep(&escaping.template_name());
        let compiled = clean.then(|| environment.template_from_named_str(name, text).ok().map(Arc::new)).flatten();
        Template { compiled, text, place, tables: Arc::new(tables) }
    }

    /// Renders.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        if !self.text.contains('{') {
            return Ok(self.text.to_owned());
        }
        let compiled = self.compiled.as_ref().ok_or_else(|| not_loaded(&self.place))?;
        compiled.render(scope.with_tables(&self.tables)).map_err(|error| {
            let place = match error.line() {
                Some(line) if !self.place.contains(':') => format!("{}:{line}", self.place),
                _ => self.place.clone(),
            };
            message_error(&place, &error)
        })
    }

    /// Where it stands.
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// Expression sources live as long as the process, each distinct text once: minijinja borrows them, and a reload mostly reads
/// the same texts again.
fn keep(text: &str) -> &'static str {
    static KEPT: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    match kept.get(text) {
        Some(text) => text,
        None => {
            let text: &'static str = Box::leak(text.to_owned().into_boxed_str());
            kept.insert(text);
            text
        }
    }
}

fn not_loaded(place: &str) -> ExprError {
    ExprError { place: place.to_owned(), message: "this expression was not compiled".to_owned() }
}

fn message_error(place: &str, error: &minijinja::Error) -> ExprError {
    let own = std::error::Error::source(error).and_then(|source| source.downcast_ref::<filters::FilterError>());
    let message = match (own, error.kind()) {
        (Some(own), _) => own.to_string(),
        (None, ErrorKind::OutOfFuel) => "took more steps than an expression may take".to_owned(),
        (None, ErrorKind::UndefinedError) => {
            "a value that is used here does not exist; `| default('')` gives it a stand-in".to_owned()
        }
        (
            None,
            kind @ (ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod),
        ) => {
            format!("{kind}")
        }
        (None, kind) => format!("{kind}"),
    };
    ExprError { place: place.to_owned(), message }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({})", self.place)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Expression, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Expression::compile(text.get_ref(), &text.span()))
    }
}

/// A value whose text is taken as it comes out: what it is put into escapes it.
impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Template::compile(text.get_ref(), &text.span(), Escaping::None))
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "expression", "description": "An expression: \"msg['MSH-9.1'] == 'ORU'\"." })
    }
}

impl JsonSchema for Template {
    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "title": "template", "description": "Text with expressions in it: \"{{ msg['PID-5.1'] | upper }}\"." })
    }
}
