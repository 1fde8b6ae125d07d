//! TLS for connectors, by rustls with the provider `ring`.
//!
//! Design constraints:
//! - A peer is always verified, by an authority or by the fingerprint of its certificate. No option switches that off.
//! - TLS 1.2 and 1.3 only (BCP 195, RFC 9325 §3.1.1; IHE ATNA asks for no less).
//! - Every handshake is a whole one: a session taken up again would pass over a certificate that has expired meanwhile.
//! - Keys and certificates are read anew when they change (`material.rs`); what runs keeps what it began with.
//! - An error says whose certificate, which names and dates are in it, and what to do.

mod certificate;
mod client;
mod explain;
mod material;
mod options;
mod server;
mod stream;

use std::sync::Arc;

use tokio_rustls::rustls::SupportedProtocolVersion;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::version::{TLS12, TLS13};

pub use certificate::{Facts, Pins};
pub use client::{Client, TlsError};
pub use options::{ClientTls, ServerTls};
pub use server::{AcceptError, Acceptor};
pub use stream::Stream;

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Named at each use: the process has no default provider, so that no other crate can choose one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
