//! The configuration of a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use leastconn_testkit::{Balancer, Cert, TempDir, TestCa, Upstream};

use super::{BIN, CLIENT1, NO_PROBES, Records, Running, TLS};

/// A configuration under construction, in a directory with its certificates.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) ca: TestCa,
    process: String,
    pub(super) log: String,
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

    /// Like [`Self::usual`], with a handshake timeout that is longer than any test, so that
    /// no test passes because other handshakes time out.
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

    /// Adds a listener on a loopback port. A `bind` in `lines` replaces this address.
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

    /// Adds an upstream with these servers. Each server is a TOML table, as returned by
    /// [`entry`].
    pub(crate) fn upstream(mut self, name: &str, lines: &[&str], servers: &[String]) -> Self {
        let (lines, servers) = (lines.join("\n"), servers.join(", "));
        self.tables +=
            &format!("[[upstream]]\nname = \"{name}\"\n{lines}\nservers = [{servers}]\n\n");
        self
    }

    /// Makes the balancer a member of the fleet `test`. `lines` contains further keys.
    pub(crate) fn fleet(mut self, member: &str, store: &str, lines: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let secret = self.dir.path().join("fleet.secret");
        std::fs::write(&secret, "a-secret-of-this-test").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.tables += &format!(
            "[fleet]\nname = \"test\"\nsecret = \"fleet.secret\"\nmember = \"{member}\"\nstore = {store}\n{lines}\n\n"
        );
        self
    }

    /// Adds a client rule. `matcher` is the content of `match`, and `lines` contains further keys.
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
        Running::new(balancer, self)
    }
}

/// Returns so many client rules that reading the configuration takes a while.
pub(crate) fn many_clients() -> String {
    let rule = |n| {
        format!(
            "[[client]]\nname = \"one-of-many-{n}\"\nmatch = {{ cn = \"{n}.many\" }}\nallow = [\"web\"]\n"
        )
    };
    (0..10_000).map(rule).collect()
}

/// Returns `cn = "…"` for the `match` table of a rule.
pub(crate) fn cn(name: &str) -> String {
    format!("cn = \"{name}\"")
}

/// Returns TOML tables for these servers, with the names `web1`, `web2` and so on.
pub(crate) fn entries(servers: &[&Upstream]) -> Vec<String> {
    let numbered = servers.iter().zip(1..);
    numbered
        .map(|(server, n)| entry(&format!("web{n}"), server.addr(), ""))
        .collect()
}

/// Returns the TOML table of a server. `more` contains further keys, after a comma.
pub(crate) fn entry(name: &str, address: SocketAddr, more: &str) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\"{more} }}")
}

/// Starts servers named `web1`, `web2` and so on.
pub(crate) async fn named_servers(count: usize) -> Vec<Upstream> {
    let mut servers = Vec::new();
    for n in 1..=count {
        servers.push(Upstream::named(&format!("web{n}")).await);
    }
    servers
}

/// Returns the SHA-256 hash of the certificate's public key, in hexadecimal.
pub(crate) fn spki(cert: &Cert) -> String {
    let parsed = rustls::server::ParsedCertificate::try_from(cert.der()).unwrap();
    let key = parsed.subject_public_key_info();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Returns an address that refuses connections.
pub(crate) fn refusing_address() -> SocketAddr {
    // Use port 1 of a loopback address that no other test binds.
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 99), 1))
}

/// Raises the limit on open files: the test process contains both the clients and the
/// servers.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
