//! The running balancer: start, requests by signals, upgrade, and drain.

mod replaced;

use std::{io, os::unix::net::UnixStream, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedMutexGuard, task::JoinHandle, time::timeout};

use super::{
    super::{DONE, FAILED},
    signals::{EarlySignals, Request, Signals},
};
use crate::{summary, watchdog::watchdog};
use leastconn::ShortDuration;
use leastconn_config::Config;
use leastconn_server::{
    environment::PID1,
    process::inherited::Inherited,
    process::notify,
    process::predecessors::Predecessors,
    process::upgrade::{
        self, Passed, Pid1, PredecessorChannels, ReadySuccessor, Successor, Updates, UpgradeError,
        channel::{self, Channel, Pid1Message, PredecessorMessage, StartMessage, UnusedSockets},
    },
    reload::Reloader,
    server::{Prepared, Server},
    telemetry::access_log::AccessLog,
};

/// How long a successor waits for its first health checks before it takes over. Until then
/// the predecessor keeps serving, because it already knows the state of the servers.
const FIRST_PROBES_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a successor waits for the first answers of discovery sources for which it has received
/// no servers from the predecessor. On a timeout, the upgrade fails and the predecessor keeps
/// serving. This time must be shorter than [`upgrade::READY_TIMEOUT`].
const FIRST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a starting process waits for the first answer of the fleet's store. Clients that
/// connect in the meantime wait in the backlog. On a timeout, the process starts as if it were cut
/// off.
const FLEET_ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// A successor that is ready to take over.
struct Ready {
    successor: ReadySuccessor,
    /// Blocks reloads until the successor has taken over.
    guard: OwnedMutexGuard<()>,
    /// The socket that receives the pid of the newest process, if this process is pid 1 of a
    /// container.
    newest_pid: Option<UnixStream>,
}

type Upgraded = Result<Ready, UpgradeError>;

pub(super) async fn serve(
    config: Config,
    log: AccessLog,
    mut inherited: Inherited,
    early: &EarlySignals,
) -> io::Result<u8> {
    let signals = Signals::install(early)?;
    let prepared = match Prepared::new(config, log.clone(), &mut inherited) {
        Ok(prepared) => prepared,
        Err(error) => {
            inherited.close_rest();
            tracing::error!(%error, "cannot start");
            inherited.fail(vec![error.to_string()]);
            return Ok(FAILED);
        }
    };
    let unused = inherited.close_rest();
    if inherited.is_upgrade() {
        let state = prepared.context().snapshot();
        if timeout(FIRST_ANSWERS_TIMEOUT, state.first_answers())
            .await
            .is_err()
        {
            let error = state.unanswered_sources();
            tracing::error!(%error, "cannot start");
            inherited.fail(vec![error]);
            return Ok(FAILED);
        }
        state.first_probes(FIRST_PROBES_TIMEOUT).await;
    }
    // Until the numbers of the other members are known, limits are divided by the number of
    // members. Therefore, wait a moment for the store before accepting clients.
    let member = &prepared.context().member;
    member.first_answer(FLEET_ANSWER_TIMEOUT).await;
    // Subscribe before the first command can arrive.
    let commands = prepared.context().overrides.forwards();
    let server = prepared.open();
    let is_ready = summary::announce(&server);
    let mut service = Service {
        log,
        signals,
        predecessor_pid: inherited.replaces(),
        predecessor: None,
        draining: None,
        pid1: None,
        watchdog: None,
        is_ready,
        starting: None,
        summary: tokio::spawn(summary::upstreams(Arc::clone(server.context()))),
    };
    let updates = Updates::new(server.reloader().reloads(), commands);
    service.start(&server, inherited, unused, updates)?;
    service.run(server).await
}

struct Service {
    log: AccessLog,
    signals: Signals,
    predecessor_pid: Option<u32>,
    /// The predecessor, until this process has taken over from it.
    predecessor: Option<Predecessor>,
    /// Channels to all predecessors, once this process has taken over.
    draining: Option<PredecessorChannels>,
    /// Channel to pid 1 of the container, unless this process is pid 1.
    pid1: Option<UnixStream>,
    watchdog: Option<JoinHandle<()>>,
    /// Whether the process was already ready when its start was logged.
    is_ready: bool,
    /// The task that waits until the process is ready.
    starting: Option<JoinHandle<()>>,
    summary: JoinHandle<()>,
}

