//! A client for the admin API, over the admin socket or address. It opens one connection per
//! request.

use std::{
    fmt::Display,
    io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::{
    BlockRemoved, BlockSet, Blocks, Clients, ClientsQuery, Connections, ConnectionsQuery, Fleet,
    Kill, Killed, LogLevel, Refusals, RefusalsQuery, Reload, RemoveBlock, Samples, Servers,
    ServersQuery, SetBlock, SetLogLevel, SetState, SetWeight, StateSet, Status, WeightSet,
};

/// Maximum size of a response in bytes. A list of 1,000 connections with long names takes about 500
/// KB.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// Default timeout for requests.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for a reload, which may have to read many rules or wait for another reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of retries while a successor process takes over.
const RETRIES: u32 = 20;

const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Endpoint of the admin side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Admin socket.
    Socket(PathBuf),
    /// Admin address, which is read-only for this client.
    Address(SocketAddr),
}

/// A client for the admin API of one balancer.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    limit: Duration,
}

/// A failed request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Connecting failed.
    #[error("{}", unreachable(target, source))]
    Unreachable { target: Target, source: io::Error },
    /// A read request timed out.
    #[error("no response from {0} within {1:?}")]
    TimedOut(Target, Duration),
    /// A change timed out. It may still have been made.
    #[error("no response from {0} within {1:?}; the change may still be made: check `ctl status`")]
    Unfinished(Target, Duration),
    /// Invalid response.
    #[error("invalid response from {0}: {1}{hint}", hint = not_admin(.0))]
    NotHttp(Target, String),
    /// The balancer rejected the request.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    /// The response has an unknown format.
    #[error(
        "cannot parse the response from {0}: {1}; this program has version {version}; does the balancer have another version?",
        version = env!("CARGO_PKG_VERSION")
    )]
    NotUnderstood(Target, serde_json::Error),
}

impl Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What to check if the response is not that of an admin address.
fn not_admin(target: &Target) -> &'static str {
    match target {
        Target::Socket(_) => "",
        Target::Address(_) => "; is it the address of `bind` in [admin]?",
    }
}

/// Explains a failed connect, with a remedy.
fn unreachable(target: &Target, error: &io::Error) -> String {
    let Target::Socket(path) = target else {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => format!(
                "connection refused by {target}: the balancer is not running (start it: `leastconn-lb run`), or its `bind` in [admin] is different"
            ),
            _ => format!("cannot connect to {target}: {error}"),
        };
    };
    let is_socket = || std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket {path}: the balancer is not running (start it: `leastconn-lb run`), or runs with another configuration: name it with --config FILE, or its socket with --socket PATH"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no access to {path}: only root and the user that runs the balancer may use its socket; use `sudo`"
        ),
        io::ErrorKind::ConnectionRefused if !is_socket() => {
            format!("{path} is not a socket; use --config for a configuration file")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "connection refused by {path}: its balancer exited without removing it; start the balancer again: `leastconn-lb run`"
        ),
        io::ErrorKind::InvalidInput => {
            format!("{path} is too long for a socket: the limit is 107 bytes")
        }
        _ => format!("cannot connect to {path}: {error}"),
    }
}

