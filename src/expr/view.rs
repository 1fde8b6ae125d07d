//! `msg`: the message's content, by places that depend on its format.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, Serde};
use minijinja::{Error, ErrorKind, State, Value};

use super::filters::FilterError;
use super::scope::Each;
use crate::hl7;
use crate::message::{Body, Csv, XmlPath};

/// Names of the methods of `msg`, for load-time checks.
pub(super) const METHODS: &[&str] = &["count", "all", "raw", "text", "rows", "bytes"];

/// `msg`.
pub(super) struct View {
    pub(super) body: Arc<Body>,
    pub(super) each: Option<Each>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("msg")
    }
}

impl View {
    fn path(&self, text: &str) -> Result<hl7::Path, Error> {
        let path: hl7::Path = text.parse().map_err(|error: hl7::PathError| filter_error(error.to_string()))?;
        Ok(match &self.each {
            Some(each) if path.occurrence().is_none() && path.segment() == each.segment => {
                path.with_occurrence(each.index)
            }
            _ => path,
        })
    }

    fn field(&self, message: &hl7::Message, path: &str) -> Result<Value, Error> {
        let path = self.path(path)?;
        let text = message.text(&path).map_err(|error| filter_error(format!("{path}: {error}")))?;
        Ok(Value::from(text.unwrap_or_default().into_owned()))
    }

    /// A field as it is written, still escaped.
    fn raw(&self, message: &hl7::Message, path: &str) -> Result<Value, Error> {
        let path = self.path(path)?;
        let raw = message.raw(&path).unwrap_or_default();
        let text = message.decode(raw).map_err(|error| filter_error(format!("{path}: {error}")))?;
        Ok(Value::from(text.into_owned()))
    }
}

impl Object for View {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &*self.body {
            Body::Hl7(message) => Some(self.field(message, key.as_str()?).unwrap_or_else(Value::from)),
            Body::Json(json) => match key.as_str() {
                Some(pointer) if pointer.starts_with('/') => {
                    json.pointer(pointer).map(|value| Value::from(Serde(value)))
                }
                Some(name) => json.get(name).map(|value| Value::from(Serde(value))),
                None => json.get(key.as_usize()?).map(|value| Value::from(Serde(value))),
            },
            Body::Xml(xml) => match xml_path(key.as_str()?) {
                Ok(path) => xml.values(&path).into_iter().next().map(Value::from),
                Err(error) => Some(Value::from(error)),
            },
            Body::Csv(csv) => match key.as_str() {
                Some(place) => {
                    let (row, column) = match place.strip_prefix('/').and_then(|place| place.split_once('/')) {
                        Some((row, column)) => (row.parse().ok()?, column),
                        // Of several rows, which one was meant?
                        None if csv.rows().len() == 1 => (0, place),
                        None => return None,
                    };
                    csv.value(row, column).map(Value::from)
                }
                None => row(csv, key.as_usize()?),
            },
            Body::Text(_) | Body::Bytes(_) | Body::Batch(_) | Body::Encoded(_) => None,
        }
    }

    /// `msg.count('OBX')`: how many segments or elements; `msg.all('OBX-5')`, `msg.all('/order/item')`: the value in each of
    /// them; `msg.raw('PID-5')`: as it stands, still escaped; `msg.rows()`: the rows; `msg.text()`, `msg.bytes()`: the whole
    /// body.
    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let argument = || args.first().and_then(Value::as_str).ok_or_else(|| Error::from(ErrorKind::MissingArgument));
        match (&*self.body, method) {
            (Body::Hl7(message), "count") => Ok(Value::from(message.count(argument()?))),
            (Body::Hl7(message), "all") => {
                let path = self.path(argument()?)?;
                let count = u32::try_from(message.count(path.segment())).unwrap_or(u32::MAX);
                (1..=count).map(|at| self.field(message, &path.with_occurrence(at).to_string())).collect()
            }
            (Body::Hl7(message), "raw") => self.raw(message, argument()?),
            (Body::Xml(xml), "count") => Ok(Value::from(xml.elements(&xml_path(argument()?)?).len())),
            (Body::Xml(xml), "all") => Ok(Value::from_iter(xml.values(&xml_path(argument()?)?))),
            (Body::Csv(csv), "rows") => Ok(Value::from_iter((0..csv.rows().len()).filter_map(|at| row(csv, at)))),
            (Body::Text(text), "text") => Ok(Value::from(text.clone())),
            (Body::Csv(csv), "text") => Ok(Value::from(csv.text())),
            (Body::Xml(xml), "text") => Ok(Value::from(xml.text())),
            (body, "bytes") => Ok(Value::from_bytes(body.to_bytes().to_vec())),
            (body, method) if METHODS.contains(&method) => {
                Err(filter_error(format!("`msg.{method}` is not for {}", body.format().name())))
            }
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }
}

/// A row by its columns' names, or as a list where they have none.
fn row(csv: &Csv, at: usize) -> Option<Value> {
    let values = csv.rows().get(at)?.iter().map(|value| Value::from(value.as_str()));
    Some(match csv.header() {
        Some(header) => Value::from(header.iter().cloned().zip(values).collect::<BTreeMap<String, Value>>()),
        None => values.collect(),
    })
}

