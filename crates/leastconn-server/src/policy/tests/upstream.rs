//! An upstream without health checks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use leastconn::UpstreamId;

use crate::upstream::Upstream;

pub(super) fn upstream(name: &str, servers: &[&str]) -> (UpstreamId, Arc<Upstream>) {
    let id = UpstreamId::from(name);
    let spec =
        |server: &&str| leastconn::ServerSpec::new(*server, SocketAddr::from(([127, 0, 0, 1], 1)));
    let upstream = Upstream::start(&leastconn_config::Upstream {
        sources: Vec::new(),
        discovery: leastconn_config::Discovery::default(),
        id: id.clone(),
        servers: servers.iter().map(spec).collect(),
        own_zone: None,
        balance: leastconn::Balance::default(),
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        max_connecting: None,
        retries: 0,
        retry_for: Duration::ZERO,
        panic: leastconn::PanicPolicy::default(),
        queue: leastconn::QueuePolicy::default(),
        keepalive: None,
        proxy_protocol: None,
        health_check: None,
        agent_check: None,
        passive: leastconn::health::PassivePolicy::default(),
        rebalance: None,
        tls: None,
    });
    (id, Arc::new(upstream.unwrap()))
}
