//! A site to test: certificates, a configuration, the balancer on it.

// The browser tests load this file by its path, which is why these need one, too.
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

/// TLS of a listener, with the files that [`TestCa::write_set`] writes.
pub(crate) const TLS: &str =
    r#"tls = { cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }"#;

/// No probes: then every connection that a server counts came from a client.
pub(crate) const NO_PROBES: &str = r#"health_check = { type = "none" }"#;

/// A common name that the usual rule lets in.
pub(crate) const CLIENT1: &str = "client1.lb.com";

/// How soon the admin address answers: in a release build, which `make test-long`
/// makes, what was promised.
pub(crate) const PROMPT: Duration = Duration::from_millis(100).saturating_add(BUSY);

/// What is added to every promise of time unless the build is a release build: others
/// are slower, and have other tests beside them, on a machine that may be slow itself.
/// Whatever a promise is told apart from must take longer than both.
pub(crate) const BUSY: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 0 });

/// How soon files that changed are loaded: before the balancer looks by itself, which
/// it does every ten seconds.
pub(crate) const TOLD: Duration = Duration::from_secs(8);

/// A value of `[process] tls_records`.
pub(crate) type Records = &'static str;

/// Runs a test for each record layer: what clients see must be the same. Named
/// for the layer, so that a failure says which.
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

/// A configuration in the making, in a directory with its certificates.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) ca: TestCa,
    process: String,
    log: String,
    admin: String,
    tables: String,
}

impl Site {
    /// Certificates, and nothing configured but the admin address.
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

    /// One TLS listener `main` before the upstream `web`, which `client1` may use.
    pub(crate) fn usual(servers: &[&Upstream]) -> Self {
        Self::new()
            .listener("main", &["upstream = \"web\"", TLS])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("client1", &cn(CLIENT1), "web", "")
    }

    /// As [`Self::usual`], where a handshake may take longer than any test: who waits
    /// for others' to run out of time waits too long.
    pub(crate) fn patient(servers: &[&Upstream]) -> Self {
        let long = "handshake_timeout = \"5m\"";
        Self::new()
            .listener("main", &["upstream = \"web\"", long, TLS])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("client1", &cn(CLIENT1), "web", "")
    }

    /// One listener `main` without TLS before the upstream `web`, for everybody.
    pub(crate) fn plain(servers: &[&Upstream]) -> Self {
        Self::new()
            .listener("main", &["upstream = \"web\""])
            .upstream("web", &[NO_PROBES], &entries(servers))
            .client("local", "source = \"127.0.0.0/8\"", "web", "")
    }

    /// Lines of `[process]`.
    pub(crate) fn process(mut self, lines: &str) -> Self {
        self.process += &format!("{lines}\n");
        self
    }

    /// What seals and opens TLS records.
    pub(crate) fn records(self, records: Records) -> Self {
        self.process(&format!("tls_records = \"{records}\""))
    }

    /// Lines of `[log]`.
    pub(crate) fn log(mut self, lines: &str) -> Self {
        self.log += &format!("{lines}\n");
        self
    }

    /// Further lines of `[admin]`.
    pub(crate) fn admin(mut self, lines: &str) -> Self {
        self.admin += &format!("{lines}\n");
        self
    }

    /// A listener on a loopback port, unless the lines bind it elsewhere.
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

    /// An upstream of these servers, each a TOML table as [`entry`] makes it.
    pub(crate) fn upstream(mut self, name: &str, lines: &[&str], servers: &[String]) -> Self {
        let (lines, servers) = (lines.join("\n"), servers.join(", "));
        self.tables +=
            &format!("[[upstream]]\nname = \"{name}\"\n{lines}\nservers = [{servers}]\n\n");
        self
    }

    /// A client rule; `matcher` is the inside of `match`, `lines` whatever else.
    pub(crate) fn client(mut self, name: &str, matcher: &str, allow: &str, lines: &str) -> Self {
        self.tables += &format!(
            "[[client]]\nname = \"{name}\"\nmatch = {{ {matcher} }}\nallow = [\"{allow}\"]\n{lines}\n\n"
        );
        self
    }

    /// The configuration's text.
    pub(crate) fn config(&self) -> String {
        format!(
            "[process]\nworkers = 2\n{}\n[log]\nformat = \"json\"\n{}\n[admin]\nbind = \"127.0.0.1:0\"\n{}\n{}",
            self.process, self.log, self.admin, self.tables
        )
    }

    /// A certificate for this common name.
    pub(crate) fn cert(&self, cn: &str) -> Cert {
        self.ca.leaf(cn).build()
    }

    /// Starts the balancer.
    pub(crate) async fn start(self) -> Running {
        self.start_with(|_| {}).await
    }

    /// As [`Self::start`], after `adjust` has had the command.
    pub(crate) async fn start_with(self, adjust: impl FnOnce(&mut Command)) -> Running {
        self.start_as(BIN, adjust).await
    }

    /// As [`Self::start_with`], by another name.
    pub(crate) async fn start_as(
        self,
        bin: impl AsRef<Path>,
        adjust: impl FnOnce(&mut Command),
    ) -> Running {
        let config = self.config();
        self.start_as_with(bin, &config, adjust).await
    }

