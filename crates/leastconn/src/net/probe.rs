//! Health checks, which test whether a server accepts connections and answers as expected.

mod checker;
mod mysql;
mod postgres;
mod redis;

use std::{fmt, future::poll_fn, io, ops::RangeInclusive, pin::Pin, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Stream, connect::dial_for_check, connect_fault::ConnectFault, now, prepare::Prepare};
use crate::{Server, ShortDuration, deadline::after};
pub use checker::Checker;

/// The protocol of a health check and the expected answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// The server accepts a connection and, if `expect` is set, sends the expected answer.
    Tcp {
        /// Bytes to send after connecting.
        send: Option<Vec<u8>>,
        /// Bytes that must occur in the first 16 KiB of the answer.
        expect: Option<Vec<u8>>,
    },
    /// The server answers an HTTP/1.1 `GET` request with one of the given status codes.
    Http {
        /// The request target: path and query. If it contains anything other than visible ASCII
        /// characters, the probe fails.
        path: String,
        /// The status codes of a healthy server.
        status: Vec<RangeInclusive<u16>>,
    },
    /// A MySQL or MariaDB server sends its greeting and answers a login. Any answer counts as a
    /// success, except an error that affects all clients. The probe completes the login, because a
    /// server blocks a host after `max_connect_errors` connections that end before login.
    Mysql {
        /// The user to log in as, without a password. The user need not exist. If the name contains
        /// a NUL, the probe fails.
        user: String,
    },
    /// A PostgreSQL server answers a startup message: it requests a password, accepts the user, or
    /// rejects the user.
    Postgres {
        /// The user that opens the session. The user need not exist. If the name contains a NUL,
        /// the probe fails.
        user: String,
    },
    /// A Redis server answers `PING`. An authentication error also counts as success.
    Redis,
}

impl Probe {
    /// Rejects text that would add headers, parameters or requests.
    fn check(&self) -> Result<(), ProbeError> {
        match self {
            Self::Http { path, .. } if !path.bytes().all(|b| b.is_ascii_graphic()) => Err(
                ProbeError::InvalidCheck("the path may contain visible ASCII characters only"),
            ),
            Self::Mysql { user } | Self::Postgres { user } if user.contains('\0') => Err(
                ProbeError::InvalidCheck("the user name contains a NUL character"),
            ),
            _ => Ok(()),
        }
    }
}

/// A health check and its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// The protocol and the expected answer.
    pub probe: Probe,
    /// The port to probe. `None`: the server's own port.
    pub port: Option<u16>,
    /// Time from the start of one probe to the start of the next. The actual time varies randomly
    /// by up to 10 % in either direction.
    pub interval: Duration,
    /// Time limit of one probe.
    pub timeout: Duration,
}

impl Check {
    /// Probes the server's own port every 2 seconds, with a time limit of 1 second.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use leastconn::net::{Check, Probe};
    ///
    /// let mut check = Check::new(Probe::Http {
    ///     path: "/health".to_owned(),
    ///     status: vec![200..=299],
    /// });
    /// check.interval = Duration::from_secs(5);
    /// ```
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
        }
    }
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Connecting, writing or reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The time limit expired without an answer.
    #[error("no answer within {}", ShortDuration(*.0))]
    TimedOut(Duration),
    /// The time limit expired after an incomplete answer.
    #[error("no expected answer within {}; received {answer}", ShortDuration(*.limit))]
    Incomplete {
        /// The time limit of the probe.
        limit: Duration,
        /// The beginning of the answer.
        answer: Excerpt,
    },
    /// The answer ended or exceeded 16 KiB without containing the expected bytes.
    #[error("unexpected answer: {0}")]
    Unexpected(Excerpt),
    /// The answer is not an HTTP/1.x response.
    #[error("not an HTTP answer: {0}")]
    NotHttp(Excerpt),
    /// The answer has an unexpected status code.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The server answered with an error that affects all clients.
    #[error("the server answered with an error: {0}")]
    Server(String),
    /// The check itself is invalid, so no connection was opened.
    #[error("invalid health check: {0}")]
    InvalidCheck(&'static str),
}

impl ProbeError {
    fn server(message: &[u8]) -> Self {
        const LONGEST: usize = 256;
        let message = &message[..message.len().min(LONGEST)];
        Self::Server(message.escape_ascii().to_string())
    }
}

impl ProbeError {
    /// Whether the server has failed. Otherwise this process is out of file descriptors, memory or
    /// local ports.
    pub fn is_server_fault(&self) -> bool {
        !matches!(self, Self::Io(error) if ConnectFault::of(error) != ConnectFault::Server)
    }
}

/// The beginning of an answer, for error messages. [Display](fmt::Display) escapes everything
/// except visible ASCII characters, so that a server cannot inject control characters into a log or
/// terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    start: Box<[u8]>,
    /// Length of the whole answer.
    bytes: usize,
}

