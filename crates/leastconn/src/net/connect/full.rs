//! Logs when the servers that a client may use are all at `max_conns`, and when they have free slots
//! again.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    Pool, Selector, ServerId, UpstreamId,
    net::now,
    pool::{
        full::{FullEffect, FullPeriod, FullServers},
        queue::Queue,
    },
};

/// How often to check whether servers have free slots again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports a connection that is refused or waits. Logs a message unless the last one is recent; see
/// [`FullPeriods`](crate::pool::full::FullPeriods).
pub(super) fn report(pool: &Pool, selector: &Selector, effect: FullEffect) {
    let report = pool.queue().full.report(
        selector,
        &pool.candidates(selector),
        &pool.all(),
        effect,
        now(),
    );
    if let Some(servers) = report.news {
        log_start(pool.id(), &servers, effect);
    }
    if report.starts_watch {
        tokio::spawn(watch(pool.id().clone(), Arc::downgrade(pool.queue())));
    }
}

/// Logs the end of all periods. Ends with the last of them.
async fn watch(upstream: UpstreamId, queue: Weak<Queue>) {
    loop {
        sleep(INTERVAL).await;
        let Some(queue) = queue.upgrade() else {
            return;
        };
        let candidates = |selector: &Selector| queue.candidates(selector);
        let (ended, continues) = queue.full.end(candidates, now());
        for period in ended {
            log_end(&upstream, &period);
        }
        if !continues {
            return;
        }
    }
}

fn log_start(upstream: &UpstreamId, servers: &FullServers, effect: FullEffect) {
    let (full, count) = (servers.full, servers.names.len());
    match (servers.is_whole, effect) {
        (true, FullEffect::Refused) => {
            tracing::warn!(%upstream, full, servers = count, "upstream full: refusing connections");
        }
        (true, FullEffect::Queued) => {
            tracing::info!(%upstream, full, servers = count, "upstream full: queueing connections");
        }
        (false, FullEffect::Refused) => {
            let servers = listed(&servers.names);
            tracing::warn!(%upstream, servers, "servers full: refusing connections");
        }
        (false, FullEffect::Queued) => {
            let servers = listed(&servers.names);
            tracing::info!(%upstream, servers, "servers full: queueing connections");
        }
    }
}

fn log_end(upstream: &UpstreamId, period: &FullPeriod) {
    let FullPeriod {
        servers,
        duration,
        refused,
        queued,
    } = period;
    let seconds = duration.as_secs();
    if servers.is_whole {
        tracing::info!(%upstream, refused, queued, seconds, "upstream no longer full");
    } else {
        let servers = listed(&servers.names);
        tracing::info!(%upstream, servers, refused, queued, seconds, "servers no longer full");
    }
}

/// Lists the first names, and the number of the others.
fn listed(names: &[ServerId]) -> String {
    /// Maximum number of names.
    const MAX_NAMES: usize = 5;
    let mut listed: Vec<_> = names
        .iter()
        .take(MAX_NAMES)
        .map(ServerId::to_string)
        .collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    if more > 0 {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}
