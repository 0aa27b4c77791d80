//! Agent checks: asks the agent on each server for the server's weight, connection limit and state.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    connect::dial_for_check, jittered, member_tasks::MemberTasks, now, prepare::Plain, random,
};
use crate::{AgentReport, Member, Pool, Server, ServerId, deadline::after, sync::Mutex};

/// Maximum length of a report, in bytes. A longer report is an error, because it might be cut in
/// the middle of a word, for example `maxconn:30` instead of `maxconn:3000`.
const MAX_REPORT: usize = 1024;

/// Settings of agent checks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentCheck {
    /// The agent's port, at the server's address.
    pub port: u16,
    /// Bytes to send after connecting.
    pub send: Option<Vec<u8>>,
    /// Time from the start of one check to the start of the next. The actual time varies randomly
    /// by up to 10 % in either direction.
    pub interval: Duration,
    /// Time limit of one check.
    pub timeout: Duration,
}

impl AgentCheck {
    /// Asks every 2 seconds, with a time limit of 1 second, and sends nothing.
    pub const fn new(port: u16) -> Self {
        Self {
            port,
            send: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
        }
    }
}

/// Asks the agents of a pool's servers until the checker is dropped, and applies their
/// [reports](AgentReport). The checker follows the membership of the pool.
///
/// If an agent does not answer, its last report remains in effect: only health checks detect that a
/// server has failed. An agent is not asked while an operator has set its server to maintenance.
/// Servers on UNIX sockets have no agent checks, because they have no port.
#[derive(Debug)]
pub struct AgentChecker {
    shared: Arc<Shared>,
    /// The task that follows the membership. It owns the tasks that ask the agents.
    _supervisor: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    pool: Weak<Pool>,
    check: AgentCheck,
    /// When each server's agent last reported or, if it never has, when it was first asked.
    reported: Mutex<HashMap<ServerId, Instant>>,
    /// Whether the checker was dropped. The lock is held while a report is applied, so that no
    /// report is applied after the drop.
    is_stopped: Mutex<bool>,
}

impl AgentChecker {
    /// Starts the checks on the current Tokio runtime.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start(pool: &Arc<Pool>, check: AgentCheck) -> Self {
        let shared = Arc::new(Shared {
            pool: Arc::downgrade(pool),
            check,
            reported: Mutex::default(),
            is_stopped: Mutex::new(false),
        });
        let mut changes = pool.watch_members();
        let mut supervisor = JoinSet::new();
        let of_tasks = Arc::clone(&shared);
        supervisor.spawn(async move {
            let mut tasks = MemberTasks::default();
            loop {
                let members = Arc::clone(&changes.borrow_and_update());
                tasks.keep_only(&members);
                of_tasks.keep_only(&members);
                for member in tasks.missing(&members) {
                    let server = &member.server;
                    let task = ask_periodically(Arc::clone(&of_tasks), Arc::clone(server));
                    tasks.spawn(Arc::clone(server), task);
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Self {
            shared,
            _supervisor: supervisor,
        }
    }

    /// Returns the time from the last report of a server's agent until `now`. If the agent has
    /// never reported, the time is counted from when it was first asked. Returns `None` for servers
    /// whose agents are not asked.
    pub fn report_age(&self, server: &ServerId, now: Instant) -> Option<Duration> {
        let reported = self.shared.reported.lock();
        let at = reported.get(server)?;
        Some(now.saturating_duration_since(*at))
    }
}

impl Drop for AgentChecker {
    fn drop(&mut self) {
        *self.shared.is_stopped.lock() = true;
    }
}

async fn ask_periodically(shared: Arc<Shared>, server: Arc<Server>) {
    if server.address().port().is_none() {
        return;
    }
    let mut is_failing = false;
    loop {
        let start = now();
        if server.is_in_operator_maint() {
            shared.reported.lock().remove(server.id());
        } else {
            shared.asked(&server, start);
            let result = ask(&server, &shared.check).await;
            let Some(pool) = shared.pool.upgrade() else {
                return;
            };
            let upstream = pool.id();
            match result {
                Ok(line) => {
                    if is_failing {
                        tracing::info!(%upstream, server = %server.id(), "agent answers again");
                    }
                    is_failing = false;
                    shared.reported.lock().insert(server.id().clone(), now());
                    shared.apply(&pool, &server, &line);
                }
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%upstream, server = %server.id(), %error, "agent check failed, last report kept");
                    }
                    is_failing = true;
                }
            }
        }
        let interval = jittered(shared.check.interval, random());
        sleep(interval.saturating_sub(now().saturating_duration_since(start))).await;
    }
}

impl Shared {
    fn asked(&self, server: &Server, at: Instant) {
        let mut reported = self.reported.lock();
        reported.entry(server.id().clone()).or_insert(at);
    }

    /// Forgets the reports about servers that have left the pool.
    fn keep_only(&self, members: &[Member]) {
        let names: HashSet<_> = members.iter().map(|member| member.server.id()).collect();
        self.reported.lock().retain(|name, _| names.contains(name));
    }

    fn apply(&self, pool: &Pool, server: &Server, line: &str) {
        let is_stopped = self.is_stopped.lock();
        if *is_stopped {
            return;
        }
        let report = AgentReport::parse(line);
        let state = server.agent();
        if state.after(&report) != state {
            // Log this before the effects, which the server group logs.
            let (upstream, server, report) =
                (pool.id(), server.id(), line.trim_end().escape_debug());
            tracing::info!(%upstream, %server, %report, "agent report changed");
        }
        pool.agent_reported(server, &report, SystemTime::now());
    }
}