impl Excerpt {
    /// Maximum number of bytes in an excerpt.
    const LONGEST: usize = 64;

    fn of(answer: &[u8]) -> Self {
        Self {
            start: answer[..answer.len().min(Self::LONGEST)].into(),
            bytes: answer.len(),
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            0 => f.write_str("no data"),
            bytes if bytes > self.start.len() => {
                let start = self.start.escape_ascii();
                write!(f, "{bytes} bytes that start with \"{start}\"")
            }
            _ => write!(f, "\"{}\"", self.start.escape_ascii()),
        }
    }
}

/// Maximum number of bytes of an answer that are examined.
const MAX_ANSWER: usize = 16 * 1024;

/// Probes a server once over a new connection. `step` first prepares the connection, within the
/// time limit of the probe.
///
/// # Errors
/// If the server does not answer as expected within the time limit.
///
/// # Cancel safety
/// Dropping the future closes the connection. The server's health does not change.
pub async fn probe<P: Prepare>(server: &Server, check: &Check, step: &P) -> Result<(), ProbeError> {
    check.probe.check()?;
    let deadline = after(now(), check.timeout);
    // Declared outside `attempt`, so that the error after a timeout can quote the incomplete
    // answer.
    let mut answer = Vec::new();
    let attempt = async {
        let mut stream = dial_for_check(server, check.port, step, deadline).await?;
        match &check.probe {
            Probe::Tcp { send, expect } => {
                converse(&mut stream, send.as_deref(), expect.as_deref(), &mut answer).await?;
            }
            Probe::Http { path, status } => {
                let address = server.address();
                let address = check
                    .port
                    .map_or_else(|| address.clone(), |port| address.with_port(port));
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: leastconn-health-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
                    match address.port() {
                        None | Some(80) => address.host(),
                        Some(port) => format!("{}:{port}", address.host()),
                    },
                );
                stream.write_all(request.as_bytes()).await?;
                stream.flush().await?;
                let code = read_status(&mut stream, &mut answer).await?;
                if !status.iter().any(|range| range.contains(&code)) {
                    return Err(ProbeError::Status(code));
                }
            }
            Probe::Mysql { user } => mysql::check(&mut stream, user, &mut answer).await?,
            Probe::Postgres { user } => postgres::check(&mut stream, user, &mut answer).await?,
            Probe::Redis => redis::check(&mut stream, &mut answer).await?,
        }
        // Close the connection cleanly. Errors are ignored, because the server has already
        // answered.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_finish(cx)).await;
        Ok(())
    };
    let probed = timeout(check.timeout, attempt).await;
    probed.unwrap_or_else(|_| {
        Err(match &*answer {
            [] => ProbeError::TimedOut(check.timeout),
            answer => ProbeError::Incomplete {
                limit: check.timeout,
                answer: Excerpt::of(answer),
            },
        })
    })
}

async fn converse<S: Stream>(
    stream: &mut S,
    send: Option<&[u8]>,
    expect: Option<&[u8]>,
    answer: &mut Vec<u8>,
) -> Result<(), ProbeError> {
    if let Some(send) = send {
        stream.write_all(send).await?;
        stream.flush().await?;
    }
    let Some(expect) = expect.filter(|expect| !expect.is_empty()) else {
        return Ok(());
    };
    let found = read_until(stream, answer, |answer| {
        answer
            .windows(expect.len())
            .any(|window| window == expect)
            .then_some(())
    });
    let found = found.await?;
    found.ok_or_else(|| ProbeError::Unexpected(Excerpt::of(answer)))
}

async fn read_status<S: Stream>(stream: &mut S, answer: &mut Vec<u8>) -> Result<u16, ProbeError> {
    let parsed = read_until(stream, answer, |answer| {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(answer);
        match (response.code, parsed) {
            // The status line is enough. The headers may be malformed or may not have arrived yet.
            (Some(code), _) => Some(Some(code)),
            (None, Ok(_)) => None,
            (None, Err(_)) => Some(None),
        }
    });
    let code = parsed.await?.flatten();
    code.ok_or_else(|| ProbeError::NotHttp(Excerpt::of(answer)))
}

/// Reads until `found` returns a value. Returns `None` if the answer ends or exceeds `MAX_ANSWER`
/// first.
async fn read_until<S: Stream, T>(
    stream: &mut S,
    answer: &mut Vec<u8>,
    mut found: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Option<T>, ProbeError> {
    answer.reserve(1024);
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Ok(None);
        }
        if let Some(found) = found(answer) {
            return Ok(Some(found));
        }
        if answer.len() >= MAX_ANSWER {
            return Ok(None);
        }
    }
}

/// Reads until the server closes the connection. Closing a socket with unread data would reset the
/// connection.
async fn drain<S: Stream>(stream: &mut S) {
    let mut rest = [0; 1024];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

#[cfg(test)]
mod tests;
