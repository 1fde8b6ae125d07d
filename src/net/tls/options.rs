//! What channel files say of TLS.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_rustls::rustls::pki_types::ServerName;
use toml::Spanned;

use super::certificate::{self, Facts, Mismatch, Pins};
use super::client::Client;
use super::server::Acceptor;
use crate::config::{BuildError, Duration, Mistake, Place, PlacedSecret, report, time_limit};

/// TLS to a server: `true` for one whose certificate comes from an authority that this system knows, or a table.
#[derive(Debug, Clone, Default)]
pub struct ClientTls(Option<ClientKeys>);

/// TLS of a listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// The listener's certificate chain, PEM.
    pub(super) cert: PlacedSecret,
    /// The certificate's private key, PEM.
    pub(super) key: PlacedSecret,
    /// The authority that clients' certificates must come from, PEM; without it, clients need none.
    pub(super) client_ca: Option<PlacedSecret>,
    /// The certificates that this authority has revoked: its revocation list (CRL), PEM. A client whose authority has none in here is
    /// refused. Read anew when it changes. Without it, nobody asks.
    pub(super) client_crl: Option<PlacedSecret>,
    /// Closes a connection on which the handshake takes longer than this.
    #[serde(default = "default_handshake_timeout", deserialize_with = "time_limit")]
    #[schemars(with = "Duration")]
    handshake_timeout: Duration,
}

fn default_handshake_timeout() -> Duration {
    Duration::from_secs(10)
}

impl ServerTls {
    /// Whether clients must show a certificate.
    pub fn wants_certificates(&self) -> bool {
        self.client_ca.is_some()
    }

    /// Reports a revocation list without an authority whose list it could be.
    pub fn report_stray_revocations(&self) {
        if let Some(crl) = self.client_crl.as_ref().filter(|_| self.client_ca.is_none()) {
            let help = "add `client_ca`: the authority whose list it is".to_owned();
            report(crl.span.clone(), "`client_crl` without `client_ca`", "clients need no certificate", Some(help));
        }
    }

    /// How long a handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// Reads keys and certificates.
    pub fn build(&self, place: &Place) -> Result<Acceptor, BuildError> {
        Acceptor::new(self, place)
    }

    /// Where its files are and what else it says: the same text is the same TLS, for those who share a listener.
    pub fn told(&self) -> String {
        let [ca, crl] = [&self.client_ca, &self.client_crl].map(|file| file.as_ref().map(|file| &file.secret));
        format!("{:?} {:?} {ca:?} {crl:?} {}", self.cert.secret, self.key.secret, self.handshake_timeout)
    }

    /// What is wrong with the files that are named, as far as they can be read here: for `labwire check`.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = mistakes_in_pair(&self.cert, &self.key);
        found.extend(self.client_ca.as_ref().and_then(mistake_in_authorities));
        found.extend(self.client_crl.as_ref().and_then(|crl| {
            let problem = crl.text()?.and_then(|text| certificate::revocations(&text).map(|_| ())).err()?;
            Some(crl.mistake(&problem))
        }));
        found
    }

    /// What somebody should see to soon: our certificate ends, or cannot be read any more.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        warning(&self.cert, &self.key, now).into_iter().collect()
    }
}

/// From so long before a certificate ends on, people are told.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What somebody should see to soon with a certificate of ours.
fn warning(cert: &PlacedSecret, key: &PlacedSecret, now: Timestamp) -> Option<String> {
    if let Some(mistake) = mistakes_in_pair(cert, key).into_iter().next() {
        return Some(format!("{}; what was read before stays in use until the next start", mistake.message));
    }
    let chain = certificate::chain(&cert.text()?.ok()?).ok()?;
    // Whichever ends first: a chain is as good as its weakest link.
    let first = chain.iter().filter_map(|der| Facts::of(der)).min_by_key(|facts| facts.not_after)?;
    let left = first.not_after.duration_since(now);
    let (subject, ends, place) = (&first.subject, first.not_after, cert.secret.place());
    if left.is_negative() {
        Some(format!("our certificate {subject} expired at {ends} ({place}): peers refuse it; renew it"))
    } else if left < WARN_BEFORE {
        let days = match left.as_hours() / 24 {
            0 => "within a day".to_owned(),
            1 => "in 1 day".to_owned(),
            days => format!("in {days} days"),
        };
        Some(format!("our certificate {subject} ends {days}, at {ends} ({place}): renew it"))
    } else {
        None
    }
}

/// How a server is verified, and what we show it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientKeys {
    /// The authority that the server's certificate must come from, PEM; without it, those that this system knows.
    pub(super) ca: Option<PlacedSecret>,
    /// Our certificate chain, PEM, for servers that ask who calls (mutual TLS).
    pub(super) cert: Option<PlacedSecret>,
    /// The private key of `cert`, PEM.
    pub(super) key: Option<PlacedSecret>,
    /// The name that must be in the server's certificate, where it is not that of the address.
    #[serde(default, deserialize_with = "server_name")]
    #[schemars(with = "Option<String>")]
    pub(super) server_name: Option<ServerName<'static>>,
    /// The SHA-256 fingerprint of the server's certificate, "sha256:…", or a list of them while it changes: this certificate is
    /// trusted and no other, whoever issued it, whatever names and dates are in it. For machines with a self-signed one.
    pub(super) pin: Option<Pins>,
}

