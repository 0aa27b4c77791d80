//! Members with their own threads, in real time.

use std::num::NonZeroU32;

use leastconn_fleet::{
    Facts, FleetSettings, InMemory, MemberStatus, MemoryServer, OperatorState, Report, Secret,
    StoreError, View,
};
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
    join_with(&member, &slot, connect(server), name);
    (member, slot)
}

fn connect(server: &MemoryServer) -> InMemory {
    let settings = FleetSettings::new("edge", Secret::new("a secret of the test"));
    server.connect(&settings)
}

fn join_with<S: Store + 'static>(member: &FleetMember, slot: &FleetSlot, store: S, name: &str) {
    let settings = MemberSettings {
        fleet: "edge".into(),
        name: name.into(),
        size: NonZeroU32::new(3).unwrap(),
        gone_after: Duration::from_secs(3),
        store: "memory".to_owned(),
    };
    let target = Arc::new(Ignore);
    member
        .join(settings, store, Vec::new(), target, slot)
        .unwrap();
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

/// A store that records how many members there are besides this one.
struct Recording {
    store: InMemory,
    others: Arc<Mutex<Vec<usize>>>,
    /// Panics in the next exchange.
    panics: bool,
}

impl Store for Recording {
    async fn exchange(&mut self, report: &Report) -> Result<View, StoreError> {
        if std::mem::take(&mut self.panics) {
            panic!("a panic of the test");
        }
        let view = self.store.exchange(report).await?;
        self.others.lock().push(view.members.len());
        Ok(view)
    }

    async fn leave(&mut self, member: &MemberId) -> Result<(), StoreError> {
        // The next membership starts meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.store.leave(member).await
    }

    fn server(&self) -> Option<&str> {
        self.store.server()
    }

    fn disconnect(&mut self) {
        self.store.disconnect();
    }
}

#[tokio::test]
async fn process_that_joins_again_is_counted_once() {
    let server = MemoryServer::new();
    let member = FleetMember::new(net::now());
    let slot = FleetSlot::default();
    let others = Arc::<Mutex<Vec<usize>>>::default();
    for _ in 0..3 {
        let store = Recording {
            store: connect(&server),
            others: Arc::clone(&others),
            panics: false,
        };
        join_with(&member, &slot, store, "lb1");
        member.first_answer(DEADLINE).await;
    }
    let others = others.lock();
    assert!(others.len() >= 3, "{others:?}");
    assert!(others.iter().all(|count| *count == 0), "{others:?}");
}

#[tokio::test]
async fn exchange_starts_again_after_a_panic() {
    let server = MemoryServer::new();
    let member = FleetMember::new(net::now());
    let slot = FleetSlot::default();
    let store = Recording {
        store: connect(&server),
        others: Arc::default(),
        panics: true,
    };
    join_with(&member, &slot, store, "lb1");
    member.first_answer(DEADLINE).await;
    assert_eq!(wait_members(&slot, 1).await.state, FleetState::Joined);
    member.stop(DEADLINE).await;
}

#[tokio::test]
async fn text_of_other_members_has_no_control_characters() {
    let server = MemoryServer::new();
    let (_member, slot) = join(&server, "lb1");
    let mut report = Report::new(MemberId::new("lb\u{1b}[2J", 1), MemberStatus::Serving);
    report.facts = Some(Facts {
        host: "host\u{7}".to_owned(),
        version: "1\r".to_owned(),
        config_digest: "\u{9b}".to_owned(),
        ..Facts::default()
    });
    connect(&server).exchange_now(&report).unwrap();
    let status = wait_members(&slot, 2).await;
    let other = &status.members[1];
    let facts = other.facts.as_ref().unwrap();
    let texts = [
        &other.name,
        &facts.host,
        &facts.version,
        &facts.config_digest,
    ];
    for text in texts {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    assert_eq!(other.name, "lb\\u{1b}[2J");
}
