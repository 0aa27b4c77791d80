//! The whole path of a connection in one call: admit the client, pick a server, connect and relay.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    Balance, ClientId, Discover, Limiter, Limits, PanicPolicy, Pool, PoolBuilder, PoolError,
    QueuePolicy, Reason, Refusal, Selector, ServerId, ServerSpec, Source, follow,
    health::{ActivePolicy, PassivePolicy},
    net::{
        self, Check, Checker, Connect, ConnectError, ConnectPolicy, Departed, RelayPolicy, Stream,
        Traffic,
    },
};

/// A load balancer for connections that the program accepts itself.
///
/// Requires a Tokio runtime. To use a balancer in several tasks, share it in an `Arc`.
///
/// ```
/// use leastconn::{Balancer, ClientId, Selector, ServerSpec};
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
/// let transfer = balancer.balance(connection, &client, &Selector::all()).await?;
/// println!("{} bytes sent by {}: {}", transfer.sent, transfer.server, transfer.reason);
/// # assert_eq!(reader.await?, "hello");
/// # assert_eq!((transfer.sent, transfer.reason), (5, leastconn::Reason::Ok));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Balancer {
    pool: Arc<Pool>,
    limiter: Limiter,
    limits: Limits,
    connect: ConnectPolicy,
    relay: RelayPolicy,
    started: Instant,
    /// Time of the last removal of idle clients, in seconds since `started`.
    swept: AtomicU64,
    _checker: Option<Checker>,
    /// The task that updates the members. It is aborted when the balancer is dropped.
    _discovery: JoinSet<()>,
}

/// Minimum time between two removals of idle clients, in seconds.
const SWEEP_INTERVAL: u64 = 60;

/// A connection that was relayed to a server and has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// The server that the connection was relayed to.
    pub server: ServerId,
    /// Number of connection attempts, including the successful one.
    pub attempts: u32,
    /// Number of bytes relayed from the client to the server.
    pub received: u64,
    /// Number of bytes relayed from the server to the client.
    pub sent: u64,
    /// The reason code, which tells how the connection ended.
    pub reason: Reason,
}

/// Why a connection was not relayed to a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BalanceError {
    /// The client is over a limit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No server accepted the connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client left before a server was connected.
    #[error(transparent)]
    Departed(#[from] Departed),
}

impl BalanceError {
    /// Returns the reason code of the error.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Connect(error) => error.reason(),
            Self::Departed(departed) => departed.reason(),
        }
    }
}

/// [`Balancer::select`] was called with a name that no member has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no server named `{0}`")]
pub struct UnknownServer(pub String);

impl Balancer {
    /// Starts building a balancer for the servers of the upstream named `upstream`.
    pub fn builder(upstream: &str) -> BalancerBuilder {
        BalancerBuilder {
            pool: Pool::builder(upstream).seed(net::random()),
            limits: Limits::default(),
            connect: ConnectPolicy::default(),
            relay: RelayPolicy::default(),
            check: None,
            max_clients: 1 << 20,
        }
    }

    /// Returns a selector for the servers with these names, for a client that may use only those
    /// servers. Create the selector once per client, not for each connection. To select all
    /// servers, use [`Selector::all`].
    ///
    /// # Errors
    /// If a name in `names` is not the name of a current member. To allow servers that may join
    /// later, use [`Selector::named`].
    pub fn select<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Selector, UnknownServer> {
        let names: Vec<_> = names.into_iter().collect();
        if let Some(unknown) = names.iter().find(|name| self.pool.server(name).is_none()) {
            return Err(UnknownServer((*unknown).to_owned()));
        }
        Ok(Selector::named(names))
    }

    /// Returns the pool of servers and their states. Replace its members with [`Pool::update`].
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Admits a connection from `client`, connects to a server that the pool picks from the
    /// `allowed` servers, and relays until the connection ends. If connecting fails, the next
    /// server is tried. [`Transfer::reason`] is the reason why the connection ended.
    ///
    /// The client's identity also serves as the source for [`Balance::SourceHash`].
    ///
    /// # Errors
    /// If the client is over a limit, if no server accepted the connection, or if the client left
    /// before a server accepted it. In each case, the client's connection is closed.
    ///
    /// # Cancel safety
    /// Dropping the future aborts both connections as described for [`net::relay()`]. The
    /// connection then no longer counts against the client's limits or on the server.
    pub async fn balance(
        &self,
        mut connection: impl Stream,
        client: &ClientId,
        allowed: &Selector,
    ) -> Result<Transfer, BalanceError> {
        let now = net::now();
        self.forget_idle_clients(now);
        let _permit = self.limiter.admit(client, &self.limits, now)?;
        let connecting = Connect::new(&self.pool, allowed, &self.connect)
            .source(Source::of(client.as_str().as_bytes()))
            .client(client)
            .run();
        let mut connected = tokio::select! {
            biased;
            connected = connecting => connected?,
            departed = net::departed(&mut connection) => return Err(departed.into()),
        };
        let traffic = Traffic::default();
        let outcome = net::relay_leased(
            &mut connection,
            &mut connected.stream,
            &connected.lease,
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

    /// Removes idle clients, but at most once per [`SWEEP_INTERVAL`]. No timer is needed, because
    /// the table grows only when a new connection is admitted.
    fn forget_idle_clients(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        let swept = self.swept.load(Ordering::Relaxed);
        if seconds >= swept + SWEEP_INTERVAL
            && self
                .swept
                .compare_exchange(swept, seconds, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.limiter.forget_idle(now);
        }
    }
}

/// Builds a [`Balancer`]; see [`Balancer::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BalancerBuilder {
    pool: PoolBuilder<'static>,
    limits: Limits,
    connect: ConnectPolicy,
    relay: RelayPolicy,
    check: Option<Check>,
    max_clients: usize,
}

impl BalancerBuilder {
    /// Adds a server to the initial members of the pool.
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.pool = self.pool.server(server);
        self
    }

