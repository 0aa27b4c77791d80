//! State of the membership that the fleet thread and connections share.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use leastconn::ShortDuration;
use leastconn_fleet::{Facts, MemberId, MemberStatus, MemberView, Report, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    membership::SharedMembership,
    participant::{Exchange, Participant},
    state::{Machine, Transition},
    status::FleetState,
    wake::Wake,
};

#[derive(Debug)]
pub(super) struct Shared {
    id: MemberId,
    membership: Arc<SharedMembership>,
    wake: Arc<Wake>,
    is_leaving: AtomicBool,
    /// Notified when the store has answered for the first time.
    first_answer: Notify,
    /// Also held while participants are called, so that transitions and answers are applied in
    /// one order.
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    participants: Vec<Arc<dyn Participant>>,
    has_left: bool,
    /// The error of the last exchange, if it failed.
    error: Option<StoreError>,
    failures: u64,
    round_trip: Option<Duration>,
    others: Vec<MemberView>,
    viewed: Instant,
    facts: Option<Facts>,
    server: Option<String>,
}

/// A copy of the state, for operators.
#[derive(Clone, Debug)]
pub(super) struct SharedStatus {
    pub(super) status: MemberStatus,
    pub(super) state: FleetState,
    pub(super) since: Instant,
    /// Failed exchanges since the start.
    pub(super) failures: u64,
    pub(super) round_trip: Option<Duration>,
    /// Why the last exchange failed. `None` if it succeeded.
    pub(super) error: Option<StoreError>,
    /// The other members in the last view.
    pub(super) others: Vec<MemberView>,
    /// When the last view arrived.
    pub(super) viewed: Instant,
    /// The last facts that this process has reported.
    pub(super) facts: Option<Facts>,
    /// Address and version of the connected store.
    pub(super) server: Option<String>,
}

impl Shared {
    pub(super) fn new(
        id: MemberId,
        machine: Machine,
        membership: Arc<SharedMembership>,
        wake: Arc<Wake>,
        participants: Vec<Arc<dyn Participant>>,
    ) -> Self {
        let since = machine.since();
        membership.set_cut_off(machine.members());
        for participant in &participants {
            participant.cut_off(machine.members());
        }
        Self {
            id,
            membership,
            wake,
            is_leaving: AtomicBool::new(false),
            first_answer: Notify::new(),
            inner: Mutex::new(Inner {
                machine,
                participants,
                has_left: false,
                error: None,
                failures: 0,
                round_trip: None,
                others: Vec::new(),
                viewed: since,
                facts: None,
                server: None,
            }),
        }
    }

    pub(super) const fn id(&self) -> &MemberId {
        &self.id
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Reports this process as leaving from now on.
    pub(super) fn begin_leaving(&self) {
        if !self.is_leaving.swap(true, Ordering::AcqRel) {
            self.wake.urgent();
        }
    }

    fn status_of_member(&self) -> MemberStatus {
        if self.is_leaving.load(Ordering::Acquire) {
            MemberStatus::Leaving
        } else {
            MemberStatus::Serving
        }
    }

    /// Waits until the store has answered.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn joined(&self) {
        let mut answer = pin!(self.first_answer.notified());
        // Register before the check, so that an answer in between is not missed.
        answer.as_mut().enable();
        if self.inner.lock().machine.state() != FleetState::Joined {
            answer.await;
        }
    }

    /// The next report. Everything that changed before the call is in it.
    pub(super) fn report(&self, now: Instant) -> Report {
        self.wake.take();
        let mut report = Report::new(self.id.clone(), self.status_of_member());
        let mut inner = self.inner.lock();
        for participant in &inner.participants {
            participant.report(&mut report, now);
        }
        if report.facts.is_some() {
            inner.facts.clone_from(&report.facts);
        }
        report
    }

