//! One connection to a server.

use std::{io, pin::Pin};

use leastconn::Address;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisError, Value,
    aio::MultiplexedConnection,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    bounded::{Allowance, Bounded},
    encode::{Encoder, Scripts},
    failure::{Failure, visible},
    lookups::Lookups,
};
use crate::{
    endpoint::{Password, RedisSettings, StoreTls},
    store::StoreError,
};

/// Dropping it closes the connection.
pub(super) struct Connection {
    address: Address,
    /// With product and version, once they are known.
    server: String,
    is_primary: bool,
    scripts: Scripts,
    client: MultiplexedConnection,
    allowance: Allowance,
    /// Reads and writes the socket. Polled only while a reply is awaited, so that no task is
    /// needed: the server sends nothing on its own.
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    /// `attempt` selects the address of a host that has several.
    pub(super) async fn open(
        address: &Address,
        tls: Option<&StoreTls>,
        attempt: u32,
        lookups: &mut Lookups,
    ) -> Result<Self, StoreError> {
        let unavailable = |error: io::Error| Failure::connect(address, &error);
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unavailable)?;
                Self::from_stream(address, stream).await
            }
            Address::Ip(ip) => {
                let stream = TcpStream::connect(ip).await.map_err(unavailable)?;
                Self::from_tcp(address, stream, &ip.ip().to_string(), tls).await
            }
            Address::Name { host, port } => {
                let found = lookups.find(host, *port).await;
                let mut found = found.map_err(|error| Failure::resolve(address, &error))?;
                let first = attempt as usize % found.len().max(1);
                found.rotate_left(first);
                let stream = TcpStream::connect(&*found).await.map_err(unavailable)?;
                Self::from_tcp(address, stream, host, tls).await
            }
        }
    }

    async fn from_tcp(
        address: &Address,
        stream: TcpStream,
        host: &str,
        tls: Option<&StoreTls>,
    ) -> Result<Self, StoreError> {
        stream
            .set_nodelay(true)
            .map_err(|error| Failure::connect(address, &error))?;
        let Some(tls) = tls else {
            return Self::from_stream(address, stream).await;
        };
        let name = match &tls.server_name {
            Some(name) => name.clone(),
            None => {
                ServerName::try_from(host.to_owned()).map_err(|_| Failure::server_name(address))?
            }
        };
        let connector = TlsConnector::from(tls.config.clone());
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| Failure::tls(address, &error))?;
        Self::from_stream(address, stream).await
    }

    async fn from_stream<S>(address: &Address, stream: S) -> Result<Self, StoreError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Authentication is a part of the first pipeline, which saves a round trip. The timeout
        // is the caller's.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let allowance = Allowance::default();
        allowance.renew();
        let stream = Bounded::new(stream, allowance.clone());
        let (client, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(|error| Failure::closed(&error).describe(address))?;
        Ok(Self {
            address: address.clone(),
            server: address.to_string(),
            is_primary: true,
            scripts: Scripts::default(),
            client,
            allowance,
            driver: Box::pin(driver),
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn is_primary(&self) -> bool {
        self.is_primary
    }

    pub(super) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// Authenticates, sets the name of the connection and loads the scripts, in one round trip.
    pub(super) async fn authenticate(
        &mut self,
        settings: &RedisSettings,
        encoder: &Encoder,
    ) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::new();
        let mut hello = Cmd::new();
        hello.arg("HELLO").arg(2);
        if let Some(password) = &settings.password {
            let user = settings.user.as_deref().unwrap_or("default");
            hello.arg("AUTH").arg(user).arg(password.as_bytes());
        }
        hello.arg("SETNAME").arg(client_name(&settings.client_name));
        pipeline.add_command(hello);
        encoder.load_scripts(&mut pipeline);
        let result = self.send(&pipeline).await.and_then(|values| {
            let mut values = values.into_iter();
            self.read_hello(values.next())?;
            // A replica of a cluster, which only redirects, may refuse to load scripts.
            self.read_scripts(values)
        });
        result.map_err(|failure| failure.into_error(&self.address, settings))
    }

    pub(super) async fn load_scripts(&mut self, encoder: &Encoder) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::new();
        encoder.load_scripts(&mut pipeline);
        let result = self
            .send(&pipeline)
            .await
            .and_then(|values| self.read_scripts(values.into_iter()));
        result.map_err(|failure| failure.describe(&self.address))
    }

    /// Asks a sentinel for the address of a primary.
    pub(super) async fn ask_sentinel(
        &mut self,
        primary: &str,
        user: Option<&str>,
        password: Option<&Password>,
    ) -> Result<Option<(String, String)>, Failure> {
        let mut pipeline = Pipeline::new();
        if let Some(password) = password {
            let user = user.unwrap_or("default");
            pipeline.cmd("AUTH").arg(user).arg(password.as_bytes());
        }
        pipeline
            .cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(primary);
        let mut values = self.send(&pipeline).await?;
        let address = values.pop();
        for value in values {
            Failure::check(value)?;
        }
        match address.map(Failure::check).transpose()? {
            Some(Value::Array(parts)) => match &*parts {
                [host, port] => Ok(Some((text(host)?, text(port)?))),
                _ => Err(Failure::unexpected("SENTINEL")),
            },
            Some(Value::Nil) => Ok(None),
            _ => Err(Failure::unexpected("SENTINEL")),
        }
    }

    /// Sends commands, and returns the reply of each. A reply may be an error.
    pub(super) async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        self.allowance.renew();
        let replies = self
            .client
            .send_packed_commands(pipeline, 0, pipeline.len());
        tokio::select! {
            biased;
            replies = replies => replies.map_err(|error: RedisError| Failure::closed(&error)),
            () = &mut self.driver => Err(Failure::ended()),
        }
    }

    fn read_hello(&mut self, value: Option<Value>) -> Result<(), Failure> {
        let value = value.ok_or_else(|| Failure::unexpected("HELLO"))?;
        let Value::Array(fields) = Failure::check(value)? else {
            return Err(Failure::unexpected("HELLO"));
        };
        let field = |name: &str| {
            let mut pairs = fields.chunks_exact(2);
            let pair = pairs.find(|pair| text(&pair[0]).is_ok_and(|found| found == name));
            pair.and_then(|pair| text(&pair[1]).ok())
        };
        self.is_primary = field("role").is_none_or(|role| role == "master");
        if let (Some(product), Some(version)) = (field("server"), field("version")) {
            self.server = visible(&format!("{} ({product} {version})", self.address));
        }
        Ok(())
    }

    fn read_scripts(&mut self, mut values: impl Iterator<Item = Value>) -> Result<(), Failure> {
        let mut next = || {
            let value = values.next().ok_or_else(|| Failure::unexpected("SCRIPT"));
            text(&Failure::check(value?)?)
        };
        self.scripts = Scripts {
            operate: next()?,
            beat: next()?,
            limit: next()?,
            slots: next()?,
            leave: next()?,
        };
        Ok(())
    }
}

fn text(value: &Value) -> Result<String, Failure> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        _ => Err(Failure::unexpected("a command")),
    }
}

/// Names of connections must not contain spaces or control characters.
fn client_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect()
}
