//! The exchange of client usage with the store.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use leastconn::{FleetUsage, Sharing, UsageReport, net};
use leastconn_config::SharedLimits;
use leastconn_fleet::{Batch, ClientKey, ClientReport, ClientView, Report};
use parking_lot::Mutex;

use super::{ClientAdmission, ClientSettings};
use crate::fleet::{Exchange, Membership, Participant};

/// Maximum number of clients in a batch. The store needs about 10 microseconds for each.
const MAX_BATCH: usize = 512;

/// The sharing of limits in one fleet.
#[derive(Debug)]
pub(super) struct SharedClients {
    pub(super) settings: ClientSettings,
    /// Whether the store has answered since the last failure or timeout.
    is_answering: AtomicBool,
    /// The batch that is not acknowledged yet.
    batch: Mutex<Option<Outstanding>>,
}

#[derive(Debug)]
struct Outstanding {
    number: u64,
    clients: Vec<(ClientKey, UsageReport)>,
}

impl SharedClients {
    pub(super) fn new(settings: ClientSettings) -> Self {
        Self {
            settings,
            is_answering: AtomicBool::new(true),
            batch: Mutex::default(),
        }
    }

    /// The rule that applies.
    pub(super) fn sharing(&self, membership: Membership) -> Sharing {
        let exact = self.settings.mode == SharedLimits::Exact;
        match membership {
            // This process changes to another fleet, and has left the old one. What clients have
            // used must not be forgotten.
            Membership::Alone => Sharing::CutOff {
                members: NonZeroU32::MIN,
            },
            Membership::CutOff { members } => Sharing::CutOff { members },
            Membership::Joined { members, can_ask } if can_ask && self.is_answering() => {
                Sharing::Connected { members, exact }
            }
            Membership::Joined { members, .. } => Sharing::Unanswered { members, exact },
        }
    }

    pub(super) fn is_answering(&self) -> bool {
        self.is_answering.load(Ordering::Acquire)
    }

    /// No connection waits any more until the store has answered.
    pub(super) fn set_unanswered(&self) {
        self.is_answering.store(false, Ordering::Release);
    }
}

/// Takes part in the exchange until the membership ends.
#[derive(Debug)]
pub(super) struct ClientParticipant {
    admission: Arc<ClientAdmission>,
    shared: Arc<SharedClients>,
}

impl ClientParticipant {
    pub(super) const fn new(admission: Arc<ClientAdmission>, shared: Arc<SharedClients>) -> Self {
        Self { admission, shared }
    }

    /// The batch that is not acknowledged, or the next one. `None` if nothing has changed.
    fn batch(&self, now: Instant) -> Option<Arc<Batch>> {
        let mut batch = self.shared.batch.lock();
        if let Some(outstanding) = &mut *batch {
            for (_, report) in &mut outstanding.clients {
                report.refresh();
            }
        } else {
            let reports = self.admission.limiters.usage_reports(MAX_BATCH, now);
            if reports.is_empty() {
                return None;
            }
            let secret = &self.shared.settings.secret;
            let key = |report: &UsageReport| ClientKey::new(secret, report.client().as_str());
            *batch = Some(Outstanding {
                number: 1 + self.admission.last_batch.fetch_add(1, Ordering::Relaxed),
                clients: reports.into_iter().map(|r| (key(&r), r)).collect(),
            });
        }
        let outstanding = batch.as_ref()?;
        let clients = outstanding.clients.iter();
        Some(Arc::new(Batch {
            number: outstanding.number,
            clients: clients
                .map(|(key, r)| client_report(*key, r, now))
                .collect(),
        }))
    }

    /// Decides for all connections that wait.
    fn unanswered(&self, members: NonZeroU32) {
        self.shared.set_unanswered();
        let now = net::now();
        if let Some(outstanding) = &*self.shared.batch.lock() {
            for (_, report) in &outstanding.clients {
                report.unanswered(members, now);
            }
        }
        self.admission.limiters.unanswered(members, now);
    }
}

impl Participant for ClientParticipant {
    fn report(&self, report: &mut Report, now: Instant) {
        report.batch = self.batch(now);
    }

    fn apply(&self, exchange: &Exchange<'_>) {
        let mut batch = self.shared.batch.lock();
        let number = exchange.report.batch.as_ref().map(|batch| batch.number);
        let views = &exchange.view.clients;
        let is_answered = |outstanding: &mut Outstanding| {
            number == Some(outstanding.number) && views.len() == outstanding.clients.len()
        };
        let answered = batch.take_if(is_answered);
        drop(batch);
        for ((_, report), view) in answered.into_iter().flat_map(|o| o.clients).zip(views) {
            report.confirm(&usage(view), exchange.received);
        }
        if exchange.view.forgotten {
            self.admission.limiters.repeat_reports(exchange.received);
        }
        self.shared.is_answering.store(true, Ordering::Release);
    }

    fn failed(&self, _report: &Report) {
        self.unanswered(self.members());
    }

    fn cut_off(&self, members: NonZeroU32) {
        self.unanswered(members);
    }

    fn leave(&self) {
        self.admission.leave_if(&self.shared);
        // The next report contains the usage of this batch.
        drop(self.shared.batch.lock().take());
    }
}

impl ClientParticipant {
    fn members(&self) -> NonZeroU32 {
        match self.admission.membership.get(net::now()) {
            Membership::Alone => NonZeroU32::MIN,
            Membership::Joined { members, .. } | Membership::CutOff { members } => members,
        }
    }
}

fn client_report(client: ClientKey, report: &UsageReport, now: Instant) -> ClientReport {
    let limits = report.limits();
    ClientReport {
        client,
        admitted: report.admitted(),
        ask: report.ask(),
        rate: limits.rate.map_or(0.0, |rate| rate.per_second()),
        burst: limits.rate.map_or(0, |rate| rate.burst().get()),
        max_conns: limits.max_conns.map_or(0, NonZeroU32::get),
        open: report.open(),
        used: report.known_used(now),
    }
}

const fn usage(view: &ClientView) -> FleetUsage {
    FleetUsage::new(view.granted, view.used, view.others_open)
}
