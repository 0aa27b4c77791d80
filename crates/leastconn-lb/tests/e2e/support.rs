//! Test setup: certificates, a configuration and a balancer that runs with it.

// With paths, because the browser tests include this file by its path.
#[path = "support/tls_servers.rs"]
pub(crate) mod tls_servers;
#[path = "support/upgrading.rs"]
pub(crate) mod upgrading;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leastconn_testkit::client::{alert, read_line, read_to_close};
use leastconn_testkit::{
    Balancer, Cert, DEADLINE, Signal, TempDir, TestCa, TlsClient, Upstream, eventually, metrics,
};
use rustls::AlertDescription;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// `tls` of a listener, with the files that [`TestCa::write_set`] writes.
pub(crate) const TLS: &str =
    r#"tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }"#;

/// Without probes, each connection that a server counts comes from a client.
pub(crate) const NO_PROBES: &str = r#"health_check = { type = "none" }"#;

/// The common name that the rule of [`Site::usual`] matches.
pub(crate) const CLIENT1: &str = "client1.lb.com";

/// Maximum latency of the admin address. Only a release build (`make test-long`) must
/// keep the documented 100 ms.
pub(crate) const ADMIN_LATENCY: Duration = Duration::from_millis(100).saturating_add(DEBUG_SLACK);

/// Slack for every time limit in debug builds, which are slower and run in parallel with
/// other tests, possibly on a slow machine. A limit can only be told apart from timeouts
/// that are longer than the limit and this slack.
pub(crate) const DEBUG_SLACK: Duration =
    Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 0 });

/// Time to load changed files: less than the polling interval of ten seconds, so that
/// only inotify can meet it.
pub(crate) const FILE_LOAD_TIME: Duration = Duration::from_secs(8);

/// A value of `[process] tls_records`.
pub(crate) type Records = &'static str;

