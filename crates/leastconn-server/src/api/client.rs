//! Asks a running balancer, over its admin socket or address.
//!
//! A connection for each question: they are few, and none is held while nobody asks.

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
    Clients, ClientsQuery, Connections, ConnectionsQuery, Kill, Killed, LogLevel, Refusals,
    RefusalsQuery, Reload, Samples, Servers, ServersQuery, SetLogLevel, SetState, StateSet, Status,
};

/// No answer is larger: a thousand connections with long names have some 500 KB.
const LARGEST: usize = 64 * 1024 * 1024;

/// How long a question may take that is answered from memory.
pub const SOON: Duration = Duration::from_secs(10);

/// How long a reload may take: very many rules, and one that is going on already.
const LATE: Duration = Duration::from_secs(60);

/// How often a process is asked again that is being replaced,
const AGAIN: u32 = 20;

/// and how soon.
const SHORTLY: Duration = Duration::from_millis(100);

/// Where a balancer can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At its admin socket: everything.
    Socket(PathBuf),
    /// At its admin address: what is to be read.
    Address(SocketAddr),
}

/// Asks one balancer.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    limit: Duration,
}

/// There is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody can be reached there.
    #[error("{}", unreachable(target, source))]
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{0} has not answered within {1:?}")]
    TimedOut(Target, Duration),
    /// It took too long, and may have been done or not.
    #[error(
        "{0} has not answered within {1:?}; it may still be at it: `ctl status` shows what became of it"
    )]
    Unfinished(Target, Duration),
    /// What came is not HTTP.
    #[error("{0} does not answer as a balancer does: {1}")]
    NotHttp(Target, String),
    /// The balancer says no.
    #[error("{message}")]
    Refused {
        /// With this status.
        status: StatusCode,
        /// For this reason.
        message: String,
    },
    /// The answer has another form.
    #[error(
        "the answer of {0} is not understood: {1}; is it another version than this program's, {version}?",
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

/// What happened, and what to do about it.
fn unreachable(target: &Target, error: &io::Error) -> String {
    let Target::Socket(path) = target else {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => format!(
                "nobody listens at {target}: the balancer does not run, or its `bind` in [admin] is another"
            ),
            _ => format!("no answer from {target}: {error}"),
        };
    };
    let is_socket = || std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no socket {path}: the balancer does not run, or runs with another configuration; name its socket with --socket, or its file with --config"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no access to {path}: only the user whom the balancer runs as, and root, may use its socket"
        ),
        io::ErrorKind::ConnectionRefused if !is_socket() => {
            format!("{path} is no socket; a configuration file is named with --config")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "nobody listens at {path}: the balancer that made it has ended without removing it; the next one that starts replaces it"
        ),
        io::ErrorKind::InvalidInput => {
            format!("{path} cannot be the path of a socket: it is longer than 107 bytes")
        }
        _ => format!("no answer from {path}: {error}"),
    }
}

/// An answer that says no.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Client {
    /// Asks at the socket of this path.
    pub fn at_socket(path: &Path) -> Self {
        Self::new(Target::Socket(path.to_owned()))
    }

    /// Asks there.
    pub const fn new(target: Target) -> Self {
        Self {
            target,
            limit: SOON,
        }
    }

    /// The same, and gives up on what is answered from memory after `limit` rather
    /// than after [`SOON`].
    #[must_use]
    pub const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Where it asks.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// The balancer as a whole.
    ///
    /// # Errors
    /// [`ClientError`]
    ///
    /// # Cancel safety
    /// Nothing is left behind; so for all that ask.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("status", &()).await
    }

    /// All servers.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn servers(&self) -> Result<Servers, ClientError> {
        self.get("servers", &ServersQuery::default()).await
    }

    /// Client rules.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn clients(&self, query: &ClientsQuery) -> Result<Clients, ClientError> {
        self.get("clients", query).await
    }

    /// Open connections.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn connections(&self, query: &ConnectionsQuery) -> Result<Connections, ClientError> {
        self.get("connections", query).await
    }

    /// The connections that were refused last.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn refusals(&self, query: &RefusalsQuery) -> Result<Refusals, ClientError> {
        self.get("refusals", query).await
    }

    /// The last minutes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn history(&self) -> Result<Samples, ClientError> {
        self.get("history", &()).await
    }

    /// Whether it is ready, and its own word for it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn ready(&self) -> Result<(bool, String), ClientError> {
        let (status, body) = self
            .ask(Method::GET, "/readyz", Bytes::new(), self.limit)
            .await?;
        let word = String::from_utf8_lossy(&body).trim().to_owned();
        Ok((status.is_success(), word))
    }

    /// Sets what is wanted of a server.
    ///
    /// # Errors
    /// [`ClientError`]
    ///
    /// # Cancel safety
    /// It may have happened or not; so for all that change something.
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

    /// Ends connections.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn kill(&self, which: &Kill) -> Result<Killed, ClientError> {
        self.post("connections/kill", which, self.limit).await
    }

    /// Reloads the configuration, and waits until that is over.
    ///
    /// # Errors
    /// [`ClientError`]; not if the configuration was rejected, which the answer says.
    pub async fn reload(&self) -> Result<Reload, ClientError> {
        self.post("reload", &serde_json::json!({}), LATE).await
    }

    /// Sets how much is logged.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_log_level(&self, level: &SetLogLevel) -> Result<LogLevel, ClientError> {
        self.post("log-level", level, self.limit).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        // Queries are flat and have neither maps nor bytes: nothing that fails.
        let query = serde_urlencoded::to_string(query).unwrap_or_default();
        let question = if query.is_empty() { "" } else { "?" };
        let path = format!("/api/v1/{path}{question}{query}");
        let answer = self.ask(Method::GET, &path, Bytes::new(), self.limit).await;
        self.understand(answer?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
        let path = format!("/api/v1/{path}");
        let mut again = AGAIN;
        loop {
            let answer = self.ask(Method::POST, &path, body.clone(), limit).await;
            let answer = answer.map_err(|error| match error {
                ClientError::TimedOut(target, limit) => ClientError::Unfinished(target, limit),
                other => other,
            })?;
            // Another process has just taken over.
            if answer.0 == StatusCode::SERVICE_UNAVAILABLE && again > 0 {
                again -= 1;
                sleep(SHORTLY).await;
                continue;
            }
            return self.understand(answer);
        }
    }

    fn understand<T: DeserializeOwned>(
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
            Err(_) => ClientError::NotHttp(self.target.clone(), format!("it says {status}")),
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
            let body = Limited::new(body, LARGEST).collect().await;
            Ok::<_, hyper::Error>((head.status, body))
        };
        // The connection's side ends by itself once there is an error, of which the
        // answer's side then tells, or once all has been read.
        let mut connection = Box::pin(connection);
        let mut answer = Box::pin(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        };
        let (status, body) = answer.map_err(|error| not_http(error.to_string()))?;
        let body = body.map_err(|error| {
            not_http(match error.downcast_ref::<LengthLimitError>() {
                Some(_) => "its answer does not end".to_owned(),
                None => error.to_string(),
            })
        })?;
        Ok((status, body.to_bytes()))
    }
}

/// A name as one segment of a path.
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
