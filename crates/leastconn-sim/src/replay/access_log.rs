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

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct LogError {
    path: PathBuf,
    error: io::Error,
}

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
    /// If a file cannot be read.
    pub fn read(paths: &[PathBuf]) -> Result<Self, LogError> {
        let mut log = Self::default();
        for (balancer, path) in paths.iter().enumerate() {
            log.read_one(path, balancer).map_err(|error| LogError {
                path: path.clone(),
                error,
            })?;
        }
        Ok(log)
    }

    fn read_one(&mut self, path: &Path, balancer: usize) -> io::Result<()> {
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let line: Option<Line> = serde_json::from_str(&line).ok();
            let accepted = line.as_ref().and_then(|line| line.time.parse().ok());
            match line.zip(accepted) {
                Some((line, accepted)) => {
                    self.connections
                        .extend(connection(line, accepted, balancer));
                }
                None => self.skipped_lines += 1,
            }
        }
        Ok(())
    }
}

fn connection(line: Line, accepted: Timestamp, balancer: usize) -> Option<Connection> {
    let accepted = accepted.as_duration();
    let handshake = milliseconds(line.handshake_ms);
    Some(Connection {
        upstream: line.upstream?,
        server: line.server?,
        began: Duration::try_from(accepted).ok()? + handshake,
        hold: milliseconds(line.duration_ms?).saturating_sub(handshake),
        source: line.source,
        balancer,
    })
}

/// Values that a `Duration` cannot represent count as zero.
fn milliseconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value / 1_000.0).unwrap_or_default()
}
