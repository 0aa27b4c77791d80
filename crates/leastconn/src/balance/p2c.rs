//! Power of two choices: draws two servers at random by weight and picks the less loaded one.
//!
//! A pick reads only a few servers, regardless of the size of the pool. It draws random positions
//! and accepts the server at a drawn position with a probability equal to the server's share
//! divided by the largest weight. It stops as soon as two different servers are accepted. If
//! [`MAX_DRAWS`] draws do not yield two servers, the pick scans all servers and draws the missing
//! ones with the same probabilities.
//!
//! Sources: M. Mitzenmacher, "The power of two choices in randomized load balancing" (2001), and
//! Envoy issue 29873 (the two servers must be different).

use super::{
    picker::{Acquired, Open, PickContext, Picker, Servers},
    sample::{mix64, scale_below, weighted_sample},
    slow_start::FULL_SHARE,
};

/// Maximum number of draws before all servers are scanned.
const MAX_DRAWS: usize = 16;

#[derive(Debug)]
pub(crate) struct P2c;

impl Picker for P2c {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        // Retry with the same seed after a failed compare-and-swap. A new seed would favour servers
        // whose state changes less often.
        let seed = context.next_seed();
        context.acquire_with(|| better_of_two(context, seed))
    }
}

/// Draws two servers. Returns the position of the less loaded one and the state word that was read
/// from it.
pub(super) fn better_of_two<S: Servers>(
    context: &PickContext<'_, S>,
    seed: u64,
) -> Option<(usize, u64)> {
    let (mut first, mut second) = (None, None);
    for (position, open) in draws(context, seed) {
        match first {
            None => first = Some((position, open)),
            Some((held, _)) if held == position => {}
            Some(_) => {
                second = Some((position, open));
                break;
            }
        }
    }
    let scan = |seed, except: Option<usize>| {
        let shares = context.all().enumerate().map(|(position, open)| {
            let open = open.filter(|_| except != Some(position));
            open.map(|open| (open.share(), open))
        });
        weighted_sample(shares, seed)
    };
    let first = first.or_else(|| scan(mix64(!seed, 0), None))?;
    let second = second.or_else(|| scan(mix64(!seed, 1), Some(first.0)));
    // The second server is picked only if its load is lower both relative to its weight and
    // relative to its share. Without the comparison by share, a server in slow start would be
    // picked too often when it is drawn second. With the comparison by share alone, a server in
    // slow start that is drawn first would always lose to an idle server.
    let is_better = |second: Open| {
        is_lighter(second, first.1, |open| open.weight.get().into())
            && is_lighter(second, first.1, Open::share)
    };
    let (position, better) = second.filter(|second| is_better(second.1)).unwrap_or(first);
    Some((position, better.word))
}

/// Whether `a` would have less load than `b` if each server got one more connection. The load is
/// the number of connections divided by `share`.
fn is_lighter(a: Open, b: Open, share: fn(Open) -> u32) -> bool {
    let weighed = |of: Open, by: Open| (u64::from(of.load) + 1) * u64::from(share(by));
    weighed(a, b) < weighed(b, a)
}

/// Iterates over the accepted draws. Each draw accepts an open server with a probability
/// proportional to the server's share. The same server may be accepted more than once.
fn draws<S: Servers>(
    context: &PickContext<'_, S>,
    seed: u64,
) -> impl Iterator<Item = (usize, Open)> {
    let count = context.servers.len();
    let max_share = u64::from(context.weights.max.get()) * u64::from(FULL_SHARE);
    // With at most two servers, a scan is faster than random draws.
    let draws = if count > 2 { MAX_DRAWS } else { 0 };
    (0..draws).filter_map(move |n| {
        let position = scale_below(mix64(seed, 2 * n), count as u64) as usize;
        let open = context.open(position)?;
        let accepted = scale_below(mix64(seed, 2 * n + 1), max_share) < u64::from(open.share());
        accepted.then_some((position, open))
    })
}
