//! Which algorithms are offered to a server: those of today, and those of yesterday that its channel file names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh2::{MethodType, Session};

/// An algorithm that is not used any more, except with a server that knows no better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum LegacyAlgorithm {
    /// Key exchange, 2048 bits with SHA-1 (RFC 4253).
    #[serde(rename = "diffie-hellman-group14-sha1")]
    Group14Sha1,
    /// Key exchange with SHA-1 in a group that the server chooses (RFC 4419).
    #[serde(rename = "diffie-hellman-group-exchange-sha1")]
    GroupExchangeSha1,
    /// Key exchange, 1024 bits with SHA-1 (RFC 4253): broken for who has the means of a state.
    #[serde(rename = "diffie-hellman-group1-sha1")]
    Group1Sha1,
    /// Host keys of RSA that sign with SHA-1 (RFC 4253).
    #[serde(rename = "ssh-rsa")]
    SshRsa,
    /// Encryption in CBC mode (RFC 4253).
    #[serde(rename = "aes256-cbc")]
    Aes256Cbc,
    /// Encryption in CBC mode (RFC 4253).
    #[serde(rename = "aes192-cbc")]
    Aes192Cbc,
    /// Encryption in CBC mode (RFC 4253).
    #[serde(rename = "aes128-cbc")]
    Aes128Cbc,
    /// Triple DES (RFC 4253).
    #[serde(rename = "3des-cbc")]
    TripleDes,
    /// Checksum with SHA-1 (RFC 4253).
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// Checksum with SHA-1, cut to 96 bits (RFC 4253).
    #[serde(rename = "hmac-sha1-96")]
    HmacSha196,
}

impl LegacyAlgorithm {
    /// All, the better ones first.
    pub const ALL: [LegacyAlgorithm; 10] = [
        LegacyAlgorithm::Group14Sha1,
        LegacyAlgorithm::GroupExchangeSha1,
        LegacyAlgorithm::Group1Sha1,
        LegacyAlgorithm::SshRsa,
        LegacyAlgorithm::Aes256Cbc,
        LegacyAlgorithm::Aes192Cbc,
        LegacyAlgorithm::Aes128Cbc,
        LegacyAlgorithm::TripleDes,
        LegacyAlgorithm::HmacSha1,
        LegacyAlgorithm::HmacSha196,
    ];

    /// The name, as SSH and channel files have it.
    pub fn name(self) -> &'static str {
        match self {
            LegacyAlgorithm::Group14Sha1 => "diffie-hellman-group14-sha1",
            LegacyAlgorithm::GroupExchangeSha1 => "diffie-hellman-group-exchange-sha1",
            LegacyAlgorithm::Group1Sha1 => "diffie-hellman-group1-sha1",
            LegacyAlgorithm::SshRsa => "ssh-rsa",
            LegacyAlgorithm::Aes256Cbc => "aes256-cbc",
            LegacyAlgorithm::Aes192Cbc => "aes192-cbc",
            LegacyAlgorithm::Aes128Cbc => "aes128-cbc",
            LegacyAlgorithm::TripleDes => "3des-cbc",
            LegacyAlgorithm::HmacSha1 => "hmac-sha1",
            LegacyAlgorithm::HmacSha196 => "hmac-sha1-96",
        }
    }

    /// What it is for.
    pub(super) fn part(self) -> Part {
        match self {
            LegacyAlgorithm::Group14Sha1 | LegacyAlgorithm::GroupExchangeSha1 | LegacyAlgorithm::Group1Sha1 => {
                Part::KeyExchange
            }
            LegacyAlgorithm::SshRsa => Part::HostKey,
            LegacyAlgorithm::Aes256Cbc
            | LegacyAlgorithm::Aes192Cbc
            | LegacyAlgorithm::Aes128Cbc
            | LegacyAlgorithm::TripleDes => Part::Cipher,
            LegacyAlgorithm::HmacSha1 | LegacyAlgorithm::HmacSha196 => Part::Checksum,
        }
    }
}

/// What `labwire check` and the dashboard say of a host that is spoken to in an old way.
pub fn warning(host: &str, legacy: &[LegacyAlgorithm]) -> Option<String> {
    let names: Vec<_> = legacy.iter().map(|algorithm| format!("`{}`", algorithm.name())).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{host} may use {}, which {} not safe any more; ask the partner for a newer server, then take `legacy_algorithms` out",
            names.join(", "),
            if names.len() == 1 { "is" } else { "are" }
        )
    })
}

