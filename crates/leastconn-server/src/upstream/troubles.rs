//! What was last said of servers with which TLS fails: each thing is said once, not
//! for every connection.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::opening::At;

/// When TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// In the handshake.
    Handshake,
    /// After it: in TLS 1.3 a server looks at our certificate when the handshake is
    /// over for us. Only what it sends shows that it took it.
    Refused,
}

/// As many entries as there are servers, at most.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Almost always none, so that connections that work take no lock.
    count: AtomicUsize,
    said: Mutex<HashMap<At, (Phase, String)>>,
}

impl Troubles {
    /// Whether this is news.
    pub(super) fn begin(&self, at: &At, phase: Phase, what: String) -> bool {
        let mut said = self.said.lock();
        let new = (phase, what);
        if said.get(at) == Some(&new) {
            return false;
        }
        said.insert(at.clone(), new);
        self.count.store(said.len(), Ordering::Relaxed);
        true
    }

    /// TLS worked up to `phase`. Whether that is news.
    pub(super) fn end(&self, at: &At, phase: Phase) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut said = self.said.lock();
        let over = said.get(at).is_some_and(|(trouble, _)| *trouble <= phase);
        if over {
            said.remove(at);
            self.count.store(said.len(), Ordering::Relaxed);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: &str) -> At {
        At {
            server: server.into(),
            port: 443,
        }
    }

    #[test]
    fn each_thing_is_said_once() {
        let troubles = Troubles::default();
        let begin = |server: &str, what: &str| {
            troubles.begin(&at(server), Phase::Handshake, what.to_owned())
        };
        assert!(!troubles.end(&at("web1"), Phase::Handshake));
        assert!(begin("web1", "expired"));
        assert!(!begin("web1", "expired"));
        assert!(begin("web2", "expired"));
        assert!(begin("web1", "revoked"));
        assert!(troubles.end(&at("web1"), Phase::Handshake));
        assert!(!troubles.end(&at("web1"), Phase::Handshake));
        assert!(begin("web1", "revoked"));
        assert!(troubles.end(&at("web2"), Phase::Refused));
    }

    #[test]
    fn a_handshake_does_not_show_that_our_certificate_was_taken() {
        let troubles = Troubles::default();
        assert!(troubles.begin(&at("web1"), Phase::Refused, "no".to_owned()));
        assert!(!troubles.end(&at("web1"), Phase::Handshake));
        assert!(!troubles.begin(&at("web1"), Phase::Refused, "no".to_owned()));
        assert!(troubles.end(&at("web1"), Phase::Refused));
    }
}
