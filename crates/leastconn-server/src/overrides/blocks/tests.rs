use std::sync::Arc;

use leastconn::ClientId;

use super::*;
use crate::telemetry::metrics::Metrics;

fn identity(text: &str) -> BlockTarget {
    BlockTarget::Identity(text.to_owned())
}

#[test]
fn connections_are_closed_by_the_identity_of_the_last_authorization() {
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
