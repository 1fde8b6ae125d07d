//! Who we are: basic, bearer, API key, and OAuth 2.0 client credentials (RFC 6749 §4.4) with a token that is kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::form_urlencoded;

use super::AGENT;
use super::explain::{describe, retry_after};
use crate::config::{BuildError, Secret, WebUrl};
use crate::destination::{Disposition, FaultClass, SendError};
use crate::net::http::{Answer, Ask, Client, Route, basic, secret_value};

/// The largest answer of a token server that is read.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// A token that does not say for how long it is good is asked for anew after so long.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// A token is replaced so long before it ends, or a tenth of its life where that is less.
const LEEWAY: Duration = Duration::from_secs(30);

/// How Labwire logs in: one of these.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::destination) struct Auth {
    /// A name and a password (RFC 7617).
    pub(super) basic: Option<Basic>,
    /// A token that was given to us: sent as "Authorization: Bearer …".
    pub(super) bearer: Option<Secret>,
    /// A key in a header of its own.
    pub(super) api_key: Option<ApiKey>,
    /// A token that is fetched with a client's id and secret, and kept until shortly before it ends.
    pub(super) oauth2: Option<OAuth2>,
}

/// A name and a password.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Basic {
    /// The login name.
    user: String,
    /// The password.
    password: Secret,
}

/// A key in a header of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKey {
    /// The header's name, as in "X-API-Key".
    pub(super) header: String,
    /// The key.
    key: Secret,
}

/// OAuth 2.0 client credentials.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OAuth2 {
    /// Where tokens are to be had, as in "https://login.example/oauth2/token".
    pub(super) token_url: WebUrl,
    /// Who we are there.
    client_id: String,
    /// The secret that belongs to it.
    client_secret: Secret,
    /// What the token is for, where the server wants to know; several words with blanks between them.
    scope: Option<String>,
    /// Further parameters of the request for a token, as in { audience = "https://lis.example" }.
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, String>,
    /// Where id and secret are written: "header" (as a basic login) or "body".
    #[serde(default)]
    credentials: Credentials,
    /// The token of all connections of this destination. Locked while it is fetched, so that it is fetched once.
    #[serde(skip)]
    token: Arc<Mutex<Option<Token>>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Credentials {
    #[default]
    Header,
    Body,
}

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// A login that is ready for use.
pub(in crate::destination) enum Login {
    /// A header that is always the same.
    Fixed(HeaderName, HeaderValue),
    /// A token that is fetched.
    Token(Box<Tokens>),
}

impl Auth {
    /// How many of them are given.
    pub(in crate::destination) fn count(&self) -> usize {
        let Auth { basic, bearer, api_key, oauth2 } = self;
        [basic.is_some(), bearer.is_some(), api_key.is_some(), oauth2.is_some()].iter().filter(|given| **given).count()
    }

    /// Whether it would send a secret to a token server in the clear.
    pub(in crate::destination) fn is_in_the_clear(&self) -> bool {
        self.oauth2.as_ref().is_some_and(|oauth2| oauth2.token_url.is_in_the_clear())
    }

    /// Reads the secrets. What must not be seen is put on the list of secrets.
    pub(in crate::destination) fn login(
        &self,
        route: &Route,
        longest: Duration,
        secrets: &mut Vec<String>,
    ) -> Result<Login, BuildError> {
        let mut fetch = |secret: &Secret| {
            let value = secret.fetch()?;
            secrets.push(value.clone());
            Ok(value)
        };
        let unfit = |secret: &Secret| {
            BuildError::Secret(format!(
                "{secret}: a header cannot hold it: it has line breaks or letters that are not ASCII"
            ))
        };
        let header = |secret: &Secret, text: &str| secret_value(text).ok_or_else(|| unfit(secret));
        if let Some(Basic { user, password }) = &self.basic {
            let value = basic(user, &fetch(password)?);
            secrets.extend(value.to_str().ok().and_then(|text| text.strip_prefix("Basic ")).map(str::to_owned));
            return Ok(Login::Fixed(AUTHORIZATION, value));
        }
        if let Some(secret) = &self.bearer {
            let token = fetch(secret)?;
            return Ok(Login::Fixed(AUTHORIZATION, header(secret, &format!("Bearer {token}"))?));
        }
        if let Some(ApiKey { header: name, key }) = &self.api_key {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| BuildError::Secret(format!("`{name}` cannot be a header's name")))?;
            let value = fetch(key)?;
            return Ok(Login::Fixed(name, header(key, &value)?));
        }
        let options = self.oauth2.clone().ok_or_else(|| BuildError::Secret("`auth` is empty".to_owned()))?;
        let secret = fetch(&options.client_secret)?;
        let client = Client::new(Route { origin: options.token_url.origin.clone(), ..route.clone() });
        Ok(Login::Token(Box::new(Tokens { options, secret, client, longest })))
    }
}

