//! Errors of chain verification, with their kinds and texts.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{CertificateError, OtherError, pki_types::UnixTime};

use super::{IssuerError, PathError, TooManyElements, Usage, unix_time};
use crate::{
    crl::Missing,
    error_text::{self, date},
};

/// Why a chain is not accepted, without the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainErrorKind {
    /// The chain does not end at a trusted CA, is not valid for its use, exceeds a limit, or is not
    /// covered by a CRL.
    Untrusted,
    /// A certificate is outside its validity period.
    Expired,
    /// A CRL lists a certificate.
    Revoked,
    /// The CRL that covers a certificate has expired.
    CrlExpired,
}

/// Why a chain is not accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum ChainError {
    Certificate(CertificateError),
    /// No configured authority issued the peer's certificate.
    Issuer(IssuerError),
    /// The chain violates a rule of RFC 5280 that rustls-webpki does not check.
    Path(PathError),
    /// The authority, or an intermediate that the peer sent, has expired or is not valid
    /// yet.
    IssuerDates {
        /// Subject of the issuer.
        name: String,
        /// Whether the issuer is a configured authority, not an intermediate.
        is_authority: bool,
        /// The error, with the times of the certificate and of the check.
        error: CertificateError,
    },
    /// The client sent more intermediates than the listener accepts.
    TooManyIntermediates {
        sent: usize,
        max: usize,
    },
    /// The client's certificates have more elements than a listener accepts.
    TooManyElements(TooManyElements),
    /// A CRL lists one of the certificates.
    Revoked {
        /// Issuer of the CRL.
        issuer: String,
        /// File of the CRL.
        file: Arc<str>,
        /// Whether the peer's own certificate is revoked, not an issuer's.
        is_own: bool,
    },
    /// The CRL that covers a certificate has expired.
    CrlExpired {
        /// Issuer of the CRL.
        issuer: String,
        /// File of the CRL.
        file: Arc<str>,
        /// `nextUpdate` of the CRL.
        at: Timestamp,
    },
    /// No CRL covers a certificate.
    NoCrl {
        /// Issuer of the certificate.
        issuer: String,
        /// Whether that issuer is a configured authority, not an intermediate.
        is_authority: bool,
        missing: Missing,
    },
}

impl ChainError {
    pub const fn kind(&self) -> ChainErrorKind {
        match self {
            Self::Certificate(error) => ChainErrorKind::of(error),
            Self::IssuerDates { .. } => ChainErrorKind::Expired,
            Self::Revoked { .. } => ChainErrorKind::Revoked,
            Self::CrlExpired { .. } => ChainErrorKind::CrlExpired,
            Self::TooManyIntermediates { .. }
            | Self::TooManyElements(_)
            | Self::NoCrl { .. }
            | Self::Issuer(_)
            | Self::Path(_) => ChainErrorKind::Untrusted,
        }
    }

    /// The error for rustls, which derives the alert from it.
    pub(crate) fn to_rustls(&self, now: UnixTime) -> CertificateError {
        match self {
            Self::Certificate(error)
            | Self::Issuer(IssuerError { error, .. })
            | Self::IssuerDates { error, .. } => error.clone(),
            Self::Path(PathError::Key(_) | PathError::NoDigitalSignature) => {
                CertificateError::InvalidPurpose
            }
            Self::Path(error) => CertificateError::Other(OtherError(Arc::new(error.clone()))),
            Self::TooManyIntermediates { .. } | Self::TooManyElements(_) => {
                CertificateError::Other(OtherError(Arc::new(self.clone())))
            }
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::CrlExpired { at, .. } => CertificateError::ExpiredRevocationListContext {
                time: now,
                next_update: unix_time(at.as_second()),
            },
            Self::NoCrl { .. } => CertificateError::UnknownRevocationStatus,
        }
    }

    /// Replaces `kept` with `error` if `kept` is `None` or less specific than `error`.
    pub(super) fn keep_most_specific(kept: &mut Option<Self>, error: Self) {
        if kept
            .as_ref()
            .is_none_or(|kept| error.specificity() > kept.specificity())
        {
            *kept = Some(error);
        }
    }

