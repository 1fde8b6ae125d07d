//! What certificates say, and what can be read from PEM text.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys, RootCertStore};
use toml::Spanned;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::provider;
use crate::config::report;

/// Names longer than this are cut: a peer that nobody knows yet may write whatever it likes into its certificate.
const MAX_NAME_CHARS: usize = 255;
/// So many of the names in a certificate are shown.
const MAX_NAMES: usize = 8;

/// A certificate's SHA-256.
pub(super) type Fingerprint = [u8; 32];

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is, as in `CN=mirth.hospital.example, O=Hospital`.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// From when on it is good.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
    /// The host names and addresses in it.
    pub names: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// Whether it vouches for itself.
    pub is_self_signed: bool,
    /// The SHA-256 of the whole certificate.
    pub fingerprint: Fingerprint,
}

impl Facts {
    /// Reads a certificate; none where it cannot be read.
    pub fn of(der: &[u8]) -> Option<Facts> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(name_of).collect();
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Facts {
            subject: shown(&certificate.subject().to_string()),
            issuer: shown(&certificate.issuer().to_string()),
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
            names,
            common_name: common_name.and_then(whole),
            is_self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            fingerprint: Sha256::digest(der).into(),
        })
    }

    /// The names in it, for people.
    pub fn names(&self) -> String {
        match self.names.len() {
            0 => "no host name".to_owned(),
            count if count > MAX_NAMES => {
                format!("{} and {} more", self.names[..MAX_NAMES].join(", "), count - MAX_NAMES)
            }
            _ => self.names.join(", "),
        }
    }

    /// The fingerprint as channel files write it: `sha256:` and 64 hexadecimal digits.
    pub fn pin(&self) -> String {
        Pins::text(&self.fingerprint)
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = if self.is_self_signed { "itself" } else { &self.issuer };
        write!(
            f,
            "{} (issued by {issuer}, for {}, good from {} until {}, {})",
            self.subject,
            self.names(),
            self.not_before,
            self.not_after,
            self.pin()
        )
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => whole(name),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            (_, Ok(v6)) => Some(std::net::Ipv6Addr::from(v6).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// A name that something may depend on: as it is, or not at all.
fn whole(name: &str) -> Option<String> {
    (shown(name) == name).then(|| name.to_owned())
}

/// What a peer wrote, fit for a line of a log.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The certificates that a peer may have, by fingerprint. More than one while it changes from one to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins(Vec<Fingerprint>);

impl Pins {
    const HELP: &str = "`openssl s_client -connect HOST:PORT </dev/null | openssl x509 -noout -fingerprint -sha256` prints it; \
                        compare with what the partner tells you by another way";

    /// Reads a fingerprint: 64 hexadecimal digits after `sha256:`, with colons between them or without, as openssl prints them.
    pub fn parse(text: &str) -> Result<Fingerprint, String> {
        let wrong = |what: &str| Err(format!("`{text}` is no fingerprint of a certificate: {what}"));
        let Some(digits) = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("SHA256:")) else {
            return wrong("it begins with `sha256:`");
        };
        let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b':').collect();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return wrong("64 hexadecimal digits follow `sha256:`");
        }
        let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
        Ok(std::array::from_fn(|at| value(digits[2 * at]) << 4 | value(digits[2 * at + 1])))
    }

    /// A fingerprint as channel files write it.
    pub fn text(fingerprint: &Fingerprint) -> String {
        let digits: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digits}")
    }

    /// Nobody's.
    pub(super) fn none() -> Pins {
        Pins(Vec::new())
    }

    /// Whether this certificate is one of them.
    pub fn hold(&self, fingerprint: &Fingerprint) -> bool {
        self.0.contains(fingerprint)
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Pins::text).collect::<Vec<_>>().join(", "))
    }
}

