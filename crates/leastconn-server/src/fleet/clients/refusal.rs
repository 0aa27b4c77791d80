//! Why the limits of a client refuse a connection.

use std::{fmt, num::NonZeroU32};

use leastconn::{Reason, Refusal, Sharing};

/// A refusal by the limits of a client, and to which balancers the limits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRefusal {
    refusal: Refusal,
    scope: Scope,
}

/// The connections that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those of this balancer.
    Local,
    /// Those of all members of the fleet.
    Fleet,
    /// Those of this balancer, against its share of the limit: one of this number of members.
    Share(NonZeroU32),
}

impl Scope {
    pub(super) const fn of(sharing: Sharing) -> Self {
        match sharing {
            Sharing::Connected { .. } | Sharing::Unanswered { .. } => Self::Fleet,
            Sharing::CutOff { members } => Self::Share(members),
        }
    }
}

impl ClientRefusal {
    pub(super) const fn new(refusal: Refusal, scope: Scope) -> Self {
        Self { refusal, scope }
    }

    pub const fn reason(&self) -> Reason {
        self.refusal.reason()
    }
}

impl fmt::Display for ClientRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.refusal)?;
        match self.scope {
            _ if self.refusal == Refusal::TableFull => Ok(()),
            Scope::Local => Ok(()),
            Scope::Fleet => f.write_str(" (the limit is for the whole fleet)"),
            Scope::Share(members) => write!(
                f,
                " (this balancer has 1/{members} of the limit while the store of the fleet does \
                 not answer)"
            ),
        }
    }
}

impl std::error::Error for ClientRefusal {}
