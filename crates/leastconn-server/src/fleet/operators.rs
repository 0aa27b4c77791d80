//! Commands of operators: sends those of this process, and carries out those of other members.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::net;
use leastconn_config::text::escape;
use leastconn_fleet::{Acknowledgement, Command, CommandId, MemberId, OperatorState, Report, View};
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    handle::{KillReport, NotSent},
    participant::{Exchange, Participant},
    wake::Wake,
};

/// Time limit until the store has accepted a command.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit until all members have acknowledged a kill.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum time between two warnings about invalid signatures.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What commands of the fleet act on.
pub trait OperatorTarget: fmt::Debug + Send + Sync {
    /// Applies everything that operators have set.
    fn apply(&self, state: &OperatorState);

    /// Closes connections of this process. `filter` is JSON with the keys of
    /// `POST /api/v1/connections/kill`. Returns how many were closed.
    ///
    /// # Errors
    /// If the filter is not understood. Then nothing is closed.
    fn kill(&self, filter: &str) -> Result<u64, String>;
}

/// The commands of this process and of the other members.
#[derive(Debug)]
pub(super) struct Operators {
    wake: Arc<Wake>,
    target: Arc<dyn OperatorTarget>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Commands that the store has not accepted yet.
    pending: VecDeque<PendingCommand>,
    next_id: u64,
    /// Sent with the next report, until the store has accepted them.
    acknowledgements: Vec<Acknowledgement>,
    /// Kills of this process that wait for acknowledgements.
    waiting: HashMap<CommandId, watch::Sender<Vec<(MemberId, u64)>>>,
    /// The other members in the last view.
    members: Vec<MemberId>,
    /// Since the last warning.
    invalid_signatures: usize,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct PendingCommand {
    id: u64,
    command: Command,
    /// Whether it was in a report, which may have been applied or not.
    is_reported: bool,
    accepted: oneshot::Sender<Result<(), NotSent>>,
}

impl Inner {
    /// Whether the command waits, and was in a report.
    fn is_reported(&self, id: u64) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|pending| pending.id == id && pending.is_reported)
    }

    /// No command waits for the store any more.
    fn give_up(&mut self) {
        for pending in self.pending.drain(..) {
            let error = NotSent::unanswered("the store does not answer", pending.is_reported);
            // An error means that the sender does not wait any more.
            let _ = pending.accepted.send(Err(error));
        }
    }

    /// At most one warning a minute: invalid entries may be written to the store continuously.
    fn warn_of_invalid_signatures(&mut self, found: usize, now: Instant) {
        self.invalid_signatures = self.invalid_signatures.saturating_add(found);
        let is_recent = |warned| now.saturating_duration_since(warned) < WARNING_INTERVAL;
        if self.invalid_signatures == 0 || self.warned.is_some_and(is_recent) {
            return;
        }
        tracing::warn!(
            count = self.invalid_signatures,
            "fleet: commands with a wrong signature ignored; do all members have the same secret?"
        );
        self.warned = Some(now);
        self.invalid_signatures = 0;
    }
}

impl Operators {
    pub(super) fn new(wake: Arc<Wake>, target: Arc<dyn OperatorTarget>) -> Self {
        Self {
            wake,
            target,
            inner: Mutex::default(),
        }
    }

    /// Sends a command. Completes when the store has accepted it and its effect was applied to
    /// this process.
    ///
    /// # Cancel safety
    /// A dropped future may have sent its command or not.
    pub(super) async fn send(self: Arc<Self>, command: Command) -> Result<(), NotSent> {
        let (accepted, is_accepted) = oneshot::channel();
        let id = {
            let mut inner = self.inner.lock();
            let id = inner.next_id;
            inner.next_id += 1;
            inner.pending.push_back(PendingCommand {
                id,
                command,
                is_reported: false,
                accepted,
            });
            id
        };
        self.wake.urgent();
        let withdraw = Withdraw(&self, id);
        let result = timeout(SEND_TIMEOUT, is_accepted).await;
        if let Ok(Ok(result)) = result {
            return result;
        }
        let was_sent = self.inner.lock().is_reported(id);
        drop(withdraw);
        let text = format!(
            "the store has not accepted the command within {} s",
            SEND_TIMEOUT.as_secs()
        );
        Err(NotSent::unanswered(&text, was_sent))
    }

