//! Members with their own threads, in real time.

use std::num::NonZeroU32;

use leastconn_fleet::{FleetSettings, MemoryServer, OperatorState, Secret};
use leastconn_testkit::{DEADLINE, eventually};

use super::*;
use crate::fleet::{FleetState, FleetStatus, Membership};

#[derive(Debug)]
struct Ignore;

impl OperatorTarget for Ignore {
    fn apply(&self, _state: &OperatorState) {}

    fn kill(&self, _filter: &str) -> Result<u64, String> {
        Ok(0)
    }
}

fn join(server: &MemoryServer, name: &str) -> (FleetMember, FleetSlot) {
    let member = FleetMember::new(net::now());
    let slot = FleetSlot::default();
    let settings = FleetSettings::new("edge", Secret::new("a secret of the test"));
    let store = server.connect(&settings);
    let settings = MemberSettings {
        fleet: "edge".into(),
        name: name.into(),
        size: NonZeroU32::new(3).unwrap(),
        gone_after: Duration::from_secs(3),
        store: "memory".to_owned(),
    };
    let target = Arc::new(Ignore);
    member
        .join(settings, store, Vec::new(), target, &slot)
        .unwrap();
    (member, slot)
}

async fn wait_members(slot: &FleetSlot, count: usize) -> FleetStatus {
    let found = eventually(DEADLINE, || async {
        let status = slot.get().unwrap().status();
        if status.members.len() == count {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    found.await.unwrap()
}

#[tokio::test]
async fn members_join_and_leave() {
    let server = MemoryServer::new();
    let (one, slot) = join(&server, "lb1");
    let (two, _slot) = join(&server, "lb2");
    one.first_answer(Duration::from_secs(10)).await;
    two.first_answer(Duration::from_secs(10)).await;
    // The next exchange of the first member finds the second.
    let status = wait_members(&slot, 2).await;
    assert_eq!(status.state, FleetState::Joined);
    let names: Vec<_> = status.members.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["lb1", "lb2"]);
    assert!(status.members[0].is_self);

    two.stop(Duration::from_secs(10)).await;
    assert_eq!(two.membership().get(net::now()), Membership::Alone);
    wait_members(&slot, 1).await;
    one.leave(&slot);
    assert!(slot.get().is_none());
    assert_eq!(one.membership().get(net::now()), Membership::Alone);
}
