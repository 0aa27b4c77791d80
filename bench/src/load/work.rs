//! Workers: the operations of each mode.

use std::{net::Ipv4Addr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Mode,
    client::{Connection, Failure, Nagle, Step, Target, close, echo},
    shared::Shared,
};
use crate::protocol::{ENDLESS, Request};

/// Number of source addresses of stalled handshakes.
pub const STALLED_SOURCES: u8 = 250;

/// Bytes per read or write.
const CHUNK: usize = 128 * 1024;

/// Opens a connection and sends the mode's request.
pub(super) async fn open(
    target: &Target,
    mode: Mode,
    payload: &[u8],
) -> Result<Connection, Failure> {
    let request = match mode {
        Mode::Connect | Mode::FirstEcho | Mode::Echo | Mode::Idle | Mode::Refused | Mode::Stall => {
            return target.connect_and_echo(payload).await;
        }
        Mode::Download => Request::Download(ENDLESS),
        Mode::Background => Request::Background,
        Mode::Upload => Request::Upload(ENDLESS),
    };
    let mut connection = target.connect().await?;
    let sent = async {
        connection.write_all(&request.encode()).await?;
        connection.flush().await
    };
    sent.await.map_err(Failure::at(Step::Stream))?;
    Ok(connection)
}

/// A worker, which performs one operation at a time on its own connections.
pub(super) struct Worker {
    shared: Rc<Shared>,
    connections: Vec<Connection>,
}

impl Worker {
    pub(super) const fn new(shared: Rc<Shared>, connections: Vec<Connection>) -> Self {
        Self {
            shared,
            connections,
        }
    }

    /// Runs until the session stops, or no connection is left.
    pub(super) async fn run(self) {
        match self.shared.spec.mode {
            Mode::Connect | Mode::FirstEcho => self.connect().await,
            Mode::Echo => self.echo().await,
            Mode::Download | Mode::Background | Mode::Upload => self.stream().await,
            Mode::Idle => {}
            Mode::Refused => self.refused().await,
            Mode::Stall => self.stall().await,
        }
    }

    /// Waits until the next operation is due. Returns the time from which latency is measured.
    async fn next_due(&self) -> Instant {
        match self.shared.schedule.next_due() {
            Some(due) => {
                sleep_until(due).await;
                due
            }
            None => Instant::now(),
        }
    }

    async fn connect(self) {
        let shared = &*self.shared;
        while !shared.stop.get() {
            let start = self.next_due().await;
            let connected = self.connect_once(start).await;
            let closed = match connected {
                Ok((connection, took)) => {
                    let resumed = connection.is_resumed();
                    close(connection).await.map(|()| (resumed, took))
                }
                Err(failure) => Err(failure),
            };
            match closed {
                Ok((resumed, took)) => {
                    if resumed {
                        shared.resumed();
                    }
                    shared.succeeded(took, 0);
                }
                Err(failure) => {
                    shared.failed(&failure);
                    // Wait before the next attempt, so that failures do not cause a busy
                    // loop.
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Opens a connection and echoes once; returns the connection and the latency.
    async fn connect_once(&self, start: Instant) -> Result<(Connection, Duration), Failure> {
        let Shared {
            target, payload, ..
        } = &*self.shared;
        if self.shared.spec.mode == Mode::FirstEcho {
            let mut connection = target.connect_with(Nagle::On).await?;
            let start = Instant::now();
            target.echo_first(&mut connection, payload).await?;
            return Ok((connection, start.elapsed()));
        }
        let connection = target.connect_and_echo(payload).await?;
        Ok((connection, start.elapsed()))
    }

    async fn refused(self) {
        let shared = &*self.shared;
        while !shared.stop.get() {
            let start = self.next_due().await;
            match shared.target.expect_refusal().await {
                Ok(()) => shared.succeeded(start.elapsed(), 0),
                Err(failure) => shared.failed(&failure),
            }
        }
    }

    async fn stall(self) {
        let shared = &*self.shared;
        let mut target = shared.target.clone();
        let mut held = Vec::new();
        let mut number = 0;
        while !shared.stop.get() {
            let start = self.next_due().await;
            number = (number + 1) % STALLED_SOURCES;
            target.from = Some(Ipv4Addr::new(127, 9, number, 1).into());
            match target.stall().await {
                Ok(stalled) => {
                    held.push(stalled);
                    shared.succeeded(start.elapsed(), 0);
                }
                Err(failure) => shared.failed(&failure),
            }
        }
    }

    async fn echo(mut self) {
        let mut next = 0;
        while !self.shared.stop.get() && !self.connections.is_empty() {
            let start = self.next_due().await;
            next %= self.connections.len();
            let payload = &self.shared.payload;
            match echo(&mut self.connections[next], payload, payload).await {
                Ok(()) => {
                    self.shared.succeeded(start.elapsed(), 0);
                    next += 1;
                    if let Some(pause) = self.shared.spec.pause {
                        sleep(pause).await;
                    }
                }
                Err(failure) => {
                    self.shared.failed(&failure);
                    self.connections.swap_remove(next);
                }
            }
        }
        // Keep the connections open until all workers stop.
        while !self.shared.stop.get() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Transfers the data of one stream. Each worker has one connection.
    async fn stream(mut self) {
        let Some(connection) = self.connections.first_mut() else {
            return;
        };
        let mut chunk = vec![0; CHUNK];
        loop {
            let moved = match self.shared.spec.mode {
                Mode::Upload => connection.write(&chunk).await,
                _ => connection.read(&mut chunk).await,
            };
            let moved = match moved {
                Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                other => other,
            };
            match moved {
                Ok(count) => self.shared.streamed(count as u64),
                Err(error) => return self.shared.failed(&Failure::at(Step::Stream)(error)),
            }
        }
    }
}
