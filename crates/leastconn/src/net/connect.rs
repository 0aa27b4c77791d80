//! Opening a connection to a server: pick, dial, and retry with the next one.

mod retry;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::{
    failure::{Fault, fault},
    keepalive::set_keepalive,
    now,
    prepare::{Plain, Prepare},
    stream::Stream,
    unix::connect_unix,
};
use crate::{
    Address, Candidates, Failure, Lease, PickRequest, Pool, Reason, Selector, Server, ServerId,
    Source, Tried,
};
use retry::Retry;

/// Timeouts and retries of connecting.
///
/// ```
/// use std::time::Duration;
///
/// use leastconn::net::ConnectPolicy;
///
/// // Fail at once when no server answers.
/// let mut policy = ConnectPolicy::default();
/// policy.retry_for = Duration::ZERO;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectPolicy {
    /// Time limit of one attempt: resolving the server's name, connecting, and
    /// [preparing](Connect::prepare) the connection.
    pub timeout: Duration,
    /// How many further servers are tried in a round when connecting fails.
    pub retries: u32,
    /// How long to retry after the first round failed. The delay between rounds starts at 100 ms
    /// and doubles up to a second; a round starts early if a server becomes available. Zero: one
    /// round only.
    pub retry_for: Duration,
    /// TCP keepalive: silence after which the kernel probes the server; see
    /// [`set_keepalive`]. `None`: no keepalive.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectPolicy {
    /// 5 seconds for an attempt, 2 retries, 3 seconds for further rounds, keepalive after a
    /// minute.
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
    /// The connection.
    pub stream: S,
    /// Counts the connection on its server. Hold it as long as the connection.
    pub lease: Lease,
    /// Attempts that were made, including the successful one.
    pub attempts: u32,
}

/// Counter of attempts to connect, readable while and after [`Connect::run`] runs.
#[derive(Debug, Default)]
pub struct Attempts(AtomicU32);

impl Attempts {
    /// Attempts that have begun.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// No connection could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No selected server was available, so none was tried.
    #[error("none of the allowed servers is available")]
    NoServerAvailable,
    /// Every attempt failed.
    #[error("connecting failed {attempts} time(s), last to `{server}`: {source}")]
    Failed {
        /// Attempts that were made.
        attempts: u32,
        /// The server of the last attempt.
        server: ServerId,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// The balancer itself is out of file descriptors or memory. The health of servers does
    /// not change, and no other server is tried.
    #[error("the balancer cannot open another connection: {source}")]
    Exhausted {
        /// Attempts that were made, including the one that met the limit.
        attempts: u32,
        /// The error of the system call.
        source: io::Error,
    },
}

impl ConnectError {
    /// The reason code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoServerAvailable => Reason::NoServerAvailable,
            Self::Failed { .. } => Reason::ConnectFailed,
            Self::Exhausted { .. } => Reason::Overloaded,
        }
    }

    /// Attempts that were made.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::NoServerAvailable => 0,
            Self::Failed { attempts, .. } | Self::Exhausted { attempts, .. } => *attempts,
        }
    }
}

/// Opens a connection to one of the selected servers. Short for [`Connect`] without options.
///
/// # Errors
/// As [`Connect::run`].
///
/// # Cancel safety
/// As [`Connect::run`].
pub async fn connect(
    pool: &Pool,
    selector: &Selector,
    policy: &ConnectPolicy,
) -> Result<Connected, ConnectError> {
    Connect::new(pool, selector, policy).run().await
}

/// Opens a connection to a server of a pool, in [`Connect::run`].
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
    attempts: Option<&'a Attempts>,
}

impl<'a> Connect<'a> {
    /// A plain TCP connection to one of the servers of `pool` that `selector` selects.
    pub const fn new(pool: &'a Pool, selector: &'a Selector, policy: &'a ConnectPolicy) -> Self {
        Self {
            pool,
            selector,
            policy,
            step: &Plain,
            source: None,
            attempts: None,
        }
    }
}

impl<'a, P: Prepare> Connect<'a, P> {
    /// Sets where the connection comes from, for
    /// [`Balance::SourceHash`](crate::Balance::SourceHash).
    pub fn source(self, source: impl Into<Source>) -> Self {
        let source = Some(source.into());
        Self { source, ..self }
    }

