//! What is left of the service in a process whose place another one has taken.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Service, drain, reload_what_is_open, reopen};
use crate::cli::run::signals::Told;
use leastconn_server::{
    overrides::Overrides,
    process::upgrade::{First, Heir, channel::FromHeir},
    registry::Registry,
    reload::Reloader,
    server::Server,
    telemetry::access_log::AccessLog,
};

/// How soon the newest process hears of connections that have ended.
const SOON: Duration = Duration::from_secs(1);

impl Service {
    /// Another process has the sockets: drains, and ends.
    pub(super) async fn leave(mut self, server: Server, mut heir: Heir) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let mut children = signal(SignalKind::child())?;
        let mut left = Left::of(&server, &self.log);
        let hurry = async {
            loop {
                left.mention(&heir);
                let has_failed = heir.has_failed();
                tokio::select! {
                    biased;
                    // First: another one may have taken its place before it ended.
                    said = heir.says() => left.hear(said),
                    () = std::future::ready(()), if has_failed => {
                        tracing::error!(
                            "the new process has ended: nothing is accepted any more, so this one ends at once, for the service to be started again"
                        );
                        return;
                    }
                    told = self.signals.next() => match told {
                        Told::Stop(_) => return,
                        Told::ReopenLogs => reopen(&self.log),
                        Told::Reload => reload_what_is_open(&left.reloader),
                        Told::Upgrade => {
                            tracing::warn!("SIGUSR2: ignored, another process is the service now");
                        }
                    },
                    () = left.changes() => {}
                    _ = children.recv() => {}
                }
            }
        };
        Ok(drain(server, drain_timeout, hurry).await)
    }

    /// The first process of a container, which may not end before the others: drains,
    /// and passes on signals until the newest process has ended.
    pub(super) async fn stand_by(
        mut self,
        server: Server,
        mut heir: Heir,
        mut first: First,
    ) -> io::Result<u8> {
        let drain_timeout = server.context().snapshot().config.process.drain_timeout;
        let hurry = Arc::new(tokio::sync::Notify::new());
        let hurried = Arc::clone(&hurry);
        let mut left = Left::of(&server, &self.log);
        let drained = tokio::spawn(async move {
            drain(
                server,
                drain_timeout,
                async move { hurried.notified().await },
            )
            .await
        });
        let mut stops = 0;
        let code = loop {
            left.mention(&heir);
            tokio::select! {
                code = first.newest_ended() => break code,
                said = heir.says() => left.hear(said),
                () = left.changes() => {}
                told = self.signals.next() => {
                    first.pass_on(told.signal());
                    match told {
                        Told::ReopenLogs => reopen(&self.log),
                        Told::Stop(_) => stops += 1,
                        Told::Reload | Told::Upgrade => {}
                    }
                    // The first one is for the newest process, whose connections may
                    // finish as ours may.
                    if stops > 1 {
                        hurry.notify_one();
                    }
                }
            }
        };
        tracing::info!(code, "the newest process has ended, and so does this one");
        hurry.notify_one();
        let _ = drained.await;
        Ok(code)
    }
}

/// The connections that are left, and what the newest process knows of them, and these
/// of it.
struct Left {
    registry: Arc<Registry>,
    reloader: Arc<Reloader>,
    overrides: Overrides,
    log: AccessLog,
    /// How many it knows of.
    told: Option<usize>,
    tick: Interval,
}

impl Left {
    fn of(server: &Server, log: &AccessLog) -> Self {
        let mut tick = interval(SOON);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            registry: Arc::clone(&server.context().registry),
            reloader: Arc::clone(server.reloader()),
            overrides: server.context().overrides.clone(),
            log: log.clone(),
            told: None,
            tick,
        }
    }

    /// Waits for a time in which there may have been changes.
    async fn changes(&mut self) {
        self.tick.tick().await;
    }

    fn mention(&mut self, heir: &Heir) {
        let open = self.registry.open();
        if self.told != Some(open) {
            self.told = heir.mention(open).then_some(open);
        }
    }

    /// Does what the newest process has done for its own connections.
    fn hear(&mut self, said: FromHeir) {
        match said {
            FromHeir::TookOver { .. } => {
                // It knows of nothing yet.
                self.told = None;
                reload_what_is_open(&self.reloader);
            }
            FromHeir::Reloaded {} => reload_what_is_open(&self.reloader),
            FromHeir::ReopenedLogs {} => {
                self.log.reopen();
                tracing::info!("as the newest process was told: opening log files anew");
            }
            FromHeir::Killed(which) => {
                let killed = self.overrides.kill_local(&which);
                if killed > 0 {
                    tracing::info!(
                        killed,
                        "by hand, as the newest process was told: connections of {which} were ended"
                    );
                }
            }
        }
    }
}
