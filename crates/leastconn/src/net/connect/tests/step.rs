//! Preparation steps: the attempt returns the step's stream, and fails if the step fails.

use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A step that sends a greeting. For the server named `with`, it fails or hangs instead.
struct Greeting {
    with: &'static str,
    instead: Instead,
}

enum Instead {
    Fail(fn() -> io::Error),
    Hang,
}

impl Prepare for Greeting {
    type Stream = Box<TcpStream>;

    async fn prepare(&self, mut stream: TcpStream, server: &Server) -> io::Result<Box<TcpStream>> {
        if server.id().as_str() == self.with {
            match self.instead {
                Instead::Fail(error) => return Err(error()),
                Instead::Hang => pending().await,
            }
        }
        stream.write_all(b"hello").await?;
        Ok(Box::new(stream))
    }
}

fn unfriendly() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "greeting refused")
}

fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// Two echo servers. The returned lease counts on `web1`, so that `web0` is picked first.
async fn two() -> (Pool, [Upstream; 2], Lease) {
    let upstreams = [
        Upstream::start(Behaviour::Echo).await,
        Upstream::start(Behaviour::Echo).await,
    ];
    let pool = pool(&[upstreams[0].addr(), upstreams[1].addr()]);
    let only = pool.subset(|server| server.id().as_str() == "web1");
    let load = pool.pick(&only, &Tried::default(), now()).unwrap();
    (pool, upstreams, load)
}

#[tokio::test]
async fn step_output_is_returned_and_failure_tries_next() {
    let (pool, upstreams, _load) = two().await;
    let step = Greeting {
        with: "web0",
        instead: Instead::Fail(unfriendly),
    };
    let all = Selector::all();
    let connecting = Connect::new(&pool, &all, &POLICY).prepare(&step).run();
    let mut connected = within(DEADLINE, "connecting", connecting).await.unwrap();
    assert_eq!(connected.lease.server().id().as_str(), "web1");
    assert_eq!(connected.attempts, 2);
    let mut greeting = [0; 5];
    let reading = connected.stream.read_exact(&mut greeting);
    within(DEADLINE, "the echo", reading).await.unwrap();
    assert_eq!(&greeting, b"hello");

    let failed = server(&pool, 0).status();
    assert_eq!((failed.connect_failures, failed.in_flight), (1, 0));
    assert!(!failed.is_up());
    upstreams[0].wait_open(0).await;
}

#[tokio::test]
async fn hanging_step_times_out_and_next_is_tried() {
    let (pool, upstreams, _load) = two().await;
    let step = Greeting {
        with: "web0",
        instead: Instead::Hang,
    };
    let policy = ConnectPolicy {
        timeout: Duration::from_millis(200),
        ..POLICY
    };
    let start = now();
    let all = Selector::all();
    let connecting = Connect::new(&pool, &all, &policy).prepare(&step).run();
    let connected = within(DEADLINE, "connecting", connecting).await.unwrap();
    assert!(now() - start >= policy.timeout);
    assert_eq!(connected.attempts, 2);
    assert!(!server(&pool, 0).status().is_up());
    upstreams[0].wait_open(0).await;
}

#[tokio::test]
async fn failed_step_is_reported_and_local_exhaustion_ignored() {
    let (pool, _upstreams, _load) = two().await;
    let only = Selector::named(["web0"]);
    let mut step = Greeting {
        with: "web0",
        instead: Instead::Fail(out_of_descriptors),
    };
    let error = Connect::new(&pool, &Selector::all(), &POLICY)
        .prepare(&step)
        .run()
        .await;
    let error = error.map(|connected| connected.attempts).unwrap_err();
    assert_eq!((error.attempts(), error.reason()), (1, Reason::Overloaded));
    assert!(server(&pool, 0).status().is_up());

    step.instead = Instead::Fail(unfriendly);
    let error = Connect::new(&pool, &only, &POLICY)
        .prepare(&step)
        .run()
        .await;
    let error = error.map(|connected| connected.attempts).unwrap_err();
    assert_eq!(error.reason(), Reason::ConnectFailed);
    assert!(error.to_string().contains("greeting refused"), "{error}");
}