    /// Counts attempts in `attempts`, which stays readable when the future is dropped.
    pub const fn attempts(mut self, attempts: &'a Attempts) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Prepares each fresh connection with `step`, within the time of the attempt. If it
    /// fails, the attempt has failed.
    pub fn prepare<Q: Prepare>(self, step: &'a Q) -> Connect<'a, Q> {
        let Self {
            pool,
            selector,
            policy,
            source,
            attempts,
            ..
        } = self;
        Connect {
            pool,
            selector,
            policy,
            step,
            source,
            attempts,
        }
    }

    /// Connects to the server that the pool picks; if that fails, to the next one, each at
    /// most once, until one answers, [`ConnectPolicy::retries`] are used up, or no server is
    /// left. Then waits and begins another round, for [`ConnectPolicy::retry_for`]: the
    /// restart of a server costs clients a delay and no connection. If waiting cannot make a
    /// server available (all are in drain or maint, or at `max_conns`), it fails at once.
    ///
    /// A connection counts on its server from before it is dialled, so that concurrent
    /// connections do not all see the same idle server. While it waits it counts on none. Each
    /// round uses the members that the pool has then.
    ///
    /// Outcomes change the health of the server, unless the failure is the balancer's own: out
    /// of file descriptors or memory it gives up at once, and without a local address or port
    /// for one server it tries the next.
    ///
    /// # Errors
    /// If no selected server is available, all attempts failed, or the balancer cannot open
    /// any connection now.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection that was being opened and gives back its
    /// count. It does not change the server's health.
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
                Err(Some(fatal @ ConnectError::Exhausted { .. })) => return Err(fatal),
                Err(later) => failure = later.or(failure),
            }
            let is_hopeless = || failure.is_none() && !pool.may_recover(&candidates);
            if policy.retry_for.is_zero() || (retry.is_none() && is_hopeless()) {
                break;
            }
            let retry = retry.get_or_insert_with(|| Retry::new(pool, policy.retry_for));
            if !retry.wait(&candidates).await {
                break;
            }
        }
        Err(failure.unwrap_or(ConnectError::NoServerAvailable))
    }

    /// Tries candidates, each at most once. Fails with the last failure, or with `None` if no
    /// candidate was tried.
    async fn round(
        &self,
        candidates: &Candidates,
        attempts: &Attempts,
    ) -> Result<Connected<P::Stream>, Option<ConnectError>> {
        let Self { pool, policy, .. } = self;
        let mut tried = Tried::default();
        let mut last_failure = None;
        for _ in 0..=policy.retries {
            let began = now();
            let request = PickRequest::new(began).tried(&tried).source(self.source);
            let Some(lease) = pool.pick_for(candidates, &request) else {
                break;
            };
            attempts.begin();
            let server = lease.server();
            let source = match dial(server, policy, self.step).await {
                Ok(stream) => {
                    if server.connect_succeeded() {
                        tracing::info!(upstream = %pool.id(), server = %server.id(), cause = "connect", "server up");
                    }
                    return Ok(Connected {
                        stream,
                        lease,
                        attempts: attempts.get(),
                    });
                }
                Err(source) => source,
            };
            let attempts = attempts.get();
            let fault = fault(&source);
            if fault == Fault::Exhausted {
                return Err(Some(ConnectError::Exhausted { attempts, source }));
            }
            let failure = Failure::new(SystemTime::now(), &source);
            if fault == Fault::Server && server.connect_failed_with(began, now(), failure) {
                tracing::warn!(upstream = %pool.id(), server = %server.id(), cause = "connect", reason = %source, "server down");
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

/// Connects to one server, trying all of its addresses within the time for one
/// attempt.
async fn dial<P: Prepare>(
    server: &Server,
    policy: &ConnectPolicy,
    step: &P,
) -> io::Result<P::Stream> {
    let deadline = now() + policy.timeout;
    let resolving = server.resolved.addresses(server.address(), now());
    // The inner timers bound the whole attempt: an outer one would only add cost.
    let result = match timeout_at(deadline.into(), resolving).await {
        Ok(Ok(addresses)) => {
            let dialer = Dialer {
                server,
                keepalive: policy.keepalive,
                step,
            };
            dialer.any(&addresses, deadline).await
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(timed_out()),
    };
    if result
        .as_ref()
        .is_err_and(|error| fault(error) == Fault::Server)
    {
        server.resolved.invalidate(server.address(), now());
    }
    result
}

/// Opens connections to one server.
pub(crate) struct Dialer<'a, P> {
    pub(crate) server: &'a Server,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) step: &'a P,
}

impl<P: Prepare> Dialer<'_, P> {
    /// Connects to the first address that answers. The time left is divided among the
    /// remaining addresses, so that a silent one does not use it up.
    pub(crate) async fn any(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> io::Result<P::Stream> {
        if let Address::Unix(path) = self.server.address() {
            let connected = timeout_at(deadline.into(), self.unix(path)).await;
            return connected.unwrap_or_else(|_| Err(timed_out()));
        }
        let mut failure = None;
        for (position, &address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(now());
            let others = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
            // One timer for connecting and preparing.
            let error = match timeout(left / others, self.one(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => timed_out(),
            };
            if fault(&error) == Fault::Exhausted {
                return Err(error);
            }
            failure = Some(more_specific(failure, error));
        }
        Err(failure
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
    }

    async fn unix(&self, path: &Path) -> io::Result<P::Stream> {
        let stream = connect_unix(path).await?;
        self.step.prepare(stream, self.server).await
    }

    async fn one(&self, address: SocketAddr) -> io::Result<P::Stream> {
        let stream = open(address).await?;
        if let Some(idle) = self.keepalive
            && let Err(error) = set_keepalive(&stream, idle)
        {
            // Not fatal. The socket may have been reset already, which shows later.
            tracing::debug!(server = %self.server.id(), %error, "no keepalive");
        }
        self.step.prepare(stream, self.server).await
    }
}

/// Prefers the server's own failure (connection refused by `127.0.0.1`) to a local one (no
/// address for `::1` on a host without IPv6).
fn more_specific(earlier: Option<io::Error>, later: io::Error) -> io::Error {
    match earlier {
        Some(earlier) if fault(&later) == Fault::Local => earlier,
        _ => later,
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = dialling(address).await?;
    // If nothing listens on a port of this host in the ephemeral range, connect may choose the
    // same port as its source and connect to itself (TCP simultaneous open).
    if stream.local_addr()? == address {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "the connection reached itself: nothing listens there",
        ));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects with the same system calls as [`TcpStream::connect`]. If the future is dropped
/// after the server has accepted, the server gets a RST: a FIN would look like a client that
/// has finished.
async fn dialling(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let mut dialling = Dialling(Some(TcpStream::from_std(socket.into())?));
    if let Some(stream) = &dialling.0 {
        stream.writable().await?;
    }
    let stream = dialling.0.take();
    let stream = stream.ok_or_else(|| io::Error::other("no socket"))?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// A socket whose connect is in progress.
struct Dialling(Option<TcpStream>);

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            stream.abort();
        }
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

#[cfg(test)]
mod tests;
