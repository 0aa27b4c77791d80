//! The servers that this process shares with other members of a fleet.

use std::sync::Arc;

use leastconn::{Pool, Server, UpstreamId};

use super::{Snapshot, SnapshotHandle};
use crate::fleet::Upstreams;

impl Upstreams for Snapshot {
    fn each_pool(&self, visit: &mut dyn FnMut(&Pool)) {
        self.pools().for_each(visit);
    }

    fn departed(&self) -> Vec<(UpstreamId, Arc<Server>)> {
        self.departed_servers()
    }
}

impl Upstreams for SnapshotHandle {
    fn each_pool(&self, visit: &mut dyn FnMut(&Pool)) {
        self.load().each_pool(visit);
    }

    fn departed(&self) -> Vec<(UpstreamId, Arc<Server>)> {
        self.load().departed()
    }
}
