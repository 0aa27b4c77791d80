//! Opens a connection to a server: picks a server, dials it and, if that fails, retries with
//! another server.

mod dial;
mod full;
mod queue;
mod retry;

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tokio::net::TcpStream;

use super::{
    connect_fault::ConnectFault,
    now,
    prepare::{Plain, Prepare},
};
use crate::{
    Candidates, ClientId, Failure, Lease, PickRequest, Pool, Reason, Selector, ServerId, Source,
    Tried, pool::full::FullEffect,
};
use dial::dial;
pub(super) use dial::dial_for_check;
use queue::Queue;
use retry::Retry;

/// Timeouts and retries for connecting to servers.
///
/// ```
/// use std::time::Duration;
///
/// use leastconn::net::ConnectPolicy;
///
/// // Fail immediately if no server answers.
/// let mut policy = ConnectPolicy::default();
/// policy.retry_for = Duration::ZERO;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectPolicy {
    /// Time limit for one attempt, which consists of resolving the server's name, connecting, and
    /// [preparing](Connect::prepare) the connection.
    pub timeout: Duration,
    /// Maximum number of further servers that a round tries after its first server has failed.
    pub retries: u32,
    /// How long further rounds may start after the first round has failed. The delay between rounds
    /// starts at 100 ms and doubles up to one second. A round starts early if a server becomes
    /// available. If zero, there is only one round.
    pub retry_for: Duration,
    /// TCP keepalive: how long the connection may be idle before the kernel probes the server; see
    /// [`set_keepalive`](super::set_keepalive). `None`: no keepalive.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectPolicy {
    /// Each attempt may take 5 seconds, and each round has 2 retries. Further rounds may start for
    /// 3 seconds. Keepalive probes start after a minute.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retries: 2,
            retry_for: Duration::from_secs(3),
            keepalive: Some(Duration::from_secs(60)),
        }
    }
}

/// An open connection to a server.
#[derive(Debug)]
pub struct Connected<S = TcpStream> {
    /// The connection to the server, as returned by the step of [`Connect::prepare`].
    pub stream: S,
    /// Counts the connection on its server. Keep the lease as long as the connection is open.
    pub lease: Lease,
    /// Number of attempts, including the successful one.
    pub attempts: u32,
}

/// Counts connection attempts, and measures the time spent in the queue. Can be read during and
/// after [`Connect::run`].
#[derive(Debug, Default)]
pub struct Attempts {
    count: AtomicU32,
    /// Time spent in the queue, in nanoseconds.
    queued: AtomicU64,
    is_waiting: AtomicBool,
}

impl Attempts {
    /// Returns the number of attempts that were started.
    pub fn get(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns how long the connection has waited in the queue, or `None` if it has not waited.
    pub fn queued(&self) -> Option<Duration> {
        match self.queued.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Whether the connection is currently waiting in the queue.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn begin_waiting(&self) {
        self.is_waiting.store(true, Ordering::Relaxed);
    }

    fn end_waiting(&self, waited: Duration) {
        self.is_waiting.store(false, Ordering::Relaxed);
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.queued.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The error of [`Connect::run`]: no connection could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No selected server was available, so no attempt was made.
    #[error("none of the allowed servers is available")]
    NoServerAvailable,
    /// All selected servers that are available are at their maximum number of connections, and the
    /// pool has no queue. No attempt was made.
    #[error("{}", at_max_conns(*full, *selected))]
    AtMaxConns {
        /// Number of servers at their maximum.
        full: usize,
        /// Number of selected servers.
        selected: usize,
    },
    /// Every attempt failed. `server` and `source` describe the last attempt.
    #[error("{}: {source}", failed_attempts(*attempts, server))]
    Failed {
        /// Number of attempts.
        attempts: u32,
        /// The server of the last attempt.
        server: ServerId,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// All selected servers are at their maximum number of connections, and the queue is full.
    #[error("all allowed servers are at `max_conns`, and the queue is full")]
    QueueFull {
        /// Number of attempts.
        attempts: u32,
    },
    /// The connection has waited in the queue for the maximum time.
    #[error("all allowed servers were at `max_conns` until the queue timeout")]
    QueueTimeout {
        /// Number of attempts.
        attempts: u32,
    },
    /// This process is out of file descriptors or memory. The health of the servers does not
    /// change, and no other server is tried.
    #[error("the balancer cannot open another connection: {source}")]
    Exhausted {
        /// Number of attempts, including the one that failed for lack of resources.
        attempts: u32,
        /// The error of the system call.
        source: io::Error,
    },
}

impl ConnectError {
    /// Returns the reason code of the error.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoServerAvailable | Self::AtMaxConns { .. } => Reason::NoServerAvailable,
            Self::Failed { .. } => Reason::ConnectFailed,
            Self::QueueTimeout { .. } => Reason::QueueTimeout,
            Self::QueueFull { .. } | Self::Exhausted { .. } => Reason::Overloaded,
        }
    }

    /// Returns the number of attempts.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::NoServerAvailable | Self::AtMaxConns { .. } => 0,
            Self::Failed { attempts, .. }
            | Self::QueueFull { attempts }
            | Self::QueueTimeout { attempts }
            | Self::Exhausted { attempts, .. } => *attempts,
        }
    }

