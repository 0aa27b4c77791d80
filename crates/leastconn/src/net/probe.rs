//! Asking servers whether they work, before a client has to find out.

mod mysql;
mod postgres;
mod redis;

use std::{
    fmt,
    future::poll_fn,
    io,
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use super::{
    Stream,
    connect::Dialling,
    failure::{Fault, fault},
    now,
    prepare::{Plain, Prepare},
    random,
};
use crate::{
    AdminState, Failure, Member, Pool, Server, ShortDuration, UpstreamId, backoff::share,
    sync::lock,
};

/// What a server must do to be found working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Take a connection; then, if asked to, answer.
    Tcp {
        /// Sent once connected.
        send: Option<Vec<u8>>,
        /// Must occur in the answer's first 16 KiB.
        expect: Option<Vec<u8>>,
    },
    /// Answer `GET path` with one of these status codes.
    Http {
        /// The path, with its query if any.
        path: String,
        /// Status codes that mean "working".
        status: Vec<RangeInclusive<u16>>,
    },
    /// Greet a MySQL or MariaDB client, and answer its login, in any way but with an
    /// error about the server. A connection that ends before its login counts as one of
    /// `max_connect_errors`, after which the server blocks the host.
    Mysql {
        /// The user that logs in, without a password. It need not exist.
        user: String,
    },
    /// Answer the start of a PostgreSQL session: ask for a password, take the user or
    /// refuse it.
    Postgres {
        /// The user of the session. It need not exist.
        user: String,
    },
    /// Answer Redis' `PING`, if only with the demand for a password.
    Redis,
}

/// How and how often servers are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// Another port than the one that connections go to.
    pub port: Option<u16>,
    /// From one probe's start to the next one's, give or take 10 %.
    pub interval: Duration,
    /// Time for one probe.
    pub timeout: Duration,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Connecting, writing or reading failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took longer than the check's time-out, and nothing came.
    #[error("no answer within {}", ShortDuration(*.0))]
    TimedOut(Duration),
    /// Something came within the check's time-out, which did not do.
    #[error("the expected answer did not come within {}, but {answer}", ShortDuration(*.limit))]
    Incomplete {
        /// The time-out.
        limit: Duration,
        /// What came.
        answer: Excerpt,
    },
    /// The answer ended, or grew to 16 KiB, without what was expected.
    #[error("the answer is not the expected one, but {0}")]
    Unexpected(Excerpt),
    /// The answer was not HTTP/1.x.
    #[error("the answer is not HTTP, but {0}")]
    NotHttp(Excerpt),
    /// The answer had another status code.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The server answered with an error that concerns all clients.
    #[error("the server answers with an error: {0}")]
    Server(String),
}

impl ProbeError {
    fn server(message: &[u8]) -> Self {
        const LONGEST: usize = 256;
        let message = &message[..message.len().min(LONGEST)];
        Self::Server(message.escape_ascii().to_string())
    }
}

impl ProbeError {
    /// Whether this says something about the server, and not about the prober,
    /// which may be out of file descriptors, memory or local ports.
    pub fn is_the_servers(&self) -> bool {
        !matches!(self, Self::Io(error) if fault(error) != Fault::Server)
    }
}

/// How an answer begins, for people to read: bytes that are no visible ASCII are
/// escaped, so that no server writes into somebody's log or terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    start: Box<[u8]>,
    /// Of so many bytes in all.
    bytes: usize,
}

impl Excerpt {
    /// As much as is kept.
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
            0 => f.write_str("nothing"),
            bytes if bytes > self.start.len() => {
                write!(f, "{bytes} bytes from \"{}\" on", self.start.escape_ascii())
            }
            _ => write!(f, "\"{}\"", self.start.escape_ascii()),
        }
    }
}

/// As much of an answer as is looked at.
const MAX_ANSWER: usize = 16 * 1024;

/// Probes a server once. What is asked is asked over what `step` makes of the
/// connection, within the same time.
///
/// # Errors
/// If it does not work.
pub async fn probe<P: Prepare>(server: &Server, check: &Check, step: &P) -> Result<(), ProbeError> {
    let deadline = now() + check.timeout;
    // Kept here, to be looked at when the time is up.
    let mut answer = Vec::new();
    let attempt = async {
        let address = server.address();
        let address = check
            .port
            .map_or_else(|| address.clone(), |port| address.with_port(port));
        let mut addresses = server
            .resolved
            .addresses(server.address(), now())
            .await?
            .to_vec();
        if let Some(port) = address.port() {
            for resolved in &mut addresses {
                resolved.set_port(port);
            }
        }
        let dialling = Dialling {
            server,
            keepalive: None,
            step,
        };
        let mut stream = dialling.any(&addresses, deadline).await?;
        match &check.probe {
            Probe::Tcp { send, expect } => {
                converse(&mut stream, send.as_deref(), expect.as_deref(), &mut answer).await?;
            }
            Probe::Http { path, status } => {
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
        // Towards a server that works, in good order. It has answered already.
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
            // The status line is enough, whatever the headers are: they may be
            // broken, or not have arrived.
            (Some(code), _) => Some(Some(code)),
            (None, Ok(_)) => None,
            (None, Err(_)) => Some(None),
        }
    });
    let code = parsed.await?.flatten();
    code.ok_or_else(|| ProbeError::NotHttp(Excerpt::of(answer)))
}

/// Reads until `found` finds something; `None` when the answer ends before.
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

/// Waits until the server has closed: what it sends unasked until then must not be left
/// unread, or closing would reset the connection.
async fn drain<S: Stream>(stream: &mut S) {
    let mut rest = [0; 1024];
    while let Ok(1..) = stream.read(&mut rest).await {}
}