/// Body of an error response.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    pub fn at_socket(path: &Path) -> Self {
        Self::new(Target::Socket(path.to_owned()))
    }

    pub const fn new(target: Target) -> Self {
        Self {
            target,
            limit: DEFAULT_TIMEOUT,
        }
    }

    /// Replaces [`DEFAULT_TIMEOUT`]. Reloads have their own timeout.
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// `GET /api/v1/status`
    ///
    /// # Errors
    /// See [`ClientError`].
    ///
    /// # Cancel safety
    /// This and all other read requests are cancel safe.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("status", &()).await
    }

    /// `GET /api/v1/servers`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn servers(&self) -> Result<Servers, ClientError> {
        self.get("servers", &ServersQuery::default()).await
    }

    /// `GET /api/v1/clients`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn clients(&self, query: &ClientsQuery) -> Result<Clients, ClientError> {
        self.get("clients", query).await
    }

    /// `GET /api/v1/connections`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connections(&self, query: &ConnectionsQuery) -> Result<Connections, ClientError> {
        self.get("connections", query).await
    }

    /// `GET /api/v1/refusals`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn refusals(&self, query: &RefusalsQuery) -> Result<Refusals, ClientError> {
        self.get("refusals", query).await
    }

    /// `GET /api/v1/history`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(&self) -> Result<Samples, ClientError> {
        self.get("history", &()).await
    }

    /// `GET /readyz`. Returns whether the balancer is ready, and the text of the response.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ready(&self) -> Result<(bool, String), ClientError> {
        let (status, body) = self
            .ask(Method::GET, "/readyz", Bytes::new(), self.limit)
            .await?;
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        Ok((status.is_success(), text))
    }

    /// Sets the administrative state of a server.
    ///
    /// # Errors
    /// See [`ClientError`].
    ///
    /// # Cancel safety
    /// If the future of a change is dropped, the change may or may not have been made.
    pub async fn set_state(
        &self,
        upstream: &str,
        server: &str,
        state: &SetState,
    ) -> Result<StateSet, ClientError> {
        let (upstream, server) = (segment(upstream), segment(server));
        let path = format!("servers/{upstream}/{server}/state");
        self.post(&path, state, self.limit).await
    }

    /// Sets the weight of a server.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_weight(
        &self,
        upstream: &str,
        server: &str,
        weight: &SetWeight,
    ) -> Result<WeightSet, ClientError> {
        let (upstream, server) = (segment(upstream), segment(server));
        let path = format!("servers/{upstream}/{server}/weight");
        self.post(&path, weight, self.limit).await
    }

    /// Closes connections.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill(&self, which: &Kill) -> Result<Killed, ClientError> {
        self.post("connections/kill", which, self.limit).await
    }

    /// `GET /api/v1/blocks`
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn blocks(&self) -> Result<Blocks, ClientError> {
        self.get("blocks", &()).await
    }

    /// `GET /api/v1/fleet`
    ///
    /// # Errors
    /// See [`ClientError`]. Status 404 means that the balancer is not a member of a fleet.
    pub async fn fleet(&self) -> Result<Fleet, ClientError> {
        self.get("fleet", &()).await
    }

    /// Refuses a client and closes its connections.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn block(&self, block: &SetBlock) -> Result<BlockSet, ClientError> {
        self.post("blocks", block, self.limit).await
    }

    /// Admits a blocked client again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unblock(&self, block: &RemoveBlock) -> Result<BlockRemoved, ClientError> {
        self.post("blocks/remove", block, self.limit).await
    }

    /// Reloads the configuration and waits for the result.
    ///
    /// # Errors
    /// See [`ClientError`]. A rejected configuration is not an error: the [`Reload`] reports it.
    pub async fn reload(&self) -> Result<Reload, ClientError> {
        self.post("reload", &serde_json::json!({}), RELOAD_TIMEOUT)
            .await
    }

    /// Sets the log level.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_log_level(&self, level: &SetLogLevel) -> Result<LogLevel, ClientError> {
        self.post("log-level", level, self.limit).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        // Serializing a flat query cannot fail.
        let query = serde_urlencoded::to_string(query).unwrap_or_default();
        let question = if query.is_empty() { "" } else { "?" };
        let path = format!("/api/v1/{path}{question}{query}");
        let answer = self.ask(Method::GET, &path, Bytes::new(), self.limit).await;
        self.parse(answer?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
        let path = format!("/api/v1/{path}");
        let mut retries = RETRIES;
        loop {
            let answer = self.ask(Method::POST, &path, body.clone(), limit).await;
            let answer = answer.map_err(|error| match error {
                ClientError::TimedOut(target, limit) => ClientError::Unfinished(target, limit),
                other => other,
            })?;
            // A successor process is taking over.
            if answer.0 == StatusCode::SERVICE_UNAVAILABLE && retries > 0 {
                retries -= 1;
                sleep(RETRY_DELAY).await;
                continue;
            }
            return self.parse(answer);
        }
    }

    fn parse<T: DeserializeOwned>(
        &self,
        (status, body): (StatusCode, Bytes),
    ) -> Result<T, ClientError> {
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| ClientError::NotUnderstood(self.target.clone(), error));
        }
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => ClientError::Refused {
                status,
                message: refusal.error,
            },
            Err(_) => ClientError::NotHttp(self.target.clone(), format!("status {status}")),
        })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            target: self.target.clone(),
            source,
        };
        let exchange = async {
            match &self.target {
                Target::Socket(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                    self.exchange(stream, "localhost", method, path, body).await
                }
                Target::Address(address) => {
                    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                    let host = address.to_string();
                    self.exchange(stream, &host, method, path, body).await
                }
            }
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::TimedOut(self.target.clone(), limit)))
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        host: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let not_http = |error: String| ClientError::NotHttp(self.target.clone(), error);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| not_http(error.to_string()))?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http1::handshake(io)
            .await
            .map_err(|error| not_http(error.to_string()))?;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_RESPONSE).collect().await;
            Ok::<_, hyper::Error>((head.status, body))
        };
        // The connection future ends after an error, which the request future then reports,
        // or after the response was read.
        let mut connection = Box::pin(connection);
        let mut answer = Box::pin(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        };
        let (status, body) = answer.map_err(|error| not_http(error.to_string()))?;
        let body = body.map_err(|error| {
            not_http(match error.downcast_ref::<LengthLimitError>() {
                Some(_) => "response too long".to_owned(),
                None => error.to_string(),
            })
        })?;
        Ok((status, body.to_bytes()))
    }
}

/// Percent-encodes a name as a single path segment.
fn segment(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(byte.into());
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests;
