//! The simulation: processes events in chronological order, with the library's pools.

mod balancer;
mod event;

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use leastconn::{
    Balance, Displaced, Failure, Lease, PickRequest, PoolError, Tried, Waiting, backoff::Backoff,
};

use crate::{
    meter::{Meter, Outcome},
    random::Random,
    site::{Change, Condition, Sharing, Site},
    workload::Arrival,
};
use balancer::{Balancer, Count};
use event::{ConnectionId, Event, Events};

/// Time to establish a connection to a working server, and time until a refusal arrives.
pub const ROUND_TRIP: Duration = Duration::from_micros(500);

/// Simulates `arrivals` at `site` with one balancing algorithm. The same arguments give the
/// same outcome.
///
/// # Errors
/// If the site has no servers.
pub fn simulate(
    site: &Site,
    arrivals: &[Arrival],
    balance: Balance,
    seed: u64,
) -> Result<Outcome, PoolError> {
    let mut simulation = Simulation::new(site, arrivals, balance, seed)?;
    while let Some((now, event)) = simulation.events.next() {
        if now > site.duration {
            break;
        }
        simulation.now = now;
        simulation.handle(event)?;
        simulation.serve_queues();
    }
    Ok(simulation.meter.finish(site.duration))
}

struct Simulation<'a> {
    site: &'a Site,
    arrivals: &'a [Arrival],
    now: Duration,
    events: Events,
    balancers: Vec<Balancer>,
    /// The last report of each balancer.
    reports: Vec<Vec<Count>>,
    conditions: Vec<Condition>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// The connections that wait in a queue.
    queued: BTreeMap<ConnectionId, (Connection, Pin<Box<Waiting>>)>,
    next_id: ConnectionId,
    meter: Meter,
    jitter: Random,
}

/// A connection from its arrival to its end.
struct Connection {
    arrival: Arrival,
    tried: Tried,
    backoff: Backoff,
    state: State,
}

enum State {
    /// The connection waits before the next attempt.
    Waiting,
    Dialling {
        lease: Lease,
        server: usize,
        began: Duration,
    },
    Open {
        lease: Lease,
        server: usize,
        began: Duration,
        /// Whether the server serves the client.
        is_served: bool,
    },
}

