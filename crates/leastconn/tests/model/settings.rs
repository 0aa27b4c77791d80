//! Settings of pools and servers, derived from a number.

use std::{num::NonZeroU32, time::Duration};

use leastconn::{
    Balance, PanicPolicy, PoolBuilder, ServerSpec, Weight,
    health::{ActivePolicy, PassivePolicy, Ratio},
};

use super::{SERVERS, has};

pub(super) fn policies(seed: u8) -> (Option<ActivePolicy>, PassivePolicy) {
    let two = NonZeroU32::MIN.saturating_add(1);
    let active = (seed & 1 == 0).then_some(ActivePolicy::new(two, two));
    let mut passive = PassivePolicy::default();
    passive.max_fails = u32::from(seed >> 1) % 4;
    passive.max_early = u32::from(seed >> 3) % 3;
    passive.max_ejected = if seed & 1 << 7 == 0 {
        Ratio::HALF
    } else {
        Ratio::ALL
    };
    (active, passive)
}

/// Derives the algorithm, slow start, panic policy and dial limit from `seed`. Half of the pools
/// use least connections, half use slow start, half refuse connections while no server is
/// available, and two thirds limit dials.
pub(super) fn choosing(pool: PoolBuilder<'_>, seed: u8) -> PoolBuilder<'_> {
    let balance = match seed >> 2 & 7 {
        0 => Balance::P2c,
        1 => Balance::RoundRobin,
        2 => Balance::Random,
        3 => Balance::SourceHash,
        _ => Balance::LeastConn,
    };
    let panic = if seed & 1 << 6 == 0 {
        PanicPolicy::Dial
    } else {
        PanicPolicy::Refuse
    };
    pool.balance(balance)
        .panic(panic)
        .max_connecting(NonZeroU32::new(u32::from(seed % 3)))
        .slow_start(Duration::from_secs(u64::from(seed >> 5 & 1) * 7))
}

/// Returns the servers in the mask `members`, or all servers if the mask is empty.
pub(super) fn specs(members: u8, seed: u8) -> Vec<ServerSpec> {
    let is_member =
        |number: &u8| members.is_multiple_of(1 << SERVERS) || has(members, (*number).into());
    let numbers = (0..SERVERS).filter(is_member);
    numbers.map(|number| spec(number, seed)).collect()
}

/// Creates a server whose weight, limit and backup flag are derived from `seed`.
pub(super) fn spec(number: u8, seed: u8) -> ServerSpec {
    let draw = seed.wrapping_mul(37).wrapping_add(number.wrapping_mul(101));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8_000 + u16::from(number)));
    ServerSpec::new(number.to_string(), address)
        // Weights are powers of two, so that loads are exact as floating-point numbers.
        .weight(Weight::new(1 << (draw % 3)).unwrap_or_default())
        .max_conns(NonZeroU32::new(u32::from(draw / 3 % 4)))
        .backup((draw / 16).is_multiple_of(3))
}
