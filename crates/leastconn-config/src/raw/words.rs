//! Values that are one of a few fixed words, where the type that they become belongs to
//! another crate.

use leastconn_tls::settings;
use schemars::JsonSchema;
use serde::Deserialize;

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

/// What seals and opens TLS records. Clients cannot tell; what it costs differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "tls_records")]
pub enum TlsRecords {
    /// The balancer itself, between the socket's and the relay's buffers.
    #[default]
    Direct,
    /// rustls, by way of buffers of its own.
    Rustls,
}

impl From<TlsRecords> for settings::RecordLayer {
    fn from(word: TlsRecords) -> Self {
        match word {
            TlsRecords::Direct => Self::Direct,
            TlsRecords::Rustls => Self::Rustls,
        }
    }
}
