//! `GET /api/v1/status`

mod certificate;

use std::{fmt, path::Path};

use jiff::Timestamp;
use leastconn_config::{
    Access,
    confinement::{self, Confinement},
    files,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiContext, FleetSummary, Outcomes, SetFor, UpstreamSummary, count, outcomes, time};
use crate::{
    context,
    overrides::{Origin, Override},
    snapshot::Listener,
};

pub use certificate::{Certificate, CertificateKind, CertificateState};

/// The balancer as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Host name.
    #[serde(default)]
    pub host: String,
    /// Process ID.
    pub pid: u32,
    pub phase: Phase,
    /// While draining: time at which the remaining connections are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ends: Option<String>,
    /// Start time.
    pub started: String,
    /// Current time.
    pub time: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Last failed upgrade. This process continued to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_upgrade: Option<FailedUpgrade>,
    /// Predecessor processes that still serve connections. The rest of the status describes this
    /// process only.
    #[serde(default)]
    pub old_processes: Vec<OldProcess>,
    /// Whether this client may make changes.
    #[serde(default)]
    pub changes: Changes,
    /// Number of threads that serve connections.
    pub workers: usize,
    pub configuration: Configuration,
    pub log: LogStatus,
    pub sandbox: Sandbox,
    /// Memory in use, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The fleet, if the balancer is a member of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetSummary>,
    /// Totals of all listeners.
    pub connections: Totals,
    /// Listeners in the order of the configuration, then removed ones with open connections.
    pub listeners: Vec<ListenerStatus>,
    /// Upstreams in the order of the configuration.
    pub upstreams: Vec<UpstreamSummary>,
    /// Certificates and CRLs, soonest expiry first.
    pub certificates: Vec<Certificate>,
}

/// Phase of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not accepting connections yet.
    Starting,
    /// Accepting connections.
    Ready,
    /// Serving open connections only.
    Draining,
}

/// Whether a client of the admin side may make changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// Yes, because it uses the admin socket.
    Allowed,
    /// With the token, because it uses the admin address, and `[admin] token` is set.
    WithToken,
    /// No, because it uses the admin address, and `[admin] token` is not set.
    #[default]
    SocketOnly,
}

/// A failed upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedUpgrade {
    pub time: String,
    pub reason: String,
}

/// A predecessor process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OldProcess {
    pub pid: u32,
    /// Open connections.
    pub connections: u64,
}

/// Sandbox of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    pub state: SandboxState,
    /// Missing restrictions, or why there is no sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// State of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Fully active.
    On,
    /// Active as far as an older kernel allows.
    Partial,
    /// Only the restrictions inherited from predecessor processes.
    Inherited,
    /// Enabled, but not available.
    Unavailable,
    /// Disabled.
    Off,
}

/// The running configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Configuration {
    pub file: String,
    /// Number of configurations applied before this one.
    pub epoch: u64,
    /// Time at which it was applied.
    pub applied: String,
    /// Last reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<Reload>,
    /// File on which a reload is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedFile>,
    /// Number of client rules.
    pub clients: usize,
    /// Number of blocks by operators; `/blocks` lists them.
    #[serde(default)]
    pub blocks: usize,
    /// Runtime overrides that differ from the file.
    pub deviations: Vec<Deviation>,
}

/// A file operation that has not returned for at least two seconds. Settings that depend on the
/// file stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedFile {
    pub file: String,
    /// Start of the operation.
    pub since: String,
}

/// A reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reload {
    pub time: String,
    pub outcome: ReloadOutcome,
    /// Reasons for a rejection, one per line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Outcome of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is running.
    Applied,
    /// The running configuration has not changed.
    Rejected,
}

/// A runtime override that differs from the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deviation {
    /// What is overridden, such as `web/webapp2` or `log.level`.
    pub what: String,
    /// Current value.
    pub is: String,
    /// Value in the file.
    pub configured: String,
    /// Time at which the override was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// In a fleet: whether the override was set for this balancer or for the whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_for: Option<SetFor>,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogStatus {
    /// Lowest level that is logged.
    pub level: String,
    /// Destination of the access log: `stdout`, `stderr`, `off` or a file.
    pub access: String,
    /// Access log lines lost so far.
    pub lines_lost: u64,
}

/// Memory that counts against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Limit above which connections are refused.
    pub limit_bytes: u64,
}

