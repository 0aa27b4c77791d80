//! Property test: applies random operations to a pool and compares it with the model in
//! `model/pool.rs`.

use std::time::Instant;

use proptest::prelude::*;

#[path = "model/pool.rs"]
mod model;

use model::{Op, World};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_operations_match_the_model(
        seed: u8,
        ops in prop::collection::vec(any::<[u8; 4]>().prop_map(Op::from_bytes), 0..150),
    ) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant cannot be constructed otherwise; only differences are used"
        )]
        let now = Instant::now();
        World::new(seed, now).run(ops);
    }
}
