//! Members with an in-memory store. The members run the exchange of the balancer.

use std::future::pending;

use leastconn_fleet::{
    FleetSettings, InMemory, MemberId, MemoryServer, Report, Store, StoreError, View,
};
use tokio::{
    task::JoinHandle,
    time::{Instant as TokioInstant, sleep},
};

use super::*;
use crate::fleet::{exchange, shared::Shared, state::Machine};

pub(super) const NAME: &str = "test";
pub(super) const SECRET: &str = "secret of the fleet";

/// Time from a member to the store.
const LATENCY: Duration = Duration::from_micros(500);

pub(super) struct Fleet {
    pub(super) server: MemoryServer,
    pub(super) members: Vec<Member>,
    start: TokioInstant,
    mode: SharedLimits,
    next_id: u64,
}

pub(super) struct Member {
    pub(super) admission: Arc<ClientAdmission>,
    pub(super) membership: Arc<SharedMembership>,
    wake: Arc<Wake>,
    running: Option<(Arc<Shared>, JoinHandle<()>)>,
}

/// The connection of a member to the store, with latency.
struct Delayed {
    store: InMemory,
    server: MemoryServer,
    start: TokioInstant,
}

impl Delayed {
    fn set_now(&self) {
        let now = Duration::from_secs(1_000) + self.start.elapsed();
        self.server.set_now(now);
    }
}

impl Store for Delayed {
    async fn exchange(&mut self, report: &Report) -> Result<View, StoreError> {
        sleep(LATENCY).await;
        self.set_now();
        let view = self.store.exchange(report).await;
        sleep(LATENCY).await;
        view
    }

    async fn leave(&mut self, member: &MemberId) -> Result<(), StoreError> {
        self.set_now();
        self.store.leave(member).await
    }

    fn server(&self) -> Option<&str> {
        None
    }

    fn disconnect(&mut self) {
        self.store.disconnect();
    }
}

impl Fleet {
    /// One balancer without a fleet.
    pub(super) fn alone() -> Self {
        let mut fleet = Self::new(SharedLimits::Fast, Faults::default());
        fleet.members.push(Member::new());
        fleet
    }

    /// Members that have joined and know each other.
    pub(super) async fn start(members: usize, mode: SharedLimits) -> Self {
        let mut fleet = Self::new(mode, Faults::default());
        fleet.add(members).await;
        fleet
    }

    pub(super) async fn with_faults(members: usize, mode: SharedLimits, faults: Faults) -> Self {
        let mut fleet = Self::new(mode, faults);
        fleet.add(members).await;
        fleet
    }

    fn new(mode: SharedLimits, faults: Faults) -> Self {
        Self {
            server: MemoryServer::with_faults(faults),
            members: Vec::new(),
            start: net::now().into(),
            mode,
            next_id: 0,
        }
    }

    pub(super) async fn add(&mut self, members: usize) {
        for _ in 0..members {
            self.members.push(Member::new());
            self.join(self.members.len() - 1);
        }
        millis(300).await;
    }

    /// Kills a member and starts it again.
    pub(super) fn crash(&mut self, number: usize) {
        self.members[number].kill();
        self.members[number] = Member::new();
        self.join(number);
    }

    /// Joins again before the old membership ends, as a reload does that changes `[fleet]`.
    pub(super) fn rejoin(&mut self, number: usize) {
        let old = self.members[number].running.take();
        self.join(number);
        if let Some((shared, task)) = old {
            shared.leave();
            task.abort();
        }
        // `Shared::leave` reports that the process is in no fleet, until the next answer.
    }

    pub(super) fn join(&mut self, number: usize) {
        let member = &mut self.members[number];
        let settings = ClientSettings {
            secret: Secret::new(SECRET),
            mode: self.mode,
            ask_timeout: Duration::from_millis(20),
        };
        let fleet = FleetSettings::new(NAME, Secret::new(SECRET));
        let mut store = Delayed {
            store: self.server.connect(&fleet),
            server: self.server.clone(),
            start: self.start,
        };
        self.next_id += 1;
        let size = NonZeroU32::new(fleet.size).unwrap();
        let shared = Arc::new(Shared::new(
            MemberId::new("lb", self.next_id),
            Machine::new(size, fleet.gone_after, net::now()),
            Arc::clone(&member.membership),
            Arc::clone(&member.wake),
            Vec::from_iter(member.admission.join(settings)),
        ));
        let exchanging = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            exchange::run(&mut store, &exchanging, pending::<()>()).await;
        });
        member.running = Some((shared, task));
    }
}

impl Member {
    fn new() -> Self {
        let membership = Arc::new(SharedMembership::new(net::now()));
        let wake = Arc::<Wake>::default();
        let (state, waker) = (Arc::clone(&membership), Arc::clone(&wake));
        Self {
            admission: Arc::new(ClientAdmission::new(net::now(), state, waker)),
            membership,
            wake,
            running: None,
        }
    }

    pub(super) async fn admit(
        &self,
        client: &ClientId,
        limits: &Limits,
    ) -> Result<Permit, ClientRefusal> {
        match self.admission.admit(client, limits, net::now())? {
            ClientDecision::Admitted(permit) => Ok(permit),
            ClientDecision::Ask(ask) => ask.wait().await,
        }
    }

    /// Stops to accept connections, as the predecessor in an upgrade does.
    pub(super) fn begin_leaving(&self) {
        if let Some((shared, _)) = &self.running {
            shared.begin_leaving();
        }
    }

    /// Ends the exchange without a trace, as SIGKILL does.
    pub(super) fn kill(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    /// Ends the membership as a reload without `[fleet]` does. The store is not told.
    pub(super) fn leave(&mut self) {
        if let Some((shared, task)) = self.running.take() {
            shared.leave();
            task.abort();
        }
    }
}

pub(super) async fn millis(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

/// A rate with its burst, and a maximum of concurrent connections.
pub(super) fn limits(rate: Option<(f64, u32)>, max_conns: Option<u32>) -> Limits {
    let rate = rate.and_then(|(rate, burst)| RateLimit::new(rate, NonZeroU32::new(burst)?));
    Limits::default()
        .rate(rate)
        .max_conns(max_conns.and_then(NonZeroU32::new))
}
