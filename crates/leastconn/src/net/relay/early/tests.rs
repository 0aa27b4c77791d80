use std::{net::SocketAddr, num::NonZeroU32};

use leastconn_testkit::{DEADLINE, tcp_pair, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::sleep,
};

use super::*;
use crate::{
    Pool, Reason, ServerSpec, Tried,
    health::{ActivePolicy, Availability, PassivePolicy},
    net::{RelayOutcome, RelayPolicy, Traffic, relay_leased},
};

/// A client, a server and the relay between them.
struct Rig {
    client: TcpStream,
    server: TcpStream,
    relaying: JoinHandle<RelayOutcome>,
}

impl Rig {
    async fn new(pool: &Pool) -> Self {
        let lease = pool.pick(&pool.all(), &Tried::default(), now()).unwrap();
        let (client, mut downstream) = tcp_pair().await;
        let (mut upstream, server) = tcp_pair().await;
        let relaying = tokio::spawn(async move {
            let (policy, traffic) = (RelayPolicy::default(), Traffic::default());
            relay_leased(&mut downstream, &mut upstream, &lease, &policy, &traffic).await
        });
        Self {
            client,
            server,
            relaying,
        }
    }

    /// Closes both sides and returns the reason.
    async fn reason(self) -> Reason {
        let Self {
            client,
            server,
            relaying,
        } = self;
        drop((client, server));
        reason(relaying).await
    }
}

async fn reason(relaying: JoinHandle<RelayOutcome>) -> Reason {
    let outcome = within(DEADLINE, "the relay's end", relaying).await;
    outcome.unwrap().reason
}

/// Closes or resets a connection.
fn end(mut stream: TcpStream, resets: bool) {
    if resets {
        stream.abort();
    }
}

/// A pool of one server.
fn pool() -> Pool {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let pool = Pool::builder("pool").server(ServerSpec::new("a", address));
    pool.build().unwrap()
}

fn early_failures(pool: &Pool) -> u64 {
    pool.server("a").unwrap().status().early_failures
}

async fn read_end(stream: &mut TcpStream) {
    let _ = within(DEADLINE, "the end", stream.read(&mut [0])).await;
}

#[tokio::test]
async fn end_without_data_is_an_early_failure() {
    for resets in [false, true] {
        let pool = pool();
        let Rig {
            mut client,
            mut server,
            relaying,
        } = Rig::new(&pool).await;
        // The result is the same whether or not the client has sent data.
        client.write_all(b"question").await.unwrap();
        server.read_exact(&mut [0; 8]).await.unwrap();
        end(server, resets);
        // The failure counts even while the client keeps the connection open.
        read_end(&mut client).await;
        assert_eq!(early_failures(&pool), 1, "{resets}");
        drop(client);
        reason(relaying).await;
        assert_eq!(early_failures(&pool), 1, "{resets}");
    }
}

#[tokio::test]
async fn client_ending_first_is_no_early_failure() {
    for resets in [false, true] {
        let pool = pool();
        let Rig {
            client,
            mut server,
            relaying,
        } = Rig::new(&pool).await;
        end(client, resets);
        read_end(&mut server).await;
        drop(server);
        reason(relaying).await;
        assert_eq!(early_failures(&pool), 0, "{resets}");
    }
}

#[tokio::test]
async fn server_that_sent_a_byte_has_not_failed() {
    let pool = pool();
    let mut rig = Rig::new(&pool).await;
    rig.server.write_all(b"x").await.unwrap();
    rig.server.shutdown().await.unwrap();
    read_end(&mut rig.client).await;
    assert_eq!(rig.reason().await, Reason::Ok);
    assert_eq!(early_failures(&pool), 0);
}

#[tokio::test]
async fn end_after_a_second_is_no_early_failure() {
    let pool = pool();
    let mut rig = Rig::new(&pool).await;
    tokio::time::pause();
    sleep(EARLY).await;
    tokio::time::resume();
    rig.server.shutdown().await.unwrap();
    read_end(&mut rig.client).await;
    rig.reason().await;
    assert_eq!(early_failures(&pool), 0);
}

