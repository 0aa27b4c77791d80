//! Finding the server that accepts writes.

use leastconn::Address;

use super::{
    Redis,
    connection::Connection,
    failure::{Failure, visible},
};
use crate::{endpoint::Endpoint, store::StoreError};

impl Redis {
    /// Connects to the server, the primary that a sentinel names, or a node of the cluster. If
    /// this fails or is cancelled, the next call tries the next sentinel or node.
    pub(super) async fn locate(&mut self) -> Result<Connection, StoreError> {
        let connection = match &self.settings.endpoint {
            Endpoint::Server(address) => {
                let address = address.clone();
                self.open(&address).await?
            }
            Endpoint::Cluster(nodes) => {
                let used = self.next % nodes.len().max(1);
                self.next = used + 1;
                let Some(address) = nodes.get(used).cloned() else {
                    return Err(Failure::nowhere("the list of nodes is empty"));
                };
                let connection = self.open(&address).await?;
                self.next = used;
                connection
            }
            Endpoint::Sentinel { sentinels, .. } => {
                let used = self.next % sentinels.len().max(1);
                self.next = used + 1;
                let Some(sentinel) = sentinels.get(used).cloned() else {
                    return Err(Failure::nowhere("the list of sentinels is empty"));
                };
                let address = self.ask(&sentinel).await?;
                let connection = self.open(&address).await?;
                // If this is a replica, the next sentinel may know better.
                if connection.is_primary() {
                    self.next = used;
                }
                connection
            }
        };
        if !connection.is_primary() && !self.settings.endpoint.is_cluster() {
            return Err(Failure::replica(connection.address()));
        }
        Ok(connection)
    }

    async fn ask(&mut self, sentinel: &Address) -> Result<Address, StoreError> {
        let Endpoint::Sentinel {
            primary,
            user,
            password,
            ..
        } = &self.settings.endpoint
        else {
            return Err(Failure::nowhere("no sentinels"));
        };
        let tls = self.settings.tls.as_ref();
        let mut connection =
            Connection::open(sentinel, tls, self.attempts, &mut self.lookups).await?;
        let answer = connection
            .ask_sentinel(primary, user.as_deref(), password.as_ref())
            .await
            .map_err(|failure| failure.describe_sentinel(sentinel))?;
        let Some((host, port)) = answer else {
            return Err(Failure::unknown_primary(sentinel, primary));
        };
        Failure::parse_address(&host, &port).ok_or_else(|| {
            Failure::nowhere(&format!(
                "sentinel {sentinel} returned the address `{}`, which is not valid",
                visible(&format!("{host}:{port}"))
            ))
        })
    }
}
