//! What else may call at an MLLP port, told by its first bytes.

use std::fmt;

/// A protocol that is not MLLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A web client or server.
    Http,
    /// A TLS handshake or alert.
    Tls,
    /// An SSH banner.
    Ssh,
}

impl Protocol {
    /// The protocol that begins with these bytes, where they tell.
    pub fn of(first: &[u8]) -> Option<Protocol> {
        match recognize(first) {
            Guess::Is(protocol) => Some(protocol),
            Guess::MayBe | Guess::None => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http => "HTTP",
            Protocol::Tls => "TLS",
            Protocol::Ssh => "SSH",
        })
    }
}

/// What a connection's first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Guess {
    /// This protocol for certain.
    Is(Protocol),
    /// Too few bytes to tell.
    MayBe,
    /// None of those known.
    None,
}

/// First bytes (RFC 9110 methods and status line, RFC 9113 preface, RFC 8446 §5.1 record types 22 and 21, RFC 4253 §4.2).
const SIGNATURES: &[(&[u8], Protocol)] = &[
    (b"GET ", Protocol::Http),
    (b"POST ", Protocol::Http),
    (b"PUT ", Protocol::Http),
    (b"HEAD ", Protocol::Http),
    (b"OPTIONS ", Protocol::Http),
    (b"CONNECT ", Protocol::Http),
    (b"PRI * HTTP/2", Protocol::Http),
    (b"HTTP/", Protocol::Http),
    (b"\x16\x03", Protocol::Tls),
    (b"\x15\x03", Protocol::Tls),
    (b"SSH-", Protocol::Ssh),
];

pub(super) fn recognize(first: &[u8]) -> Guess {
    if let Some((_, protocol)) = SIGNATURES.iter().find(|(signature, _)| first.starts_with(signature)) {
        return Guess::Is(*protocol);
    }
    if SIGNATURES.iter().any(|(signature, _)| signature.starts_with(first)) { Guess::MayBe } else { Guess::None }
}
