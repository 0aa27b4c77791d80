//! Translates signals into requests.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::DONE;

/// What a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Drain and exit. Contains the name of the signal.
    Stop(&'static str),
    Reload,
    ReopenLogs,
    /// Start a successor process and hand the sockets to it.
    Upgrade,
}

impl Request {
    pub(super) fn signal(self) -> rustix::process::Signal {
        use rustix::process::Signal;
        match self {
            Self::Stop("SIGINT") => Signal::INT,
            Self::Stop(_) => Signal::TERM,
            Self::Reload => Signal::HUP,
            Self::ReopenLogs => Signal::USR1,
            Self::Upgrade => Signal::USR2,
        }
    }
}

/// Handles signals that arrive during startup, before the runtime handles them: reading a
/// large configuration takes time.
#[derive(Debug)]
pub(super) struct EarlySignals {
    /// While this flag is set, SIGTERM and SIGINT end the process immediately, because there are
    /// no connections to drain.
    starting: Arc<AtomicBool>,
    /// All other requests. Each flag is set when the signal of that request arrives.
    postponed: [(Request, Arc<AtomicBool>); 3],
}

impl EarlySignals {
    pub(super) fn install() -> io::Result<Self> {
        let starting = Arc::new(AtomicBool::new(true));
        for stop in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(stop, DONE.into(), Arc::clone(&starting))?;
        }
        let postponed = [
            (Request::Reload, Arc::default()),
            (Request::ReopenLogs, Arc::default()),
            (Request::Upgrade, Arc::default()),
        ];
        for ((_, arrived), signal) in postponed.iter().zip([SIGHUP, SIGUSR1, SIGUSR2]) {
            flag::register(signal, Arc::clone(arrived))?;
        }
        Ok(Self {
            starting,
            postponed,
        })
    }

    /// Returns the postponed requests. From this call on, the runtime handles signals.
    fn end(&self) -> VecDeque<Request> {
        self.starting.store(false, Ordering::SeqCst);
        let postponed = self.postponed.iter();
        postponed
            .filter(|(_, arrived)| arrived.load(Ordering::SeqCst))
            .map(|(request, _)| *request)
            .collect()
    }
}

/// Streams of all handled signals.
#[derive(Debug)]
pub(super) struct Signals {
    /// Requests that arrived before the streams existed.
    early: VecDeque<Request>,
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub(super) fn install(early: &EarlySignals) -> io::Result<Self> {
        let mut this = Self {
            early: VecDeque::new(),
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        };
        // Take the early requests after creating the streams: a signal that arrives between the
        // two steps is handled twice instead of being lost.
        this.early = early.end();
        Ok(this)
    }

    /// Returns a pending request, if there is one.
    pub(super) async fn pending(&mut self) -> Option<Request> {
        tokio::select! {
            biased;
            request = self.next() => Some(request),
            () = std::future::ready(()) => None,
        }
    }

    /// Waits for the next request. Cancel safe: no request is lost.
    pub(super) async fn next(&mut self) -> Request {
        if let Some(request) = self.early.pop_front() {
            return request;
        }
        tokio::select! {
            _ = self.term.recv() => Request::Stop("SIGTERM"),
            _ = self.int.recv() => Request::Stop("SIGINT"),
            _ = self.hup.recv() => Request::Reload,
            _ = self.usr1.recv() => Request::ReopenLogs,
            _ = self.usr2.recv() => Request::Upgrade,
        }
    }
}
