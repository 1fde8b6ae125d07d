//! The side that connects.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tracing::warn;

use super::certificate::{self, Facts, Mismatch, Pins};
use super::material::Material;
use super::options::ClientKeys;
use super::{Stream, VERSIONS, explain, provider};
use crate::config::{BuildError, Place, PlacedSecret, Secret};

/// Why there is no TLS.
#[derive(Debug)]
pub enum TlsError {
    /// Somebody must act: the certificate is not to be trusted, or the two have no TLS in common. What happened and what to do,
    /// after "HOST:PORT: ".
    Refused(String),
    /// The connection broke meanwhile.
    Lost(io::Error),
}

impl TlsError {
    /// What an error of an encrypted connection is. In TLS 1.3 a server refuses our certificate only after the handshake.
    pub fn of(error: io::Error) -> TlsError {
        match explain::inner(&error) {
            Some(inner) => TlsError::Refused(explain::other(inner, "look at `cert` and `key`, and ask the partner")),
            None => TlsError::Lost(error),
        }
    }

    /// The refusal that an error of an encrypted connection is, if it is one.
    pub(crate) fn refusal_in(error: &io::Error) -> Option<TlsError> {
        let inner = explain::inner(error)?;
        Some(TlsError::Refused(explain::other(inner, "look at `cert` and `key`, and ask the partner")))
    }

    /// Whether an error of a connection comes from TLS, and not from what is below it.
    pub fn is_in(error: &io::Error) -> bool {
        explain::inner(error).is_some()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Refused(what) => f.write_str(what),
            TlsError::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("it closed the connection within the TLS handshake; look whether this port speaks TLS")
            }
            TlsError::Lost(error) => write!(f, "the connection was lost within the TLS handshake: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// Makes TLS connections to a server, as a channel file says.
#[derive(Debug)]
pub struct Client {
    settings: Arc<Material<Settings>>,
    server_name: Option<ServerName<'static>>,
}

/// Made of the files that are named.
#[derive(Debug)]
struct Settings {
    config: ClientConfig,
    trust: Trust,
}

/// Whom to trust.
#[derive(Debug, Clone)]
enum Trust {
    Authorities { verifier: Arc<WebPkiServerVerifier>, own: bool },
    Pins(Pins),
}

impl Client {
    pub(super) fn new(keys: &ClientKeys, place: &Place) -> Result<Client, BuildError> {
        let secret = |placed: &Option<PlacedSecret>| placed.as_ref().map(|placed| placed.secret.clone());
        let (ca, cert, key) = (secret(&keys.ca), secret(&keys.cert), secret(&keys.key));
        let secrets = [&ca, &cert, &key].into_iter().flatten().cloned().collect();
        let pins = keys.pin.clone();
        let settings =
            Material::new(place, secrets, move |texts| Settings::new(texts, [&ca, &cert, &key], pins.as_ref()))?;
        Ok(Client { settings: Arc::new(settings), server_name: keys.server_name.clone() })
    }

    /// Does the handshake on a fresh connection to `host`. The caller sets the time limit.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> Result<Stream, TlsError> {
        let settings = self.settings.clone();
        // Files are read: not on a thread that serves connections.
        let settings = tokio::task::spawn_blocking(move || settings.look());
        let settings = settings.await.map_err(|error| TlsError::Lost(io::Error::other(error)))?;
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| TlsError::Refused(format!("`{host}` can be in no certificate; give a `server_name`")))?,
        };
        let verifier =
            Arc::new(Verifier { trust: settings.trust.clone(), provider: provider(), shown: Mutex::new(None) });
        let mut config = settings.config.clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        let connected = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream).await;
        let facts = verifier.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        match connected {
            Ok(stream) => {
                settings.trust.warn_of_dates(facts.as_ref());
                Ok(Stream::Tls(Box::new(stream.into())))
            }
            Err(error) => Err(match explain::inner(&error) {
                Some(Error::InvalidCertificate(problem)) => {
                    TlsError::Refused(settings.trust.explain(problem, facts.as_ref(), &name))
                }
                _ => TlsError::of(error),
            }),
        }
    }
}

impl Settings {
    /// `texts`: those of the secrets that are given, in order.
    fn new(texts: &[String], [ca, cert, key]: [&Option<Secret>; 3], pins: Option<&Pins>) -> Result<Settings, String> {
        let mut texts = texts.iter();
        let mut next = |secret: &Option<Secret>| secret.as_ref().and_then(|_| texts.next());
        let (ca_text, cert_text, key_text) = (next(ca), next(cert), next(key));
        let named = |secret: &Option<Secret>, problem: String| match secret {
            Some(secret) => format!("{}: {problem}", secret.place()),
            None => problem,
        };
        let roots = match ca_text {
            Some(text) => certificate::authorities(text).map_err(|problem| named(ca, problem))?,
            None if pins.is_none() => system_roots()?,
            None => RootCertStore::empty(),
        };
        let trust = match pins {
            Some(pins) => Trust::Pins(pins.clone()),
            None => {
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                let verifier = verifier.map_err(|error| named(ca, error.to_string()))?;
                Trust::Authorities { verifier, own: ca.is_some() }
            }
        };
        let versions = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
        // Each connection gets a verifier of its own; this one trusts nobody.
        let nobody = Verifier { trust: Trust::Pins(Pins::none()), provider: provider(), shown: Mutex::new(None) };
        let config =
            versions.map_err(|error| error.to_string())?.dangerous().with_custom_certificate_verifier(Arc::new(nobody));
        let mut config = match (cert_text, key_text) {
            (Some(cert_text), Some(key_text)) => {
                let certified = certificate::certified(cert_text, key_text).map_err(|mismatch| match mismatch {
                    Mismatch::Cert(problem) => named(cert, problem),
                    Mismatch::Key(problem) => named(key, problem),
                })?;
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            _ => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(Settings { config, trust })
    }
}

/// The authorities that the operating system knows: a hospital's own is put in there once, for all programs.
fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err("this system knows no authority (ca-certificates is not installed); name one with `ca`".to_owned());
    }
    Ok(roots)
}

impl Trust {
    fn explain(&self, problem: &CertificateError, facts: Option<&Facts>, name: &ServerName<'_>) -> String {
        match (self, facts) {
            (Trust::Pins(pins), Some(facts)) => format!(
                "its certificate is not the pinned one: pinned {pins}, presented {facts}; if the partner confirms that it was changed, \
                 put the new fingerprint into `pin`, else somebody may stand in between"
            ),
            (Trust::Pins(_), None) => format!("its certificate cannot be read: {problem}"),
            (Trust::Authorities { own, .. }, facts) => {
                explain::server_certificate(problem, facts, &name.to_str(), *own)
            }
        }
    }

    /// Dates do not matter for a certificate that is pinned (as in RFC 7671 §5.1); people should know all the same.
    fn warn_of_dates(&self, facts: Option<&Facts>) {
        if let (Trust::Pins(_), Some(facts)) = (self, facts)
            && facts.not_after < jiff::Timestamp::now()
        {
            warn!(certificate = %facts, "the pinned certificate of a peer has expired; it is trusted because it is pinned");
        }
    }
}

/// Verifies a server, and remembers what it showed, for the error.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    shown: Mutex<Option<Facts>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let facts = Facts::of(end_entity);
        let fingerprint = facts.as_ref().map(|facts| facts.fingerprint);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = facts;
        match &self.trust {
            Trust::Authorities { verifier, .. } => {
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Trust::Pins(pins) if fingerprint.is_some_and(|found| pins.hold(&found)) => {
                Ok(ServerCertVerified::assertion())
            }
            Trust::Pins(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
