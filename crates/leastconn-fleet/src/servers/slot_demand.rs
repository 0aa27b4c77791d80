//! How many slots of a server a member should hold.
//!
//! A member holds slots ahead of need, so that a connection rarely waits for the store. Slots
//! that it does not need are returned, and while other members lack slots, it keeps no more than
//! its fair share.

use std::time::{Duration, Instant};

/// Slots that were used within this time are kept, unless another member lacks slots.
const KEEP: Duration = Duration::from_millis(500);

/// After slots were returned for the sake of other members, more slots are wanted only after this
/// time, so that the others can take them.
const DEFER: Duration = Duration::from_millis(150);

/// The numbers that decide how many slots are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotSituation {
    /// `max_conns` of the server.
    pub max: u32,
    /// Serving members, including this one.
    pub members: u32,
    /// Connections in flight of this member.
    pub open: u32,
    /// Connections that wait for this server, and picks that failed since the last decision for
    /// lack of a slot.
    pub lacking: u32,
    /// [`SlotView`](crate::SlotView) of the last exchange. `held` is at most `max`.
    pub held: u32,
    pub free: u32,
    pub unmet: u32,
}

/// What is remembered from one decision to the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotDemand {
    /// Connections at the last decision.
    open: u32,
    /// The largest number of connections, in the current period and in the one before.
    peaks: [u32; 2],
    period: Option<Instant>,
    deferred_until: Option<Instant>,
}

/// The part of `max` to which a member is entitled while others lack slots. If there are fewer
/// slots than members, no member is entitled to keep one.
fn fair_share(max: u32, members: u32) -> u32 {
    let members = members.max(1);
    if max < members {
        0
    } else {
        max.div_ceil(members)
    }
}

impl SlotDemand {
    /// Returns how many slots this member wants. The result may be less than the number of open
    /// connections: then no connection may take a slot that becomes free.
    pub fn wanted(&mut self, at: &SlotSituation, now: Instant) -> u32 {
        let growth = at.open.saturating_sub(self.open);
        self.open = at.open;
        self.record_peak(at.open, now);
        // As many connections as since the last decision may come until the next answer, and
        // they may come twice as fast.
        let ahead = 2 * growth.min(at.max);
        let needed = at.open.saturating_add(at.lacking).saturating_add(ahead);
        let wanted = if at.unmet == 0 {
            let idle = at.held.saturating_sub(at.open);
            let share = idle.saturating_add(at.free) / at.members.max(1);
            let [current, previous] = self.peaks;
            let kept = current.max(previous).min(at.held);
            needed.max(at.open.saturating_add(share)).max(kept)
        } else {
            needed
        };
        self.limit(wanted.min(at.max), at, now)
    }

    /// Respects the needs of other members.
    fn limit(&mut self, wanted: u32, at: &SlotSituation, now: Instant) -> u32 {
        let fair = fair_share(at.max, at.members);
        if at.unmet > 0 && at.held > fair {
            let most = fair.max(at.held.saturating_sub(at.unmet));
            if wanted > most {
                self.deferred_until = Some(now + DEFER);
                return most;
            }
        }
        if self.deferred_until.is_some_and(|until| now < until) {
            return wanted.min(at.held);
        }
        self.deferred_until = None;
        if at.unmet > 0 {
            // While all slots are in demand, nobody takes more than the fair share.
            return wanted.min(fair.max(1).max(at.held));
        }
        wanted
    }

    fn record_peak(&mut self, open: u32, now: Instant) {
        let since = *self.period.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= 2 * KEEP {
            self.peaks = [0, 0];
            self.period = Some(now);
        } else if elapsed >= KEEP {
            self.peaks = [0, self.peaks[0]];
            self.period = Some(now);
        }
        self.peaks[0] = self.peaks[0].max(open);
    }
}

#[cfg(test)]
mod tests;
