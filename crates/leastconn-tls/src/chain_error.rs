//! Why a certificate chain is refused, and the text for it.

use std::sync::Arc;

use jiff::Timestamp;
use leastconn::Reason;
use rustls::{CertificateError, OtherError, pki_types::UnixTime};

use crate::{crl::Missing, error_text, path::PathError, usage::Usage};

/// Why a chain is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum ChainError {
    /// An error that rustls has, too.
    Certificate(CertificateError),
    /// An error that rustls-webpki does not check for.
    Path(PathError),
    /// An intermediate or the CA has expired or is not valid yet.
    IssuerDates {
        name: String,
        /// Whether it is one of the configured CAs.
        is_authority: bool,
        /// The error with its times.
        error: CertificateError,
    },
    /// The client sent more certificates than the listener accepts.
    TooManyIntermediates {
        /// Certificates beside the client's own.
        sent: usize,
        max: usize,
    },
    /// A CRL revokes one of the certificates.
    Revoked {
        issuer: String,
        file: Arc<str>,
        /// Whether the peer's own certificate is revoked, not an intermediate.
        is_own: bool,
    },
    /// The only CRL that covers the certificate has expired.
    CrlExpired {
        issuer: String,
        file: Arc<str>,
        at: Timestamp,
    },
    /// No CRL covers a certificate.
    NoCrl {
        /// The issuer of that certificate.
        issuer: String,
        /// Whether that issuer is one of the configured CAs.
        is_authority: bool,
        missing: Missing,
    },
}

impl ChainError {
    /// The reason code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Certificate(error) => certificate_reason(error),
            Self::IssuerDates { .. } => Reason::ExpiredCertificate,
            Self::Revoked { .. } => Reason::RevokedCertificate,
            Self::CrlExpired { .. } => Reason::CrlExpired,
            Self::TooManyIntermediates { .. } | Self::NoCrl { .. } | Self::Path(_) => {
                Reason::UntrustedCertificate
            }
        }
    }

    /// The error for rustls, which derives the alert from it.
    pub(super) fn to_rustls(&self, now: UnixTime) -> CertificateError {
        match self {
            Self::Certificate(error) | Self::IssuerDates { error, .. } => error.clone(),
            Self::Path(PathError::Key(_) | PathError::NoDigitalSignature) => {
                CertificateError::InvalidPurpose
            }
            Self::Path(error) => CertificateError::Other(OtherError(Arc::new(error.clone()))),
            Self::TooManyIntermediates { .. } => {
                CertificateError::Other(OtherError(Arc::new(self.clone())))
            }
            Self::Revoked { .. } => CertificateError::Revoked,
            Self::CrlExpired { at, .. } => CertificateError::ExpiredRevocationListContext {
                time: now,
                next_update: UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                    at.as_second().max(0).unsigned_abs(),
                )),
            },
            Self::NoCrl { .. } => CertificateError::UnknownRevocationStatus,
        }
    }

    /// Keeps the more relevant of two errors.
    pub(super) fn keep_worse(kept: &mut Option<Self>, error: Self) {
        if kept.as_ref().is_none_or(|kept| error.rank() > kept.rank()) {
            *kept = Some(error);
        }
    }

    /// Relevance: the more specific, the higher.
    const fn rank(&self) -> u8 {
        match self {
            Self::Certificate(_) | Self::TooManyIntermediates { .. } | Self::Path(_) => 0,
            Self::IssuerDates { .. } => 1,
            Self::NoCrl { .. } => 2,
            Self::CrlExpired { .. } => 3,
            Self::Revoked { .. } => 4,
        }
    }
}

/// The reason code for an error of rustls.
pub(super) const fn certificate_reason(error: &CertificateError) -> Reason {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Reason::ExpiredCertificate,
        CertificateError::Revoked => Reason::RevokedCertificate,
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => Reason::CrlExpired,
        _ => Reason::UntrustedCertificate,
    }
}

impl std::fmt::Display for ChainError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Errors concern clients, unless the caller uses `text`.
        f.write_str(&text(self, Usage::Client))
    }
}

impl std::error::Error for ChainError {}

impl From<CertificateError> for ChainError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

