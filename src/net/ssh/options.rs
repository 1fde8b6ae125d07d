//! What a channel file says about an SSH server.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::config::report;

const HOW_TO_GET_ONE: &str = "`ssh-keyscan -p PORT HOST | ssh-keygen -lf -` prints the fingerprints of a server; compare with what the partner \
                              tells you by another way";

/// The fingerprints of the keys that a server may have. More than one while a partner changes from one key to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey(Vec<String>);

impl HostKey {
    /// From fingerprints as OpenSSH prints them; says what is wrong with the first that is none.
    pub fn new(fingerprints: &[&str]) -> Result<HostKey, String> {
        match fingerprints.iter().find_map(|text| problem(text)) {
            Some(problem) => Err(problem),
            None if fingerprints.is_empty() => Err("a host key must be pinned".to_owned()),
            None => Ok(HostKey(fingerprints.iter().map(|text| (*text).to_owned()).collect())),
        }
    }

    /// Whether a key with this fingerprint is meant.
    pub fn pins(&self, fingerprint: &str) -> bool {
        self.0.iter().any(|pinned| pinned == fingerprint)
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

fn problem(text: &str) -> Option<String> {
    let Some(hash) = text.strip_prefix("SHA256:") else {
        let what = if text.starts_with("MD5:") || text.matches(':').count() == 15 {
            "is an MD5 fingerprint, which proves nothing any more"
        } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("AAAA") {
            "is a public key, not its fingerprint (`ssh-keygen -lf FILE` prints it)"
        } else {
            "is no fingerprint of a host key"
        };
        return Some(format!("`{text}` {what}"));
    };
    match STANDARD_NO_PAD.decode(hash) {
        Ok(bytes) if bytes.len() == 32 => None,
        _ => Some(format!(
            "`{text}` is no fingerprint of a host key: 43 characters of base64 follow `SHA256:`, here are {}",
            hash.chars().count()
        )),
    }
}

impl<'de> Deserialize<'de> for HostKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HostKey, D::Error> {
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = value.span();
        let texts: Vec<&str> = match value.get_ref() {
            toml::Value::String(text) => vec![text],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_str).collect(),
            _ => vec![],
        };
        Ok(HostKey::new(&texts).unwrap_or_else(|problem| {
            report(span, problem, "", Some(HOW_TO_GET_ONE.to_owned()));
            HostKey(vec![])
        }))
    }
}

impl JsonSchema for HostKey {
    fn schema_name() -> Cow<'static, str> {
        "HostKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "items": { "type": "string" },
            "description": "The fingerprint of the server's key, \"SHA256:…\" as OpenSSH prints it, or a list of them.",
        })
    }
}

/// A host name or address, without scheme, user and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(pub String);

impl Host {
    fn problem(text: &str) -> Option<&'static str> {
        if text.contains("://") || text.contains('/') {
            Some("write the host alone, without `sftp://` and path")
        } else if text.contains('@') {
            Some("write the host alone; the user goes into `user`")
        } else if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Some("write a host name, as in \"sftp.partner.example\"")
        } else if text.matches(':').count() == 1 {
            Some("write the host alone; the port goes into `port`")
        } else {
            None
        }
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Host, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        if let Some(help) = Host::problem(text.get_ref()) {
            report(text.span(), format!("`{}` is no host name", text.get_ref()), "", Some(help.to_owned()));
        }
        Ok(Host(text.into_inner().trim_matches(['[', ']']).to_owned()))
    }
}

impl JsonSchema for Host {
    fn schema_name() -> Cow<'static, str> {
        "Host".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A host name or address: \"sftp.partner.example\"." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "SHA256:jQtPlP0yNe2C4Hc/ClJ58c3GO8fqsZhhwVwKBUDOKIg";

    #[test]
    fn fingerprints() {
        assert!(HostKey::new(&[GOOD]).unwrap().pins(GOOD));
        assert!(HostKey::new(&[GOOD, &format!("SHA256:{}", "A".repeat(43))]).unwrap().pins(GOOD));
        assert!(HostKey::new(&[]).is_err());
        for (text, word) in [
            ("", "no fingerprint"),
            ("SHA256:", "here are 0"),
            (&GOOD[..49], "here are 42"),
            ("SHA256:jQtPlP0yNe2C4Hc/ClJ58c3GO8fqsZhhwVwKBUDOKIg=", "here are 44"),
            ("MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", "MD5"),
            ("16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48", "MD5"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "public key"),
            ("sha256:jQtPlP0yNe2C4Hc/ClJ58c3GO8fqsZhhwVwKBUDOKIg", "no fingerprint"),
        ] {
            let problem = HostKey::new(&[GOOD, text]).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }

    #[test]
    fn hosts() {
        for text in ["sftp.partner.example", "10.0.0.1", "::1", "[::1]", "localhost"] {
            assert_eq!(Host::problem(text), None, "{text}");
        }
        for text in ["", "sftp://a", "a/b", "me@a", "a:22", "a b", "a\n"] {
            assert!(Host::problem(text).is_some(), "{text}");
        }
    }
}
