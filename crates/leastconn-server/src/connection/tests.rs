use std::path::Path;

use jiff::Timestamp;
use leastconn::{Server, Tried};
use leastconn_config::Access;
use leastconn_tls::client_chain::RevokedNames;

use super::{reauthorize::EndedCounts, *};
use crate::telemetry::{Telemetry, access_log::AccessLog};

#[test]
fn futures_of_a_connection_are_small() {
    fn any<T>() -> T {
        unreachable!("only the type of the future is needed")
    }
    fn size<F: Future>(_: impl FnOnce() -> F) -> usize {
        size_of::<F>()
    }
    let task = size(|| serve(any(), any(), any(), any(), any(), any()));
    assert!(
        task <= 1280,
        "{task} bytes: box the futures that relaying does not need"
    );
    // Arguments are stored twice in an `async fn`: pin large futures before passing them.
    let handshake = size(|| async {
        let (listener, context, mut record): (Arc<Listener>, Arc<ServerContext>, AccessRecord) =
            (any(), any(), any());
        accept_tls(any(), any(), &listener, &context, &mut record).await
    });
    assert!(handshake <= 2048, "{handshake} bytes");
}

/// A configuration with two servers, and with one rule for 127.0.0.1 that has this `allow` list.
fn config(allow: &str) -> leastconn_config::Config {
    config_with("", allow)
}

