//! What channel files say about the engine's own SFTP server: the keys that its source and its destination share.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::{
    BuildError, Duration, Listen, Mistake, Place, PlacedSecret, Resource, Table, more_than, parsed, report, resolve,
    time_limit,
};
use crate::hosted::{
    self, Capture, Credentials, Granted, Identity, Limits, Listener, ListenerError, NewGrant, Rules, Settings,
};
use crate::net::networks::Networks;

/// The keys of [`Door`].
const KEYS: &[&str] = &["listen", "host_key", "limits", "user", "keys", "password", "allow", "folder"];

/// Folders below folders.
const DEPTH: usize = 8;

/// A folder of a user, and what opens it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// Where the SFTP server listens, as in "0.0.0.0:2222". Channels that name the same address share one server; `host_key` and
    /// `limits` must then be the same in all of them.
    listen: Listen,
    /// The server's own private key, in OpenSSH format. Without it, one is made at the first start and kept in the data folder; the
    /// log says its fingerprint.
    host_key: Option<PlacedSecret>,
    /// What clients of this server can use up.
    #[serde(default)]
    limits: LimitKeys,
    /// The name that the partner logs in with.
    user: UserName,
    /// The partner's public keys: a list as in ["ssh-ed25519 AAAA… partner"], or { file = "path" } with one in each line. The file is
    /// read at each login.
    keys: Option<Keys>,
    /// The argon2 hash of the partner's password (`labwire key hash` makes it), for partners who cannot use keys.
    password: Option<PlacedSecret>,
    /// The addresses and networks from which the partner may log in, as in ["10.20.0.0/16"]. Without it, from everywhere.
    allow: Option<Networks>,
    /// The folder as the partner sees it, as in "orders/in"; "/" is where a login begins.
    folder: FolderName,
}

/// What clients of one server can use up.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct LimitKeys {
    /// Connections at one time; one more is closed at once (256 if not given).
    #[serde(deserialize_with = "some")]
    connections: u32,
    /// Connections of one user at one time (16 if not given).
    #[serde(deserialize_with = "some")]
    connections_per_user: u32,
    /// Connections that are not logged in yet; where there are more, the oldest of the address that has most is closed (32 if not
    /// given).
    #[serde(deserialize_with = "some")]
    logging_in: u32,
    /// How long a login may take (30s if not given).
    #[serde(deserialize_with = "time_limit")]
    login_time: Duration,
    /// Refused logins on one connection before it is closed (6 if not given).
    #[serde(deserialize_with = "some")]
    login_tries: u32,
    /// Refused logins from one address, within `ban`, after which nobody from there is let in for as long as `ban` says; 0 bans nobody
    /// (20 if not given). Keys that are refused count once for each connection.
    failures: u32,
    /// For how long an address is banned (10m if not given).
    #[serde(deserialize_with = "time_limit")]
    ban: Duration,
    /// Closes a connection on which nothing comes for so long (10m if not given).
    #[serde(deserialize_with = "time_limit")]
    idle_time: Duration,
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    more_than(deserializer, 0, "nobody could log in", "`enabled = false` keeps a channel out of service")
}

impl Default for LimitKeys {
    fn default() -> LimitKeys {
        LimitKeys {
            connections: 256,
            connections_per_user: 16,
            logging_in: 32,
            login_time: Duration::from_secs(30),
            login_tries: 6,
            failures: 20,
            ban: Duration::from_secs(600),
            idle_time: Duration::from_secs(600),
        }
    }
}

impl LimitKeys {
    fn limits(&self) -> Limits {
        Limits {
            connections: self.connections as usize,
            connections_per_user: self.connections_per_user as usize,
            logging_in: self.logging_in as usize,
            login: self.login_time.get(),
            login_attempts: self.login_tries as usize,
            failures: self.failures,
            ban: self.ban.get(),
            idle: self.idle_time.get(),
            ..Limits::default()
        }
    }
}

impl Door {
    /// Reads these keys out of a table; `own` are the other keys that it may have.
    pub fn take(table: &mut Table<'_>, own: &[&str]) -> Option<Door> {
        let (span, name) = (table.span(), table.name().to_owned());
        let door: Door = table.split_off(KEYS).read_with_more(own)?;
        if door.keys.is_none() && door.password.is_none() {
            let help = "write `keys = [\"ssh-ed25519 AAAA…\"]`, `keys = { file = \"path\" }`, or `password = { file = \"path\" }` with an argon2 hash";
            report(span, format!("{name} needs `keys` or `password`"), "nobody could log in", Some(help.to_owned()));
        }
        Some(door)
    }

