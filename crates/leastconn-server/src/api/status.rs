//! `GET /api/v1/status`

mod certificate;

use std::{fmt, path::Path};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcomes, Sight, UpstreamSummary, count, outcomes, time};
use crate::{
    config::{self, Access},
    confinement::{self, Confinement},
    context, files,
    overrides::Override,
    snapshot::Listener,
};

pub use certificate::{Certificate, CertificateKind, CertificateState};

/// The balancer as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// The process's ID.
    pub pid: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it started.
    pub started: String,
    /// Now.
    pub time: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The last upgrade that failed, if any did: this process goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_upgrade: Option<FailedUpgrade>,
    /// Processes that an upgrade has replaced and that still serve connections; all else
    /// here is of this process.
    #[serde(default)]
    pub old_processes: Vec<OldProcess>,
    /// What whoever asks may change here, by `POST`.
    #[serde(default)]
    pub changes: Changes,
    /// Threads that serve connections.
    pub workers: usize,
    /// Where it was told what to do.
    pub configuration: Configuration,
    /// What it writes.
    pub log: LogStatus,
    /// How far it is confined to what it needs.
    pub sandbox: Sandbox,
    /// Memory in use, if it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// All its connections.
    pub connections: Totals,
    /// In the configuration's order, then those that are gone from it and have
    /// connections left.
    pub listeners: Vec<ListenerStatus>,
    /// In the configuration's order.
    pub upstreams: Vec<UpstreamSummary>,
    /// Certificates and revocation lists, soonest expiry first.
    pub certificates: Vec<Certificate>,
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not everything is bound yet.
    Starting,
    /// Serving.
    Ready,
    /// Serving what is open, taking nothing new.
    Draining,
}

/// Whether changes are taken from whoever asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// They are: this is the admin socket.
    Allowed,
    /// With the token of `[admin] token`: this is the admin address.
    WithToken,
    /// At the admin socket only: this is the admin address, and there is no token.
    #[default]
    SocketOnly,
}

/// An upgrade that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedUpgrade {
    /// When.
    pub time: String,
    /// Why.
    pub reason: String,
}

/// A process that an upgrade has replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OldProcess {
    /// Its ID.
    pub pid: u32,
    /// How many connections it still has.
    pub connections: u64,
}

/// How far the process is confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// In a word.
    pub state: SandboxState,
    /// What is missing, or why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How far the process is confined, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// It is.
    On,
    /// As far as an old kernel can.
    Partial,
    /// As far as the processes were that it was upgraded from.
    Inherited,
    /// It is not, and should be.
    Unavailable,
    /// It is not.
    Off,
}

/// The configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Configuration {
    /// The file.
    pub file: String,
    /// How many came before it.
    pub epoch: u64,
    /// When it came into force.
    pub applied: String,
    /// The last time that it was to be changed, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<Reload>,
    /// A file that blocks reading the configuration, or the files of a `tls` table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedFile>,
    /// How many client rules it has.
    pub clients: usize,
    /// What differs from it, by hand.
    pub deviations: Vec<Deviation>,
}

/// A file operation that has not returned for two seconds or more. What depends on the
/// file stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockedFile {
    /// The file.
    pub file: String,
    /// When the operation began.
    pub since: String,
}

/// A reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reload {
    /// When.
    pub time: String,
    /// What became of it.
    pub outcome: ReloadOutcome,
    /// Why it was rejected, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Applied,
    /// Nothing has changed.
    Rejected,
}

/// Something that was set by hand, and is not as the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deviation {
    /// What: `web/webapp2`, `log.level`.
    pub what: String,
    /// As it is.
    pub is: String,
    /// As the file has it.
    pub configured: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogStatus {
    /// The least important messages that are written.
    pub level: String,
    /// Where the access log goes: `stdout`, `stderr`, `off`, or a file.
    pub access: String,
    /// Access log lines lost so far.
    pub lines_lost: u64,
}

/// Memory that counts against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Above which connections are refused.
    pub limit_bytes: u64,
}

