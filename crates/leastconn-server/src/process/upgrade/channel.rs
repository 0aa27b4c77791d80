//! What the old process and the new one say to each other: a JSON object a line, over
//! a socket of their own. They may be of different versions, so what is not known is
//! passed over, and nothing that is sent may ever change its meaning.

use std::{
    io::{self, Write},
    mem,
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use crate::overrides::{ConnectionFilter, OverrideHandover};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Longer than anything that is said: the other side is not what it should be.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// From the new process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromNew {
    /// It accepts connections.
    Ready(Unused),
    /// It cannot start, and ends.
    Failed {
        /// Why, a line each.
        #[serde(default)]
        reasons: Vec<String>,
    },
}

/// From the newest process, to all before it: what it did, or somebody told it, that is
/// for open connections wherever they are.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromHeir {
    /// It took over, and has read the configuration.
    TookOver {
        /// Its ID.
        pid: u32,
    },
    /// It was told to read the configuration anew, and did.
    Reloaded {},
    /// Connections were to be ended by hand.
    Killed(ConnectionFilter),
    /// It was told to open its log files anew.
    ReopenedLogs {},
}

/// Sockets that the new process was given and has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// Where they were.
    #[serde(default, rename = "unused")]
    pub addresses: Vec<SocketAddr>,
    /// Likewise, of the admin side's.
    #[serde(default, rename = "unused_paths")]
    pub paths: Vec<String>,
}

/// From the old process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromOld {
    /// The old one accepts no more: the new one is the service now.
    Go {
        /// Somebody asked for a reload meanwhile.
        #[serde(default)]
        reload: bool,
        /// What is set by hand by now, if that has changed since the new one started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overrides: Option<OverrideHandover>,
    },
}

/// From a process that was replaced, to the newest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromReplaced {
    /// How many connections it still has.
    Serves {
        /// Its ID.
        pid: u32,
        /// None: it is about to end, or stays for nothing else.
        connections: u64,
    },
}

/// To the first process of a container.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToFirst {
    /// Signals are for this process from here on.
    Newest {
        /// Its ID.
        pid: i32,
    },
}

/// Sends one message. The socket takes it at once, or the other side is reading.
pub fn send(mut to: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&line(message)?)
}

fn line(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    stream: BufReader<tokio::net::UnixStream>,
    /// As much of a message as has come.
    line: Vec<u8>,
}

impl Channel {
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        Ok(Self {
            stream: BufReader::new(stream),
            line: Vec::new(),
        })
    }

    /// The other end, for who knows that whatever it has said is said again.
    pub fn into_stream(self) -> io::Result<UnixStream> {
        self.stream.into_inner().into_std()
    }

    /// Says something if the other end takes it at once, and returns whether it does.
    pub(crate) fn mention(&self, message: &impl Serialize) -> bool {
        let line = line(message).unwrap_or_default();
        let written = rustix::io::write(self.stream.get_ref(), &line);
        written.is_ok_and(|written| written == line.len())
    }

    /// Says something to the other end, which reads.
    ///
    /// # Cancel safety
    /// None: part of it may have been said.
    pub(crate) async fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.stream.get_mut().write_all(&line(message)?).await
    }

    /// The next message that is understood; `None`: there will be no more.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            let mut limited = (&mut self.stream).take(MAX_LINE);
            let read = limited.read_until(b'\n', &mut self.line).await;
            let line = mem::take(&mut self.line);
            // Closed, perhaps in the middle, or much too long.
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
    async fn what_is_sent_is_read_and_what_is_not_known_passed_over() {
        let (new, old) = UnixStream::pair().unwrap();
        let mut old = Channel::new(old).unwrap();
        let unused = Unused {
            addresses: vec!["127.0.0.1:80".parse().unwrap()],
            paths: vec!["/run/admin.sock".to_owned()],
        };
        send(&new, &serde_json::json!({ "of_a_later_version": 1 })).unwrap();
        send(&new, &serde_json::json!({ "ready": { "more": 1 } })).unwrap();
        send(&new, &FromNew::Ready(unused.clone())).unwrap();
        (&new).write_all(b"{\"ready\":").unwrap();
        drop(new);
        let nothing = FromNew::Ready(Unused::default());
        assert_eq!(old.next().await, Some(nothing));
        assert_eq!(old.next().await, Some(FromNew::Ready(unused)));
        assert_eq!(old.next::<FromNew>().await, None, "cut off in the middle");
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_an_end() {
        let (new, old) = UnixStream::pair().unwrap();
        let mut old = Channel::new(old).unwrap();
        let endless = std::thread::spawn(move || while (&new).write_all(&[b'x'; 4096]).is_ok() {});
        assert_eq!(old.next::<FromNew>().await, None);
        drop(old);
        endless.join().unwrap();
    }
}
