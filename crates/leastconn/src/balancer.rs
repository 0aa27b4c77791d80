//! All of it in one piece: limit, pick, connect, relay.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    Balance, Candidates, ClientId, Limiter, Limits, PanicPolicy, Pool, PoolError, Reason, Refusal,
    ServerId, ServerSpec, Source,
    health::{ActivePolicy, PassivePolicy},
    net::{
        self, Check, Checker, ConnectError, ConnectPolicy, Departed, RelayPolicy, Stream, Traffic,
    },
};

/// A load balancer for connections that a program has accepted itself.
///
/// It lives inside a Tokio runtime; share it between tasks with an `Arc`.
///
/// ```
/// use leastconn::{Balancer, ClientId, ServerSpec};
/// # use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = TcpListener::bind("127.0.0.1:0").await?;
/// # let address = server.local_addr()?.to_string();
/// # tokio::spawn(async move {
/// #     let (mut stream, _) = server.accept().await.unwrap();
/// #     stream.write_all(b"hello").await.unwrap();
/// # });
/// let balancer = Balancer::builder("web")
///     .server(ServerSpec::new("web1", address.parse::<leastconn::Address>()?))
///     .build()?;
///
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let mut client = TcpStream::connect(listener.local_addr()?).await?;
/// let (connection, peer) = listener.accept().await?;
/// # let reader = tokio::spawn(async move {
/// #     client.shutdown().await.unwrap();
/// #     let mut text = String::new();
/// #     client.read_to_string(&mut text).await.unwrap();
/// #     text
/// # });
/// let client = ClientId::from(peer.ip().to_string());
/// let transfer = balancer.balance(connection, &client, &balancer.all()).await?;
/// println!("{} bytes sent by {}: {}", transfer.sent, transfer.server, transfer.reason);
/// # assert_eq!(reader.await?, "hello");
/// # assert_eq!((transfer.sent, transfer.reason), (5, leastconn::Reason::Ok));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Balancer {
    pool: Pool,
    limiter: Limiter,
    limits: Limits,
    connect: ConnectPolicy,
    relay: RelayPolicy,
    started: Instant,
    /// When idle clients were last forgotten, in seconds since `started`.
    swept: AtomicU64,
    _checker: Option<Checker>,
}

/// How often idle clients are forgotten, in seconds.
const SWEEP: u64 = 60;

/// What one connection did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The server that it went to.
    pub server: ServerId,
    /// Attempts to connect, the last one included.
    pub attempts: u32,
    /// Bytes from the client to the server.
    pub received: u64,
    /// Bytes from the server to the client.
    pub sent: u64,
    /// How it ended.
    pub reason: Reason,
}

/// A connection was not carried to any server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BalanceError {
    /// The client is over a limit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No server took the connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client left before a server was connected.
    #[error(transparent)]
    Departed(#[from] Departed),
}

impl BalanceError {
    /// The stable code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Connect(error) => error.reason(),
            Self::Departed(departed) => departed.reason(),
        }
    }
}

/// A client was to be allowed a server that the pool does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no server named `{0}`")]
pub struct UnknownServer(pub String);

impl Balancer {
    /// Starts to describe a balancer; `upstream` names its group of servers.
    pub fn builder(upstream: &str) -> BalancerBuilder {
        BalancerBuilder {
            upstream: upstream.to_owned(),
            servers: Vec::new(),
            limits: Limits::default(),
            connect: ConnectPolicy::default(),
            relay: RelayPolicy::default(),
            check: None,
            passive: PassivePolicy::default(),
            balance: Balance::default(),
            panic: PanicPolicy::default(),
            slow_start: Duration::ZERO,
            capacity: 1 << 20,
            seed: net::random(),
        }
    }

    /// All servers, for a client that may use every one.
    pub fn all(&self) -> Candidates {
        self.pool.all()
    }

    /// Some servers, by name, for a client that may use those only. Make it
    /// once for a client, not for each connection.
    ///
    /// # Errors
    /// If a name is not that of a server.
    pub fn allow<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Candidates, UnknownServer> {
        let names: Vec<_> = names.into_iter().collect();
        if let Some(unknown) = names.iter().find(|name| self.pool.server(name).is_none()) {
            return Err(UnknownServer((*unknown).to_owned()));
        }
        Ok(self
            .pool
            .subset(|server| names.contains(&server.id().as_str())))
    }

