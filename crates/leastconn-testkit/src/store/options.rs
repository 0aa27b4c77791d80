use std::net::SocketAddr;
use std::path::Path;

use super::StoreKind;
use crate::{Port, TestCa};

#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(super) kind: StoreKind,
    pub(super) tls: Option<Tls>,
    pub(super) password: Option<String>,
    pub(super) cluster: bool,
    lines: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Tls {
    ca: String,
    cert: String,
    key: String,
    client_certificates: bool,
}

impl StoreOptions {
    pub fn new(kind: StoreKind) -> Self {
        Self {
            kind,
            tls: None,
            password: None,
            cluster: false,
            lines: Vec::new(),
        }
    }

    /// Listens on a second port with TLS. The certificate is valid for `localhost` and 127.0.0.1.
    #[must_use]
    pub fn tls(mut self, ca: &TestCa) -> Self {
        let cert = ca.server(&["localhost", "127.0.0.1"]);
        self.tls = Some(Tls {
            ca: ca.cert_pem(),
            cert: cert.cert_pem,
            key: cert.key_pem,
            client_certificates: false,
        });
        self
    }

    /// As [`Self::tls`], and requires client certificates of the same CA.
    #[must_use]
    pub fn mutual_tls(self, ca: &TestCa) -> Self {
        let mut this = self.tls(ca);
        if let Some(tls) = &mut this.tls {
            tls.client_certificates = true;
        }
        this
    }

    /// Sets the password of the user `default`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.config(&format!("requirepass {password}"))
    }

    /// Adds a user, with rules as for `ACL SETUSER`.
    #[must_use]
    pub fn user(self, name: &str, rules: &str) -> Self {
        self.config(&format!("user {name} {rules}"))
    }

    /// Starts a cluster with one node, which has all hash slots.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    #[must_use]
    pub fn replica_of(self, primary: SocketAddr) -> Self {
        let (ip, port) = (primary.ip(), primary.port());
        self.config(&format!("replicaof {ip} {port}"))
    }

    /// Adds a line to the configuration file.
    #[must_use]
    pub fn config(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub(super) fn configuration(
        &self,
        dir: &Path,
        (port, tls_port, cluster_port): (&Port, Option<&Port>, Option<&Port>),
    ) -> String {
        let shown = dir.display();
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", port.address.port()),
            format!("unixsocket {shown}/store.sock"),
            format!("dir {shown}"),
            format!("logfile {shown}/store.log"),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            // Replicas receive the data immediately.
            "repl-diskless-sync yes".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        if let (Some(tls), Some(tls_port)) = (&self.tls, tls_port) {
            let files = [
                ("ca.crt", &tls.ca),
                ("server.crt", &tls.cert),
                ("server.key", &tls.key),
            ];
            for (file, contents) in files {
                std::fs::write(dir.join(file), contents).unwrap();
            }
            let client = if tls.client_certificates { "yes" } else { "no" };
            lines.extend([
                format!("tls-port {}", tls_port.address.port()),
                format!("tls-ca-cert-file {shown}/ca.crt"),
                format!("tls-cert-file {shown}/server.crt"),
                format!("tls-key-file {shown}/server.key"),
                format!("tls-auth-clients {client}"),
            ]);
        }
        if let Some(cluster_port) = cluster_port {
            lines.extend([
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {}", cluster_port.address.port()),
                "cluster-config-file nodes.conf".to_owned(),
            ]);
        }
        lines.extend(self.lines.iter().cloned());
        lines.join("\n") + "\n"
    }
}
