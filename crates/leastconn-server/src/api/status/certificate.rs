//! Certificates and revocation lists, and when they expire.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{CertificateFile, Config, FileKind, Urgency};

/// A file of certificates or revocation lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// The file.
    pub file: String,
    /// What it holds.
    #[serde(default)]
    pub kind: CertificateKind,
    /// The subject of the certificate, or the issuer of the list, that decides how long
    /// the file is good: what expires first, of authorities the first in force.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// When that expires: `notAfter` or `nextUpdate`.
    pub not_after: String,
    /// Whole days until then; negative: days since.
    pub days_left: i64,
    /// How soon that is.
    #[serde(default)]
    pub state: CertificateState,
    /// Authorities of the file that have expired: their clients are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<String>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateKind {
    /// A certificate of the balancer, with those above it.
    #[default]
    Certificate,
    /// Authorities.
    Authorities,
    /// Revocation lists.
    Crl,
}

/// How soon a certificate or list expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    /// Not soon.
    #[default]
    Valid,
    /// Within seven days, or the last quarter of its validity if that is less.
    ExpiresSoon,
    /// Within a day, or the last eighth of its validity if that is less.
    ExpiresNow,
    /// It has expired.
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
            // As the metrics call it.
            file: file.path.display().to_string(),
            kind: file.kind.into(),
            name: plain(&deciding.name),
            not_after: deciding.until.to_string(),
            days_left: (deciding.until.as_second() - now.as_second()).div_euclid(86_400),
            state: deciding.urgency(now).into(),
            expired: expired.map(|one| plain(&one.name)).collect(),
        })
    }
}

/// Without the backticks of messages.
fn plain(name: &str) -> String {
    name.trim_matches('`').to_owned()
}
