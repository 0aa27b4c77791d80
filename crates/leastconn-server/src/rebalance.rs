//! Closes some quiet connections on servers that have more than their share, so that their clients
//! reconnect to other servers.
//!
//! Without this, long-lived connections never move: a server that was added or has come back stays
//! almost idle. Only clients whose rule has `rebalance = true` are affected.
//!
//! In a fleet, the connections of the other members count when shares are compared, and each member
//! closes its part of the surplus.
//!
//! Whether a connection is quiet is found by reading its byte counters twice. The relay itself does
//! nothing for it.

mod choice;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use leastconn::{Pool, ServerId, UpstreamId};
use leastconn_config::Rebalance;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::{context::ServerContext, reason_code::ReasonCode, registry::ConnectionHandle};
use choice::{QuietConnection, ServerLoad, choose, overloaded};

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_secs(10);

/// Rebalances all upstreams with `rebalance`, for as long as the future is polled.
pub(crate) async fn run(context: Arc<ServerContext>) {
    let mut rounds = JoinSet::new();
    let mut running: HashMap<UpstreamId, AbortHandle> = HashMap::new();
    loop {
        sleep(INTERVAL).await;
        while rounds.try_join_next().is_some() {}
        running.retain(|_, round| !round.is_finished());
        for upstream in &context.snapshot().config.upstreams {
            // A round that takes longer than the interval is not interrupted.
            if let Some(policy) = upstream.rebalance
                && !running.contains_key(&upstream.id)
            {
                let round = round(Arc::clone(&context), upstream.id.clone(), policy);
                running.insert(upstream.id.clone(), rounds.spawn(round));
            }
        }
    }
}

/// Closes connections of one upstream if some of its servers have more than their share.
async fn round(context: Arc<ServerContext>, upstream: UpstreamId, policy: Rebalance) {
    let servers: HashSet<ServerId> = overloaded(&policy, &loads(&context, &upstream)).collect();
    if servers.is_empty() {
        return;
    }
    let sampled = sample(&context, &upstream, &servers);
    if sampled.is_empty() {
        return;
    }
    sleep(policy.quiet).await;
    let quiet: Vec<_> = sampled
        .into_iter()
        .filter(|sample| !sample.handle.is_stopped() && sample.bytes == bytes_of(&sample.handle))
        .filter(|sample| sample.handle.traffic.buffered() == 0)
        .map(|sample| QuietConnection {
            server: sample.server,
            opened: sample.handle.opened,
            connection: sample.handle,
        })
        .collect();
    let chosen = choose(&policy, &loads(&context, &upstream), quiet);
    let closed = chosen
        .into_iter()
        .filter(|handle| handle.stop(ReasonCode::Rebalanced))
        .count();
    if closed > 0 {
        tracing::info!(%upstream, closed, "connections rebalanced");
    }
}

fn loads(context: &ServerContext, upstream: &UpstreamId) -> Vec<ServerLoad> {
    let snapshot = context.snapshot();
    let pool = snapshot.upstreams.get(upstream).map(|up| up.pool());
    pool.map(Pool::members)
        .iter()
        .flat_map(|members| members.iter())
        .map(|member| {
            let status = member.server.status();
            ServerLoad {
                server: member.server.id().clone(),
                connections: status.in_flight,
                elsewhere: status.external_connections,
                weight: member.effective_weight(),
                is_available: status.is_available() && !member.backup,
            }
        })
        .collect()
}

/// A connection and the number of bytes that it had transferred.
struct Sample {
    handle: Arc<ConnectionHandle>,
    server: ServerId,
    bytes: u64,
}

/// Returns the connections to `servers` whose rule permits rebalancing.
fn sample(
    context: &ServerContext,
    upstream: &UpstreamId,
    servers: &HashSet<ServerId>,
) -> Vec<Sample> {
    let snapshot = context.snapshot();
    let rules: HashSet<&str> = snapshot.config.clients.rebalanced().collect();
    if rules.is_empty() {
        return Vec::new();
    }
    let mut samples = Vec::new();
    context.registry.each(|handle| {
        let server = {
            let state = handle.state();
            let is_permitted = state.client().is_some_and(|rule| rules.contains(&**rule));
            let server = state.server.as_ref().map(|server| server.id());
            let is_here = is_permitted && state.upstream.as_ref() == Some(upstream);
            server
                .filter(|server| is_here && servers.contains(*server))
                .cloned()
        };
        if let Some(server) = server {
            samples.push(Sample {
                bytes: bytes_of(handle),
                handle: Arc::clone(handle),
                server,
            });
        }
    });
    samples
}

fn bytes_of(handle: &ConnectionHandle) -> u64 {
    handle.traffic.received() + handle.traffic.sent()
}
