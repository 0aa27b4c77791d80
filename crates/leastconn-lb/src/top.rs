//! `top`: what the dashboard shows, in a terminal.
//!
//! One thread asks the balancer, so that keys are answered while it is slow or
//! gone; what it was told last stays on the screen and is called old.

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

use keys::Then;
use leastconn_server::api::{
    ClientOrder, Clients, ClientsQuery, Connections, ConnectionsQuery, Samples, Servers, Status,
};
use view::View;

/// How long a key may wait for its effect, at most.
const TURN: Duration = Duration::from_millis(100);

/// Rows of a table that are asked for: more than a terminal has lines.
const ROWS: usize = 500;

/// What is known of the balancer at one time.
#[derive(Clone, Debug)]
pub struct Picture {
    /// `/api/v1/status`
    pub status: Status,
    /// `/api/v1/servers`
    pub servers: Servers,
    /// `/api/v1/clients`
    pub clients: Clients,
    /// `/api/v1/connections`
    pub connections: Connections,
    /// `/api/v1/history`
    pub history: Samples,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which clients.
    pub clients: ClientsQuery,
    /// Which connections.
    pub connections: ConnectionsQuery,
}

impl Asked {
    fn searching(text: &str) -> Self {
        let search = (!text.is_empty()).then(|| text.to_owned());
        Self {
            clients: ClientsQuery {
                search: search.clone(),
                sort: Some(ClientOrder::Active),
                limit: Some(ROWS),
            },
            connections: ConnectionsQuery {
                search,
                limit: Some(ROWS),
                ..ConnectionsQuery::default()
            },
        }
    }
}

/// Shows what `ask` finds out, every so often, until the user has seen enough.
///
/// # Errors
/// If the terminal cannot be used.
pub fn run(
    ask: impl FnMut(&Asked) -> Result<Picture, String> + Send + 'static,
    every: Duration,
) -> io::Result<()> {
    let asked = Arc::new(Mutex::new(Asked::searching("")));
    let (tell, told) = mpsc::sync_channel(1);
    let (wake, woken) = mpsc::sync_channel(1);
    let asking = Arc::clone(&asked);
    // It ends with the process, or when it has nobody to tell: it may be waiting for
    // an answer for seconds, which nobody wants to wait for.
    thread::Builder::new()
        .name("asking".to_owned())
        .spawn(move || keep_asking(ask, every, &asking, tell, woken))?;
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &asked, &told, &wake);
    let restored = ratatui::try_restore();
    shown.and(restored)
}

fn keep_asking(
    mut ask: impl FnMut(&Asked) -> Result<Picture, String>,
    every: Duration,
    asked: &Mutex<Asked>,
    tell: SyncSender<Result<Picture, String>>,
    woken: Receiver<()>,
) {
    loop {
        let now = asked.lock().clone();
        if tell.send(ask(&now)).is_err() {
            return;
        }
        match woken.recv_timeout(every) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    asked: &Mutex<Asked>,
    told: &Receiver<Result<Picture, String>>,
    wake: &SyncSender<()>,
) -> io::Result<()> {
    let mut view = View::default();
    loop {
        while let Ok(result) = told.try_recv() {
            view.told(result, net::now());
        }
        terminal.draw(|frame| draw::draw(frame, &mut view, net::now()))?;
        if !event::poll(TURN)? {
            continue;
        }
        let then = match event::read()? {
            Event::Key(key) if key.is_press() => view.press(key),
            // A new size is drawn anyway.
            _ => Then::Draw,
        };
        match then {
            Then::Draw => {}
            Then::Ask => {
                let mut asked = asked.lock();
                *asked = Asked::searching(view.search());
                // One that is waiting already is enough.
                let _ = wake.try_send(());
            }
            Then::Quit => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
