//! Signatures by which a receiver knows that a request comes from whom it says and was not changed: Standard Webhooks 1.0.0.
//!
//! What is signed is `id.timestamp.body`, by HMAC with SHA-256. The id is the same at every attempt, the timestamp that of the
//! attempt: receivers refuse old ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::{BuildError, Secret};

/// The lengths of secrets that the standard allows, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The three headers.
pub(crate) const ID: &str = "webhook-id";
pub(crate) const TIMESTAMP: &str = "webhook-timestamp";
pub(crate) const SIGNATURE: &str = "webhook-signature";

/// The keys of one end: several while one is replaced by the next.
#[derive(Clone)]
pub(crate) struct Keys(Vec<Vec<u8>>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Reads the secrets: "whsec_" and base64.
    pub(crate) fn read(secrets: &[Secret]) -> Result<Keys, BuildError> {
        secrets.iter().map(key).collect::<Result<_, _>>().map(Keys)
    }

    /// The value of `webhook-signature`, one signature for each key; `timestamp` is in seconds since 1970.
    pub(crate) fn signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self
            .0
            .iter()
            .map(|key| format!("v1,{}", STANDARD.encode(mac(key, id, timestamp, body).finalize().into_bytes())));
        signatures.collect::<Vec<_>>().join(" ")
    }

    /// Whether one of the signatures in the value of a header was made with one of the keys. Takes the same time for every
    /// signature of the right length.
    pub(crate) fn verify(&self, signatures: &str, id: &str, timestamp: i64, body: &[u8]) -> bool {
        let decoded = |signature: &str| STANDARD.decode(signature.strip_prefix("v1,")?).ok();
        let signatures: Vec<Vec<u8>> = signatures.split(' ').filter_map(decoded).take(MAX_SIGNATURES).collect();
        self.0.iter().any(|key| {
            let mac = mac(key, id, timestamp, body);
            signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
        })
    }
}

/// So many signatures of one request are looked at.
const MAX_SIGNATURES: usize = 8;

fn key(secret: &Secret) -> Result<Vec<u8>, BuildError> {
    let text = secret.fetch()?;
    let wrong = |what: &str| BuildError::Secret(format!("{secret}: {what}"));
    let encoded = text.strip_prefix("whsec_").ok_or_else(|| wrong("a webhook secret begins with `whsec_`"))?;
    let key = STANDARD.decode(encoded).map_err(|_| wrong("what follows `whsec_` is no base64"))?;
    if SECRET_BYTES.contains(&key.len()) { Ok(key) } else { Err(wrong("a webhook secret has 24 to 64 bytes")) }
}

fn mac(key: &[u8], id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's own libraries.
    #[test]
    fn a_signature_is_that_of_the_standard() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let keys = Keys(vec![key.clone(), key]);
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        let found = keys.signature(id, at, body);
        assert_eq!(found, format!("{one} {one}"));
        assert!(keys.verify(one, id, at, body) && keys.verify(&format!("v1,AAAA v2,x {one}"), id, at, body));
        for (signatures, id, at, body) in [
            ("", id, at, &body[..]),
            ("v1,", id, at, body),
            (one, "another", at, body),
            (one, id, at + 1, body),
            (one, id, at, b"{}"),
            (&one.replace("v1,", "v1a,"), id, at, body),
            (&one[..40], id, at, body),
        ] {
            assert!(!keys.verify(signatures, id, at, body), "{signatures} {id} {at}");
        }
    }
}
