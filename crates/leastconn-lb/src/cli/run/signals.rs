//! What signals ask for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// All signals that are listened to: none of them has its default action.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
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
        tokio::select! {
            _ = self.term.recv() => Told::Stop("SIGTERM"),
            _ = self.int.recv() => Told::Stop("SIGINT"),
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr1.recv() => Told::ReopenLogs,
            _ = self.usr2.recv() => Told::Upgrade,
        }
    }
}
