use std::{fs::File, net::SocketAddr, process::Command, sync::Arc};

use leastconn_testkit::{Behaviour, DEADLINE, Upstream, upstream::OpenConnections, within};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::timeout,
};

use super::{
    dial::{Dialer, more_specific},
    *,
};
use crate::{
    Address, PanicPolicy, Server, ServerSpec,
    health::{Availability, PassivePolicy, Ratio},
};

mod cancelled;
mod queue;
mod retries;
mod step;

const POLICY: ConnectPolicy = ConnectPolicy {
    timeout: Duration::from_secs(5),
    retries: 2,
    retry_for: Duration::ZERO,
    keepalive: Some(Duration::from_secs(7)),
};

/// A pool in which all servers may be ejected, and which does not dial ejected servers.
fn pool(addresses: &[SocketAddr]) -> Pool {
    pool_with(addresses, PassivePolicy::default())
}

fn pool_with(addresses: &[SocketAddr], mut passive: PassivePolicy) -> Pool {
    passive.max_ejected = Ratio::ALL;
    servers(addresses, passive, PanicPolicy::Refuse)
}

fn servers(addresses: &[SocketAddr], passive: PassivePolicy, panic: PanicPolicy) -> Pool {
    let servers = addresses
        .iter()
        .enumerate()
        .map(|(number, &address)| ServerSpec::new(format!("web{number}"), address));
    Pool::builder("web")
        .servers(servers)
        .passive(passive)
        .panic(panic)
        .seed(1)
        .build()
        .unwrap()
}

fn server(pool: &Pool, number: usize) -> Arc<Server> {
    Arc::clone(&pool.members()[number].server)
}

async fn connect_all(pool: &Pool, policy: &ConnectPolicy) -> Result<Connected, ConnectError> {
    within(
        DEADLINE,
        "connecting",
        connect(pool, &Selector::all(), policy),
    )
    .await
}

/// An address that refuses connections. Its port stays reserved until the returned `Upstream` is
/// dropped.
async fn refusing() -> (SocketAddr, Upstream) {
    let upstream = Upstream::start(Behaviour::Echo).await;
    upstream.stop(OpenConnections::Close).await;
    (upstream.addr(), upstream)
}

/// An address at which connecting hangs, because the listener's backlog is full until the returned
/// sockets are dropped.
async fn black_hole() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
        assert!(queue.len() < 4096, "the backlog never fills up");
    }
    (address, (listener, queue))
}

#[tokio::test]
async fn refusing_server_is_skipped_for_next_least_loaded() {
    let (dead, _keep) = refusing().await;
    let (light, heavy) = (
        Upstream::start(Behaviour::Echo).await,
        Upstream::start(Behaviour::Echo).await,
    );
    let pool = pool(&[heavy.addr(), dead, light.addr()]);
    let one = |number: usize| {
        let member = &pool.members()[number].server;
        let only = pool.subset(|server| server.id() == member.id());
        pool.pick(&only, &Tried::default(), now()).unwrap()
    };
    let _load = [one(0), one(0), one(2)];

    let connected = connect_all(&pool, &POLICY).await.unwrap();
    assert_eq!(connected.lease.server().id().as_str(), "web2");
    assert_eq!(connected.attempts, 2);
    assert_eq!(connected.stream.peer_addr().unwrap(), light.addr());
    assert_eq!(server(&pool, 1).in_flight(), 0);
    assert_eq!(server(&pool, 1).status().connect_failures, 1);
    assert!(!server(&pool, 1).status().is_up());
    assert_eq!(server(&pool, 2).in_flight(), 2);
    drop(connected);
    assert_eq!(server(&pool, 2).in_flight(), 1);
}

#[tokio::test]
async fn each_server_is_tried_once_within_retries() {
    let mut dead = Vec::new();
    for _ in 0..4 {
        dead.push(refusing().await);
    }
    let addresses: Vec<_> = dead.iter().map(|(address, _)| *address).collect();
    for (servers, retries, attempts) in [(4, 2, 3), (4, 0, 1), (2, 9, 2)] {
        let pool = pool(&addresses[..servers]);
        let policy = ConnectPolicy { retries, ..POLICY };
        let error = connect_all(&pool, &policy).await.unwrap_err();
        assert_eq!(error.attempts(), attempts);
        assert_eq!(error.reason(), Reason::ConnectFailed);
        let ConnectError::Failed { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
        let tried = |member: &&crate::Member| member.server.status().connect_failures == 1;
        assert_eq!(
            pool.members().iter().filter(tried).count(),
            attempts as usize
        );
        assert!(pool.members().iter().all(|m| m.server.in_flight() == 0));
    }
}

#[tokio::test]
async fn ejected_servers_are_not_dialled_when_refusing() {
    let (dead, _keep) = refusing().await;
    let pool = pool(&[dead]);
    connect_all(&pool, &POLICY).await.unwrap_err();
    let error = connect_all(&pool, &POLICY).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoServerAvailable), "{error}");
    assert_eq!(error.attempts(), 0);
    assert_eq!(server(&pool, 0).status().connect_failures, 1);
}

