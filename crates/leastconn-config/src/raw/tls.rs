//! `tls` of a listener and of an upstream.

use leastconn_tls::settings;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{DurationText, OneOrMany, Opt};
use crate::defaults::{self, text};

/// TLS towards clients.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "tls")]
pub struct RawTls {
    /// PEM file: the server's certificate, then those above it.
    #[schemars(required)]
    pub cert: Opt<String>,
    /// PEM file: the key of that certificate, not encrypted.
    #[schemars(required)]
    pub key: Opt<String>,
    /// PEM file: the authorities whose certificates clients may show. There are no others,
    /// and what is no authority's is ignored.
    pub client_ca: Opt<String>,
    /// Public keys, each as the SHA-256 of its SubjectPublicKeyInfo in hexadecimal, of
    /// clients that need no authority: a certificate that such a client has signed itself
    /// is accepted.
    pub client_pins: Opt<OneOrMany>,
    /// PEM file, or a list of them: revocation lists. One that has expired
    /// refuses all certificates of its issuer.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is spoken.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Whether clients must show a certificate.
    #[schemars(extend("default" = "required"))]
    pub client_auth: Opt<ClientAuth>,
    /// Whether clients may go on with a session of an earlier connection. Their chain
    /// is verified again; that they have its key is not proven again.
    #[schemars(extend("default" = "off"))]
    pub resumption: Opt<Resumption>,
    /// With `resumption`, how long after its full handshake a session can be resumed; at most "24h".
    #[schemars(extend("default" = text(defaults::RESUMPTION_LIFETIME)))]
    pub resumption_lifetime: Opt<DurationText>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites, preferred first, by the names of IANA or OpenSSL. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN), preferred first. A client that offers only others is refused.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// TLS towards the servers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "upstream_tls")]
pub struct RawUpstreamTls {
    /// PEM file: the authorities whose certificates servers may show. There are no others.
    /// Required, unless there is a `pin`.
    pub ca: Opt<String>,
    /// The name, or IP address, that their certificates must be for. Default: each server's own host,
    /// unless there is a `uri` or a `pin`.
    #[schemars(extend("examples" = ["web.internal"]))]
    pub server_name: Opt<String>,
    /// The URI that their certificates must have, such as a SPIFFE ID, or a list of which
    /// one is enough; `*` stands for one whole segment of the path, and `**` at the end
    /// for the rest.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/default/sa/web"]))]
    pub uri: Opt<OneOrMany>,
    /// The SHA-256 of their public key (the SubjectPublicKeyInfo) in hexadecimal, or a list
    /// of which one is enough. Without `ca`, the key alone is what they are known by.
    pub pin: Opt<OneOrMany>,
    /// PEM file: the certificate that is shown to them, then those above it.
    pub cert: Opt<String>,
    /// PEM file: the key of that certificate, not encrypted.
    pub key: Opt<String>,
    /// PEM file, or a list of them: revocation lists. One that has expired
    /// refuses all certificates of its issuer.
    pub crl: Opt<OneOrMany>,
    /// The oldest protocol version that is spoken.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Opt<MinVersion>,
    /// Key exchange groups, preferred first. Default: X25519MLKEM768, X25519, P-256, P-384.
    #[schemars(extend("examples" = [["X25519MLKEM768", "X25519", "P-256", "P-384"]]))]
    pub groups: Opt<OneOrMany>,
    /// Cipher suites, preferred first, by the names of IANA or OpenSSL. Default: all.
    #[schemars(extend("examples" = [["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]]))]
    pub ciphers: Opt<OneOrMany>,
    /// Application protocols (ALPN) that servers are offered; of these, the one that the client has.
    #[schemars(extend("examples" = [["postgresql"], ["h2", "http/1.1"]]))]
    pub alpn: Opt<OneOrMany>,
}

/// `min_version`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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
    /// They must, and `client_ca` says whose.
    Required,
    /// They are not asked for one, and `source` rules tell them apart.
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