/// A part of the encryption that both sides agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    KeyExchange,
    HostKey,
    Cipher,
    Checksum,
}

impl Part {
    pub(super) const ALL: [Part; 4] = [Part::KeyExchange, Part::HostKey, Part::Cipher, Part::Checksum];

    /// As people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::KeyExchange => "key exchange",
            Part::HostKey => "kind of host key",
            Part::Cipher => "cipher",
            Part::Checksum => "checksum (MAC)",
        }
    }

    /// In libssh2's words, one for each direction.
    fn methods(self) -> &'static [MethodType] {
        match self {
            Part::KeyExchange => &[MethodType::Kex],
            Part::HostKey => &[MethodType::HostKey],
            Part::Cipher => &[MethodType::CryptCs, MethodType::CryptSc],
            Part::Checksum => &[MethodType::MacCs, MethodType::MacSc],
        }
    }
}

/// Never offered, though libssh2 can be built with them: broken ones, and certificates, whose fingerprint is not that of the key; and
/// what is no algorithm, but stands in the same list.
const NEVER: [&str; 11] = [
    "md5",
    "ripemd",
    "rijndael",
    "arcfour",
    "blowfish",
    "cast128",
    "ssh-dss",
    "hmac-sha1-etm",
    "-cert-v01",
    "ext-info",
    "kex-strict",
];

fn is_usable(name: &str) -> bool {
    !NEVER.iter().any(|never| name.contains(never))
}

/// What is offered to a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    lists: [Vec<&'static str>; 4],
}

impl Offer {
    /// What libssh2 has and is safe, then what is asked for by name.
    pub(super) fn of(session: &Session, legacy: &[LegacyAlgorithm]) -> Offer {
        let list = |part: Part| {
            let all = session.supported_algs(part.methods()[0]).unwrap_or_default();
            let is_old = |name: &str| LegacyAlgorithm::ALL.iter().any(|old| old.name() == name);
            let mut list: Vec<_> = all.iter().copied().filter(|name| !is_old(name) && is_usable(name)).collect();
            let mine = LegacyAlgorithm::ALL.iter().filter(|old| old.part() == part && legacy.contains(old));
            list.extend(mine.map(|old| old.name()).filter(|name| all.contains(name)));
            list
        };
        Offer { lists: Part::ALL.map(list) }
    }

    pub(super) fn list(&self, part: Part) -> &[&'static str] {
        let at = Part::ALL.iter().position(|known| *known == part).unwrap_or_default();
        &self.lists[at]
    }

    /// Keeps, of the kinds of host key, those of one family.
    pub(super) fn only_host_keys(&mut self, family: &str) {
        self.lists[1].retain(|name| family.split(',').any(|known| known == *name));
    }

    /// Makes it what `session` offers.
    pub(super) fn put(&self, session: &Session) -> Result<(), ssh2::Error> {
        for part in Part::ALL {
            let list = self.list(part).join(",");
            for method in part.methods() {
                session.method_pref(*method, &list)?;
            }
        }
        // What our own key signs with, where the server says what it takes.
        session.method_pref(MethodType::SignAlgo, "rsa-sha2-512,rsa-sha2-256")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_offered_only_where_it_is_named() {
        let session = Session::new().expect("a session");
        let today = Offer::of(&session, &[]);
        for old in LegacyAlgorithm::ALL {
            assert!(!today.list(old.part()).contains(&old.name()), "{} is offered", old.name());
            let with = Offer::of(&session, &[old]);
            assert_eq!(with.list(old.part()).last(), Some(&old.name()), "this build of libssh2 has no {}", old.name());
            let more: usize = Part::ALL.iter().map(|part| with.list(*part).len() - today.list(*part).len()).sum();
            assert_eq!(more, 1, "{}", old.name());
            with.put(&session).expect("libssh2 takes the lists");
        }
        for part in Part::ALL {
            let list = today.list(part).join(" ");
            assert!(
                !list.is_empty() && !list.contains("sha1") && !list.contains("cbc") && !list.contains("md5"),
                "{list}"
            );
        }
        assert_eq!(today.list(Part::KeyExchange).first(), Some(&"curve25519-sha256"));
    }

    #[test]
    fn the_name_is_the_one_that_files_have() {
        for old in LegacyAlgorithm::ALL {
            assert_eq!(serde_json::to_value(old).expect("a name"), old.name());
        }
    }
}