#[tokio::test]
async fn ejected_server_recovers_by_trial() {
    let passive = PassivePolicy {
        fail_timeout: Duration::from_millis(100),
        ..PassivePolicy::default()
    };
    let (address, upstream) = refusing().await;
    let pool = pool_with(&[address], passive);
    connect_all(&pool, &POLICY).await.unwrap_err();
    upstream.restart().await;
    let connected = async {
        loop {
            match connect(&pool, &Selector::all(), &POLICY).await {
                Ok(connected) => return connected,
                Err(ConnectError::NoServerAvailable) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let connected = within(DEADLINE, "the trial", connected).await;
    assert_eq!(connected.attempts, 1);
    assert!(server(&pool, 0).status().is_up());
}

#[tokio::test]
async fn dialling_connections_are_counted_until_cancelled() {
    let (address, _keep) = black_hole().await;
    let pool = pool(&[address]);
    let all = Selector::all();
    let mut dialling = Box::pin(connect(&pool, &all, &POLICY));
    let early = timeout(Duration::from_millis(50), &mut dialling).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(server(&pool, 0).in_flight(), 1);
    drop(dialling);
    assert_eq!(server(&pool, 0).in_flight(), 0);
    // A cancelled attempt does not change the health of the server.
    assert!(server(&pool, 0).status().is_up());
}

#[tokio::test]
async fn silent_server_times_out_and_next_is_tried() {
    let (silent, _keep) = black_hole().await;
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool(&[silent, upstream.addr()]);
    let _load = {
        let only = pool.subset(|server| server.id().as_str() == "web1");
        pool.pick(&only, &Tried::default(), now()).unwrap()
    };
    let policy = ConnectPolicy {
        timeout: Duration::from_millis(200),
        ..POLICY
    };
    let start = now();
    let connected = connect_all(&pool, &policy).await.unwrap();
    assert!(now() - start >= policy.timeout);
    assert_eq!(connected.attempts, 2);
    assert!(!server(&pool, 0).status().is_up());
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let (silent, _keep) = black_hole().await;
    let v6 = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), upstream.addr().port());
    for first in [v6, silent] {
        let deadline = now() + Duration::from_secs(1);
        let pool = pool(&[first]);
        let server = server(&pool, 0);
        let dialling = Dialer {
            server: &server,
            keepalive: None,
            step: &Plain,
        };
        let stream = dialling
            .any(&[first, upstream.addr()], deadline)
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), upstream.addr());
    }
}

#[tokio::test]
async fn names_are_resolved_when_connecting() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let name: Address = format!("localhost:{}", upstream.addr().port())
        .parse()
        .unwrap();
    let unknown: Address = "no-such-name.invalid:80".parse().unwrap();
    let of = |address| {
        let server = ServerSpec::new("web1", address);
        Pool::builder("web")
            .servers([server])
            .seed(1)
            .build()
            .unwrap()
    };
    connect_all(&of(name), &POLICY).await.unwrap();
    let error = connect_all(&of(unknown), &POLICY).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectFailed);
}

#[test]
fn local_error_does_not_hide_server_error() {
    let error = io::Error::from_raw_os_error;
    let (refused, local) = (libc::ECONNREFUSED, libc::EADDRNOTAVAIL);
    for (earlier, later, reported) in [
        (Some(refused), local, refused),
        (Some(local), refused, refused),
        (None, local, local),
        (Some(refused), libc::ETIMEDOUT, libc::ETIMEDOUT),
    ] {
        let more = more_specific(earlier.map(error), error(later));
        assert_eq!(more.raw_os_error(), Some(reported));
    }
}

/// The test runs itself again in a child process with a low limit on file descriptors.
#[test]
fn descriptor_exhaustion_ejects_no_server() {
    const INNER: &str = "LEASTCONN_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(INNER).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("net::connect::tests::descriptor_exhaustion_ejects_no_server")
            .env(INNER, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let upstream = Upstream::start(Behaviour::Echo).await;
        let addresses = [upstream.addr(), upstream.addr()];
        let pool = pool(&addresses);
        let mut all = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            all.push(file);
        }
        let error = connect_all(&pool, &POLICY).await.unwrap_err();
        assert!(matches!(error, ConnectError::Exhausted { .. }), "{error:?}");
        assert_eq!((error.attempts(), error.reason()), (1, Reason::Overloaded));
        for member in pool.members().iter() {
            let status = member.server.status();
            assert_eq!(status.availability, Availability::Up);
            assert_eq!((status.connect_failures, status.in_flight), (0, 0));
        }
        drop(all);
        connect_all(&pool, &POLICY).await.unwrap();
    });
}

#[tokio::test]
async fn keepalive_is_set_on_server_connections() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool(&[upstream.addr()]);
    for (keepalive, time) in [(POLICY.keepalive, Some(7)), (None, None)] {
        let policy = ConnectPolicy {
            keepalive,
            ..POLICY
        };
        let connected = connect_all(&pool, &policy).await.unwrap();
        let socket = socket2::SockRef::from(&connected.stream);
        assert_eq!(socket.keepalive().unwrap(), time.is_some());
        if let Some(time) = time {
            assert_eq!(
                socket.tcp_keepalive_time().unwrap(),
                Duration::from_secs(time)
            );
        }
    }
}

#[tokio::test]
async fn longest_timeouts_do_not_overflow() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let (dead, _keep) = refusing().await;
    let policy = ConnectPolicy {
        timeout: Duration::MAX,
        ..POLICY
    };
    let pool = pool(&[dead, upstream.addr()]);
    connect_all(&pool, &policy).await.unwrap();
}