struct Predecessor {
    channel: Channel,
    /// Channels to older processes that still drain.
    older: Vec<UnixStream>,
    /// Reloads and kills to forward to all predecessors.
    updates: Updates,
}

impl Predecessor {
    /// Starts forwarding reloads and kills to all predecessors.
    fn forward(self, predecessors: &Arc<Predecessors>) -> io::Result<PredecessorChannels> {
        let mut streams = self.older;
        streams.push(self.channel.into_stream()?);
        PredecessorChannels::notify(streams, self.updates, predecessors)
    }
}

/// Why this process stopped accepting connections.
enum End {
    Stopped(&'static str),
    Replaced(Box<Ready>),
}

impl Service {
    /// Reports readiness: a successor to its predecessor, any other process to the service
    /// manager. The listeners accept connections already. The admin side of a successor answers
    /// only after [`Self::take_over`].
    fn start(
        &mut self,
        server: &Server,
        mut inherited: Inherited,
        unused: UnusedSockets,
        updates: Updates,
    ) -> io::Result<()> {
        let streams = inherited.take_streams();
        self.pid1 = streams.pid1;
        let Some(predecessor) = streams.old else {
            server.activate();
            self.notify_ready(server);
            self.start_watchdog();
            return Ok(());
        };
        // Sending fails if the predecessor has exited. This process then takes over anyway.
        let _ = channel::send(&predecessor, &StartMessage::Ready(unused));
        self.predecessor = Some(Predecessor {
            channel: Channel::new(predecessor)?,
            older: streams.older,
            updates,
        });
        Ok(())
    }

    /// Notifies the service manager when the process is ready. With discovery, the process may
    /// become ready later, in a separate task.
    fn notify_ready(&mut self, server: &Server) {
        if self.is_ready {
            notify::ready();
            return;
        }
        // If the start has finished since the announcement, this completes immediately.
        let started = server.context().lifecycle.started_fully();
        self.starting = Some(tokio::spawn(async move {
            started.await;
            tracing::info!("ready");
            notify::ready();
        }));
    }

    fn start_watchdog(&mut self) {
        self.watchdog = Some(tokio::spawn(watchdog()));
    }

    /// Takes over the service after the predecessor has stopped accepting. From now on, the admin
    /// side of this process answers.
    fn take_over(&mut self, server: &Server) {
        notify::ready_as_main_process();
        self.start_watchdog();
        server.activate();
        if let Some(predecessor) = self.predecessor.take() {
            let draining = predecessor.forward(&server.context().predecessors);
            self.draining = draining
                .inspect_err(
                    |error| tracing::warn!(%error, "cannot forward reloads to predecessor processes"),
                )
                .ok();
        }
        self.send_newest_pid(std::process::id());
        tracing::info!(
            pid = std::process::id(),
            from = self.predecessor_pid,
            "took over from predecessor"
        );
    }

    /// Tells pid 1 of the container to forward signals to process `pid`. The
    /// predecessor sends this message, and the successor sends it again: pid 1 exits when the
    /// newest process exits, so it must know the successor before the predecessor exits.
    fn send_newest_pid(&self, pid: u32) {
        let Some(pid1) = &self.pid1 else {
            return;
        };
        let pid = i32::try_from(pid).unwrap_or_default();
        if let Err(error) = channel::send(pid1, &Pid1Message::Newest { pid }) {
            tracing::error!(%error, "cannot reach pid 1: signals to pid 1 will not be forwarded to the newest process");
        }
    }

