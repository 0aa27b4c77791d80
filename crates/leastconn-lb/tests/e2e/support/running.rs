//! A balancer that runs with the configuration of a test.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;

use leastconn_testkit::{Balancer, Cert, DEADLINE, Signal, TestCa, TlsClient, eventually, metrics};
use serde_json::Value;

use super::{BIN, FILE_LOAD_TIME, Site};

/// A running balancer with its [`Site`].
pub(crate) struct Running {
    pub(crate) balancer: Balancer,
    pub(crate) baseline: usize,
    site: Site,
}

impl Deref for Running {
    type Target = Balancer;

    fn deref(&self) -> &Balancer {
        &self.balancer
    }
}

impl Running {
    pub(super) fn new(balancer: Balancer, site: Site) -> Self {
        Self {
            baseline: balancer.open_fds(),
            balancer,
            site,
        }
    }

    /// Address of the listener `main`.
    pub(crate) fn main(&self) -> SocketAddr {
        self.address("main")
    }

    pub(crate) fn ca(&self) -> &TestCa {
        &self.site.ca
    }

    pub(crate) fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    /// Returns the configuration with which the balancer was started.
    pub(crate) fn config(&self) -> String {
        self.site.config()
    }

    /// Reloads `config`, waits until the reload has finished, and returns its outcome.
    pub(crate) async fn reload(&self, config: &str) -> &'static str {
        self.write_config(config);
        self.reloading(|| self.signal(Signal::HUP)).await
    }

    /// Calls `cause`, which triggers a reload, waits for the reload, and returns its
    /// outcome.
    pub(crate) async fn reloading(&self, cause: impl FnOnce()) -> &'static str {
        let outcomes = ["applied", "rejected"];
        let before = self.reloads().await;
        cause();
        eventually(FILE_LOAD_TIME, || async {
            let now = self.try_reloads().await?;
            let more = (0..2).find(|&n| now[n] > before[n]);
            more.map(|n| outcomes[n]).ok_or_else(|| format!("{now:?}"))
        })
        .await
        .unwrap()
    }

    /// Returns the numbers of applied and rejected reloads.
    pub(crate) async fn reloads(&self) -> [f64; 2] {
        eventually(DEADLINE, || self.try_reloads()).await.unwrap()
    }

    async fn try_reloads(&self) -> Result<[f64; 2], String> {
        // A reload may be changing the admin address, so the request may fail.
        let answer = self.try_http_get("/metrics").await;
        let (_, text) = answer.map_err(|error| error.to_string())?;
        Ok(reloads(&metrics::parse(&text)))
    }

    /// Resident memory of the process in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let value = line.unwrap().split_whitespace().nth(1);
        value.unwrap().parse().unwrap()
    }

    /// Returns what `explain` predicts for the certificate in this file at the first listener.
    pub(crate) fn explain(&self, cert: &Path) -> Value {
        let output = std::process::Command::new(BIN)
            .args(["explain", "--json", "--config"])
            .arg(self.dir().join("leastconn.toml"))
            .arg("--cert")
            .arg(cert)
            .output()
            .unwrap();
        let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["listeners"][0].take()
    }

    /// A client with a new certificate for this common name.
    pub(crate) fn client(&self, cn: &str) -> TlsClient {
        TlsClient::new(self.ca(), Some(&self.site.cert(cn)))
    }

    /// A client with this certificate.
    pub(crate) fn client_with(&self, cert: &Cert) -> TlsClient {
        TlsClient::new(self.ca(), Some(cert))
    }

    /// Waits for record number `n`, counted from 0, and checks its outcome.
    pub(crate) async fn expect_record(&self, n: usize, outcome: &str) -> Value {
        let record = self.wait_records(n + 1).await.swap_remove(n);
        assert_eq!(record["outcome"], outcome, "{record}");
        record
    }

    /// Waits until no connection and no additional file is open. Checks that each counted
    /// connection has a record, and that no thread panicked.
    pub(crate) async fn quiet(&self) {
        self.quiet_with(0).await;
    }

    /// Like [`Self::quiet`], but with `more` additional listening sockets since the start.
    pub(crate) async fn quiet_with(&self, more: isize) {
        self.idle_with(more).await;
        let metrics = self.metrics().await;
        let family = || metrics::family(&metrics, "leastconn_connections_total");
        let ended: f64 = family().map(|(_, value)| value).sum();
        if !self.site.log.contains("access") {
            // A listener that was removed from the configuration no longer has counters.
            let counted = |record: &Value| {
                let listener = format!("listener=\"{}\"", record["listener"].as_str().unwrap());
                family().any(|(key, _)| key.contains(&listener))
            };
            let records = || self.records().into_iter().filter(counted).count();
            eventually(DEADLINE, || async {
                let records = records();
                (records >= ended as usize)
                    .then_some(())
                    .ok_or_else(|| format!("{records} records, not {ended}"))
            })
            .await
            .unwrap();
            assert_eq!(records(), ended as usize);
        }
    }

    /// Like [`Self::quiet`], for tests that remove a listener and add it again, which
    /// resets its counters.
    pub(crate) async fn idle(&self) {
        self.idle_with(0).await;
    }

    async fn idle_with(&self, more: isize) {
        let baseline = self.baseline.checked_add_signed(more).unwrap();
        self.assert_idle(baseline).await;
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
    }
}

fn reloads(metrics: &metrics::Metrics) -> [f64; 2] {
    ["applied", "rejected"]
        .map(|outcome| metrics[&format!("leastconn_config_reloads_total{{outcome=\"{outcome}\"}}")])
}
