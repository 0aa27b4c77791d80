//! Predecessor processes that still have connections. The newest process notifies all of them. In
//! an upgrade, it passes its sockets to them on to its successor.

mod outbox;

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::AsyncWriteExt,
    sync::{broadcast, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{
    Passed,
    channel::{Channel, NewestMessage, PredecessorStatus, line},
};
use crate::{environment::PREDECESSOR, overrides::Forward, process::predecessors::Predecessors};
use outbox::Outbox;

/// How long [`PredecessorChannels::leave`] waits for predecessors that do not read their messages.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

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
        let mut predecessors = Vec::new();
        for stream in streams {
            let channel = Channel::new(stream.try_clone()?)?;
            let writer = tokio::net::UnixStream::from_std(stream.try_clone()?)?;
            let stream = Arc::new(stream);
            let outbox = Arc::<Outbox>::default();
            predecessors.push(Predecessor {
                stream: Arc::downgrade(&stream),
                outbox: Arc::clone(&outbox),
            });
            let left = Arc::clone(left);
            open.spawn(exchange(stream, channel, writer, outbox, left));
        }
        let weak = predecessors.iter().map(|one| Weak::clone(&one.stream));
        let weak = weak.collect();
        let (reopens, reopened) = watch::channel(());
        let task = tokio::spawn(send_updates(predecessors, open, updates, reopened));
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

#[derive(Debug)]
struct Predecessor {
    /// Dangles once the predecessor has exited.
    stream: Weak<UnixStream>,
    outbox: Arc<Outbox>,
}

/// Receives reports of one predecessor and sends it the messages of `outbox`, until it exits. Then
/// drops `stream`.
async fn exchange(
    stream: Arc<UnixStream>,
    channel: Channel,
    mut writer: tokio::net::UnixStream,
    outbox: Arc<Outbox>,
    left: Arc<Predecessors>,
) {
    let write = async {
        loop {
            let line = outbox.next().await;
            if writer.write_all(&line).await.is_err() {
                // The predecessor has exited, or will not read any more.
                let _ = shutdown(&*stream, Shutdown::Both);
                return;
            }
            outbox.written();
        }
    };
    tokio::select! {
        () = receive_reports(channel, left) => {}
        () = write => {}
    }
    outbox.close();
}

async fn receive_reports(mut channel: Channel, left: Arc<Predecessors>) {
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
    predecessors: Vec<Predecessor>,
    mut open: JoinSet<()>,
    mut updates: Updates,
    mut reopened: watch::Receiver<()>,
) {
    let mut message = NewestMessage::TookOver {
        pid: std::process::id(),
    };
    loop {
        send_to_all(&predecessors, &message);
        message = loop {
            tokio::select! {
                biased;
                message = updates.next() => break message,
                Some(_) = open.join_next() => {}
                reopen = reopened.changed() => match reopen {
                    Ok(()) => break NewestMessage::ReopenedLogs {},
                    Err(_) => return flush(&predecessors).await,
                },
            }
        };
    }
}

fn send_to_all(predecessors: &[Predecessor], message: &NewestMessage) {
    let line: Arc<[u8]> = match line(message) {
        Ok(line) => line.into(),
        Err(error) => {
            tracing::error!(%error, "cannot encode a message to predecessor processes");
            return;
        }
    };
    for predecessor in predecessors {
        if !predecessor.outbox.push(message, &line) {
            predecessor.cut_off();
        }
    }
}

/// Waits until all messages are written, or [`FLUSH_TIMEOUT`] has passed.
async fn flush(predecessors: &[Predecessor]) {
    let flushed = async {
        for predecessor in predecessors {
            predecessor.outbox.flushed().await;
        }
    };
    if timeout(FLUSH_TIMEOUT, flushed).await.is_ok() {
        return;
    }
    for predecessor in predecessors {
        // Part of a line may have been sent, which would corrupt the messages of the successor.
        if predecessor.outbox.close() {
            predecessor.cut_off();
        }
    }
}

impl Predecessor {
    fn cut_off(&self) {
        if let Some(stream) = self.stream.upgrade() {
            tracing::warn!("predecessor process does not read its messages: no more are sent");
            let _ = shutdown(&*stream, Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::{DEADLINE, eventually, within};

    use super::*;
    use crate::overrides::{BlockHandover, ConnectionFilter};

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
    async fn message_may_be_larger_than_the_socket_buffer() {
        let (to_old, mut old) = pair();
        let (updates, reloads, commands) = updates();
        let block = |n| serde_json::json!({ "identity": format!("cn:client{n}"), "since": "" });
        let blocks: Vec<_> = (0..10_000).map(block).collect();
        let blocks: Vec<BlockHandover> = serde_json::from_value(blocks.into()).unwrap();
        commands.send(Forward::Blocks(blocks.clone())).unwrap();
        let newer = PredecessorChannels::notify(vec![to_old], updates, &Arc::default()).unwrap();
        assert_eq!(old.receives().await, Some(took_over()));
        assert!(old.receives().await == Some(NewestMessage::Blocked(blocks)));
        reloads.send_modify(|reloads| *reloads += 1);
        assert_eq!(old.receives().await, Some(NewestMessage::Reloaded {}));
        newer.leave().await;
    }

    #[tokio::test]
    async fn hung_predecessor_does_not_delay_others() {
        let ((to_hung, hung), (to_one, mut one)) = (pair(), pair());
        let (updates, _reloads, kills) = updates();
        let newer =
            PredecessorChannels::notify(vec![to_hung, to_one], updates, &Arc::default()).unwrap();
        assert_eq!(one.receives().await, Some(took_over()));
        within(DEADLINE, "until too many messages wait for it", async {
            while newer.share().unwrap().len() == 2 {
                kills.send(Forward::Kill(of("one"))).unwrap();
                assert_eq!(one.receives().await, Some(NewestMessage::Killed(of("one"))));
            }
        })
        .await;
        drop(hung);
        newer.leave().await;
    }
}
