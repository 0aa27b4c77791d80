use std::{collections::HashMap, path::Path};

use jiff::Timestamp;
use leastconn::{Server, Tried};

use super::*;
use crate::{
    access_record::Books,
    client_chain::Named,
    config::{self, Access, Prefixes},
    handshake_scheduler::Turns,
    judge,
    limits::clients::Limiters,
    listener::Common,
    registry::Registry,
    running::Current,
    state::State,
    telemetry::access_log::AccessLog,
    telemetry::metrics::Metrics,
};

#[test]
fn a_connection_s_task_is_small() {
    fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }
    let size = size(serve);
    assert!(
        size <= 2560,
        "{size} bytes: box what relaying does not need"
    );
}

/// A configuration in which 127.0.0.1 may use what `allow` says, of two servers.
fn config(allow: &str) -> config::Config {
    let text = format!(
        r#"
        [[listener]]
        name = "main"
        bind = "127.0.0.1:0"
        upstream = "web"
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
    let loaded = config::load_text("test.toml", &text, Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

/// What a connection meets, and a reload.
struct Scene {
    running: Running,
    registry: Arc<Registry>,
    books: Books,
}

impl Scene {
    fn new(allow: &str) -> Self {
        let (log, _flusher) = AccessLog::open(&Access::Off).unwrap();
        let books = Books {
            metrics: Arc::new(Metrics::new()),
            log,
            refusals: Arc::default(),
        };
        let common = Common {
            metrics: Arc::clone(&books.metrics),
            turns: Arc::new(Turns::new(1, 1)),
            limiter: Arc::new(Limiters::new(net::now())),
            chains: Arc::default(),
        };
        let state = Arc::new(State::start(config(allow)).unwrap());
        let listener = Listener::new(
            &state.config.listeners[0],
            Arc::clone(&state),
            None,
            &common,
        );
        Self {
            running: Running::new(Current {
                state,
                listeners: HashMap::from([("main".into(), Arc::new(listener))]),
                retired: HashMap::new(),
            }),
            registry: Arc::default(),
            books,
        }
    }

    fn listener(&self) -> Arc<Listener> {
        self.running.listener("main").unwrap()
    }

    fn accepted(&self) -> Record {
        let metrics = Arc::clone(&self.listener().metrics);
        let source = "127.0.0.1:9".parse().unwrap();
        let live = self
            .registry
            .register("main".into(), Arc::clone(&metrics), source, net::now());
        let mut record = Record::open(self.books.clone(), metrics, live, net::now());
        record.identified(None, Prefixes::default());
        record
    }

    /// The first half of a reload: the newest configuration is another one.
    fn replace(&self, allow: &str) {
        let current = self.running.current();
        let state = Arc::new(current.state.succeed(config(allow)).unwrap());
        let earlier = &current.listeners["main"];
        let next = earlier.succeed(
            &state.config.listeners[0],
            Arc::clone(&state),
            None,
            &self.books.metrics,
        );
        self.running.replace(Current {
            state,
            listeners: HashMap::from([("main".into(), Arc::new(next))]),
            retired: HashMap::new(),
        });
    }

    /// The second half: all are judged again.
    fn judge(&self) -> judge::Ended {
        let current = self.running.current();
        let metrics = &self.books.metrics;
        judge::all(&self.registry, &current, metrics, &Named::default())
    }
}

/// A lease on the server with this port.
fn lease(scene: &Scene, port: u16) -> Lease {
    let current = scene.running.current();
    let pool = current.state.upstreams["web"].pool();
    let only = pool.subset(|server: &Server| server.address().port() == Some(port));
    pool.pick(&only, &Tried::default(), net::now()).unwrap()
}

#[tokio::test]
async fn a_reload_between_accept_and_admission_is_seen_by_the_connection() {
    let scene = Scene::new("\"web\"");
    let (mut record, came_with) = (scene.accepted(), scene.listener());
    scene.replace("[]");
    // Not admitted yet: it has to see for itself.
    assert!(scene.judge().is_empty());
    let refused = authorize(came_with, &scene.running, &mut record).unwrap_err();
    assert_eq!(refused.reason, Reason::NotAllowed);
}

#[tokio::test]
async fn it_is_admitted_by_the_newest_rules_and_with_their_limits() {
    let scene = Scene::new("\"web\"");
    let (mut record, came_with) = (scene.accepted(), scene.listener());
    scene.replace("\"web/127.0.0.1:2\"");
    let (listener, grant) = authorize(came_with, &scene.running, &mut record).unwrap();
    assert_eq!(listener.state.epoch, 1);
    let permit = listener
        .limiter
        .admit(grant.identity(), grant.limits(), net::now())
        .unwrap();
    assert_eq!(grant.servers(&permit).1.members().len(), 1);
}

#[tokio::test]
async fn a_reload_after_admission_finds_the_connection() {
    let scene = Scene::new("\"web\"");
    let (mut record, came_with) = (scene.accepted(), scene.listener());
    authorize(came_with, &scene.running, &mut record).unwrap();
    scene.replace("[]");
    assert_eq!(scene.judge(), [(Reason::PolicyChanged, 1)].into());
    assert!(record.live().has_ended());
    assert!(scene.judge().is_empty(), "it was ended twice");
}

#[tokio::test]
async fn a_reload_while_it_connects_is_seen_once_the_server_is_known() {
    for (port, fate) in [(1, Err(Reason::PolicyChanged)), (2, Ok(()))] {
        let scene = Scene::new("\"web\"");
        let (mut record, came_with) = (scene.accepted(), scene.listener());
        authorize(came_with, &scene.running, &mut record).unwrap();
        let lease = lease(&scene, port);
        // Only the second server is granted now, and which one it is nobody knows.
        scene.replace("\"web/127.0.0.1:2\"");
        assert!(scene.judge().is_empty());
        record.connected(Some(&lease), 1, Duration::ZERO);
        assert_eq!(record.judged_again(&scene.running), fate);
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_not_forbidden() {
    let scene = Scene::new("\"web\"");
    let (mut record, came_with) = (scene.accepted(), scene.listener());
    authorize(came_with, &scene.running, &mut record).unwrap();
    record.connected(Some(&lease(&scene, 1)), 1, Duration::ZERO);
    let current = scene.running.current();
    let mut changed = current.state.config.clone();
    changed.upstreams[0].servers.remove(0);
    let state = Arc::new(current.state.succeed(changed).unwrap());
    let earlier = &current.listeners["main"];
    let next = earlier.succeed(
        &state.config.listeners[0],
        Arc::clone(&state),
        None,
        &scene.books.metrics,
    );
    scene.running.replace(Current {
        state,
        listeners: HashMap::from([("main".into(), Arc::new(next))]),
        retired: HashMap::new(),
    });
    assert!(scene.judge().is_empty());
}

#[tokio::test]
async fn what_ends_while_all_are_judged_counts_no_longer() {
    let scene = Scene::new("\"web\"");
    let (mut record, came_with) = (scene.accepted(), scene.listener());
    authorize(came_with, &scene.running, &mut record).unwrap();
    let metrics = &scene.books.metrics;
    let client = record.live().known().client().cloned().unwrap();
    assert_eq!(metrics.client(&client).unwrap().open(), 1);
    // It is in a reload's hands, and ends before its turn comes.
    scene.replace("\"web\"");
    let (live, current) = (&scene.registry.list()[0], scene.running.current());
    record.end(Reason::Ok, None);
    assert_eq!(
        judge::again(live, &current, metrics, Timestamp::now()),
        None
    );
    assert_eq!(metrics.client(&client).unwrap().open(), 0);
}
