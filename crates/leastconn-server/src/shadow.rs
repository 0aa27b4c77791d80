//! What a rule in shadow mode would have decided.
//!
//! It is tried with everything that decides otherwise: routing, authorization,
//! rate and number of connections. Its bucket and count are its own, apart from
//! those that decide, so it takes nothing from anybody. Whether a server would have
//! been there is not tried: `ok` says that the client would have been let in.

use std::sync::Arc;

use jiff::Timestamp;
use leastconn::{ClientId, Limits, Permit, Reason, net};

use crate::{listener::Listener, seen::Seen};

/// A rule in shadow mode that would have decided, and what.
#[derive(Debug)]
pub struct Shadowed {
    /// The rule's name.
    pub client: Arc<str>,
    /// What it would have decided.
    pub outcome: Reason,
    /// Counts as one of the connections that it would have let in.
    permit: Option<Permit>,
}

impl Shadowed {
    /// The connection ended.
    pub fn ended(&mut self) {
        self.permit = None;
    }
}

/// The rule in shadow mode that would have decided about a client, if one would.
pub fn judge(listener: &Listener, seen: &Seen, now: Timestamp) -> Option<Box<Shadowed>> {
    let policy = &listener.state.policy;
    if !policy.clients().has_shadows() {
        return None;
    }
    let peer = seen.by(listener);
    let matched = policy.shadow(&peer, now)?;
    let (outcome, permit) = match matched.grant(&listener.routing, seen.sni.as_deref()) {
        Err(denied) => (denied.reason(), None),
        // Nothing to count, and so no place taken among those that are counted.
        Ok(grant) if *grant.limits() == Limits::default() => (Reason::Ok, None),
        Ok(grant) => {
            let client = matched.client();
            let bucket = ClientId::from(format!("shadow:{client}:{}", grant.identity()));
            match listener.limiter.admit(&bucket, grant.limits(), net::now()) {
                Ok(permit) => (Reason::Ok, Some(permit)),
                Err(refusal) => (refusal.reason(), None),
            }
        }
    };
    Some(Box::new(Shadowed {
        client: matched.client().into(),
        outcome,
        permit,
    }))
}
