//! Expressions about answers: what a server answered us (`responses`), and what we answer a client (`answers`). Beside what every
//! expression sees they see `answer`.

use std::borrow::Cow;
use std::ops::Range;

use minijinja::Value;
use minijinja::value::Serde;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use toml::Spanned;

use super::web::HeaderTemplate;
use super::{Escaping, ExprError, Expression, Scope, Template, check};

/// What is known of an answer: the variable `answer`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnswerView<'a> {
    /// What became of the message, where that is the question: `answer.state`.
    pub state: Option<&'a str>,
    /// The status: `answer.status`.
    pub status: Option<u16>,
    /// Names, in small letters, and values: `answer.headers['x-result']`.
    pub headers: &'a [(String, String)],
    /// The content: `answer.body` as text, `answer.json` where it is JSON.
    pub body: &'a [u8],
}

impl AnswerView<'_> {
    fn value(&self) -> Value {
        let json: serde_json::Value = serde_json::from_slice(self.body).unwrap_or_default();
        let headers: serde_json::Map<String, serde_json::Value> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let body = String::from_utf8_lossy(self.body);
        Value::from(Serde(json!({
            "state": self.state, "status": self.status, "headers": headers, "body": body, "json": json,
        })))
    }
}

impl Scope {
    /// The same with an answer.
    pub fn with_answer(mut self, answer: &AnswerView<'_>) -> Scope {
        self.answer = Some(answer.value());
        self
    }

    /// An answer, and no message.
    pub fn of_answer(answer: &AnswerView<'_>) -> Scope {
        Scope::nothing().with_answer(answer)
    }
}

/// A question about an answer: "answer.json.status == 'busy'".
#[derive(Debug, Clone)]
pub struct AnswerExpression(Expression);

impl AnswerExpression {
    /// Whether it is so; a value that is not there is an error.
    pub fn is_true(&self, scope: &Scope) -> Result<bool, ExprError> {
        self.0.is_true(scope)
    }
}

impl<'de> Deserialize<'de> for AnswerExpression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnswerExpression, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let (span, text) = (text.span(), text.get_ref());
        Ok(AnswerExpression(Expression::compile_at(text, &span, &check::At::Answer { span: &span, text })))
    }
}

impl JsonSchema for AnswerExpression {
    fn schema_name() -> Cow<'static, str> {
        "AnswerExpression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "An expression about an answer: \"answer.json.status == 'busy'\"." })
    }
}

/// The content of an answer of ours.
#[derive(Debug, Clone)]
pub struct AnswerTemplate(Template);

impl AnswerTemplate {
    /// Compiles; mistakes are reported at their place.
    pub fn compile(text: &str, span: &Range<usize>, escaping: Escaping) -> AnswerTemplate {
        let place = crate::config::place_name(span);
        AnswerTemplate(Template::compile_at(text, place, escaping, &check::At::Answer { span, text }))
    }

    /// Renders.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        self.0.render(scope)
    }
}

/// The value of a header of an answer of ours.
#[derive(Debug, Clone)]
pub struct AnswerHeader(HeaderTemplate);

impl AnswerHeader {
    /// Renders to a value in printable ASCII.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        self.0.render(scope)
    }
}

impl<'de> Deserialize<'de> for AnswerHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnswerHeader, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let template = AnswerTemplate::compile(text.get_ref(), &text.span(), Escaping::None);
        Ok(AnswerHeader(HeaderTemplate::over(template.0)))
    }
}

impl JsonSchema for AnswerHeader {
    fn schema_name() -> Cow<'static, str> {
        "AnswerHeader".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A header's value, with expressions: \"{{ meta.id }}\"." })
    }
}