/// Two servers and an open connection to `a`. The other server, `b`, serves connections.
async fn pair_of_servers() -> (Pool, Rig) {
    let spec = |name: &str| ServerSpec::new(name, SocketAddr::from(([127, 0, 0, 1], 1)));
    let pool = Pool::builder("pool").servers([spec("a"), spec("b")]);
    let pool = pool.build().unwrap();
    let b = pool.server("b").unwrap();
    b.set_admin(crate::AdminState::Maint);
    let rig = Rig::new(&pool).await;
    b.set_admin(crate::AdminState::Ready);
    b.connect_succeeded();
    (pool, rig)
}

fn fail_early(server: &Server) {
    server.failed_early(now(), now(), Failure::new(SystemTime::now(), &ERROR));
}

#[tokio::test]
async fn end_of_older_silent_connection_keeps_early_failures() {
    for resets in [false, true] {
        let (pool, rig) = pair_of_servers().await;
        tokio::time::pause();
        sleep(2 * EARLY).await;
        tokio::time::resume();
        let a = pool.server("a").unwrap();
        for _ in 1..PassivePolicy::default().max_early {
            fail_early(&a);
        }
        let Rig {
            mut client,
            server,
            relaying,
        } = rig;
        end(server, resets);
        read_end(&mut client).await;
        drop(client);
        reason(relaying).await;
        assert!(a.status().is_up());
        fail_early(&a);
        assert!(!a.status().is_up(), "{resets}");
    }
}

/// Two servers, and a trial connection to `a`, which is ejected because of early failures.
async fn trial() -> (Pool, Rig) {
    let spec = |name: &str| ServerSpec::new(name, SocketAddr::from(([127, 0, 0, 1], 1)));
    let passive = PassivePolicy {
        fail_timeout: Duration::ZERO,
        ..PassivePolicy::default()
    };
    let one = NonZeroU32::MIN;
    let pool = Pool::builder("pool")
        .servers([spec("a"), spec("b")])
        .passive(passive)
        .active(ActivePolicy::new(one, one));
    let pool = pool.build().unwrap();
    let (a, b) = (pool.server("a").unwrap(), pool.server("b").unwrap());
    b.connect_succeeded();
    for _ in 0..passive.max_early {
        fail_early(&a);
    }
    assert!(!a.status().is_up());
    assert_eq!(a.outage().unwrap().reason.as_ref(), ERROR);
    a.probed(true);
    assert!(!a.status().is_up(), "a probe does not prove that it serves");
    // Only the ejected server can be picked, so the connection is its trial.
    b.set_admin(crate::AdminState::Maint);
    let rig = Rig::new(&pool).await;
    b.set_admin(crate::AdminState::Ready);
    assert!(!a.connect_succeeded());
    assert!(!a.status().is_up());
    (pool, rig)
}

#[tokio::test]
async fn byte_of_the_trial_ends_the_ejection() {
    let (pool, mut rig) = trial().await;
    rig.server.write_all(b"x").await.unwrap();
    read_end(&mut rig.client).await;
    assert!(pool.server("a").unwrap().status().is_up());
    rig.reason().await;
}

#[tokio::test]
async fn silent_second_of_the_trial_ends_the_ejection() {
    let (pool, rig) = trial().await;
    tokio::time::pause();
    sleep(EARLY + Duration::from_millis(50)).await;
    assert!(pool.server("a").unwrap().status().is_up());
    tokio::time::resume();
    rig.reason().await;
}

#[tokio::test]
async fn early_failure_of_the_trial_extends_the_ejection() {
    let (pool, mut rig) = trial().await;
    rig.server.shutdown().await.unwrap();
    read_end(&mut rig.client).await;
    rig.reason().await;
    let status = pool.server("a").unwrap().status();
    assert!(matches!(status.availability, Availability::Ejected(_)));
}
