//! Reads the lines of a pipe in a thread, so that the writer never blocks.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// Notifies about every new line. The value is true once the pipe is closed.
    closed: watch::Receiver<bool>,
}

impl Lines {
    pub(super) fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, closed) = watch::channel(false);
        let store = Arc::clone(&lines);
        std::thread::spawn(move || {
            // Do not use `lines()`, which would stop at invalid UTF-8.
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                store
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).into_owned());
                sender.send_replace(false);
            }
            sender.send_replace(true);
        });
        Self { lines, closed }
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(&[String]) -> T) -> T {
        read(&self.lines.lock().unwrap())
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until `look` returns `Some`. `look` is called again for every new line and at the
    /// end of the pipe.
    ///
    /// # Errors
    /// After `limit`, or if the pipe closes first; the message contains all lines.
    pub(super) async fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T, String> {
        let mut closed = self.closed.clone();
        let wait = async {
            loop {
                let is_closed = *closed.borrow_and_update();
                if let Some(found) = self.with(&mut look) {
                    return Ok(found);
                }
                if is_closed || closed.changed().await.is_err() {
                    return Err("the output ended".to_owned());
                }
            }
        };
        let result = tokio::time::timeout(limit, wait).await;
        result
            .unwrap_or_else(|_| Err(format!("not within {limit:?}")))
            .map_err(|error| format!("{error}:\n{}", self.with(|lines| lines.join("\n"))))
    }

    /// Waits for the first line that `matches`.
    pub(super) async fn find(
        &self,
        limit: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String, String> {
        // Check each line only once, because there may be thousands.
        let mut seen = 0;
        self.wait(limit, |lines| {
            let found = lines[seen..].iter().find(|line| matches(line)).cloned();
            seen = lines.len();
            found
        })
        .await
    }
}
