//! Predecessor processes that still have connections. The newest process notifies all of them. In
//! an upgrade, it passes its sockets to them on to its successor.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Arc, Weak},
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    sync::{broadcast, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    Passed,
    channel::{Channel, NewestMessage, PredecessorStatus, send},
};
use crate::{environment::PREDECESSOR, overrides::Forward, process::predecessors::Predecessors};

/// Events of this process that predecessors must be notified of.
#[derive(Debug)]
pub struct Updates {
    reloads: watch::Receiver<u64>,
    commands: broadcast::Receiver<Forward>,
}

impl Updates {
    pub fn new(reloads: watch::Receiver<u64>, commands: broadcast::Receiver<Forward>) -> Self {
        Self { reloads, commands }
    }

    /// # Cancel safety
    /// Cancel safe.
    async fn next(&mut self) -> NewestMessage {
        loop {
            tokio::select! {
                Ok(()) = self.reloads.changed() => return NewestMessage::Reloaded {},
                command = self.commands.recv() => match command {
                    Ok(Forward::Kill(which)) => return NewestMessage::Killed(which),
                    Ok(Forward::Blocks(blocks)) => return NewestMessage::Blocked(blocks),
                    Err(broadcast::error::RecvError::Lagged(missed)) => tracing::warn!(
                        missed,
                        "predecessor processes missed some of the `ctl kill` and `ctl block` commands; repeat the commands"
                    ),
                    // The sender is gone, because this process is ending.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
            }
        }
    }
}

/// The predecessors of this process.
#[derive(Debug)]
pub struct PredecessorChannels {
    /// Each reference dangles once its predecessor has exited.
    streams: Vec<Weak<UnixStream>>,
    task: JoinHandle<()>,
    /// Dropping the sender ends the task.
    reopens: watch::Sender<()>,
}

impl PredecessorChannels {
    /// Tells all predecessors that this process has taken over, then forwards all `updates` to
    /// them. Stores the number of open connections that each predecessor reports in `left`.
    ///
    /// # Panics
    /// If called outside a Tokio runtime.
    pub fn notify(
        streams: Vec<UnixStream>,
        updates: Updates,
        left: &Arc<Predecessors>,
    ) -> io::Result<Self> {
        let mut open = JoinSet::new();
        let mut weak = Vec::new();
        for stream in streams {
            let channel = Channel::new(stream.try_clone()?)?;
            let stream = Arc::new(stream);
            weak.push(Arc::downgrade(&stream));
            open.spawn(receive_reports(stream, channel, Arc::clone(left)));
        }
        let (reopens, reopened) = watch::channel(());
        let task = tokio::spawn(send_updates(weak.clone(), open, updates, reopened));
        Ok(Self {
            streams: weak,
            task,
            reopens,
        })
    }

    /// Duplicates the sockets to running predecessors, for a successor.
    pub fn share(&self) -> io::Result<Vec<Passed>> {
        let open = self.streams.iter().filter_map(Weak::upgrade);
        open.map(|stream| Ok((PREDECESSOR.to_owned(), stream.try_clone()?.into())))
            .collect()
    }

    /// Tells the predecessors to reopen their log files.
    pub fn reopen_logs(&self) {
        self.reopens.send_replace(());
    }

    /// Sends pending updates, then ends the task. The successor sends later updates.
    pub async fn leave(self) {
        drop(self.reopens);
        // If the task panicked, the panic has been logged.
        let _ = self.task.await;
    }
}

/// Receives reports of one predecessor until it exits, then drops `_stream`.
async fn receive_reports(_stream: Arc<UnixStream>, mut channel: Channel, left: Arc<Predecessors>) {
    let mut report = Report { pid: None, left };
    while let Some(PredecessorStatus::Serves { pid, connections }) = channel.next().await {
        report.pid = Some(pid);
        report.left.set(pid, connections);
    }
}

/// Removes the predecessor from `left` when dropped.
struct Report {
    pid: Option<u32>,
    left: Arc<Predecessors>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.left.set(pid, 0);
        }
    }
}

async fn send_updates(
    streams: Vec<Weak<UnixStream>>,
    mut open: JoinSet<()>,
    mut updates: Updates,
    mut reopened: watch::Receiver<()>,
) {
    let mut message = NewestMessage::TookOver {
        pid: std::process::id(),
    };
    loop {
        for stream in streams.iter().filter_map(Weak::upgrade) {
            send_or_close(&stream, &message);
        }
        message = loop {
            tokio::select! {
                biased;
                message = updates.next() => break message,
                Some(_) = open.join_next() => {}
                reopen = reopened.changed() => match reopen {
                    Ok(()) => break NewestMessage::ReopenedLogs {},
                    Err(_) => return,
                },
            }
        };
    }
}

