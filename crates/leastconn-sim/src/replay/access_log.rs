//! Reads the connections of access logs.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

/// A connection that reached a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub upstream: String,
    pub server: String,
    /// Time since the Unix epoch when the server was picked.
    pub began: Duration,
    /// Time from the pick until the connection ended.
    pub hold: Duration,
    /// The client's address and port.
    pub source: String,
    /// Position of the log in the list of logs.
    pub balancer: usize,
}

/// The connections of one or more logs.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub connections: Vec<Connection>,
    /// Lines that are not JSON objects with the fields of an access log.
    pub skipped_lines: usize,
}

/// A log that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {error}")]
    Open { path: PathBuf, error: io::Error },
    #[error("{path}:{line}: {error}")]
    Read {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        error: io::Error,
    },
    #[error("{path}:{line}: `{field}` must be from 0 to {MAX_MILLISECONDS} ms, not {value}")]
    OutOfRange {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        field: &'static str,
        value: f64,
    },
}

/// Longest connection: ten years.
const MAX_MILLISECONDS: f64 = 10.0 * 365.0 * 86_400.0 * 1_000.0;

/// The fields that a replay needs.
#[derive(Debug, Deserialize)]
struct Line {
    /// RFC 3339.
    time: String,
    upstream: Option<String>,
    server: Option<String>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    handshake_ms: f64,
    duration_ms: Option<f64>,
}

impl Log {
    /// Reads the logs. Connections that did not reach a server are left out.
    ///
    /// # Errors
    /// If a file cannot be read, or a connection has an impossible duration.
    pub fn read(paths: &[PathBuf]) -> Result<Self, LogError> {
        let mut log = Self::default();
        for (balancer, path) in paths.iter().enumerate() {
            log.read_one(path, balancer)?;
        }
        Ok(log)
    }

    fn read_one(&mut self, path: &Path, balancer: usize) -> Result<(), LogError> {
        let file = File::open(path).map_err(|error| LogError::Open {
            path: path.to_owned(),
            error,
        })?;
        for (index, text) in BufReader::new(file).lines().enumerate() {
            let number = index + 1;
            let text = text.map_err(|error| LogError::Read {
                path: path.to_owned(),
                line: number,
                error,
            })?;
            if text.trim().is_empty() {
                continue;
            }
            let line: Option<Line> = serde_json::from_str(&text).ok();
            let accepted = line.as_ref().and_then(|line| line.time.parse().ok());
            match line.zip(accepted) {
                Some((line, accepted)) => {
                    let connection = connection(line, accepted, balancer);
                    let connection =
                        connection.map_err(|OutOfRange { field, value }| LogError::OutOfRange {
                            path: path.to_owned(),
                            line: number,
                            field,
                            value,
                        })?;
                    self.connections.extend(connection);
                }
                None => self.skipped_lines += 1,
            }
        }
        Ok(())
    }
}

/// A duration that no connection can have.
struct OutOfRange {
    field: &'static str,
    value: f64,
}

fn connection(
    line: Line,
    accepted: Timestamp,
    balancer: usize,
) -> Result<Option<Connection>, OutOfRange> {
    let (Some(upstream), Some(server), Some(duration)) =
        (line.upstream, line.server, line.duration_ms)
    else {
        return Ok(None);
    };
    let handshake = milliseconds("handshake_ms", line.handshake_ms)?;
    let duration = milliseconds("duration_ms", duration)?;
    let Ok(accepted) = Duration::try_from(accepted.as_duration()) else {
        return Ok(None);
    };
    Ok(Some(Connection {
        upstream,
        server,
        began: accepted + handshake,
        hold: duration.saturating_sub(handshake),
        source: line.source,
        balancer,
    }))
}

fn milliseconds(field: &'static str, value: f64) -> Result<Duration, OutOfRange> {
    if (0.0..=MAX_MILLISECONDS).contains(&value) {
        Ok(Duration::from_secs_f64(value / 1_000.0))
    } else {
        Err(OutOfRange { field, value })
    }
}
