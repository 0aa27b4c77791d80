//! The settings of one TLS endpoint, with every file loaded and checked. They do not depend
//! on the configuration format: `leastconn-config` creates them from a `tls` table.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use leastconn::Address;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::{
    algorithms::Algorithms,
    alpn::Alpn,
    crl::CrlStore,
    pattern::{Spki, UriPattern},
};

/// TLS settings for connections from clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The oldest protocol version that is accepted.
    pub min_version: MinVersion,
    /// Whether clients must present a certificate.
    pub client_auth: ClientAuth,
    /// How long after its full handshake a session may be resumed. `None` if sessions are
    /// not resumed.
    pub resumption: Option<Duration>,
    /// Key exchange groups and cipher suites.
    pub algorithms: Algorithms,
    /// Application protocols that are negotiated.
    pub alpn: Alpn,
    /// Public keys of clients that need no certificate from an authority.
    pub client_pins: Vec<Spki>,
    /// Certificates, key and CRLs. Shared, so that a clone does not copy keys.
    pub material: Arc<ServerMaterial>,
}

/// Certificates, key and CRLs of a TLS server.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerMaterial {
    /// The server's certificate, then its intermediates in the order of the file.
    pub cert_chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate of the chain. Its `Debug` form is redacted.
    pub key: PrivateKeyDer<'static>,
    /// The authorities that may issue client certificates. Some of them may have expired.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// The CRLs in force, each signed by one of `client_ca`.
    pub crls: Arc<CrlStore>,
}

/// TLS settings for connections to servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The oldest protocol version that is accepted.
    pub min_version: MinVersion,
    /// The name for which every server's certificate must be valid. If `None`, the name is the
    /// host of each server's address, which must be a name that a certificate can contain.
    pub server_name: Option<ServerName<'static>>,
    /// If not empty, every server's certificate must have one of these URIs.
    pub uris: Vec<UriPattern>,
    /// If not empty, every server must have one of these public keys.
    pub pins: Vec<Spki>,
    /// Whether an authority must have issued the servers' certificates. If `false`, a pinned
    /// key is enough.
    pub needs_authority: bool,
    /// Key exchange groups and cipher suites.
    pub algorithms: Algorithms,
    /// Application protocols that are offered to servers.
    pub alpn: Alpn,
    /// Certificates, key and CRLs. Shared, so that a clone does not copy keys.
    pub material: Arc<ClientMaterial>,
}

impl ClientSettings {
    /// Whether a server's certificate must be valid for a name.
    pub fn verifies_name(&self) -> bool {
        self.server_name.is_some() || (self.uris.is_empty() && self.pins.is_empty())
    }

    /// The server name (SNI) for the server at `address`. Its certificate must be valid
    /// for this name if [`Self::verifies_name`].
    pub fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        self.server_name
            .clone()
            .or_else(|| match address {
                Address::Ip(address) => Some(ServerName::IpAddress(address.ip().into())),
                Address::Name { host, .. } => ServerName::try_from(host.to_string()).ok(),
                Address::Unix(_) => None,
            })
            .or_else(|| {
                // With an IP address, rustls sends no SNI.
                let unspecified = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
                (!self.verifies_name()).then_some(unspecified)
            })
    }
}

/// Certificates, key and CRLs of a TLS client.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientMaterial {
    /// The authorities that may issue server certificates.
    pub ca: Vec<CertificateDer<'static>>,
    /// Self-signed server certificates that are not authorities. A server may present such a
    /// certificate, but no certificate that is signed with its key.
    pub self_signed: Vec<CertificateDer<'static>>,
    /// The CRLs in force, each signed by one of `ca`.
    pub crls: Arc<CrlStore>,
    /// The certificate for servers that request one. If `None`, no certificate is sent.
    pub own: Option<KeyPair>,
}

/// A certificate chain and its key.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate, then its intermediates in the order of the file.
    pub cert_chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate of the chain. Its `Debug` form is redacted.
    pub key: PrivateKeyDer<'static>,
}

/// The oldest protocol version that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MinVersion {
    Tls12,
    Tls13,
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients must present a certificate that a trusted authority issued, or whose key is
    /// pinned.
    Required,
    /// Clients are not asked for a certificate.
    None,
}

/// The implementation that seals and opens TLS records. Only the cost differs, not the
/// behaviour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordLayer {
    /// This crate's record layer, which works directly on the socket's and the relay's buffers.
    #[default]
    Direct,
    /// rustls' record layer, which has internal buffers.
    Rustls,
}

/// Maximum size in bytes of the authority names in a CertificateRequest. Java accepts
/// handshake messages of at most 32,768 bytes, and the other fields of this message need
/// less than 256 bytes. TLS itself allows 65,535 bytes of names.
pub const MAX_CA_NAMES: usize = 32_768 - 256;

/// The size in bytes of authority names in a CertificateRequest. `names` yields the length of each
/// name in DER.
pub fn ca_names_length(names: impl Iterator<Item = usize>) -> usize {
    names.map(|length| length + 2).sum()
}
