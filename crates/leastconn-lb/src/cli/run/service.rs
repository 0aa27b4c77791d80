//! The balancer as a service: from its start, through what signals ask for, to the end
//! of its last connection.

mod replaced;

use std::{io, os::unix::net::UnixStream, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedMutexGuard, task::JoinHandle};

use super::{
    super::{DONE, FAILED},
    signals::{Early, Signals, Told},
};
use crate::{summary, watchdog::watchdog};
use leastconn::ShortDuration;
use leastconn_server::{
    config::Config,
    environment::FIRST,
    process::inherited::Inherited,
    process::notify,
    process::predecessors::Predecessors,
    process::upgrade::{
        self, Earlier, First, Heir, News, Passed, Successor, UpgradeError,
        channel::{self, Channel, FromNew, FromOld, ToFirst, Unused},
    },
    reload::Reloader,
    server::{Prepared, Server},
    telemetry::access_log::AccessLog,
};

/// How long a new process waits until it knows which servers work before it takes
/// connections from the old one, which knows.
const FIRST_PROBES: Duration = Duration::from_secs(5);

/// A new process is ready.
struct Ready {
    successor: Successor,
    /// Keeps reloads waiting until it has taken over.
    guard: OwnedMutexGuard<()>,
    /// Where those who come later tell this process who they are, if it is the first one
    /// of a container.
    later: Option<UnixStream>,
}

type Upgraded = Result<Ready, UpgradeError>;

pub(super) async fn serve(
    config: Config,
    log: AccessLog,
    mut inherited: Inherited,
    early: &Early,
) -> io::Result<u8> {
    let signals = Signals::install(early)?;
    let prepared = match Prepared::new(config, log.clone(), &mut inherited) {
        Ok(prepared) => prepared,
        Err(error) => {
            inherited.close_rest();
            tracing::error!("cannot start: {error}");
            inherited.fail(vec![error.to_string()]);
            return Ok(FAILED);
        }
    };
    let unused = inherited.close_rest();
    if inherited.is_upgrade() {
        let state = prepared.context().snapshot();
        state.first_probes(FIRST_PROBES).await;
    }
    // Before anybody can ask for anything.
    let kills = prepared.context().overrides.kills();
    let server = match prepared.open() {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            inherited.fail(vec![error.to_string()]);
            return Ok(FAILED);
        }
    };
    summary::announce(&server);
    let mut service = Service {
        log,
        signals,
        replaces: inherited.replaces(),
        old: None,
        earlier: None,
        first: None,
        watchdog: None,
        summary: tokio::spawn(summary::upstreams(Arc::clone(server.context()))),
    };
    let news = News::new(server.reloader().reloads(), kills);
    service.begin(&server, inherited, unused, news)?;
    service.run(server).await
}

struct Service {
    log: AccessLog,
    signals: Signals,
    /// The ID of the process that was here before.
    replaces: Option<u32>,
    /// The process whose place this one is about to take.
    old: Option<Old>,
    /// It, and those before it, once this one has.
    earlier: Option<Earlier>,
    /// The first process of the container, if that is not this one.
    first: Option<UnixStream>,
    watchdog: Option<JoinHandle<()>>,
    summary: JoinHandle<()>,
}

struct Old {
    channel: Channel,
    /// Those before it.
    earlier: Vec<UnixStream>,
    /// For all of them.
    news: News,
}

impl Old {
    fn tell(self, left: &Arc<Predecessors>) -> io::Result<Earlier> {
        let mut streams = self.earlier;
        streams.push(self.channel.into_stream()?);
        Earlier::tell(streams, self.news, left)
    }
}

/// Why nothing new is accepted.
enum End {
    Stopped(&'static str),
    Replaced(Box<Ready>),
}

impl Service {
    /// Says that it accepts connections, to whoever wants to know.
    fn begin(
        &mut self,
        server: &Server,
        mut inherited: Inherited,
        unused: Unused,
        news: News,
    ) -> io::Result<()> {
        let streams = inherited.take_streams();
        self.first = streams.first;
        let Some(old) = streams.old else {
            server.begin();
            notify::ready();
            self.watch();
            return Ok(());
        };
        // If the old one is gone there is nobody to be told, and this one goes on.
        let _ = channel::send(&old, &FromNew::Ready(unused));
        self.old = Some(Old {
            channel: Channel::new(old)?,
            earlier: streams.earlier,
            news,
        });
        Ok(())
    }

    fn watch(&mut self) {
        self.watchdog = Some(tokio::spawn(watchdog()));
    }

