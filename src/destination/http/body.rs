//! What a request carries: made from the message once, before the first attempt.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use url::form_urlencoded;

use crate::expr::{ExprError, FileNameTemplate, Scope, Template};
use crate::message::{Body, Format, Message};

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BodyKind {
    /// The message as it is.
    Raw,
    /// The message, which must be JSON.
    Json,
    /// The message, which must be XML.
    Xml,
    /// `fields`, as a browser's form sends them.
    Form,
    /// `fields` and the message as a file, as a browser's form with a file sends them (RFC 7578).
    Multipart,
    /// Nothing.
    None,
}

/// How the message is named in a multipart body.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The name of the form's field.
    name: String,
    /// The file's name, with expressions.
    file_name: FileNameTemplate,
}

/// The options that say what a request carries.
pub(super) struct Parts<'o> {
    pub(super) kind: BodyKind,
    pub(super) content_type: Option<&'o str>,
    pub(super) fields: &'o BTreeMap<String, Template>,
    pub(super) part: Option<&'o Part>,
}

impl Parts<'_> {
    /// The content, and its type where there is content.
    pub(super) fn write(&self, message: &Message, scope: &Scope) -> Result<(Bytes, Option<String>), ExprError> {
        let body = &*message.body;
        let own = || self.content_type.map_or_else(|| type_of(body), str::to_owned);
        match self.kind {
            BodyKind::None => Ok((Bytes::new(), None)),
            BodyKind::Raw => Ok((body.to_bytes(), Some(own()))),
            BodyKind::Json => match body {
                Body::Json(_) => Ok((body.to_bytes(), Some(own()))),
                _ => Err(unfit("`body = \"json\"` needs a JSON message; make it JSON with a `template` step first")),
            },
            BodyKind::Xml => match body {
                _ if body.format() == Format::Xml => Ok((body.to_bytes(), Some(own()))),
                Body::Text(text) if text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).starts_with('<') => {
                    Ok((body.to_bytes(), Some(self.content_type.unwrap_or("application/xml").to_owned())))
                }
                _ => Err(unfit("`body = \"xml\"` needs an XML message; make it XML with a `template` step first")),
            },
            BodyKind::Form => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in self.fields {
                    form.append_pair(name, &value.render(scope)?);
                }
                Ok((Bytes::from(form.finish()), Some("application/x-www-form-urlencoded".to_owned())))
            }
            BodyKind::Multipart => self.multipart(message, scope, &own()),
        }
    }

    fn multipart(
        &self,
        message: &Message,
        scope: &Scope,
        content_type: &str,
    ) -> Result<(Bytes, Option<String>), ExprError> {
        let part = self.part.ok_or_else(|| unfit("a multipart body needs `part`"))?;
        let fields = self.fields.iter().map(|(name, value)| Ok((name.clone(), value.render(scope)?)));
        let fields = fields.collect::<Result<Vec<_>, ExprError>>()?;
        let file = (part.name.as_str(), part.file_name.render(scope)?, content_type);
        let (content, content_type) = form_data(&message.meta.id.to_string(), &fields, file, message.body.to_bytes());
        Ok((content, Some(content_type)))
    }
}

/// Fields and one file (name of the field, name of the file, type) as a browser's form sends them, with the type of it all. The same
/// id and the same parts give the same bytes.
pub(in crate::destination) fn form_data(
    id: &str,
    fields: &[(String, String)],
    (name, file_name, file_type): (&str, String, &str),
    file: Bytes,
) -> (Bytes, String) {
    let mut parts = Vec::new();
    for (name, value) in fields {
        let head = format!("Content-Disposition: form-data; name=\"{}\"\r\n", quoted(name));
        parts.push((head, Bytes::from(value.clone())));
    }
    let (name, file_name) = (quoted(name), quoted(&file_name));
    let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n");
    parts.push((format!("{disposition}Content-Type: {file_type}\r\n"), file));
    let boundary = boundary(id, &parts);
    let mut content = Vec::new();
    for (head, value) in parts {
        content.extend_from_slice(format!("--{boundary}\r\n{head}\r\n").as_bytes());
        content.extend_from_slice(&value);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (Bytes::from(content), format!("multipart/form-data; boundary={boundary}"))
}

fn unfit(message: &str) -> ExprError {
    ExprError { place: "http".to_owned(), message: message.to_owned() }
}

/// The type of a message as it is. HL7 names its character set itself, in MSH-18.
fn type_of(body: &Body) -> String {
    let text = match body {
        Body::Hl7(_) | Body::Batch(_) => "application/hl7-v2",
        Body::Json(_) => "application/json",
        Body::Text(_) => "text/plain; charset=utf-8",
        Body::Xml(_) => "application/xml",
        Body::Csv(_) => "text/csv; charset=utf-8",
        Body::Bytes(_) => "application/octet-stream",
        Body::Encoded(encoded) => {
            let own = type_of(&encoded.body);
            return own
                .replace("charset=utf-8", &format!("charset={}", encoded.charset.iana_name().to_ascii_lowercase()));
        }
    };
    text.to_owned()
}

/// A name within quotes, escaped as browsers do (WHATWG HTML, multipart/form-data encoding).
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// A line that occurs in no part, the same for the same message.
fn boundary(id: &str, parts: &[(String, Bytes)]) -> String {
    let of = |number: u32| format!("labwire-{id}-{number}");
    let occurs =
        |boundary: &str| parts.iter().any(|(_, value)| memchr::memmem::find(value, boundary.as_bytes()).is_some());
    (0..).map(of).find(|boundary| !occurs(boundary)).expect("content is shorter than all boundaries together")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7;

    #[test]
    fn the_content_type_names_the_set() {
        let latin = hl7::Charset::named("8859/2").expect("a set");
        for (body, expected) in [
            (Body::Text("x".to_owned()), "text/plain; charset=iso-8859-2"),
            (
                Body::Csv(crate::message::Csv::parse("a", Default::default()).expect("CSV")),
                "text/csv; charset=iso-8859-2",
            ),
            (Body::Xml(crate::message::Xml::parse("<a/>").expect("XML")), "application/xml"),
        ] {
            let body = std::sync::Arc::new(body).in_charset(latin).expect("encoded");
            assert_eq!(type_of(&body), expected);
        }
    }

    #[test]
    fn a_boundary_never_occurs_in_what_it_bounds() {
        let first = boundary("ID", &[]);
        let second = boundary("ID", &[(String::new(), Bytes::from(format!("a{first}b")))]);
        assert!(first.ends_with("-0") && second.ends_with("-1"), "{first} {second}");
        assert_eq!(boundary("ID", &[]), first, "the same at every attempt");
    }
}