    /// The servers and their states.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Admits `connection` for `client`, connects to the allowed server with
    /// the fewest connections (or the one that another [`Balance`] chooses), or the
    /// next one if that fails, and relays until both sides are done. How the relaying ended is in [`Transfer::reason`].
    ///
    /// # Errors
    /// If the client is over a limit, no server took the connection, or the client left
    /// before one did. The
    /// client's connection is closed then.
    ///
    /// # Cancel safety
    /// Dropping the future breaks both connections off, as [`net::relay()`] says,
    /// and gives back what was counted.
    pub async fn balance(
        &self,
        mut connection: impl Stream,
        client: &ClientId,
        allowed: &Candidates,
    ) -> Result<Transfer, BalanceError> {
        let now = net::now();
        self.forget_idle_clients(now);
        let _permit = self.limiter.admit(client, &self.limits, now)?;
        let allowed = match self.pool.balance() {
            Balance::SourceHash => {
                Cow::Owned(allowed.from_source(Source::of(client.as_str().as_bytes())))
            }
            _ => Cow::Borrowed(allowed),
        };
        let mut connected = tokio::select! {
            biased;
            connected = net::connect(&self.pool, &allowed, &self.connect) => connected?,
            departed = net::departed(&mut connection) => return Err(departed.into()),
        };
        let traffic = Traffic::default();
        let outcome = net::relay(
            &mut connection,
            &mut connected.stream,
            &self.relay,
            &traffic,
        )
        .await;
        Ok(Transfer {
            server: connected.lease.server().id().clone(),
            attempts: connected.attempts,
            received: traffic.received(),
            sent: traffic.sent(),
            reason: outcome.reason,
        })
    }

    /// Does so each minute in which connections come: without them, nothing grows.
    fn forget_idle_clients(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        let swept = self.swept.load(Ordering::Relaxed);
        if seconds >= swept + SWEEP
            && self
                .swept
                .compare_exchange(swept, seconds, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.limiter.forget_idle(now);
        }
    }
}

/// Describes a [`Balancer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BalancerBuilder {
    upstream: String,
    servers: Vec<ServerSpec>,
    limits: Limits,
    connect: ConnectPolicy,
    relay: RelayPolicy,
    check: Option<(Check, ActivePolicy)>,
    passive: PassivePolicy,
    balance: Balance,
    panic: PanicPolicy,
    slow_start: Duration,
    capacity: usize,
    seed: u64,
}

impl BalancerBuilder {
    /// Adds a server.
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.servers.push(server);
        self
    }

    /// Limits each client. The default: no limits.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How connecting is tried. The default: five seconds an attempt, two further servers,
    /// and all of that again for three seconds.
    pub const fn connect(mut self, policy: ConnectPolicy) -> Self {
        self.connect = policy;
        self
    }

    /// How connections are relayed: above all, how long they may be silent. The
    /// default: an hour, and a minute once one side has finished sending.
    pub const fn relay(mut self, policy: RelayPolicy) -> Self {
        self.relay = policy;
        self
    }

    /// Probes the servers. The default: only real connections tell.
    pub fn health_check(mut self, check: Check, policy: ActivePolicy) -> Self {
        self.check = Some((check, policy));
        self
    }

    /// What failed connects do. The default: one ejects for ten seconds, half of the
    /// servers at most.
    pub const fn passive(mut self, policy: PassivePolicy) -> Self {
        self.passive = policy;
        self
    }

    /// How a server is chosen. The default: least connections. A client is the source
    /// that [`Balance::SourceHash`] goes by.
    pub const fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// What is done while no server is available. The default: ejected and down ones are
    /// dialled.
    pub const fn panic(mut self, policy: PanicPolicy) -> Self {
        self.panic = policy;
        self
    }

    /// How long a server that came back takes to get its whole share: see
    /// [`Pool::with_slow_start`]. The default: no time.
    pub const fn slow_start(mut self, duration: Duration) -> Self {
        self.slow_start = duration;
        self
    }

    /// How many clients that are not idle are kept count of; a stranger is
    /// refused beyond. The default: 1,048,576.
    pub const fn max_clients(mut self, clients: usize) -> Self {
        self.capacity = clients;
        self
    }

    /// Decides ties between servers and what is drawn, for tests that repeat. The default: random.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds it, and starts its health checks.
    ///
    /// # Errors
    /// Without servers, or with two of the same name.
    ///
    /// # Panics
    /// With health checks, outside a Tokio runtime.
    pub fn build(self) -> Result<Balancer, PoolError> {
        let active = self.check.as_ref().map(|(_, policy)| *policy);
        let pool = Pool::new(
            self.upstream.as_str(),
            self.servers,
            active,
            self.passive,
            self.seed,
        )?
        .with_balance(self.balance)
        .with_panic(self.panic)
        .with_slow_start(self.slow_start);
        let checker = self.check.map(|(check, _)| Checker::start(&pool, check));
        let now = net::now();
        Ok(Balancer {
            limiter: Limiter::new(self.capacity, now),
            started: now,
            swept: AtomicU64::new(0),
            limits: self.limits,
            connect: self.connect,
            relay: self.relay,
            _checker: checker,
            pool,
        })
    }
}

#[cfg(test)]
mod tests;
