//! Metrics that are read from the running state at each scrape: servers, certificates, lost
//! log lines.

use std::{collections::BTreeMap, fmt, sync::Arc};

use leastconn::Member;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{
    family::{ServerLabels, family, single},
    fleet::{FleetGauges, FleetMetrics},
};

/// The part of the running state that metrics show.
pub trait Observed: fmt::Debug + Send + Sync + 'static {
    /// All servers with the names of their upstreams.
    fn servers(&self) -> Vec<(String, Member)>;
    /// Upstream, server and open connections of servers that were removed from the
    /// configuration. A name may occur more than once.
    fn removed_servers(&self) -> Vec<(String, String, u64)>;
    /// Upstream and server of each agent that is queried, and the seconds since its last report.
    fn agents(&self) -> Vec<(String, String, f64)>;
    /// The upstreams whose servers are discovered.
    fn discoveries(&self) -> Vec<DiscoveryState>;
    /// All upstreams, and whether they are in panic mode.
    fn upstreams(&self) -> Vec<(String, bool)>;
    /// All upstreams, and how many connections wait in their queues.
    fn queues(&self) -> Vec<(String, usize)>;
    /// Upstreams with servers both inside and outside the balancer's own zone, and whether new
    /// connections are sent only to that zone.
    fn own_zones(&self) -> Vec<(String, bool)>;
    /// Certificate and CRL files. A file occurs once for each of its uses.
    fn file_validity(&self) -> Vec<FileValidity>;
    /// Open connections of each predecessor that still has some.
    fn predecessors(&self) -> Vec<u64>;
    /// Memory in use and the memory limit, in bytes. A limit of 0 means no limit.
    fn memory(&self) -> (u64, u64);
    /// How long a read of a configured file has been blocked, in seconds.
    fn blocked_seconds(&self) -> f64;
    /// Access log lines lost so far.
    fn lost_log_lines(&self) -> u64;
    /// `None` if the process is not a member of a fleet.
    fn fleet(&self) -> Option<FleetGauges>;
    /// Whether new connections are accepted.
    fn is_ready(&self) -> bool;
    /// Whether the last reload was applied. True if there was no reload yet.
    fn is_last_reload_applied(&self) -> bool;
}

/// Discovery state of an upstream, summed over its sources.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveryState {
    pub upstream: String,
    /// Number of discovered servers.
    pub servers: usize,
    /// Time since the last answer with servers, for the source where it is longest.
    pub stale_seconds: f64,
    /// Number of look-ups by outcome.
    pub lookups: [(&'static str, u64); 3],
}

/// The validity of a file of certificates or CRLs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileValidity {
    pub file: String,
    /// Whether it contains CRLs.
    pub is_crl: bool,
    /// Earliest `notAfter` or `nextUpdate` of the certificates or CRLs in force, in UNIX seconds.
    pub ends: i64,
    /// `notBefore` or `thisUpdate` of the same certificate or CRL, in UNIX seconds.
    pub begins: i64,
}

#[derive(Debug)]
pub(super) struct Collect<O> {
    pub(super) observed: O,
    pub(super) fleet: Arc<FleetMetrics>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    upstream: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    file: String,
}

impl<O: Observed> Collector for Collect<O> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_servers(&mut encoder)?;
        self.encode_upstreams(&mut encoder)?;
        self.encode_discovery(&mut encoder)?;
        self.encode_files(&mut encoder)?;
        self.encode_process(&mut encoder)?;
        match self.observed.fleet() {
            Some(gauges) => self.fleet.encode(&gauges, &mut encoder),
            None => Ok(()),
        }
    }
}

