//! A process that has been replaced by a successor: drains, and forwards signals if it is
//! pid 1 of a container.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Service, drain, reload_open_connections, reopen};
use crate::cli::run::signals::Request;
use leastconn_server::{
    overrides::Overrides,
    process::upgrade::{Pid1, Successor, channel::NewestMessage},
    registry::Registry,
    reload::Reloader,
    server::Server,
    telemetry::access_log::AccessLog,
};

/// How often the number of open connections is reported to the newest process.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl Service {
    pub(super) async fn drain_replaced(
        mut self,
        server: Server,
        mut successor: Successor,
    ) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let mut children = signal(SignalKind::child())?;
        let mut remaining = Remaining::of(&server, &self.log);
        let force = async {
            loop {
                remaining.report(&successor);
                let has_failed = successor.has_failed();
                tokio::select! {
                    biased;
                    // Read messages before handling the exit of the successor: the last
                    // message may report that another process has replaced it.
                    message = successor.next() => remaining.apply(message),
                    () = std::future::ready(()), if has_failed => {
                        tracing::error!(
                            "successor exited and no process accepts connections: this process exits, so that the service manager restarts the service"
                        );
                        return;
                    }
                    request = self.signals.next() => match request {
                        Request::Stop(_) => return,
                        Request::ReopenLogs => reopen(&self.log),
                        Request::Reload => reload_open_connections(&remaining.reloader),
                        Request::Upgrade => {
                            tracing::warn!(signal = "SIGUSR2", "upgrade request ignored: this process has been replaced");
                        }
                    },
                    () = remaining.report_due() => {}
                    _ = children.recv() => {}
                }
            }
        };
        Ok(drain(server, drain_timeout, force).await)
    }

    /// Drains as pid 1 of a container, and forwards signals until the newest process exits:
    /// pid 1 must not exit before the other processes.
    pub(super) async fn drain_as_pid1(
        mut self,
        server: Server,
        mut successor: Successor,
        mut pid1: Pid1,
    ) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let force = Arc::new(tokio::sync::Notify::new());
        let forced = Arc::clone(&force);
        let mut remaining = Remaining::of(&server, &self.log);
        let drained = tokio::spawn(async move {
            drain(
                server,
                drain_timeout,
                async move { forced.notified().await },
            )
            .await
        });
        let mut stops = 0;
        let code = loop {
            remaining.report(&successor);
            tokio::select! {
                code = pid1.newest_exited() => break code,
                message = successor.next() => remaining.apply(message),
                () = remaining.report_due() => {}
                request = self.signals.next() => {
                    pid1.forward(request.signal());
                    match request {
                        Request::ReopenLogs => reopen(&self.log),
                        Request::Stop(_) => stops += 1,
                        Request::Reload | Request::Upgrade => {}
                    }
                    // The first stop request only starts the drain of the newest process.
                    // The second one closes the connections of this process.
                    if stops > 1 {
                        force.notify_one();
                    }
                }
            }
        };
        tracing::info!(
            code,
            "newest process exited: this process exits with the same code"
        );
        force.notify_one();
        let _ = drained.await;
        Ok(code)
    }
}

/// State for reporting the connections that are still open in this process, and for
/// applying the actions of the newest process to them.
struct Remaining {
    registry: Arc<Registry>,
    reloader: Arc<Reloader>,
    overrides: Overrides,
    log: AccessLog,
    /// The number of connections last reported.
    reported: Option<usize>,
    tick: Interval,
}

impl Remaining {
    fn of(server: &Server, log: &AccessLog) -> Self {
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            registry: Arc::clone(&server.context().registry),
            reloader: Arc::clone(server.reloader()),
            overrides: server.context().overrides.clone(),
            log: log.clone(),
            reported: None,
            tick,
        }
    }

    /// Waits until the next report is due.
    async fn report_due(&mut self) {
        self.tick.tick().await;
    }

    /// Reports the number of open connections if it has changed since the last report.
    fn report(&mut self, successor: &Successor) {
        let open = self.registry.open();
        if self.reported != Some(open) {
            self.reported = successor.report(open).then_some(open);
        }
    }

    /// Applies an action of the newest process to the connections of this process.
    fn apply(&mut self, message: NewestMessage) {
        match message {
            NewestMessage::TookOver { .. } => {
                // A new process has taken over. Nothing has been reported to it yet.
                self.reported = None;
                reload_open_connections(&self.reloader);
            }
            NewestMessage::Reloaded {} => reload_open_connections(&self.reloader),
            NewestMessage::ReopenedLogs {} => {
                self.log.reopen();
                tracing::info!("reopening log files, forwarded by the newest process");
            }
            NewestMessage::Killed(which) => {
                let killed = self.overrides.kill_local(&which);
                if killed > 0 {
                    tracing::info!(
                        killed,
                        filter = %which,
                        "connections killed: command forwarded by the newest process"
                    );
                }
            }
            NewestMessage::Blocked(blocks) => self.overrides.set_forwarded_blocks(&blocks),
        }
    }
}
