//! What signals ask for.

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

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// To drain, then end. With the signal's name.
    Stop(&'static str),
    /// To read the configuration anew.
    Reload,
    /// To open log files anew.
    ReopenLogs,
    /// To start a new program, and leave the sockets to it.
    Upgrade,
}

impl Told {
    /// The signal that asks for it.
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

/// Signals while the process starts: reading very many rules takes a moment, in which
/// nothing listens to them yet.
#[derive(Debug)]
pub(super) struct Early {
    /// To stop is to end: there is nothing to drain.
    starting: Arc<AtomicBool>,
    /// What others ask for, and whether they did.
    later: [(Told, Arc<AtomicBool>); 3],
}

impl Early {
    pub(super) fn install() -> io::Result<Self> {
        let starting = Arc::new(AtomicBool::new(true));
        for stop in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(stop, DONE.into(), Arc::clone(&starting))?;
        }
        let later = [
            (Told::Reload, Arc::default()),
            (Told::ReopenLogs, Arc::default()),
            (Told::Upgrade, Arc::default()),
        ];
        for ((_, came), signal) in later.iter().zip([SIGHUP, SIGUSR1, SIGUSR2]) {
            flag::register(signal, Arc::clone(came))?;
        }
        Ok(Self { starting, later })
    }

    /// What came so far: from here on, somebody listens.
    fn end(&self) -> VecDeque<Told> {
        self.starting.store(false, Ordering::SeqCst);
        let came = self.later.iter();
        came.filter(|(_, came)| came.load(Ordering::SeqCst))
            .map(|(told, _)| *told)
            .collect()
    }
}

/// All signals that are listened to: none of them has its default action.
#[derive(Debug)]
pub(super) struct Signals {
    /// From before they were listened to.
    early: VecDeque<Told>,
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub(super) fn install(early: &Early) -> io::Result<Self> {
        let mut this = Self {
            early: VecDeque::new(),
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        };
        // Last: one that comes in between is told twice, rather than not at all.
        this.early = early.end();
        Ok(this)
    }

    /// The next one, if it has come already.
    pub(super) async fn pending(&mut self) -> Option<Told> {
        tokio::select! {
            biased;
            told = self.next() => Some(told),
            () = std::future::ready(()) => None,
        }
    }

    /// The next one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> Told {
        if let Some(told) = self.early.pop_front() {
            return told;
        }
        tokio::select! {
            _ = self.term.recv() => Told::Stop("SIGTERM"),
            _ = self.int.recv() => Told::Stop("SIGINT"),
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr1.recv() => Told::ReopenLogs,
            _ = self.usr2.recv() => Told::Upgrade,
        }
    }
}