/// Connections of all listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Open connections.
    pub open: u64,
    /// Maximum number of open connections, of all listeners together.
    pub limit: u64,
    /// TLS handshakes in progress.
    pub handshakes: u64,
    /// Handshakes waiting for a permit or a time slice.
    pub handshakes_waiting: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Ended connections by reason code.
    pub outcomes: Outcomes,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerStatus {
    pub name: String,
    /// Bound addresses; empty after the listener was removed from the configuration.
    pub addresses: Vec<String>,
    /// Whether TLS is enabled.
    pub tls: bool,
    /// Whether clients must present a certificate.
    pub client_certificate: bool,
    /// Default upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Open connections.
    pub open: u64,
    /// TLS handshakes in progress.
    pub handshakes: u64,
    /// Handshakes waiting for a permit or a time slice.
    pub handshakes_waiting: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Ended connections by reason code.
    pub outcomes: Outcomes,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
}

impl Status {
    pub fn of(cx: &ApiContext, changes: Changes) -> Self {
        let now = Timestamp::now();
        let context = &cx.context;
        context.registry.meter_traffic();
        let current = context.snapshot();
        let config = &current.config;
        let addresses = cx.control.addresses();
        let paths = cx.control.paths();
        let in_order = config.listeners.iter();
        let in_order = in_order.filter_map(|listener| current.listeners.get(&listener.name));
        let mut listeners: Vec<_> = in_order
            .chain(current.removed_listeners.values())
            .map(|listener| {
                let mut status = ListenerStatus::of(listener);
                let bound = addresses.iter().filter(|(name, _)| *name == listener.name);
                let at_paths = paths.iter().filter(|(name, _)| *name == listener.name);
                let at_paths = at_paths.map(|(_, path)| format!("unix:{}", path.display()));
                let bound = bound.map(|(_, address)| address.to_string());
                status.addresses = bound.chain(at_paths).collect();
                status
            })
            .collect();
        let connections = Totals::of(cx, &listeners);
        listeners.retain(|status| {
            status.open > 0 || current.listeners.contains_key(status.name.as_str())
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host(),
            pid: std::process::id(),
            drain_ends: context.lifecycle.drain_end().map(time),
            phase: context.lifecycle.phase().into(),
            started: time(context.lifecycle.started()),
            time: time(now),
            uptime_seconds: u64::try_from(
                now.as_second() - context.lifecycle.started().as_second(),
            )
            .unwrap_or(0),
            failed_upgrade: context
                .lifecycle
                .failed_upgrade()
                .map(|failed| FailedUpgrade {
                    time: time(failed.time),
                    reason: failed.reason,
                }),
            old_processes: context
                .predecessors
                .list()
                .into_iter()
                .map(|(pid, connections)| OldProcess { pid, connections })
                .collect(),
            changes,
            workers: config.process.workers.get(),
            configuration: Configuration::of(cx, config),
            log: LogStatus {
                level: context.overrides.level(&config.log).as_str().to_owned(),
                access: match &config.log.access {
                    Access::Stdout => "stdout".to_owned(),
                    Access::Stderr => "stderr".to_owned(),
                    Access::Off => "off".to_owned(),
                    Access::File(path) => absolute(path),
                },
                lines_lost: context.telemetry.access_log.lost(),
            },
            sandbox: confinement::current().into(),
            memory: context.memory.usage().map(|usage| Memory {
                used_bytes: usage.used,
                limit_bytes: usage.limit,
            }),
            fleet: FleetSummary::of(cx),
            connections,
            listeners,
            upstreams: UpstreamSummary::all(&current),
            certificates: Certificate::all(config, now),
        }
    }
}

impl fmt::Display for BlockedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, since } = self;
        write!(
            f,
            "{file}, since {since}; settings that depend on it stay unchanged"
        )
    }
}

impl fmt::Display for OldProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, connections } = self;
        let s = if *connections == 1 { "" } else { "s" };
        write!(
            f,
            "predecessor process {pid} still serves {connections} connection{s}"
        )
    }
}

impl From<context::Phase> for Phase {
    fn from(phase: context::Phase) -> Self {
        match phase {
            context::Phase::Starting => Self::Starting,
            context::Phase::Ready => Self::Ready,
            context::Phase::Draining | context::Phase::Replaced => Self::Draining,
        }
    }
}