    /// The old process accepts no more: this one is the service.
    fn take_over(&mut self, server: &Server) {
        notify::ready_in_its_place();
        self.watch();
        server.begin();
        if let Some(old) = self.old.take() {
            let earlier = old.tell(&server.context().predecessors);
            self.earlier = earlier
                .inspect_err(|error| tracing::warn!(%error, "the processes before this one will not be told of reloads"))
                .ok();
        }
        self.tell_first(std::process::id());
        tracing::info!(
            pid = std::process::id(),
            from = self.replaces,
            "took over from the process that was here before"
        );
    }

    /// Tells the first process of a container, if that is not this one, that signals are
    /// for process `pid`. Whoever takes over does so, but the one before may have ended
    /// by then, and must not be taken for the last.
    fn tell_first(&self, pid: u32) {
        let Some(first) = &self.first else {
            return;
        };
        let pid = i32::try_from(pid).unwrap_or_default();
        if let Err(error) = channel::send(first, &ToFirst::Newest { pid }) {
            tracing::error!(%error, "the first process was not told: signals will not arrive");
        }
    }

    async fn run(mut self, server: Server) -> io::Result<u8> {
        let mut upgrading: Option<Pin<Box<dyn Future<Output = Upgraded> + Send>>> = None;
        let mut reload = false;
        let end = loop {
            tokio::select! {
                // First what it is: only then it can be told to stop.
                biased;
                go = told_to_go(&mut self.old) => {
                    // None: it is gone, and this one is left.
                    let (reload, overrides) = match go {
                        Some(FromOld::Go { reload, overrides }) => (reload, overrides),
                        None => (false, None),
                    };
                    if let Some(carried) = overrides {
                        server.context().overrides.take_over(&carried);
                    }
                    self.take_over(&server);
                    if reload {
                        tracing::info!("reading the configuration anew: somebody asked for it meanwhile");
                        server.reloader().request();
                    }
                }
                told = self.signals.next() => match told {
                    Told::Stop(name) => break End::Stopped(name),
                    Told::ReopenLogs => self.reopen_logs(),
                    Told::Reload if upgrading.is_some() => {
                        tracing::info!("SIGHUP: put off until it is known whether the new process takes over");
                        reload = true;
                    }
                    Told::Reload => {
                        tracing::info!("SIGHUP: reading the configuration anew");
                        server.reloader().request();
                    }
                    Told::Upgrade if upgrading.is_some() => {
                        tracing::warn!("SIGUSR2: ignored, an upgrade is going on");
                    }
                    Told::Upgrade if self.old.is_some() => {
                        tracing::warn!("SIGUSR2: ignored, this process is just taking over");
                    }
                    Told::Upgrade => {
                        tracing::info!("SIGUSR2: starting a new process, to leave the sockets to");
                        upgrading = Some(Box::pin(begin_upgrade(&server, self.streams())));
                    }
                },
                upgraded = outcome(&mut upgrading) => {
                    upgrading = None;
                    match upgraded {
                        Ok(ready) => break End::Replaced(Box::new(ready)),
                        Err(error) => {
                            // In this order: who reads it in the log asks for the state.
                            server.context().lifecycle.set_failed_upgrade(error.to_string());
                            tracing::error!("no upgrade, this process goes on: {error}");
                            if std::mem::take(&mut reload) {
                                server.reloader().request();
                            }
                        }
                    }
                }
            }
        };
        // Ends a process that is not ready yet, and lets reloads go on, to be told
        // that it is too late.
        drop(upgrading);
        self.summary.abort();
        match end {
            End::Stopped(signal) => {
                notify::stopping();
                self.stop(server, signal).await
            }
            End::Replaced(ready) => {
                let Ready {
                    successor,
                    guard,
                    later,
                } = *ready;
                if let Some(watchdog) = self.watchdog.take() {
                    watchdog.abort();
                }
                self.tell_first(successor.pid());
                let (server, heir) = self.hand_over(server, successor, reload, guard).await;
                match later {
                    Some(later) => {
                        let first = First::new(&heir, later)?;
                        self.stand_by(server, heir, first).await
                    }
                    None => self.leave(server, heir).await,
                }
            }
        }
    }

