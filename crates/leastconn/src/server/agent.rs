//! A server's state according to its agent.

use std::time::SystemTime;

use super::{AGENT_NOT_READY, Cause, Failure, Server, Success, count};
use crate::{
    agent::{AgentReport, AgentState},
    spec::AdminState,
};

/// What an agent's [report](AgentReport) has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentChange {
    /// Whether [`ServerStatus::is_up`](super::ServerStatus::is_up) changed.
    pub is_up_changed: bool,
    /// Whether the weight or the connection limit changed.
    pub settings: bool,
    /// Whether anything changed.
    pub any: bool,
}

impl Server {
    /// Returns the state according to the reports of the server's agent. Without agent checks, this
    /// is the default state.
    pub fn agent(&self) -> AgentState {
        self.agent.lock().clone()
    }

    /// Records a report at `time`. The weight and the connection limit take effect when the pool
    /// applies them.
    pub(crate) fn agent_reported(&self, report: &AgentReport, time: SystemTime) -> AgentChange {
        let next = self.agent().after(report);
        self.set_agent(next, time)
    }

    /// Replaces the state according to the agent.
    pub(crate) fn set_agent(&self, next: AgentState, time: SystemTime) -> AgentChange {
        let before = std::mem::replace(&mut *self.agent.lock(), next.clone());
        let mut is_up_changed = false;
        if next.down.is_some() || before.down.is_some() {
            let is_down = next.down.is_some();
            let reason = format!("the agent reports {}", next.down.as_deref().unwrap_or("up"));
            let cause = if is_down {
                Cause::Agent(Failure::new(time, &reason))
            } else {
                Cause::Success(Success::Agent)
            };
            is_up_changed = self.with_health(cause, |health, _| health.set_agent_down(is_down));
        }
        if next.admin != before.admin {
            self.set_agent_admin(before.admin, next.admin);
        }
        AgentChange {
            is_up_changed,
            settings: (next.weight_percent, next.max_conns)
                != (before.weight_percent, before.max_conns),
            any: next != before,
        }
    }

    /// Slow start begins under the same conditions as in [`Self::set_admin`].
    fn set_agent_admin(&self, before: AdminState, state: AdminState) {
        let flag = match state {
            AdminState::Ready => 0,
            AdminState::Drain | AdminState::Maint => AGENT_NOT_READY,
        };
        let was_maint = before == AdminState::Maint;
        self.set_service_flags(AGENT_NOT_READY, flag, |word| {
            flag == 0 && (was_maint || count(word) == 0)
        });
    }
}
