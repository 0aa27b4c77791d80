//! Settings that every store implementation needs.

use std::time::Duration;

use crate::{operator_history::OperatorHistory, secret::Secret};

#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// Members with the same name and the same store are one fleet. Must not contain braces,
    /// glob characters, spaces or control characters: the name is part of every key of the
    /// store and of the ACL rule.
    pub name: String,
    pub secret: Secret,
    /// A member that was not heard for this long, by the clock of the store, is removed.
    pub gone_after: Duration,
    /// Members to assume until the store has answered. At least 1.
    pub size: u32,
    /// What operators have set, from an earlier connection of this process to the same fleet. The
    /// new connection keeps it up to date.
    pub history: OperatorHistory,
}

impl FleetSettings {
    /// Settings with the defaults of the configuration: `gone_after` is 3 s, `size` is 3.
    pub fn new(name: impl Into<String>, secret: Secret) -> Self {
        Self {
            name: name.into(),
            secret,
            gone_after: Duration::from_secs(3),
            size: 3,
            history: OperatorHistory::default(),
        }
    }
}
