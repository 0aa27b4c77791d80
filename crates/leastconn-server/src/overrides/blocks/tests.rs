use std::sync::Arc;

use leastconn::ClientId;

use super::*;
use crate::telemetry::metrics::Metrics;

fn identity(text: &str) -> BlockTarget {
    BlockTarget::Identity(text.to_owned())
}

#[test]
fn blocks_apply_to_the_identity_last_authorized() {
    let registry = Arc::new(Registry::default());
    let metrics = Metrics::default();
    let listener = metrics.listener("main");
    let source = "127.0.0.1:9".parse().unwrap();
    let connection = registry.register("main".into(), listener, source, leastconn::net::now());
    {
        let mut state = connection.state();
        state.set_identity(ClientId::from("cn:a"));
        state.generation = Some(0);
        // A rule for `dns` was added before the rule for `cn`.
        state.change_identity(&ClientId::from("dns:b"));
    }
    let blocks = Blocks::default();
    for (blocked, closed) in [("cn:a", 0), ("dns:b", 1)] {
        blocks.replace(BlockList([(identity(blocked), None)].into()));
        assert_eq!(close_blocked(&registry, &blocks), closed, "{blocked}");
    }
}

/// Blocks of one target here and in the fleet, which expire at these times.
fn both(here: Option<Timestamp>, fleet: Option<Timestamp>) -> ActiveBlocks {
    let since = Timestamp::UNIX_EPOCH;
    let blocks = |until| [(identity("cn:a"), SetBlock { since, until })].into();
    ActiveBlocks {
        here: blocks(here),
        fleet: blocks(fleet),
    }
}

#[test]
fn later_expiry_is_kept_when_two_blocks_become_one() {
    let (soon, late) = (Timestamp::from_second(10), Timestamp::from_second(20));
    let (soon, late) = (soon.ok(), late.ok());
    for (here, fleet, expected) in [
        (soon, None, None),
        (None, soon, None),
        (soon, late, late),
        (late, soon, late),
    ] {
        let expected = BTreeMap::from([(identity("cn:a"), expected)]);
        let mut blocks = both(here, fleet);
        let exported = blocks.export();
        assert_eq!(blocks.list().0, expected, "{here:?} {fleet:?}");
        blocks.keep_fleet();
        assert!(blocks.fleet.is_empty());
        assert_eq!(blocks.list().0, expected, "left: {here:?} {fleet:?}");

        let mut imported = ActiveBlocks::default();
        imported.import(&exported, false);
        assert!(imported.fleet.is_empty());
        assert_eq!(imported.list().0, expected, "imported: {here:?} {fleet:?}");
    }
}
