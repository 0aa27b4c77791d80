//! Certificates and CRLs with their expiry.

use jiff::Timestamp;
use leastconn_config::{CertificateFile, Config, FileKind, Urgency};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file of certificates or CRLs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    pub file: String,
    #[serde(default)]
    pub kind: CertificateKind,
    /// Subject of the certificate, or issuer of the CRL, that expires first. Expired CA
    /// certificates are ignored if another CA certificate in the file is valid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The `notBefore` or `thisUpdate` of that certificate or CRL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_before: String,
    /// The `notAfter` or `nextUpdate` of that certificate or CRL.
    pub not_after: String,
    /// Whole days until `not_after`; negative after expiry.
    pub days_left: i64,
    #[serde(default)]
    pub state: CertificateState,
    /// Expired CA certificates in the file. Clients whose certificates they issued are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<String>,
}

/// Content of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateKind {
    /// Certificate chain of the balancer.
    #[default]
    Certificate,
    /// CA certificates.
    Authorities,
    /// CRLs.
    Crl,
}

/// How soon a certificate or CRL expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// Does not expire within the periods below.
    #[default]
    Valid,
    /// In the last quarter of its validity period, but at most 14 days before its end.
    ExpiresSoon,
    /// In the last eighth of its validity period, but at most two days before its end.
    ExpiresNow,
    Expired,
}

impl From<Urgency> for CertificateState {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Fine => Self::Valid,
            Urgency::Soon => Self::ExpiresSoon,
            Urgency::Urgent => Self::ExpiresNow,
            Urgency::Expired => Self::Expired,
        }
    }
}

impl From<FileKind> for CertificateKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Chain => Self::Certificate,
            FileKind::Authorities => Self::Authorities,
            FileKind::Lists => Self::Crl,
        }
    }
}

impl Certificate {
    /// All files of a configuration, soonest expiry first.
    pub(super) fn all(config: &Config, now: Timestamp) -> Vec<Self> {
        let mut files: Vec<_> = config
            .certificate_files()
            .filter_map(|file| Some((file.deciding(now)?.until, file)))
            .collect();
        files.sort_by(|(a, of_a), (b, of_b)| (a, &of_a.path).cmp(&(b, &of_b.path)));
        files.dedup_by(|(a, of_a), (b, of_b)| of_a.path == of_b.path && a == b);
        files
            .into_iter()
            .filter_map(|(_, file)| Self::of(file, now))
            .collect()
    }

    fn of(file: &CertificateFile, now: Timestamp) -> Option<Self> {
        let deciding = file.deciding(now)?;
        let expired = file.expired(now);
        Some(Self {
            // The same text as in the `file` label of metrics.
            file: file.path.display().to_string(),
            kind: file.kind.into(),
            name: plain(&deciding.name),
            not_before: deciding.from.to_string(),
            not_after: deciding.until.to_string(),
            days_left: (deciding.until.as_second() - now.as_second()).div_euclid(86_400),
            state: deciding.urgency(now).into(),
            expired: expired.map(|one| plain(&one.name)).collect(),
        })
    }
}

/// Removes the backticks used in messages.
fn plain(name: &str) -> String {
    name.trim_matches('`').to_owned()
}