    /// Applies an answer. Returns `false` without any effect if it is too old.
    pub(super) fn apply(&self, exchange: &Exchange<'_>) -> bool {
        let mut inner = self.inner.lock();
        if inner.has_left {
            return true;
        }
        let answered = inner
            .machine
            .answered(exchange.members, exchange.sent, exchange.received);
        let Some(transition) = answered else {
            return false;
        };
        for participant in &inner.participants {
            participant.apply(exchange);
        }
        // Last: from now on, decisions use what was applied.
        self.membership
            .set_joined(exchange.members, inner.machine.fresh_until());
        inner.error = None;
        let round_trip = exchange.received.saturating_duration_since(exchange.sent);
        inner.round_trip = Some(round_trip);
        inner.others.clone_from(&exchange.view.members);
        inner.viewed = exchange.received;
        if let Some(transition) = transition {
            self.log(&transition, None);
            self.first_answer.notify_waiters();
        }
        true
    }

    pub(super) fn failed(&self, report: &Report, error: &StoreError, now: Instant) {
        self.membership.set_unanswered();
        let mut inner = self.inner.lock();
        if inner.has_left {
            return;
        }
        inner.failures += 1;
        inner.server = None;
        if inner.error.as_ref() != Some(error) {
            tracing::debug!(%error, "fleet store: exchange failed");
        }
        inner.error = Some(error.clone());
        for participant in &inner.participants {
            participant.failed(report);
        }
        self.apply_transitions(&mut inner, now);
    }

    /// Remembers the server of the last exchange.
    pub(super) fn set_server(&self, server: Option<&str>) {
        let mut inner = self.inner.lock();
        if inner.server.as_deref() != server {
            inner.server = server.map(str::to_owned);
        }
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.inner.lock().machine.next_tick()
    }

    /// Applies the transitions that are due.
    pub(super) fn tick(&self, now: Instant) {
        self.apply_transitions(&mut self.inner.lock(), now);
    }

    fn apply_transitions(&self, inner: &mut Inner, now: Instant) {
        if inner.has_left {
            return;
        }
        while let Some(transition) = inner.machine.tick(now) {
            match transition {
                Transition::CutOff { members, .. } => {
                    self.membership.set_cut_off(members);
                    for participant in &inner.participants {
                        participant.cut_off(members);
                    }
                }
                Transition::CountsExpired => {
                    for participant in &inner.participants {
                        participant.forget_others();
                    }
                }
                Transition::Joined { .. } | Transition::Rejoined { .. } => {}
            }
            self.log(&transition, inner.error.as_ref());
        }
    }

    /// Ends the membership: participants forget the fleet. Later reports are empty. The fleet
    /// thread may still exchange until it is stopped.
    pub(super) fn leave(&self) {
        let mut inner = self.inner.lock();
        inner.has_left = true;
        self.membership.set_alone();
        for participant in inner.participants.drain(..) {
            participant.leave();
        }
    }

    pub(super) fn status(&self) -> SharedStatus {
        let inner = self.inner.lock();
        SharedStatus {
            status: self.status_of_member(),
            state: inner.machine.state(),
            since: inner.machine.since(),
            failures: inner.failures,
            round_trip: inner.round_trip,
            error: inner.error.clone(),
            others: inner.others.clone(),
            viewed: inner.viewed,
            facts: inner.facts.clone(),
            server: inner.server.clone(),
        }
    }

    fn log(&self, transition: &Transition, error: Option<&StoreError>) {
        match transition {
            Transition::Joined { members } => {
                tracing::info!(member = %self.id, members, "fleet joined");
            }
            Transition::Rejoined { members, after } => {
                let after = ShortDuration(*after);
                tracing::info!(member = %self.id, members, %after, "fleet rejoined");
            }
            Transition::CutOff {
                members,
                silent_for,
            } => {
                let error = error.map_or_else(|| "no answer".to_owned(), ToString::to_string);
                let silent_for = ShortDuration(*silent_for);
                tracing::warn!(
                    members,
                    %silent_for,
                    error,
                    "cut off from the fleet: each limit is divided by the number of members until the store answers"
                );
            }
            Transition::CountsExpired => {
                tracing::warn!("fleet: server counts of other members expired");
            }
        }
    }
}
