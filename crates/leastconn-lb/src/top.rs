//! `top`: the content of the dashboard in a terminal.
//!
//! A separate thread sends the requests, so that keys work while the balancer is slow or
//! does not answer. Until an answer arrives, the screen shows the last one, marked as stale.

mod answers;
mod draw;
mod keys;
mod view;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use leastconn::net;
use parking_lot::Mutex;
use ratatui::crossterm::event::{self, Event};

pub use answers::{Answers, Query};
use view::{Action, View};

/// Maximum time between the arrival of an answer and its display.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the result of `fetch`, repeated at `interval`, until the user quits.
///
/// # Errors
/// If the terminal cannot be used.
pub fn run(
    fetch: impl FnMut(&Query) -> Result<Answers, String> + Send + 'static,
    interval: Duration,
) -> io::Result<()> {
    let query = Arc::new(Mutex::new(Query::search("")));
    let (results_tx, results_rx) = mpsc::sync_channel(1);
    let (wake_tx, wake_rx) = mpsc::sync_channel(1);
    let thread_query = Arc::clone(&query);
    // The thread is not joined, because it may be waiting for an answer. It ends when the receiver
    // is dropped or the process exits.
    thread::Builder::new()
        .name("fetch".to_owned())
        .spawn(move || fetch_loop(fetch, interval, &thread_query, results_tx, wake_rx))?;
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &query, &results_rx, &wake_tx);
    let restored = ratatui::try_restore();
    shown.and(restored)
}

fn fetch_loop(
    mut fetch: impl FnMut(&Query) -> Result<Answers, String>,
    interval: Duration,
    query: &Mutex<Query>,
    results: SyncSender<Result<Answers, String>>,
    wake: Receiver<()>,
) {
    loop {
        let current = query.lock().clone();
        if results.send(fetch(&current)).is_err() {
            return;
        }
        match wake.recv_timeout(interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    query: &Mutex<Query>,
    results: &Receiver<Result<Answers, String>>,
    wake: &SyncSender<()>,
) -> io::Result<()> {
    let mut view = View::default();
    loop {
        while let Ok(result) = results.try_recv() {
            view.update(result, net::now());
        }
        terminal.draw(|frame| draw::draw(frame, &mut view, net::now()))?;
        if !event::poll(POLL_INTERVAL)? {
            continue;
        }
        let action = match event::read()? {
            Event::Key(key) if key.is_press() => view.press(key),
            // A resize is handled by the next draw.
            _ => Action::Draw,
        };
        match action {
            Action::Draw => {}
            Action::Fetch => {
                let mut query = query.lock();
                *query = Query::search(view.search());
                // This fails if a wake-up is already pending. The pending wake-up also causes a
                // new request.
                let _ = wake.try_send(());
            }
            Action::Quit => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
