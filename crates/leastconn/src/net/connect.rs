//! Opening a connection to the best server, or to the next best ones.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::now;
use crate::{Candidates, Lease, Pool, Reason, Server, ServerId, Tried};

/// How long and how often to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectPolicy {
    /// Time for one attempt: resolving the server's name and connecting to it.
    pub timeout: Duration,
    /// Further servers that are tried when connecting fails.
    pub retries: u32,
}

impl Default for ConnectPolicy {
    /// Five seconds an attempt, two retries.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            retries: 2,
        }
    }
}

/// An open connection to a server.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: TcpStream,
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
}

impl ConnectError {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoServerAvailable => Reason::NoServerAvailable,
            Self::Failed { .. } => Reason::ConnectFailed,
        }
    }

    /// Servers that were tried.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::NoServerAvailable => 0,
            Self::Failed { attempts, .. } => *attempts,
        }
    }
}

/// Connects to the candidate with the least connections; when that fails, to
/// the next one, each at most once, until one answers, `policy.retries` are
/// used up, or none is left.
///
/// A connection counts on its server from before it is dialled, so that many
/// arriving at once do not all see the same idle server. Outcomes feed the
/// server's passive health.
///
/// # Errors
/// If no candidate is available, or all that were tried failed.
///
/// # Cancel safety
/// Dropping the future gives the place on the server back. An attempt cut off
/// in this way says nothing about the server's health.
pub async fn connect(
    pool: &Pool,
    candidates: &Candidates,
    policy: &ConnectPolicy,
) -> Result<Connected, ConnectError> {
    let mut tried = Tried::default();
    let mut last_failure = None;
    for attempts in 1..=policy.retries.saturating_add(1) {
        let Some(lease) = pool.pick(candidates, &tried, now()) else {
            break;
        };
        let server = lease.server();
        match dial(server, policy.timeout).await {
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
                if server.connect_failed(now()) {
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

/// Connects to one server, trying all of its addresses within `limit`.
async fn dial(server: &Server, limit: Duration) -> io::Result<TcpStream> {
    let attempt = async {
        let addresses = server.resolved.addresses(server.address(), now()).await?;
        connect_any(&addresses, limit).await
    };
    let result = timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(timed_out()));
    if result.is_err() {
        server.resolved.doubt(now());
    }
    result
}

/// Connects to the first address that answers. An address that is silent gets
/// its share of the time left, not all of it: others may answer.
pub(crate) async fn connect_any(
    addresses: &[SocketAddr],
    limit: Duration,
) -> io::Result<TcpStream> {
    let deadline = now() + limit;
    let mut failure = None;
    for (position, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(now());
        let others = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
        match timeout(left / others, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(timed_out()),
        }
    }
    Err(failure
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
