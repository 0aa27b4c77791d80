//! A store in memory, for tests and simulations. It behaves as a Redis server, with a clock that
//! the caller sets, and with faults.

mod faults;
#[cfg(test)]
pub(crate) mod tests;

use std::{future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;

pub use faults::Faults;

use crate::{
    exchange::{Answer, Request, micros},
    member::MemberId,
    report::Report,
    session::Session,
    settings::FleetSettings,
    state::State,
    store::{Store, StoreError},
    view::View,
};
use faults::{Fault, FaultSchedule};

/// The server that members share. Clones are handles of the same server.
#[derive(Clone, Default)]
pub struct MemoryServer {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    state: State,
    /// What a failover falls back to.
    replica: State,
    now: u64,
    /// Grows when the server restarts or fails over, which breaks all connections.
    generation: u64,
    sessions: u64,
    unreachable: bool,
    stalled: bool,
    latency: Duration,
    schedule: FaultSchedule,
    /// Requests that arrive late, with their times.
    delayed: Vec<(u64, Request)>,
}

impl MemoryServer {
    /// A server without faults. Its clock starts at 1,000 s.
    pub fn new() -> Self {
        Self::with_faults(Faults::default())
    }

    /// Faults are drawn from the seed: the same sequence of exchanges has the same faults.
    pub fn with_faults(faults: Faults) -> Self {
        let shared = Shared {
            now: 1_000_000_000,
            schedule: FaultSchedule::new(faults),
            ..Shared::default()
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The connection of one member.
    pub fn connect(&self, settings: &FleetSettings) -> InMemory {
        let id = {
            let mut shared = self.shared.lock();
            shared.sessions += 1;
            shared.sessions
        };
        InMemory {
            server: self.clone(),
            session: Session::new(settings, id),
            generation: 0,
            connected: false,
        }
    }

    /// Time since an arbitrary start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.shared.lock().now)
    }

    /// May also go back, as after the promotion of a replica.
    pub fn set_now(&self, now: Duration) {
        self.shared.lock().now = micros(now);
    }

    pub fn advance(&self, time: Duration) {
        self.shared.lock().now += micros(time);
    }

    /// The request after `number - 1` further ones is lost.
    #[cfg(test)]
    fn lose_request(&self, number: u32) {
        self.shared.lock().schedule.lose(number);
    }

    /// From now on, no faults are drawn.
    pub fn stop_faults(&self) {
        let mut shared = self.shared.lock();
        shared.schedule = FaultSchedule::default();
    }

    /// Loses everything, and breaks all connections.
    pub fn restart_empty(&self) {
        self.shared.lock().restart();
    }

    /// The state that a failover falls back to.
    pub fn replicate(&self) {
        let mut shared = self.shared.lock();
        shared.replica = shared.state.clone();
    }

    /// Loses what was written since the last [`Self::replicate`], and breaks all connections.
    pub fn fail_over(&self) {
        self.shared.lock().fail_over();
    }

    /// While the server is unreachable, exchanges fail at once.
    pub fn set_reachable(&self, reachable: bool) {
        let mut shared = self.shared.lock();
        shared.unreachable = !reachable;
        shared.generation += u64::from(!reachable);
    }

    /// While the server is stalled, exchanges never complete: the caller needs a timeout.
    pub fn set_stalled(&self, stalled: bool) {
        self.shared.lock().stalled = stalled;
    }

    /// Time from the member to the server, and back: each exchange takes twice this time, by
    /// Tokio's clock. Zero, the default, needs no runtime.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// Limited clients that have a key. Clients without connections whose bucket is full have
    /// none.
    pub fn clients(&self) -> usize {
        let shared = self.shared.lock();
        shared.state.clients(shared.now)
    }
}

impl Shared {
    fn restart(&mut self) {
        self.state = State::default();
        self.replica = State::default();
        self.generation += 1;
        self.delayed.clear();
    }

    fn fail_over(&mut self) {
        self.state = self.replica.clone();
        self.generation += 1;
        self.delayed.clear();
    }

    /// `None`: the answer is lost.
    fn execute(&mut self, request: &Request) -> Option<Answer> {
        for fault in self.schedule.server_faults() {
            match fault {
                Fault::Restart => self.restart(),
                Fault::FailOver => self.fail_over(),
                _ => {
                    self.replica = self.state.clone();
                }
            }
        }
        self.apply_delayed();
        let now = self.now;
        match self.schedule.request_fault() {
            None => self.state.apply(now, request).ok(),
            Some(Fault::Delayed(delay)) => {
                self.delayed.push((now + micros(delay), request.clone()));
                None
            }
            Some(Fault::AnswerLost) => {
                let _ = self.state.apply(now, request);
                None
            }
            Some(Fault::Duplicated) => {
                let answer = self.state.apply(now, request).ok();
                let _ = self.state.apply(now, request);
                answer
            }
            Some(_) => None,
        }
    }

    fn apply_delayed(&mut self) {
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(time, _)| *time <= self.now);
        self.delayed = later;
        let mut due: Vec<(u64, Request)> = due;
        due.sort_by_key(|(time, _)| *time);
        for (_, request) in due {
            // A request that arrives after a later one of its member is ignored.
            let _ = self.state.apply(self.now, &request);
        }
    }
}

/// The connection of one member to a [`MemoryServer`].
pub struct InMemory {
    server: MemoryServer,
    session: Session,
    generation: u64,
    connected: bool,
}

impl InMemory {
    /// As [`Store::exchange`], without waiting: latency and stalling do not apply.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] because of a fault.
    pub fn exchange_now(&mut self, report: &Report) -> Result<View, StoreError> {
        self.begin()?;
        let mut request = self.session.request(report);
        loop {
            let answer = self.execute(&request)?;
            self.session.accept(&request, answer);
            match self.session.follow_up(report) {
                Some(next) => request = next,
                None => break,
            }
        }
        self.connected = true;
        Ok(self.session.finish())
    }

    /// Opens the connection, if the last exchange did not succeed.
    fn begin(&mut self) -> Result<(), StoreError> {
        let shared = self.server.shared.lock();
        if shared.unreachable {
            self.connected = false;
            return Err(unavailable("connection refused"));
        }
        if !std::mem::take(&mut self.connected) {
            self.session.disconnected();
            self.generation = shared.generation;
        }
        Ok(())
    }

    fn execute(&mut self, request: &Request) -> Result<Answer, StoreError> {
        let mut shared = self.server.shared.lock();
        if shared.generation != self.generation || shared.unreachable {
            return Err(unavailable("the server closed the connection"));
        }
        let answer = shared.execute(request);
        // A restart or failover may have been drawn.
        let answer = answer.filter(|_| shared.generation == self.generation);
        answer.ok_or_else(|| unavailable("no answer"))
    }
}

impl Store for InMemory {
    async fn exchange(&mut self, report: &Report) -> Result<View, StoreError> {
        let (stalled, latency) = {
            let shared = self.server.shared.lock();
            (shared.stalled, shared.latency)
        };
        if stalled {
            self.connected = false;
            return pending().await;
        }
        if latency.is_zero() {
            return self.exchange_now(report);
        }
        self.begin()?;
        let mut request = self.session.request(report);
        loop {
            tokio::time::sleep(latency).await;
            let answer = self.execute(&request);
            tokio::time::sleep(latency).await;
            self.session.accept(&request, answer?);
            match self.session.follow_up(report) {
                Some(next) => request = next,
                None => break,
            }
        }
        self.connected = true;
        Ok(self.session.finish())
    }

    async fn leave(&mut self, member: &MemberId) -> Result<(), StoreError> {
        self.begin()?;
        let sequence = self.session.leave();
        let mut shared = self.server.shared.lock();
        let now = shared.now;
        shared.state.leave(now, member, sequence);
        drop(shared);
        self.connected = true;
        Ok(())
    }

    fn server(&self) -> Option<&str> {
        self.connected.then_some("in memory")
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.session.deliver_again();
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable(format!("in-memory store: {reason}"))
}