fn server_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ServerName<'static>>, D::Error> {
    let text = Spanned::<String>::deserialize(deserializer)?;
    let name = ServerName::try_from(text.get_ref().clone());
    if name.is_err() {
        let help = Some("write the name alone, as in \"mirth.hospital.example\"".to_owned());
        report(text.span(), format!("`{}` is no host name", text.get_ref()), "", help);
    }
    Ok(name.ok())
}

impl ClientTls {
    /// Whether it is asked for: `tls = false` is the same as none.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What `tls = true` says: for connectors that speak TLS without being told.
    pub(crate) fn usual() -> ClientTls {
        ClientTls(Some(ClientKeys::default()))
    }

    /// Reads keys and certificates; none where TLS is not asked for.
    pub fn build(&self, place: &Place) -> Result<Option<Client>, BuildError> {
        self.0.as_ref().map(|keys| Client::new(keys, place)).transpose()
    }

    /// What is wrong with the files that are named, as far as they can be read here: for `labwire check`.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let Some(keys) = &self.0 else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(ca) = &keys.ca {
            found.extend(mistake_in_authorities(ca));
        }
        if let (Some(cert), Some(key)) = (&keys.cert, &keys.key) {
            found.extend(mistakes_in_pair(cert, key));
        }
        found
    }
}

impl ClientTls {
    /// What somebody should see to soon: our certificate ends, or cannot be read any more.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        match &self.0 {
            Some(ClientKeys { cert: Some(cert), key: Some(key), .. }) => warning(cert, key, now).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

/// What is wrong with a file of authorities.
pub(super) fn mistake_in_authorities(ca: &PlacedSecret) -> Option<Mistake> {
    let text = ca.text()?;
    let problem = text.and_then(|text| certificate::authorities(&text).map(|_| ())).err()?;
    Some(ca.mistake(&problem))
}

/// What is wrong with a certificate and its key.
pub(super) fn mistakes_in_pair(cert: &PlacedSecret, key: &PlacedSecret) -> Vec<Mistake> {
    match (cert.text(), key.text()) {
        (Some(Ok(chain)), Some(Ok(private))) => match certificate::certified(&chain, &private) {
            Ok(_) => Vec::new(),
            Err(Mismatch::Cert(problem)) => vec![cert.mistake(&problem)],
            Err(Mismatch::Key(problem)) => vec![key.mistake(&problem)],
        },
        (chain, private) => {
            let chain = chain.and_then(|text| text.and_then(|text| certificate::chain(&text).map(|_| ())).err());
            let private =
                private.and_then(|text| text.and_then(|text| certificate::private_key(&text).map(|_| ())).err());
            let chain = chain.map(|problem| cert.mistake(&problem));
            chain.into_iter().chain(private.map(|problem| key.mistake(&problem))).collect()
        }
    }
}

/// Reports what does not go together, whatever the files hold.
fn check(keys: &ClientKeys, span: Range<usize>) {
    let help = |text: &str| Some(text.to_owned());
    match (&keys.cert, &keys.key) {
        (Some(_), None) => {
            report(span.clone(), "`cert` without `key`", "", help("give the certificate's private key, too"))
        }
        (None, Some(_)) => report(span.clone(), "`key` without `cert`", "", help("give the key's certificate, too")),
        _ => {}
    }
    if let (Some(_), Some(ca)) = (&keys.pin, &keys.ca) {
        let text = "a pinned certificate is trusted whoever issued it; take one of the two out";
        report(ca.span.clone(), "both `pin` and `ca`", "", help(text));
    }
}

impl<'de> Deserialize<'de> for ClientTls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ClientTls, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Option<ClientKeys>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, or a table")
            }

            fn visit_bool<E>(self, on: bool) -> Result<Self::Value, E> {
                Ok(on.then(ClientKeys::default))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                ClientKeys::deserialize(MapAccessDeserializer::new(map)).map(Some)
            }
        }
        struct Read(Option<ClientKeys>);
        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Read, D::Error> {
                deserializer.deserialize_any(Either).map(Read)
            }
        }
        let read = Spanned::<Read>::deserialize(deserializer)?;
        if let Some(keys) = &read.get_ref().0 {
            check(keys, read.span());
        }
        Ok(ClientTls(read.into_inner().0))
    }
}

/// Whether it is on: for the default that schemas show.
impl Serialize for ClientTls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.is_on())
    }
}

impl JsonSchema for ClientTls {
    fn schema_name() -> Cow<'static, str> {
        "ClientTls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ClientKeys::json_schema(generator);
        schema.insert("type".to_owned(), serde_json::json!(["boolean", "object"]));
        schema
    }
}
