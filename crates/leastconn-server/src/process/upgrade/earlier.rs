//! The processes before this one that still have connections, however many took each
//! other's place since: the newest tells all of them, and leaves its connections to
//! them to the one that takes its own place.

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
    channel::{Channel, FromHeir, FromReplaced, send},
};
use crate::{
    environment::EARLIER, overrides::ConnectionFilter, process::predecessors::Predecessors,
};

/// What is told them, once there is somebody who may tell it.
#[derive(Debug)]
pub struct News {
    reloads: watch::Receiver<u64>,
    kills: broadcast::Receiver<ConnectionFilter>,
}

impl News {
    /// All that comes from now on.
    pub fn new(
        reloads: watch::Receiver<u64>,
        kills: broadcast::Receiver<ConnectionFilter>,
    ) -> Self {
        Self { reloads, kills }
    }

    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> FromHeir {
        loop {
            tokio::select! {
                Ok(()) = self.reloads.changed() => return FromHeir::Reloaded {},
                which = self.kills.recv() => match which {
                    Ok(which) => return FromHeir::Killed(which),
                    Err(broadcast::error::RecvError::Lagged(missed)) => tracing::warn!(
                        missed,
                        "connections of processes that were replaced were not ended: too many orders at once"
                    ),
                    // As is the balancer.
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
            }
        }
    }
}

/// The processes before this one.
#[derive(Debug)]
pub struct Earlier {
    /// Those that have not ended.
    streams: Vec<Weak<UnixStream>>,
    telling: JoinHandle<()>,
    /// Closed, it ends what is `telling`.
    reopens: watch::Sender<()>,
}

impl Earlier {
    /// Tells them that this process took over, then all `news`; they tell it how many
    /// connections they have left.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn tell(
        streams: Vec<UnixStream>,
        news: News,
        left: &Arc<Predecessors>,
    ) -> io::Result<Self> {
        let mut open = JoinSet::new();
        let mut weak = Vec::new();
        for stream in streams {
            let channel = Channel::new(stream.try_clone()?)?;
            let stream = Arc::new(stream);
            weak.push(Arc::downgrade(&stream));
            open.spawn(listen(stream, channel, Arc::clone(left)));
        }
        let (reopens, reopened) = watch::channel(());
        let telling = tokio::spawn(tell(weak.clone(), open, news, reopened));
        Ok(Self {
            streams: weak,
            telling,
            reopens,
        })
    }

    /// Copies of the connections to those that have not ended, to be passed on.
    pub fn share(&self) -> io::Result<Vec<Passed>> {
        let open = self.streams.iter().filter_map(Weak::upgrade);
        open.map(|stream| Ok((EARLIER.to_owned(), stream.try_clone()?.into())))
            .collect()
    }

    /// Tells them to open their log files anew.
    pub fn reopen_logs(&self) {
        self.reopens.send_replace(());
    }

    /// Says what there is to be said, and then leaves it to another process.
    pub async fn leave(self) {
        drop(self.reopens);
        // A panic has been logged.
        let _ = self.telling.await;
    }
}

/// Hears what a process has to say, until its end; then nothing more is said to it by
/// `_stream`.
async fn listen(_stream: Arc<UnixStream>, mut channel: Channel, left: Arc<Predecessors>) {
    let mut heard = Heard { pid: None, left };
    while let Some(FromReplaced::Serves { pid, connections }) = channel.next().await {
        heard.pid = Some(pid);
        heard.left.set(pid, connections);
    }
}

/// Forgotten when dropped.
struct Heard {
    pid: Option<u32>,
    left: Arc<Predecessors>,
}

impl Drop for Heard {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            self.left.set(pid, 0);
        }
    }
}

async fn tell(
    streams: Vec<Weak<UnixStream>>,
    mut open: JoinSet<()>,
    mut news: News,
    mut reopened: watch::Receiver<()>,
) {
    let mut said = FromHeir::TookOver {
        pid: std::process::id(),
    };
    loop {
        for stream in streams.iter().filter_map(Weak::upgrade) {
            say(&stream, &said);
        }
        said = loop {
            tokio::select! {
                biased;
                said = news.next() => break said,
                Some(_) = open.join_next() => {}
                again = reopened.changed() => match again {
                    Ok(()) => break FromHeir::ReopenedLogs {},
                    Err(_) => return,
                },
            }
        };
    }
}

