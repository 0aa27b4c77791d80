//! Messages between the processes of an upgrade: one JSON object per line over a UNIX socket. The
//! processes may have different versions, so unknown messages are ignored, and the meaning of
//! existing messages must never change.

use std::{
    io::{self, BufRead, Read, Write},
    mem,
    net::SocketAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::overrides::{BlockHandover, ConnectionFilter, OverrideHandover};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Maximum length of a message, in bytes. The longest messages contain all blocks.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// A message from a starting successor to its predecessor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMessage {
    /// The successor accepts connections.
    Ready(UnusedSockets),
    /// The successor cannot start, and exits.
    Failed {
        /// Errors, one per line.
        #[serde(default)]
        reasons: Vec<String>,
    },
}

/// A message from the newest process to all predecessors: an event that also applies to the open
/// connections of the predecessors.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewestMessage {
    /// The newest process has taken over. Predecessors reload the configuration, because the
    /// version that the newest process has loaded may differ from theirs.
    TookOver { pid: u32 },
    /// The newest process reloaded the configuration.
    Reloaded {},
    /// An operator killed connections.
    Killed(ConnectionFilter),
    /// An operator blocked or unblocked a client. Contains all blocks.
    Blocked(Vec<BlockHandover>),
    /// The newest process reopened its log files.
    ReopenedLogs {},
}

/// Passed sockets that the successor does not use and has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedSockets {
    /// TCP addresses.
    #[serde(default, rename = "unused")]
    pub addresses: Vec<SocketAddr>,
    /// Paths of UNIX sockets.
    #[serde(default, rename = "unused_paths")]
    pub paths: Vec<String>,
}

/// A message from the predecessor to its successor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredecessorMessage {
    /// The overrides that the successor starts with, if they are too large for its environment.
    Overrides(OverrideHandover),
    /// The predecessor no longer accepts; the successor now provides the service.
    Go {
        /// A reload was requested during the upgrade.
        #[serde(default)]
        reload: bool,
        /// Overrides, if they differ from those that the successor was started with.
        // The name must not change: see the module documentation.
        #[serde(default, rename = "by_hand", skip_serializing_if = "Option::is_none")]
        overrides: Option<OverrideHandover>,
    },
}

/// A message from a predecessor to the newest process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PredecessorStatus {
    /// The predecessor still serves connections.
    Serves {
        pid: u32,
        /// The number of open connections. It is 0 if the predecessor is about to exit, or if it
        /// stays only because it is PID 1.
        connections: u64,
    },
}

/// A message to PID 1 of a container.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pid1Message {
    /// Signals must be forwarded to this process from now on.
    Newest { pid: i32 },
}

/// Receives the first message of a stream, and waits at most `limit` for each part of it. The sender
/// must not send another message at once: it would be lost.
pub(crate) fn receive_first<T: DeserializeOwned>(
    from: &UnixStream,
    limit: Duration,
) -> io::Result<T> {
    from.set_read_timeout(Some(limit))?;
    let mut line = Vec::new();
    let mut reader = io::BufReader::with_capacity(64 * 1024, from).take(MAX_LINE);
    reader.read_until(b'\n', &mut line)?;
    from.set_read_timeout(None)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Sends one message. Blocks only while the socket's buffer is full.
pub fn send(mut to: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&line(message)?)
}

pub(super) fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// One end of a socket between two processes.
#[derive(Debug)]
pub struct Channel {
    stream: BufReader<tokio::net::UnixStream>,
    /// The received part of an incomplete message.
    line: Vec<u8>,
}

impl Channel {
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        Ok(Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
        })
    }

    /// Returns the socket. Buffered input is lost.
    pub fn into_stream(self) -> io::Result<UnixStream> {
        self.stream.into_inner().into_std()
    }

    /// Sends a message without waiting. Returns whether the whole message was sent.
    pub(crate) fn try_send(&self, message: &impl Serialize) -> bool {
        let line = line(message).unwrap_or_default();
        let written = rustix::io::write(self.stream.get_ref(), &line);
        written.is_ok_and(|written| written == line.len())
    }

    /// Sends a message.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of the message may have been sent.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.stream.get_mut().write_all(&line(message)?).await
    }

    /// Receives the next known message; `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let mut limited = (&mut self.stream).take(MAX_LINE);
            let read = limited.read_until(b'\n', &mut self.line).await;
            let line = mem::take(&mut self.line);
            // Closed, truncated or too long.
            if read.is_err() || !line.ends_with(b"\n") {
                return None;
            }
            if let Ok(message) = serde_json::from_slice(&line) {
                return Some(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unknown_messages_are_ignored() {
        let (new, old) = UnixStream::pair().unwrap();
        let mut old = Channel::new(old).unwrap();
        let unused = UnusedSockets {
            addresses: vec!["127.0.0.1:80".parse().unwrap()],
            paths: vec!["/run/admin.sock".to_owned()],
        };
        send(&new, &serde_json::json!({ "of_a_later_version": 1 })).unwrap();
        send(&new, &serde_json::json!({ "ready": { "more": 1 } })).unwrap();
        send(&new, &StartMessage::Ready(unused.clone())).unwrap();
        (&new).write_all(b"{\"ready\":").unwrap();
        drop(new);
        let nothing = StartMessage::Ready(UnusedSockets::default());
        assert_eq!(old.next().await, Some(nothing));
        assert_eq!(old.next().await, Some(StartMessage::Ready(unused)));
        assert_eq!(old.next::<StartMessage>().await, None, "truncated");
    }

    #[tokio::test]
    async fn endless_line_ends_the_stream() {
        let (new, old) = UnixStream::pair().unwrap();
        let mut old = Channel::new(old).unwrap();
        let endless = std::thread::spawn(move || while (&new).write_all(&[b'x'; 4096]).is_ok() {});
        assert_eq!(old.next::<StartMessage>().await, None);
        drop(old);
        endless.join().unwrap();
    }
}
