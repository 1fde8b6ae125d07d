//! Who may send what: certificates bound to MSH-3 and MSH-4. TLS says which machine calls, MSH what it says it is; without a bond
//! between the two, one partner could send in another's name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::report;
use crate::hl7::Header;
use crate::net::tls::{Facts, Pins};

/// The clients that may connect, by a name in their certificates.
#[derive(Debug, Clone)]
pub(super) struct Clients(BTreeMap<String, Sender>);

/// What a client may write into MSH.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sender {
    /// The sending application: the whole field or its first component, or a list of them. Without it, any.
    #[serde(rename = "MSH-3")]
    application: Option<Values>,
    /// The sending facility: the whole field or its first component, or a list of them. Without it, any.
    #[serde(rename = "MSH-4")]
    facility: Option<Values>,
}

impl Clients {
    /// What the owner of this certificate may send; none for a stranger. The common name counts only where the certificate has no
    /// host names (RFC 6125 §6.4.4): an authority that vets these need not have looked at it.
    pub(super) fn sender(&self, certificate: &Facts) -> Option<&Sender> {
        let known = |name: &str| self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        // A name that looks like a fingerprint is none: whoever issued it may not know what it means here.
        let common_name = certificate.common_name.iter().filter(|_| certificate.names.is_empty());
        let names = certificate.names.iter().chain(common_name).filter(|name| !is_pin(name));
        let found = names.map(String::as_str).find_map(known).or_else(|| known(&certificate.pin()));
        found.map(|(_, sender)| sender)
    }
}

fn is_pin(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sha256:"))
}

impl Sender {
    /// Why a message with this MSH is not this client's to send.
    pub(super) fn objection(&self, header: &Header) -> Option<&'static str> {
        let component = header.separators().component;
        let fits = |values: &Option<Values>, field: &[u8]| {
            let first = field.split(|byte| *byte == component).next().unwrap_or_default();
            values.as_ref().is_none_or(|Values(values)| {
                values.iter().any(|value| value.as_bytes() == field || value.as_bytes() == first)
            })
        };
        if !fits(&self.application, header.sending_application()) {
            Some("MSH-3 is not one that the certificate of this connection may send")
        } else if !fits(&self.facility, header.sending_facility()) {
            Some("MSH-4 is not one that the certificate of this connection may send")
        } else {
            None
        }
    }
}

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Clients, D::Error> {
        let read = Spanned::<BTreeMap<String, Sender>>::deserialize(deserializer)?;
        let span = read.span();
        if read.get_ref().is_empty() {
            let help = Some("leave the key out to let in every client with a certificate".to_owned());
            report(span.clone(), "nobody could connect", "", help);
        }
        let mut clients = BTreeMap::new();
        for (mut name, sender) in read.into_inner() {
            if is_pin(&name) {
                match Pins::parse(&name) {
                    Ok(fingerprint) => name = Pins::text(&fingerprint),
                    Err(problem) => report(span.clone(), problem, "", None),
                }
            }
            clients.insert(name, sender);
        }
        Ok(Clients(clients))
    }
}

impl JsonSchema for Clients {
    fn schema_name() -> Cow<'static, str> {
        "Clients".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let sender = Sender::json_schema(generator);
        json_schema!({ "type": "object", "additionalProperties": sender })
    }
}

/// A value or a list of values.
#[derive(Debug, Clone)]
struct Values(Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Values, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let values: Vec<String> = match value.get_ref() {
            toml::Value::String(text) => vec![text.clone()],
            toml::Value::Array(items) => {
                if items.iter().any(|item| !item.is_str()) {
                    report(value.span(), "these are not all texts", "", Some("write each in quotes".to_owned()));
                }
                items.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect()
            }
            _ => vec![],
        };
        if values.is_empty() {
            let help = Some("leave the key out to allow any value".to_owned());
            report(value.span(), "no message could be sent", "", help);
        }
        Ok(Values(values))
    }
}

impl JsonSchema for Values {
    fn schema_name() -> Cow<'static, str> {
        "Values".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn values(texts: &[&str]) -> Option<Values> {
        Some(Values(texts.iter().map(|text| (*text).to_owned()).collect()))
    }

    #[test]
    fn who_a_certificate_belongs_to() {
        let named = |value: &str| Sender { application: values(&[value]), facility: None };
        let pin = Pins::text(&[7; 32]);
        let known =
            [("a.example".to_owned(), named("A")), ("Ward 7".to_owned(), named("W")), (pin.clone(), named("P"))];
        let clients = Clients(known.into_iter().collect());
        let facts = |names: &[&str], common_name: &str, byte| Facts {
            subject: String::new(),
            issuer: String::new(),
            not_before: Timestamp::MIN,
            not_after: Timestamp::MAX,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            common_name: Some(common_name.to_owned()),
            is_self_signed: false,
            fingerprint: [byte; 32],
        };
        for (certificate, expected) in [
            (facts(&["x.example", "A.Example"], "x", 0), Some("A")),
            (facts(&[], "ward 7", 0), Some("W")),
            (facts(&[], "x", 7), Some("P")),
            (facts(&["x.example"], "x", 0), None),
            (facts(&["x.example"], "ward 7", 0), None),
            (facts(&["b.a.example", "*.example"], "", 0), None),
            (facts(&[&pin], &pin, 0), None),
        ] {
            let found = clients.sender(&certificate).and_then(|sender| sender.application.as_ref());
            assert_eq!(found.map(|Values(values)| values[0].as_str()), expected, "{certificate:?}");
        }
    }

    #[test]
    fn what_a_sender_may_write() {
        let sender = Sender { application: values(&["A1", "A2^1.2.3^ISO"]), facility: values(&["LAB"]) };
        for (application, facility, fits) in [
            ("A1", "LAB", true),
            ("A1^9^ISO", "LAB^7^ISO", true),
            ("A2^1.2.3^ISO", "LAB", true),
            ("A2", "LAB", false),
            ("A2^1.2.4^ISO", "LAB", false),
            ("A", "LAB", false),
            ("A1~A9", "LAB", false),
            ("", "LAB", false),
            ("A1", "", false),
            ("a1", "LAB", false),
        ] {
            let header = format!("MSH|^~\\&|{application}|{facility}|C|D|2026||ADT^A01|1|P|2.5\r");
            let header = Header::scan(header.as_bytes()).expect("MSH");
            assert_eq!(sender.objection(&header).is_none(), fits, "{application} {facility}");
        }
        let any = Sender { application: None, facility: None };
        assert!(any.objection(&Header::scan(b"MSH|^~\\&|X|Y").expect("MSH")).is_none());
    }
}
