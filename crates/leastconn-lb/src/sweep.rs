//! What time does to open connections: certificates run out, rules do, and some
//! connections may only grow so old.
//!
//! One task looks at all of them each second, rather than one timer for each: a
//! walk over ten thousand is a fraction of a millisecond, and an idle connection
//! costs two numbers. Ages go by the monotonic clock. What is in certificates and
//! rules goes by the wall clock, looked at anew each time: when it is set forward,
//! what has run out by it ends within a second; set back, it ends later.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leastconn::{Reason, net};
use tokio::time::{MissedTickBehavior, interval};

use crate::{judge, live::Due, policy::Policy, presented::Named, reload::report, shared::Shared};

const EVERY: Duration = Duration::from_secs(1);

/// Ends what is due, for as long as it is polled.
pub async fn sweep(shared: Arc<Shared>) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The configuration whose rules were looked at, and when the next of them runs out.
    let mut rules: Option<(u64, Option<Timestamp>)> = None;
    loop {
        tick.tick().await;
        let current = shared.running.current();
        let now = Timestamp::now();
        let epoch = current.state.epoch;
        let passed = rules
            .filter(|&(of, _)| of == epoch)
            .and_then(|(_, next)| next)
            .is_some_and(|next| next <= now);
        if passed || rules.is_none_or(|(of, _)| of != epoch) {
            rules = Some((epoch, next_expiry(&current.state.policy, now)));
        }
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

/// Ends those that are too old, and returns those whose certificate has run out.
fn due(shared: &Shared, now: Timestamp) -> Vec<Arc<crate::live::Live>> {
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

/// When the next rule runs out after `now`. None does: they have no such key yet.
const fn next_expiry(_: &Policy, _: Timestamp) -> Option<Timestamp> {
    None
}