    /// How a new process is to reach others than this one; and this one's own end, if
    /// it is the first one of a container.
    fn streams(&self) -> io::Result<(Vec<Passed>, Option<UnixStream>)> {
        let earlier = self.earlier.as_ref().map(Earlier::share);
        let mut passed = earlier.transpose()?.unwrap_or_default();
        let (first, later) = if upgrade::is_first() {
            let (ours, theirs) = UnixStream::pair()?;
            (Some(theirs), Some(ours))
        } else {
            let first = self.first.as_ref().map(UnixStream::try_clone);
            (first.transpose()?, None)
        };
        passed.extend(first.map(|first| (FIRST.to_owned(), first.into())));
        Ok((passed, later))
    }

    /// Leaves the sockets to a process that is ready.
    async fn hand_over(
        &mut self,
        mut server: Server,
        successor: Successor,
        mut reload: bool,
        guard: OwnedMutexGuard<()>,
    ) -> (Server, Heir) {
        server.leave_to_another(&successor.unused).await;
        drop(guard);
        // In this order: what was asked of this process so far is told by it.
        let overrides = server.context().overrides.leave();
        if let Some(earlier) = self.earlier.take() {
            earlier.leave().await;
        }
        let pid = successor.pid();
        if !upgrade::is_first() {
            // By us, from whom the manager takes it; the new one's own news, which it
            // sends once it is told to go, comes after.
            notify::main_pid(pid);
        }
        // Whoever sent these did not know of the new one yet.
        let mut to_heir = Vec::new();
        while let Some(told) = self.signals.pending().await {
            match told {
                Told::Reload => reload = true,
                Told::ReopenLogs => {
                    reopen(&self.log);
                    to_heir.push(told.signal());
                }
                Told::Stop(_) => to_heir.push(told.signal()),
                Told::Upgrade => tracing::warn!("SIGUSR2: ignored, an upgrade is going on"),
            }
        }
        let open = server.context().registry.open();
        let heir = successor.go(reload, overrides).await;
        tracing::info!(
            pid,
            open,
            "a new process has taken over: this one serves its open connections to their end"
        );
        for signal in to_heir {
            heir.signal(signal);
        }
        (server, heir)
    }

    fn reopen_logs(&self) {
        reopen(&self.log);
        if let Some(earlier) = &self.earlier {
            earlier.reopen_logs();
        }
    }

    /// Told to stop: drains.
    async fn stop(mut self, server: Server, signal: &str) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let open = server.context().registry.open();
        let reloader = Arc::clone(server.reloader());
        tracing::info!(signal, open, timeout = %ShortDuration(drain_timeout), "draining: no new connections; a second signal ends at once");
        let hurry = async {
            loop {
                match self.signals.next().await {
                    Told::Stop(_) => return,
                    Told::ReopenLogs => self.reopen_logs(),
                    Told::Reload => reload_what_is_open(&reloader),
                    Told::Upgrade => tracing::warn!("SIGUSR2: ignored while draining"),
                }
            }
        };
        Ok(drain(server, drain_timeout, hurry).await)
    }
}

fn begin_upgrade(
    server: &Server,
    streams: io::Result<(Vec<Passed>, Option<UnixStream>)>,
) -> impl Future<Output = Upgraded> + Send + use<> {
    let reloader = Arc::clone(server.reloader());
    let context = Arc::clone(server.context());
    async move {
        // The sockets must not change meanwhile.
        let guard = reloader.pause().await;
        let mut sockets = reloader.sockets().share()?;
        sockets.extend(reloader.admin().share()?);
        let (passed, later) = streams?;
        sockets.extend(passed);
        let overrides = context.overrides.carried();
        Ok(Ready {
            successor: upgrade::start(sockets, overrides, upgrade::PATIENCE).await?,
            guard,
            later,
        })
    }
}

async fn drain(server: Server, limit: Duration, hurry: impl Future<Output = ()>) -> u8 {
    let drained = server.drain(limit, hurry).await;
    if drained.forced > 0 {
        tracing::warn!(forced = drained.forced, "stopped; connections were cut off");
        return FAILED;
    }
    tracing::info!("stopped; all connections had ended");
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

/// What the old process says; none: it is gone, and says nothing more.
async fn told_to_go(old: &mut Option<Old>) -> Option<FromOld> {
    match old {
        Some(old) => old.channel.next().await,
        None => std::future::pending().await,
    }
}

/// What may go on is also for connections to say that are served to their end.
fn reload_what_is_open(reloader: &Arc<Reloader>) {
    if !reloader.has_open() {
        return;
    }
    tracing::info!("reading the configuration anew, for the connections that are still open");
    reloader.request();
}

fn reopen(log: &AccessLog) {
    log.reopen();
    tracing::info!("SIGUSR1: opening log files anew");
}
