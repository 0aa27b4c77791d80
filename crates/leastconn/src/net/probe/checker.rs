//! Probes the servers of a pool periodically.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::{
    super::{
        jittered,
        member_tasks::MemberTasks,
        now,
        prepare::{Plain, Prepare},
        random,
    },
    Check, probe,
};
use crate::{Failure, Member, Pool, Server, UpstreamId, sync::Mutex};

/// Maximum probe interval while no server of an upstream is available. It is short, because clients
/// are waiting for the first server to recover.
pub(super) const URGENT: Duration = Duration::from_secs(1);

/// Period over which the first probes of servers that join a running pool are spread. If the probe
/// interval is shorter, it is used instead.
pub(super) const SPREAD: Duration = Duration::from_secs(1);

/// Probes the members of a pool until the checker is dropped. Each server is probed immediately and
/// then at the configured interval. While no server is available, each server is probed at least
/// every second.
///
/// The checker follows the membership of the pool. Servers that stay in the pool keep their
/// schedule, even if the checker of a [successor](Pool::successor) takes over. The first probes of
/// joining servers are spread over one second. Servers in maintenance are not probed.
#[derive(Debug)]
pub struct Checker {
    /// The tasks that probe the servers. They are aborted when the checker is dropped, because the
    /// supervisor task holds only a weak reference.
    _probers: Arc<Mutex<MemberTasks>>,
    _supervisor: JoinSet<()>,
    servers: usize,
    /// Number of initial members whose first probe has completed.
    probed: watch::Receiver<usize>,
}

impl Checker {
    /// Starts probing on the current Tokio runtime.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start(pool: &Pool, check: Check) -> Self {
        Self::start_with(pool, check, Plain)
    }

    /// Like [`Self::start`], but prepares each new connection with `step`, within the time limit of
    /// the probe.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn start_with<P: Prepare + 'static>(pool: &Pool, check: Check, step: P) -> Self {
        let settings = Settings {
            upstream: pool.id().clone(),
            check: Arc::new(check),
            step: Arc::new(step),
            panicking: pool.panicking(),
        };
        let mut changes = pool.watch_members();
        let members = Arc::clone(&changes.borrow_and_update());
        let (first, probed) = watch::channel(0);
        let mut probers = MemberTasks::default();
        let is_running = members.iter().any(|member| !is_new(member));
        settings.start(&mut probers, &members, is_running, Some(&first));
        drop(first);
        let probers = Arc::new(Mutex::new(probers));
        let weak = Arc::downgrade(&probers);
        let mut supervisor = JoinSet::new();
        supervisor.spawn(async move {
            while changes.changed().await.is_ok() {
                let members = Arc::clone(&changes.borrow_and_update());
                let Some(probers) = weak.upgrade() else {
                    return;
                };
                let mut probers = probers.lock();
                probers.keep_only(&members);
                settings.start(&mut probers, &members, true, None);
            }
        });
        Self {
            _probers: probers,
            _supervisor: supervisor,
            servers: members.len(),
            probed,
        }
    }

    /// Completes when each server that was a member at the start has been probed, whatever the
    /// result. Servers in maintenance count as probed. In a new pool, this takes at most the time
    /// limit of the check. In a successor pool, it may take one second longer, because the first
    /// probes of new servers are spread. Also completes when the checker is dropped.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut probed, servers) = (self.probed.clone(), self.servers);
        async move {
            // An error means that the probing tasks have ended.
            let _ = probed.wait_for(|&probed| probed >= servers).await;
        }
    }
}

/// Settings and state that all probers of a pool share.
struct Settings<P> {
    upstream: UpstreamId,
    check: Arc<Check>,
    step: Arc<P>,
    /// Whether no server of the upstream is available.
    panicking: watch::Receiver<bool>,
}

impl<P: Prepare + 'static> Settings<P> {
    /// Starts a probe task for each member without one. If `is_running` is set, the first probes of
    /// servers that have never been probed are spread over [`SPREAD`].
    fn start(
        &self,
        tasks: &mut MemberTasks,
        members: &[Member],
        is_running: bool,
        first: Option<&watch::Sender<usize>>,
    ) {
        let members = tasks.missing(members);
        let new = members.iter().filter(|member| is_new(member)).count();
        let mut starts = spread(new, is_running, self.check.interval);
        for member in members {
            let start = if is_new(member) { starts.next() } else { None };
            let prober = Prober {
                server: Arc::clone(&member.server),
                upstream: self.upstream.clone(),
                check: Arc::clone(&self.check),
                step: Arc::clone(&self.step),
                panicking: self.panicking.clone(),
            };
            let task = prober.run(start, first.cloned());
            tasks.spawn(Arc::clone(&member.server), task);
        }
    }
}

/// Whether the server has never been probed.
fn is_new(member: &Member) -> bool {
    member.server.last_probe.lock().is_none()
}

/// Returns the times at which the `new` servers are probed for the first time.
fn spread(new: usize, is_running: bool, interval: Duration) -> impl Iterator<Item = Instant> {
    let start = now();
    let time = if is_running {
        SPREAD.min(interval)
    } else {
        Duration::ZERO
    };
    let count = u32::try_from(new.max(1)).unwrap_or(u32::MAX);
    (0..count).map(move |nth| start + time / count * nth)
}

struct Prober<P> {
    server: Arc<Server>,
    upstream: UpstreamId,
    check: Arc<Check>,
    step: Arc<P>,
    panicking: watch::Receiver<bool>,
}

impl<P: Prepare> Prober<P> {
    /// Probes the server until the task is aborted. The first probe starts at `start`, or one
    /// interval after the last probe. Increments `first` after the first probe, or immediately if
    /// the server was probed before the task started.
    async fn run(mut self, start: Option<Instant>, first: Option<watch::Sender<usize>>) {
        let count_first = |first: Option<watch::Sender<usize>>| {
            if let Some(first) = first {
                first.send_modify(|probed| *probed += 1);
            }
        };
        let mut first = first;
        let last = *self.server.last_probe.lock();
        match (start, last) {
            (Some(start), _) => sleep_until(start.into()).await,
            (None, Some(last)) => {
                count_first(first.take());
                self.wait_since(last).await;
            }
            (None, None) => {}
        }
        loop {
            let start = now();
            if !self.server.is_in_maint() {
                self.probe().await;
                *self.server.last_probe.lock() = Some(start);
            }
            count_first(first.take());
            self.wait_since(start).await;
        }
    }

    async fn probe(&self) {
        let Self {
            server, upstream, ..
        } = self;
        let result = probe(server, &self.check, &*self.step).await;
        // The server group logs that a server goes up or down.
        let changed = match &result {
            Ok(()) => server.probed(true),
            Err(error) if error.is_server_fault() => {
                server.probe_failed(Failure::new(SystemTime::now(), error))
            }
            Err(_) => false,
        };
        if let (false, Err(error)) = (changed, result) {
            tracing::debug!(%upstream, server = %server.id(), %error, "health check failed");
        }
    }

    /// Waits until the next probe is due. The previous probe started at `start`.
    async fn wait_since(&mut self, start: Instant) {
        let random = random();
        let interval = self.check.interval;
        loop {
            let is_panicking = *self.panicking.borrow_and_update();
            let interval = if is_panicking {
                URGENT.min(interval)
            } else {
                interval
            };
            let wait = jittered(interval, random);
            let due = sleep(wait.saturating_sub(now().saturating_duration_since(start)));
            tokio::select! {
                () = due => return,
                Ok(()) = self.panicking.changed() => {}
            }
        }
    }
}
