//! What time does to open connections: certificates run out, rules do, and some
//! connections may only grow so old.
//!
//! One task looks at all of them each second, more often where they may not grow old,
//! rather than one timer for each: a walk over ten thousand is a fraction of a
//! millisecond, and an idle connection costs two numbers. Ages go by the monotonic clock. What is in certificates and
//! rules goes by the wall clock, looked at anew each time: when it is set forward,
//! what has run out by it ends within a second; set back, it ends later.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leastconn::{Reason, net};
use tokio::time::sleep;

use crate::{
    client_chain::Named, config::Config, context::Shared, judge, registry::Due, reload::report,
};

const EVERY: Duration = Duration::from_secs(1);

/// Often enough for the shortest life that makes sense.
const OFTEN: Duration = Duration::from_millis(50);

/// Ends what is due, for as long as it is polled.
pub async fn sweep(shared: Arc<Shared>) {
    // Whatever the configuration was then: under the one that there is now, what runs
    // out after this was not looked at.
    let mut looked = Timestamp::now();
    loop {
        sleep(pause(&shared.running.current().state.config)).await;
        // In this order: under a configuration that comes later, what runs out from now
        // on is looked for next time.
        let now = Timestamp::now();
        let current = shared.running.current();
        let next = current.state.policy.next_expiry(looked);
        let passed = next.is_some_and(|next| next <= now);
        looked = now;
        let due = due(&shared, now);
        if !passed && due.is_empty() {
            continue;
        }
        let shared = Arc::clone(&shared);
        let judging = tokio::task::spawn_blocking(move || {
            let metrics = &shared.books.metrics;
            report(&if passed {
                judge::all(&shared.registry, &current, metrics, &Named::default())
            } else {
                judge::some(due, &current, metrics)
            });
        });
        // The next look comes after: a panic has been logged, and costs one second.
        let _ = judging.await;
    }
}

/// Until the next look: none that may live for a second grows older by more than a
/// twentieth of what it may.
fn pause(config: &Config) -> Duration {
    let lives = config
        .listeners
        .iter()
        .filter_map(|listener| listener.max_lifetime);
    lives
        .min()
        .map_or(EVERY, |life| (life / 20).clamp(OFTEN, EVERY))
}

/// Ends those that are too old, and returns those whose certificate has run out.
fn due(shared: &Shared, now: Timestamp) -> Vec<Arc<crate::registry::Live>> {
    let (instant, seconds) = (net::now(), now.as_second());
    let mut expired = Vec::new();
    shared
        .registry
        .each(|live| match live.due(instant, seconds) {
            Some(Due::Age) => {
                live.stop(Reason::MaxLifetime);
            }
            Some(Due::Certificate) => expired.push(Arc::clone(live)),
            None => {}
        });
    expired
}
