//! Who may post: credentials in headers, or a signature over the whole request.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use toml::Spanned;

use crate::config::{BuildError, Duration, Secret, report, time_limit};
use crate::net::webhook;

/// Who may post: "none", or one kind of credentials.
#[derive(Debug, Clone)]
pub(super) enum Auth {
    /// Everybody who can connect.
    None,
    /// Who has these.
    Credentials(Box<Credentials>),
}

/// One kind of credentials.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    /// A key in a header of its own.
    api_key: Option<ApiKey>,
    /// Names and passwords (RFC 7617).
    basic: Option<Vec<Login>>,
    /// Tokens: "Authorization: Bearer …". Several while one is replaced by the next.
    bearer: Option<Vec<Secret>>,
    /// Signatures over the whole request: Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`).
    standard_webhooks: Option<Webhooks>,
}

/// A key in a header of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApiKey {
    /// The header's name, as in "X-API-Key".
    #[schemars(with = "String")]
    header: Spanned<String>,
    /// The keys that are let in. Several for several clients, or while one is replaced by the next.
    keys: Vec<Secret>,
}

/// A name and a password.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The login name.
    user: String,
    /// The password.
    password: Secret,
}

/// Signatures as Standard Webhooks has them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Webhooks {
    /// The secrets, "whsec_" and base64. Several while one is replaced by the next.
    secrets: Vec<Secret>,
    /// How far the time of a signature may be from ours, before or after (5m if not given).
    #[serde(default = "default_tolerance", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    tolerance: Duration,
}

fn default_tolerance() -> Duration {
    Duration::from_secs(5 * 60)
}

impl<'de> Deserialize<'de> for Auth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Auth, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", or a table")
            }

            fn visit_str<E>(self, word: &str) -> Result<Read, E> {
                Ok(Read::Word(word == "none"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Read, A::Error> {
                let credentials = Credentials::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Read::Credentials(Box::new(credentials)))
            }
        }
        enum Read {
            Word(bool),
            Credentials(Box<Credentials>),
        }
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        let span = read.span();
        match read.into_inner() {
            Read::Word(is_none) => {
                if !is_none {
                    let help = "write \"none\" for everybody who can connect, or a table with credentials";
                    report(span, "`auth` cannot be this word", "", Some(help.to_owned()));
                }
                Ok(Auth::None)
            }
            Read::Credentials(credentials) => {
                if let Some((message, help)) = credentials.problem() {
                    report(span, message, "", Some(help.to_owned()));
                }
                Ok(Auth::Credentials(credentials))
            }
        }
    }
}

impl JsonSchema for Auth {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SourceAuth".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Credentials::json_schema(generator);
        schema.insert("type".to_owned(), serde_json::json!(["string", "object"]));
        schema
    }
}

impl Credentials {
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        let Credentials { api_key, basic, bearer, standard_webhooks } = self;
        let given = [api_key.is_some(), basic.is_some(), bearer.is_some(), standard_webhooks.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return Some((
                "`auth` needs one kind of credentials",
                "one of `api_key`, `basic`, `bearer` and `standard_webhooks`",
            ));
        }
        let is_empty = api_key.as_ref().is_some_and(|key| key.keys.is_empty())
            || basic.as_ref().is_some_and(Vec::is_empty)
            || bearer.as_ref().is_some_and(Vec::is_empty)
            || standard_webhooks.as_ref().is_some_and(|webhooks| webhooks.secrets.is_empty());
        if is_empty {
            return Some(("`auth` lets nobody in", "name at least one secret"));
        }
        if let Some(key) = api_key
            && HeaderName::try_from(key.header.get_ref().as_str()).is_err()
        {
            return Some(("`auth.api_key` names a header that cannot be", "a header's name, as in \"X-API-Key\""));
        }
        None
    }
}

type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Lets in, or not. Credentials are compared by their hashes: how long that takes says nothing of them.
#[derive(Debug)]
pub(super) enum Guard {
    Open,
    Header { name: HeaderName, digests: Vec<Digest> },
    Basic(Vec<(Digest, String)>),
    Bearer(Vec<Digest>),
    Signed { keys: webhook::Keys, tolerance: Duration },
}

/// Why somebody is not let in, for them and for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) &'static str);

