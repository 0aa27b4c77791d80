//! Load and limits that come from other balancers.

/// What is known about other balancers. A server that rejoins while it has connections keeps it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct External {
    /// Connections of other balancers, plus the echo of each pick, in units of 1/256 connection.
    pub(crate) load: u32,
    pub(crate) echo: u32,
    pub(crate) slots: Option<u32>,
}

impl External {
    pub(crate) const fn connections(self) -> u32 {
        (self.load + 128) / 256
    }
}
