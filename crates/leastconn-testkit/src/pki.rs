//! Certificates and CRLs, valid and invalid.

mod crl;
mod der;
mod leaf;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use time::OffsetDateTime;

use crate::data::hex;
pub use crl::CrlBuilder;
pub use der::{crl_version_1, crl_without_next_update};
pub use leaf::LeafBuilder;

const DAY: i64 = 24 * 60 * 60;

/// A certificate with its key and, if an intermediate CA issued it, its chain.
#[derive(Debug)]
pub struct Cert {
    /// The leaf, followed by intermediates, without the root.
    pub chain_der: Vec<CertificateDer<'static>>,
    /// Private key in PKCS #8, DER.
    pub key_der: PrivateKeyDer<'static>,
    /// The chain, in the order of `chain_der`.
    pub cert_pem: String,
    /// Private key in PKCS #8, PEM.
    pub key_pem: String,
    /// Serial number in lower-case hexadecimal, without separators or leading zero bytes.
    pub serial_hex: String,
}

impl Clone for Cert {
    fn clone(&self) -> Self {
        Self {
            chain_der: self.chain_der.clone(),
            key_der: self.key_der.clone_key(),
            cert_pem: self.cert_pem.clone(),
            key_pem: self.key_pem.clone(),
            serial_hex: self.serial_hex.clone(),
        }
    }
}

impl Cert {
    fn new(chain_der: Vec<CertificateDer<'static>>, key: &KeyPair, serial: &[u8]) -> Self {
        Self {
            cert_pem: chain_der
                .iter()
                .map(|der| pem("CERTIFICATE", der))
                .collect(),
            chain_der,
            key_der: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            key_pem: key.serialize_pem(),
            serial_hex: hex(serial),
        }
    }

    /// The leaf certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.chain_der[0]
    }

    /// Returns a resolver that presents this certificate, without the checks of
    /// `with_client_auth_cert`.
    pub fn resolver(&self) -> Arc<SingleCertAndKey> {
        let key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(self.key_der.clone_key());
        let pair = CertifiedKey::new(self.chain_der.clone(), key.unwrap());
        Arc::new(SingleCertAndKey::from(pair))
    }

    /// Writes `STEM.crt` and `STEM.key` into `dir`; returns the two paths.
    pub fn write(&self, dir: impl AsRef<Path>, stem: &str) -> (PathBuf, PathBuf) {
        let cert = dir.as_ref().join(format!("{stem}.crt"));
        let key = dir.as_ref().join(format!("{stem}.key"));
        std::fs::write(&cert, &self.cert_pem).unwrap();
        // Remove an existing file first, because it would keep its mode.
        let _ = std::fs::remove_file(&key);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key)
            .unwrap();
        std::io::Write::write_all(&mut file, self.key_pem.as_bytes()).unwrap();
        (cert, key)
    }
}

/// A certificate authority in memory.
#[derive(Debug)]
pub struct TestCa {
    /// The chain, as in [`Cert::chain_der`]. Empty for a root.
    chain: Vec<CertificateDer<'static>>,
    cert: Cert,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    /// A self-signed root with this common name.
    pub fn new(name: &str) -> Self {
        let (params, key) = ca_params(name);
        Self::root(params, key)
    }

    /// A self-signed root, valid from `not_before` to `not_after` seconds from now.
    pub fn with_validity(name: &str, not_before: i64, not_after: i64) -> Self {
        let (mut params, key) = ca_params(name);
        params.not_before = at(not_before);
        params.not_after = at(not_after);
        Self::root(params, key)
    }

    /// A self-signed root whose key usage lacks cRLSign.
    pub fn without_crl_sign(name: &str) -> Self {
        let (mut params, key) = ca_params(name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        // rcgen does not sign CRLs without this key usage.
        params.key_usages.push(KeyUsagePurpose::CrlSign);
        Self::from_parts(params, key, der, Vec::new())
    }

    /// The same CA (name and key) with another certificate, valid from `not_before` to
    /// `not_after` seconds from now.
    pub fn renewed(&self, name: &str, not_before: i64, not_after: i64) -> Self {
        let (mut params, _) = ca_params(name);
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        params.not_before = at(not_before);
        params.not_after = at(not_after);
        Self::root(params, key)
    }

    /// An intermediate CA, valid from `not_before` to `not_after` seconds from now.
    pub fn intermediate_with_validity(&self, name: &str, not_before: i64, not_after: i64) -> Self {
        let (mut params, key) = ca_params(name);
        params.not_before = at(not_before);
        params.not_after = at(not_after);
        self.issue_ca(params, key)
    }

    /// A self-signed root of X.509 version 1. Some old CAs have such roots.
    pub fn version_1(name: &str) -> Self {
        let (params, key) = ca_params(name);
        let der = params.self_signed(&key).unwrap().der().clone();
        let der = der::version_1(&der, &key).into();
        Self::from_parts(params, key, der, Vec::new())
    }

    /// An intermediate CA. The certificates that it issues include their chain.
    ///
    /// A verifier that checks the whole chain needs the CRLs of the root and of the
    /// intermediate CA. To combine them, concatenate the PEM texts.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = ca_params(name);
        self.issue_ca(params, key)
    }