    /// Whether the connection failed because the servers are at `max_conns`.
    const fn is_full(&self) -> bool {
        match self {
            Self::AtMaxConns { .. } | Self::QueueFull { .. } | Self::QueueTimeout { .. } => true,
            Self::NoServerAvailable | Self::Failed { .. } | Self::Exhausted { .. } => false,
        }
    }

    /// Whether further rounds would be useless.
    const fn is_final(&self) -> bool {
        match self {
            Self::NoServerAvailable | Self::AtMaxConns { .. } | Self::Failed { .. } => false,
            Self::QueueFull { .. } | Self::QueueTimeout { .. } | Self::Exhausted { .. } => true,
        }
    }
}

fn at_max_conns(full: usize, selected: usize) -> String {
    if full < selected {
        let is = if full == 1 { "is" } else { "are" };
        let others_are = if selected - full == 1 {
            "the other is"
        } else {
            "the others are"
        };
        return format!(
            "{full} of {selected} allowed servers {is} at `max_conns`, {others_are} not available"
        );
    }
    match selected {
        1 => "the only allowed server is at `max_conns`".to_owned(),
        _ => format!("all {selected} allowed servers are at `max_conns`"),
    }
}

fn failed_attempts(attempts: u32, last: &ServerId) -> String {
    match attempts {
        1 => format!("connecting to `{last}` failed"),
        _ => format!("connecting failed {attempts} times, last to `{last}`"),
    }
}

/// Returns why none of the `candidates` can be picked.
fn none_available(candidates: &Candidates) -> ConnectError {
    let members = candidates.members();
    let available = members.iter().filter(|member| member.server.is_available());
    let (full, open): (Vec<_>, Vec<_>) = available.partition(|member| member.is_full(now()));
    if full.is_empty() || !open.is_empty() {
        return ConnectError::NoServerAvailable;
    }
    ConnectError::AtMaxConns {
        full: full.len(),
        selected: members.len(),
    }
}

/// Opens a connection to a selected server. Shortcut for [`Connect`] without options.
///
/// # Errors
/// The same as for [`Connect::run`].
///
/// # Cancel safety
/// The same as for [`Connect::run`].
pub async fn connect(
    pool: &Pool,
    selector: &Selector,
    policy: &ConnectPolicy,
) -> Result<Connected, ConnectError> {
    Connect::new(pool, selector, policy).run().await
}

/// Builder for a connection to one of a pool's servers. [`Connect::run`] opens the connection.
///
/// ```no_run
/// # async fn example(pool: leastconn::Pool, peer: std::net::SocketAddr) {
/// use leastconn::{
///     Selector,
///     net::{Attempts, Connect, ConnectPolicy},
/// };
///
/// let (policy, attempts) = (ConnectPolicy::default(), Attempts::default());
/// let connected = Connect::new(&pool, &Selector::all(), &policy)
///     .source(peer.ip())
///     .attempts(&attempts)
///     .run()
///     .await;
/// println!("{} attempts, successful: {}", attempts.get(), connected.is_ok());
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Connect<'a, P = Plain> {
    pool: &'a Pool,
    selector: &'a Selector,
    policy: &'a ConnectPolicy,
    step: &'a P,
    source: Option<Source>,
    client: Option<&'a ClientId>,
    attempts: Option<&'a Attempts>,
}

impl<'a> Connect<'a> {
    /// Creates a builder for a plain TCP connection to one of those servers of `pool` that
    /// `selector` selects.
    pub const fn new(pool: &'a Pool, selector: &'a Selector, policy: &'a ConnectPolicy) -> Self {
        Self {
            pool,
            selector,
            policy,
            step: &Plain,
            source: None,
            client: None,
            attempts: None,
        }
    }
}

impl<'a, P: Prepare> Connect<'a, P> {
    /// Sets the source of the connection, which [`Balance::SourceHash`](crate::Balance::SourceHash)
    /// uses.
    pub fn source(self, source: impl Into<Source>) -> Self {
        let source = Some(source.into());
        Self { source, ..self }
    }

    /// Sets the client. The pool's queue serves clients in turn. All connections for which no
    /// client is set count as one client's connections.
    pub const fn client(mut self, client: &'a ClientId) -> Self {
        self.client = Some(client);
        self
    }

