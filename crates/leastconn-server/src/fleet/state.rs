//! The states of a member, without I/O and without a clock.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::status::FleetState;

/// How long numbers of other members may be used, counted from when the report was sent.
pub const MAX_AGE: Duration = Duration::from_secs(1);

/// A change of state that must be applied and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Joined {
        members: NonZeroU32,
    },
    /// Like `Joined`, after a time without the store.
    Rejoined {
        members: NonZeroU32,
        /// Time since the last successful exchange, or since the start.
        after: Duration,
    },
    CutOff {
        members: NonZeroU32,
        /// Time since the last successful exchange, or since the start.
        silent_for: Duration,
    },
    /// The counts of other members are too old to be of use.
    CountsExpired,
}

/// The state machine of a member.
#[derive(Debug)]
pub(super) struct Machine {
    state: FleetState,
    since: Instant,
    /// When the last successful report was sent. Until then: when the member started.
    last_sent: Instant,
    members: NonZeroU32,
    has_counts: bool,
    /// Age at which the counts of other members are forgotten.
    gone_after: Duration,
}

impl Machine {
    /// `size` is the number of members to assume until the store answers.
    pub(super) fn new(size: NonZeroU32, gone_after: Duration, now: Instant) -> Self {
        Self {
            state: FleetState::Joining,
            since: now,
            last_sent: now,
            members: size,
            has_counts: false,
            gone_after,
        }
    }

    pub(super) const fn state(&self) -> FleetState {
        self.state
    }

    /// When the current state began.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// Serving members, including this one. If the store does not answer: the last number that
    /// was known.
    pub(super) const fn members(&self) -> NonZeroU32 {
        self.members
    }

    /// Until when the numbers of the last answer may be used.
    pub(super) fn fresh_until(&self) -> Instant {
        self.last_sent + MAX_AGE
    }

    /// The next time at which [`Self::tick`] has to be called, if no exchange succeeds.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        match self.state {
            FleetState::Joining | FleetState::Joined => Some(self.fresh_until()),
            FleetState::CutOff if self.has_counts => {
                Some(self.last_sent + self.gone_after.max(MAX_AGE))
            }
            FleetState::CutOff => None,
        }
    }

    /// An exchange succeeded whose report was sent at `sent`. Returns `None` without any effect
    /// if the answer is too old at `now`, because the process was paused.
    pub(super) fn answered(
        &mut self,
        members: NonZeroU32,
        sent: Instant,
        now: Instant,
    ) -> Option<Option<Transition>> {
        if now >= sent + MAX_AGE {
            return None;
        }
        let transition = match self.state {
            FleetState::Joined => None,
            FleetState::Joining => Some(Transition::Joined { members }),
            FleetState::CutOff => Some(Transition::Rejoined {
                members,
                after: now.saturating_duration_since(self.last_sent),
            }),
        };
        if transition.is_some() {
            self.state = FleetState::Joined;
            self.since = now;
        }
        self.last_sent = sent;
        self.members = members;
        self.has_counts = true;
        Some(transition)
    }

    /// Time has passed. Returns at most one transition: call it until it returns `None`.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Transition> {
        if self.next_tick().is_none_or(|at| now < at) {
            return None;
        }
        if self.state == FleetState::CutOff {
            self.has_counts = false;
            return Some(Transition::CountsExpired);
        }
        self.state = FleetState::CutOff;
        self.since = now;
        Some(Transition::CutOff {
            members: self.members,
            silent_for: now.saturating_duration_since(self.last_sent),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE_AFTER: Duration = Duration::from_secs(3);

    fn members(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn cut_off_after_a_second_of_silence() {
        let start = leastconn::net::now();
        let mut machine = Machine::new(members(3), GONE_AFTER, start);
        assert_eq!(machine.state(), FleetState::Joining);
        assert_eq!(machine.members(), members(3));

        let joined = machine.answered(members(2), at(start, 5), at(start, 7));
        let members = members(2);
        assert_eq!(joined, Some(Some(Transition::Joined { members })));
        assert_eq!(
            machine.answered(members, at(start, 100), at(start, 101)),
            Some(None)
        );
        assert_eq!(machine.next_tick(), Some(at(start, 1100)));
        assert_eq!(machine.tick(at(start, 1099)), None);
        let silent_for = MAX_AGE;
        let cut_off = Transition::CutOff {
            members,
            silent_for,
        };
        assert_eq!(machine.tick(at(start, 1100)), Some(cut_off));
        assert_eq!(machine.tick(at(start, 1100)), None);
        assert_eq!(machine.since(), at(start, 1100));

        assert_eq!(machine.next_tick(), Some(at(start, 3100)));
        assert_eq!(
            machine.tick(at(start, 3100)),
            Some(Transition::CountsExpired)
        );
        assert_eq!(machine.tick(at(start, 60_000)), None);
        assert_eq!(machine.next_tick(), None);

        let rejoined = machine.answered(members, at(start, 60_100), at(start, 60_101));
        let after = Duration::from_millis(60_001);
        assert_eq!(
            rejoined,
            Some(Some(Transition::Rejoined { members, after }))
        );
        assert_eq!(machine.state(), FleetState::Joined);
    }

    #[test]
    fn assumes_the_configured_size_if_the_store_never_answers() {
        let start = leastconn::net::now();
        let mut machine = Machine::new(members(3), GONE_AFTER, start);
        let silent_for = MAX_AGE;
        let cut_off = Transition::CutOff {
            members: members(3),
            silent_for,
        };
        assert_eq!(machine.tick(at(start, 1000)), Some(cut_off));
        // There are no counts that could expire.
        assert_eq!(machine.next_tick(), None);
    }

    #[test]
    fn answer_that_arrived_during_a_pause_is_ignored() {
        let start = leastconn::net::now();
        let mut machine = Machine::new(members(3), GONE_AFTER, start);
        machine.answered(members(3), at(start, 0), at(start, 1));
        // Paused from 100 ms to 10 s. The answer to the report of 100 ms is in the socket.
        let stale = machine.answered(members(3), at(start, 100), at(start, 10_000));
        assert_eq!(stale, None);
        assert!(matches!(
            machine.tick(at(start, 10_000)),
            Some(Transition::CutOff { .. })
        ));
        assert_eq!(
            machine.tick(at(start, 10_000)),
            Some(Transition::CountsExpired)
        );
        assert_eq!(machine.tick(at(start, 10_000)), None);
    }
}
