//! Joining and leaving the fleet of the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use leastconn::net;
use leastconn_config::{Fleet, FleetStore, SharedCounts};
use leastconn_fleet::{
    Endpoint, Facts, FleetSettings, OperatorHistory, OperatorState, Password, Redis, RedisSettings,
    Report, Secret, StoreTls,
};
use leastconn_tls::{TlsError, client::client_config};
use parking_lot::Mutex;
use rustix::system::uname;
use tokio::runtime::Handle;

use super::ServerContext;
use crate::{
    fleet::{
        Exchange, MemberSettings, OperatorTarget, Participant, ServerSettings, SharedServers,
        clients::{AskCounts, ClientSettings},
    },
    overrides::{ConnectionFilter, OverrideHandover, Overrides},
    snapshot::{Snapshot, SnapshotHandle},
    telemetry::metrics::AskOutcome,
};

/// How often facts are sent while only the number of connections changes.
const FACTS_INTERVAL: Duration = Duration::from_secs(1);

/// What must change so that this process is a member of the new configuration's fleet, if any.
#[derive(Debug)]
pub(crate) enum FleetChange {
    Nothing,
    Leave,
    Join {
        settings: Box<(Fleet, RedisSettings)>,
        /// Whether the process was a member of a fleet with another name.
        is_renamed: bool,
    },
}

impl FleetChange {
    /// Compares the fleet of the `earlier` configuration with that of the next one. Passwords,
    /// secrets and certificates were read with the configuration, so a change to any of them
    /// counts, too.
    ///
    /// # Errors
    /// If TLS rejects the configured certificates.
    pub(crate) fn plan(earlier: Option<&Fleet>, next: Option<&Fleet>) -> Result<Self, TlsError> {
        match next {
            _ if earlier == next => Ok(Self::Nothing),
            None => Ok(Self::Leave),
            Some(next) => {
                let redis = redis_settings(next)?;
                Ok(Self::Join {
                    settings: Box::new((next.clone(), redis)),
                    is_renamed: earlier.is_some_and(|earlier| earlier.name != next.name),
                })
            }
        }
    }
}

impl ServerContext {
    /// Joins or leaves a fleet.
    ///
    /// # Panics
    /// If called outside the runtime of connections.
    pub(crate) fn apply_fleet(self: &Arc<Self>, change: FleetChange) {
        match change {
            FleetChange::Nothing => {}
            FleetChange::Leave => {
                self.member.leave(&self.fleet);
                self.servers.store(None);
                self.keep_operator_state();
                tracing::info!("fleet left: no longer configured");
            }
            FleetChange::Join {
                settings,
                is_renamed,
            } => {
                let (fleet, redis) = *settings;
                if is_renamed {
                    // The new fleet must not receive what was set for the old one.
                    self.member.leave(&self.fleet);
                    self.keep_operator_state();
                }
                self.join_fleet(&fleet, redis);
            }
        }
    }

    /// Keeps what is set for the fleet, which this process leaves, as settings of this balancer.
    fn keep_operator_state(&self) {
        self.overrides.leave_fleet();
        *self.operator_history.lock() = OperatorHistory::default();
    }

    /// The overrides that a successor process starts with.
    pub fn export_overrides(&self) -> OverrideHandover {
        let history = self.operator_history.lock();
        self.overrides.export().with_history(&history)
    }

    /// Takes the overrides of the predecessor. Must be called before [`Self::apply_fleet`].
    ///
    /// # Panics
    /// As [`Overrides::import`].
    pub(crate) fn import_overrides(&self, handover: &OverrideHandover) {
        if let Some(history) = handover.history(&self.snapshot()) {
            *self.operator_history.lock() = history;
        }
        self.overrides.import(handover);
    }

    /// Limits new servers to the slots that this member holds. Must be called before `next` becomes
    /// the running snapshot.
    pub(crate) fn adopt_servers(&self, next: &Snapshot) {
        if let Some(servers) = &*self.servers.load() {
            servers.adopt(next, net::now());
        }
    }

    fn join_fleet(self: &Arc<Self>, fleet: &Fleet, redis: RedisSettings) {
        let secret = Secret::new(fleet.secret.as_bytes());
        let mut settings = FleetSettings::new(&*fleet.name, secret.clone());
        settings.gone_after = fleet.gone_after;
        settings.size = fleet.size.get();
        // The previous membership ends later, and must not change the new history.
        let mut history = self.operator_history.lock();
        *history = history.copy();
        settings.history = history.clone();
        drop(history);
        let clients = self.clients.join(ClientSettings {
            secret,
            mode: fleet.limits,
            ask_timeout: fleet.ask_timeout,
        });
        let facts = FactsReporter {
            context: Arc::downgrade(self),
            last: Mutex::default(),
        };
        let metrics = ExchangeMetrics {
            context: Arc::downgrade(self),
            asked: Mutex::new(self.clients.asks()),
        };
        let mut participants: Vec<Arc<dyn Participant>> = vec![Arc::new(facts), Arc::new(metrics)];
        participants.extend(clients);
        let servers = Arc::new(SharedServers::new(
            ServerSettings {
                size: fleet.size,
                gone_after: fleet.gone_after,
                ask_timeout: fleet.ask_timeout,
                shares_counts: fleet.counts == SharedCounts::On,
            },
            Arc::<SnapshotHandle>::clone(&self.snapshots),
            Arc::clone(self.member.wake()),
        ));
        self.servers.store(Some(Arc::clone(&servers)));
        participants.push(servers);
        let target = FleetTarget {
            overrides: self.overrides.clone(),
            runtime: Handle::current(),
        };
        let member = MemberSettings {
            fleet: Arc::clone(&fleet.name),
            name: Arc::clone(&fleet.member),
            size: fleet.size,
            gone_after: fleet.gone_after,
            store: fleet.store.to_string(),
        };
        let store = Redis::new(&settings, redis);
        let joined = self
            .member
            .join(member, store, participants, Arc::new(target), &self.fleet);
        self.share_open_connections();
        if let Err(error) = joined {
            self.clients.leave();
            self.servers.store(None);
            tracing::error!(%error, "cannot join the fleet: the thread cannot be started");
        }
    }

