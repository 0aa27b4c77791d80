//! TLS servers, for tests of `[[upstream]] tls`.

use std::path::Path;

use leastconn_testkit::{Behaviour, Cert, TestCa, Upstream};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::support::{CLIENT1, Site, TLS, cn};

/// The TLS versions of servers, with their names for failure messages.
pub(crate) const VERSIONS: [(&str, &SupportedProtocolVersion); 2] =
    [("1.2", &TLS12), ("1.3", &TLS13)];

/// Mutual TLS with the servers, with the files that [`Servers::write`] writes.
pub(crate) const MUTUAL: &str = r#"tls = { ca = "servers.crt", server_name = "web.internal", cert = "lb.crt", key = "lb.key" }"#;

/// TLS without a client certificate. The server's certificate must cover its host.
pub(crate) const BY_HOST: &str = r#"tls = { ca = "servers.crt" }"#;

/// The CA of the servers, which is not the CA of the clients.
pub(crate) struct Servers {
    pub(crate) ca: TestCa,
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self {
            ca: TestCa::new("servers' CA"),
        }
    }

    /// A server certificate for `web.internal` only.
    pub(crate) fn cert(&self) -> Cert {
        let leaf = self.ca.leaf("web").dns("web.internal").eku_server_only();
        leaf.build()
    }

    /// Writes the CA certificate, and a client certificate for the balancer.
    pub(crate) fn write(&self, dir: impl AsRef<Path>) {
        let dir = dir.as_ref();
        std::fs::write(dir.join("servers.crt"), self.ca.cert_pem()).unwrap();
        let own = self.ca.leaf("lb").eku_client_only().build();
        own.write(dir, "lb");
    }

    /// Starts a server that requires the balancer's certificate.
    pub(crate) async fn mutual(
        &self,
        behaviour: Behaviour,
        version: &'static SupportedProtocolVersion,
    ) -> Upstream {
        Upstream::start_tls_versions(behaviour, &self.cert(), Some(&self.ca), &[version]).await
    }

    /// Returns a site with the listeners `main` (TLS) and `plain`, and the upstream `web` with
    /// these lines.
    pub(crate) fn site(&self, lines: &[&str], servers: &[String]) -> Site {
        let site = Site::new();
        self.write(&site.dir);
        site.listener("main", &["upstream = \"web\"", TLS])
            .listener("plain", &["upstream = \"web\""])
            .upstream("web", lines, servers)
            .client("client1", &cn(CLIENT1), "web", "")
            .client("local", "source = \"127.0.0.0/8\"", "web", "")
    }
}
