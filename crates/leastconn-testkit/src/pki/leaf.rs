//! Builder for leaf certificates.

use std::net::IpAddr;
use std::sync::LazyLock;

use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::der::{ISSUER, OID, SEQUENCE, SET, SUBJECT, UTF8_STRING, tlv, version_1, with_field};
use super::{Cert, DAY, TestCa, at, random_serial};

/// OID 2.5.4.3.
const CN: &[u8] = &[0x55, 4, 3];
/// OID 2.5.4.11.
const OU: &[u8] = &[0x55, 4, 11];

/// The RSA key of all RSA leaves. The leaves share a key, because generating RSA keys is slow.
static RSA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)
        .unwrap()
        .serialize_der()
});

type Attribute = (&'static [u8], Vec<u8>);

/// Builds a leaf certificate; see [`TestCa::leaf`].
#[derive(Debug, Clone)]
#[must_use = "call .build()"]
pub struct LeafBuilder<'a> {
    ca: &'a TestCa,
    /// Subject, as a list of relative distinguished names (RDNs). Each RDN is a set of
    /// attributes.
    subject: Vec<Vec<Attribute>>,
    alternative: Vec<SanType>,
    /// Encoded alternative names.
    raw_alternative: Vec<u8>,
    /// Issuer, as a list of RDNs. `None`: the CA's subject.
    issuer: Option<Vec<Vec<Attribute>>>,
    validity: (i64, i64),
    usages: Vec<ExtendedKeyUsagePurpose>,
    rsa: bool,
    self_signed: bool,
    version_1: bool,
    crl_at: Option<String>,
    private_extensions: u64,
}

impl<'a> LeafBuilder<'a> {
    pub(super) fn new(ca: &'a TestCa, cn: &str) -> Self {
        Self {
            ca,
            subject: vec![vec![(CN, cn.into())]],
            alternative: Vec::new(),
            raw_alternative: Vec::new(),
            issuer: None,
            validity: (-DAY, DAY),
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            rsa: false,
            self_signed: false,
            version_1: false,
            crl_at: None,
            private_extensions: 0,
        }
    }

    /// Replaces all common names.
    pub fn cn(self, cn: &str) -> Self {
        self.no_cn().extra_cn(cn)
    }

    /// Adds a common name in a separate RDN.
    pub fn extra_cn(mut self, cn: &str) -> Self {
        self.subject.push(vec![(CN, cn.into())]);
        self
    }

    /// Adds a common name to the last RDN, which becomes multi-valued.
    pub fn joined_cn(mut self, cn: &str) -> Self {
        self.subject
            .last_mut()
            .expect("there is a name to join")
            .push((CN, cn.into()));
        self
    }

    /// Adds an organizational unit in a separate RDN.
    pub fn ou(mut self, ou: &str) -> Self {
        self.subject.push(vec![(OU, ou.into())]);
        self
    }

    /// Adds an organizational unit to the last RDN.
    pub fn joined_ou(mut self, ou: &str) -> Self {
        self.subject
            .last_mut()
            .expect("there is a name to join")
            .push((OU, ou.into()));
        self
    }

    /// Adds an organizational unit tagged UTF8String; `bytes` need not be valid UTF-8.
    pub fn raw_ou_bytes(mut self, bytes: &[u8]) -> Self {
        self.subject.push(vec![(OU, bytes.to_vec())]);
        self
    }

    /// Replaces the issuer's name with a name that consists of these common names. The certificate
    /// can then be parsed, but not verified.
    pub fn issuer_cns(mut self, names: &[&[u8]]) -> Self {
        let names = names.iter().map(|name| vec![(CN, name.to_vec())]);
        self.issuer = Some(names.collect());
        self
    }

    pub fn no_cn(mut self) -> Self {
        for rdn in &mut self.subject {
            rdn.retain(|(oid, _)| *oid != CN);
        }
        self.subject.retain(|rdn| !rdn.is_empty());
        self
    }