/// Fetches tokens.
pub(in crate::destination) struct Tokens {
    options: OAuth2,
    secret: String,
    client: Client,
    longest: Duration,
}

impl Tokens {
    /// The value of `Authorization`, and whether it was fetched just now.
    pub(in crate::destination) async fn get(&mut self) -> Result<(HeaderValue, bool), SendError> {
        let shared = self.options.token.clone();
        // Another attempt may be fetching one, and take as long as a fetch may take.
        let patience = self.client.route().connect_timeout + self.longest;
        let Ok(mut token) = tokio::time::timeout(patience, shared.lock()).await else {
            let server = &self.options.token_url.origin;
            let message = format!("{server}, where tokens come from, has not answered another attempt yet");
            return Err(SendError::new(FaultClass::Timeout, message).then(Disposition::Retry));
        };
        if let Some(token) = token.as_ref().filter(|token| token.until > Instant::now()) {
            return Ok((token.value.clone(), false));
        }
        // What `on` says is about the answers of the destination itself: `500 = "sent"` must not be said of a token server.
        let fetched = self.fetch().await.map_err(|error| SendError { then: Some(error.disposition()), ..error })?;
        let value = fetched.value.clone();
        *token = Some(fetched);
        Ok((value, true))
    }

    /// Never uses this one again.
    pub(in crate::destination) async fn forget(&self, refused: &HeaderValue) {
        let mut token = self.options.token.lock().await;
        token.take_if(|token| token.value == *refused);
    }

    fn ask(&self) -> Ask {
        let OAuth2 { token_url, client_id, scope, parameters, credentials, .. } = &self.options;
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        form.extend_pairs(scope.iter().map(|scope| ("scope", scope)));
        form.extend_pairs(parameters);
        let mut headers = HeaderMap::new();
        match credentials {
            // Encoded first: RFC 6749 §2.3.1.
            Credentials::Header => {
                headers.insert(AUTHORIZATION, basic(&encoded(client_id), &encoded(&self.secret)));
            }
            Credentials::Body => {
                form.append_pair("client_id", client_id).append_pair("client_secret", &self.secret);
            }
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let target = token_url.target.parse().expect("a URL without expressions was checked when it was read");
        Ask { method: Method::POST, target, headers, body: Bytes::from(form.finish()) }
    }

    async fn fetch(&mut self) -> Result<Token, SendError> {
        let server = self.options.token_url.origin.to_string();
        let ask = self.ask();
        let answer = self.client.exchange(&ask, self.longest, MAX_TOKEN_BYTES).await;
        // What a token server answers is not shown: it may be a token.
        let answer = answer.map_err(|fault| describe(&server, self.client.route(), self.longest, fault))?;
        let status = answer.status;
        match status.as_u16() {
            200..=299 => {}
            408 | 425 | 429 | 500.. => {
                let message = format!("{server}, where tokens come from, answered {status}");
                // The destination as a whole cannot be reached.
                let error = SendError::new(FaultClass::Refused, message);
                return Err(match retry_after(&answer.headers) {
                    Some(wait) => error.after(wait),
                    None => error,
                });
            }
            _ => {
                let code = error_code(&answer).map_or(String::new(), |code| format!(", {code}"));
                let message = format!(
                    "{server} gives no token: it answered {status}{code}; look at `client_id`, `client_secret`, `scope` and `token_url`"
                );
                return Err(SendError::new(FaultClass::Authentication, message));
            }
        }
        token_of(&answer).ok_or_else(|| {
            let message = format!("{server} answered {status}, but with no bearer token in JSON (RFC 6749 §5.1)");
            SendError::new(FaultClass::Authentication, message)
        })
    }
}

/// The code of an error answer, of those that RFC 6749 §5.2 knows: another one could be anything.
fn error_code(answer: &Answer) -> Option<&'static str> {
    const KNOWN: &[&str] = &[
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let json: Value = serde_json::from_slice(&answer.body).ok()?;
    let code = json["error"].as_str()?;
    KNOWN.iter().find(|known| **known == code).copied()
}

fn token_of(answer: &Answer) -> Option<Token> {
    let json: Value = serde_json::from_slice(&answer.body).ok()?;
    let is_bearer = json["token_type"].as_str().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let token = json["access_token"].as_str().filter(|token| is_bearer && !token.is_empty())?;
    let life = &json["expires_in"];
    let life = life.as_u64().or_else(|| life.as_str()?.parse().ok()).map_or(UNKNOWN_LIFE, Duration::from_secs);
    // A year at most, so that no sum overflows.
    let life = life.min(Duration::from_secs(365 * 24 * 3600));
    let value = secret_value(&format!("Bearer {token}"))?;
    Some(Token { value, until: Instant::now() + life.saturating_sub(LEEWAY.min(life / 10)) })
}
