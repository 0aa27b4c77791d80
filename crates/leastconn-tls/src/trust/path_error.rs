//! Errors from the path checks that rustls-webpki does not perform.

use std::fmt;

use crate::x509::key;

/// Why a path with valid signatures and dates is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The type of the peer's key is not accepted in handshakes.
    Key(String),
    /// The peer's key usage lacks digitalSignature.
    NoDigitalSignature,
    /// The key usage of an issuer lacks keyCertSign.
    NoCertSign { name: String },
    /// The path has more intermediates than the path length of an authority allows.
    PathLength {
        authority: String,
        /// Number of intermediates that the authority allows.
        limit: u32,
    },
    /// The extended key usage of an authority does not include the peer's role.
    Purpose { authority: String },
    /// The name constraints of an authority forbid a name.
    Constraint {
        authority: String,
        /// Kind of the forbidden name, in the plural.
        kind: &'static str,
        /// Whether constraints of this kind can be checked. If `false`, every certificate
        /// with such a name is refused.
        is_checked: bool,
    },
    /// An issuer has a key type whose signatures are not accepted.
    IssuerKey {
        name: String,
        /// Whether the issuer is a configured authority, not an intermediate.
        is_authority: bool,
        kind: String,
    },
    /// A certificate has an unsupported critical extension.
    Critical { name: String, oid: String },
}

impl std::error::Error for PathError {}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(kind) => write!(
                f,
                "the certificate has {kind}, which is not accepted: use {}",
                key::ACCEPTED
            ),
            Self::NoDigitalSignature => f.write_str(
                "the certificate's key usage lacks digitalSignature, which a client needs",
            ),
            Self::NoCertSign { name } => write!(
                f,
                "{name}, above the certificate, must not issue certificates: its key usage lacks \
                 keyCertSign"
            ),
            Self::PathLength { authority, limit } => write!(
                f,
                "the authority {authority} allows {limit} intermediates below it (path length), \
                 and there are more"
            ),
            Self::Purpose { authority } => write!(
                f,
                "the extended key usage of the authority {authority} does not allow this use"
            ),
            Self::Constraint {
                authority,
                kind,
                is_checked: true,
            } => write!(
                f,
                "the name constraints of {authority} do not allow the {kind} of a certificate \
                 below it"
            ),
            Self::Constraint {
                authority, kind, ..
            } => write!(
                f,
                "{authority} has name constraints for {kind}, which cannot be checked: every \
                 certificate with such a name is refused"
            ),
            Self::IssuerKey {
                name,
                is_authority,
                kind,
            } => write!(
                f,
                "{} {name}, above the certificate, has {kind}, which is not accepted: use {}",
                if *is_authority {
                    "the authority"
                } else {
                    "the intermediate"
                },
                key::ACCEPTED
            ),
            Self::Critical { name, oid } => write!(
                f,
                "the certificate of {name} has an unsupported critical extension: {oid}"
            ),
        }
    }
}