impl<O: Observed> Collect<O> {
    fn encode_servers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let members = self
            .observed
            .servers()
            .into_iter()
            .map(|(upstream, member)| {
                let server = member.server.id().to_string();
                (ServerLabels { upstream, server }, member)
            });
        let members: Vec<_> = members.collect();
        let servers: Vec<_> = members
            .iter()
            .map(|(labels, member)| (labels.clone(), member.server.status()))
            .collect();
        let weights = members
            .iter()
            .map(|(labels, member)| (labels.clone(), ConstGauge::new(member.effective_weight())));
        let gauges = |value: fn(&leastconn::ServerStatus) -> i64| {
            servers
                .iter()
                .map(move |(labels, status)| (labels.clone(), ConstGauge::new(value(status))))
        };
        // One series per name: a server whose address changed may still have connections to
        // the previous address.
        let mut active: BTreeMap<_, i64> = BTreeMap::new();
        for (labels, status) in &servers {
            *active.entry(labels.clone()).or_default() += i64::from(status.in_flight);
        }
        for (upstream, server, connections) in self.observed.removed_servers() {
            if connections > 0 {
                *active.entry(ServerLabels { upstream, server }).or_default() +=
                    i64::try_from(connections).unwrap_or(i64::MAX);
            }
        }
        let active = active
            .into_iter()
            .map(|(labels, connections)| (labels, ConstGauge::new(connections)));
        let counters = |value: fn(&leastconn::ServerStatus) -> u64| {
            servers
                .iter()
                .map(move |(labels, status)| (labels.clone(), ConstCounter::new(value(status))))
        };
        family(
            encoder,
            "leastconn_server_connections",
            "Connections opened to a server",
            MetricType::Counter,
            counters(|s| s.connections),
        )?;
        family(
            encoder,
            "leastconn_server_connect_failures",
            "Failed connects to a server",
            MetricType::Counter,
            counters(|s| s.connect_failures),
        )?;
        family(
            encoder,
            "leastconn_server_early_failures",
            "Connections that a server ended within a second without having sent a byte",
            MetricType::Counter,
            counters(|s| s.early_failures),
        )?;
        family(
            encoder,
            "leastconn_server_connections_active",
            "Open connections to a server, including those being opened",
            MetricType::Gauge,
            active,
        )?;
        family(
            encoder,
            "leastconn_server_up",
            "1 while health checks and ejection allow connections to a server, else 0",
            MetricType::Gauge,
            gauges(|s| s.is_up().into()),
        )?;
        family(
            encoder,
            "leastconn_server_weight",
            "Weight in effect; 0: the server gets no new connections",
            MetricType::Gauge,
            weights,
        )?;
        family(
            encoder,
            "leastconn_server_agent_stale_seconds",
            "Seconds since the last report of the server's agent",
            MetricType::Gauge,
            self.observed
                .agents()
                .into_iter()
                .map(|(upstream, server, age)| {
                    (ServerLabels { upstream, server }, ConstGauge::new(age))
                }),
        )
    }

    fn encode_upstreams(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let flags = |upstreams: Vec<(String, bool)>| {
            let upstreams = upstreams.into_iter();
            upstreams.map(|(name, flag)| (name, flag.into())).collect()
        };
        let gauges = |values: Vec<(String, i64)>| {
            values.into_iter().map(|(upstream, value)| {
                let labels = UpstreamLabels { upstream };
                (labels, ConstGauge::new(value))
            })
        };
        family(
            encoder,
            "leastconn_upstream_panic",
            "1 while no server of an upstream is available, but some are ejected or down",
            MetricType::Gauge,
            gauges(flags(self.observed.upstreams())),
        )?;
        let queues = self.observed.queues().into_iter();
        let waiting = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        family(
            encoder,
            "leastconn_upstream_queue",
            "Connections that wait in the queue of an upstream",
            MetricType::Gauge,
            gauges(queues.map(|(name, count)| (name, waiting(count))).collect()),
        )?;
        family(
            encoder,
            "leastconn_upstream_zone_preferred",
            "1 while new connections are sent only to servers in the own zone, 0 while they are sent to all zones",
            MetricType::Gauge,
            gauges(flags(self.observed.own_zones())),
        )
    }

    fn encode_discovery(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.observed.discoveries();
        let labels = |state: &DiscoveryState| UpstreamLabels {
            upstream: state.upstream.clone(),
        };
        family(
            encoder,
            "leastconn_discovery_servers",
            "Discovered servers of an upstream",
            MetricType::Gauge,
            all.iter().map(|state| {
                let servers = i64::try_from(state.servers).unwrap_or(i64::MAX);
                (labels(state), ConstGauge::new(servers))
            }),
        )?;
        family(
            encoder,
            "leastconn_discovery_stale_seconds",
            "Seconds since the last answer with servers, for the source with the oldest answer",
            MetricType::Gauge,
            all.iter()
                .map(|state| (labels(state), ConstGauge::new(state.stale_seconds))),
        )?;
        family(
            encoder,
            "leastconn_discovery_lookups",
            "Look-ups of sources of servers, by outcome",
            MetricType::Counter,
            all.iter().flat_map(|state| {
                let lookups = state.lookups.iter();
                lookups.map(|(outcome, count)| {
                    let labels = LookupLabels {
                        upstream: state.upstream.clone(),
                        outcome,
                    };
                    (labels, ConstCounter::new(*count))
                })
            }),
        )
    }

    fn encode_files(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut all = self.observed.file_validity();
        all.sort();
        // One series per file: several `tls` tables may use the same file, some of them with its
        // previous content.
        let files = |files: &[FileValidity], value: fn(&FileValidity) -> i64| {
            let sample = |same: &[FileValidity]| {
                let first = same.iter().min_by_key(|file| file.ends)?;
                let file = first.file.clone();
                Some((FileLabels { file }, ConstGauge::new(value(first))))
            };
            let by_file = files.chunk_by(|a, b| a.file == b.file);
            by_file.filter_map(sample).collect::<Vec<_>>()
        };
        let (crls, certificates): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| file.is_crl);
        family(
            encoder,
            "leastconn_certificate_not_after_seconds",
            "Earliest notAfter of the certificates in force in a file, in UNIX seconds",
            MetricType::Gauge,
            files(&certificates, |file| file.ends).into_iter(),
        )?;
        family(
            encoder,
            "leastconn_certificate_not_before_seconds",
            "notBefore of that certificate, in UNIX seconds",
            MetricType::Gauge,
            files(&certificates, |file| file.begins).into_iter(),
        )?;
        family(
            encoder,
            "leastconn_crl_next_update_seconds",
            "Earliest nextUpdate of the CRLs in a file, in UNIX seconds",
            MetricType::Gauge,
            files(&crls, |file| file.ends).into_iter(),
        )?;
        family(
            encoder,
            "leastconn_crl_this_update_seconds",
            "thisUpdate of that CRL, in UNIX seconds",
            MetricType::Gauge,
            files(&crls, |file| file.begins).into_iter(),
        )
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        single(
            encoder,
            "leastconn_access_log_lines_lost",
            "Access log lines that could not be written",
            MetricType::Counter,
            &ConstCounter::new(self.observed.lost_log_lines()),
        )?;
        let old = self.observed.predecessors();
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        single(
            encoder,
            "leastconn_old_processes",
            "Predecessor processes that still serve connections",
            MetricType::Gauge,
            &gauge(old.len() as u64),
        )?;
        single(
            encoder,
            "leastconn_old_processes_connections",
            "Open connections of predecessor processes",
            MetricType::Gauge,
            &gauge(old.iter().sum()),
        )?;
        single(
            encoder,
            "leastconn_ready",
            "1 while new connections are accepted, as /readyz reports",
            MetricType::Gauge,
            &ConstGauge::new(i64::from(self.observed.is_ready())),
        )?;
        single(
            encoder,
            "leastconn_config_last_reload_applied",
            "0 after a reload that was rejected, 1 otherwise",
            MetricType::Gauge,
            &ConstGauge::new(i64::from(self.observed.is_last_reload_applied())),
        )?;
        let (used, limit) = self.observed.memory();
        for (name, help, value) in [
            (
                "leastconn_memory_used_bytes",
                "Memory in use that counts against the memory limit, in bytes",
                used,
            ),
            (
                "leastconn_memory_limit_bytes",
                "Memory limit above which connections are refused, in bytes; 0: no limit",
                limit,
            ),
        ] {
            single(encoder, name, help, MetricType::Gauge, &gauge(value))?;
        }
        single(
            encoder,
            "leastconn_config_read_blocked_seconds",
            "How long a file operation of a reload has been blocked, in seconds; 0: not blocked",
            MetricType::Gauge,
            &ConstGauge::new(self.observed.blocked_seconds()),
        )
    }
}
