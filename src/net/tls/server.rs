//! The side that listens.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::certificate::{self, Facts, Mismatch};
use super::material::Material;
use super::options::ServerTls;
use super::{Stream, VERSIONS, explain, provider};
use crate::config::{BuildError, Place};

/// The first byte of every TLS connection: a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// So many first bytes are looked at where a connection begins otherwise.
const FIRST_BYTES: usize = 16;

/// Why a peer was not let in.
#[derive(Debug)]
pub enum AcceptError {
    /// It closed without a word: a monitor, most likely.
    Quiet,
    /// It speaks something else. Its first bytes.
    NotTls(Vec<u8>),
    /// The two have no TLS in common, or one does not trust the other. What happened and what to do.
    Refused(String),
    /// The connection broke meanwhile.
    Lost(io::Error),
}

/// Lets peers in by TLS, as a channel file says.
#[derive(Debug)]
pub struct Acceptor {
    settings: Arc<Material<Settings>>,
}

#[derive(Debug)]
struct Settings {
    certified: Arc<CertifiedKey>,
    /// Verifies clients, where they must have a certificate.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Acceptor {
    pub(super) fn new(keys: &ServerTls, place: &Place) -> Result<Acceptor, BuildError> {
        let (cert, key) = (keys.cert.secret.clone(), keys.key.secret.clone());
        let ca = keys.client_ca.as_ref().map(|ca| ca.secret.clone());
        // Without an authority there is nothing to revoke; the channel file is told so.
        let crl = keys.client_crl.as_ref().map(|crl| crl.secret.clone()).filter(|_| ca.is_some());
        let secrets = [Some(&cert), Some(&key), ca.as_ref(), crl.as_ref()].into_iter().flatten().cloned().collect();
        let settings = Material::new(place, secrets, move |texts| {
            let certified = certificate::certified(&texts[0], &texts[1]).map_err(|mismatch| match mismatch {
                Mismatch::Cert(problem) => format!("{}: {problem}", cert.place()),
                Mismatch::Key(problem) => format!("{}: {problem}", key.place()),
            })?;
            let clients = match (&ca, texts.get(2)) {
                (Some(ca), Some(text)) => {
                    let named = |problem: String| format!("{}: {problem}", ca.place());
                    let roots = Arc::new(certificate::authorities(text).map_err(named)?);
                    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                    if let (Some(crl), Some(text)) = (&crl, texts.get(3)) {
                        let named = |problem: String| format!("{}: {problem}", crl.place());
                        verifier = verifier.with_crls(certificate::revocations(text).map_err(named)?);
                        verifier = verifier.only_check_end_entity_revocation();
                    }
                    Some(verifier.build().map_err(|error| named(error.to_string()))?)
                }
                _ => None,
            };
            Ok(Settings { certified, clients })
        })?;
        Ok(Acceptor { settings: Arc::new(settings) })
    }

    /// Does the handshake, and gives the certificate that the client showed. The caller sets the time limit.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Stream, Option<Facts>), AcceptError> {
        let mut first = [0; FIRST_BYTES];
        match stream.peek(&mut first).await {
            Ok(0) => return Err(AcceptError::Quiet),
            Ok(count) if first[0] != HANDSHAKE => return Err(AcceptError::NotTls(first[..count].to_vec())),
            Ok(_) => {}
            Err(error) => return Err(AcceptError::Lost(error)),
        }
        let settings = self.settings.clone();
        // Files are read: not on a thread that serves connections.
        let settings = tokio::task::spawn_blocking(move || settings.look());
        let settings = settings.await.map_err(|error| AcceptError::Lost(io::Error::other(error)))?;
        let shown: Arc<Mutex<Option<Facts>>> = Arc::default();
        let config = settings.config(&shown).map_err(|error| AcceptError::Refused(error.to_string()))?;
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        let facts = shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        match accepted {
            Ok(stream) => Ok((Stream::Tls(Box::new(stream.into())), facts)),
            Err(error) => Err(match explain::inner(&error) {
                Some(Error::InvalidCertificate(problem)) => {
                    AcceptError::Refused(explain::client_certificate(problem, facts.as_ref()))
                }
                Some(other) => AcceptError::Refused(explain::other(
                    other,
                    "it must trust the authority of `cert`, and call this machine by a name that is in it",
                )),
                None => AcceptError::Lost(error),
            }),
        }
    }
}

impl Settings {
    /// The configuration of one handshake.
    fn config(&self, shown: &Arc<Mutex<Option<Facts>>>) -> Result<ServerConfig, Error> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
        let builder = match &self.clients {
            Some(inner) => {
                builder.with_client_cert_verifier(Arc::new(Verifier { inner: inner.clone(), shown: shown.clone() }))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// Verifies a client, and remembers what it showed: for the error, and for who it is.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    shown: Arc<Mutex<Option<Facts>>>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Facts::of(end_entity);
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
