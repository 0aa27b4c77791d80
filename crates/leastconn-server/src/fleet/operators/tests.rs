//! Commands between members that share a store in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use leastconn_fleet::{FleetSettings, MemberId, MemoryServer, Secret};

use super::*;
use crate::fleet::{SharedMembership, exchange, shared::Shared, state::Machine};

/// Records what is applied. Each kill closes two connections.
#[derive(Debug, Default)]
struct Target {
    states: Mutex<Vec<String>>,
    kills: AtomicU64,
}

impl OperatorTarget for Target {
    fn apply(&self, state: &OperatorState) {
        let states = state.states.iter();
        *self.states.lock() = states
            .map(|one| format!("{}/{} {}", one.upstream, one.server, one.state))
            .collect();
    }

    fn kill(&self, filter: &str) -> Result<u64, String> {
        if filter == "unknown" {
            return Err("not understood".to_owned());
        }
        self.kills.fetch_add(1, Ordering::Relaxed);
        Ok(2)
    }
}

struct Member {
    operators: Arc<Operators>,
    target: Arc<Target>,
    stop: oneshot::Sender<()>,
}

fn store() -> MemoryServer {
    let server = MemoryServer::new();
    let clock = server.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            clock.advance(Duration::from_millis(1));
        }
    });
    server
}

fn join(server: &MemoryServer, name: &str) -> Member {
    let settings = FleetSettings::new("edge", Secret::new("a secret of the test"));
    let mut store = server.connect(&settings);
    let now = net::now();
    let wake = Arc::<Wake>::default();
    let target = Arc::<Target>::default();
    let operators = Operators::new(
        Arc::clone(&wake),
        Arc::clone(&target) as Arc<dyn OperatorTarget>,
    );
    let operators = Arc::new(operators);
    let shared = Arc::new(Shared::new(
        MemberId::new(name, net::random()),
        Machine::new(NonZeroU32::MIN, Duration::from_secs(3), now),
        Arc::new(SharedMembership::new(now)),
        wake,
        vec![Arc::clone(&operators) as Arc<dyn Participant>],
    ));
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move { exchange::run(&mut store, &shared, stopped).await });
    Member {
        operators,
        target,
        stop,
    }
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn drain() -> Command {
    Command::State {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        state: "drain".to_owned(),
        grace: Duration::ZERO,
    }
}

#[tokio::test(start_paused = true)]
async fn state_reaches_all_members_and_later_ones() {
    let server = store();
    let (one, two) = (join(&server, "lb1"), join(&server, "lb2"));
    pass(150).await;
    Arc::clone(&one.operators).send(drain()).await.unwrap();
    assert_eq!(*one.target.states.lock(), ["web/web1 drain"]);
    pass(150).await;
    assert_eq!(*two.target.states.lock(), ["web/web1 drain"]);
    let three = join(&server, "lb3");
    pass(50).await;
    assert_eq!(*three.target.states.lock(), ["web/web1 drain"]);
}

#[tokio::test(start_paused = true)]
async fn kill_waits_for_acknowledgements_and_names_missing_members() {
    let server = store();
    let (one, two) = (join(&server, "lb1"), join(&server, "lb2"));
    pass(150).await;
    let kill = |filter: &str| Arc::clone(&one.operators).kill(filter.to_owned());
    let report = kill("{}").await.unwrap();
    assert_eq!(report.killed, [("lb2".to_owned(), 2)]);
    assert!(report.missing.is_empty());
    // The member that sends a kill closes its own connections itself.
    assert_eq!(one.target.kills.load(Ordering::Relaxed), 0);
    assert_eq!(two.target.kills.load(Ordering::Relaxed), 1);

    let report = kill("unknown").await.unwrap();
    assert_eq!(report.missing, ["lb2"]);
    assert!(report.killed.is_empty());

    let _ = two.stop.send(());
    pass(150).await;
    let report = kill("{}").await.unwrap();
    assert_eq!(report, KillReport::default());
}

/// The store cannot be reached when the command is sent.
#[tokio::test(start_paused = true)]
async fn failed_command_has_no_later_effect() {
    let server = store();
    let (one, two) = (join(&server, "lb1"), join(&server, "lb2"));
    pass(150).await;
    server.set_reachable(false);
    let start = net::now();
    let sent = Arc::clone(&one.operators).send(drain()).await;
    assert!(sent.is_err());
    assert!(start.elapsed() < Duration::from_millis(1_100));
    server.set_reachable(true);
    pass(3_000).await;
    assert!(two.target.states.lock().is_empty());
    let killed = Arc::clone(&one.operators).kill("{}".to_owned()).await;
    assert_eq!(killed.unwrap().killed, [("lb2".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn timeout_says_that_the_fleet_may_have_acted() {
    let server = store();
    let one = join(&server, "lb1");
    pass(150).await;
    server.set_stalled(true);
    let error = Arc::clone(&one.operators).send(drain()).await.unwrap_err();
    assert!(error.0.contains("may have carried it out"), "{error}");
}

#[test]
fn warnings_about_signatures_are_rare() {
    let (mut inner, start) = (Inner::default(), net::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    inner.warn_of_invalid_signatures(0, at(0));
    assert_eq!(inner.warned, None);
    inner.warn_of_invalid_signatures(1, at(1));
    for second in 2..60 {
        inner.warn_of_invalid_signatures(2, at(second));
        assert_eq!(inner.warned, Some(at(1)));
    }
    assert_eq!(inner.invalid_signatures, 116);
    inner.warn_of_invalid_signatures(0, at(61));
    assert_eq!((inner.warned, inner.invalid_signatures), (Some(at(61)), 0));
}
