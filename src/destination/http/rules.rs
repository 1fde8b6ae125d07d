//! What an answer means, where the status alone does not say it: rules as data, of which the first that fits decides.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use hyper::header::{HeaderName, HeaderValue};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use toml::Spanned;

use crate::config::{report, unknown_word};
use crate::destination::Disposition;
use crate::expr::{AnswerExpression, AnswerView, Scope};
use crate::net::http::Answer;

/// What an answer looks like, and what becomes of the delivery then. Everything that is given must fit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// The answer's status: 200, "2xx", or a list of these. Not given: any.
    status: Option<Statuses>,
    /// A header that must be there, as in "X-Result". `equals` and `contains` look at its value.
    pub(super) header: Option<String>,
    /// A place in the answer's JSON that must be there and not be null, as in "/status" (RFC 6901). `equals` and `contains` look
    /// at its value.
    pub(super) pointer: Option<String>,
    /// What the value must be; with neither `header` nor `pointer`: the whole content, blanks around it aside.
    pub(super) equals: Option<String>,
    /// What the value must hold; with neither `header` nor `pointer`: the whole content.
    pub(super) contains: Option<String>,
    /// Any other question about the answer, as an expression about `answer.status`, `answer.headers`, `answer.body` and
    /// `answer.json`: "answer.json.errors | length > 0". Where something that it uses is not there, the rule does not fit.
    when: Option<AnswerExpression>,
    /// What becomes of the delivery: "sent", "retry", "dead" or "pause".
    then: Then,
}

/// What a rule says of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// It would need content that was not read.
    Unknown,
}

impl Rule {
    pub(super) fn then(&self) -> Disposition {
        self.then.0
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let Rule { header, pointer, equals, contains, when, .. } = self;
        let looks = header.is_some() || pointer.is_some() || equals.is_some() || contains.is_some();
        if when.is_some() && looks {
            Some("has `when` beside `header`, `pointer`, `equals` or `contains`: `when` says it all")
        } else if header.is_some() && pointer.is_some() {
            Some("has both `header` and `pointer`: a rule looks at one of them")
        } else if header.as_ref().is_some_and(|name| HeaderName::try_from(name.as_str()).is_err()) {
            Some("has a `header` that no header can be called")
        } else if equals.is_some() && contains.is_some() {
            Some("has both `equals` and `contains`")
        } else if pointer.as_ref().is_some_and(|pointer| !pointer.is_empty() && !pointer.starts_with('/')) {
            Some("has a `pointer` that does not begin with `/`, as in \"/result/status\"")
        } else {
            None
        }
    }

    pub(super) fn fits(&self, answer: &Answer) -> Fit {
        if self.status.as_ref().is_some_and(|statuses| !statuses.hold(answer.status.as_u16())) {
            return Fit::No;
        }
        let looks_at_content =
            self.when.is_some() || self.pointer.is_some() || (self.header.is_none() && self.has_test());
        if looks_at_content && answer.is_cut {
            return Fit::Unknown;
        }
        let fits = if let Some(when) = &self.when {
            when.is_true(&scope_of(answer)).unwrap_or(false)
        } else if let Some(header) = &self.header {
            answer.headers.get_all(header).iter().any(|value| self.suits(&String::from_utf8_lossy(value.as_bytes())))
        } else if let Some(pointer) = &self.pointer {
            let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
            match json.as_ref().and_then(|json| json.pointer(pointer)) {
                None | Some(Value::Null) => false,
                Some(Value::String(text)) => self.suits(text),
                Some(other) => self.suits(&other.to_string()),
            }
        } else {
            !self.has_test() || self.suits(String::from_utf8_lossy(&answer.body).trim())
        };
        if fits { Fit::Yes } else { Fit::No }
    }

    fn has_test(&self) -> bool {
        self.equals.is_some() || self.contains.is_some()
    }

    fn suits(&self, value: &str) -> bool {
        self.equals.as_ref().is_none_or(|equals| value == equals)
            && self.contains.as_ref().is_none_or(|contains| value.contains(contains.as_str()))
    }
}

/// The answer as expressions see it.
fn scope_of(answer: &Answer) -> Scope {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<(String, String)> =
        answer.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let status = Some(answer.status.as_u16());
    Scope::of_answer(&AnswerView { state: None, status, headers: &headers, body: &answer.body })
}

/// `200`, `"2xx"` or a list.
#[derive(Debug, Clone)]
struct Statuses(Vec<Range<u16>>);

impl Statuses {
    fn hold(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }

    fn one(value: &toml::Value) -> Option<Range<u16>> {
        let text = match value {
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::String(text) => text.clone(),
            _ => return None,
        };
        let (first, length) = match text.strip_suffix("xx") {
            Some(hundred) => (hundred.parse::<u16>().ok()?.checked_mul(100)?, 100),
            None => (text.parse().ok()?, 1),
        };
        (200..600).contains(&first).then(|| first..first + length)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Statuses, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = value.span();
        let values = match value.into_inner() {
            toml::Value::Array(values) => values,
            value => vec![value],
        };
        let ranges: Option<Vec<_>> = values.iter().map(Statuses::one).collect();
        Ok(Statuses(ranges.filter(|ranges| !ranges.is_empty()).unwrap_or_else(|| {
            let help = "a status from 200 to 599, as in 200, a hundred of them, as in \"2xx\", or a list of these";
            report(span, "this is no status of an answer", "", Some(help.to_owned()));
            vec![]
        })))
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string", "array"],
            "items": { "type": ["integer", "string"] },
            "description": "The answer's status: 200, \"2xx\", or a list of these.",
        })
    }
}

