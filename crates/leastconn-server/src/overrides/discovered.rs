//! Applies changes of discovered servers. A server that joins gets the overrides for its name. If
//! configured, the connections of a removed server are closed.

use std::{sync::Arc, time::Duration};

use leastconn::{MembershipChange, Pool, PoolError, Server, ServerSpec};
use leastconn_config::OnRemoval;
use tokio::time::sleep;

use super::{DEFAULT_GRACE, Overrides, maintenance::RETRY_INTERVAL};
use crate::{reason_code::ReasonCode, registry::ConnectionState, upstream::ApplyMembers};

impl ApplyMembers for Overrides {
    fn apply(
        &self,
        pool: &Arc<Pool>,
        servers: Vec<ServerSpec>,
        on_removal: OnRemoval,
    ) -> Result<MembershipChange, PoolError> {
        let before = pool.members();
        // Hold the lock, so that a change by an operator is applied either before or after the
        // servers join.
        let active = self.lock();
        let change = pool.update_with(servers, |server| {
            let key = (pool.id().clone(), server.id().clone());
            if let Some(value) = active.servers.get(&key) {
                server.set_admin(value.state);
            }
        })?;
        active.weights.apply_to_joined(pool, &change.added);
        drop(active);
        if on_removal == OnRemoval::Close && !change.removed.is_empty() {
            for member in before.iter().filter(|m| !is_member(pool, &m.server)) {
                let close = close_connections(
                    self.clone(),
                    Arc::clone(pool),
                    Arc::clone(&member.server),
                    DEFAULT_GRACE,
                );
                tokio::spawn(close);
            }
        }
        Ok(change)
    }
}

fn is_member(pool: &Pool, server: &Arc<Server>) -> bool {
    let members = pool.members();
    let mut members = members.iter();
    members.any(|member| Arc::ptr_eq(&member.server, server))
}

/// Closes the connections to a removed server after `grace`. Ends when no connections are left, or
/// when the server is a member again. The loop is necessary because a connection that is still
/// being dialled cannot be closed yet.
async fn close_connections(
    overrides: Overrides,
    pool: Arc<Pool>,
    server: Arc<Server>,
    grace: Duration,
) {
    sleep(grace).await;
    while server.in_flight() > 0 {
        if overrides.is_current_member(&pool, &server) {
            return;
        }
        let closed = overrides.close_connections_of(&server);
        if closed > 0 {
            tracing::info!(upstream = %pool.id(), server = %server.id(), closed, "connections to removed server closed");
        }
        sleep(RETRY_INTERVAL).await;
    }
}

impl Overrides {
    /// Whether the server is a member of the current pool of the upstream. After a reload, this is
    /// another pool than `pool`.
    fn is_current_member(&self, pool: &Pool, server: &Arc<Server>) -> bool {
        let snapshot = self.snapshots.load();
        let upstream = snapshot.upstreams.get(pool.id());
        upstream.is_some_and(|upstream| is_member(upstream.pool(), server))
    }

    fn close_connections_of(&self, server: &Arc<Server>) -> usize {
        let open = self.registry.list();
        let is_to_server = |state: &ConnectionState| {
            let to = state.server.as_ref();
            to.is_some_and(|to| Arc::ptr_eq(to, server))
        };
        let matching = open.iter().filter(|handle| is_to_server(&handle.state()));
        matching
            .filter(|handle| handle.stop(ReasonCode::ServerRemoved))
            .count()
    }
}
