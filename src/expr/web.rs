//! URLs and headers made from messages.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::escaping::{self, Escaping};
use super::{ExprError, Scope, Template};
use crate::config::{self, HostPort, WebOrigin};

/// The longest value of a header, in bytes: servers commonly refuse more than 8 KiB.
const MAX_HEADER_BYTES: usize = 4096;
/// The longest path and query, in bytes: the least that every server should take (RFC 9112 §3).
const MAX_TARGET_BYTES: usize = 8000;

/// A URL whose path and query may be made from a message. What expressions put in is encoded (letters, digits, `.`, `_`, `-`
/// stay, the rest becomes `%XX`), so that no field's content can name another host, path or parameter.
#[derive(Debug, Clone)]
pub struct UrlTemplate {
    /// Where to connect: never from a message.
    pub origin: WebOrigin,
    template: Template,
    /// Length of the origin in the template.
    length: usize,
}

impl UrlTemplate {
    /// Renders path and query.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        let marked = self.template.render(scope)?;
        let marked = marked.get(self.length..).unwrap_or_default();
        let path = marked.split('?').next().unwrap_or_default();
        let target = if path.split('/').any(|part| part.contains(escaping::VALUE) && is_blank(part)) {
            Err("a part of the URL's path comes out empty, or as dots alone")
        } else {
            config::target(&marked.replace(escaping::VALUE, "")).and_then(|target| {
                if target.len() > MAX_TARGET_BYTES {
                    Err("path and query come out longer than 8000 bytes")
                } else {
                    Ok(target)
                }
            })
        };
        target.map_err(|problem| ExprError { place: self.template.place().to_owned(), message: problem.to_owned() })
    }
}

/// Nothing, or dots only, encoded or not: servers take such a part for the folder itself or the one above.
fn is_blank(part: &str) -> bool {
    part.replace("%2E", ".").chars().all(|c| c == escaping::VALUE || c == '.')
}

/// What stands outside of expressions.
fn literal(text: &str) -> String {
    let after = |text: &str, end: &str| text.split_once(end).map_or_else(String::new, |(_, rest)| rest.to_owned());
    let parts = text.split("{{").enumerate().map(|(at, part)| if at == 0 { part.into() } else { after(part, "}}") });
    let text: String = parts.collect();
    text.split("{%").enumerate().map(|(at, part)| if at == 0 { part.into() } else { after(part, "%}") }).collect()
}

impl<'de> Deserialize<'de> for UrlTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UrlTemplate, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let (origin, length) = WebOrigin::parse(text.get_ref()).unwrap_or_else(|(message, help)| {
            config::report(text.span(), message, "", Some(help));
            let at = HostPort { host: "invalid".to_owned(), port: 443 };
            (WebOrigin { is_https: true, at }, text.get_ref().len())
        });
        if let Err(problem) = config::target(&literal(&text.get_ref()[length..])) {
            config::report(text.span(), problem, "", None);
        }
        let template = Template::compile(text.get_ref(), &text.span(), Escaping::FileName);
        Ok(UrlTemplate { origin, template, length })
    }
}

impl JsonSchema for UrlTemplate {
    fn schema_name() -> Cow<'static, str> {
        "UrlTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A URL, with expressions in its path and query: \"https://lis.example/results/{{ meta.id }}\"."
        })
    }
}

/// The value of a header, made from a message. Whatever a header cannot carry is an error of the message: a value never ends its
/// header.
#[derive(Debug, Clone)]
pub struct HeaderTemplate(Template);

impl HeaderTemplate {
    pub(super) fn over(template: Template) -> HeaderTemplate {
        HeaderTemplate(template)
    }

    /// Renders to a value in printable ASCII.
    pub fn render(&self, scope: &Scope) -> Result<String, ExprError> {
        let text = self.0.render(scope)?;
        let text = text.trim_matches([' ', '\t']);
        let problem = if !text.bytes().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')) {
            "the header comes out with a line break, a control character or a letter that is not ASCII"
        } else if text.len() > MAX_HEADER_BYTES {
            "the header comes out longer than 4 KiB"
        } else {
            return Ok(text.to_owned());
        };
        Err(ExprError { place: self.0.place().to_owned(), message: problem.to_owned() })
    }
}

impl<'de> Deserialize<'de> for HeaderTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeaderTemplate, D::Error> {
        Template::deserialize(deserializer).map(HeaderTemplate)
    }
}

