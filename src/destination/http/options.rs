//! What a channel file says of an `http` destination.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Auth;
use super::body::{BodyKind, Part, Parts};
use super::rules::Rule;
use super::{Sender, property};
use crate::config::{BuildError, ByteSize, Duration, HostPort, Mistake, Place, Secret, Table, report, time_limit};
use crate::destination::{COMMON_KEYS, Destination, DestinationConfig};
use crate::expr::{ExprError, HeaderTemplate, Scope, Template, UrlTemplate};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::http::{Client, Proxy, Route, basic};
use crate::net::networks::Networks;
use crate::net::tls::ClientTls;
use crate::net::webhook;

/// Headers that have an option of their own, or that Labwire alone can know; and what to do instead.
const RESERVED: &[(&str, &str)] = &[
    ("authorization", "a login goes into `auth`, its secret into a file or the environment"),
    ("connection", "Labwire writes it"),
    ("content-length", "Labwire writes it"),
    ("content-type", "write `content_type`"),
    ("cookie", "what lets us in goes into `auth.api_key`, its secret into a file or the environment"),
    ("expect", "Labwire does not wait before it sends"),
    ("host", "it follows from `url`"),
    ("idempotency-key", "Labwire writes it: the same at every attempt"),
    ("proxy-authorization", "it belongs into `proxy`"),
    ("te", "Labwire writes it"),
    ("trailer", "Labwire writes it"),
    ("transfer-encoding", "Labwire writes it"),
    ("upgrade", "Labwire writes it"),
    ("x-api-key", "a key goes into `auth.api_key`, its secret into a file or the environment"),
    ("webhook-id", "`sign` writes it"),
    ("webhook-signature", "`sign` writes it"),
    ("webhook-timestamp", "`sign` writes it"),
];

/// Those of them that an `api_key` may be sent in.
const IS_A_KEY: [&str; 3] = ["authorization", "cookie", "x-api-key"];

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Verb {
    Get,
    #[default]
    Post,
    Put,
    Patch,
    Delete,
}

/// The options of an `http` destination.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Where to send, as in "https://lis.example/results/{{ meta.id }}". Path and query may hold expressions, whose output is
    /// encoded; the host may not.
    pub(super) url: UrlTemplate,
    /// "GET", "POST", "PUT", "PATCH" or "DELETE".
    #[serde(default)]
    pub(super) method: Verb,
    /// Further headers, their values with expressions: { "X-Lab" = "{{ meta.lab }}" }.
    #[serde(default)]
    headers: BTreeMap<String, HeaderTemplate>,
    /// What is sent: "raw" (the message as it is; the default), "json", "xml", "form" (`fields`), "multipart" (`fields`, and the
    /// message as the file of `part`), or "none" (the default with GET and DELETE).
    body: Option<BodyKind>,
    /// The content's type, where it is not the usual one of `body`; with "multipart" that of the file.
    content_type: Option<String>,
    /// The fields of a form, their values with expressions: { patient = "{{ msg['PID-3.1'] }}" }.
    #[serde(default)]
    fields: BTreeMap<String, Template>,
    /// How the message is named in a multipart body: { name = "file", file_name = "{{ meta.id }}.hl7" }.
    part: Option<Part>,
    /// How Labwire logs in: one of `basic`, `bearer`, `api_key` and `oauth2`.
    auth: Option<Auth>,
    /// How requests are signed.
    sign: Option<Sign>,
    /// What answers mean, where the status alone does not say it; the first rule that fits decides, before `on`:
    /// [{ pointer = "/status", equals = "error", then = "dead" }].
    #[serde(default)]
    pub(super) responses: Vec<Rule>,
    /// The networks beside the public internet that may be connected to, as in ["10.0.0.0/8"]. Every other private address is
    /// refused, whatever name leads to it; with a proxy this concerns the proxy.
    #[serde(default)]
    networks: Networks,
    /// The proxy that requests go through. None is ever taken from the environment.
    proxy: Option<ProxyOptions>,
    /// How a server is verified whose URL begins with https: a table where its certificate comes from an authority of its own, is
    /// pinned, or where it wants to see ours. Not given: by the authorities that this system knows.
    #[serde(default)]
    tls: ClientTls,
    /// How long finding the name, connecting and TLS may take together.
    #[serde(default = "default_connect_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    connect_timeout: Duration,
    /// How long sending the request and reading the whole answer may take together.
    #[serde(default = "default_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    pub(super) timeout: Duration,
    /// So much of an answer's content is read and kept in the journal, the rest is dropped.
    #[serde(default = "default_max_response")]
    pub(super) max_response: ByteSize,
}

/// An HTTP proxy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProxyOptions {
    /// Where it is, as in "proxy.hospital.example:3128".
    address: HostPort,
    /// The login name, where it wants one.
    user: Option<String>,
    /// The password that belongs to it.
    password: Option<Secret>,
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_max_response() -> ByteSize {
    ByteSize::from_mib(1)
}