    /// Sends a kill to the other members and waits for their acknowledgements.
    ///
    /// # Cancel safety
    /// A dropped future may have sent its command or not.
    pub(super) async fn kill(self: Arc<Self>, filter: String) -> Result<KillReport, NotSent> {
        let id = format!("{:016x}{:016x}", net::random(), net::random());
        let mut acknowledged = {
            let (sender, receiver) = watch::channel(Vec::new());
            self.inner.lock().waiting.insert(id.clone(), sender);
            receiver
        };
        let forget = Forget(&self, id.clone());
        let command = Command::Kill { id, filter };
        Arc::clone(&self).send(command).await?;
        let members = self.inner.lock().members.clone();
        let is_complete = |acknowledged: &Vec<(MemberId, u64)>| {
            let has_acknowledged =
                |member: &MemberId| acknowledged.iter().any(|(other, _)| other == member);
            members.iter().all(has_acknowledged)
        };
        let _ = timeout(KILL_TIMEOUT, acknowledged.wait_for(is_complete)).await;
        drop(forget);
        let acknowledged = acknowledged.borrow().clone();
        let missing = members
            .iter()
            .filter(|member| acknowledged.iter().all(|(other, _)| other != *member));
        Ok(KillReport {
            missing: missing.map(|member| escape(member.name())).collect(),
            killed: acknowledged
                .iter()
                .map(|(member, killed)| (escape(member.name()), *killed))
                .collect(),
        })
    }

    /// Each kill is in one view only, also if the store delivers it again.
    fn carry_out_kills(&self, view: &View) {
        for kill in &view.kills {
            let killed = match self.target.kill(&kill.filter) {
                Ok(killed) => killed,
                Err(error) => {
                    // Without an acknowledgement, the sender reports this member as missing.
                    tracing::warn!(
                        filter = kill.filter,
                        error,
                        "kill of another member rejected"
                    );
                    continue;
                }
            };
            tracing::info!(
                killed,
                filter = kill.filter,
                "connections killed: command of another member"
            );
            let id = kill.id.clone();
            let acknowledgement = Acknowledgement { id, killed };
            self.inner.lock().acknowledgements.push(acknowledgement);
            self.wake.urgent();
        }
    }
}

/// Removes a command that was not accepted, so that it does not take effect later.
struct Withdraw<'a>(&'a Operators, u64);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.pending.retain(|pending| pending.id != self.1);
    }
}

/// Ends waiting for the acknowledgements of a kill.
struct Forget<'a>(&'a Operators, CommandId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().waiting.remove(&self.1);
    }
}

impl Participant for Operators {
    fn report(&self, report: &mut Report, _now: Instant) {
        let mut inner = self.inner.lock();
        for pending in &mut inner.pending {
            pending.is_reported = true;
            report.commands.push(pending.command.clone());
        }
        report
            .acknowledgements
            .extend(inner.acknowledgements.iter().cloned());
    }

    fn apply(&self, exchange: &Exchange<'_>) {
        let view = exchange.view;
        if let Some(state) = &view.operators {
            self.target.apply(state);
        }
        self.carry_out_kills(view);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.members = view
            .members
            .iter()
            .map(|member| member.id.clone())
            .collect();
        let sent = &exchange.report.acknowledgements;
        inner.acknowledgements.retain(|one| !sent.contains(one));
        for (member, acknowledgement) in &view.acknowledgements {
            if let Some(waiting) = inner.waiting.get(&acknowledgement.id) {
                waiting.send_modify(|all| all.push((member.clone(), acknowledgement.killed)));
            }
        }
        // After `members`, which a kill reads when it was accepted.
        let pending = std::mem::take(&mut inner.pending);
        for command in pending {
            if !command.is_reported {
                inner.pending.push_back(command);
                continue;
            }
            let is_refused = view.refused.contains(&command.command);
            // An error means that the sender does not wait any more.
            let _ = command.accepted.send(match is_refused {
                true => Err(NotSent(
                    "the store always has a newer entry for the same server or client".to_owned(),
                )),
                false => Ok(()),
            });
        }
        inner.warn_of_invalid_signatures(view.invalid_signatures, exchange.received);
    }

    fn cut_off(&self, _members: NonZeroU32) {
        // Ends waiting at once: the store has not answered for a second.
        self.inner.lock().give_up();
    }

    fn leave(&self) {
        self.inner.lock().give_up();
    }
}

#[cfg(test)]
mod tests;