    async fn run(mut self, server: Server) -> io::Result<u8> {
        let mut upgrading: Option<Pin<Box<dyn Future<Output = Upgraded> + Send>>> = None;
        let mut reload = false;
        let end = loop {
            tokio::select! {
                // Poll in this order, so that a takeover is handled before a stop request.
                biased;
                go = next_message(&mut self.predecessor) => {
                    // `None` means that the predecessor has exited.
                    let (reload, overrides) = match go {
                        Some(PredecessorMessage::Go { reload, overrides }) => (reload, overrides),
                        Some(PredecessorMessage::Overrides(late)) => {
                            server.context().overrides.import(&late);
                            continue;
                        }
                        None => (false, None),
                    };
                    if let Some(carried) = overrides {
                        server.context().overrides.import(&carried);
                    }
                    self.take_over(&server);
                    if reload {
                        tracing::info!("reloading: requested during the upgrade");
                        server.reloader().request();
                    }
                }
                request = self.signals.next() => match request {
                    Request::Stop(name) => break End::Stopped(name),
                    Request::ReopenLogs => self.reopen_logs(),
                    Request::Reload if upgrading.is_some() => {
                        tracing::info!(signal = "SIGHUP", "reload postponed until the upgrade completes");
                        reload = true;
                    }
                    Request::Reload => {
                        tracing::info!(signal = "SIGHUP", "reloading");
                        server.reloader().request();
                    }
                    Request::Upgrade if upgrading.is_some() => {
                        tracing::warn!(signal = "SIGUSR2", "upgrade request ignored: an upgrade is in progress");
                    }
                    Request::Upgrade if self.predecessor.is_some() => {
                        tracing::warn!(signal = "SIGUSR2", "upgrade request ignored: this process has not taken over yet");
                    }
                    Request::Upgrade => {
                        tracing::info!(signal = "SIGUSR2", "starting successor process");
                        upgrading = Some(Box::pin(begin_upgrade(&server, self.streams())));
                    }
                },
                upgraded = outcome(&mut upgrading) => {
                    upgrading = None;
                    match upgraded {
                        Ok(ready) => break End::Replaced(Box::new(ready)),
                        Err(error) => {
                            // Set the status before writing the log line: a program that
                            // reads the log may query the status next.
                            server.context().lifecycle.set_failed_upgrade(error.to_string());
                            tracing::error!(%error, "upgrade failed, this process continues");
                            if std::mem::take(&mut reload) {
                                server.reloader().request();
                            }
                        }
                    }
                }
            }
        };
        // Dropping the upgrade kills a successor that is not ready yet. It also unblocks
        // pending reloads, which then fail.
        drop(upgrading);
        self.summary.abort();
        if let Some(starting) = self.starting.take() {
            starting.abort();
        }
        match end {
            End::Stopped(signal) => {
                notify::stopping();
                self.stop(server, signal).await
            }
            End::Replaced(ready) => {
                let Ready {
                    successor,
                    guard,
                    newest_pid,
                } = *ready;
                if let Some(watchdog) = self.watchdog.take() {
                    watchdog.abort();
                }
                self.send_newest_pid(successor.pid());
                let (server, successor) = self.hand_over(server, successor, reload, guard).await;
                match newest_pid {
                    Some(newest_pid) => {
                        let pid1 = Pid1::new(&successor, newest_pid)?;
                        self.drain_as_pid1(server, successor, pid1).await
                    }
                    None => self.drain_replaced(server, successor).await,
                }
            }
        }
    }

    /// Returns the channels that a successor inherits. If this process is pid 1, also returns its
    /// own end of the channel to pid 1.
    fn streams(&self) -> io::Result<(Vec<Passed>, Option<UnixStream>)> {
        let draining = self.draining.as_ref().map(PredecessorChannels::share);
        let mut passed = draining.transpose()?.unwrap_or_default();
        let (pid1, newest_pid) = if upgrade::is_pid1() {
            let (ours, theirs) = UnixStream::pair()?;
            (Some(theirs), Some(ours))
        } else {
            let pid1 = self.pid1.as_ref().map(UnixStream::try_clone);
            (pid1.transpose()?, None)
        };
        passed.extend(pid1.map(|pid1| (PID1.to_owned(), pid1.into())));
        Ok((passed, newest_pid))
    }

