//! Signatures by which the receiver knows that a request comes from us and was not changed: Standard Webhooks 1.0.0.
//!
//! What is signed is `id.timestamp.body`, by HMAC with SHA-256. The id is the same at every attempt, the timestamp that of the
//! attempt: receivers refuse old ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

use crate::config::{BuildError, Secret};

/// The lengths of secrets that the standard allows, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// How requests are signed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sign {
    /// Secrets as Standard Webhooks has them: "whsec_" and base64. Several while the receiver changes from one to the next: each
    /// gives a signature. Sends `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    pub(super) standard_webhooks: Vec<Secret>,
}

/// Signs.
pub(super) struct Signer(Vec<Vec<u8>>);

impl Sign {
    /// Reads the secrets.
    pub(super) fn signer(&self) -> Result<Signer, BuildError> {
        self.standard_webhooks.iter().map(key).collect::<Result<_, _>>().map(Signer)
    }
}

fn key(secret: &Secret) -> Result<Vec<u8>, BuildError> {
    let text = secret.fetch()?;
    let wrong = |what: &str| BuildError::Secret(format!("{secret}: {what}"));
    let encoded = text.strip_prefix("whsec_").ok_or_else(|| wrong("a webhook secret begins with `whsec_`"))?;
    let key = STANDARD.decode(encoded).map_err(|_| wrong("what follows `whsec_` is no base64"))?;
    if SECRET_BYTES.contains(&key.len()) { Ok(key) } else { Err(wrong("a webhook secret has 24 to 64 bytes")) }
}

impl Signer {
    /// The value of `webhook-signature`; `timestamp` is in seconds since 1970.
    pub(super) fn signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's own libraries.
    #[test]
    fn a_signature_is_that_of_the_standard() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signer = Signer(vec![key.clone(), key]);
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let found = signer.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(found, format!("{one} {one}"));
    }
}