    /// Replaces all common names with a single name that is tagged UTF8String. `bytes` may contain
    /// NUL, control characters and invalid UTF-8.
    pub fn raw_cn_bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.no_cn();
        this.subject.push(vec![(CN, bytes.to_vec())]);
        this
    }

    /// Adds a DNS name. Any ASCII text is accepted.
    pub fn dns(mut self, name: &str) -> Self {
        self.alternative
            .push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// Adds a URI. Any ASCII text is accepted.
    pub fn uri(mut self, uri: &str) -> Self {
        self.alternative.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    /// Adds an alternative name with any tag (`0x81` e-mail, `0x82` DNS, `0x86` URI) and
    /// any bytes. Combined with `dns`, `uri`, `email` or `ip`, the certificate has two
    /// subject alternative name extensions.
    pub fn raw_name(mut self, tag: u8, bytes: &[u8]) -> Self {
        self.raw_alternative.extend(tlv(tag, bytes));
        self
    }

    /// Adds an e-mail address. Any ASCII text is accepted.
    pub fn email(mut self, address: &str) -> Self {
        self.alternative
            .push(SanType::Rfc822Name(address.try_into().unwrap()));
        self
    }

    pub fn ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.alternative.push(SanType::IpAddress(address.into()));
        self
    }

    /// Sets notBefore and notAfter, in seconds from now: `(-20, -10)` has expired,
    /// `(3600, 7200)` is not yet valid.
    pub fn validity(mut self, not_before: i64, not_after: i64) -> Self {
        self.validity = (not_before, not_after);
        self
    }

    /// Sets the extended key usage to serverAuth.
    pub fn eku_server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Sets the extended key usage to clientAuth.
    pub fn eku_client_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Omits the extended key usage extension.
    pub fn no_eku(mut self) -> Self {
        self.usages.clear();
        self
    }

    /// Uses RSA 2048 instead of P-256. All RSA leaves of a process share one key.
    pub fn rsa(mut self) -> Self {
        self.rsa = true;
        self
    }

    pub fn crl_distribution_point(mut self, uri: &str) -> Self {
        self.crl_at = Some(uri.to_owned());
        self
    }

    /// Adds extensions, each with an OID that no program knows.
    pub fn private_extensions(mut self, count: u64) -> Self {
        self.private_extensions += count;
        self
    }

    /// Signs the certificate with its own key instead of the CA's.
    pub fn self_signed(mut self) -> Self {
        self.self_signed = true;
        self
    }

    /// Creates an X.509 version 1 certificate, without extensions, as `openssl x509 -req` without
    /// `-extfile` does in OpenSSL 3.0.
    pub fn version_1(mut self) -> Self {
        self.version_1 = true;
        self
    }

    /// Creates the certificate, with a new key and a random serial number.
    pub fn build(self) -> Cert {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if !self.subject.is_empty() {
            // A placeholder for the subject, which is replaced below. With an empty
            // subject, rcgen would mark the alternative names as critical.
            params
                .distinguished_name
                .push(DnType::CommonName, "subject");
        }
        params.subject_alt_names = self.alternative;
        if !self.raw_alternative.is_empty() {
            let names = tlv(SEQUENCE, &self.raw_alternative);
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
            params.custom_extensions.push(extension);
        }
        for n in 0..self.private_extensions {
            let extension =
                CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, n], vec![5, 0]);
            params.custom_extensions.push(extension);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages;
        params.use_authority_key_identifier_extension = true;
        let point = |uri| CrlDistributionPoint { uris: vec![uri] };
        params.crl_distribution_points = self.crl_at.map(point).into_iter().collect();
        params.not_before = at(self.validity.0);
        params.not_after = at(self.validity.1);
        let serial = random_serial();
        params.serial_number = Some(serial.clone());

        let key = if self.rsa {
            KeyPair::try_from(&PrivateKeyDer::try_from(RSA.clone()).unwrap()).unwrap()
        } else {
            KeyPair::generate().unwrap()
        };
        let subject_names = self.subject.clone();
        let subject = encode_name(self.subject);
        let (cert, signer, above) = if self.self_signed {
            (params.self_signed(&key).unwrap(), &key, &[][..])
        } else {
            let issuer = &self.ca.issuer;
            (
                params.signed_by(&key, issuer).unwrap(),
                issuer.key(),
                &self.ca.chain[..],
            )
        };
        let mut leaf = with_field(cert.der(), SUBJECT, &subject, signer);
        // rcgen used the placeholder as the issuer of self-signed certificates.
        let issuer = self
            .issuer
            .or_else(|| self.self_signed.then_some(subject_names));
        if let Some(issuer) = issuer {
            leaf = with_field(&leaf, ISSUER, &encode_name(issuer), signer);
        }
        if self.version_1 {
            leaf = version_1(&leaf, signer);
        }
        let leaf = CertificateDer::from(leaf);
        Cert::new([&[leaf], above].concat(), &key, serial.as_ref())
    }
}

fn encode_name(rdns: Vec<Vec<Attribute>>) -> Vec<u8> {
    let rdns: Vec<u8> = rdns.into_iter().flat_map(encode_rdn).collect();
    tlv(SEQUENCE, &rdns)
}

fn encode_rdn(attributes: Vec<Attribute>) -> Vec<u8> {
    let mut encoded: Vec<Vec<u8>> = attributes
        .into_iter()
        .map(|(oid, value)| {
            tlv(
                SEQUENCE,
                &[tlv(OID, oid), tlv(UTF8_STRING, &value)].concat(),
            )
        })
        .collect();
    // DER requires that the elements of a set are sorted.
    encoded.sort();
    tlv(SET, &encoded.concat())
}