/// The socket takes it at once, or nobody has read what it has for a long time.
fn say(stream: &UnixStream, said: &FromHeir) {
    let Err(error) = send(stream, said) else {
        return;
    };
    if error.kind() != io::ErrorKind::BrokenPipe {
        tracing::warn!(
            %error,
            "a process that was replaced does not read what it is told, and is told nothing more"
        );
    }
    // With half a line in it nothing that follows would be understood.
    let _ = shutdown(stream, Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::{DEADLINE, eventually, within};

    use super::*;

    struct Old(Channel);

    impl Old {
        async fn hears(&mut self) -> Option<FromHeir> {
            within(DEADLINE, "what it is told", self.0.next()).await
        }
    }

    fn pair() -> (UnixStream, Old) {
        let (newer, old) = UnixStream::pair().unwrap();
        (newer, Old(Channel::new(old).unwrap()))
    }

    fn news() -> (
        News,
        watch::Sender<u64>,
        broadcast::Sender<ConnectionFilter>,
    ) {
        let (reloads, kills) = (watch::Sender::default(), broadcast::Sender::new(2));
        let news = News::new(reloads.subscribe(), kills.subscribe());
        (news, reloads, kills)
    }

    fn took_over() -> FromHeir {
        let pid = std::process::id();
        FromHeir::TookOver { pid }
    }

    fn of(client: &str) -> ConnectionFilter {
        ConnectionFilter {
            client: Some(client.to_owned()),
            ..ConnectionFilter::default()
        }
    }

    #[tokio::test]
    async fn all_hear_what_came_before_and_after_until_they_are_left_to_another() {
        let ((to_one, mut one), (to_two, two)) = (pair(), pair());
        let (first_news, reloads, kills) = news();
        kills.send(of("early")).unwrap();
        let left = Arc::default();
        let newer = Earlier::tell(vec![to_one, to_two], first_news, &left).unwrap();
        assert_eq!(one.hears().await, Some(took_over()));
        assert_eq!(one.hears().await, Some(FromHeir::Killed(of("early"))));
        let serves = |connections| FromReplaced::Serves {
            pid: 7,
            connections,
        };
        two.0.mention(&serves(3));
        two.0.mention(&serves(2));
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
        // Who has ended is not told, nor passed on.
        drop(two);
        are_left(&[]).await;
        reloads.send_modify(|reloads| *reloads += 1);
        assert_eq!(one.hears().await, Some(FromHeir::Reloaded {}));
        let shared = eventually(DEADLINE, || async {
            let shared = newer.share().unwrap();
            match shared.len() {
                1 => Ok(shared),
                open => Err(format!("{open} are left")),
            }
        });
        let shared = shared.await.unwrap();

        // What was asked for before it leaves is said before the other one speaks.
        kills.send(of("late")).unwrap();
        newer.reopen_logs();
        newer.leave().await;
        kills.send(of("too late")).unwrap_err();
        let streams = shared
            .into_iter()
            .map(|(_, stream)| stream.into())
            .collect();
        let (newest_news, _reloads, kills) = news();
        let newest = Earlier::tell(streams, newest_news, &Arc::default()).unwrap();
        assert_eq!(one.hears().await, Some(FromHeir::Killed(of("late"))));
        assert_eq!(one.hears().await, Some(FromHeir::ReopenedLogs {}));
        assert_eq!(one.hears().await, Some(took_over()));
        kills.send(of("newest")).unwrap();
        assert_eq!(one.hears().await, Some(FromHeir::Killed(of("newest"))));
        newest.leave().await;
        assert_eq!(one.hears().await, None);
    }

    #[tokio::test]
    async fn who_does_not_read_holds_up_nobody() {
        let ((to_hung, hung), (to_one, mut one)) = (pair(), pair());
        let (news, reloads, _kills) = news();
        let newer = Earlier::tell(vec![to_hung, to_one], news, &Arc::default()).unwrap();
        assert_eq!(one.hears().await, Some(took_over()));
        within(DEADLINE, "until its socket is full", async {
            while newer.share().unwrap().len() == 2 {
                reloads.send_modify(|reloads| *reloads += 1);
                assert_eq!(one.hears().await, Some(FromHeir::Reloaded {}));
            }
        })
        .await;
        drop(hung);
        newer.leave().await;
    }
}
