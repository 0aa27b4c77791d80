//! Where a store is, and how a member authenticates.

use std::{fmt, sync::Arc};

use leastconn::Address;
use rustls::{ClientConfig, pki_types::ServerName};

/// How to reach a Valkey or Redis server.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    pub endpoint: Endpoint,
    /// `None` with a password: the user `default`. Ignored without a password.
    pub user: Option<String>,
    pub password: Option<Password>,
    /// TLS to servers and sentinels. `None`: plain TCP. Never used with UNIX sockets.
    pub tls: Option<StoreTls>,
    /// The name of the connection in `CLIENT LIST`. Other characters than letters, digits, `-`,
    /// `_` and `.` are replaced.
    pub client_name: String,
}

impl RedisSettings {
    /// A server without password and TLS.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            user: None,
            password: None,
            tls: None,
            client_name: "leastconn".to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
pub enum Endpoint {
    Server(Address),
    Sentinel {
        /// At least one.
        sentinels: Vec<Address>,
        /// The name of the primary at the sentinels.
        primary: String,
        /// User and password of the sentinels, which are not those of the server.
        user: Option<String>,
        password: Option<Password>,
    },
    /// Some nodes of a cluster, at least one. The node that has the keys is found from there.
    Cluster(Vec<Address>),
}

#[derive(Clone)]
pub struct StoreTls {
    pub config: Arc<ClientConfig>,
    /// The name for which certificates must be valid. `None`: the host of each address.
    pub server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for StoreTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Self(password.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}
