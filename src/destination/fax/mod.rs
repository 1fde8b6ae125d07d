//! `fax`: sends each message's document through a fax vendor's HTTP interface.
//!
//! Design constraints:
//! - A delivery is sent when the vendor says that the fax arrived, not when it took the job.
//! - A fax is not sent twice. The job's id is journaled with the attempt that handed the fax over, and the next attempts only ask what
//!   became of it. Whoever crashed in between finds it at the vendor by its reference, which is made of the message's id, the
//!   destination's name and a number that counts the faxes that failed; or the vendor knows the reference again by itself.
//! - A vendor is data: a profile in a file (`profile.rs`). The connection, logins and faults are those of the `http` destination.

mod job;
mod profile;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use self::job::Sender;
use self::profile::Chosen;
use super::http::Auth;
use super::{Destination, DestinationConfig, DestinationKind};
use crate::config::{BuildError, Duration, Mistake, Place, Table, WebUrl, report, time_limit};
use crate::expr::{ExprError, Scope, Template};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::http::{Client, Route};
use crate::net::networks::Networks;
use crate::net::tls::ClientTls;

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "fax",
    summary: "Sends each message's document as a fax, through the HTTP interface of a fax vendor.",
    example: r#"type     = "fax"
profile  = "multipart"
url      = "https://api.fax.example"
auth     = { bearer = { file = "secrets/fax_token" } }
number   = "{{ event.data.referrer.fax }}"
document = "{{ event.data.report.pdf }}"
"#,
    schema: |generator| generator.subschema_for::<Options>(),
    faults: &[
        "refused",
        "reset",
        "timeout",
        "dns",
        "address",
        "tls",
        "authentication",
        "protocol",
        "answer",
        "3xx",
        "401",
        "403",
        "407",
        "408",
        "425",
        "429",
        "4xx",
        "503",
        "5xx",
        "temporary",
        "permanent",
        "content",
        "configuration",
    ],
    parse,
};

/// The options of a `fax` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// How the vendor is talked to: "multipart" or "json", which ship with the engine, or { file = "profiles/vendor.toml" }.
    #[schemars(with = "Chosen")]
    profile: Spanned<Chosen>,
    /// Where the vendor's interface is, as in "https://api.fax.example/v2"; the profile's paths follow.
    #[schemars(with = "WebUrl")]
    url: Spanned<WebUrl>,
    /// How Labwire logs in, as in the `http` destination: { bearer = { file = "secrets/fax_token" } }.
    #[schemars(with = "Option<Auth>")]
    auth: Option<Spanned<Auth>>,
    /// The number to call, with expressions: with its country, as in "+36 1 555 0182" (E.164).
    number: Template,
    /// The document, with expressions: a PDF in base64.
    document: Template,
    /// The number that calls, where the vendor wants to know.
    caller: Option<Template>,
    /// What the cover sheet says. Without it, there is none.
    cover: Option<Cover>,
    /// Further values for the profile: { account = "4711" } for `{values.account}`. Nothing secret.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    values: Option<Spanned<BTreeMap<String, String>>>,
    /// It is asked so often what became of a fax that the vendor has (30s if not given).
    #[serde(default = "default_poll", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    poll: Duration,
    /// The authority, the certificate and so on of TLS, as in the `http` destination.
    #[serde(default)]
    tls: ClientTls,
    /// Networks that may be sent to although they are not public, as in ["10.20.0.0/16"].
    #[serde(default)]
    networks: Networks,
    /// No connection within this time is a failed attempt (10s if not given).
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// No whole answer within this time is a failed attempt (60s if not given).
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    timeout: Duration,
}

/// What a cover sheet says, with expressions.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cover {
    /// For whom.
    to: Option<Template>,
    /// From whom.
    from: Option<Template>,
    /// About what.
    subject: Option<Template>,
    /// Some words.
    text: Option<Template>,
}

fn default_poll() -> Duration {
    Duration::from_secs(30)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

/// What is journaled to be sent: the same at every attempt.
#[derive(Serialize, Deserialize)]
struct Fax {
    number: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    caller: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cover: Option<BTreeMap<String, String>>,
    /// A PDF in base64.
    document: String,
}

fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let options = table.read_with_more::<Options>(super::COMMON_KEYS)?;
    let help = |text: &str| Some(text.to_owned());
    if options.url.get_ref().is_in_the_clear() {
        let text = "write `https://`: faxes are content";
        report(options.url.span(), "a fax in the clear", "everybody on the way could read it", help(text));
    }
    if options.url.get_ref().target.contains('?') {
        report(options.url.span(), "this URL has a query", "", help("queries stand in the profile's paths"));
    }
    if let Some(auth) = options.auth.as_ref().filter(|auth| auth.get_ref().count() != 1) {
        let text = "one of `basic`, `bearer`, `api_key` and `oauth2`";
        report(auth.span(), "`auth` needs one kind of login", "", help(text));
    }
    if let Some(auth) = options.auth.as_ref().filter(|auth| auth.get_ref().is_in_the_clear()) {
        let text = "write `https://` in `token_url` (RFC 6749 §3.2)";
        report(auth.span(), "a `client_secret` in the clear", "everybody on the way could read it", help(text));
    }
    if let Some(values) = &options.values
        && let Some(name) = values.get_ref().keys().find(|name| is_secret(name))
    {
        report(values.span(), format!("`{name}` looks like a secret"), "", help("what lets us in goes into `auth`"));
    }
    if let Some(profile) = &options.profile.get_ref().0 {
        profile::check_values(profile, options.values.as_ref(), options.profile.span());
    }
    Some(Box::new(options))
}