    const fn specificity(&self) -> u8 {
        match self {
            Self::Certificate(_)
            | Self::Issuer(_)
            | Self::TooManyIntermediates { .. }
            | Self::TooManyElements(_)
            | Self::Path(_) => 0,
            Self::IssuerDates { .. } => 1,
            Self::NoCrl { .. } => 2,
            Self::CrlExpired { .. } => 3,
            Self::Revoked { .. } => 4,
        }
    }

    /// The error text for a chain that was verified for `usage`.
    pub(crate) fn text(&self, usage: Usage) -> String {
        let (peer, ca) = match usage {
            Usage::Client => ("client", "client_ca"),
            Usage::Server => ("server", "ca"),
        };
        match self {
            Self::Certificate(error) => error_text::client_certificate(error),
            Self::Issuer(error) => error.text(usage),
            Self::Path(error) => {
                format!("the {peer}'s certificate chain is not accepted: {error}")
            }
            Self::TooManyIntermediates { sent, max } => format!(
                "the client sent {sent} intermediate certificates; `max_intermediates` of the \
                 listener is {max}"
            ),
            Self::TooManyElements(error) => error.to_string(),
            Self::IssuerDates {
                name,
                is_authority,
                error,
            } => issuer_dates(name, *is_authority, error, peer),
            Self::Revoked {
                issuer,
                file,
                is_own,
            } => {
                let certificate = if *is_own {
                    format!("the {peer}'s certificate")
                } else {
                    format!("a certificate above the {peer}'s")
                };
                format!("{certificate} is revoked by the CRL of {issuer} in {file:?}")
            }
            Self::CrlExpired { issuer, file, at } => format!(
                "the CRL of {issuer} in {file:?} expired at {at}: replace it with a current one"
            ),
            Self::NoCrl {
                issuer,
                is_authority,
                missing,
            } => missing_crl(issuer, *is_authority, missing, ca),
        }
    }
}

impl ChainErrorKind {
    /// Classifies a rustls error.
    pub(crate) const fn of(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Expired,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::CrlExpired,
            _ => Self::Untrusted,
        }
    }
}

fn issuer_dates(name: &str, is_authority: bool, error: &CertificateError, peer: &str) -> String {
    let issuer = if is_authority {
        format!("the authority {name} above the {peer}'s certificate")
    } else {
        format!("the intermediate {name} that the {peer} sent")
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{issuer} expired at {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("{issuer} is not valid before {}", date(*not_before))
        }
        _ => format!("{issuer} has expired or is not valid yet"),
    }
}

fn missing_crl(issuer: &str, is_authority: bool, missing: &Missing, ca: &str) -> String {
    let remedy = if is_authority {
        format!("add the CRL of {issuer} to `crl`")
    } else {
        format!("add the intermediate {issuer} to `{ca}`, and its CRL to `crl`")
    };
    match missing {
        Missing::Issuer => format!("`crl` has no CRL of {issuer}: {remedy}"),
        Missing::Key => format!(
            "`crl` has no CRL of {issuer} that is signed with the key that signed the \
             certificate: {remedy}"
        ),
        Missing::Partition { lists, certificate } => {
            let covered = match &lists[..] {
                [] => "a distribution point without a URI".to_owned(),
                uris => format!("the distribution point {}", uris.join(", ")),
            };
            let (named, remedy) = match &certificate[..] {
                [] => (
                    "names no distribution point with a URI",
                    format!("add the full CRL of {issuer} to `crl`"),
                ),
                uris => (
                    "names another one",
                    format!("add the CRL published at {} to `crl`", uris.join(" or ")),
                ),
            };
            format!(
                "the CRL of {issuer} in `crl` covers only {covered}, and the certificate {named}: \
                 {remedy}"
            )
        }
    }
}

impl fmt::Display for ChainError {
    /// Text for client certificates. For servers, see [`Self::text`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Usage::Client))
    }
}

impl std::error::Error for ChainError {}

impl From<CertificateError> for ChainError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<TooManyElements> for ChainError {
    fn from(error: TooManyElements) -> Self {
        Self::TooManyElements(error)
    }
}

impl From<PathError> for ChainError {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}
