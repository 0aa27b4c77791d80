//! Authorization: whether a client may connect, and to which servers.
//!
//! [`authorize`] is a pure function. It authorizes new connections, and re-authorizes open
//! connections after a reload, a change to a CRL or an expiry. `leastconn-lb explain` calls it,
//! too.

mod input;
pub mod shadow;

use std::sync::Arc;

use jiff::Timestamp;
use leastconn::ClientId;
use leastconn_config::OnExpiry;
use leastconn_tls::ChainError;

use crate::{
    blocks::BlockedBy,
    policy::{Denied, Grant},
    reason_code::ReasonCode,
    snapshot::{Listener, Snapshot},
};

pub use input::{AuthInput, OpenConnection};

/// Why a client was refused before any limit was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the listener was removed from the configuration")]
    ListenerRemoved,
    /// The listener requires a certificate.
    #[error("the client presented no certificate")]
    NoCertificate,
    /// The chain is not valid, or no longer valid.
    #[error(transparent)]
    Certificate(ChainError),
    /// No client rule allows the connection.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// An operator has blocked the client.
    #[error("{by}")]
    Blocked {
        /// The rule that matched.
        client: Arc<str>,
        identity: ClientId,
        by: BlockedBy,
    },
}

impl Refusal {
    /// The reason code for refusing a new connection.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::ListenerRemoved => ReasonCode::PolicyChanged,
            Self::NoCertificate => ReasonCode::NoCertificate,
            Self::Certificate(error) => error.kind().into(),
            Self::Denied(denied) => denied.reason(),
            Self::Blocked { .. } => ReasonCode::Blocked,
        }
    }

    /// The reason code for ending a connection that was already open.
    pub fn reason_for_open(&self) -> ReasonCode {
        match self {
            Self::Certificate(error) => error.kind().into(),
            Self::Blocked { .. } => ReasonCode::Blocked,
            Self::ListenerRemoved | Self::NoCertificate | Self::Denied(_) => {
                ReasonCode::PolicyChanged
            }
        }
    }

    /// Returns the name of the matching rule and the client's identity, if a rule matched.
    pub fn matched(&self) -> Option<(&str, &ClientId)> {
        match self {
            Self::Denied(denied) => denied.matched(),
            Self::Blocked {
                client, identity, ..
            } => Some((client, identity)),
            Self::ListenerRemoved | Self::NoCertificate | Self::Certificate(_) => None,
        }
    }
}

/// Decides whether the client may reach a server under `snapshot`, at the time `now`.
///
/// Verifies the certificate chain again: the handshake may have started long ago, and an
/// open connection may have been verified under another snapshot.
///
/// # Errors
/// The reason for the refusal.
pub fn authorize(
    snapshot: &Snapshot,
    input: &AuthInput<'_>,
    now: Timestamp,
) -> Result<Grant, Refusal> {
    let listener = snapshot
        .listener(input.listener)
        .ok_or(Refusal::ListenerRemoved)?;
    let valid_until = verify_chain(listener, input, now)?;
    let rules = input.for_rules(listener);
    let matched = snapshot.policy.identify(&rules, now)?;
    let blocked = snapshot
        .blocks
        .find(matched.identity(), rules.certificate, leastconn::net::now);
    if let Some(by) = blocked {
        return Err(Refusal::Blocked {
            client: matched.client().into(),
            identity: matched.identity().clone(),
            by,
        });
    }
    let grant = matched.grant(&listener.routing, input.sni)?;
    Ok(grant.with_valid_until(valid_until))
}

/// Returns the last valid second of the chain as UNIX time, if the listener requires a client
/// certificate.
fn verify_chain(
    listener: &Listener,
    input: &AuthInput<'_>,
    now: Timestamp,
) -> Result<Option<i64>, Refusal> {
    let Some(trust) = &listener.trust else {
        return Ok(None);
    };
    let chain = input.chain.ok_or(Refusal::NoCertificate)?;
    let now = now.as_second();
    let verified = match input.open {
        None => trust.verify(chain, now),
        Some(OpenConnection { valid_until }) => {
            let kept_from = match listener.on_expiry {
                OnExpiry::Keep => valid_until,
                OnExpiry::Close => None,
            };
            trust.verify_open(chain, now, kept_from)
        }
    };
    verified.map(Some).map_err(Refusal::Certificate)
}