fn xml_path(text: &str) -> Result<XmlPath, Error> {
    text.parse().map_err(|help: &str| filter_error(help.to_owned()))
}

fn filter_error(message: String) -> Error {
    FilterError(message).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::diagnostic::SourceFile;
    use crate::expr::{Escaping, Scope, Template};
    use crate::message::{Dialect, Message, MessageIds, Meta, Origin, Xml};

    /// What a template makes of a body; an error of the file, or of the message.
    fn render(body: Body, text: &str) -> Result<String, String> {
        let meta = Meta {
            id: MessageIds::default().next(),
            channel: "c".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
            origin: Origin::default(),
        };
        let message = Message { meta, body: Arc::new(body), event: Arc::default() };
        let folder = std::path::Path::new(".");
        let file = SourceFile::new(&folder.join("c.toml"), format!("v = {text:?}"));
        let read = config::collect(&file, folder, || Template::compile(text, &(4..text.len() + 6), Escaping::None));
        match read.diagnostics.first() {
            Some(mistake) => Err(mistake.to_string()),
            None => read.value.render(&Scope::new(&message)).map_err(|error| error.message),
        }
    }

    #[test]
    fn rows_and_columns() {
        let csv =
            |text: &str, header| Body::Csv(Csv::parse(text, Dialect { header, ..Dialect::default() }).expect("CSV"));
        for (text, template, expected) in [
            ("id,name\n1,A\n2,B\n", "{{ msg[0]['name'] }}{{ msg[1]['id'] }}{{ msg['/1/name'] }}", "A2B"),
            ("id,name\n1,A\n2,B\n", "{% for row in msg.rows() %}{{ row.id }}{{ row['name'] }};{% endfor %}", "1A;2B;"),
            ("id,name\n1,A\n", "{{ msg['name'] }}{{ msg['/0/1'] }}", "AA"),
            ("id,name\n1,A\n2,B\n", "{{ msg['name'] | default('which?') }}", "which?"),
            ("id,name\n1,A\n", "{{ msg[7] | default('none') }}{{ msg.text() | length }}", "none12"),
        ] {
            assert_eq!(render(csv(text, true), template).as_deref(), Ok(expected), "{template}");
        }
        assert_eq!(render(csv("1,A\n2,B\n", false), "{{ msg[1][1] }}{{ msg['/0/1'] }}").as_deref(), Ok("BA"));
    }

    #[test]
    fn each_format_has_its_own() {
        let xml = || Body::Xml(Xml::parse("<a x='1'><b>one</b><b>two</b></a>").expect("XML"));
        let template = "{{ msg['/a/@x'] }}{{ msg['/a/b'] }}{{ msg.all('/a/b') | join('+') }}{{ msg.count('/a/b') }}{{ msg['/a/c'] | default('-') }}";
        assert_eq!(render(xml(), template).as_deref(), Ok("1oneone+two2-"));
        assert_eq!(
            render(Body::Bytes(bytes::Bytes::from_static(b"\xff")), "{{ msg.bytes() | base64 }}").as_deref(),
            Ok("/w==")
        );
        assert_eq!(
            render(Body::Text("é".to_owned()), "{{ msg.text() }} {{ msg.bytes() | base64 }}").as_deref(),
            Ok("é w6k=")
        );
        let bytes = || Body::Bytes(bytes::Bytes::from_static(b"secret\xff"));
        for (body, template, problem) in [
            (xml(), "{{ msg.rows() }}", "`msg.rows` is not for XML"),
            (bytes(), "{{ msg.text() }}", "`msg.text` is not for bytes"),
            (bytes(), "{{ msg.bytes() }}", "bytes that are not UTF-8 cannot be put out as text"),
            (xml(), "{{ msg.count('/a[x]') }}", "`/a[x]` is not a path into XML"),
            (xml(), "{{ msg.rows(1) }}", "`msg.rows` takes no argument"),
        ] {
            let error = render(body, template).expect_err(template);
            assert!(error.contains(problem) && !error.contains("secret"), "{template}: {error}");
        }
    }

    #[test]
    fn raw_is_text_or_an_error() {
        let hl7 = |bytes: &[u8]| Body::Hl7(hl7::Message::parse(bytes.to_vec(), &hl7::Limits::default()).expect("HL7"));
        let latin = hl7(b"MSH|^~\\&|A|||||||1|P|2.5||||||8859/1\rPID|1||||\xe9^\\T\\\r");
        assert_eq!(render(latin, "{{ msg.raw('PID-5') }}").as_deref(), Ok("é^\\T\\"));
        let broken = hl7(b"MSH|^~\\&|A\rPID|1||||\xe9\r");
        assert_eq!(
            render(broken, "{{ msg.raw('PID-5') }}").expect_err("no text"),
            "PID-5: character set: byte 0 is not valid ASCII"
        );
    }
}
