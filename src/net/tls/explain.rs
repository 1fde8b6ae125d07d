//! Errors of TLS in words: whose certificate, which names and dates are in it, and what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::certificate::Facts;

/// The error of rustls within one of a stream.
pub(super) fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What is wrong with a server's certificate.
pub(super) fn server_certificate(error: &CertificateError, facts: Option<&Facts>, name: &str, own_ca: bool) -> String {
    use CertificateError as E;
    let Some(facts) = facts else { return format!("its certificate cannot be read: {error}") };
    if let Some(dates) = dates(error, facts) {
        return dates;
    }
    match error {
        E::NotValidForName | E::NotValidForNameContext { .. } => format!(
            "its certificate is for {}, and not for {name}: {facts}; look at the address, or say with `server_name` which of \
             these names is meant",
            facts.names()
        ),
        _ if facts.is_self_signed => format!(
            "its certificate is self-signed: {facts}; if the partner confirms this fingerprint by another way, pin it with \
             `pin = \"{}\"`",
            facts.pin()
        ),
        E::UnknownIssuer => format!(
            "its certificate comes from an authority that is not {}: {facts}; if the partner uses an authority of its own, get that \
             authority's certificate and name it with `ca = {{ file = \"…\" }}`",
            if own_ca { "in `ca`" } else { "known to this system" }
        ),
        _ => format!("its certificate is not to be trusted ({error}): {facts}"),
    }
}

/// What is wrong with a client's certificate.
pub(super) fn client_certificate(error: &CertificateError, facts: Option<&Facts>) -> String {
    let Some(facts) = facts else { return format!("its certificate cannot be read: {error}") };
    if let Some(dates) = dates(error, facts) {
        return dates;
    }
    match error {
        CertificateError::UnknownIssuer => {
            format!("its certificate comes from an authority that is not in `client_ca`: {facts}")
        }
        CertificateError::Revoked => format!("its certificate was revoked: {facts}"),
        CertificateError::UnknownRevocationStatus => {
            format!("no list in `client_crl` is of the authority of its certificate: {facts}")
        }
        _ => format!("its certificate is not to be trusted ({error}): {facts}"),
    }
}

fn dates(error: &CertificateError, facts: &Facts) -> Option<String> {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => {
            Some(format!("its certificate expired at {}: {facts}; its owner must renew it", facts.not_after))
        }
        E::NotValidYet | E::NotValidYetContext { .. } => Some(format!(
            "its certificate is good only from {} on: {facts}; look at the clocks of both machines",
            facts.not_before
        )),
        _ => None,
    }
}

/// Any other error of a handshake, or of what comes right after it, that lies with the peer. `ours`: what to look at on our
/// side where the peer refuses our certificate.
pub(super) fn other(error: &Error, ours: &str) -> String {
    use AlertDescription as A;
    match error {
        Error::AlertReceived(A::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Which TLS 1.1 does not have (RFC 5246 §7.4.1.4.1).
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "it speaks neither TLS 1.2 nor TLS 1.3; what is older is not safe, and not spoken here".to_owned(),
        Error::AlertReceived(A::CertificateRequired | A::NoCertificate) => {
            format!("it wants a certificate of ours, and got none: {ours}")
        }
        Error::AlertReceived(A::HandshakeFailure) => format!(
            "it ended the handshake without a reason (handshake_failure): it wants a certificate of ours ({ours}), or has no cipher \
             that is safe today"
        ),
        Error::AlertReceived(
            alert @ (A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied),
        ) => format!("it refuses our certificate ({alert:?}): {ours}"),
        Error::AlertReceived(A::UnrecognisedName) => {
            "it does not know the name that it was called by; look at the address, or give another with `server_name`"
                .to_owned()
        }
        Error::AlertReceived(alert) => format!("it ended the handshake ({alert:?})"),
        Error::InvalidMessage(_) => "what it sends is no TLS; look whether this port speaks TLS".to_owned(),
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        Error::PeerIncompatible(what) => format!("it has no way of TLS in common with us ({what:?})"),
        other => other.to_string(),
    }
}