impl From<&Confinement> for Sandbox {
    fn from(how: &Confinement) -> Self {
        let (state, detail) = match how {
            Confinement::Off => (SandboxState::Off, None),
            Confinement::Unavailable(why) => (SandboxState::Unavailable, Some(why.clone())),
            Confinement::Confined { missing, .. } if missing.is_empty() => (SandboxState::On, None),
            Confinement::Confined { .. } => (SandboxState::Partial, Some(how.to_string())),
            Confinement::Inherited => (SandboxState::Inherited, Some(how.to_string())),
        };
        Self { state, detail }
    }
}

impl From<context::LastReload> for Reload {
    fn from(last: context::LastReload) -> Self {
        Self {
            time: time(last.time),
            outcome: if last.reasons.is_empty() {
                ReloadOutcome::Applied
            } else {
                ReloadOutcome::Rejected
            },
            reasons: last.reasons,
        }
    }
}

impl Configuration {
    fn of(cx: &ApiContext, config: &leastconn_config::Config) -> Self {
        let context = &cx.context;
        Self {
            file: absolute(&config.path),
            epoch: context.snapshots.generation(),
            applied: time(context.lifecycle.applied()),
            last_reload: context.lifecycle.last_reload().map(Reload::from),
            blocked: files::blocked().map(|blocked| BlockedFile {
                file: blocked.path.display().to_string(),
                since: time(blocked.time),
            }),
            clients: config.clients.len(),
            blocks: context.overrides.block_count(),
            deviations: deviations(context),
        }
    }
}

/// The host name. Characters that are not UTF-8 are replaced.
fn host() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).display().to_string()
}

fn deviations(context: &context::ServerContext) -> Vec<Deviation> {
    let configured = context.snapshot().config.log.level;
    let in_fleet = context.snapshot().config.fleet.is_some();
    let set_for = |origin: Origin| in_fleet.then(|| origin.into());
    let differs = context.overrides.active().into_iter();
    differs
        .map(|differs| match differs {
            Override::Server(upstream, server, state, since, origin) => Deviation {
                what: format!("{upstream}/{server}"),
                is: state.as_str().to_owned(),
                configured: "ready".to_owned(),
                since: Some(time(since)),
                set_for: set_for(origin),
            },
            Override::Weight(upstream, server, weight, since, origin) => Deviation {
                what: format!("{upstream}/{server} weight"),
                is: weight.to_string(),
                configured: "100%".to_owned(),
                since: Some(time(since)),
                set_for: set_for(origin),
            },
            Override::Level(level, since) => Deviation {
                what: "log.level".to_owned(),
                is: level.as_str().to_owned(),
                configured: configured.as_str().to_owned(),
                since: Some(time(since)),
                set_for: None,
            },
        })
        .collect()
}

impl Totals {
    fn of(cx: &ApiContext, listeners: &[ListenerStatus]) -> Self {
        let mut all = Self {
            limit: cx.control.max_connections() as u64,
            ..Self::default()
        };
        for listener in listeners {
            all.open += listener.open;
            all.handshakes += listener.handshakes;
            all.handshakes_waiting += listener.handshakes_waiting;
            all.accepted += listener.accepted;
            all.bytes_received += listener.bytes_received;
            all.bytes_sent += listener.bytes_sent;
            for (outcome, count) in &listener.outcomes {
                *all.outcomes.entry(outcome.clone()).or_default() += count;
            }
        }
        all
    }
}

impl ListenerStatus {
    fn of(listener: &Listener) -> Self {
        let metrics = &listener.metrics;
        let open = count(metrics.active.get());
        let outcomes = outcomes(metrics.outcomes());
        let ended: u64 = outcomes.values().sum();
        Self {
            name: listener.name.to_string(),
            addresses: Vec::new(),
            tls: listener.tls.is_some(),
            client_certificate: listener.trust.is_some(),
            upstream: listener.routing.default().map(ToString::to_string),
            open,
            handshakes: count(metrics.handshakes.get()),
            handshakes_waiting: count(metrics.waiting.get()),
            accepted: open + ended,
            outcomes,
            bytes_received: metrics.received.get(),
            bytes_sent: metrics.sent.get(),
        }
    }
}

#[cfg(test)]
mod tests;
