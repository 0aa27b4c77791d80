//! Opening a connection to the best server, or to the next best ones.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
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
use crate::{Address, Candidates, Lease, Pool, Reason, Server, ServerId, Tried};

/// How long and how often to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectPolicy {
    /// Time for one attempt: resolving the server's name, connecting to it, and
    /// preparing the connection where [`connect_with`] is asked to.
    pub timeout: Duration,
    /// Further servers that are tried when connecting fails.
    pub retries: u32,
    /// Silence after which the system asks whether the server is still there: see
    /// [`set_keepalive`]. `None`: never.
    pub keepalive: Option<Duration>,
}

impl Default for ConnectPolicy {
    /// Five seconds an attempt, two retries, keepalive after a minute.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retries: 2,
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
    /// Servers that were tried, this one included.
    pub attempts: u32,
}

/// No connection could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No allowed server was available, so none was tried.
    #[error("none of the allowed servers is available")]
    NoServerAvailable,
    /// Every server that was tried failed.
    #[error("connecting failed on {attempts} server(s), at last on `{server}`: {source}")]
    Failed {
        /// Servers that were tried.
        attempts: u32,
        /// The last one.
        server: ServerId,
        /// Why it failed.
        source: io::Error,
    },
    /// The balancer itself is out of file descriptors or memory. No server is
    /// blamed for it, and no other one is tried: it would end in the same way.
    #[error("the balancer cannot open another connection: {source}")]
    Exhausted {
        /// Servers that were tried, the one for which this happened included.
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

    /// Servers that were tried.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::NoServerAvailable => 0,
            Self::Failed { attempts, .. } | Self::Exhausted { attempts, .. } => *attempts,
        }
    }
}

/// Connects to the candidate with the least connections; when that fails, to
/// the next one, each at most once, until one answers, `policy.retries` are
/// used up, or none is left.
///
/// A connection counts on its server from before it is dialled, so that many
/// arriving at once do not all see the same idle server. Outcomes feed the
/// server's passive health, but for those that are the balancer's own: without
/// a file descriptor or memory it gives up at once, and without a local address
/// or port towards one server it goes on to the next.
///
/// # Errors
/// If no candidate is available, all that were tried failed, or the balancer
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
    let mut tried = Tried::default();
    let mut last_failure = None;
    for attempts in 1..=policy.retries.saturating_add(1) {
        let Some(lease) = pool.pick(candidates, &tried, now()) else {
            break;
        };
        let server = lease.server();
        match dial(server, policy, step).await {
            Ok(stream) => {
                if server.connect_succeeded() {
                    tracing::info!(upstream = %pool.id(), server = %server.id(), "server is up: a connection succeeded");
                }
                return Ok(Connected {
                    stream,
                    lease,
                    attempts,
                });
            }
            Err(source) => {
                let fault = fault(&source);
                if fault == Fault::Exhausted {
                    return Err(ConnectError::Exhausted { attempts, source });
                }
                if fault == Fault::Server && server.connect_failed(now()) {
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
    Err(last_failure.unwrap_or(ConnectError::NoServerAvailable))
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
        server.resolved.doubt(now());
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
