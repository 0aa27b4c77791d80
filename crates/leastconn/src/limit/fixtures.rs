//! Limits and states of a fleet, for tests.

use std::num::NonZeroU32;

use super::{Limits, RateLimit, Sharing};

pub(super) fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

pub(super) fn rate(per_second: f64, burst: u32) -> Limits {
    Limits::default().rate(RateLimit::new(per_second, number(burst)))
}

pub(super) fn max_conns(max: u32) -> Limits {
    Limits::default().max_conns(number(max))
}

pub(super) fn connected(members: u32) -> Sharing {
    Sharing::Connected {
        members: number(members),
        exact: false,
    }
}

pub(super) fn exact(members: u32) -> Sharing {
    Sharing::Connected {
        members: number(members),
        exact: true,
    }
}

pub(super) fn cut_off(members: u32) -> Sharing {
    Sharing::CutOff {
        members: number(members),
    }
}