    /// The names of these keys, for "did you mean".
    pub fn keys() -> &'static [&'static str] {
        KEYS
    }

    /// The schema of a table that has these keys and those of `T`.
    pub fn schema_with<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<Door>().to_value();
        let own = generator.subschema_for::<T>().to_value();
        for (key, empty) in [("properties", serde_json::json!({})), ("required", serde_json::json!([]))] {
            let all = schema.as_object_mut().map(|schema| schema.entry(key).or_insert(empty));
            match (all, own.get(key)) {
                (Some(serde_json::Value::Object(all)), Some(serde_json::Value::Object(more))) => {
                    all.extend(more.clone())
                }
                (Some(serde_json::Value::Array(all)), Some(serde_json::Value::Array(more))) => all.extend(more.clone()),
                _ => {}
            }
        }
        schema.try_into().unwrap_or_else(|_| generator.subschema_for::<T>())
    }

    /// What it needs, and shares with none or only with its like. `shared` is what is said of the folder where several may have it.
    pub fn resources(&self, shared: Option<String>) -> Vec<Resource> {
        let settings = format!("{:?} {:?}", self.host_key.as_ref().map(|key| &key.secret), self.limits);
        let (user, folder) = (self.user.0.clone(), self.folder.0.clone());
        vec![Resource::SharedPort { address: self.listen.0, settings }, Resource::Folder { user, folder, shared }]
    }

    /// What is wrong with the keys and hashes that it refers to.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let bad = |secret: &PlacedSecret, judge: fn(&str) -> Option<String>| match secret.text()? {
            Ok(text) => judge(text.trim()).map(|problem| secret.mistake(&problem)),
            Err(problem) => Some(secret.mistake(&problem)),
        };
        found.extend(self.host_key.as_ref().and_then(|key| bad(key, hosted::bad_host_key)));
        found.extend(self.password.as_ref().and_then(|password| bad(password, hosted::bad_hash)));
        if let Some(Keys::File { path, span }) = &self.keys
            && let Err(problem) = read_keys(path)
        {
            found
                .push(Mistake { span: span.clone(), message: format!("{} cannot be used: {problem}", path.display()) });
        }
        found
    }

    /// Where the folder is on this machine.
    pub fn disk(&self, place: &Place) -> Result<PathBuf, BuildError> {
        let data = place.data.as_ref().ok_or_else(|| BuildError::Hosted("there is no data folder".to_owned()))?;
        Ok(hosted::folder_of(data, &self.user.0, &self.folder.0))
    }

    /// The listener; opened if it is not open.
    pub async fn listener(&self, place: &Place) -> Result<Arc<Listener>, BuildError> {
        if let Some(Keys::File { path, .. }) = &self.keys {
            read_keys(path).map_err(|problem| BuildError::Secret(format!("{}: {problem}", path.display())))?;
        }
        if let Some(PlacedSecret { secret, .. }) = &self.password
            && let Some(problem) = hosted::bad_hash(&secret.fetch()?)
        {
            return Err(BuildError::Secret(format!("{secret}: {problem}")));
        }
        let disk = self.disk(place)?;
        hosted::make_folder(&disk).map_err(|error| BuildError::Hosted(format!("{}: {error}", disk.display())))?;
        let identity = match (&self.host_key, &place.data) {
            (Some(key), _) => Identity::Text(key.secret.fetch()? + "\n"),
            (None, Some(data)) => Identity::File(data.join("hosted/host_key")),
            (None, None) => Identity::Generated,
        };
        let settings = Settings { identity, limits: self.limits.limits() };
        let address = self.listen.0;
        Listener::open(address, settings).await.map_err(|error| match error {
            ListenerError::Port(error) => BuildError::Listen { address, error },
            other => BuildError::Hosted(format!("the SFTP server on {address}: {other}")),
        })
    }

    /// Opens the folder to the partner. Blocking, within a tokio runtime.
    pub fn open(
        &self,
        listener: &Arc<Listener>,
        channel: &str,
        disk: PathBuf,
        rules: Rules,
        capture: Option<Arc<dyn Capture>>,
    ) -> std::io::Result<Granted> {
        let (keys, password, allow) = (self.keys.clone(), self.password.clone(), self.allow.clone());
        listener.grant(NewGrant {
            channel: channel.to_owned(),
            user: self.user.0.clone(),
            credentials: Credentials {
                keys: Box::new(move || keys.as_ref().map_or_else(Vec::new, Keys::now)),
                password: password.map(|password| {
                    Box::new(move || password.secret.fetch().ok().map(|hash| hash.trim().to_owned())) as Box<_>
                }),
            },
            allows: Box::new(move |peer: IpAddr| allow.as_ref().is_none_or(|networks| networks.hold(peer))),
            folder: self.folder.0.clone(),
            disk,
            rules,
            capture,
        })
    }
}

