//! Evaluates rules in shadow mode, whose decisions are recorded but not enforced.
//!
//! A shadow rule is evaluated like an enforced rule: routing, authorization and limits. It has its
//! own token bucket and connection count, so it does not use up the limits of enforced rules. The
//! availability of servers is not checked: `ok` only means that the client would have been
//! admitted.

use std::sync::Arc;

use jiff::Timestamp;
use leastconn::{ClientId, Limits, Permit, net};

use super::AuthInput;
use crate::{limits::ClientLimiters, reason_code::ReasonCode, snapshot::Snapshot};

/// The decision of a shadow rule.
#[derive(Debug)]
pub struct ShadowDecision {
    pub client: Arc<str>,
    pub outcome: ReasonCode,
    /// Counts the connection against the rule's `max_conns` while it is open.
    permit: Option<Permit>,
}

impl ShadowDecision {
    /// Stops counting the connection against `max_conns`.
    pub fn release(&mut self) {
        self.permit = None;
    }
}

/// Returns the decision of the first matching rule if that rule is in shadow mode.
pub fn evaluate(
    snapshot: &Snapshot,
    input: &AuthInput<'_>,
    limiters: &ClientLimiters,
    now: Timestamp,
) -> Option<Box<ShadowDecision>> {
    let policy = &snapshot.policy;
    if !policy.clients().has_shadows() {
        return None;
    }
    let listener = snapshot.listener(input.listener)?;
    let matched = policy.shadow(&input.for_rules(listener), now)?;
    let (outcome, permit) = match matched.grant(&listener.routing, input.sni) {
        Err(denied) => (denied.reason(), None),
        // Without limits there is nothing to count, and no table entry is needed.
        Ok(grant) if *grant.limits() == Limits::default() => (ReasonCode::Ok, None),
        Ok(grant) => {
            let client = matched.client();
            let bucket = ClientId::from(format!("shadow:{client}:{}", grant.identity()));
            match limiters.admit(&bucket, grant.limits(), net::now()) {
                Ok(permit) => (ReasonCode::Ok, Some(permit)),
                Err(refusal) => (refusal.reason().into(), None),
            }
        }
    };
    Some(Box::new(ShadowDecision {
        client: matched.client().into(),
        outcome,
        permit,
    }))
}
