use std::{path::Path, sync::Arc};

use leastconn::ClientId;
use leastconn_config::Config;
use leastconn_fleet::{
    BlockTarget, OperatorHistory,
    operator::{Block, ServerState, ServerWeight},
};

use super::*;
use crate::{
    overrides::{BlockError, Override},
    registry::Registry,
    snapshot::SnapshotHandle,
};

fn text(servers: &str) -> String {
    format!(
        r#"
        [[listener]]
        name = "main"
        bind = "127.0.0.1:0"
        upstream = "web"
        [[upstream]]
        name = "web"
        health_check = {{ type = "none" }}
        servers = [{servers}]
        [[client]]
        name = "local"
        match = {{ source = "127.0.0.1" }}
        allow = ["web"]
        "#
    )
}

fn config(servers: &str) -> Config {
    let loaded = leastconn_config::load_text("test.toml", &text(servers), Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

const TWO: &str =
    r#"{ name = "web1", address = "127.0.0.1:1" }, { name = "web2", address = "127.0.0.1:2" }"#;

struct Scene {
    overrides: Overrides,
    snapshots: Arc<SnapshotHandle>,
}

impl Scene {
    fn new() -> Self {
        Self::with(config(TWO))
    }

    /// A balancer with `[fleet]`.
    fn in_fleet() -> Self {
        Self::in_fleet_named("edge")
    }

    fn in_fleet_named(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("secret"),
            "0123456789abcdef0123456789abcdef",
        )
        .unwrap();
        let fleet = format!(
            r#"
            [fleet]
            name = "{name}"
            store = "unix:///run/store.sock"
            secret = "secret"
            "#
        );
        let text = format!("{}{fleet}", text(TWO));
        let loaded = leastconn_config::load_text("test.toml", &text, dir.path());
        Self::with(
            loaded
                .unwrap_or_else(|problems| panic!("{problems}"))
                .config,
        )
    }

    fn with(config: Config) -> Self {
        let snapshot = Snapshot::start(config).unwrap();
        let snapshots = Arc::new(SnapshotHandle::new(snapshot));
        Self {
            overrides: Overrides::new(Arc::clone(&snapshots), Arc::<Registry>::default()),
            snapshots,
        }
    }

    fn apply(&self, state: &OperatorState) {
        self.overrides.apply_fleet(&Handle::current(), state);
    }

    /// Sets a state on this balancer only.
    fn set_here(&self, server: &str, state: AdminState) {
        let name = ("web", server);
        let runtime = Handle::current();
        self.overrides
            .set_server(&runtime, name, state, Duration::ZERO)
            .unwrap();
    }

    fn follow_fleet(&self, server: &str) {
        let runtime = Handle::current();
        self.overrides
            .follow_fleet(&runtime, ("web", server))
            .unwrap();
    }

    fn state(&self, server: &str) -> AdminState {
        let server = self.snapshots.load().server("web", server);
        server.unwrap().status().admin
    }

    fn weight(&self, server: &str) -> f64 {
        let weight = self.overrides.server_weight(("web", server));
        weight.unwrap().weight
    }

    fn origins(&self) -> Vec<Origin> {
        let active = self.overrides.active().into_iter();
        let origins = active.filter_map(|one| match one {
            Override::Server(.., origin) | Override::Weight(.., origin) => Some(origin),
            Override::Level(..) => None,
        });
        origins.collect()
    }

    fn reload(&self, servers: &str) {
        let current = self.snapshots.load();
        let next = current.succeed(config(servers)).unwrap();
        self.overrides.install(&current, next);
    }

    fn is_blocked(&self, identity: &str) -> bool {
        let blocks = &self.snapshots.load().blocks;
        let identity = ClientId::from(identity);
        blocks.find(&identity, None, leastconn::net::now).is_some()
    }
}

fn state(server: &str, state: &str) -> OperatorState {
    OperatorState {
        states: vec![ServerState {
            upstream: "web".to_owned(),
            server: server.to_owned(),
            state: state.to_owned(),
            grace: Duration::ZERO,
        }],
        ..OperatorState::default()
    }
}

fn weight(server: &str, weight: &str) -> OperatorState {
    OperatorState {
        weights: vec![ServerWeight {
            upstream: "web".to_owned(),
            server: server.to_owned(),
            weight: weight.to_owned(),
        }],
        ..OperatorState::default()
    }
}

fn block(identity: &str, remaining: Option<Duration>) -> OperatorState {
    OperatorState {
        blocks: vec![Block {
            target: BlockTarget::Identity(identity.to_owned()),
            remaining,
        }],
        ..OperatorState::default()
    }
}

#[tokio::test]
async fn settings_of_the_fleet_are_applied_and_removed() {
    let scene = Scene::new();
    scene.apply(&state("web1", "drain"));
    assert_eq!(scene.state("web1"), AdminState::Drain);
    assert_eq!(scene.origins(), [Origin::Fleet]);
    scene.apply(&state("web1", "maint"));
    assert_eq!(scene.state("web1"), AdminState::Maint);
    scene.apply(&weight("web2", "7"));
    assert_eq!(scene.state("web1"), AdminState::Ready);
    assert_eq!(scene.weight("web2"), 7.0);
    scene.apply(&OperatorState::default());
    assert_eq!(scene.weight("web2"), 1.0);
    assert_eq!(scene.overrides.active(), []);
    // States and weights of later versions are ignored.
    scene.apply(&state("web1", "sleep"));
    scene.apply(&weight("web1", "heavy"));
    assert_eq!(scene.state("web1"), AdminState::Ready);
}

#[tokio::test]
async fn setting_of_this_balancer_takes_precedence() {
    let scene = Scene::new();
    let drained = state("web1", "drain");
    scene.apply(&drained);
    scene.set_here("web1", AdminState::Ready);
    scene.apply(&drained);
    assert_eq!(scene.state("web1"), AdminState::Ready);
    assert_eq!(scene.origins(), [Origin::Here]);
    // A setting that equals the fleet's resets it.
    scene.set_here("web1", AdminState::Drain);
    assert_eq!(scene.origins(), [Origin::Fleet]);
    scene.apply(&OperatorState::default());
    assert_eq!(scene.state("web1"), AdminState::Ready);

    scene.set_here("web2", AdminState::Drain);
    scene.apply(&OperatorState::default());
    assert_eq!(scene.state("web2"), AdminState::Drain);
    // So does a command for the fleet on this balancer.
    scene.follow_fleet("web2");
    assert_eq!(scene.state("web2"), AdminState::Ready);
    assert_eq!(scene.overrides.active(), []);
}

#[tokio::test]
async fn weight_of_this_balancer_takes_precedence() {
    let scene = Scene::new();
    let set = |text: &str| {
        let weight = text.parse().unwrap();
        scene.overrides.set_weight(("web", "web1"), weight).unwrap();
    };
    scene.apply(&weight("web1", "7"));
    set("100%");
    scene.apply(&weight("web1", "7"));
    assert_eq!(scene.weight("web1"), 1.0);
    assert_eq!(scene.origins(), [Origin::Here]);
    scene.reload(TWO);
    assert_eq!(scene.weight("web1"), 1.0);
    set("7");
    assert_eq!(scene.origins(), [Origin::Fleet]);
    scene.apply(&OperatorState::default());
    assert_eq!(scene.weight("web1"), 1.0);
}

#[tokio::test]
async fn unknown_servers_are_remembered_for_reloads() {
    let scene = Scene::new();
    let mut all = state("web3", "drain");
    all.weights = weight("web3", "50%").weights;
    scene.apply(&all);
    assert_eq!(scene.overrides.active(), []);
    let three = format!(r#"{TWO}, {{ name = "web3", address = "127.0.0.1:3", weight = 4 }}"#);
    scene.reload(&three);
    assert_eq!(scene.state("web3"), AdminState::Drain);
    assert_eq!(scene.weight("web3"), 2.0);
    // The server is removed and added again.
    scene.reload(TWO);
    assert_eq!(scene.overrides.active(), []);
    scene.reload(&three);
    assert_eq!(scene.state("web3"), AdminState::Drain);
}

#[tokio::test]
async fn blocks_of_fleet_and_balancer_add_up() {
    let scene = Scene::new();
    scene.apply(&block("cn:a", None));
    assert!(scene.is_blocked("cn:a"));
    let target = BlockTarget::Identity("cn:a".to_owned());
    let overrides = &scene.overrides;
    overrides.block(target.clone(), None).unwrap();
    assert_eq!(overrides.blocks().len(), 2);
    scene.apply(&block("cn:b", Some(Duration::from_secs(60))));
    assert!(scene.is_blocked("cn:a") && scene.is_blocked("cn:b"));
    assert_eq!(overrides.unblock(&target), Ok(true));
    assert!(!scene.is_blocked("cn:a"));
    assert_eq!(overrides.unblock(&target), Ok(false));
    scene.reload(TWO);
    assert!(scene.is_blocked("cn:b"));
    scene.apply(&block("cn:b", Some(Duration::ZERO)));
    assert!(!scene.is_blocked("cn:b"));
    assert_eq!(overrides.blocks(), []);
}

/// A server that is being repaired must not get connections because a balancer leaves the fleet.
#[tokio::test]
async fn settings_are_kept_when_leaving_the_fleet() {
    let scene = Scene::new();
    let mut all = state("web1", "drain");
    all.weights = weight("web2", "3").weights;
    all.blocks = block("cn:a", None).blocks;
    scene.apply(&all);
    scene.overrides.leave_fleet();
    assert_eq!(scene.state("web1"), AdminState::Drain);
    assert_eq!(scene.weight("web2"), 3.0);
    assert!(scene.is_blocked("cn:a"));
    assert_eq!(scene.origins(), [Origin::Here, Origin::Here]);
    scene.set_here("web1", AdminState::Ready);
    assert_eq!(scene.state("web1"), AdminState::Ready);
    assert_eq!(scene.origins(), [Origin::Here]);
}

#[tokio::test]
async fn settings_of_the_fleet_are_handed_over() {
    let old = Scene::new();
    let mut all = state("web1", "drain");
    all.blocks = block("cn:a", Some(Duration::from_secs(60))).blocks;
    old.apply(&all);
    let handover = old.overrides.hand_over();
    // The predecessor leaves later changes to its successor.
    old.apply(&OperatorState::default());
    assert_eq!(old.state("web1"), AdminState::Drain);
    let new = Scene::new();
    let json = serde_json::to_string(&handover).unwrap();
    new.overrides.import(&serde_json::from_str(&json).unwrap());
    assert_eq!(new.state("web1"), AdminState::Drain);
    assert!(new.is_blocked("cn:a"));
    // Its configuration has no fleet.
    assert_eq!(new.origins(), [Origin::Here]);
    // Predecessors get the blocks of the newest process.
    let mut forwards = new.overrides.forwards();
    let target = BlockTarget::Identity("cn:b".to_owned());
    new.overrides.block(target, None).unwrap();
    let forwarded = forwards.try_recv().unwrap();
    let crate::overrides::Forward::Blocks(blocks) = forwarded else {
        panic!("{forwarded:?}");
    };
    old.overrides.set_forwarded_blocks(&blocks);
    assert!(old.is_blocked("cn:a") && old.is_blocked("cn:b"));
}

/// The store of another fleet does not have them.
#[tokio::test]
async fn settings_of_another_fleet_are_kept_as_own() {
    let old = Scene::in_fleet();
    let mut all = state("web1", "drain");
    all.weights = weight("web2", "3").weights;
    all.blocks = block("cn:a", None).blocks;
    old.apply(&all);
    let history = OperatorHistory::default();
    let handover = old.overrides.export().with_history(&history);
    for (name, is_same) in [("edge", true), ("core", false)] {
        let new = Scene::in_fleet_named(name);
        let snapshot = new.snapshots.load();
        assert_eq!(handover.history(&snapshot).is_some(), is_same);
        new.overrides.import(&handover);
        // The store has answered, and is empty.
        new.apply(&OperatorState::default());
        let is_kept = !is_same;
        assert_eq!(new.state("web1") == AdminState::Drain, is_kept, "{name}");
        assert_eq!(new.weight("web2") == 3.0, is_kept, "{name}");
        assert_eq!(new.is_blocked("cn:a"), is_kept, "{name}");
    }
}

#[tokio::test]
async fn absence_is_forgotten_with_the_upstream() {
    let scene = Scene::new();
    let key = server_key("removed", "a");
    let absent_since = leastconn::net::now();
    scene.overrides.lock().absences.insert(key, absent_since);
    scene.reload(TWO);
    assert!(scene.overrides.lock().absences.is_empty());
}

/// The predecessor has not received what was set last, or has no `[fleet]`.
#[tokio::test]
async fn handover_does_not_replace_settings_of_the_fleet() {
    let old = Scene::in_fleet();
    let mut outdated = state("web2", "drain");
    outdated.weights = weight("web2", "50%").weights;
    outdated.blocks = block("cn:b", None).blocks;
    old.apply(&outdated);
    let here = BlockTarget::Identity("cn:c".to_owned());
    old.overrides.block(here, None).unwrap();

    let new = Scene::in_fleet();
    new.overrides.import(&old.overrides.export());
    assert_eq!(new.state("web2"), AdminState::Drain);
    let mut current = state("web1", "maint");
    current.weights = weight("web1", "7").weights;
    current.blocks = block("cn:a", Some(Duration::from_secs(60))).blocks;
    new.apply(&current);
    for old in [old, Scene::new()] {
        new.overrides.import(&old.overrides.hand_over());
        assert_eq!(new.state("web1"), AdminState::Maint);
        assert_eq!(new.state("web2"), AdminState::Ready);
        assert_eq!((new.weight("web1"), new.weight("web2")), (7.0, 1.0));
        assert!(new.is_blocked("cn:a") && !new.is_blocked("cn:b"));
        assert_eq!(new.is_blocked("cn:c"), old.is_blocked("cn:c"));
        assert_eq!(new.origins(), [Origin::Fleet, Origin::Fleet]);
    }
}

/// The store has not answered yet.
#[tokio::test]
async fn settings_of_the_predecessor_apply_until_the_first_answer() {
    let old = Scene::in_fleet();
    let mut all = state("web1", "drain");
    all.blocks = block("cn:a", None).blocks;
    old.apply(&all);
    let new = Scene::in_fleet();
    new.overrides.import(&old.overrides.export());
    new.overrides.import(&old.overrides.hand_over());
    assert_eq!(new.state("web1"), AdminState::Drain);
    assert!(new.is_blocked("cn:a"));
    assert_eq!(new.origins(), [Origin::Fleet]);
    new.apply(&OperatorState::default());
    assert_eq!(new.state("web1"), AdminState::Ready);
    assert!(!new.is_blocked("cn:a"));
}

#[tokio::test]
async fn no_block_of_the_fleet_is_dropped() {
    let scene = Scene::new();
    let target = |number: u32| BlockTarget::Identity(format!("cn:{number:05}"));
    let blocks = (0..10_001).map(|number| Block {
        target: target(number),
        remaining: None,
    });
    scene.apply(&OperatorState {
        blocks: blocks.collect(),
        ..OperatorState::default()
    });
    assert!(scene.is_blocked("cn:10000"));
    // A command for the fleet blocks the client on this balancer first.
    let block = |number| scene.overrides.block(target(number), None);
    assert_eq!(block(10_001).unwrap_err(), BlockError::TooMany);
    block(10_000).unwrap();
}
