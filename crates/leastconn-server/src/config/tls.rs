//! TLS towards clients and towards servers: what the `tls` of a listener or of an
//! upstream names, read and checked.
//!
//! A file that is missing, unfit or out of date is an error here and not a
//! surprise at the first handshake. There are no system roots: only what
//! `client_ca` or `ca` holds is trusted.

mod again;
mod algorithms;
mod alpn;
mod expiry;
mod file;
mod format;
mod inspect;
mod lists;
pub(crate) mod load;
mod pem;
pub(crate) mod upstream;

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use leastconn::Address;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Spki, UriPattern},
    crl::CrlStore,
};

pub use again::Written;
pub use algorithms::Algorithms;
pub use alpn::Alpn;
pub use expiry::{CertificateFile, Dated, FileKind, Urgency};

/// `tls` of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The oldest protocol version that is spoken.
    pub min_version: MinVersion,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// How long after its full handshake a session may be resumed; `None`: sessions
    /// are not resumed.
    pub resumption: Option<Duration>,
    /// Key exchange groups and cipher suites.
    pub algorithms: Algorithms,
    /// Application protocols that are negotiated.
    pub alpn: Alpn,
    /// Keys of clients that need no authority.
    pub client_pins: Vec<Spki>,
    /// As it was written, to be read again.
    pub written: Written,
    /// What the files hold. Shared: a configuration is cloned, its keys are not.
    pub material: Arc<TlsMaterial>,
}

/// Reads the certificates of a PEM file, which may be a pipe; there is at least one.
/// Waits for the writer of a pipe: not for a running balancer.
///
/// # Errors
/// What is wrong, and what to do about it.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    match file::Pem::read_any(path, file::Wanted::Certificates) {
        Ok(pem) => Ok(pem.certificates),
        Err(error) => {
            let parts = [Some(error.message), error.help];
            Err(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
    }
}

/// The oldest protocol version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[schemars(rename = "min_version")]
pub enum MinVersion {
    /// TLS 1.2
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    Tls13,
}

impl MinVersion {
    /// As it is configured.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "client_auth")]
pub enum ClientAuth {
    /// They must, and `client_ca` says whose.
    Required,
    /// They are not asked for one, and `source` rules tell them apart.
    None,
}

/// Whether clients may go on with a session of an earlier connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "resumption")]
pub enum Resumption {
    /// Each connection has a full handshake.
    Off,
    /// They may, and their chain is verified again as if it were shown.
    On,
}

/// What the files of one `tls` table hold.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The server's certificate, then those above it as the file has them.
    pub cert_chain: Vec<CertificateDer<'static>>,
    /// The key that belongs to the first certificate of the chain. Its `Debug`
    /// form is redacted.
    pub key: PrivateKeyDer<'static>,
    /// The authorities whose certificates clients may show. Some may have expired.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// The revocation lists in force, each signed by one of `client_ca`.
    pub crls: Arc<CrlStore>,
    /// Every certificate file, for the metric.
    pub files: Vec<CertificateFile>,
}

/// `tls` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The oldest protocol version that is spoken.
    pub min_version: MinVersion,
    /// What every server's certificate must be for. `None`: each server's own host,
    /// which was checked to be something that a certificate can be for.
    pub server_name: Option<ServerName<'static>>,
    /// URIs of which every server's certificate must have one, if there are any.
    pub uris: Vec<UriPattern>,
    /// Keys of which every server must have one, if there are any.
    pub pins: Vec<Spki>,
    /// Whether an authority must have issued the servers' certificates; else a pinned key
    /// is enough.
    pub needs_authority: bool,
    /// Key exchange groups and cipher suites.
    pub algorithms: Algorithms,
    /// Application protocols that servers are offered.
    pub alpn: Alpn,
    /// As it was written, to be read again.
    pub written: Written,
    /// What the files hold. Shared: a configuration is cloned, its keys are not.
    pub material: Arc<UpstreamTlsMaterial>,
}

impl UpstreamTls {
    /// Whether the certificate of a server must be for a name.
    pub fn verifies_name(&self) -> bool {
        self.server_name.is_some() || (self.uris.is_empty() && self.pins.is_empty())
    }

    /// The name that a server at `address` is asked for, and that its certificate must be
    /// for if [`Self::verifies_name`].
    pub fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        self.server_name
            .clone()
            .or_else(|| match address {
                Address::Ip(address) => Some(ServerName::IpAddress(address.ip().into())),
                Address::Name { host, .. } => ServerName::try_from(host.to_string()).ok(),
                Address::Unix(_) => None,
            })
            .or_else(|| {
                // An address: no server name is sent.
                let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
                (!self.verifies_name()).then_some(nobody)
            })
    }
}

/// What the files of one `tls` table of an upstream hold.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamTlsMaterial {
    /// The authorities whose certificates servers may show.
    pub ca: Vec<CertificateDer<'static>>,
    /// Certificates that servers have signed themselves and that are no authorities':
    /// each is good for the server that shows it, and for nothing that its key signed.
    pub alone: Vec<CertificateDer<'static>>,
    /// The revocation lists in force, each signed by one of `ca`.
    pub crls: Arc<CrlStore>,
    /// What servers are shown if they ask; `None`: nothing.
    pub own: Option<KeyPair>,
    /// Every certificate file, for the metric.
    pub files: Vec<CertificateFile>,
}

/// A certificate and its key.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, then those above it as the file has them.
    pub cert_chain: Vec<CertificateDer<'static>>,
    /// The key that belongs to the first certificate of the chain. Its `Debug`
    /// form is redacted.
    pub key: PrivateKeyDer<'static>,
}
