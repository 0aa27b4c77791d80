//! The exchange with the store: one at a time, at once when something changed, and every
//! [`INTERVAL`] at the latest.

use std::{
    future::Future,
    num::NonZeroU32,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::net::{now, random};
use leastconn_fleet::{MemberStatus, Store, StoreError, View};
use tokio::time::{sleep_until, timeout};

use super::{participant::Exchange, shared::Shared};

/// Maximum time between the starts of two exchanges.
const INTERVAL: Duration = Duration::from_millis(100);

/// Time limit of an exchange on an open connection.
const EXCHANGE_TIMEOUT: Duration = Duration::from_millis(250);

/// Time limit of an exchange that has to connect first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds of the delay before a new connection. The delay is random between half of the value
/// and the value, which doubles with each failure.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// How long an exchange in progress may take before this process leaves.
const FINISH_TIMEOUT: Duration = Duration::from_millis(100);

/// Time limit for leaving. The end of the process waits for it.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(250);

/// Exchanges with the store until `stop` completes, then leaves the fleet.
pub(super) async fn run<S: Store>(store: &mut S, shared: &Arc<Shared>, stop: impl Future) {
    let mut stop = pin!(stop);
    let mut failures = 0_u32;
    let mut is_connected = false;
    loop {
        let started = now();
        let limit = if is_connected {
            EXCHANGE_TIMEOUT
        } else {
            CONNECT_TIMEOUT
        };
        {
            let mut exchange = pin!(exchange(store, shared, limit));
            tokio::select! {
                biased;
                _ = &mut stop => {
                    // Leaving needs the connection: the password may have been changed.
                    if is_connected {
                        let _ = timeout(FINISH_TIMEOUT, exchange).await;
                    }
                    break;
                }
                result = &mut exchange => {
                    is_connected = result.is_ok();
                    failures = if is_connected { 0 } else { failures.saturating_add(1) };
                }
            }
        }
        let wait = async {
            if is_connected {
                wait_for_change(shared, started).await;
            } else {
                wait_until(shared, now() + backoff(failures)).await;
            }
        };
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = wait => {}
        }
    }
    // If this fails, the other members forget this one after `gone_after`.
    let _ = timeout(LEAVE_TIMEOUT, store.leave(shared.id())).await;
}

/// One exchange. States that change in the meantime take effect at once.
async fn exchange<S: Store>(
    store: &mut S,
    shared: &Arc<Shared>,
    limit: Duration,
) -> Result<(), StoreError> {
    let sent = now();
    let report = shared.report(sent);
    let result = {
        let mut answer = pin!(timeout(limit, store.exchange(&report)));
        loop {
            tokio::select! {
                biased;
                result = &mut answer => break result,
                () = sleep_to(shared.next_tick()) => shared.tick(now()),
            }
        }
    };
    let result = result.unwrap_or_else(|_| {
        let millis = limit.as_millis();
        Err(StoreError::Unavailable(format!("no answer in {millis} ms")))
    });
    match result {
        Ok(view) => {
            let received = now();
            let members = serving(report.status, &view);
            // After the store has lost data, other members may be missing in the view.
            let least = NonZeroU32::new(view.least_members).unwrap_or(NonZeroU32::MIN);
            let members = members.max(least);
            let exchange = Exchange {
                report: &report,
                view: &view,
                sent,
                received,
                members,
            };
            if shared.apply(&exchange) {
                shared.set_server(store.server());
                return Ok(());
            }
            // The process was paused. Other members may have removed its numbers from the store.
            store.disconnect();
            let age = received.saturating_duration_since(sent).as_millis();
            let error = StoreError::Unavailable(format!("the answer took {age} ms"));
            shared.failed(&report, &error, received);
            Err(error)
        }
        Err(error) => {
            shared.failed(&report, &error, now());
            Err(error)
        }
    }
}

/// Serving members, including this one. At least 1, also for a member that leaves.
fn serving(own: MemberStatus, view: &View) -> NonZeroU32 {
    let others = view.members.iter().map(|member| member.status);
    let all = others.chain([own]);
    let serving = all.filter(|status| *status == MemberStatus::Serving);
    let serving = u32::try_from(serving.count()).unwrap_or(u32::MAX);
    NonZeroU32::new(serving).unwrap_or(NonZeroU32::MIN)
}

/// Waits until the next exchange, which is due [`INTERVAL`] after the last one, or earlier if
/// something changed.
async fn wait_for_change(shared: &Shared, last: Instant) {
    loop {
        let spacing = shared.wake().spacing().unwrap_or(INTERVAL);
        tokio::select! {
            biased;
            () = wait_until(shared, last + spacing) => return,
            () = shared.wake().raised() => {}
        }
    }
}

/// Waits until `time`. States that change in the meantime take effect at once.
async fn wait_until(shared: &Shared, time: Instant) {
    loop {
        tokio::select! {
            biased;
            () = sleep_until(time.into()) => return,
            () = sleep_to(shared.next_tick()) => shared.tick(now()),
        }
    }
}

async fn sleep_to(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The delay after this number of failures in a row.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    let longest = MIN_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    // Members that lost the store at the same time must not return at the same time.
    let share = random() % 1000;
    longest / 2 + longest / 2 * u32::try_from(share).unwrap_or(0) / 1000
}