/// Connections in sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Open now.
    pub open: u64,
    /// Open at once, at most.
    pub limit: u64,
    /// TLS handshakes that are going on.
    pub handshakes: u64,
    /// Those that wait for others.
    pub handshakes_waiting: u64,
    /// Accepted since the start, those that are open included.
    pub accepted: u64,
    /// Ended, by reason code.
    pub outcomes: Outcomes,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens; empty once it is gone from the configuration.
    pub addresses: Vec<String>,
    /// Whether clients speak TLS.
    pub tls: bool,
    /// Whether they must show a certificate.
    pub client_certificate: bool,
    /// Where its connections go, unless a route or the client says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Open now.
    pub open: u64,
    /// TLS handshakes that are going on.
    pub handshakes: u64,
    /// Those that wait for others.
    pub handshakes_waiting: u64,
    /// Accepted since the start.
    pub accepted: u64,
    /// Ended, by reason code.
    pub outcomes: Outcomes,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
}

impl Status {
    /// The balancer as it is now, for somebody who may change so much.
    pub fn of(sight: &Sight, changes: Changes) -> Self {
        let now = Timestamp::now();
        let context = &sight.context;
        context.registry.meter_traffic();
        let current = context.snapshot();
        let config = &current.config;
        let addresses = sight.control.addresses();
        let paths = sight.control.paths();
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
        let connections = Totals::of(sight, &listeners);
        listeners.retain(|status| {
            status.open > 0 || current.listeners.contains_key(status.name.as_str())
        });
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
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
            configuration: Configuration::of(sight, config),
            log: LogStatus {
                level: context.overrides.level(&config.log).as_str().to_owned(),
                access: match &config.log.access {
                    Access::Stdout => "stdout".to_owned(),
                    Access::Stderr => "stderr".to_owned(),
                    Access::Off => "off".to_owned(),
                    Access::File(path) => whole(path),
                },
                lines_lost: context.telemetry.access_log.lost(),
            },
            sandbox: confinement::current().into(),
            memory: context.memory.usage().map(|usage| Memory {
                used_bytes: usage.used,
                limit_bytes: usage.limit,
            }),
            connections,
            listeners,
            upstreams: UpstreamSummary::all(&current),
            certificates: Certificate::all(config, now),
        }
    }
}

/// For people.
impl fmt::Display for BlockedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, since } = self;
        write!(
            f,
            "{file}, since {since}: what depends on it stays as it was"
        )
    }
}

/// For people.
impl fmt::Display for OldProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, connections } = self;
        let s = if *connections == 1 { "" } else { "s" };
        write!(
            f,
            "process {pid} was replaced and still serves {connections} connection{s}"
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
    fn of(sight: &Sight, config: &config::Config) -> Self {
        let context = &sight.context;
        Self {
            file: whole(&config.path),
            epoch: context.snapshots.generation(),
            applied: time(context.lifecycle.applied()),
            last_reload: context.lifecycle.last_reload().map(Reload::from),
            blocked: files::blocked().map(|blocked| BlockedFile {
                file: blocked.path.display().to_string(),
                since: time(blocked.time),
            }),
            clients: config.clients.len(),
            deviations: deviations(context),
        }
    }
}

/// A path as it is found from anywhere.
fn whole(path: &Path) -> String {
    let whole = std::path::absolute(path);
    whole.as_deref().unwrap_or(path).display().to_string()
}

fn deviations(context: &context::ServerContext) -> Vec<Deviation> {
    let configured = context.snapshot().config.log.level;
    let differs = context.overrides.active().into_iter();
    differs
        .map(|differs| match differs {
            Override::Server(upstream, server, state, since) => Deviation {
                what: format!("{upstream}/{server}"),
                is: state.as_str().to_owned(),
                configured: "ready".to_owned(),
                since: Some(time(since)),
            },
            Override::Level(level, since) => Deviation {
                what: "log.level".to_owned(),
                is: level.as_str().to_owned(),
                configured: configured.as_str().to_owned(),
                since: Some(time(since)),
            },
        })
        .collect()
}

impl Totals {
    fn of(sight: &Sight, listeners: &[ListenerStatus]) -> Self {
        let mut all = Self {
            limit: sight.control.max_connections() as u64,
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
