//! Authorizes new connections, and re-authorizes open connections after a reload, after a change to
//! a CRL, and when a certificate or a rule has expired.
//!
//! A connection that is authorized under one snapshot must not be missed by a reload that installs
//! another snapshot at the same time. The connection and the reload do not wait for each other:
//!
//! - The connection stores the result of its authorization under the lock of its
//!   [`ConnectionState`], then checks whether its snapshot is still the newest.
//! - The reload installs its snapshot, then visits every connection under the same lock.
//!
//! If the connection takes the lock first, the reload finds and re-authorizes it. If the reload
//! takes the lock first, the connection sees the new generation after it has released the lock, and
//! authorizes itself again. Once the connection has a server, it stores the server's name and
//! checks the generation in the same way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use leastconn_config::OnExpiry;
use leastconn_tls::client_chain::{Fingerprint, RevokedNames};

use crate::{
    authorization::{AuthInput, OpenConnection, Refusal, authorize},
    policy::Grant,
    reason_code::ReasonCode,
    registry::{ConnectionHandle, ConnectionState, Registry},
    snapshot::{Listener, Snapshot},
    telemetry::metrics::Metrics,
};

/// Authorizes a new connection and stores the result in its state, so that reloads re-authorize it
/// from then on.
///
/// # Errors
/// If the client is refused.
pub fn authorize_new(
    handle: &ConnectionHandle,
    snapshot: &Snapshot,
    metrics: &Metrics,
) -> Result<Grant, Refusal> {
    let mut state = handle.state();
    let input = handle.auth_input();
    // Read the clock under the lock: the reaper skips connections without a generation,
    // so this authorization has to cover everything that has expired by now.
    let decision = authorize(snapshot, &input, Timestamp::now());
    let Some(listener) = snapshot.listener(input.listener) else {
        return decision;
    };
    match &decision {
        Ok(grant) => {
            state.set_client(grant.client(), metrics);
            state.set_identity(grant.identity().clone());
            state.upstream = Some(grant.upstream().pool().id().clone());
            store_grant(&mut state, handle, grant, snapshot, listener);
        }
        Err(refusal) => {
            if let Some((client, identity)) = refusal.matched() {
                state.set_client(client, metrics);
                state.set_identity(identity.clone());
            } else {
                state.set_identity(input.for_rules(listener).identity());
            }
        }
    }
    decision
}

fn store_grant(
    state: &mut ConnectionState,
    handle: &ConnectionHandle,
    grant: &Grant,
    snapshot: &Snapshot,
    listener: &Listener,
) {
    state.generation = Some(snapshot.generation);
    state.valid_until = grant.valid_until();
    handle.set_chain_expiry(match listener.on_expiry {
        OnExpiry::Close => grant.valid_until(),
        OnExpiry::Keep => None,
    });
}

/// Authorizes an open connection again under `snapshot`. Returns the reason code if the
/// connection must end. A connection that was not authorized before is skipped: its own
/// task authorizes it.
pub fn reauthorize(
    handle: &ConnectionHandle,
    snapshot: &Snapshot,
    metrics: &Metrics,
    now: Timestamp,
) -> Option<ReasonCode> {
    let mut state = handle.state();
    // Check this under the lock: an ended connection must not be counted for its rule again.
    if handle.is_stopped() {
        return None;
    }
    if state.generation? > snapshot.generation {
        // Already authorized under a newer snapshot.
        return None;
    }
    // A removed listener stays in the snapshot for as long as it has connections.
    let listener = snapshot.listener(&handle.listener)?;
    let open = OpenConnection {
        valid_until: state.valid_until,
    };
    let input = AuthInput {
        open: Some(open),
        ..handle.auth_input()
    };
    let grant = match authorize(snapshot, &input, now) {
        Ok(grant) => grant,
        Err(refusal) => return Some(refusal.reason_for_open()),
    };
    let upstream = state.upstream.as_ref();
    let server = state.server.as_ref().map(|server| server.id());
    if !upstream.is_some_and(|upstream| grant.permits(upstream, server)) {
        return Some(ReasonCode::PolicyChanged);
    }
    state.set_client(grant.client(), metrics);
    state.change_identity(grant.identity());
    store_grant(&mut state, handle, &grant, snapshot, listener);
    None
}