impl<'de> Deserialize<'de> for Pins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pins, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let texts: Vec<&str> = match value.get_ref() {
            toml::Value::String(text) => vec![text],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_str).collect(),
            _ => vec![],
        };
        let read = texts.iter().map(|text| Pins::parse(text)).collect::<Result<Vec<_>, _>>();
        let read = read
            .and_then(|pins| if pins.is_empty() { Err("a pin must hold a fingerprint".to_owned()) } else { Ok(pins) });
        Ok(Pins(read.unwrap_or_else(|problem| {
            report(value.span(), problem, "", Some(Pins::HELP.to_owned()));
            vec![]
        })))
    }
}

impl JsonSchema for Pins {
    fn schema_name() -> Cow<'static, str> {
        "Pins".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "items": { "type": "string" },
            "description": "The SHA-256 fingerprint of the peer's certificate, \"sha256:…\", or a list of them.",
        })
    }
}

/// The certificates in a PEM text: the own one first, then those that vouch for it.
pub(super) fn chain(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(chain) if chain.is_empty() && text.contains("PRIVATE KEY-----") => {
            Err("it holds a private key, and no certificate".to_owned())
        }
        Ok(chain) if chain.is_empty() => {
            Err("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned())
        }
        Ok(chain) => match chain.iter().position(|certificate| Facts::of(certificate).is_none()) {
            Some(at) => Err(format!("certificate {} in it cannot be read", at + 1)),
            None => Ok(chain),
        },
        Err(error) => Err(format!("it is damaged: {error}")),
    }
}

/// The private key in a PEM text; the mistakes that people make with key files are named.
pub(super) fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    if text.contains("ENCRYPTED") && text.contains("PRIVATE KEY-----") {
        return Err("the private key is encrypted; `openssl pkey -in FILE -out NEW` decrypts it".to_owned());
    }
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) => Ok(key),
        Err(_) if text.contains("BEGIN CERTIFICATE-----") => {
            Err("it holds a certificate, and no private key".to_owned())
        }
        Err(_) => Err("it holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)".to_owned()),
    }
}

/// What is wrong with a certificate and its key.
pub(super) enum Mismatch {
    Cert(String),
    Key(String),
}

/// A certificate with its key, which belong together.
pub(super) fn certified(cert: &str, key: &str) -> Result<Arc<CertifiedKey>, Mismatch> {
    let chain = chain(cert).map_err(Mismatch::Cert)?;
    let key = private_key(key).map_err(Mismatch::Key)?;
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(Mismatch::Key("the key is not that of the certificate".to_owned()))
        }
        Err(error) => Err(Mismatch::Key(format!("the key cannot be used: {error}"))),
    }
}

/// The authorities in a PEM text.
pub(super) fn authorities(text: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in chain(text)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| format!("certificate {} in it is no authority: {error}", at + 1))?;
    }
    Ok(roots)
}

/// The revocation lists in a PEM text.
pub(super) fn revocations(text: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    match CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(lists) if lists.is_empty() => {
            Err("it holds no revocation list in PEM form (-----BEGIN X509 CRL-----)".to_owned())
        }
        Ok(lists) => Ok(lists),
        Err(error) => Err(format!("it is damaged: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_as_openssl_prints_them_and_as_we_do() {
        let plain = format!("sha256:{}", "0a".repeat(32));
        let colons = format!("SHA256:{}", vec!["0A"; 32].join(":"));
        assert_eq!(Pins::parse(&plain), Ok([10; 32]));
        assert_eq!(Pins::parse(&colons), Ok([10; 32]));
        assert_eq!(Pins::text(&[10; 32]), plain);
        for text in ["", "sha256:", "0a", &plain[..70], &format!("{plain}0"), "md5:0a", &plain.replace('a', "g")] {
            assert!(Pins::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_peer_writes_cannot_break_a_line() {
        assert_eq!(shown("CN=a\nWARN b"), "CN=a\u{fffd}WARN b");
        assert_eq!(shown(&"x".repeat(1000)).len(), MAX_NAME_CHARS);
        assert_eq!(
            (whole("a.example"), whole("a\n"), whole(&"x".repeat(256))),
            (Some("a.example".to_owned()), None, None)
        );
    }
}