/// What becomes of the delivery.
#[derive(Clone, Copy)]
struct Then(Disposition);

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Then {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Then, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Then(Disposition::of_word(text.get_ref()).unwrap_or_else(|| {
            let message = format!("`then` cannot be `{}`", text.get_ref());
            unknown_word(text.span(), message, text.get_ref(), &Disposition::words());
            Disposition::Retry
        })))
    }
}

impl JsonSchema for Then {
    fn schema_name() -> Cow<'static, str> {
        "Then".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Disposition::words() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use hyper::{HeaderMap, StatusCode};

    use super::*;
    use crate::config::collect;
    use crate::diagnostic::SourceFile;

    fn fits(rule: &str, status: u16, body: &str, is_cut: bool) -> Fit {
        let file = SourceFile::new(Path::new("c.toml"), format!("{rule}\nthen = \"dead\""));
        let read = collect(&file, Path::new("."), || toml::from_str::<Rule>(&file.text).expect(rule));
        assert!(read.diagnostics.is_empty(), "{rule}: {:?}", read.diagnostics);
        let rule = read.value;
        assert_eq!(rule.then(), Disposition::Dead);
        let headers = HeaderMap::from_iter([("x-result".parse().unwrap(), "late ok".parse().unwrap())]);
        let status = StatusCode::from_u16(status).unwrap();
        rule.fits(&Answer { status, headers, body: Bytes::copy_from_slice(body.as_bytes()), is_cut })
    }

    #[test]
    fn what_fits() {
        const JSON: &str = r#"{"ok":false,"n":1,"nil":null,"result":{"code":"E1"}}"#;
        for (rule, status, body, expected) in [
            ("", 500, "", Fit::Yes),
            ("status = 200", 200, "", Fit::Yes),
            ("status = 200", 201, "", Fit::No),
            ("status = \"2xx\"", 299, "", Fit::Yes),
            ("status = \"2xx\"", 300, "", Fit::No),
            ("status = [404, \"5xx\"]", 502, "", Fit::Yes),
            ("status = [404, \"5xx\"]", 405, "", Fit::No),
            ("header = \"X-Result\"", 200, "", Fit::Yes),
            ("header = \"X-Other\"", 200, "", Fit::No),
            ("header = \"X-Result\"\nequals = \"late ok\"", 200, "", Fit::Yes),
            ("header = \"X-Result\"\nequals = \"ok\"", 200, "", Fit::No),
            ("header = \"X-Result\"\ncontains = \"ok\"", 200, "", Fit::Yes),
            ("pointer = \"/ok\"\nequals = \"false\"", 200, JSON, Fit::Yes),
            ("pointer = \"/n\"\nequals = \"1\"", 200, JSON, Fit::Yes),
            ("pointer = \"/result/code\"", 200, JSON, Fit::Yes),
            ("pointer = \"/result/code\"\nequals = \"E2\"", 200, JSON, Fit::No),
            ("pointer = \"/result/code\"\ncontains = \"E\"", 200, JSON, Fit::Yes),
            ("pointer = \"/nil\"", 200, JSON, Fit::No),
            ("pointer = \"/none\"", 200, JSON, Fit::No),
            ("pointer = \"/ok\"", 200, "no JSON", Fit::No),
            ("contains = \"ERROR\"", 200, "an ERROR", Fit::Yes),
            ("contains = \"ERROR\"", 200, "fine", Fit::No),
            ("equals = \"OK\"", 200, " OK\r\n", Fit::Yes),
            ("status = 200\ncontains = \"ERROR\"", 500, "an ERROR", Fit::No),
            ("when = \"answer.json.n + 1 == 2\"", 200, JSON, Fit::Yes),
            ("when = \"answer.json.result.code in ['E2', 'E3']\"", 200, JSON, Fit::No),
            ("when = \"answer.json.none.deeper == 1\"", 200, JSON, Fit::No),
            ("when = \"answer.json.n == 1\"", 200, "no JSON", Fit::No),
            ("when = \"'fine' in answer.body and answer.status == 202\"", 202, "all fine", Fit::Yes),
            ("when = \"answer.headers['x-result'] == 'late ok'\"", 200, "", Fit::Yes),
            ("status = 200\nwhen = \"answer.body == 'x'\"", 201, "x", Fit::No),
        ] {
            assert_eq!(fits(rule, status, body, false), expected, "{rule} for {status} {body}");
        }
        assert_eq!(fits("contains = \"x\"", 200, "x", true), Fit::Unknown);
        assert_eq!(fits("pointer = \"/x\"", 200, "{}", true), Fit::Unknown);
        assert_eq!(fits("when = \"answer.status == 200\"", 200, "x", true), Fit::Unknown);
        assert_eq!(fits("status = 200", 200, "x", true), Fit::Yes);
        assert_eq!(fits("header = \"X-Result\"\ncontains = \"ok\"", 200, "x", true), Fit::Yes);
    }
}
