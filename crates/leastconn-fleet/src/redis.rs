//! Valkey and Redis.
//!
//! There is one connection and at most one exchange in flight. An exchange is one pipeline of
//! up to four scripts, which are in `scripts`. The keys start with `lc1:{NAME}:`, so that they
//! are in one hash slot of a cluster:
//!
//! | key | type | contents |
//! |---|---|---|
//! | `m` | hash | member → last heard, session, numbers of the last request and batch, `gone_after` |
//! | `c` | hash | member → connections to servers |
//! | `i` | hash | member → facts, in JSON |
//! | `l:ID` | hash | a limited client: its bucket, member → open connections |
//! | `s:ID` | hash | a server with `max_conns`: member → slots held and wanted |
//! | `h` | hash | states set by operators, signed |
//! | `b` | hash | members that are gone: last request and batch, for an hour |
//! | `k` | stream | kills and acknowledgements, signed; the last 1,000 |
//!
//! All keys expire: the keys of limited clients when the bucket is full and no member has a
//! connection, `b` after an hour, the others a day after the last exchange.
//!
//! Measured on one busy core with Redis 7.0 and Valkey 9.1, three members:
//!
//! | what | cost |
//! |---|---|
//! | `beat` | 20 to 30 µs |
//! | `limit` | 9 µs a client |
//! | `slots` | 7 µs a server |
//! | a limited client with connections on all members | 240 to 280 bytes |
//! | 1,000 new connections a second | 800 exchanges, 0.7 MB received and 0.4 MB sent a second, 7 to 9 % of the core |
//!
//! `redis/tests/load.rs` measures this.

mod bounded;
mod connection;
mod decode;
mod encode;
mod failure;
mod locate;
mod lookups;
#[cfg(test)]
mod tests;

use ::redis::{Pipeline, Value};
use leastconn::Address;

use crate::{
    endpoint::{Endpoint, RedisSettings},
    exchange::{Answer, Request},
    member::MemberId,
    report::Report,
    session::Session,
    settings::FleetSettings,
    store::{Store, StoreError},
    view::View,
};
use connection::Connection;
use encode::{Encoder, Scripts};
use failure::Failure;
use lookups::Lookups;

/// Redirections of a cluster that are followed in one exchange.
const REDIRECTIONS: u32 = 3;

/// A member's connection to Valkey or Redis.
pub struct Redis {
    settings: RedisSettings,
    encoder: Encoder,
    session: Session,
    /// `None` after a failed or dropped exchange: the reply to it must not be read as the reply
    /// to the next one.
    connection: Option<Connection>,
    /// The index of the sentinel or node to try next.
    next: usize,
    /// The node of the cluster that has the keys.
    redirected: Option<Address>,
    /// Connection attempts since the last success. The caller waits between exchanges that failed.
    attempts: u32,
    lookups: Lookups,
}

impl Redis {
    pub fn new(fleet: &FleetSettings, settings: RedisSettings) -> Self {
        Self {
            settings,
            encoder: Encoder::new(&fleet.name),
            session: Session::new(fleet, leastconn::net::random()),
            connection: None,
            next: 0,
            redirected: None,
            attempts: 0,
            lookups: Lookups::default(),
        }
    }

    /// Changes the address, user, password or certificates. A new connection is opened with the
    /// next exchange.
    #[cfg(test)]
    fn reconfigure(&mut self, settings: RedisSettings) {
        self.settings = settings;
        self.connection = None;
        self.next = 0;
        self.redirected = None;
        self.attempts = 0;
    }

    async fn run(
        &mut self,
        connection: &mut Connection,
        report: &Report,
    ) -> Result<View, StoreError> {
        let mut request = self.session.request(report);
        loop {
            let answer = self.request(connection, &request).await?;
            self.session.accept(&request, answer);
            match self.session.follow_up(report) {
                Some(next) => request = next,
                None => return Ok(self.session.finish()),
            }
        }
    }

    async fn request(
        &mut self,
        connection: &mut Connection,
        request: &Request,
    ) -> Result<Answer, StoreError> {
        self.execute(
            connection,
            |encoder, scripts| encoder.pipeline(request, scripts),
            |replies| decode::answer(request, replies),
        )
        .await
    }

    /// Sends scripts and decodes their replies. Loads the scripts if the server does not have them,
    /// and follows redirections of a cluster.
    async fn execute<T>(
        &mut self,
        connection: &mut Connection,
        encode: impl Fn(&Encoder, &Scripts) -> Pipeline,
        decode: impl Fn(Vec<Value>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut redirections = 0;
        let mut loaded = false;
        loop {
            let pipeline = encode(&self.encoder, connection.scripts());
            match connection.send(&pipeline).await.and_then(&decode) {
                Ok(decoded) => return Ok(decoded),
                // The password is sent to the other node, so only a cluster is trusted with this.
                Err(Failure::Moved { host, port })
                    if redirections < REDIRECTIONS && self.settings.endpoint.is_cluster() =>
                {
                    redirections += 1;
                    let Some(address) = Failure::moved(connection.address(), &host, &port) else {
                        let failure = Failure::Moved { host, port };
                        return Err(failure.describe(connection.address()));
                    };
                    *connection = self.open(&address).await?;
                    self.redirected = Some(address);
                }
                // Another client has executed SCRIPT FLUSH. Scripts that were executed already are
                // repeated: the sequence and the number of the batch make this harmless.
                Err(Failure::NoScript) if !loaded => {
                    loaded = true;
                    connection.load_scripts(&self.encoder).await?;
                }
                Err(failure) => {
                    let failure = failure.name_command(|detail| {
                        self.encoder.failed_command(connection.scripts(), detail)
                    });
                    return Err(failure.into_error(connection.address(), &self.settings));
                }
            }
        }
    }

    /// Takes the connection, or opens one. The caller puts it back only after a success.
    async fn take_connection(&mut self) -> Result<Connection, StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                self.session.disconnected();
                self.connect().await
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, StoreError> {
        self.attempts = self.attempts.saturating_add(1);
        let connection = match self.redirected.take() {
            Some(address) => {
                let connection = self.open(&address).await?;
                self.redirected = Some(address);
                connection
            }
            None => self.locate().await?,
        };
        self.attempts = 0;
        self.lookups.forget_running();
        Ok(connection)
    }

    async fn open(&mut self, address: &Address) -> Result<Connection, StoreError> {
        let mut connection = Connection::open(
            address,
            self.settings.tls.as_ref(),
            self.attempts,
            &mut self.lookups,
        )
        .await?;
        connection
            .authenticate(&self.settings, &self.encoder)
            .await?;
        Ok(connection)
    }
}

impl Store for Redis {
    async fn exchange(&mut self, report: &Report) -> Result<View, StoreError> {
        let mut connection = self.take_connection().await?;
        let view = self.run(&mut connection, report).await?;
        self.connection = Some(connection);
        Ok(view)
    }

    async fn leave(&mut self, member: &MemberId) -> Result<(), StoreError> {
        let mut connection = self.take_connection().await?;
        let sequence = self.session.leave();
        self.execute(
            &mut connection,
            |encoder, scripts| encoder.leave(member, sequence, scripts),
            |replies| {
                let mut replies = replies.into_iter();
                replies.try_for_each(|reply| Failure::check(reply).map(drop))
            },
        )
        .await?;
        self.connection = Some(connection);
        Ok(())
    }

    /// `127.0.0.1:6379 (valkey 9.1.2)`.
    fn server(&self) -> Option<&str> {
        self.connection.as_ref().map(Connection::server)
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.session.deliver_again();
    }
}

impl Endpoint {
    fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}
