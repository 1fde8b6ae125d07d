//! Authorities and certificates, made by the tests that need them.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use sha2::Digest as _;

/// A certificate and its private key, PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
    /// As a channel file pins it.
    pub pin: String,
    /// By which its authority revokes it.
    pub serial: SerialNumber,
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

    /// A revocation list, PEM, with these certificates in it.
    pub fn revoke(&self, revoked: &[&Identity]) -> String {
        let epoch = date_time_ymd(1970, 1, 1);
        let revoked = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: identity.serial.clone(),
            revocation_time: epoch + since_epoch(-1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: epoch + since_epoch(-1),
            next_update: epoch + since_epoch(7),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// The same, good between these days from now.
    pub fn issue_for(&self, name: &str, hosts: &[&str], days: (i64, i64)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = params(name, hosts, days);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { serial: params.serial_number.unwrap(), ..identity(&certificate, &key) }
    }
}

/// A certificate that vouches for itself, good between these days from now.
pub fn self_signed(name: &str, hosts: &[&str], days: (i64, i64)) -> Identity {
    let key = KeyPair::generate().unwrap();
    identity(&params(name, hosts, days).self_signed(&key).unwrap(), &key)
}

fn identity(certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
    let hash: String = sha2::Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    Identity {
        cert: certificate.pem(),
        key: key.serialize_pem(),
        pin: format!("sha256:{hash}"),
        serial: SerialNumber::from(0),
    }
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
    let epoch = date_time_ymd(1970, 1, 1);
    (params.not_before, params.not_after) = (epoch + since_epoch(from), epoch + since_epoch(until));
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..1 << 62)));
    params
}

/// These days from now, since 1970.
fn since_epoch(days: i64) -> Duration {
    let seconds = jiff::Timestamp::now().as_second() + days * 86_400;
    Duration::from_secs(u64::try_from(seconds).unwrap())
}