/// The text for the refused chain of a client or server.
pub(super) fn text(error: &ChainError, usage: Usage) -> String {
    let (peer, ca) = match usage {
        Usage::Client => ("client", "client_ca"),
        Usage::Server => ("server", "ca"),
    };
    match error {
        ChainError::Certificate(error) => certificate_text(error),
        ChainError::Path(error) => format!("the {peer}'s chain is refused: {error}"),
        ChainError::TooManyIntermediates { sent, max } => format!(
            "the client sent {sent} certificates beside its own, and `max_intermediates` of the \
             listener is {max}"
        ),
        ChainError::IssuerDates {
            name,
            is_authority,
            error,
        } => {
            let what = if *is_authority {
                format!("{name}, the authority above the {peer}'s certificate,")
            } else {
                format!("{name}, which the {peer} sends above its certificate,")
            };
            match error {
                CertificateError::ExpiredContext { not_after, .. } => {
                    format!("{what} expired at {}", date(*not_after))
                }
                CertificateError::NotValidYetContext { not_before, .. } => {
                    format!("{what} is not valid before {}", date(*not_before))
                }
                _ => format!("{what} is out of date"),
            }
        }
        ChainError::Revoked {
            issuer,
            file,
            is_own,
        } => {
            let whose = if *is_own {
                format!("the {peer}'s certificate")
            } else {
                format!("a certificate above the {peer}'s")
            };
            format!("{whose} is revoked by the list of {issuer} in {file:?}")
        }
        ChainError::CrlExpired { issuer, file, at } => format!(
            "the revocation list of {issuer} in {file:?} expired at {at}: put a current one in its \
             place"
        ),
        ChainError::NoCrl {
            issuer,
            is_authority,
            missing,
        } => no_list(issuer, *is_authority, missing, ca),
    }
}

fn no_list(issuer: &str, is_authority: bool, missing: &Missing, ca: &str) -> String {
    let remedy = if is_authority {
        format!("add the list of {issuer} to `crl`")
    } else {
        format!("put the intermediate {issuer} into `{ca}`, and its revocation list into `crl`")
    };
    match missing {
        Missing::Issuer => format!("`crl` holds no list of {issuer}: {remedy}"),
        Missing::Key => format!(
            "`crl` holds no list of {issuer} that is signed with the key it issued this with: \
             {remedy}"
        ),
        Missing::Partition { lists, certificate } => {
            let lists = match &lists[..] {
                [] => "a distribution point without a URI".to_owned(),
                uris => format!("the distribution point {}", uris.join(", ")),
            };
            let (certificate, remedy) = match &certificate[..] {
                [] => (
                    "names no distribution point with a URI",
                    format!("add the full list of {issuer} to `crl`"),
                ),
                uris => (
                    "names another one",
                    format!("add the list published at {} to `crl`", uris.join(" or ")),
                ),
            };
            format!(
                "the list of {issuer} in `crl` covers only {lists}, and the certificate \
                 {certificate}: {remedy}"
            )
        }
    }
}

/// The text for an error in a client's certificate.
pub(super) fn certificate_text(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::UnknownIssuer => "no authority of `client_ca` issued the client's certificate, or an \
                             intermediate is missing from what the client sends"
            .to_owned(),
        C::BadSignature => "a signature does not fit: the client's certificate is not signed by \
                            the authority that it names, or the client has another key"
            .to_owned(),
        C::ExpiredContext { not_after, .. } => format!(
            "the client's certificate, or one above it, was valid until {}",
            date(*not_after)
        ),
        C::NotValidYetContext { not_before, .. } => format!(
            "the client's certificate, or one above it, is not valid before {}",
            date(*not_before)
        ),
        C::Revoked => "the client's certificate, or one above it, is revoked".to_owned(),
        C::UnknownRevocationStatus => "no list of `crl` is of who issued the client's \
                                       certificate, or one above it"
            .to_owned(),
        C::ExpiredRevocationList => "the revocation list of its issuer has expired".to_owned(),
        C::ExpiredRevocationListContext { next_update, .. } => format!(
            "the revocation list of its issuer expired at {}: put a current one in its place",
            date(*next_update)
        ),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "the client's certificate is not for clients: its extended key usage lacks clientAuth"
                .to_owned()
        }
        other => error_text::certificate("the client's", other),
    }
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "a time long ago or far ahead".to_owned(),
            |at| at.to_string(),
        )
}