/// Sends a message. A full socket buffer means that the predecessor hangs, so the socket is closed.
fn send_or_close(stream: &UnixStream, message: &NewestMessage) {
    let Err(error) = send(stream, message) else {
        return;
    };
    if error.kind() != io::ErrorKind::BrokenPipe {
        tracing::warn!(
            %error,
            "predecessor process does not read its messages: no more are sent"
        );
    }
    // Part of the line may have been sent, which would corrupt the next message.
    let _ = shutdown(stream, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::{DEADLINE, eventually, within};

    use super::*;
    use crate::overrides::ConnectionFilter;

    struct Old(Channel);

    impl Old {
        async fn receives(&mut self) -> Option<NewestMessage> {
            within(DEADLINE, "a message", self.0.next()).await
        }
    }

    fn pair() -> (UnixStream, Old) {
        let (newer, old) = UnixStream::pair().unwrap();
        (newer, Old(Channel::new(old).unwrap()))
    }

    fn updates() -> (Updates, watch::Sender<u64>, broadcast::Sender<Forward>) {
        let (reloads, kills) = (watch::Sender::default(), broadcast::Sender::new(2));
        let updates = Updates::new(reloads.subscribe(), kills.subscribe());
        (updates, reloads, kills)
    }

    fn took_over() -> NewestMessage {
        let pid = std::process::id();
        NewestMessage::TookOver { pid }
    }

    fn of(client: &str) -> ConnectionFilter {
        ConnectionFilter {
            client: Some(client.to_owned()),
            ..ConnectionFilter::default()
        }
    }

    #[tokio::test]
    async fn updates_arrive_in_order_across_a_handover() {
        let ((to_one, mut one), (to_two, two)) = (pair(), pair());
        let (first_updates, reloads, kills) = updates();
        kills.send(Forward::Kill(of("early"))).unwrap();
        let left = Arc::default();
        let newer =
            PredecessorChannels::notify(vec![to_one, to_two], first_updates, &left).unwrap();
        assert_eq!(one.receives().await, Some(took_over()));
        assert_eq!(
            one.receives().await,
            Some(NewestMessage::Killed(of("early")))
        );
        let serves = |connections| PredecessorStatus::Serves {
            pid: 7,
            connections,
        };
        two.0.try_send(&serves(3));
        two.0.try_send(&serves(2));
        let are_left = async |expected: &[(u32, u64)]| {
            let found = eventually(DEADLINE, || async {
                let found = left.list();
                (found == expected)
                    .then_some(())
                    .ok_or_else(|| format!("{found:?} are left"))
            });
            found.await.unwrap();
        };
        are_left(&[(7, 2)]).await;
        // A predecessor that exited is not notified, and its socket is not passed on.
        drop(two);
        are_left(&[]).await;
        reloads.send_modify(|reloads| *reloads += 1);
        assert_eq!(one.receives().await, Some(NewestMessage::Reloaded {}));
        let shared = eventually(DEADLINE, || async {
            let shared = newer.share().unwrap();
            match shared.len() {
                1 => Ok(shared),
                open => Err(format!("{open} are left")),
            }
        });
        let shared = shared.await.unwrap();

        // The predecessor first receives the updates sent before the handover, and then those of
        // the successor.
        kills.send(Forward::Kill(of("late"))).unwrap();
        newer.reopen_logs();
        newer.leave().await;
        kills.send(Forward::Kill(of("too late"))).unwrap_err();
        let streams = shared
            .into_iter()
            .map(|(_, stream)| stream.into())
            .collect();
        let (newest_updates, _reloads, kills) = updates();
        let newest = PredecessorChannels::notify(streams, newest_updates, &Arc::default()).unwrap();
        assert_eq!(
            one.receives().await,
            Some(NewestMessage::Killed(of("late")))
        );
        assert_eq!(one.receives().await, Some(NewestMessage::ReopenedLogs {}));
        assert_eq!(one.receives().await, Some(took_over()));
        kills.send(Forward::Kill(of("newest"))).unwrap();
        assert_eq!(
            one.receives().await,
            Some(NewestMessage::Killed(of("newest")))
        );
        newest.leave().await;
        assert_eq!(one.receives().await, None);
    }

    #[tokio::test]
    async fn hung_predecessor_does_not_delay_others() {
        let ((to_hung, hung), (to_one, mut one)) = (pair(), pair());
        let (updates, reloads, _kills) = updates();
        let newer =
            PredecessorChannels::notify(vec![to_hung, to_one], updates, &Arc::default()).unwrap();
        assert_eq!(one.receives().await, Some(took_over()));
        within(DEADLINE, "until its socket is full", async {
            while newer.share().unwrap().len() == 2 {
                reloads.send_modify(|reloads| *reloads += 1);
                assert_eq!(one.receives().await, Some(NewestMessage::Reloaded {}));
            }
        })
        .await;
        drop(hung);
        newer.leave().await;
    }
}
