//! Opening a connection to the best server, or to the next best ones, once or until one
//! recovers.

mod retry;

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::{
    failure::{Fault, fault},
    keepalive::set_keepalive,
    now,
    prepare::{Plain, Prepare},
    unix::connect_unix,
};
use crate::{Address, Candidates, Failure, Lease, Pool, Reason, Server, ServerId, Tried};
use retry::Retry;

/// How long and how often to try.
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
    /// Time for one attempt: resolving the server's name, connecting to it, and
    /// preparing the connection where [`connect_with`] is asked to.
    pub timeout: Duration,
    /// Further servers that are tried when connecting fails, each at most once in a round.
    pub retries: u32,
    /// Once a round has ended without a connection, how long further rounds follow, 100 ms
    /// after each other at first, then with delays that double up to a second, and sooner
    /// if a server becomes available. The last round begins before that time is over. Zero:
    /// one round.
    pub retry_for: Duration,
    /// Silence after which the system asks whether the server is still there: see
    /// [`set_keepalive`]. `None`: never.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectPolicy {
    /// Five seconds an attempt, two further servers, three seconds for further rounds,
    /// keepalive after a minute.
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
    /// Its place on the server: hold it as long as the connection.
    pub lease: Lease,
    /// Attempts that were made, this one included.
    pub attempts: u32,
}

/// How many attempts to connect have begun: to be read when [`connect_observed`] is
/// dropped before its end.
#[derive(Debug, Default)]
pub struct Attempts(AtomicU32);

impl Attempts {
    /// So many have begun.
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
    /// No allowed server was available, so none was tried.
    #[error("none of the allowed servers is available")]
    NoServerAvailable,
    /// Every attempt failed.
    #[error("connecting failed {attempts} time(s), last to `{server}`: {source}")]
    Failed {
        /// Attempts that were made.
        attempts: u32,
        /// The server of the last one.
        server: ServerId,
        /// Why it failed.
        source: io::Error,
    },
    /// The balancer itself is out of file descriptors or memory. No server is
    /// blamed for it, and no other one is tried: it would end in the same way.
    #[error("the balancer cannot open another connection: {source}")]
    Exhausted {
        /// Attempts that were made, the one for which this happened included.
        attempts: u32,
        /// What is missing.
        source: io::Error,
    },
}

impl ConnectError {
    /// The stable code.
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

/// Connects to the candidate with the least connections; when that fails, to
/// the next one, each at most once, until one answers, `policy.retries` are
/// used up, or none is left. Then it waits and begins anew, for `policy.retry_for`: a
/// server that is restarted, or a moment in which all servers refuse, costs clients
/// a delay and no connection. Where no candidate could become available by waiting
/// (the operator took all of them out, or they are at `max_conns`), it fails at once.
///
/// A connection counts on its server from before it is dialled, so that many
/// arriving at once do not all see the same idle server. While it waits it counts on
/// none. Outcomes feed the server's passive health, but for those that are the balancer's
/// own: without a file descriptor or memory it gives up at once, and without a local
/// address or port towards one server it goes on to the next.
///
/// # Errors
/// If no candidate is available, all attempts failed, or the balancer
/// cannot open any connection now.
///
/// # Cancel safety
/// Dropping the future gives the place on the server back. An attempt cut off
/// in this way says nothing about the server's health.
pub async fn connect(
    pool: &Pool,
    candidates: &Candidates,
    policy: &ConnectPolicy,
) -> Result<Connected, ConnectError> {
    connect_with(pool, candidates, policy, &Plain).await
}

/// Like [`connect`], with a further step on each fresh connection, within the
/// same time. A server with which it fails has failed: that feeds its passive
/// health, and the next one is tried.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_with<P: Prepare>(
    pool: &Pool,
    candidates: &Candidates,
    policy: &ConnectPolicy,
    step: &P,
) -> Result<Connected<P::Stream>, ConnectError> {
    connect_observed(pool, candidates, policy, step, &Attempts::default()).await
}