/// The number of ended connections for each reason code.
pub type EndedCounts = BTreeMap<ReasonCode, usize>;

/// Re-authorizes all open connections under `snapshot` and ends those that are refused. Connections
/// with a certificate in `revoked` come first.
///
/// Takes about 100 µs per distinct chain: call it on a blocking thread.
pub fn reauthorize_all(
    registry: &Registry,
    snapshot: &Snapshot,
    metrics: &Metrics,
    revoked: &RevokedNames,
) -> EndedCounts {
    let is_revoked = |handle: &ConnectionHandle| {
        let chain = handle.chain();
        chain.is_some_and(|chain| chain.is_named_in(revoked))
    };
    let (first, others): (Vec<_>, Vec<_>) = registry
        .list()
        .into_iter()
        .partition(|handle| is_revoked(handle));
    let mut pass = Pass::new(snapshot, metrics);
    for handle in first {
        // A removed listener keeps its last CRLs, so re-authorization would not detect the
        // revocation.
        if snapshot.removed_listeners.contains_key(&handle.listener)
            && handle.state().generation.is_some()
        {
            pass.end(&handle, ReasonCode::RevokedCertificate);
        } else {
            pass.visit(&handle);
        }
    }
    for handle in others {
        pass.visit(&handle);
    }
    pass.ended
}

/// Re-authorizes some connections under `snapshot`.
pub fn reauthorize_some(
    connections: &[Arc<ConnectionHandle>],
    snapshot: &Snapshot,
    metrics: &Metrics,
) -> EndedCounts {
    let mut pass = Pass::new(snapshot, metrics);
    for handle in connections {
        pass.visit(handle);
    }
    pass.ended
}

/// Logs how many connections were ended, and why.
pub fn log_ended(ended: &EndedCounts) {
    for (reason, connections) in ended {
        tracing::info!(connections, %reason, "open connections ended by re-authorization");
    }
}

/// A run of re-authorization over many connections.
struct Pass<'a> {
    snapshot: &'a Snapshot,
    metrics: &'a Metrics,
    ended: EndedCounts,
    /// Chains that are invalid for a listener, with the reason. Cached, because many connections
    /// may share a chain.
    invalid: HashMap<(Arc<str>, Fingerprint), ReasonCode>,
}

impl<'a> Pass<'a> {
    fn new(snapshot: &'a Snapshot, metrics: &'a Metrics) -> Self {
        Self {
            snapshot,
            metrics,
            ended: EndedCounts::new(),
            invalid: HashMap::new(),
        }
    }

    fn visit(&mut self, handle: &ConnectionHandle) {
        let generation = handle.state().generation;
        if generation.is_some_and(|generation| generation > self.snapshot.generation) {
            return;
        }
        let chain = handle.chain().filter(|_| generation.is_some());
        let key = chain.map(|chain| (Arc::clone(&handle.listener), *chain.fingerprint()));
        if let Some(&reason) = key.as_ref().and_then(|key| self.invalid.get(key)) {
            return self.end(handle, reason);
        }
        // Read the clock for each connection: certificates can expire during a long pass.
        let now = Timestamp::now();
        let Some(reason) = reauthorize(handle, self.snapshot, self.metrics, now) else {
            return;
        };
        // Rules and blocks depend on more than the chain.
        if !matches!(reason, ReasonCode::PolicyChanged | ReasonCode::Blocked)
            && let Some(key) = key
        {
            self.invalid.insert(key, reason);
        }
        self.end(handle, reason);
    }

    fn end(&mut self, handle: &ConnectionHandle, reason: ReasonCode) {
        if handle.stop(reason) {
            *self.ended.entry(reason).or_default() += 1;
            tracing::debug!(connection = handle.id, source = %handle.source(), %reason, "connection ended by re-authorization");
        }
    }
}