    /// Counts the attempts in `attempts`. The counter remains readable after the future was
    /// dropped.
    pub const fn attempts(mut self, attempts: &'a Attempts) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Prepares each new connection with `step`, within the time limit of the attempt. If `step`
    /// fails, so does the attempt.
    pub fn prepare<Q: Prepare>(self, step: &'a Q) -> Connect<'a, Q> {
        let Self {
            pool,
            selector,
            policy,
            source,
            client,
            attempts,
            ..
        } = self;
        Connect {
            pool,
            selector,
            policy,
            step,
            source,
            client,
            attempts,
        }
    }

    /// Connects to the server that the pool picks. If the attempt fails, other servers are tried,
    /// each at most once. The round ends when a server accepts the connection, when
    /// [`ConnectPolicy::retries`] are used up, or when no server is left. If a round fails, the
    /// method waits and starts another round, for at most [`ConnectPolicy::retry_for`]. Restarting
    /// a server therefore delays connections but does not make them fail.
    ///
    /// If the first pick of a round finds only servers at `max_conns`, the connection waits in the
    /// pool's [queue](crate::PoolBuilder::queue). Over all rounds, it waits there for at most the
    /// queue timeout. This time does not count towards [`ConnectPolicy::retry_for`].
    ///
    /// The method fails without waiting if no server can become available: because all servers are
    /// in drain or maint, or because they are at `max_conns` and the pool has no queue. If the pool
    /// [may be empty](crate::PoolBuilder::may_be_empty), the method waits for selected servers that
    /// are not members yet. If all servers are set to drain or maint while it waits between rounds,
    /// it fails before the next round.
    ///
    /// A connection counts on its server before the server is dialled, so that concurrent
    /// connections do not all choose the same idle server. While the method waits between rounds,
    /// the connection does not count on any server. Each round uses the pool's current members.
    ///
    /// The outcome of each attempt is recorded in the server's health, unless the failure is local.
    /// If this process is out of file descriptors or memory, the method fails immediately. If no
    /// local address or port is left for connections to a server, the next server is tried.
    ///
    /// # Errors
    /// If no selected server is available, if all attempts have failed, if the queue is full or its
    /// timeout has expired, or if this process is out of file descriptors or memory.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection that was being opened, which then no longer counts
    /// on its server. The server's health does not change. A waiting connection leaves the queue.
    pub async fn run(self) -> Result<Connected<P::Stream>, ConnectError> {
        let (pool, policy) = (self.pool, self.policy);
        let own_attempts = Attempts::default();
        let attempts = self.attempts.unwrap_or(&own_attempts);
        let mut failure = None;
        let mut retry: Option<Retry> = None;
        loop {
            let candidates = pool.candidates(self.selector);
            match self.round(&candidates, attempts).await {
                Ok(connected) => return Ok(connected),
                Err(Some(error)) if error.is_final() => {
                    if error.is_full() {
                        full::report(pool, self.selector, FullEffect::Refused);
                    }
                    return Err(error);
                }
                Err(later) => failure = later.or(failure),
            }
            let is_hopeless = match retry {
                None => failure.is_none() && !pool.may_recover(self.selector, &candidates, now()),
                // It is worth waiting for a server at `max_conns`: other waiting connections may
                // occupy it only while they try to connect.
                Some(_) => pool.is_withdrawn(self.selector, &candidates),
            };
            if policy.retry_for.is_zero() || is_hopeless {
                break;
            }
            let retry = retry.get_or_insert_with(|| Retry::new(pool, policy.retry_for));
            if !retry.wait(&candidates).await {
                break;
            }
        }
        Err(failure.unwrap_or_else(|| {
            let error = none_available(&pool.candidates(self.selector));
            if error.is_full() {
                full::report(pool, self.selector, FullEffect::Refused);
            }
            error
        }))
    }

    const fn queue(&self, attempts: &'a Attempts) -> Queue<'a> {
        Queue {
            pool: self.pool,
            selector: self.selector,
            client: self.client,
            source: self.source,
            attempts,
        }
    }

    /// Tries the candidates, each at most once. Returns the error of the last attempt, or `None` as
    /// the error if no candidate was tried.
    async fn round(
        &self,
        candidates: &Candidates,
        attempts: &Attempts,
    ) -> Result<Connected<P::Stream>, Option<ConnectError>> {
        let Self { pool, policy, .. } = self;
        let mut tried = Tried::default();
        let mut last_failure = None;
        for _ in 0..=policy.retries {
            let mut began = now();
            let request = PickRequest::new(began).tried(&tried).source(self.source);
            let mut lease = pool.pick_for(candidates, &request);
            if lease.is_none() && tried.is_empty() {
                lease = self.queue(attempts).wait().await.map_err(Some)?;
                began = now();
            }
            let Some(mut lease) = lease else {
                break;
            };
            attempts.begin();
            let server = lease.server();
            let source = match dial(server, policy, self.step).await {
                Ok(stream) => {
                    server.connect_succeeded();
                    lease.connected();
                    return Ok(Connected {
                        stream,
                        lease,
                        attempts: attempts.get(),
                    });
                }
                Err(source) => source,
            };
            let attempts = attempts.get();
            let fault = ConnectFault::of(&source);
            if fault == ConnectFault::Exhausted {
                return Err(Some(ConnectError::Exhausted { attempts, source }));
            }
            let failure = Failure::new(SystemTime::now(), &source);
            if fault == ConnectFault::Server {
                server.connect_failed_with(began, now(), failure);
            }
            last_failure = Some(ConnectError::Failed {
                attempts,
                server: server.id().clone(),
                source,
            });
            tried.add(lease);
        }
        Err(last_failure)
    }
}

#[cfg(test)]
mod tests;