    /// An intermediate CA whose name constraints (RFC 5280, 4.2.1.10) permit only URIs
    /// of this host.
    pub fn uri_constrained_intermediate(&self, name: &str, host: &str) -> Self {
        let (mut params, key) = ca_params(name);
        let base = der::tlv(0x86, host.as_bytes());
        let permitted = der::tlv(0xa0, &der::tlv(der::SEQUENCE, &base));
        let constraints = der::tlv(der::SEQUENCE, &permitted);
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
        self.issue_ca(params, key)
    }

    /// A certificate with the subject `name` that this CA issues for the key of `other`. With
    /// this certificate, leaves of `other` have a second certification path.
    pub fn cross_sign(&self, other: &Self, name: &str) -> CertificateDer<'static> {
        let (params, _) = ca_params(name);
        let signed = params.signed_by(other.issuer.key(), &self.issuer);
        signed.unwrap().der().clone()
    }

    /// A CA that uses the certificate and key of a leaf. Verifiers must refuse the
    /// certificates that it issues.
    pub fn from_leaf(leaf: &Cert) -> Self {
        let key = KeyPair::try_from(&leaf.key_der).unwrap();
        let issuer = Issuer::from_ca_cert_der(leaf.der(), key).unwrap();
        Self {
            chain: leaf.chain_der.clone(),
            cert: leaf.clone(),
            issuer,
        }
    }

    fn root(params: CertificateParams, key: KeyPair) -> Self {
        let der = params.self_signed(&key).unwrap().der().clone();
        Self::from_parts(params, key, der, Vec::new())
    }

    fn issue_ca(&self, params: CertificateParams, key: KeyPair) -> Self {
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = [std::slice::from_ref(&der), &self.chain[..]].concat();
        Self::from_parts(params, key, der, chain)
    }

    /// `chain` is the chain of the certificates that the CA issues. Empty for a root.
    fn from_parts(
        params: CertificateParams,
        key: KeyPair,
        der: CertificateDer<'static>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Self {
        let presented = if chain.is_empty() {
            vec![der]
        } else {
            chain.clone()
        };
        let serial = params.serial_number.as_ref().unwrap().to_bytes();
        let cert = Cert::new(presented, &key, &serial);
        Self {
            chain,
            cert,
            issuer: Issuer::new(params, key),
        }
    }

    /// The CA's own certificate, with its chain.
    pub fn cert(&self) -> &Cert {
        &self.cert
    }

    /// The CA's own certificate in PEM without its chain, for `client_ca`.
    pub fn cert_pem(&self) -> String {
        pem("CERTIFICATE", self.cert.der())
    }

    /// Builds a leaf for servers and clients with the common name `cn`. By default it has
    /// no alternative names and is valid for a day.
    pub fn leaf(&self, cn: &str) -> LeafBuilder<'_> {
        LeafBuilder::new(self, cn)
    }

    /// A server certificate for `localhost`, 127.0.0.1 and `names`.
    pub fn server(&self, names: &[&str]) -> Cert {
        let localhost = self
            .leaf("localhost")
            .dns("localhost")
            .ip(Ipv4Addr::LOCALHOST);
        names
            .iter()
            .fold(localhost, |leaf, name| leaf.dns(name))
            .build()
    }

    /// A CRL in PEM that revokes `revoked` and is valid for a day.
    pub fn crl(&self, revoked: &[&Cert]) -> String {
        self.crl_until(revoked, DAY)
    }

    pub fn crl_builder(&self) -> CrlBuilder<'_> {
        CrlBuilder::new(self)
    }

    /// A CRL in PEM whose `nextUpdate` is `seconds` from now. If `seconds` is negative, the
    /// CRL has expired.
    pub fn crl_until(&self, revoked: &[&Cert], seconds: i64) -> String {
        let list = self
            .crl_builder()
            .number(now_unix().unsigned_abs())
            .validity(seconds.min(0) - 3600, seconds);
        revoked
            .iter()
            .fold(list, |list, cert| list.revoke(cert))
            .pem()
    }

    /// Writes `ca.crt`, `ca.crl` (empty), `server.crt` and `server.key` (for
    /// `localhost`, 127.0.0.1 and `names`) to `dir`. Returns the server's certificate.
    pub fn write_set(&self, dir: impl AsRef<Path>, names: &[&str]) -> Cert {
        let dir = dir.as_ref();
        std::fs::write(dir.join("ca.crt"), self.cert_pem()).unwrap();
        self.write_crl(dir, &[]);
        let server = self.server(names);
        server.write(dir, "server");
        server
    }

    /// Replaces `ca.crl` atomically with a CRL that revokes `revoked`.
    pub fn write_crl(&self, dir: impl AsRef<Path>, revoked: &[&Cert]) {
        let (new, path) = (dir.as_ref().join("ca.crl.new"), dir.as_ref().join("ca.crl"));
        std::fs::write(&new, self.crl(revoked)).unwrap();
        std::fs::rename(new, path).unwrap();
    }
}

fn ca_params(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial());
    params.not_before = at(-10 * 365 * DAY);
    params.not_after = at(10 * 365 * DAY);
    (params, KeyPair::generate().unwrap())
}

/// A random serial number. By default, rcgen derives the serial number from the key, but RSA leaves
/// share a key.
fn random_serial() -> SerialNumber {
    let mut bytes = [0; 16];
    ::aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn now_unix() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(now_unix() + seconds).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}
