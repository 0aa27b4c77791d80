//! `tls` of a listener and of an upstream.

use leastconn_tls::settings;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, OneOrMany, Opt};
use crate::defaults::{self, text};

/// TLS with clients.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "tls")]
pub struct RawTls {
    /// PEM file: the server's certificate, followed by its intermediates.
    #[schemars(required)]
    pub cert: Opt<String>,
    /// PEM file: the private key of that certificate, not encrypted. Default: the file of
    /// `cert`.
    pub key: Opt<String>,
    /// PEM file: the authorities (CAs) that may issue client certificates. The system's authorities
    /// are not used. Certificates that are not CA certificates are ignored.
    pub client_ca: Opt<String>,
    /// Public keys of clients that may present a self-signed certificate: each is the
    /// SHA-256 of the SubjectPublicKeyInfo in hexadecimal.
    pub client_pins: Opt<OneOrMany>,
    /// PEM file or list of PEM files: revocation lists (CRLs). When a CRL has expired, all
    /// certificates of its issuer are refused.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is accepted.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Whether clients must present a certificate.
    #[schemars(extend("default" = "required"))]
    pub client_auth: Opt<ClientAuth>,
    /// Whether clients may resume TLS sessions. The certificate chain is verified again, but
    /// possession of its private key is not proven again.
    #[schemars(extend("default" = "off"))]
    pub resumption: Opt<Resumption>,
    /// With `resumption`: how long after its full handshake a session can be resumed, at most "24h".
    #[schemars(extend("default" = text(defaults::RESUMPTION_LIFETIME)))]
    pub resumption_lifetime: Opt<DurationText>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites by their IANA or OpenSSL names, preferred first. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN), preferred first. A client that offers only other
    /// protocols is refused.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// TLS with servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "upstream_tls")]
pub struct RawUpstreamTls {
    /// PEM file: the authorities (CAs) that may issue server certificates. The system's
    /// authorities are not used. Required unless `pin` is set.
    pub ca: Opt<String>,
    /// The DNS name or IP address that the servers' certificates must contain. Default: the
    /// host of each server's address, unless `uri` or `pin` is set.
    #[schemars(extend("examples" = ["web.internal"]))]
    pub server_name: Opt<String>,
    /// The URI that the servers' certificates must contain, such as a SPIFFE ID, or a list of
    /// accepted URIs. `*` matches one whole path segment, and `**` at the end the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/default/sa/web"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of the servers' public key (the SubjectPublicKeyInfo) in hexadecimal, or a
    /// list of accepted keys. Without `ca`, servers are authenticated by the key alone.
    pub pin: Opt<OneOrMany>,
    /// PEM file: the certificate that is presented to servers, followed by its intermediates.
    pub cert: Opt<String>,
    /// PEM file: the private key of that certificate, not encrypted. Default: the file of
    /// `cert`.
    pub key: Opt<String>,
    /// PEM file or list of PEM files: revocation lists (CRLs). When a CRL has expired, all
    /// certificates of its issuer are refused.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is accepted.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites by their IANA or OpenSSL names, preferred first. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN) offered to servers. If the client negotiated one of them,
    /// only that one is offered.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// `min_version`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "min_version")]
pub enum MinVersion {
    /// TLS 1.2 and 1.3
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only
    #[serde(rename = "1.3")]
    Tls13,
}

impl MinVersion {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

impl From<MinVersion> for settings::MinVersion {
    fn from(word: MinVersion) -> Self {
        match word {
            MinVersion::Tls12 => Self::Tls12,
            MinVersion::Tls13 => Self::Tls13,
        }
    }
}

impl From<settings::MinVersion> for MinVersion {
    fn from(version: settings::MinVersion) -> Self {
        match version {
            settings::MinVersion::Tls12 => Self::Tls12,
            settings::MinVersion::Tls13 => Self::Tls13,
        }
    }
}

/// `client_auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "client_auth")]
pub enum ClientAuth {
    /// Clients must present a certificate that `client_ca` issued, or whose key is in
    /// `client_pins`.
    Required,
    /// No certificate is requested. Clients are identified by `source` rules.
    None,
}

impl ClientAuth {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::None => "none",
        }
    }
}

impl From<ClientAuth> for settings::ClientAuth {
    fn from(word: ClientAuth) -> Self {
        match word {
            ClientAuth::Required => Self::Required,
            ClientAuth::None => Self::None,
        }
    }
}

impl From<settings::ClientAuth> for ClientAuth {
    fn from(auth: settings::ClientAuth) -> Self {
        match auth {
            settings::ClientAuth::Required => Self::Required,
            settings::ClientAuth::None => Self::None,
        }
    }
}

/// Whether clients may resume TLS sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "resumption")]
pub enum Resumption {
    /// Each connection performs a full handshake.
    Off,
    /// Sessions can be resumed. The certificate chain is verified as in a full handshake.
    On,
}
