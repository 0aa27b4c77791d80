//! The lines of a pipe, read by a thread of their own so that the writer never blocks.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

/// Every line read so far, and news of more.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// Whether the pipe has ended.
    news: watch::Receiver<bool>,
}

impl Lines {
    pub(super) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, news) = watch::channel(false);
        let store = Arc::clone(&lines);
        std::thread::spawn(move || {
            // Bytes, not `lines()`: text that is no UTF-8 must not end the reading.
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                store
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).into_owned());
                sender.send_replace(false);
            }
            sender.send_replace(true);
        });
        Self { lines, news }
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(&[String]) -> T) -> T {
        read(&self.lines.lock().unwrap())
    }

    /// Whether the other end has been closed.
    pub(super) fn is_closed(&self) -> bool {
        *self.news.borrow()
    }

    /// Waits until `look` finds something in the lines. Gives up after `limit` or at
    /// the end of the pipe, and then returns what there was.
    pub(super) async fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T, String> {
        let mut news = self.news.clone();
        let wait = async {
            loop {
                let closed = *news.borrow_and_update();
                if let Some(found) = self.with(&mut look) {
                    return Ok(found);
                }
                if closed || news.changed().await.is_err() {
                    return Err("the output ended".to_owned());
                }
            }
        };
        let result = tokio::time::timeout(limit, wait).await;
        result
            .unwrap_or_else(|_| Err(format!("not within {limit:?}")))
            .map_err(|why| format!("{why}:\n{}", self.with(|lines| lines.join("\n"))))
    }

    /// Waits for the first line that `matches`.
    pub(super) async fn find(
        &self,
        limit: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String, String> {
        // What has been looked at is not looked at again: there may be thousands.
        let mut seen = 0;
        self.wait(limit, |lines| {
            let found = lines[seen..].iter().find(|line| matches(line)).cloned();
            seen = lines.len();
            found
        })
        .await
    }
}