/// Like [`config`], with another line for the listener.
fn config_with(line: &str, allow: &str) -> leastconn_config::Config {
    let text = format!(
        r#"
        [[listener]]
        name = "main"
        bind = "127.0.0.1:0"
        upstream = "web"
        {line}
        [[upstream]]
        name = "web"
        health_check = {{ type = "none" }}
        servers = ["127.0.0.1:1", "127.0.0.1:2"]
        [[client]]
        name = "local"
        match = {{ source = "127.0.0.1" }}
        allow = {allow}
        "#
    );
    let loaded = leastconn_config::load_text("test.toml", &text, Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

/// A server context, with methods for the two halves of a reload.
struct Scene {
    context: Arc<ServerContext>,
}

impl Scene {
    fn new(allow: &str) -> Self {
        let (log, _flusher) = AccessLog::open(&Access::Off).unwrap();
        let telemetry = Arc::new(Telemetry::new(log));
        let mut snapshot = Snapshot::start(config(allow)).unwrap();
        let listener = Listener::new(&snapshot.config.listeners[0], None, &telemetry.metrics);
        snapshot.listeners.insert("main".into(), Arc::new(listener));
        Self {
            context: Arc::new(ServerContext::new(snapshot, telemetry)),
        }
    }

    /// Registers a connection that is accepted under the current snapshot.
    fn accepted(&self) -> (Arc<Snapshot>, Arc<Listener>, AccessRecord) {
        let snapshot = self.context.snapshot();
        let listener = Arc::clone(&snapshot.listeners["main"]);
        let metrics = Arc::clone(&listener.metrics);
        let source = "127.0.0.1:9".parse().unwrap();
        let registry = &self.context.registry;
        let guard = registry.register("main".into(), Arc::clone(&metrics), source, net::now());
        let telemetry = Arc::clone(&self.context.telemetry);
        let record = AccessRecord::open(telemetry, metrics, guard, net::now());
        (snapshot, listener, record)
    }

    /// The first half of a reload: installs another configuration.
    fn replace(&self, config: leastconn_config::Config) {
        let current = self.context.snapshot();
        let metrics = &self.context.telemetry.metrics;
        let mut next = current.succeed(config).unwrap();
        let listener = &current.listeners["main"];
        let listener = listener.succeed(&next.config.listeners[0], None, metrics);
        next.listeners.insert("main".into(), Arc::new(listener));
        self.context.snapshots.replace(next);
    }

    /// The second half of a reload: re-authorizes all open connections.
    fn reauthorize_all(&self) -> EndedCounts {
        let (registry, metrics) = (&self.context.registry, &self.context.telemetry.metrics);
        let revoked = RevokedNames::default();
        reauthorize::reauthorize_all(registry, &self.context.snapshot(), metrics, &revoked)
    }

    fn authorize(
        &self,
        (snapshot, listener, mut record): (Arc<Snapshot>, Arc<Listener>, AccessRecord),
    ) -> (AccessRecord, Result<(Arc<Snapshot>, Grant), Ended>) {
        let grant = authorize_newest(snapshot, listener, &self.context, &mut record);
        (record, grant.map(|(snapshot, _, grant)| (snapshot, grant)))
    }
}

/// A lease on the server with this port.
fn lease(scene: &Scene, port: u16) -> Lease {
    let snapshot = scene.context.snapshot();
    let pool = snapshot.upstreams["web"].pool();
    let only = pool.subset(|server: &Server| server.address().port() == Some(port));
    pool.pick(&only, &Tried::default(), net::now()).unwrap()
}

#[tokio::test]
async fn reload_before_admission_is_seen_by_the_connection() {
    let scene = Scene::new("\"web\"");
    let accepted = scene.accepted();
    scene.replace(config("[]"));
    // The connection is not admitted yet, so it has to detect the reload itself.
    assert!(scene.reauthorize_all().is_empty());
    let (_record, refused) = scene.authorize(accepted);
    assert_eq!(refused.unwrap_err().reason, ReasonCode::NotAllowed);
}

#[tokio::test]
async fn newest_rules_and_limits_apply() {
    let scene = Scene::new("\"web\"");
    let accepted = scene.accepted();
    scene.replace(config("\"web/127.0.0.1:2\""));
    let (_record, granted) = scene.authorize(accepted);
    let (snapshot, grant) = granted.unwrap();
    assert_eq!(snapshot.generation, 1);
    let limiters = scene.context.clients.limiters();
    let permit = limiters.admit(grant.identity(), grant.limits(), net::now());
    let permit = permit.unwrap();
    let (pool, selector) = grant.servers(&permit);
    assert_eq!(pool.candidates(selector).members().len(), 1);
}

#[tokio::test]
async fn reload_after_admission_ends_the_connection() {
    let scene = Scene::new("\"web\"");
    let (record, granted) = scene.authorize(scene.accepted());
    granted.unwrap();
    scene.replace(config("[]"));
    assert_eq!(
        scene.reauthorize_all(),
        [(ReasonCode::PolicyChanged, 1)].into()
    );
    assert!(record.connection().is_stopped());
    assert!(
        scene.reauthorize_all().is_empty(),
        "the connection was ended twice"
    );
}

#[tokio::test]
async fn reload_while_connecting_is_seen_after_connect() {
    for (port, expected) in [(1, Some(ReasonCode::PolicyChanged)), (2, None)] {
        let scene = Scene::new("\"web\"");
        let (mut record, granted) = scene.authorize(scene.accepted());
        granted.unwrap();
        let lease = lease(&scene, port);
        // The reload allows only the server at port 2. It does not end the connection, because the
        // connection has no server yet.
        scene.replace(config("\"web/127.0.0.1:2\""));
        assert!(scene.reauthorize_all().is_empty());
        record.connected(&lease, 1, Duration::ZERO);
        let metrics = &scene.context.telemetry.metrics;
        let snapshot = scene.context.snapshot();
        let now = Timestamp::now();
        assert_eq!(
            reauthorize(record.connection(), &snapshot, metrics, now),
            expected
        );
    }
}

#[tokio::test]
async fn connection_to_a_removed_server_continues() {
    let scene = Scene::new("\"web\"");
    let (mut record, granted) = scene.authorize(scene.accepted());
    granted.unwrap();
    record.connected(&lease(&scene, 1), 1, Duration::ZERO);
    let mut changed = scene.context.snapshot().config.clone();
    changed.upstreams[0].servers.remove(0);
    scene.replace(changed);
    assert!(scene.reauthorize_all().is_empty());
}

#[tokio::test]
async fn ended_connection_is_not_counted_by_reauthorization() {
    let scene = Scene::new("\"web\"");
    let (mut record, granted) = scene.authorize(scene.accepted());
    granted.unwrap();
    let metrics = &scene.context.telemetry.metrics;
    let client = record.connection().state().client().cloned().unwrap();
    assert_eq!(metrics.client(&client).unwrap().open(), 1);
    // The reload has listed the connection, which ends before the reload visits it.
    scene.replace(config("\"web\""));
    let (handle, snapshot) = (&scene.context.registry.list()[0], scene.context.snapshot());
    record.end(ReasonCode::Ok, None);
    let ended = reauthorize(handle, &snapshot, metrics, Timestamp::now());
    assert_eq!(ended, None);
    assert_eq!(metrics.client(&client).unwrap().open(), 0);
}

#[tokio::test]
async fn kill_finds_the_identity_of_the_last_authorization() {
    let scene = Scene::new("\"web\"");
    let (mut record, granted) = scene.authorize(scene.accepted());
    granted.unwrap();
    record.connected(&lease(&scene, 1), 1, Duration::ZERO);
    let line = "source_rate_limit = { rate = 1000, prefix_v4 = 24 }";
    scene.replace(config_with(line, "\"web\""));
    assert!(scene.reauthorize_all().is_empty());
    {
        let state = record.connection().state();
        let current = state.current_identity().unwrap();
        assert_eq!(current.as_str(), "source:127.0.0.0/24");
        // The limits still count it under the identity that was admitted.
        assert_eq!(
            state.identity.as_ref().unwrap().as_str(),
            "source:127.0.0.1"
        );
    }
    let kill = |identity: &str| {
        let filter = serde_json::json!({ "identity": identity });
        let filter = serde_json::from_value(filter).unwrap();
        scene.context.overrides.kill(&filter).unwrap()
    };
    assert_eq!(kill("source:127.0.0.1"), 0);
    assert_eq!(kill("source:127.0.0.0/24"), 1);
}
