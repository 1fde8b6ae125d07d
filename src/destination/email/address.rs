//! Mail addresses (RFC 5322 §3.4), made from messages.

use std::borrow::Cow;

use lettre::Address;
use lettre::message::Mailbox;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::report;
use crate::expr::{Escaping, ExprError, Scope, Template};

/// More recipients than this in one list are refused.
const MAX_ADDRESSES: usize = 100;

/// Addresses, with expressions: "Ward 3 <ward3@hospital.example>, {{ … }}".
#[derive(Debug, Clone)]
pub(super) struct Addresses(Template);

impl Addresses {
    /// The addresses for a message; none where it comes out empty.
    pub(super) fn render(&self, scope: &Scope) -> Result<Vec<Mailbox>, ExprError> {
        let text = self.0.render(scope)?;
        // Which one it was is told by its place: an address is content.
        parse(&text).map_err(|problem| ExprError { place: self.0.place().to_owned(), message: problem.to_owned() })
    }

    /// The one address that it must come out as.
    pub(super) fn render_one(&self, scope: &Scope) -> Result<Mailbox, ExprError> {
        let mut found = self.render(scope)?;
        let message = "one address is needed here, and it comes out as none or as several";
        let wrong = || ExprError { place: self.0.place().to_owned(), message: message.to_owned() };
        if found.len() > 1 { Err(wrong()) } else { found.pop().ok_or_else(wrong) }
    }
}

fn parse(text: &str) -> Result<Vec<Mailbox>, &'static str> {
    if text.chars().any(char::is_control) {
        return Err("an address holds a line break or another control character");
    }
    let parts: Vec<&str> = split(text).into_iter().map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > MAX_ADDRESSES {
        return Err("these are more than 100 addresses");
    }
    parts.into_iter().map(mailbox).collect()
}

/// The parts between commas that stand outside of quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_quoted) = (Vec::new(), 0, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn mailbox(text: &str) -> Result<Mailbox, &'static str> {
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (Some(name.trim().trim_matches('"').trim()).filter(|name| !name.is_empty()), address),
        None => (None, text),
    };
    if !address.is_ascii() {
        return Err("an address holds letters that are not ASCII");
    }
    let address: Address = address.trim().parse().map_err(|_| "this is no mail address")?;
    Ok(Mailbox::new(name.map(str::to_owned), address))
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Addresses, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        let is_fixed = !text.get_ref().contains('{');
        let problem = if text.get_ref().trim().is_empty() {
            Some("it is empty")
        } else {
            parse(text.get_ref()).err().filter(|_| is_fixed)
        };
        if let Some(problem) = problem {
            let help = "as in \"ward@hospital.example\" or \"Ward 3 <ward@hospital.example>\"".to_owned();
            report(text.span(), format!("`{}` cannot get mail: {problem}", text.get_ref()), "", Some(help));
        }
        Ok(Addresses(Template::compile(text.get_ref(), &text.span(), Escaping::None)))
    }
}

impl JsonSchema for Addresses {
    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A mail address, with expressions: \"Ward 3 <ward@hospital.example>\"." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, expected) in [
            ("a@b.example", Ok(vec!["a@b.example"])),
            (" A B <a@b.example> , c@d.example,", Ok(vec!["A B <a@b.example>", "c@d.example"])),
            ("\"B, A\" <a@b.example>", Ok(vec!["\"B, A\" <a@b.example>"])),
            ("", Ok(vec![])),
            (" , ", Ok(vec![])),
            ("a@b.example\r\nBcc: c@d.example", Err("an address holds a line break or another control character")),
            ("A\n <a@b.example>", Err("an address holds a line break or another control character")),
            ("a@b.example c@d.example", Err("this is no mail address")),
            ("<a@b.example> c@d.example", Err("this is no mail address")),
            ("a@b.example> SIZE=1 <", Err("this is no mail address")),
            ("ü@b.example", Err("an address holds letters that are not ASCII")),
            ("nobody", Err("this is no mail address")),
        ] {
            let found = parse(text).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(
                found,
                expected.map(|list: Vec<&str>| list.into_iter().map(str::to_owned).collect()),
                "{text:?}"
            );
        }
    }
}