pub(super) fn parse(table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let (span, name) = (table.span(), table.name().to_owned());
    let mut given = table.clone();
    let options: Options = table.read_with_more(COMMON_KEYS)?;
    let headers = given.take("headers").and_then(|entry| entry.into_table("headers"));
    let mut seen = BTreeSet::new();
    for entry in headers.into_iter().flat_map(Table::into_entries) {
        if !seen.insert(entry.name().to_ascii_lowercase()) {
            let help = Some("upper and lower case are the same in a header's name".to_owned());
            report(entry.key.span(), format!("header `{}` is written twice", entry.name()), "", help);
        }
        if let Some((problem, help)) = header_problem(entry.name()) {
            report(entry.key.span(), format!("header `{}` {problem}", entry.name()), "", Some(help.to_owned()));
        }
    }
    if let Some(tls) = given.take("tls").filter(|_| options.is_https() != options.tls.is_on()) {
        let (what, help) = if options.is_https() {
            ("cannot switch TLS off", "a URL in the clear begins with `http://`")
        } else {
            ("has `tls` that no URL speaks", "a URL with TLS begins with `https://`")
        };
        report(tls.key.span(), format!("{name} {what}"), "", Some(help.to_owned()));
    }
    for (key, problem, help) in options.problems() {
        let span = given.take(key).map_or(span.clone(), |entry| entry.key.span());
        report(span, format!("{name} {problem}"), "", Some(help.to_owned()));
    }
    Some(Box::new(options))
}

/// How requests are signed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sign {
    /// Secrets as Standard Webhooks has them: "whsec_" and base64. Several while the receiver changes from one to the next: each
    /// gives a signature. Sends `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    standard_webhooks: Vec<Secret>,
}

/// Parameters of a request for a token whose values are secrets (RFC 6749 §2.3.1, §4.3.2; RFC 7521 §4.2).
fn is_secret(parameter: &str) -> bool {
    ["client_secret", "client_assertion", "password"].contains(&parameter)
}

fn header_problem(name: &str) -> Option<(&'static str, &'static str)> {
    let lower = name.to_ascii_lowercase();
    if HeaderName::try_from(name).is_err() {
        return Some(("cannot be a header's name", "letters, digits and `-`, as in \"X-Lab\""));
    }
    RESERVED.iter().find(|(reserved, _)| *reserved == lower).map(|(_, help)| ("cannot be written here", *help))
}