    /// As [`Self::start_as`], with this configuration.
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

/// A balancer that serves a [`Site`].
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
    /// Where the listener `main` listens.
    pub(crate) fn main(&self) -> SocketAddr {
        self.address("main")
    }

    /// The site's authority.
    pub(crate) fn ca(&self) -> &TestCa {
        &self.site.ca
    }

    /// The site's directory.
    pub(crate) fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    /// The configuration that it was started with.
    pub(crate) fn config(&self) -> String {
        self.site.config()
    }

    /// Reloads `config`, waits for the end of it, and returns how it went.
    pub(crate) async fn reload(&self, config: &str) -> &'static str {
        self.write_config(config);
        self.reloading(|| self.signal(Signal::HUP)).await
    }

    /// Does what makes it reload, waits for the end of it, and returns how it went.
    pub(crate) async fn reloading(&self, cause: impl FnOnce()) -> &'static str {
        let outcomes = ["applied", "rejected"];
        let before = self.reloads().await;
        cause();
        eventually(TOLD, || async {
            let now = self.try_reloads().await?;
            let more = (0..2).find(|&n| now[n] > before[n]);
            more.map(|n| outcomes[n]).ok_or_else(|| format!("{now:?}"))
        })
        .await
        .unwrap()
    }

    /// Reloads so far: applied, rejected.
    pub(crate) async fn reloads(&self) -> [f64; 2] {
        eventually(DEADLINE, || self.try_reloads()).await.unwrap()
    }

    async fn try_reloads(&self) -> Result<[f64; 2], String> {
        // Its address may change, and for a moment we do not know it.
        let answer = self.try_http_get("/metrics").await;
        let (_, text) = answer.map_err(|error| error.to_string())?;
        Ok(reloads(&metrics::parse(&text)))
    }

    /// A client with a new certificate for this common name.
    pub(crate) fn client(&self, cn: &str) -> TlsClient {
        TlsClient::new(self.ca(), Some(&self.site.cert(cn)))
    }

    /// A client that shows this certificate.
    pub(crate) fn showing(&self, cert: &Cert) -> TlsClient {
        TlsClient::new(self.ca(), Some(cert))
    }

    /// Waits for record number `n`, from 0, and checks its outcome.
    pub(crate) async fn nth(&self, n: usize, outcome: &str) -> Value {
        let record = self.wait_records(n + 1).await.swap_remove(n);
        assert_eq!(record["outcome"], outcome, "{record}");
        record
    }

    /// Waits until nobody is connected and no file is left open, and checks the
    /// books: a line for every connection that was counted, and no panic.
    pub(crate) async fn quiet(&self) {
        self.quiet_with(0).await;
    }

    /// As [`Self::quiet`], with so many sockets more than at the start, or less.
    pub(crate) async fn quiet_with(&self, more: isize) {
        self.idle_with(more).await;
        let metrics = self.metrics().await;
        let family = || metrics::family(&metrics, "leastconn_connections_total");
        let ended: f64 = family().map(|(_, value)| value).sum();
        if !self.site.log.contains("access") {
            // A listener that is gone from the configuration has no counters any more.
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

    /// As [`Self::quiet`], where a listener was removed and added again: its counters no
    /// longer add up with the access log.
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

/// So many client rules that reading them takes a moment.
pub(crate) fn many_clients() -> String {
    let rule = |n| {
        format!(
            "[[client]]\nname = \"one-of-many-{n}\"\nmatch = {{ cn = \"{n}.many\" }}\nallow = [\"web\"]\n"
        )
    };
    (0..10_000).map(rule).collect()
}

/// `cn = "…"`, for a rule.
pub(crate) fn cn(name: &str) -> String {
    format!("cn = \"{name}\"")
}

/// Servers named `web1`, `web2`, and so on.
pub(crate) fn entries(servers: &[&Upstream]) -> Vec<String> {
    let numbered = servers.iter().zip(1..);
    numbered
        .map(|(server, n)| entry(&format!("web{n}"), server.addr(), ""))
        .collect()
}

/// One server; `more` begins with a comma if it is not empty.
pub(crate) fn entry(name: &str, address: SocketAddr, more: &str) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\"{more} }}")
}

/// An address where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    // Port 1 of another loopback address: no test ever binds it.
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 99), 1))
}

/// What a client that is refused sees: the alert, if TLS refused it.
///
/// # Panics
/// When it is let in: a server would greet it.
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

/// Talks to a server that greets with its name and then echoes, ends in order,
/// and returns the name.
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
    // Tokio's way asks once more whether there is an error, which there is if the
    // balancer has cut it off at once.
    let connecting = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(addr));
    let connected = leastconn_testkit::within(DEADLINE, "connecting", connecting).await;
    let stream = connected.unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

/// Listens where somebody else is to be refused.
pub(crate) fn listen(at: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // As the one has that keeps the port.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(1).unwrap()
}

/// Makes dropping the socket a reset.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

/// The bytes of a whole ClientHello.
pub(crate) fn client_hello(ca: &TestCa) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    // As the test client's: no retry for a group that the balancer prefers.
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

/// This process is clients and servers at once, and needs files for both.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
