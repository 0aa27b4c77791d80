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
    let connection = registry.register("main".into(), listener, source, net::now());
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
fn both(here: Option<Expiry>, fleet: Option<Expiry>) -> ActiveBlocks {
    let since = Timestamp::UNIX_EPOCH;
    let blocks = |expiry| [(identity("cn:a"), SetBlock { since, expiry })].into();
    ActiveBlocks {
        here: blocks(here),
        fleet: blocks(fleet),
    }
}

/// When each client is no longer blocked.
fn ends(blocks: &ActiveBlocks) -> BTreeMap<BlockTarget, Option<Timestamp>> {
    let list = blocks.list().0.into_iter();
    list.map(|(target, expiry)| (target, expiry.map(|expiry| expiry.until())))
        .collect()
}

#[test]
fn later_expiry_is_kept_when_two_blocks_become_one() {
    let expiry = |minutes: u64| Some(Expiry::after(Duration::from_secs(minutes * 60)));
    let (soon, late) = (expiry(10), expiry(20));
    for (here, fleet, expected) in [
        (soon, None, None),
        (None, soon, None),
        (soon, late, late),
        (late, soon, late),
    ] {
        let until = expected.map(|expiry| expiry.until());
        let expected = BTreeMap::from([(identity("cn:a"), until)]);
        let mut blocks = both(here, fleet);
        let exported = blocks.export();
        assert_eq!(ends(&blocks), expected, "{here:?} {fleet:?}");
        blocks.keep_fleet();
        assert!(blocks.fleet.is_empty());
        assert_eq!(ends(&blocks), expected, "left: {here:?} {fleet:?}");

        let mut imported = ActiveBlocks::default();
        imported.import(&exported, false, false);
        assert!(imported.fleet.is_empty());
        assert_eq!(ends(&imported), expected, "imported: {here:?} {fleet:?}");
    }
}

#[test]
fn blocks_of_the_fleet_change_only_with_their_expiry() {
    let mut blocks = ActiveBlocks::default();
    let state = |seconds: Option<u64>| OperatorState {
        blocks: vec![leastconn_fleet::operator::Block {
            target: identity("cn:a"),
            remaining: seconds.map(Duration::from_secs),
        }],
        ..OperatorState::default()
    };
    for (seconds, has_changed) in [
        (Some(3600), true),
        // A second later, and with the jitter of an exchange.
        (Some(3599), false),
        (Some(7200), true),
        (None, true),
        (None, false),
        (Some(7200), true),
    ] {
        assert_eq!(
            blocks.set_fleet(&state(seconds)),
            has_changed,
            "{seconds:?}"
        );
    }
}
