//! Authorities and certificates, made by the tests that need them.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use sha2::Digest as _;

/// A certificate and its private key, PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
    /// As a channel file pins it.
    pub pin: String,
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = params(name, &[], (-1, 3650));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these host names and addresses, good for the next year.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Identity {
        self.issue_for(name, hosts, (-1, 365))
    }

    /// The same, good between these days from now.
    pub fn issue_for(&self, name: &str, hosts: &[&str], days: (i64, i64)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, hosts, days).signed_by(&key, &self.0).unwrap();
        identity(&certificate, &key)
    }
}

/// A certificate that vouches for itself, good between these days from now.
pub fn self_signed(name: &str, hosts: &[&str], days: (i64, i64)) -> Identity {
    let key = KeyPair::generate().unwrap();
    identity(&params(name, hosts, days).self_signed(&key).unwrap(), &key)
}

fn identity(certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
    let hash: String = sha2::Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    Identity { cert: certificate.pem(), key: key.serialize_pem(), pin: format!("sha256:{hash}") }
}

fn params(name: &str, hosts: &[&str], (from, until): (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = hosts
        .iter()
        .map(|host| match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*host).try_into().unwrap()),
        })
        .collect();
    let now = jiff::Timestamp::now().as_second();
    let epoch = date_time_ymd(1970, 1, 1);
    let after = |days: i64| epoch + Duration::from_secs(u64::try_from(now + days * 86_400).unwrap());
    (params.not_before, params.not_after) = (after(from), after(until));
    params
}