impl Options {
    fn fax(&self, scope: &Scope) -> Result<Fax, ExprError> {
        let number = self.number.render(scope)?;
        let wrong = |template: &Template, message: &str| ExprError {
            place: template.place().to_owned(),
            message: message.to_owned(),
        };
        let number = e164(&number).ok_or_else(|| {
            let message = "this is no number to call: it begins with + and the country, and has 8 to 15 digits (E.164)";
            wrong(&self.number, message)
        })?;
        let document: String = self.document.render(scope)?.split_ascii_whitespace().collect();
        if document.is_empty() {
            return Err(wrong(&self.document, "the document comes out empty"));
        }
        let content = STANDARD.decode(&document);
        let content = content.map_err(|_| wrong(&self.document, "the document is not base64"))?;
        if !is_pdf(&content) {
            return Err(wrong(&self.document, "the document is no PDF, or not a whole one"));
        }
        let render =
            |template: &Option<Template>| template.as_ref().map_or(Ok(String::new()), |text| text.render(scope));
        let cover = match &self.cover {
            Some(Cover { to, from, subject, text }) => {
                let parts = [("to", to), ("from", from), ("subject", subject), ("text", text)];
                let parts = parts.into_iter().map(|(key, part)| Ok((key.to_owned(), render(part)?)));
                Some(parts.collect::<Result<BTreeMap<_, _>, ExprError>>()?)
            }
            None => None,
        };
        Ok(Fax { number, caller: render(&self.caller)?, cover, document })
    }
}

/// Whether a name says that its value is secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "key"].iter().any(|word| name.contains(word))
}

/// A number as E.164 has it; none where it is none. Blanks, hyphens, full stops, slashes and brackets are how people write numbers.
fn e164(text: &str) -> Option<String> {
    let number: String = text.trim().chars().filter(|c| !" -./()\u{a0}".contains(*c)).collect();
    let digits = number.strip_prefix('+')?;
    let fits = (8..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    fits.then_some(number)
}

/// Whether it begins and ends as a PDF does (ISO 32000-1 §7.5.2 and §7.5.5; readers take it from the first and the last 1,024 bytes).
fn is_pdf(content: &[u8]) -> bool {
    const NEAR: usize = 1024;
    let (first, last) = (&content[..content.len().min(NEAR)], &content[content.len().saturating_sub(NEAR)..]);
    let holds = |part: &[u8], word: &[u8]| memchr::memmem::find(part, word).is_some();
    holds(first, b"%PDF-") && holds(last, b"%%EOF")
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let fax = self.fax(&Scope::new(message))?;
        let content = serde_json::to_vec(&fax);
        let content = content.map_err(|error| ExprError { place: "fax".to_owned(), message: error.to_string() })?;
        let properties = BTreeMap::from([(job::ID.to_owned(), message.meta.id.to_string())]);
        Ok(Outgoing { content: Bytes::from(content), properties })
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.mistakes()
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.tls.warnings(now)
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let profile = self.profile.get_ref().0.clone();
        let profile = profile.ok_or_else(|| BuildError::Secret("the fax profile was not read".to_owned()))?;
        let usual = ClientTls::usual();
        let tls = if self.tls.is_on() { &self.tls } else { &usual };
        let url = self.url.get_ref();
        let route = Route {
            // Tokens come from elsewhere, perhaps, and with the same authorities.
            tls: if url.origin.is_https || self.auth.is_some() { tls.build(place)?.map(Arc::new) } else { None },
            origin: url.origin.clone(),
            networks: self.networks.clone(),
            proxy: None,
            connect_timeout: self.connect_timeout.get(),
        };
        let (mut secrets, longest) = (Vec::new(), self.timeout.get());
        let login = self.auth.as_ref().map(|auth| auth.get_ref().login(&route, longest, &mut secrets)).transpose()?;
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Box::new(Sender {
            profile,
            server: url.origin.to_string(),
            base: url.target.trim_end_matches('/').to_owned(),
            values: self.values.as_ref().map(|values| values.get_ref().clone()).unwrap_or_default(),
            destination: place.name.clone(),
            poll: self.poll.get(),
            longest,
            client: Client::new(route),
            login,
            secrets,
            last: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("+36 1 555 0182", Some("+3615550182")),
            ("+43 (1) 40.400-5510", Some("+431404005510")),
            ("+3615550182\n", Some("+3615550182")),
            ("+12345678", Some("+12345678")),
            ("+123456789012345", Some("+123456789012345")),
            ("+1234567", None),
            ("+1234567890123456", None),
            ("06 1 555 0182", None),
            ("+06155501820", None),
            ("+36 1 555 0182 ext 3", None),
            ("", None),
        ] {
            assert_eq!(e164(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn documents() {
        assert!(is_pdf(b"%PDF-1.4\n1 0 obj\n%%EOF\n"));
        for content in [&b"%PDF-1.4\n1 0 obj\n"[..], b"GIF89a %%EOF", b""] {
            assert!(!is_pdf(content));
        }
    }
}
