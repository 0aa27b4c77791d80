//! The members of a fleet. A member is a process: during an upgrade both processes are members.

use std::fmt;

/// The name of a member and 64 random bits, in hexadecimal: `lb1.9f86d081884c7d65`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(String);

impl MemberId {
    pub fn new(name: &str, random: u64) -> Self {
        Self(format!("{name}.{random:016x}"))
    }

    /// The ID as the store returns it.
    pub fn from_store(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the random part.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(name, _)| name)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberStatus {
    /// Accepts connections. Limits are divided by the number of serving members.
    #[default]
    Serving,
    /// Does not accept connections any more, but still has some: it drains, or was replaced by
    /// an upgrade. Its connections count.
    Leaving,
}
