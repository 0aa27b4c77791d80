//! What is not counted but read from the running state when asked: servers,
//! certificates, lost log lines.

use std::fmt;

use leastconn::Member;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// The running state, as far as metrics show it.
pub trait Observed: fmt::Debug + Send + Sync + 'static {
    /// Every server with the name of its upstream.
    fn servers(&self) -> Vec<(String, Member)>;
    /// Every certificate file with its earliest `notAfter`, in UNIX seconds.
    fn certificates(&self) -> Vec<(String, i64)>;
    /// Access log lines lost so far.
    fn lost_log_lines(&self) -> u64;
}

#[derive(Debug)]
pub(super) struct Collect<O>(pub(super) O);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfServer {
    upstream: String,
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFile {
    file: String,
}

impl<O: Observed> Collector for Collect<O> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let servers: Vec<_> = self
            .0
            .servers()
            .into_iter()
            .map(|(upstream, member)| {
                let server = member.server.id().to_string();
                (OfServer { upstream, server }, member.server.status())
            })
            .collect();
        let gauges = |value: fn(&leastconn::ServerStatus) -> i64| {
            servers
                .iter()
                .map(move |(labels, status)| (labels.clone(), ConstGauge::new(value(status))))
        };
        let counters = |value: fn(&leastconn::ServerStatus) -> u64| {
            servers
                .iter()
                .map(move |(labels, status)| (labels.clone(), ConstCounter::new(value(status))))
        };
        family(
            &mut encoder,
            "leastconn_server_connections",
            "Connections opened to a server",
            MetricType::Counter,
            counters(|s| s.connections),
        )?;
        family(
            &mut encoder,
            "leastconn_server_connect_failures",
            "Connects to a server that failed",
            MetricType::Counter,
            counters(|s| s.connect_failures),
        )?;
        family(
            &mut encoder,
            "leastconn_server_connections_active",
            "Connections to a server, being opened or open",
            MetricType::Gauge,
            gauges(|s| s.in_flight.into()),
        )?;
        family(
            &mut encoder,
            "leastconn_server_up",
            "1 while a server is given connections as far as its health goes",
            MetricType::Gauge,
            gauges(|s| s.is_up().into()),
        )?;
        let certificates = self.0.certificates();
        let files = certificates
            .into_iter()
            .map(|(file, not_after)| (OfFile { file }, ConstGauge::new(not_after)));
        family(
            &mut encoder,
            "leastconn_certificate_not_after_seconds",
            "When a file's first certificate or list runs out, in UNIX seconds",
            MetricType::Gauge,
            files,
        )?;
        let lost = ConstCounter::new(self.0.lost_log_lines());
        let lost_encoder = encoder.encode_descriptor(
            "leastconn_access_log_lines_lost",
            "Access log lines that could not be written",
            None,
            MetricType::Counter,
        )?;
        lost.encode(lost_encoder)
    }
}

fn family<L: EncodeLabelSet, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl Iterator<Item = (L, M)>,
) -> Result<(), fmt::Error> {
    let mut encoder = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, metric) in metrics {
        metric.encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}