impl JsonSchema for HeaderTemplate {
    fn schema_name() -> Cow<'static, str> {
        "HeaderTemplate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A header's value, with expressions: \"{{ meta.lab }}\"." })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::diagnostic::SourceFile;
    use crate::hl7;
    use crate::message::{Format, Message, MessageIds, Meta, Origin};

    /// PID-2 empty, PID-3 plain, PID-4 dots, PID-5 hostile, PID-6 with line breaks, PID-7 not ASCII.
    fn scope() -> Scope {
        let meta = Meta {
            id: MessageIds::default().next(),
            channel: "c".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::default(),
        };
        let body = bytes::Bytes::from(
            "MSH|^~\\&|A|||||||M1|P|2.5\rPID|1||A 1|..|@evil.example/../x?a=b#c:1|a\\X0D\\\\X0A\\X-Evil: 1|Nágy\r",
        );
        Scope::new(&Message::read(meta, Format::Hl7, &body, &hl7::Limits::default()).expect("HL7"))
    }

    /// Reads a value and renders it; the first mistake otherwise.
    fn rendered<T: DeserializeOwned>(
        text: &str,
        render: impl Fn(&T, &Scope) -> Result<String, ExprError>,
    ) -> Result<String, String> {
        let folder = std::path::Path::new(".");
        let line = format!("v = {text:?}");
        let file = SourceFile::new(&folder.join("c.toml"), line);
        let read = config::collect(&file, folder, || {
            let table = toml::de::DeTable::parse(&file.text).expect("TOML").into_inner();
            let (_, value) = table.into_iter().next().expect("a value");
            T::deserialize(toml::de::ValueDeserializer::from(value)).expect("a string")
        });
        match read.diagnostics.first() {
            Some(mistake) => Err(format!("mistake: {mistake}")),
            None => render(&read.value, &scope()).map_err(|error| error.message),
        }
    }

    fn url(text: &str) -> Result<String, String> {
        rendered(text, UrlTemplate::render)
    }

    fn header(text: &str) -> Result<String, String> {
        rendered(text, HeaderTemplate::render)
    }

    #[test]
    fn values_stay_in_their_place_in_a_url() {
        for (template, expected) in [
            ("https://lis.example", "/"),
            ("https://lis.example?x=1", "/?x=1"),
            ("https://lis.example/a/{{ msg['PID-3'] }}/b", "/a/A%201/b"),
            ("https://lis.example/{{ msg['PID-5'] }}", "/%40evil.example%2F..%2Fx%3Fa%3Db%23c%3A1"),
            ("https://lis.example/x?p={{ msg['PID-5'] }}&q=1", "/x?p=%40evil.example%2F..%2Fx%3Fa%3Db%23c%3A1&q=1"),
            ("https://lis.example/x?p={{ msg['PID-2'] }}", "/x?p="),
            ("https://lis.example/{{ msg['PID-7'] }}", "/N%C3%A1gy"),
            ("https://lis.example/v{{ msg['PID-4'] }}", "/v%2E."),
            ("https://lis.example/{% if true %}a{% endif %}", "/a"),
        ] {
            assert_eq!(url(template).as_deref(), Ok(expected), "{template}");
        }
        let blank = "a part of the URL's path comes out empty";
        for (template, problem) in [
            ("https://lis.example/{{ msg['PID-2'] }}/work", blank),
            ("https://lis.example/a/{{ msg['PID-4'] }}/work", blank),
            ("https://lis.example/a/.{{ msg['PID-2'] }}./work", blank),
            (
                "https://lis.example{{ msg['PID-3'] }}/",
                "mistake: ./c.toml:1:5: `https://lis.example{{ msg['PID-3'] }}/` has an",
            ),
            ("https://{{ msg['PID-3'] }}/", "has an expression in its host"),
            ("https://lis.example/{{ msg['PID-5'] | safe }}", "`safe` is for JSON and XML"),
            ("https://lis.example/a b", "mistake: ./c.toml:1:5: blanks"),
            ("https://lis.example/{{ msg['PID-3'] }}#x", "what follows `#` is never sent"),
            ("https://lis.example/{{ msg['PID-3' }}", "mistake"),
        ] {
            let found = url(template).expect_err(template);
            assert!(found.contains(problem), "{template}: {found}");
        }
    }

    #[test]
    fn a_value_never_ends_its_header() {
        assert_eq!(header("lab {{ msg['PID-3'] }} ").as_deref(), Ok("lab A 1"));
        for template in ["{{ msg['PID-6'] }}", "x\n{{ msg['PID-3'] }}", "{{ msg['PID-7'] }}"] {
            let problem = header(template).expect_err(template);
            assert!(problem.contains("a line break, a control character or a letter that is not ASCII"), "{problem}");
            assert!(!problem.contains("Evil") && !problem.contains("gy"), "{problem}");
        }
        assert_eq!(header(&"x".repeat(4096)).map(|text| text.len()), Ok(4096));
        assert_eq!(url(&format!("https://lis.example/{}", "x".repeat(7999))).map(|text| text.len()), Ok(8000));
        assert!(
            url(&format!("https://lis.example/{}", "x".repeat(8000)))
                .expect_err("too long")
                .contains("longer than 8000")
        );
        assert!(header(&"x".repeat(4097)).expect_err("too long").contains("longer than 4 KiB"));
    }
}
