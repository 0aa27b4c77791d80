//! Applies changes of discovered servers. A server that joins gets the overrides for its name. If
//! configured, the connections of a removed server are closed.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::{MembershipChange, Pool, PoolError, Server, ServerSpec, net::now};
use leastconn_config::OnRemoval;
use tokio::time::sleep;

use super::{ActiveOverrides, DEFAULT_GRACE, Origin, Overrides, maintenance::RETRY_INTERVAL};
use crate::{reason_code::ReasonCode, registry::ConnectionState, upstream::ApplyMembers};

/// How long the overrides of an absent server are kept.
const ABSENCE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

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
        let mut active = self.lock();
        let change = pool.update_with(servers, |server| {
            let key = (pool.id().clone(), server.id().clone());
            if let Some(value) = active.servers.get(&key) {
                server.set_admin(value.state);
            }
        })?;
        active.weights.apply_to_joined(pool, &change.added);
        active.drop_absent(pool, now());
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

impl ActiveOverrides {
    /// Drops the overrides of servers of `pool` that have been absent for [`ABSENCE_LIMIT`]. A
    /// server that is named after its address would otherwise inherit the override of another
    /// server, and the overrides would accumulate.
    fn drop_absent(&mut self, pool: &Pool, now: Instant) {
        let Self {
            servers,
            weights,
            absences,
            ..
        } = self;
        let upstream = pool.id();
        // The fleet remembers its settings itself.
        let set_here = servers.iter();
        let set_here = set_here.filter(|(_, value)| value.origin == Origin::Here);
        let names: BTreeSet<_> = set_here
            .map(|(server, _)| server)
            .chain(weights.set_here())
            .filter(|(of, _)| of == upstream)
            .map(|(_, server)| server.clone())
            .collect();
        if names.is_empty() && absences.is_empty() {
            return;
        }
        let members = pool.members();
        let members: HashSet<_> = members.iter().map(|m| m.server.id()).collect();
        absences.retain(|(of, server), _| {
            of != upstream || (names.contains(server) && !members.contains(server))
        });
        for server in names.iter().filter(|server| !members.contains(server)) {
            let key = (upstream.clone(), server.clone());
            let since = *absences.entry(key.clone()).or_insert(now);
            if now.saturating_duration_since(since) < ABSENCE_LIMIT {
                continue;
            }
            absences.remove(&key);
            let state = servers.remove(&key).map(|value| value.state.as_str());
            let weight = weights.remove(&key).map(tracing::field::display);
            tracing::info!(
                %upstream,
                %server,
                state,
                weight,
                "override dropped: server absent for a week"
            );
        }
    }
}

/// Closes the connections to a removed server after `grace`. Ends when no connections are left,
/// when the server is a member again, or when a reload has removed the upstream, whose connections
/// are served to their end. The loop is necessary because a connection that is still being dialled
/// cannot be closed yet.
async fn close_connections(
    overrides: Overrides,
    pool: Arc<Pool>,
    server: Arc<Server>,
    grace: Duration,
) {
    sleep(grace).await;
    while server.in_flight() > 0 {
        if overrides.may_keep_connections(&pool, &server) {
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
    /// Whether the server is a member of the current pool of the upstream, or the upstream no
    /// longer exists. After a reload, the current pool is another one than `pool`.
    fn may_keep_connections(&self, pool: &Pool, server: &Arc<Server>) -> bool {
        let snapshot = self.snapshots.load();
        let upstream = snapshot.upstreams.get(pool.id());
        upstream.is_none_or(|upstream| is_member(upstream.pool(), server))
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

#[cfg(test)]
mod tests {
    use leastconn::{AdminState, WeightOverride};

    use super::{
        super::{ServerOverride, Timestamp},
        *,
    };

    #[test]
    fn overrides_of_servers_absent_for_a_week_are_dropped() {
        let spec =
            |name: &str| ServerSpec::new(name, std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        let pool = Pool::builder("web").may_be_empty(true).build().unwrap();
        let mut active = ActiveOverrides::default();
        let drained = || ServerOverride {
            state: AdminState::Drain,
            since: Timestamp::UNIX_EPOCH,
            origin: Origin::Here,
            pending_close: None,
        };
        let key = |upstream: &str, server: &str| (upstream.into(), server.into());
        active.servers.insert(key("web", "a"), drained());
        active.servers.insert(key("web", "b"), drained());
        active.servers.insert(key("other", "a"), drained());
        let half = WeightOverride::Percent(50);
        active.weights.insert(key("web", "a"), half);

        let start = now();
        let day = |days: u64| start + Duration::from_secs(days * 24 * 3600);
        pool.update([spec("b")]).unwrap();
        active.drop_absent(&pool, day(0));
        active.drop_absent(&pool, day(6));
        // A return starts the week again.
        pool.update([spec("a"), spec("b")]).unwrap();
        active.drop_absent(&pool, day(7));
        pool.update([spec("b")]).unwrap();
        active.drop_absent(&pool, day(8));
        active.drop_absent(&pool, day(14));
        assert_eq!(
            (active.servers.len(), active.weights.set_here().count()),
            (3, 1)
        );
        active.drop_absent(&pool, day(15));
        let left: Vec<_> = active.servers.keys().cloned().collect();
        assert_eq!(left, [key("other", "a"), key("web", "b")]);
        assert_eq!(active.weights.set_here().count(), 0);
        assert!(active.absences.is_empty());
    }
}
