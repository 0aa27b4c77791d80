//! The leaf builder.

use std::net::IpAddr;
use std::sync::LazyLock;

use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::der::{ISSUER, OID, SEQUENCE, SET, SUBJECT, UTF8_STRING, tlv, version_1, with_field};
use super::{Cert, DAY, TestCa, at, random_serial};

/// 2.5.4.3 and 2.5.4.11.
const CN: &[u8] = &[0x55, 4, 3];
const OU: &[u8] = &[0x55, 4, 11];

/// RSA keys take long to make: one a process, shared by all who ask.
static RSA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)
        .unwrap()
        .serialize_der()
});

type Attribute = (&'static [u8], Vec<u8>);

/// A leaf to be; see [`TestCa::leaf`].
#[derive(Debug, Clone)]
#[must_use = "call .build()"]
pub struct LeafBuilder<'a> {
    ca: &'a TestCa,
    /// Relative distinguished names, each a set of attributes.
    subject: Vec<Vec<Attribute>>,
    alternative: Vec<SanType>,
    /// Encoded alternative names.
    raw_alternative: Vec<u8>,
    /// Relative distinguished names, if not the CA's own.
    issuer: Option<Vec<Vec<Attribute>>>,
    validity: (i64, i64),
    usages: Vec<ExtendedKeyUsagePurpose>,
    rsa: bool,
    self_signed: bool,
    version_1: bool,
    crl_at: Option<String>,
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
        }
    }

    /// Replaces every common name by this one.
    pub fn cn(self, cn: &str) -> Self {
        self.no_cn().extra_cn(cn)
    }

    /// One more common name, in an RDN of its own.
    pub fn extra_cn(mut self, cn: &str) -> Self {
        self.subject.push(vec![(CN, cn.into())]);
        self
    }

    /// One more common name, in the same RDN as the last (a multi-valued RDN).
    pub fn joined_cn(mut self, cn: &str) -> Self {
        self.subject
            .last_mut()
            .expect("there is a name to join")
            .push((CN, cn.into()));
        self
    }

    /// An organizational unit.
    pub fn ou(mut self, ou: &str) -> Self {
        self.subject.push(vec![(OU, ou.into())]);
        self
    }

    /// One more organizational unit, in the same RDN as the last name.
    pub fn joined_ou(mut self, ou: &str) -> Self {
        self.subject
            .last_mut()
            .expect("there is a name to join")
            .push((OU, ou.into()));
        self
    }

    /// An organizational unit of these bytes, tagged UTF8String whatever they are.
    pub fn raw_ou_bytes(mut self, bytes: &[u8]) -> Self {
        self.subject.push(vec![(OU, bytes.to_vec())]);
        self
    }

    /// Says that these common names are its issuer's, whatever the CA is called:
    /// for reading it only, nobody will verify it.
    pub fn issuer_cns(mut self, names: &[&[u8]]) -> Self {
        let names = names.iter().map(|name| vec![(CN, name.to_vec())]);
        self.issuer = Some(names.collect());
        self
    }

    /// No common name at all.
    pub fn no_cn(mut self) -> Self {
        for rdn in &mut self.subject {
            rdn.retain(|(oid, _)| *oid != CN);
        }
        self.subject.retain(|rdn| !rdn.is_empty());
        self
    }

    /// Replaces every common name by these bytes, tagged UTF8String whatever they are:
    /// NUL, control characters, broken UTF-8.
    pub fn raw_cn_bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.no_cn();
        this.subject.push(vec![(CN, bytes.to_vec())]);
        this
    }

    /// A DNS name; any ASCII, even what is none.
    pub fn dns(mut self, name: &str) -> Self {
        self.alternative
            .push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// A URI; any ASCII, even what is none.
    pub fn uri(mut self, uri: &str) -> Self {
        self.alternative.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    /// An alternative name of any tag (`0x81` e-mail, `0x82` DNS, `0x86` URI) and any
    /// bytes. Beside names that are not raw, it makes a second extension.
    pub fn raw_name(mut self, tag: u8, bytes: &[u8]) -> Self {
        self.raw_alternative.extend(tlv(tag, bytes));
        self
    }

    /// An e-mail address; any ASCII, even what is none.
    pub fn email(mut self, address: &str) -> Self {
        self.alternative
            .push(SanType::Rfc822Name(address.try_into().unwrap()));
        self
    }

    /// An IP address.
    pub fn ip(mut self, address: impl Into<IpAddr>) -> Self {
        self.alternative.push(SanType::IpAddress(address.into()));
        self
    }

    /// notBefore and notAfter, in seconds from now: `(-20, -10)` has expired,
    /// `(3600, 7200)` is not yet valid.
    pub fn validity(mut self, not_before: i64, not_after: i64) -> Self {
        self.validity = (not_before, not_after);
        self
    }

    /// Extended key usage serverAuth alone.
    pub fn eku_server_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Extended key usage clientAuth alone.
    pub fn eku_client_only(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Without the extension.
    pub fn no_eku(mut self) -> Self {
        self.usages.clear();
        self
    }

    /// RSA 2048 instead of P-256. All RSA leaves of a process share one key.
    pub fn rsa(mut self) -> Self {
        self.rsa = true;
        self
    }

    /// Its CRL distribution point.
    pub fn crl_distribution_point(mut self, uri: &str) -> Self {
        self.crl_at = Some(uri.to_owned());
        self
    }

    /// Signed with its own key; the CA has nothing to do with it.
    pub fn self_signed(mut self) -> Self {
        self.self_signed = true;
        self
    }

    /// X.509 version 1, which has no extensions: what `openssl x509 -req` without
    /// `-extfile` makes in OpenSSL 3.0.
    pub fn version_1(mut self) -> Self {
        self.version_1 = true;
        self
    }

    /// Makes the certificate, with a new key and a random serial number.
    pub fn build(self) -> Cert {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if !self.subject.is_empty() {
            // A stand-in: rcgen marks the alternative names critical when there is none.
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
        // For rcgen, its own stand-in issued it.
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
    // DER: the members of a set are in ascending order.
    encoded.sort();
    tlv(SET, &encoded.concat())
}