/// A login name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UserName(String);

impl UserName {
    fn parse(text: &str) -> Result<UserName, (String, String)> {
        if is_plain(text) {
            Ok(UserName(text.to_owned()))
        } else {
            let help = "letters, digits, `-`, `_` and `.`, at most 64, as in \"acme\"".to_owned();
            Err((format!("`{text}` cannot be a login name"), help))
        }
    }
}

fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 64 && name.chars().all(fits) && !name.starts_with(['.', '-'])
}

/// A folder's path: the names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FolderName(Vec<String>);

impl FolderName {
    fn parse(text: &str) -> Result<FolderName, (String, String)> {
        let inner = text.strip_prefix('/').unwrap_or(text);
        let names: Vec<String> = if inner.is_empty() { vec![] } else { inner.split('/').map(str::to_owned).collect() };
        if !text.is_empty() && names.len() <= DEPTH && names.iter().all(|name| is_plain(name)) {
            return Ok(FolderName(names));
        }
        let help =
            "names of letters, digits, `-`, `_` and `.`, as in \"orders/in\"; \"/\" is where a login begins".to_owned();
        Err((format!("`{text}` cannot be a folder here"), help))
    }
}

macro_rules! from_text {
    ($type:ident, $stand_in:expr, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                parsed(deserializer, $stand_in, $type::parse)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}

from_text!(UserName, UserName("invalid".to_owned()), "A login name: \"acme\".");
from_text!(FolderName, FolderName(Vec::new()), "A folder as the partner sees it: \"orders/in\".");

/// Public keys.
#[derive(Debug, Clone)]
enum Keys {
    File { path: PathBuf, span: Range<usize> },
    List(Vec<String>),
}

impl Keys {
    /// As of now. A file that cannot be read opens nothing.
    fn now(&self) -> Vec<String> {
        match self {
            Keys::List(keys) => keys.clone(),
            Keys::File { path, .. } => lines(&std::fs::read_to_string(path).unwrap_or_default()),
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The keys of a file; what is wrong where one of them is of no use.
fn read_keys(path: &std::path::Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let keys = lines(&text);
    if keys.is_empty() {
        return Err("there is no public key in it".to_owned());
    }
    for (number, key) in (1..).zip(&keys) {
        if let Some(problem) = hosted::bad_key(key) {
            return Err(format!("key {number} in it is of no use: {problem}"));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = value.span();
        let help = || {
            Some(
                "write `[\"ssh-ed25519 AAAA… partner\"]`, or `{ file = \"path\" }` with one key in each line"
                    .to_owned(),
            )
        };
        let keys: Option<Vec<String>> = match value.into_inner() {
            toml::Value::Table(table) if table.len() == 1 => {
                match table.get("file").and_then(toml::Value::as_str).filter(|path| !path.is_empty()) {
                    Some(path) => return Ok(Keys::File { path: resolve(path), span }),
                    None => None,
                }
            }
            toml::Value::Array(items) if !items.is_empty() => {
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        match &keys {
            None => report(span, "`keys` are public keys, or a file of them", "", help()),
            Some(keys) => {
                for (number, key) in (1..).zip(keys) {
                    if let Some(problem) = hosted::bad_key(key) {
                        report(span.clone(), format!("key {number} is of no use: {problem}"), "", help());
                    }
                }
            }
        }
        Ok(Keys::List(keys.unwrap_or_default()))
    }
}

impl JsonSchema for Keys {
    fn schema_name() -> Cow<'static, str> {
        "PublicKeys".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "object"],
            "items": { "type": "string" },
            "properties": { "file": { "type": "string", "description": "A file with one public key in each line." } },
            "description": "Public keys as in authorized_keys, or a file of them.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_users() {
        for (text, names) in [("/", vec![]), ("in", vec!["in"]), ("/orders/in", vec!["orders", "in"])] {
            assert_eq!(FolderName::parse(text).expect(text).0, names, "{text}");
        }
        for text in ["", "..", "a/../b", "a//b", "a/", ".ssh", "a b", "ä", "a/b/c/d/e/f/g/h/i"] {
            assert!(FolderName::parse(text).is_err(), "{text}");
        }
        for text in ["", "..", "a/b", "-rf", ".a", "a\n"] {
            assert!(UserName::parse(text).is_err(), "{text}");
        }
    }
}