impl<'a> Simulation<'a> {
    fn new(
        site: &'a Site,
        arrivals: &'a [Arrival],
        balance: Balance,
        seed: u64,
    ) -> Result<Self, PoolError> {
        let balancers = (0..site.balancers)
            .map(|number| {
                Balancer::new(
                    site,
                    number,
                    balance,
                    Random::new(seed, 100 + number as u64).next_u64(),
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut events = Events::default();
        if let Some(first) = arrivals.first() {
            events.add(first.at, Event::Arrival(0));
        }
        for (position, change) in site.changes.iter().enumerate() {
            events.add(change.at, Event::Change(position));
        }
        if let Some(check) = site.policy.check {
            for balancer in 0..site.balancers {
                for server in 0..site.servers.len() {
                    let probe = Event::Probe { balancer, server };
                    let offset = check
                        .interval
                        .mul_f64(server as f64 / site.servers.len() as f64);
                    events.add(offset, probe);
                }
            }
        }
        if let Sharing::Counts { every, .. } = site.sharing {
            for balancer in 0..site.balancers {
                let offset = every.mul_f64(balancer as f64 / site.balancers as f64);
                events.add(offset, Event::Exchange { balancer });
            }
        }
        let weights = site.servers.iter().map(|server| server.weight.get().into());
        let is_member = site.servers.iter().map(|server| server.is_member);
        Ok(Self {
            site,
            arrivals,
            now: Duration::ZERO,
            events,
            balancers,
            reports: vec![vec![Count::default(); site.servers.len()]; site.balancers],
            conditions: vec![Condition::Up; site.servers.len()],
            connections: BTreeMap::new(),
            queued: BTreeMap::new(),
            next_id: 0,
            meter: Meter::new(
                weights.collect(),
                is_member.collect(),
                site.warm_up,
                site.watched,
            ),
            jitter: Random::new(seed, 4),
        })
    }

    fn handle(&mut self, event: Event) -> Result<(), PoolError> {
        match event {
            Event::Arrival(position) => {
                if let Some(next) = self.arrivals.get(position + 1) {
                    self.events.add(next.at, Event::Arrival(position + 1));
                }
                if self.meter.is_measuring(self.now) {
                    self.meter.outcome.connections += 1;
                }
                self.accept(self.arrivals[position]);
            }
            Event::Reconnect(arrival) => self.accept(arrival),
            Event::Retry(id) => self.retry(id),
            Event::QueueTimeout(id) => {
                if self.queued.remove(&id).is_some() {
                    self.count_refused();
                }
            }
            Event::Dialled(id) => self.dialled(id),
            Event::FirstByte(id) => self.first_byte(id),
            Event::End(id) => self.end(id),
            Event::Probe { balancer, server } => self.probe(balancer, server),
            Event::Probed {
                balancer,
                server,
                success,
            } => {
                let name = &self.site.servers[server].name;
                self.balancers[balancer].probed(name, success);
            }
            Event::Exchange { balancer } => self.exchange(balancer),
            Event::Change(position) => self.change(position)?,
        }
        Ok(())
    }

    fn accept(&mut self, arrival: Arrival) {
        let id = self.next_id;
        self.next_id += 1;
        let connection = Connection {
            arrival,
            tried: Tried::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            state: State::Waiting,
        };
        self.dial(id, connection);
    }

    /// Picks a server and dials it. If there is none, the client waits or is refused.
    fn dial(&mut self, id: ConnectionId, connection: Connection) {
        let balancer = &self.balancers[connection.arrival.balancer];
        let attempts_left = connection.tried.len() <= self.site.policy.retries as usize;
        let request = PickRequest::new(balancer.instant(self.now))
            .tried(&connection.tried)
            .source(connection.arrival.source);
        let lease = if attempts_left {
            balancer.pick(&request)
        } else {
            None
        };
        match lease {
            Some(lease) => self.dial_leased(id, connection, lease),
            None => self.wait_or_refuse(id, connection),
        }
    }

    fn dial_leased(&mut self, id: ConnectionId, mut connection: Connection, lease: Lease) {
        let server = self.balancers[connection.arrival.balancer].position(&lease);
        self.meter.opened(self.now, server);
        let delay = match self.conditions[server] {
            Condition::Unreachable => self.site.policy.connect_timeout,
            _ => ROUND_TRIP,
        };
        self.events.add(self.now + delay, Event::Dialled(id));
        connection.state = State::Dialling {
            lease,
            server,
            began: self.now,
        };
        self.connections.insert(id, connection);
    }

    fn wait_or_refuse(&mut self, id: ConnectionId, mut connection: Connection) {
        let policy = &self.site.policy;
        let arrival = connection.arrival;
        if connection.tried.is_empty()
            && let Some(waiting) =
                self.balancers[arrival.balancer].enqueue(arrival.source, self.now)
        {
            let deadline = self.now + policy.queue.timeout;
            self.events.add(deadline, Event::QueueTimeout(id));
            self.queued.insert(id, (connection, Box::pin(waiting)));
            return;
        }
        let delay = connection.backoff.next_delay(self.jitter.next_u64());
        let deadline = connection.arrival.at + policy.retry_for;
        let may_recover = self.balancers[connection.arrival.balancer].may_recover();
        if may_recover && self.now + delay <= deadline {
            self.events.add(self.now + delay, Event::Retry(id));
            connection.tried = Tried::default();
            connection.state = State::Waiting;
            self.connections.insert(id, connection);
        } else {
            self.count_refused();
        }
    }

    fn count_refused(&mut self) {
        if self.meter.is_measuring(self.now) {
            self.meter.outcome.refused += 1;
        }
    }

    /// Dials for the connections to which the queue has assigned a server.
    fn serve_queues(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let is_ready =
            |(&id, (_, waiting)): (&ConnectionId, &mut (Connection, Pin<Box<Waiting>>))| {
                match waiting.as_mut().poll(&mut context) {
                    Poll::Ready(result) => Some((id, result)),
                    Poll::Pending => None,
                }
            };
        let ready: Vec<_> = self.queued.iter_mut().filter_map(is_ready).collect();
        for (id, result) in ready {
            let Some((connection, _)) = self.queued.remove(&id) else {
                continue;
            };
            match result {
                Ok(lease) => self.dial_leased(id, connection, lease),
                Err(Displaced) => self.count_refused(),
            }
        }
    }

    fn retry(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.dial(id, connection);
        }
    }

    /// The server has answered the connect, or the connect has timed out.
    fn dialled(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        let State::Dialling {
            mut lease,
            server,
            began,
        } = connection.state
        else {
            return;
        };
        let balancer = &self.balancers[connection.arrival.balancer];
        let condition = self.conditions[server];
        let policy = &self.site.policy;
        let (hold, is_served) = match condition {
            Condition::Refusing | Condition::Unreachable => {
                lease
                    .server()
                    .connect_failed(balancer.instant(began), balancer.instant(self.now));
                self.meter.closed(self.now, server);
                connection.tried.add(lease);
                connection.state = State::Waiting;
                self.dial(id, connection);
                return;
            }
            Condition::Up => {
                let slowness = self.site.servers[server].slowness;
                (connection.arrival.hold.mul_f64(slowness), true)
            }
            Condition::ClosingAtOnce => (2 * ROUND_TRIP, false),
            Condition::Frozen => (policy.client_timeout, false),
        };
        lease.connected();
        lease.server().connect_succeeded();
        if is_served {
            let first_byte = self.now + hold.min(ROUND_TRIP);
            self.events.add(first_byte, Event::FirstByte(id));
        }
        self.meter.accepted(self.now, connection.arrival.at, server);
        self.events.add(self.now + hold, Event::End(id));
        connection.state = State::Open {
            lease,
            server,
            began: self.now,
            is_served,
        };
        self.connections.insert(id, connection);
    }

    fn first_byte(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if let State::Open { lease, began, .. } = &connection.state {
            let balancer = &self.balancers[connection.arrival.balancer];
            lease.server().served(balancer.instant(*began));
        }
    }

    fn end(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        let State::Open {
            lease,
            server,
            began,
            is_served,
        } = connection.state
        else {
            return;
        };
        if self.conditions[server] == Condition::Frozen && is_served {
            // The frozen server no longer answers, so the client waits for its timeout.
            let timeout = self.now + self.site.policy.client_timeout;
            self.events.add(timeout, Event::End(id));
            connection.state = State::Open {
                lease,
                server,
                began,
                is_served: false,
            };
            self.connections.insert(id, connection);
            return;
        }
        if !is_served && self.meter.is_measuring(self.now) {
            self.meter.outcome.failed += 1;
        }
        if !is_served && self.conditions[server] == Condition::ClosingAtOnce {
            let balancer = &self.balancers[connection.arrival.balancer];
            let (established, now) = (balancer.instant(began), balancer.instant(self.now));
            let failure = Failure::new(SystemTime::UNIX_EPOCH, &"closed at once");
            lease.server().failed_early(established, now, failure);
        }
        drop(lease);
        self.meter.closed(self.now, server);
    }

    fn probe(&mut self, balancer: usize, server: usize) {
        let Some(check) = self.site.policy.check else {
            return;
        };
        let (success, delay) = match self.conditions[server] {
            Condition::Up => (true, ROUND_TRIP),
            Condition::Refusing => (false, ROUND_TRIP),
            Condition::Unreachable => (false, check.timeout),
            Condition::ClosingAtOnce => (!check.expects_answer, 2 * ROUND_TRIP),
            Condition::Frozen if check.expects_answer => (false, check.timeout),
            Condition::Frozen => (true, ROUND_TRIP),
        };
        let probed = Event::Probed {
            balancer,
            server,
            success,
        };
        self.events.add(self.now + delay, probed);
        let next = Event::Probe { balancer, server };
        self.events.add(self.now + check.interval, next);
    }

    fn exchange(&mut self, balancer: usize) {
        let Sharing::Counts { every, has_echo } = self.site.sharing else {
            return;
        };
        self.reports[balancer] = self.balancers[balancer].report(self.now);
        let others = self.reports.iter().enumerate();
        let others = others.filter(|(number, _)| *number != balancer);
        let none = vec![Count::default(); self.site.servers.len()];
        let sums = others.fold(none, |sums, (_, report)| {
            sums.iter().zip(report).map(|(&a, &b)| a + b).collect()
        });
        self.balancers[balancer].apply(&sums, has_echo);
        let next = Event::Exchange { balancer };
        self.events.add(self.now + every, next);
    }

    fn change(&mut self, position: usize) -> Result<(), PoolError> {
        let change = self.site.changes[position];
        match change.change {
            Change::Condition(condition) => self.conditions[change.server] = condition,
            Change::Crash => {
                self.conditions[change.server] = Condition::Refusing;
                self.disconnect(change.server);
            }
            Change::Join => {
                self.meter.joined(self.now, change.server);
                for balancer in &mut self.balancers {
                    balancer.join(self.site, change.server)?;
                }
            }
        }
        Ok(())
    }

    /// Ends all connections of a server. Their clients reconnect for the remaining time.
    fn disconnect(&mut self, failed: usize) {
        let is_on_failed = |connection: &Connection| matches!(connection.state, State::Open { server, .. } if server == failed);
        let ids: Vec<_> = self
            .connections
            .iter()
            .filter_map(|(&id, connection)| is_on_failed(connection).then_some(id))
            .collect();
        for id in ids {
            let Some(connection) = self.connections.remove(&id) else {
                continue;
            };
            let State::Open { began, .. } = connection.state else {
                continue;
            };
            self.meter.closed(self.now, failed);
            let arrival = Arrival {
                at: self.now + ROUND_TRIP,
                hold: connection.arrival.hold.saturating_sub(self.now - began),
                ..connection.arrival
            };
            self.events.add(arrival.at, Event::Reconnect(arrival));
        }
    }
}
