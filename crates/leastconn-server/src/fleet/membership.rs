//! What connections need to know about the fleet, without a lock.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Instant,
};

/// The state of this process in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// No fleet is configured.
    Alone,
    /// The numbers of the other members are recent.
    Joined {
        /// Serving members, including this one.
        members: NonZeroU32,
        /// Whether the store answers. If not, connections must not wait for an answer.
        can_ask: bool,
    },
    /// The store did not answer for too long, or not yet. Decisions must not use the numbers of
    /// other members.
    CutOff {
        /// Serving members when the store answered last, or the configured `size`.
        members: NonZeroU32,
    },
}

/// The [`Membership`] of this process, shared between the fleet thread, which sets it, and all
/// decisions.
#[derive(Debug)]
pub struct SharedMembership {
    epoch: Instant,
    /// Zero: no fleet is configured.
    members: AtomicU32,
    can_ask: AtomicBool,
    /// Nanoseconds since `epoch` until which numbers of other members may be used. Zero: cut off.
    fresh_until: AtomicU64,
}

impl SharedMembership {
    /// Starts as [`Membership::Alone`]. `epoch` must not be later than any time that is passed to
    /// the other methods.
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            members: AtomicU32::new(0),
            can_ask: AtomicBool::new(false),
            fresh_until: AtomicU64::new(0),
        }
    }

    /// The membership at `now`. The result is [`Membership::CutOff`] as soon as the numbers are
    /// too old, even if the fleet thread has not run since.
    pub fn get(&self, now: Instant) -> Membership {
        let Some(members) = NonZeroU32::new(self.members.load(Ordering::Acquire)) else {
            return Membership::Alone;
        };
        if self.nanos(now) >= self.fresh_until.load(Ordering::Acquire) {
            return Membership::CutOff { members };
        }
        let can_ask = self.can_ask.load(Ordering::Relaxed);
        Membership::Joined { members, can_ask }
    }

    /// Whether the numbers became too old and [`Self::set_cut_off`] was not called yet.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let fresh_until = self.fresh_until.load(Ordering::Acquire);
        fresh_until != 0 && self.nanos(now) >= fresh_until
    }

    pub(super) fn set_joined(&self, members: NonZeroU32, fresh_until: Instant) {
        self.can_ask.store(true, Ordering::Relaxed);
        self.members.store(members.get(), Ordering::Release);
        let fresh_until = self.nanos(fresh_until);
        self.fresh_until.store(fresh_until, Ordering::Release);
    }

    /// The last exchange failed. The numbers stay valid until they are too old.
    pub(super) fn set_unanswered(&self) {
        self.can_ask.store(false, Ordering::Relaxed);
    }

    pub(super) fn set_cut_off(&self, members: NonZeroU32) {
        self.can_ask.store(false, Ordering::Relaxed);
        self.fresh_until.store(0, Ordering::Release);
        self.members.store(members.get(), Ordering::Release);
    }

    pub(super) fn set_alone(&self) {
        self.members.store(0, Ordering::Release);
        self.fresh_until.store(0, Ordering::Release);
    }

    fn nanos(&self, time: Instant) -> u64 {
        let nanos = time.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn old_numbers_are_not_used_without_the_fleet_thread() {
        let start = leastconn::net::now();
        let membership = SharedMembership::new(start);
        assert_eq!(membership.get(start), Membership::Alone);
        assert!(!membership.is_overdue(start));

        let members = NonZeroU32::MIN.saturating_add(2);
        let second = Duration::from_secs(1);
        membership.set_joined(members, start + second);
        let before = start + second - Duration::from_nanos(1);
        let can_ask = true;
        assert_eq!(
            membership.get(before),
            Membership::Joined { members, can_ask }
        );
        assert!(!membership.is_overdue(before));

        // Nothing else ran in the meantime: the process was paused.
        let after = start + second;
        assert_eq!(membership.get(after), Membership::CutOff { members });
        assert!(membership.is_overdue(after));
        membership.set_cut_off(members);
        assert!(!membership.is_overdue(after));
        assert_eq!(membership.get(before), Membership::CutOff { members });

        membership.set_alone();
        assert_eq!(membership.get(after), Membership::Alone);
    }

    #[test]
    fn no_connection_asks_after_a_failed_exchange() {
        let start = leastconn::net::now();
        let membership = SharedMembership::new(start);
        let members = NonZeroU32::MIN;
        membership.set_joined(members, start + Duration::from_secs(1));
        membership.set_unanswered();
        let can_ask = false;
        assert_eq!(
            membership.get(start),
            Membership::Joined { members, can_ask }
        );
    }
}