/// Runs tests with each record layer, as clients must not see a difference. The module
/// names tell which one failed.
macro_rules! both_record_layers {
    ($(#[$attribute:meta] $test:ident,)+) => {
        mod with_direct_records {
            $(#[$attribute] async fn $test() { super::$test("direct").await })+
        }
        mod with_rustls_records {
            $(#[$attribute] async fn $test() { super::$test("rustls").await })+
        }
    };
}
pub(crate) use both_record_layers;

/// A configuration under construction, in a directory with its certificates.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) ca: TestCa,
    process: String,
    log: String,
    admin: String,
    tables: String,
}

impl Site {
    /// Certificates, and a configuration with only the admin address.
    pub(crate) fn new() -> Self {
        raise_limit();
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new("test CA");
        ca.write_set(&dir, &["db.lb.com", "web.lb.com", "*.apps.lb.com"]);
        Self {
            dir,
            ca,
            process: String::new(),
            log: String::new(),
            admin: String::new(),
            tables: String::new(),
        }
    }

    /// One TLS listener `main` in front of the upstream `web`, which `client1` may use.
    pub(crate) fn usual(servers: &[&Upstream]) -> Self {
        Self::new()
            .listener("main", &["upstream = \"web\"", TLS])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("client1", &cn(CLIENT1), "web", "")
    }

    /// Like [`Self::usual`], with a handshake timeout longer than any test, so that
    /// nothing passes because other handshakes time out.
    pub(crate) fn long_handshake_timeout(servers: &[&Upstream]) -> Self {
        let long = "handshake_timeout = \"5m\"";
        Self::new()
            .listener("main", &["upstream = \"web\"", long, TLS])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("client1", &cn(CLIENT1), "web", "")
    }

    /// One listener `main` without TLS in front of the upstream `web`, for all local
    /// clients.
    pub(crate) fn plain(servers: &[&Upstream]) -> Self {
        Self::new()
            .listener("main", &["upstream = \"web\""])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("local", "source = \"127.0.0.0/8\"", "web", "")
    }

    /// Adds lines to `[process]`.
    pub(crate) fn process(mut self, lines: &str) -> Self {
        self.process += &format!("{lines}\n");
        self
    }

    /// Sets the TLS record layer.
    pub(crate) fn records(self, records: Records) -> Self {
        self.process(&format!("tls_records = \"{records}\""))
    }

    /// Adds lines to `[log]`.
    pub(crate) fn log(mut self, lines: &str) -> Self {
        self.log += &format!("{lines}\n");
        self
    }

    /// Adds lines to `[admin]`.
    pub(crate) fn admin(mut self, lines: &str) -> Self {
        self.admin += &format!("{lines}\n");
        self
    }

    /// Adds a listener on a loopback port, unless `lines` contain a `bind`.
    pub(crate) fn listener(mut self, name: &str, lines: &[&str]) -> Self {
        let bind = if lines.iter().any(|line| line.starts_with("bind")) {
            ""
        } else {
            "bind = \"127.0.0.1:0\"\n"
        };
        let lines = lines.join("\n");
        self.tables += &format!("[[listener]]\nname = \"{name}\"\n{bind}{lines}\n\n");
        self
    }

    /// Adds an upstream with these servers, each a TOML table as from [`entry`].
    pub(crate) fn upstream(mut self, name: &str, lines: &[&str], servers: &[String]) -> Self {
        let (lines, servers) = (lines.join("\n"), servers.join(", "));
        self.tables +=
            &format!("[[upstream]]\nname = \"{name}\"\n{lines}\nservers = [{servers}]\n\n");
        self
    }

    /// Adds a client rule; `matcher` is the content of `match`, `lines` are further keys.
    pub(crate) fn client(mut self, name: &str, matcher: &str, allow: &str, lines: &str) -> Self {
        self.tables += &format!(
            "[[client]]\nname = \"{name}\"\nmatch = {{ {matcher} }}\nallow = [\"{allow}\"]\n{lines}\n\n"
        );
        self
    }

    /// The text of the configuration.
    pub(crate) fn config(&self) -> String {
        format!(
            "[process]\nworkers = 2\n{}\n[log]\nformat = \"json\"\n{}\n[admin]\nbind = \"127.0.0.1:0\"\n{}\n{}",
            self.process, self.log, self.admin, self.tables
        )
    }

    /// A certificate with this common name.
    pub(crate) fn cert(&self, cn: &str) -> Cert {
        self.ca.leaf(cn).build()
    }

    /// Starts the balancer.
    pub(crate) async fn start(self) -> Running {
        self.start_with(|_| {}).await
    }

    /// Like [`Self::start`], after `adjust` has changed the command.
    pub(crate) async fn start_with(self, adjust: impl FnOnce(&mut Command)) -> Running {
        self.start_as(BIN, adjust).await
    }

    /// Like [`Self::start_with`], with another program.
    pub(crate) async fn start_as(
        self,
        bin: impl AsRef<Path>,
        adjust: impl FnOnce(&mut Command),
    ) -> Running {
        let config = self.config();
        self.start_as_with(bin, &config, adjust).await
    }

    /// Like [`Self::start_as`], with this configuration.
    pub(crate) async fn start_as_with(
        self,
        bin: impl AsRef<Path>,
        config: &str,
        adjust: impl FnOnce(&mut Command),
    ) -> Running {
        let balancer = Balancer::start_with(bin, config, &self.dir, adjust)
            .await
            .unwrap();
        Running {
            baseline: balancer.open_fds(),
            balancer,
            site: self,
        }
    }
}

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
    /// Address of the listener `main`.
    pub(crate) fn main(&self) -> SocketAddr {
        self.address("main")
    }

    /// CA of the site.
    pub(crate) fn ca(&self) -> &TestCa {
        &self.site.ca
    }

    /// Directory of the site.
    pub(crate) fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    /// The configuration at the start.
    pub(crate) fn config(&self) -> String {
        self.site.config()
    }

    /// Reloads `config`, waits until that is done, and returns the outcome.
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

    /// Number of reloads: applied, rejected.
    pub(crate) async fn reloads(&self) -> [f64; 2] {
        eventually(DEADLINE, || self.try_reloads()).await.unwrap()
    }

    async fn try_reloads(&self) -> Result<[f64; 2], String> {
        // The admin address may be changing, so that it is unknown for a moment.
        let answer = self.try_http_get("/metrics").await;
        let (_, text) = answer.map_err(|error| error.to_string())?;
        Ok(reloads(&metrics::parse(&text)))
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

    /// Waits until no connection and no additional file is open, and checks that each
    /// counted connection has a record and that nothing panicked.
    pub(crate) async fn quiet(&self) {
        self.quiet_with(0).await;
    }

    /// Like [`Self::quiet`], with `more` listening sockets than at the start.
    pub(crate) async fn quiet_with(&self, more: isize) {
        self.idle_with(more).await;
        let metrics = self.metrics().await;
        let family = || metrics::family(&metrics, "leastconn_connections_total");
        let ended: f64 = family().map(|(_, value)| value).sum();
        if !self.site.log.contains("access") {
            // A listener that was removed from the configuration has no counters.
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

    /// Like [`Self::quiet`], for tests that remove and re-add a listener, which resets
    /// its counters.
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

/// So many client rules that reading the configuration takes a while.
pub(crate) fn many_clients() -> String {
    let rule = |n| {
        format!(
            "[[client]]\nname = \"one-of-many-{n}\"\nmatch = {{ cn = \"{n}.many\" }}\nallow = [\"web\"]\n"
        )
    };
    (0..10_000).map(rule).collect()
}

/// `cn = "…"` for a rule.
pub(crate) fn cn(name: &str) -> String {
    format!("cn = \"{name}\"")
}

/// Servers named `web1`, `web2` and so on.
pub(crate) fn entries(servers: &[&Upstream]) -> Vec<String> {
    let numbered = servers.iter().zip(1..);
    numbered
        .map(|(server, n)| entry(&format!("web{n}"), server.addr(), ""))
        .collect()
}

/// A server; `more` starts with a comma if it is not empty.
pub(crate) fn entry(name: &str, address: SocketAddr, more: &str) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\"{more} }}")
}

/// An address that refuses connections.
pub(crate) fn refusing_address() -> SocketAddr {
    // Port 1 of another loopback address, which no test binds.
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 99), 1))
}

