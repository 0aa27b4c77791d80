//! Builder for certificate revocation lists.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint,
    KeyIdMethod, RevokedCertParams, SerialNumber,
};

use super::{Cert, DAY, TestCa, at, from_hex};

/// Builds a CRL; see [`TestCa::crl_builder`].
#[derive(Debug, Clone)]
#[must_use = "call .pem()"]
pub struct CrlBuilder<'a> {
    ca: &'a TestCa,
    number: u64,
    validity: (i64, i64),
    revoked: Vec<String>,
    point: Option<String>,
}

impl<'a> CrlBuilder<'a> {
    pub(super) fn new(ca: &'a TestCa) -> Self {
        Self {
            ca,
            number: 1,
            validity: (-3600, DAY),
            revoked: Vec::new(),
            point: None,
        }
    }

    /// `cRLNumber`.
    pub fn number(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// `thisUpdate` and `nextUpdate`, in seconds from now.
    pub fn validity(mut self, this_update: i64, next_update: i64) -> Self {
        self.validity = (this_update, next_update);
        self
    }

    pub fn revoke(mut self, cert: &Cert) -> Self {
        self.revoked.push(cert.serial_hex.clone());
        self
    }

    /// Restricts the CRL to certificates with this distribution point.
    pub fn distribution_point(mut self, uri: &str) -> Self {
        self.point = Some(uri.to_owned());
        self
    }

    pub fn pem(&self) -> String {
        let point = self.point.as_ref().map(|uri| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec![uri.clone()],
            },
            scope: None,
        });
        let revoked = self.revoked.iter().map(|serial| RevokedCertParams {
            serial_number: from_hex(serial).into(),
            revocation_time: at(-60),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: at(self.validity.0),
            next_update: at(self.validity.1),
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: point,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.ca.issuer).unwrap().pem().unwrap()
    }
}