/// Asks the agent of `server` once, and returns its line without the line ending.
async fn ask(server: &Server, check: &AgentCheck) -> io::Result<String> {
    let deadline = after(now(), check.timeout);
    let answer = async {
        let mut stream = dial_for_check(server, Some(check.port), &Plain, deadline).await?;
        if let Some(send) = &check.send {
            stream.write_all(send).await?;
        }
        let mut line = Vec::new();
        let mut limited = stream.take(MAX_REPORT as u64 + 1);
        while !line.contains(&b'\n') && limited.read_buf(&mut line).await? > 0 {}
        if line.is_empty() {
            let message = "the agent closed the connection without a report";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        let end = line.iter().position(|&byte| byte == b'\n');
        line.truncate(end.unwrap_or(line.len()));
        if line.len() > MAX_REPORT {
            let message = format!("the report is longer than {MAX_REPORT} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    };
    timeout(check.timeout, answer)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::net::TcpListener;

    use super::*;
    use crate::{AdminState, ServerSpec, WeightOverride};

    /// An agent that sends `line` on each connection, but nothing while `is_silent` is true.
    async fn agent(line: &'static str, is_silent: Arc<AtomicBool>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let line = if is_silent.load(Ordering::Relaxed) {
                    ""
                } else {
                    line
                };
                let _ = stream.write_all(line.as_bytes()).await;
            }
        });
        port
    }

    fn pool() -> Arc<Pool> {
        let server = ServerSpec::new("a", std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        Arc::new(Pool::builder("web").server(server).build().unwrap())
    }

    async fn wait_until(pool: &Pool, is_reached: impl Fn(&Server) -> bool) {
        let server = pool.server("a").unwrap();
        let reached = async {
            while !is_reached(&server) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), reached).await.unwrap();
    }

    #[tokio::test]
    async fn report_is_kept_while_agent_is_silent() {
        let is_silent = Arc::new(AtomicBool::new(false));
        let pool = pool();
        let mut check =
            AgentCheck::new(agent("drain 50% maxconn:3\n", Arc::clone(&is_silent)).await);
        check.interval = Duration::from_millis(20);
        let checker = AgentChecker::start(&pool, check);
        let is_drained = |server: &Server| server.status().agent_admin == AdminState::Drain;
        wait_until(&pool, is_drained).await;
        let member = || pool.members()[0].clone();
        assert_eq!(member().effective_weight(), 0.5);
        assert_eq!(member().max_conns.map(|max| max.get()), Some(3));

        let age = |name: &str| checker.report_age(&ServerId::from(name), now());
        is_silent.store(true, Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
        // The last report before the silence is at most one interval and one check old.
        let first = age("a").unwrap();
        assert!(first < Duration::from_secs(5), "{first:?}");
        sleep(Duration::from_millis(50)).await;
        assert!(age("a").unwrap() >= first + Duration::from_millis(50));
        assert_eq!(age("b"), None);
        member().server.set_admin(AdminState::Maint);
        wait_until(&pool, |_| age("a").is_none()).await;
        member().server.set_admin(AdminState::Ready);
        wait_until(&pool, |_| age("a").is_some()).await;
        assert!(
            is_drained(&member().server),
            "the last report still applies"
        );

        // The operator's weight replaces the agent's.
        pool.set_weight("a", Some(WeightOverride::Absolute(7)));
        assert_eq!(member().effective_weight(), 7.0);
        pool.set_weight("a", None);
        assert_eq!(member().effective_weight(), 0.5);

        drop(checker);
        pool.forget_agents(SystemTime::now());
        let member = member();
        assert!(member.server.status().is_available());
        assert_eq!((member.effective_weight(), member.max_conns), (1.0, None));
    }

    #[tokio::test]
    async fn report_over_the_length_limit_is_an_error() {
        let pool = pool();
        let server = pool.server("a").unwrap();
        let report = async |length: usize, end: &str| {
            let line = format!("{:>length$}{end}", "maxconn:30").leak();
            let check = AgentCheck::new(agent(line, Arc::default()).await);
            ask(&server, &check).await
        };
        for end in ["", "\n", "\r\nsecond line"] {
            let text = report(MAX_REPORT - 1, end).await.unwrap();
            assert!(text.trim_end().ends_with("maxconn:30"), "{text}");
        }
        for end in ["", "00", "\n"] {
            let error = report(MAX_REPORT + 1, end).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert!(report(MAX_REPORT, "00\n").await.is_err());
    }

    #[tokio::test]
    async fn server_is_down_until_its_agent_reports_up() {
        let pool = pool();
        let server = pool.server("a").unwrap();
        let report =
            |line| pool.agent_reported(&server, &AgentReport::parse(line), SystemTime::now());
        assert!(report("down #disk full").is_up_changed);
        assert!(!server.status().is_up());
        let outage = server.outage().unwrap();
        assert_eq!(&*outage.reason, "the agent reports down: disk full");
        report("75%");
        assert!(
            !server.status().is_up(),
            "a report without `up` does not end `down`"
        );
        assert!(report("up").is_up_changed);
        assert!(server.status().is_up() && server.outage().is_none());
    }
}
