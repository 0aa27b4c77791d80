//! Errors of certificates that no configured authority issued.

use std::fmt;

use rustls::CertificateError;

use super::Usage;
use crate::error_text::{listed, shortened};

/// Why a chain does not lead to a configured authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerProblem {
    /// A certificate names an issuer whose key did not sign it.
    WrongSignature {
        /// Subject of the intermediate with this signature. `None`: the peer's own certificate.
        intermediate: Option<String>,
        /// Subject of the issuer.
        issuer: String,
        /// Whether the issuer is a configured authority, not an intermediate.
        is_authority: bool,
    },
    /// The algorithm of a signature is not supported.
    UnsupportedSignature {
        /// Subject of the intermediate with this signature. `None`: the peer's own certificate.
        intermediate: Option<String>,
    },
    /// The peer's certificate is self-signed, and its subject is not that of an authority.
    SelfSigned { subject: String },
    /// The name at the end of the chain is not that of an authority.
    UnknownIssuer {
        issuer: String,
        /// Subjects of the authorities.
        authorities: Vec<String>,
    },
    /// No authority is configured.
    NoAuthority,
}

/// A certificate that no configured authority issued. Its text depends on the role of the peer.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerError {
    pub(super) problem: IssuerProblem,
    /// The error for rustls.
    pub(super) error: CertificateError,
}

impl IssuerError {
    pub(super) fn text(&self, usage: Usage) -> String {
        let (peer, ca, is_client) = match usage {
            Usage::Client => ("client", "client_ca", true),
            Usage::Server => ("server", "ca", false),
        };
        let not_issued = if is_client {
            "no authority of `client_ca` issued the client's certificate"
        } else {
            "the server's certificate was not issued by an authority of `ca`"
        };
        match &self.problem {
            IssuerProblem::WrongSignature {
                intermediate,
                issuer,
                is_authority,
            } => {
                let certificate = certificate(intermediate.as_deref(), peer);
                let issuer = quoted(issuer);
                if *is_authority {
                    format!(
                        "invalid signature: {certificate} names the authority {issuer} of `{ca}` \
                         as its issuer, but another CA with the same name signed it: the \
                         signature does not match the key of that authority"
                    )
                } else {
                    format!(
                        "invalid signature: {certificate} names the intermediate {issuer} as its \
                         issuer, but the signature does not match the key of the intermediate \
                         that the {peer} sent"
                    )
                }
            }
            IssuerProblem::UnsupportedSignature { intermediate } => format!(
                "{} is signed with an algorithm that is not supported: issue it again with SHA-256 \
                 or better",
                certificate(intermediate.as_deref(), peer)
            ),
            IssuerProblem::SelfSigned { subject } => format!(
                "{not_issued}: it is self-signed ({}); issue one with a CA of `{ca}`{}",
                quoted(subject),
                if is_client {
                    ", or add its key to `client_pins`"
                } else {
                    ""
                }
            ),
            IssuerProblem::UnknownIssuer {
                issuer,
                authorities,
            } => format!(
                "{not_issued}: its issuer is {0}, and `{ca}` has {1}; if {0} is an intermediate \
                 CA, the {peer} must send its certificate",
                quoted(issuer),
                listed(authorities.iter().map(|name| quoted(name)))
            ),
            IssuerProblem::NoAuthority if is_client => {
                "the key of the client's certificate is not in `client_pins`, and `client_ca` has \
                 no authority"
                    .to_owned()
            }
            IssuerProblem::NoAuthority => {
                format!("{not_issued}, which has only self-signed certificates of servers")
            }
        }
    }
}

fn certificate(intermediate: Option<&str>, peer: &str) -> String {
    match intermediate {
        None => format!("the {peer}'s certificate"),
        Some(name) => format!("the intermediate {} of the {peer}", quoted(name)),
    }
}

/// Quotes a name that comes from the peer.
fn quoted(name: &str) -> String {
    format!("`{}`", shortened(name))
}

impl fmt::Display for IssuerError {
    /// Text for client certificates. For servers, see [`Self::text`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(Usage::Client))
    }
}

impl std::error::Error for IssuerError {}