    /// Sets the limits for each client. By default, there are no limits.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the timeouts and retries for connecting to servers. The default is
    /// [`ConnectPolicy::default`].
    pub const fn connect(mut self, policy: ConnectPolicy) -> Self {
        self.connect = policy;
        self
    }

    /// Sets the timeouts for relayed connections. The default is [`RelayPolicy::default`].
    pub const fn relay(mut self, policy: RelayPolicy) -> Self {
        self.relay = policy;
        self
    }

    /// Enables health checks. By default, servers are not probed.
    pub fn health_check(mut self, check: Check, policy: ActivePolicy) -> Self {
        self.check = Some(check);
        self.pool = self.pool.active(policy);
        self
    }

    /// Sets which failures eject a server. The default is [`PassivePolicy::default`].
    pub fn passive(mut self, policy: PassivePolicy) -> Self {
        self.pool = self.pool.passive(policy);
        self
    }

    /// Sets the balancing algorithm. The default is [`Balance::LeastConn`].
    pub fn balance(mut self, balance: Balance) -> Self {
        self.pool = self.pool.balance(balance);
        self
    }

    /// Sets what happens to connections while no server is available. The default is
    /// [`PanicPolicy::Dial`].
    pub fn panic(mut self, policy: PanicPolicy) -> Self {
        self.pool = self.pool.panic(policy);
        self
    }

    /// Sets how long a new or recovered server takes to reach its whole share; see
    /// [`PoolBuilder::slow_start`]. The default is zero.
    pub fn slow_start(mut self, duration: Duration) -> Self {
        self.pool = self.pool.slow_start(duration);
        self
    }

    /// Lets connections wait while all servers that they may use are at
    /// [`max_conns`](ServerSpec::max_conns). The waiting connections of different clients are
    /// served in turn. By default, connections do not wait.
    pub fn queue(mut self, policy: QueuePolicy) -> Self {
        self.pool = self.pool.queue(policy);
        self
    }

    /// Sets the maximum number of dials in progress to one server; see
    /// [`PoolBuilder::max_connecting`].
    pub fn max_connecting(mut self, max: Option<NonZeroU32>) -> Self {
        self.pool = self.pool.max_connecting(max);
        self
    }

    /// Sets the capacity of the client table, which holds the clients that have open connections or
    /// have recently used part of their rate limit. While the table is full, further clients are
    /// refused. The default is 1,048,576.
    pub const fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// Sets the seed for breaking ties and for random choices, so that tests are repeatable. The
    /// default is random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.pool = self.pool.seed(seed);
        self
    }

    /// Builds the balancer and starts its health checks.
    ///
    /// # Errors
    /// If there are no servers, or if two servers have the same name.
    ///
    /// # Panics
    /// If health checks are enabled and the method is called outside a Tokio runtime.
    pub fn build(self) -> Result<Balancer, PoolError> {
        let pool = Arc::new(self.pool.build()?);
        let checker = self.check.map(|check| Checker::start(&pool, check));
        let now = net::now();
        Ok(Balancer {
            limiter: Limiter::new(self.max_clients, now),
            started: now,
            swept: AtomicU64::new(0),
            limits: self.limits,
            connect: self.connect,
            relay: self.relay,
            _checker: checker,
            _discovery: JoinSet::new(),
            pool,
        })
    }

    /// Builds the balancer, starts its health checks, and takes its members from `discover` until
    /// the balancer is dropped. Servers that were [added](Self::server) are members until
    /// `discover` yields its first member list. It is not necessary to add any server.
    ///
    /// # Errors
    /// If two servers have the same name.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn build_with(mut self, discover: impl Discover + 'static) -> Result<Balancer, PoolError> {
        self.pool = self.pool.may_be_empty(true);
        let mut balancer = self.build()?;
        let pool = Arc::clone(&balancer.pool);
        balancer
            ._discovery
            .spawn(async move { follow(&pool, discover).await });
        Ok(balancer)
    }
}

#[cfg(test)]
mod tests;