/// Like [`connect_with`], counting in `attempts`, which starts at 0: a caller that drops
/// the future can still tell how many attempts there were.
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// As [`connect`].
pub async fn connect_observed<P: Prepare>(
    pool: &Pool,
    candidates: &Candidates,
    policy: &ConnectPolicy,
    step: &P,
    attempts: &Attempts,
) -> Result<Connected<P::Stream>, ConnectError> {
    let connecting = Connecting {
        pool,
        candidates,
        policy,
        step,
        attempts,
    };
    let mut failure = None;
    let mut retry: Option<Retry> = None;
    loop {
        match connecting.round().await {
            Ok(connected) => return Ok(connected),
            Err(Some(fatal @ ConnectError::Exhausted { .. })) => return Err(fatal),
            Err(later) => failure = later.or(failure),
        }
        let is_hopeless = || failure.is_none() && !pool.may_recover(candidates);
        if policy.retry_for.is_zero() || (retry.is_none() && is_hopeless()) {
            break;
        }
        let retry = retry.get_or_insert_with(|| Retry::new(pool, policy.retry_for));
        if !retry.wait(candidates).await {
            break;
        }
    }
    Err(failure.unwrap_or(ConnectError::NoServerAvailable))
}

struct Connecting<'a, P> {
    pool: &'a Pool,
    candidates: &'a Candidates,
    policy: &'a ConnectPolicy,
    step: &'a P,
    attempts: &'a Attempts,
}

impl<P: Prepare> Connecting<'_, P> {
    /// Tries candidates, each at most once. Fails with the last failure, or with nothing
    /// if none was tried.
    async fn round(&self) -> Result<Connected<P::Stream>, Option<ConnectError>> {
        let Self { pool, policy, .. } = self;
        let mut tried = Tried::default();
        let mut last_failure = None;
        for _ in 0..=policy.retries {
            let began = now();
            let Some(lease) = pool.pick(self.candidates, &tried, began) else {
                break;
            };
            self.attempts.begin();
            let server = lease.server();
            match dial(server, policy, self.step).await {
                Ok(stream) => {
                    if server.connect_succeeded() {
                        tracing::info!(upstream = %pool.id(), server = %server.id(), "server is up: a connection succeeded");
                    }
                    return Ok(Connected {
                        stream,
                        lease,
                        attempts: self.attempts.get(),
                    });
                }
                Err(source) => {
                    let attempts = self.attempts.get();
                    let fault = fault(&source);
                    if fault == Fault::Exhausted {
                        return Err(Some(ConnectError::Exhausted { attempts, source }));
                    }
                    let failure = Failure::new(SystemTime::now(), &source);
                    if fault == Fault::Server && server.connect_failed_with(began, now(), failure) {
                        tracing::warn!(upstream = %pool.id(), server = %server.id(), error = %source, "server is down: connecting failed");
                    }
                    last_failure = Some(ConnectError::Failed {
                        attempts,
                        server: server.id().clone(),
                        source,
                    });
                    tried.add(lease);
                }
            }
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
    // No timer around the whole: an attempt's own are enough, and each one costs.
    let result = match timeout_at(deadline.into(), resolving).await {
        Ok(Ok(addresses)) => {
            let dialling = Dialling {
                server,
                keepalive: policy.keepalive,
                step,
            };
            dialling.any(&addresses, deadline).await
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

/// Opening a connection to one server, whatever address it has.
pub(crate) struct Dialling<'a, P> {
    pub(crate) server: &'a Server,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) step: &'a P,
}

impl<P: Prepare> Dialling<'_, P> {
    /// Connects to the first address that answers. An address that is silent
    /// gets its share of the time left, not all of it: others may answer.
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
            // One timer for connecting and the step.
            let error = match timeout(left / others, self.one(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => timed_out(),
            };
            if fault(&error) == Fault::Exhausted {
                return Err(error);
            }
            failure = Some(more_telling(failure, error));
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
            // The connection works; the reset of a server that is gone may not
            // have been seen yet.
            tracing::debug!(server = %self.server.id(), %error, "no keepalive");
        }
        self.step.prepare(stream, self.server).await
    }
}

/// On a host without IPv6, that `::1` has no way to it says nothing new after
/// `127.0.0.1` refused: the server's own failure is the one to report.
fn more_telling(earlier: Option<io::Error>, later: io::Error) -> io::Error {
    match earlier {
        Some(earlier) if fault(&later) == Fault::Local => earlier,
        _ => later,
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Where nothing listens on a port of this host that is also in the range of
    // local ports, a connect may be given that very port and reach itself (TCP's
    // simultaneous open): an echo where a server is down.
    if stream.local_addr()? == address {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "the connection reached itself: nothing listens there",
        ));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

#[cfg(test)]
mod tests;