impl Guard {
    /// Reads the secrets.
    pub(super) fn new(auth: Option<&Auth>) -> Result<Guard, BuildError> {
        let Some(Auth::Credentials(credentials)) = auth else { return Ok(Guard::Open) };
        let fetched = |secrets: &[Secret]| secrets.iter().map(fetch).collect::<Result<Vec<String>, BuildError>>();
        let digests = |secrets: &[Secret]| {
            Ok::<Vec<Digest>, BuildError>(fetched(secrets)?.iter().map(|key| digest(key.as_bytes())).collect())
        };
        let Credentials { api_key, basic, bearer, standard_webhooks } = &**credentials;
        if let Some(ApiKey { header, keys }) = api_key {
            let header = header.get_ref();
            let name = HeaderName::try_from(header.as_str())
                .map_err(|_| BuildError::Secret(format!("`{header}` cannot be a header's name")))?;
            return Ok(Guard::Header { name, digests: digests(keys)? });
        }
        if let Some(logins) = basic {
            let login = |login: &Login| {
                let text = format!("{}:{}", login.user, fetch(&login.password)?);
                Ok::<_, BuildError>((digest(text.as_bytes()), login.user.clone()))
            };
            return Ok(Guard::Basic(logins.iter().map(login).collect::<Result<_, _>>()?));
        }
        if let Some(tokens) = bearer {
            return Ok(Guard::Bearer(digests(tokens)?));
        }
        match standard_webhooks {
            Some(Webhooks { secrets, tolerance }) => {
                Ok(Guard::Signed { keys: webhook::Keys::read(secrets)?, tolerance: *tolerance })
            }
            None => Err(BuildError::Secret("`auth` is empty".to_owned())),
        }
    }

    /// Looks at what the headers alone show, before anything else is read. Gives the name of who it is, where there is one.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
        let known = |digests: &[Digest], value: &[u8]| digests.contains(&digest(value));
        match self {
            Guard::Open => Ok(None),
            Guard::Header { name, digests } => match headers.get(name) {
                Some(value) if known(digests, value.as_bytes()) => Ok(None),
                Some(_) => Err(Refusal("the key is not one of those that are let in")),
                None => Err(Refusal("a key is missing")),
            },
            Guard::Basic(logins) => {
                let encoded = scheme(headers, "Basic").ok_or(Refusal("a login is missing"))?;
                let decoded = STANDARD.decode(encoded.trim()).map_err(|_| Refusal("the login is no base64"))?;
                let presented = digest(&decoded);
                let login = logins.iter().find(|(digest, _)| *digest == presented);
                login
                    .map(|(_, user)| Some(user.as_str()))
                    .ok_or(Refusal("the login is not one of those that are let in"))
            }
            Guard::Bearer(digests) => match scheme(headers, "Bearer") {
                Some(token) if known(digests, token.trim().as_bytes()) => Ok(None),
                Some(_) => Err(Refusal("the token is not one of those that are let in")),
                None => Err(Refusal("a token is missing")),
            },
            Guard::Signed { tolerance, .. } => {
                let (_, timestamp, _) = signed(headers)?;
                let distance = Timestamp::now().as_second().abs_diff(timestamp);
                if distance > tolerance.get().as_secs() {
                    return Err(Refusal("the signature's time is too far from ours: look at both clocks"));
                }
                Ok(None)
            }
        }
    }

    /// Looks at the whole request, where the headers are not enough.
    pub(super) fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let Guard::Signed { keys, .. } = self else { return Ok(()) };
        let (id, timestamp, signatures) = signed(headers)?;
        if keys.verify(signatures, id, timestamp, body) { Ok(()) } else { Err(Refusal("no signature fits")) }
    }

    /// The header that says how to log in (RFC 9110 §11.6.1).
    pub(super) fn challenge(&self) -> (HeaderName, HeaderValue) {
        let scheme = match self {
            Guard::Basic(_) => "Basic realm=\"labwire\", charset=\"UTF-8\"",
            Guard::Bearer(_) => "Bearer realm=\"labwire\"",
            Guard::Open | Guard::Header { .. } => "ApiKey realm=\"labwire\"",
            Guard::Signed { .. } => "Signature realm=\"labwire\"",
        };
        (WWW_AUTHENTICATE, HeaderValue::from_static(scheme))
    }
}

fn fetch(secret: &Secret) -> Result<String, BuildError> {
    let text = secret.fetch()?;
    if text.is_empty() {
        return Err(BuildError::Secret(format!("{secret} is empty: everybody would be let in")));
    }
    Ok(text)
}

/// What follows the scheme in `Authorization`; schemes are written in any case.
fn scheme<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(name).then_some(rest)
}

/// Id, time and signatures.
fn signed(headers: &HeaderMap) -> Result<(&str, i64, &str), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let timestamp = text(webhook::TIMESTAMP).and_then(|text| text.parse().ok());
    match (text(webhook::ID), timestamp, text(webhook::SIGNATURE)) {
        (Some(id), Some(timestamp), Some(signatures)) if !id.is_empty() => Ok((id, timestamp, signatures)),
        _ => Err(Refusal("`webhook-id`, `webhook-timestamp` or `webhook-signature` is missing")),
    }
}