impl Options {
    /// What options together get wrong: the key to show, what is wrong, what to do.
    fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let mut wrong = |is_wrong: bool, key, problem: &str, help| {
            if is_wrong {
                found.push((key, problem.to_owned(), help));
            }
        };
        let kind = self.body_kind();
        let takes_fields = matches!(kind, BodyKind::Form | BodyKind::Multipart);
        let none =
            matches!(self.method, Verb::Get | Verb::Delete) && self.body.is_some_and(|kind| kind != BodyKind::None);
        wrong(
            none,
            "body",
            "has a body that GET and DELETE do not carry",
            "use POST, PUT or PATCH, or leave `body` out",
        );
        wrong(
            kind == BodyKind::Form && self.fields.is_empty(),
            "body",
            "sends a form without `fields`",
            "write `fields = { name = \"{{ … }}\" }`",
        );
        wrong(
            !takes_fields && !self.fields.is_empty(),
            "fields",
            "has `fields` that are sent nowhere",
            "they belong to `body = \"form\"` or `body = \"multipart\"`",
        );
        let part = "write `part = { name = \"file\", file_name = \"{{ meta.id }}.hl7\" }` with `body = \"multipart\"`";
        let is_multipart = kind == BodyKind::Multipart;
        wrong(is_multipart && self.part.is_none(), "body", "sends a multipart body without `part`", part);
        wrong(!is_multipart && self.part.is_some(), "part", "has a `part` that is sent nowhere", part);
        let typed = self.content_type.as_deref();
        let bad_type = typed.is_some_and(|text| HeaderValue::from_str(text).is_err() || !text.contains('/'));
        wrong(bad_type, "content_type", "has a `content_type` that is none", "as in \"application/fhir+json\"");
        wrong(
            typed.is_some() && matches!(kind, BodyKind::Form | BodyKind::None),
            "content_type",
            "has a `content_type` that is sent nowhere",
            "it belongs to bodies that are made from the message",
        );
        self.access_problems(&mut wrong);
        for rule in &self.responses {
            if let Some(problem) = rule.problem() {
                wrong(
                    true,
                    "responses",
                    &format!("has a rule in `responses` that {problem}"),
                    "one look for each rule",
                );
            }
        }
        found
    }

    fn access_problems(&self, wrong: &mut impl FnMut(bool, &'static str, &str, &'static str)) {
        let one = "one of `basic`, `bearer`, `api_key` and `oauth2`";
        let auth = self.auth.as_ref();
        wrong(auth.is_some_and(|auth| auth.count() != 1), "auth", "needs one kind of login in `auth`", one);
        let key = auth.and_then(|auth| auth.api_key.as_ref()).map(|key| key.header.to_ascii_lowercase());
        let bad = key.is_some_and(|key| !IS_A_KEY.contains(&&*key) && header_problem(&key).is_some());
        wrong(bad, "auth", "has an `api_key` whose `header` cannot be", "a header's name, as in \"X-API-Key\"");
        let oauth2 = auth.and_then(|auth| auth.oauth2.as_ref());
        let in_the_clear = oauth2.is_some_and(|oauth2| oauth2.token_url.is_in_the_clear());
        let help = "RFC 6749 §3.2 asks for https; in the clear a token may only come from this machine itself";
        wrong(in_the_clear, "auth", "would send its `client_secret` in the clear", help);
        let parameter = oauth2.and_then(|oauth2| oauth2.parameters.keys().find(|name| is_secret(name)));
        let problem = format!("has a secret in `oauth2.parameters`: `{}`", parameter.map_or("", String::as_str));
        wrong(parameter.is_some(), "auth", &problem, "secrets stand in files or in the environment");
        let unsigned = self.sign.as_ref().is_some_and(|sign| sign.standard_webhooks.is_empty());
        wrong(unsigned, "sign", "signs with no secret", "write `sign = { standard_webhooks = [{ file = \"path\" }] }`");
        let half = self.proxy.as_ref().is_some_and(|proxy| proxy.user.is_some() != proxy.password.is_some());
        wrong(half, "proxy", "has a `proxy` with half a login", "`user` and `password` belong together");
        let private = self.proxy.is_none().then(|| self.url.origin.at.host.parse().ok()).flatten();
        let private = private.filter(|address| !Route::permits(&self.networks, *address));
        if let Some(address) = private {
            let problem = format!("sends to {address}, which is no public address");
            wrong(true, "url", &problem, "write it, or its network, into `networks` where it is meant");
        }
    }

    /// Whether anything here is reached by TLS.
    fn is_https(&self) -> bool {
        let token_url = self.auth.as_ref().and_then(|auth| auth.oauth2.as_ref()).map(|oauth2| &oauth2.token_url.origin);
        self.url.origin.is_https || token_url.is_some_and(|origin| origin.is_https)
    }

    fn body_kind(&self) -> BodyKind {
        self.body.unwrap_or(match self.method {
            Verb::Get | Verb::Delete => BodyKind::None,
            Verb::Post | Verb::Put | Verb::Patch => BodyKind::Raw,
        })
    }

    fn route(&self, place: &Place, secrets: &mut Vec<String>) -> Result<Route, BuildError> {
        let proxy = self.proxy.as_ref().map(|ProxyOptions { address, user, password }| {
            let password = password.as_ref().map(Secret::fetch).transpose()?;
            secrets.extend(password.clone());
            let authorization = user.as_ref().zip(password).map(|(user, password)| basic(user, &password));
            Ok(Proxy { at: address.clone(), authorization })
        });
        let usual = ClientTls::usual();
        let tls = if self.tls.is_on() { &self.tls } else { &usual };
        let tls = if self.is_https() { tls.build(place)? } else { None };
        Ok(Route {
            tls: tls.map(Arc::new),
            origin: self.url.origin.clone(),
            networks: self.networks.clone(),
            proxy: proxy.transpose()?,
            connect_timeout: self.connect_timeout.get(),
        })
    }
}

#[async_trait]
impl DestinationConfig for Options {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let scope = Scope::new(message);
        let parts = Parts {
            kind: self.body_kind(),
            content_type: self.content_type.as_deref(),
            fields: &self.fields,
            part: self.part.as_ref(),
        };
        let (content, content_type) = parts.write(message, &scope)?;
        let mut properties = BTreeMap::from([
            (property::ID.to_owned(), message.meta.id.to_string()),
            (property::TARGET.to_owned(), self.url.render(&scope)?),
        ]);
        properties.extend(content_type.map(|content_type| (property::CONTENT_TYPE.to_owned(), content_type)));
        for (name, value) in &self.headers {
            properties.insert(format!("{}{name}", property::HEADER), value.render(&scope)?);
        }
        Ok(Outgoing { content, properties })
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.tls.mistakes()
    }

    fn warnings(&self, now: Timestamp) -> Vec<String> {
        self.tls.warnings(now)
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        let mut secrets = Vec::new();
        let route = self.route(place, &mut secrets)?;
        let longest = self.timeout.get();
        let login = self.auth.as_ref().map(|auth| auth.login(&route, longest, &mut secrets)).transpose()?;
        let signer = self.sign.as_ref().map(|sign| webhook::Keys::read(&sign.standard_webhooks)).transpose()?;
        // The shortest ones last: one may be part of another. An empty one would be everywhere.
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Box::new(Sender {
            options: self.clone(),
            name: place.name.clone(),
            client: Client::new(route),
            login,
            signer,
            answered: None,
            secrets,
        }))
    }
}
