//! Weighted rendezvous hashing: all connections from one source go to the same server.
//!
//! Each server gets a score, computed from the source, the server's name and the server's weight.
//! The server with the highest score is picked. When a server joins, leaves or changes its weight,
//! sources move only to or from that server, never between two other servers.
//!
//! Source: D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates"
//! (1998). The formula for weights, `-w / ln(u)`, is from C. Schindelhauer and G. Schomaker,
//! "Weighted distributed hash tables" (2005).

use super::{
    picker::{Acquired, PickContext, Picker, Servers},
    random::Random,
    sample::mix64,
};

#[derive(Debug)]
pub(crate) struct SourceHash;

impl Picker for SourceHash {
    fn pick<S: Servers>(&self, context: &PickContext<'_, S>) -> Option<Acquired> {
        let Some(source) = context.source else {
            return Random.pick(context);
        };
        context.acquire_with(|| highest_score(context, source.key()))
    }
}

fn highest_score<S: Servers>(context: &PickContext<'_, S>, source: u64) -> Option<(usize, u64)> {
    let mut best: Option<(usize, f64, u64)> = None;
    for (position, open) in context.all().enumerate() {
        let Some(open) = open else {
            continue;
        };
        let hash = mix64(source ^ context.servers.name_hash(position), 0);
        let score = score(open.share(), hash);
        if best.is_none_or(|(_, highest, _)| score > highest) {
            best = Some((position, score, open.word));
        }
    }
    best.map(|(position, _, word)| (position, word))
}

fn score(share: u32, hash: u64) -> f64 {
    // Use 53 bits and exclude 0 and 1, so that the score is a positive finite number.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(share) / uniform.ln()
}
