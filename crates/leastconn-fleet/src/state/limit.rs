use std::time::Duration;

use super::State;
use crate::{exchange::Limit, member::MemberId, report::ClientReport, view::ClientView};

const SECOND: u64 = 1_000_000;
/// Lifetime of a client with open connections. Members report such clients every 20 s.
const KEEP_OPEN: u64 = 3600 * SECOND;
const KEEP_AT_MOST: u64 = 365 * 24 * 3600 * SECOND;

#[derive(Clone, Copy)]
struct Settling {
    /// Serving members before.
    members: f64,
    /// Whether members may be missing.
    is_lost: bool,
    /// Whether data may be missing.
    is_wiped: bool,
}

impl State {
    /// Takes the tokens of a batch, admits connections that wait, and returns the numbers of
    /// each client.
    pub(super) fn limit(&mut self, now: u64, member: &MemberId, limit: &Limit) -> Vec<ClientView> {
        let batch = &limit.batch;
        // After a loss of data or an outage, members may not have reported their numbers yet. Until
        // they have, no member gets more than its share.
        let settling = Settling {
            members: f64::from(limit.members.max(1)),
            is_lost: Self::is_settling(self.lost, limit.settle, now),
            is_wiped: Self::is_settling(self.wiped, limit.settle, now),
        };
        // A batch that is repeated, because its answer was lost, takes no tokens again.
        let mut repeated = false;
        if let Some(progress) = self.progress.get_mut(member) {
            repeated = progress.batch >= batch.number;
            progress.batch = progress.batch.max(batch.number);
        }
        let views = batch
            .clients
            .iter()
            .map(|report| self.limit_client(now, member, report, repeated, settling));
        views.collect()
    }

    fn limit_client(
        &mut self,
        now: u64,
        member: &MemberId,
        report: &ClientReport,
        repeated: bool,
        settling: Settling,
    ) -> ClientView {
        let mut client = self.clients.remove(&report.client).unwrap_or_default();
        if client.expires <= now {
            client = super::Client {
                at: now,
                ..Default::default()
            };
        }
        let members = &self.members;
        client.open.retain(|id, _| members.contains_key(id));
        client.open.remove(member);
        let others = client
            .open
            .values()
            .fold(0, |sum: u32, open| sum.saturating_add(*open));

        let (admitted, ask) = match repeated {
            true => (0, 0),
            false => (report.admitted, report.ask),
        };
        let (rate, burst) = (report.rate, f64::from(report.burst));
        let mut granted = f64::from(ask);
        let mut used = 0.0;
        if rate > 0.0 {
            // The time of the client may be in the future, if a replica was promoted.
            let refilled = now.saturating_sub(client.at) as f64 * rate / 1_000_000.0;
            used = (client.used - refilled).max(0.0);
            if settling.is_wiped {
                let unknown = burst - (burst / settling.members).ceil();
                used = used.max(report.used.map_or(unknown, six_decimals));
            }
            used += f64::from(admitted);
            granted = granted.min((burst - used + 0.000_001).floor().max(0.0));
        }
        let mut reserved = others;
        if report.max_conns > 0 {
            let max = f64::from(report.max_conns);
            if settling.is_lost {
                reserved = reserved.max((max - (max / settling.members).ceil()) as u32);
            }
            let free = max - f64::from(reserved) - f64::from(report.open);
            granted = granted.min(free.max(0.0));
        }
        let mut wait = 0.0;
        if rate > 0.0 {
            // The debt is bounded, so that a client waits for two bursts at most.
            used = (used + granted).min(2.0 * burst);
            if used + 1.0 > burst {
                wait = ((used + 1.0 - burst) * 1_000_000.0 / rate).ceil();
            }
        }
        let open = report.open.saturating_add(granted as u32);
        if open > 0 {
            client.open.insert(member.clone(), open);
        }
        used = six_decimals(used);
        if used > 0.0 || !client.open.is_empty() {
            let mut keep = 0;
            if used > 0.0 {
                keep = (used * 1_000_000.0 / rate).ceil() as u64 + SECOND;
            }
            if !client.open.is_empty() {
                keep = keep.max(KEEP_OPEN);
            }
            client.used = used;
            client.at = now;
            client.expires = now + keep.min(KEEP_AT_MOST);
            self.clients.insert(report.client, client);
        }
        ClientView {
            granted: granted as u32,
            used,
            others_open: reserved,
            retry_after: Duration::from_micros(wait as u64),
        }
    }
}

/// As the store keeps numbers.
fn six_decimals(number: f64) -> f64 {
    format!("{number:.6}").parse().unwrap_or(number)
}