/// Connects a client that must be refused, and returns the alert, or `None` if the
/// connection ended without one.
///
/// # Panics
///
/// If the client gets data from a server.
pub(crate) async fn refused(client: &TlsClient, addr: SocketAddr) -> Option<AlertDescription> {
    let error = match client.connect(addr).await {
        Err(error) => error,
        Ok(mut stream) => match read_to_close(&mut stream).await {
            Err(error) => error,
            Ok(bytes) => {
                assert!(bytes.is_empty(), "let in: {bytes:?}");
                return None;
            }
        },
    };
    Some(alert(&error).unwrap_or_else(|| panic!("no alert but {error}")))
}

/// Exchanges data with a server that sends its name and then echoes, closes in order, and
/// returns the name.
pub(crate) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
) -> std::io::Result<String> {
    use tokio::io::AsyncWriteExt;
    let name = read_line(&mut stream).await?;
    let echoed = leastconn_testkit::client::roundtrip(&mut stream, b"hello").await?;
    assert_eq!(echoed, b"hello");
    stream.shutdown().await?;
    assert!(read_to_close(&mut stream).await?.is_empty());
    Ok(name)
}

/// Connects without TLS.
pub(crate) async fn tcp(addr: SocketAddr) -> TcpStream {
    // Tokio checks for socket errors after connecting, and would fail if the balancer has
    // already reset the connection.
    let connecting = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(addr));
    let connected = leastconn_testkit::within(DEADLINE, "connecting", connecting).await;
    let stream = connected.unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// Listens on an address that the balancer will then be unable to bind.
pub(crate) fn listen(at: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // Like the socket that reserves the port.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(1).unwrap()
}

/// Makes dropping the socket send a RST.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The bytes of a complete ClientHello.
pub(crate) fn client_hello(ca: &TestCa) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    // The group of the test client, so that the balancer sends no HelloRetryRequest.
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

/// Raises the file limit: this process is both the clients and the servers.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
