//! Random choice by weight.

use super::{
    picker::{Acquired, PickContext, Picker, Servers},
    sample::weighted_sample,
};

#[derive(Debug)]
pub(crate) struct Random;

impl Picker for Random {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        // Retry with the same seed after a failed compare-and-swap. A new seed would favour servers
        // whose state changes less often.
        let seed = context.next_seed();
        context.acquire_with(|| {
            let shares = context
                .all()
                .map(|open| open.map(|open| (open.share(), open.word)));
            weighted_sample(shares, seed)
        })
    }
}
