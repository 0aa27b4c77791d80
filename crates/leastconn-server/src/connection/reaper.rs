//! Ends connections whose certificate, client rule or `max_lifetime` has expired.
//!
//! One task visits all connections every second (more often with a short `max_lifetime`). This
//! replaces one timer per connection: visiting ten thousand connections takes a fraction of a
//! millisecond, and each connection stores only two numbers. `max_lifetime` uses the monotonic
//! clock. Certificates and rules use the wall clock, which is read on every visit: if it is set
//! forward, expired connections end within a second.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leastconn::net;
use leastconn_config::Config;
use leastconn_tls::client_chain::RevokedNames;
use tokio::time::sleep;

use super::reauthorize::{log_ended, reauthorize_all, reauthorize_some};
use crate::{
    context::ServerContext,
    reason_code::ReasonCode,
    registry::{ConnectionHandle, Expired},
};

const INTERVAL: Duration = Duration::from_secs(1);
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Ends expired connections, for as long as the future is polled.
pub async fn run(context: Arc<ServerContext>) {
    // The time of the last visit. Rules that expired after it require re-authorization.
    let mut last = Timestamp::now();
    loop {
        sleep(interval(&context.snapshot().config)).await;
        // Read the clock before the snapshot, so that the next visit covers a snapshot that is
        // installed between these two reads.
        let now = Timestamp::now();
        context.slots.log_recovery(net::now());
        let snapshot = context.snapshot();
        let next = snapshot.policy.next_expiry(last);
        let rule_expired = next.is_some_and(|next| next <= now);
        let expired = end_too_old(&context, now);
        if !rule_expired && expired.is_empty() {
            last = now;
            continue;
        }
        let context = Arc::clone(&context);
        let reauthorizing = tokio::task::spawn_blocking(move || {
            let metrics = &context.telemetry.metrics;
            log_ended(&if rule_expired {
                let revoked = RevokedNames::default();
                reauthorize_all(&context.registry, &snapshot, metrics, &revoked)
            } else {
                reauthorize_some(&expired, &snapshot, metrics)
            });
        });
        // If the task panicked, the panic has been logged, and the next visit tries again.
        if reauthorizing.await.is_ok() {
            last = now;
        }
    }
}

/// The interval between visits: a twentieth of the shortest `max_lifetime`, clamped to a minimum
/// and a maximum.
fn interval(config: &Config) -> Duration {
    let lifetimes = config
        .listeners
        .iter()
        .filter_map(|listener| listener.max_lifetime);
    lifetimes.min().map_or(INTERVAL, |lifetime| {
        (lifetime / 20).clamp(MIN_INTERVAL, INTERVAL)
    })
}

/// Ends connections that exceed their `max_lifetime`, and returns those whose certificate has
/// expired.
fn end_too_old(context: &ServerContext, now: Timestamp) -> Vec<Arc<ConnectionHandle>> {
    let (instant, seconds) = (net::now(), now.as_second());
    let mut expired = Vec::new();
    context
        .registry
        .each(|handle| match handle.expired(instant, seconds) {
            Some(Expired::Lifetime) => {
                handle.stop(ReasonCode::MaxLifetime);
            }
            Some(Expired::Certificate) => expired.push(Arc::clone(handle)),
            None => {}
        });
    expired
}
