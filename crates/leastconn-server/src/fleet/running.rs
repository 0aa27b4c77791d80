//! The running member, as the admin interface sees it.

use std::sync::Arc;

use jiff::Timestamp;
use leastconn::net;
use leastconn_config::text::escape;
use leastconn_fleet::{Command, Facts};

use super::{
    handle::{Answer, FleetHandle, KillReport, NotSent},
    member_settings::MemberSettings,
    operators::Operators,
    shared::Shared,
    status::{FleetStatus, MemberState, StoreStatus},
};

#[derive(Debug)]
pub(super) struct RunningMember {
    settings: MemberSettings,
    shared: Arc<Shared>,
    operators: Arc<Operators>,
}

impl RunningMember {
    pub(super) const fn new(
        settings: MemberSettings,
        shared: Arc<Shared>,
        operators: Arc<Operators>,
    ) -> Self {
        Self {
            settings,
            shared,
            operators,
        }
    }
}

impl FleetHandle for RunningMember {
    fn status(&self) -> FleetStatus {
        let now = net::now();
        let status = self.shared.status();
        let elapsed = now.saturating_duration_since(status.since);
        let since = Timestamp::now().saturating_sub(elapsed);
        let own = MemberState {
            name: self.settings.name.to_string(),
            is_self: true,
            status: status.status,
            facts: status.facts,
            last_heard: now.saturating_duration_since(status.viewed),
        };
        let age = own.last_heard;
        let mut others: Vec<_> = status
            .others
            .into_iter()
            .map(|member| MemberState {
                name: escape(member.id.name()),
                is_self: false,
                status: member.status,
                facts: member.facts.as_deref().map(escaped),
                last_heard: member.last_heard + age,
            })
            .collect();
        others.sort_by(|one, other| one.name.cmp(&other.name));
        FleetStatus {
            name: self.settings.fleet.to_string(),
            state: status.state,
            since: since.unwrap_or(Timestamp::MIN),
            members: std::iter::once(own).chain(others).collect(),
            store: StoreStatus {
                address: status.server.unwrap_or_else(|| self.settings.store.clone()),
                round_trip: status.round_trip,
                failures: status.failures,
                error: status.error.map(|error| error.to_string()),
            },
        }
    }

    fn send(&self, command: Command) -> Answer<Result<(), NotSent>> {
        let (operators, shared) = (Arc::clone(&self.operators), Arc::clone(&self.shared));
        Box::pin(async move {
            let sent = operators.send(command).await;
            sent.map_err(|error| explained(error, &shared))
        })
    }

    fn kill(&self, filter: String) -> Answer<Result<KillReport, NotSent>> {
        let (operators, shared) = (Arc::clone(&self.operators), Arc::clone(&self.shared));
        Box::pin(async move {
            let killed = operators.kill(filter).await;
            killed.map_err(|error| explained(error, &shared))
        })
    }
}

/// The facts of another member, as the store returned them, without control characters.
fn escaped(facts: &Facts) -> Facts {
    Facts {
        version: escape(&facts.version),
        host: escape(&facts.host),
        config_digest: escape(&facts.config_digest),
        ..*facts
    }
}

/// Adds the reason why the store did not answer.
fn explained(NotSent(text): NotSent, shared: &Shared) -> NotSent {
    NotSent(match shared.status().error {
        Some(error) => format!("{text}: {error}"),
        None => text,
    })
}