    /// Stops accepting and lets the successor take over.
    async fn hand_over(
        &mut self,
        mut server: Server,
        successor: ReadySuccessor,
        mut reload: bool,
        guard: OwnedMutexGuard<()>,
    ) -> (Server, Successor) {
        server.hand_over(&successor.unused).await;
        drop(guard);
        // Hand over the overrides first: older processes must receive all kills that this
        // process accepts.
        let overrides = server.context().overrides.hand_over();
        if let Some(draining) = self.draining.take() {
            draining.leave().await;
        }
        let pid = successor.pid();
        if !upgrade::is_pid1() {
            // The service manager accepts this message only from the current main process. The
            // successor reports itself as ready after it has taken over.
            notify::main_pid(pid);
        }
        // Requests from signals that arrived during the upgrade. They are forwarded below.
        let mut to_forward = Vec::new();
        while let Some(request) = self.signals.pending().await {
            match request {
                Request::Reload => reload = true,
                Request::ReopenLogs => {
                    reopen(&self.log);
                    to_forward.push(request.signal());
                }
                Request::Stop(_) => to_forward.push(request.signal()),
                Request::Upgrade => tracing::warn!(
                    signal = "SIGUSR2",
                    "upgrade request ignored: an upgrade is in progress"
                ),
            }
        }
        let open = server.context().registry.open();
        let successor = successor.go(reload, overrides).await;
        tracing::info!(
            pid,
            open,
            "successor took over: this process drains its open connections"
        );
        for signal in to_forward {
            successor.signal(signal);
        }
        (server, successor)
    }

    fn reopen_logs(&self) {
        reopen(&self.log);
        if let Some(draining) = &self.draining {
            draining.reopen_logs();
        }
    }

    /// Drains after SIGTERM or SIGINT.
    async fn stop(mut self, server: Server, signal: &str) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let open = server.context().registry.open();
        let reloader = Arc::clone(server.reloader());
        tracing::info!(signal, open, timeout = %ShortDuration(drain_timeout), "draining open connections: a second signal ends the process at once");
        let force = async {
            loop {
                match self.signals.next().await {
                    Request::Stop(_) => return,
                    Request::ReopenLogs => self.reopen_logs(),
                    Request::Reload => reload_open_connections(&reloader),
                    Request::Upgrade => {
                        tracing::warn!(signal = "SIGUSR2", "upgrade request ignored while draining")
                    }
                }
            }
        };
        Ok(drain(server, drain_timeout, force).await)
    }
}

fn begin_upgrade(
    server: &Server,
    streams: io::Result<(Vec<Passed>, Option<UnixStream>)>,
) -> impl Future<Output = Upgraded> + Send + use<> {
    let reloader = Arc::clone(server.reloader());
    let context = Arc::clone(server.context());
    async move {
        // The set of sockets must not change during the upgrade.
        let guard = reloader.pause().await;
        let mut sockets = reloader.sockets().share()?;
        sockets.extend(reloader.admin().share()?);
        let (passed, newest_pid) = streams?;
        sockets.extend(passed);
        let overrides = context.export_overrides();
        let discovered = context.snapshot().export_discovered();
        let limit = upgrade::READY_TIMEOUT;
        Ok(Ready {
            successor: upgrade::start(sockets, overrides, &discovered, limit).await?,
            guard,
            newest_pid,
        })
    }
}

async fn drain(server: Server, limit: Duration, force: impl Future<Output = ()>) -> u8 {
    let drained = server.drain(limit, force).await;
    if drained.forced > 0 {
        tracing::warn!(forced = drained.forced, "stopped with open connections");
        return FAILED;
    }
    tracing::info!("stopped");
    DONE
}

async fn outcome(
    upgrading: &mut Option<Pin<Box<dyn Future<Output = Upgraded> + Send>>>,
) -> Upgraded {
    match upgrading {
        Some(upgrading) => upgrading.await,
        None => std::future::pending().await,
    }
}

/// Waits for the next message from the predecessor. Returns `None` if the predecessor has
/// exited.
async fn next_message(predecessor: &mut Option<Predecessor>) -> Option<PredecessorMessage> {
    match predecessor {
        Some(predecessor) => predecessor.channel.next().await,
        None => std::future::pending().await,
    }
}

/// Reloads, which re-authorizes the draining connections. Does nothing if none are open.
fn reload_open_connections(reloader: &Arc<Reloader>) {
    if !reloader.has_open() {
        return;
    }
    tracing::info!("reloading to re-authorize open connections");
    reloader.request();
}

fn reopen(log: &AccessLog) {
    log.reopen();
    tracing::info!(signal = "SIGUSR1", "reopening log files");
}