/// While no server of an upstream is available, each is probed so often, if the interval is
/// not shorter: clients wait for the first one that recovers.
const URGENT: Duration = Duration::from_secs(1);

/// The first probes of servers that are added to a running pool are spread over this time,
/// if the interval is not shorter.
const SPREAD: Duration = Duration::from_secs(1);

/// Probes the servers of a pool for as long as it lives, each at once when
/// starting and then at its interval, or every second while no server is available.
///
/// In a pool that succeeds another one, servers that were probed before go on at their
/// interval, and the first probes of the others are spread over a second.
#[derive(Debug)]
pub struct Checker {
    // Dropping the set ends its tasks.
    _tasks: JoinSet<()>,
    servers: usize,
    /// How many of them have been probed at all.
    probed: watch::Receiver<usize>,
}

impl Checker {
    /// Starts probing, on the Tokio runtime that this is called in.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(pool: &Pool, check: Check) -> Self {
        Self::start_with(pool, check, Plain)
    }

    /// Likewise, with a step on each fresh connection before the server is asked
    /// anything.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start_with<P: Prepare + 'static>(pool: &Pool, check: Check, step: P) -> Self {
        let step = Arc::new(step);
        let check = Arc::new(check);
        let mut tasks = JoinSet::new();
        let (first, probed) = watch::channel(0);
        let is_new = |member: &&Member| lock(&member.server.last_probe).is_none();
        let new = pool.members().iter().filter(is_new).count();
        let mut delays = spread(new, new < pool.members().len(), check.interval);
        for member in pool.members() {
            let first = first.clone();
            let start = if is_new(&member) { delays.next() } else { None };
            let changes = pool.changes();
            let (server, upstream, check, step) = (
                Arc::clone(&member.server),
                pool.id().clone(),
                Arc::clone(&check),
                Arc::clone(&step),
            );
            let prober = Prober {
                server,
                upstream,
                check,
                step,
                changes,
            };
            tasks.spawn(prober.run(start, first));
        }
        Self {
            _tasks: tasks,
            servers: pool.members().len(),
            probed,
        }
    }

    /// Completes once every server has been probed, whatever came of it: at the
    /// latest after the check's time-out. It completes, too, when the checker is
    /// dropped.
    ///
    /// # Cancel safety
    /// It may be dropped, and asked for again.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut probed, servers) = (self.probed.clone(), self.servers);
        async move {
            let _ = probed.wait_for(|&probed| probed >= servers).await;
        }
    }
}

/// When the first probes of `new` servers begin: all at once where there are no others,
/// else spread.
fn spread(new: usize, others: bool, interval: Duration) -> impl Iterator<Item = Instant> {
    let start = now();
    let time = if others {
        SPREAD.min(interval)
    } else {
        Duration::ZERO
    };
    let count = u32::try_from(new.max(1)).unwrap_or(u32::MAX);
    (0..count).map(move |nth| start + time / count * nth)
}

/// Probes one server.
struct Prober<P> {
    server: Arc<Server>,
    upstream: UpstreamId,
    check: Arc<Check>,
    step: Arc<P>,
    /// Whether no server of the upstream is available.
    changes: watch::Receiver<bool>,
}

impl<P: Prepare> Prober<P> {
    /// Begins at `start`; without one, at its interval after the last probe.
    async fn run(mut self, start: Option<Instant>, first: watch::Sender<usize>) {
        let last = *lock(&self.server.last_probe);
        match (start, last) {
            (Some(start), _) => sleep_until(start.into()).await,
            (None, Some(last)) => {
                first.send_modify(|probed| *probed += 1);
                self.wait_since(last).await;
            }
            (None, None) => {}
        }
        let mut first = last.is_none().then_some(first);
        loop {
            let start = now();
            // Nothing is expected of a server in maintenance.
            if self.server.status().admin != AdminState::Maint {
                self.probe().await;
                *lock(&self.server.last_probe) = Some(start);
            }
            if let Some(first) = first.take() {
                first.send_modify(|probed| *probed += 1);
            }
            self.wait_since(start).await;
        }
    }

    async fn probe(&self) {
        let Self {
            server, upstream, ..
        } = self;
        let result = probe(server, &self.check, &*self.step).await;
        let changed = match &result {
            Ok(()) => server.probed(true),
            Err(error) if error.is_the_servers() => {
                server.probe_failed(Failure::new(SystemTime::now(), error))
            }
            Err(_) => false,
        };
        match (changed, result) {
            (true, Ok(())) => {
                tracing::info!(%upstream, server = %server.id(), "server is up: health check passed");
            }
            (true, Err(error)) => {
                tracing::warn!(%upstream, server = %server.id(), %error, "server is down: health check failed");
            }
            (false, Err(error)) => {
                tracing::debug!(%upstream, server = %server.id(), %error, "health check failed");
            }
            (false, Ok(())) => {}
        }
    }

    /// Waits until the next probe is due, after one that began at `start`.
    async fn wait_since(&mut self, start: Instant) {
        // Jittered, so that many servers are not all probed in step.
        let random = random();
        let jittered = |time: Duration| time - time / 10 + share(time / 5, random);
        let interval = self.check.interval;
        loop {
            let is_urgent = *self.changes.borrow_and_update();
            let wait = if is_urgent {
                jittered(URGENT.min(interval))
            } else {
                jittered(interval)
            };
            let due = sleep(wait.saturating_sub(now().saturating_duration_since(start)));
            tokio::select! {
                () = due => return,
                Ok(()) = self.changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
