//! Power of two choices: the less loaded of two servers that are drawn by weight.
//!
//! Looks at a few servers only, however many there are: draws a position, accepts it with the
//! probability of its share relative to the largest weight, and continues until there are two
//! different servers. After [`MAX_DRAWS`] it draws what is missing from a scan of all servers,
//! with the same probabilities.
//!
//! Source: M. Mitzenmacher, "The power of two choices in randomized load balancing" (2001);
//! Envoy issue 29873 (two draws of the same server are no choice).

use super::{
    picker::{Acquired, Open, PickContext, Picker, Servers},
    sample::{mix64, scale_below, weighted_sample},
    slow_start::FULL_SHARE,
};

/// Draws before all servers are scanned.
const MAX_DRAWS: usize = 16;

#[derive(Debug)]
pub(crate) struct P2c;

impl Picker for P2c {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        // Retries keep the seed: a new one would favour servers that change less often.
        let seed = context.next_seed();
        context.acquire_with(|| better_of_two(context, seed))
    }
}

/// The better of two servers: its position and the word seen there.
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
    // The second has to win by weight and by share. A server in slow start is drawn first as
    // seldom as it should be and must not win more often by being drawn second. Comparing by
    // share alone would keep it from ever winning against idle servers.
    let is_better = |second: Open| {
        is_lighter(second, first.1, |open| open.weight.get().into())
            && is_lighter(second, first.1, Open::share)
    };
    let (position, better) = second.filter(|second| is_better(second.1)).unwrap_or(first);
    Some((position, better.word))
}

/// Whether one more connection is less load on `a` than on `b`, per `share`.
fn is_lighter(a: Open, b: Open, share: fn(Open) -> u32) -> bool {
    let weighed = |of: Open, by: Open| (u64::from(of.in_flight) + 1) * u64::from(share(by));
    weighed(a, b) < weighed(b, a)
}

/// Open servers, drawn independently by share.
fn draws<S: Servers>(
    context: &PickContext<'_, S>,
    seed: u64,
) -> impl Iterator<Item = (usize, Open)> {
    let count = context.servers.len();
    let max_share = u64::from(context.weights.max.get()) * u64::from(FULL_SHARE);
    // Scanning two servers is faster than drawing.
    let draws = if count > 2 { MAX_DRAWS } else { 0 };
    (0..draws).filter_map(move |n| {
        let position = scale_below(mix64(seed, 2 * n), count as u64) as usize;
        let open = context.open(position)?;
        let accepted = scale_below(mix64(seed, 2 * n + 1), max_share) < u64::from(open.share());
        accepted.then_some((position, open))
    })
}