    /// Counts the connections that were admitted before this process joined the fleet against the
    /// fleet's limits.
    fn share_open_connections(&self) {
        let open: Vec<_> = self
            .registry
            .list()
            .iter()
            .filter_map(|handle| {
                let state = handle.state();
                Some((state.identity.clone()?, Arc::clone(state.client()?)))
            })
            .collect();
        if open.is_empty() {
            return;
        }
        let snapshot = self.snapshot();
        let rules = snapshot.config.clients.iter();
        let limits: HashMap<_, _> = rules.map(|rule| (rule.name(), *rule.limits())).collect();
        let shared = open
            .iter()
            .filter_map(|(identity, rule)| Some((identity, limits.get(&**rule)?)));
        self.clients.share_open(shared);
    }
}

fn redis_settings(fleet: &Fleet) -> Result<RedisSettings, TlsError> {
    let password = |secret: &leastconn_config::Secret| Password::new(secret.as_bytes());
    let endpoint = match &fleet.store {
        FleetStore::Server(address) => Endpoint::Server(address.clone()),
        FleetStore::Sentinel {
            sentinels,
            primary,
            user,
            password: sentinel_password,
        } => Endpoint::Sentinel {
            sentinels: sentinels.clone(),
            primary: primary.clone(),
            user: user.clone(),
            password: sentinel_password.as_ref().map(password),
        },
        FleetStore::Cluster(nodes) => Endpoint::Cluster(nodes.clone()),
    };
    let tls = match &fleet.tls {
        None => None,
        Some(tls) => Some(StoreTls {
            config: client_config(&tls.settings)?,
            server_name: tls.settings.server_name.clone(),
        }),
    };
    Ok(RedisSettings {
        user: fleet.user.clone(),
        password: fleet.password.as_ref().map(password),
        tls,
        client_name: format!("leastconn-{}", fleet.member),
        ..RedisSettings::new(endpoint)
    })
}

/// Reports the facts about this member that `ctl fleet` shows.
#[derive(Debug)]
struct FactsReporter {
    context: Weak<ServerContext>,
    /// The last facts, and when they were reported.
    last: Mutex<Option<(Facts, Instant)>>,
}

impl Participant for FactsReporter {
    fn report(&self, report: &mut Report, now: Instant) {
        let Some(context) = self.context.upgrade() else {
            return;
        };
        let snapshot = context.snapshot();
        let mut last = self.last.lock();
        if let Some((facts, at)) = &*last
            && facts.config_digest == snapshot.config.digest
            && now.saturating_duration_since(*at) < FACTS_INTERVAL
        {
            return;
        }
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: uname().nodename().to_string_lossy().into_owned(),
            config_digest: snapshot.config.digest.clone(),
            config_since: context.lifecycle.applied().as_second(),
            connections: u64::try_from(context.registry.open()).unwrap_or(u64::MAX),
        };
        report.facts = Some(facts.clone());
        *last = Some((facts, now));
    }

    fn apply(&self, _exchange: &Exchange<'_>) {}
}

/// Measures exchanges with the store.
#[derive(Debug)]
struct ExchangeMetrics {
    context: Weak<ServerContext>,
    /// The counts that the metrics already include. The counters of [`ServerContext::clients`] do
    /// not start at zero if this process was in another fleet before.
    asked: Mutex<AskCounts>,
}

impl Participant for ExchangeMetrics {
    fn report(&self, _report: &mut Report, _now: Instant) {
        let Some(context) = self.context.upgrade() else {
            return;
        };
        let now = context.clients.asks();
        let before = std::mem::replace(&mut *self.asked.lock(), now);
        let metrics = &context.telemetry.metrics.fleet;
        metrics.asked(AskOutcome::Granted, now.granted - before.granted);
        metrics.asked(AskOutcome::Refused, now.refused - before.refused);
        metrics.asked(AskOutcome::TimedOut, now.timeout - before.timeout);
    }

    fn apply(&self, exchange: &Exchange<'_>) {
        if let Some(context) = self.context.upgrade() {
            let took = exchange.received.saturating_duration_since(exchange.sent);
            let metrics = &context.telemetry.metrics.fleet;
            metrics.exchange_seconds.observe(took.as_secs_f64());
        }
    }

    fn failed(&self, _report: &Report) {
        if let Some(context) = self.context.upgrade() {
            context.telemetry.metrics.fleet.exchange_failed();
        }
    }
}

/// Applies commands of the fleet to this process.
#[derive(Debug)]
struct FleetTarget {
    overrides: Overrides,
    /// The runtime of connections. Connections to a server in `maint` are closed on it.
    runtime: Handle,
}

impl OperatorTarget for FleetTarget {
    fn apply(&self, state: &OperatorState) {
        self.overrides.apply_fleet(&self.runtime, state);
    }

    fn kill(&self, filter: &str) -> Result<u64, String> {
        let filter = ConnectionFilter::of_fleet(filter).map_err(|error| error.to_string())?;
        let killed = self.overrides.kill_local(&filter);
        Ok(u64::try_from(killed).unwrap_or(u64::MAX))
    }
}
