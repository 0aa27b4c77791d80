//! Limits under loss, delay, duplication, restarts of the store and crashes of members.

use std::future::Future;

use leastconn_fleet::{
    Batch, ClientKey, ClientReport, FleetSettings, MemberId, MemberStatus, Report,
};
use proptest::prelude::*;

use super::*;
use crate::fleet::Membership;

const RATE: f64 = 20.0;
const BURST: u32 = 20;
const MAX_CONNS: u32 = 8;

#[derive(Clone, Copy, Debug)]
enum Action {
    /// A connection that stays open.
    Open,
    /// The oldest connection of the member ends.
    Close,
    /// The process of the member is killed and started again.
    Crash,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    wait: u64,
    member: usize,
    action: Action,
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![3 => Just(0), 3 => 0..10_u64, 1 => 10..300_u64];
    let action = prop_oneof![
        60 => Just(Action::Open),
        40 => Just(Action::Close),
        1 => Just(Action::Crash),
    ];
    (wait, 0..8_usize, action).prop_map(|(wait, member, action)| Step {
        wait,
        member,
        action,
    })
}

/// Faults of the network and the members.
fn network() -> impl Strategy<Value = Faults> {
    let rare = || prop_oneof![Just(0.0), 0.0..0.15];
    (any::<u64>(), rare(), rare(), rare(), rare()).prop_map(
        |(seed, lost, answer_lost, duplicated, delayed)| Faults {
            seed,
            lost,
            answer_lost,
            duplicated,
            delayed,
            max_delay: Duration::from_millis(500),
            ..Faults::default()
        },
    )
}

/// Also those of the store.
fn all_faults() -> impl Strategy<Value = Faults> {
    (network(), 0.0..0.02, 0.0..0.02).prop_map(|(network, restart, failover)| Faults {
        restart,
        failover,
        replication: 0.2,
        ..network
    })
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test)
}

struct Run {
    fleet: Fleet,
    open: Vec<Vec<Permit>>,
    admitted: u32,
    crashes: u32,
    most_open: usize,
    start: Instant,
    /// Member seconds without the store.
    cut_off: f64,
}

impl Run {
    async fn new(members: usize, mode: SharedLimits, faults: Faults) -> Self {
        Self {
            fleet: Fleet::with_faults(members, mode, faults).await,
            open: (0..members).map(|_| Vec::new()).collect(),
            admitted: 0,
            crashes: 0,
            most_open: 0,
            start: net::now(),
            cut_off: 0.0,
        }
    }

    async fn step(&mut self, step: Step, limits: &Limits) {
        let before = net::now();
        millis(step.wait).await;
        let member = step.member % self.open.len();
        match step.action {
            Action::Open => {
                let permit = self.fleet.members[member].admit(&alice(), limits).await;
                if let Ok(permit) = permit {
                    self.open[member].push(permit);
                    self.admitted += 1;
                }
            }
            Action::Close if self.open[member].is_empty() => {}
            Action::Close => drop(self.open[member].remove(0)),
            Action::Crash => {
                self.fleet.crash(member);
                self.open[member].clear();
                self.crashes += 1;
                // Until the first answer, the share of the member applies.
                millis(20).await;
            }
        }
        let elapsed = (net::now() - before).as_secs_f64();
        for member in &self.fleet.members {
            if let Membership::CutOff { .. } = member.membership.get(net::now()) {
                self.cut_off += elapsed;
            }
        }
        self.most_open = self.most_open.max(self.total());
    }

    fn total(&self) -> usize {
        self.open.iter().map(Vec::len).sum()
    }

    /// The open connections that the store knows.
    fn stored(&self) -> u32 {
        let secret = Secret::new(fleet::SECRET);
        let client = ClientReport {
            client: ClientKey::new(&secret, alice().as_str()),
            admitted: 0,
            ask: 0,
            rate: 0.0,
            burst: 0,
            max_conns: 1,
            open: 0,
            used: None,
        };
        let report = Report {
            batch: Some(Arc::new(Batch {
                number: 1,
                clients: vec![client],
            })),
            ..Report::new(MemberId::new("observer", 0), MemberStatus::Leaving)
        };
        let settings = FleetSettings::new(fleet::NAME, secret);
        let view = self.fleet.server.connect(&settings).exchange_now(&report);
        view.unwrap().clients[0].others_open
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rate_is_bounded_under_faults(
        members in 2..5_usize, exact: bool, faults in network(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mode = if exact { SharedLimits::Exact } else { SharedLimits::Fast };
        paused(async {
            let mut run = Run::new(members, mode, faults).await;
            let limits = limits(Some((RATE, BURST)), None);
            for step in steps {
                run.step(step, &limits).await;
                let seconds = (net::now() - run.start).as_secs_f64();
                let share = f64::from(BURST.div_ceil(members as u32));
                // A crash loses the tokens that were not reported.
                let shares = members as f64 + f64::from(run.crashes);
                let alone = run.cut_off * RATE / members as f64;
                let bound = f64::from(BURST) + RATE * seconds + shares * share + alone;
                prop_assert!(f64::from(run.admitted) <= bound, "{} in {seconds} s", run.admitted);
            }
            Ok(())
        })?;
    }

    #[test]
    fn open_connections_are_bounded_under_faults(
        members in 2..5_usize, exact: bool, faults in network(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mode = if exact { SharedLimits::Exact } else { SharedLimits::Fast };
        paused(async {
            let mut run = Run::new(members, mode, faults).await;
            let limits = limits(None, Some(MAX_CONNS));
            for step in steps {
                run.step(step, &limits).await;
            }
            let share = MAX_CONNS.div_ceil(members as u32);
            let bound = MAX_CONNS + (members as u32 - 1) * share;
            prop_assert!(run.most_open <= bound as usize, "{} open", run.most_open);
            Ok(())
        })?;
    }

    #[test]
    fn limits_are_bounded_when_the_store_restarts(
        members in 2..5_usize, exact: bool,
        steps in prop::collection::vec((step(), 0..60_u32), 1..400),
    ) {
        let mode = if exact { SharedLimits::Exact } else { SharedLimits::Fast };
        paused(async {
            let mut run = Run::new(members, mode, Faults::default()).await;
            let limits = limits(Some((RATE, BURST)), Some(MAX_CONNS));
            let (count, mut restarts) = (members as u32, 0.0);
            for (step, restart) in steps {
                if restart == 0 {
                    run.fleet.server.restart_empty();
                    restarts += 1.0;
                }
                if matches!(step.action, Action::Crash) {
                    continue;
                }
                run.step(step, &limits).await;
                let seconds = (net::now() - run.start).as_secs_f64();
                let share = f64::from(BURST.div_ceil(count));
                // After a restart, one share of the burst is free, and each member may admit a
                // connection that it has not reported.
                let after_restarts = restarts * (share + f64::from(count));
                let bound = f64::from(BURST) + RATE * seconds + f64::from(count) * share;
                let most = bound + after_restarts;
                prop_assert!(f64::from(run.admitted) <= most, "{} in {seconds} s", run.admitted);
            }
            let bound = MAX_CONNS + (count - 1) * MAX_CONNS.div_ceil(count);
            prop_assert!(run.most_open <= bound as usize, "{} open", run.most_open);
            Ok(())
        })?;
    }

    #[test]
    fn exact_limits_hold_without_faults(
        members in 2..5_usize,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        paused(async {
            let mut run = Run::new(members, SharedLimits::Exact, Faults::default()).await;
            let limits = limits(Some((RATE, BURST)), Some(MAX_CONNS));
            for step in steps {
                // A crashed member leaves its connections in the store, which is safe.
                run.step(step, &limits).await;
                let seconds = (net::now() - run.start).as_secs_f64();
                let bound = f64::from(BURST) + RATE * seconds;
                prop_assert!(f64::from(run.admitted) <= bound, "{} in {seconds} s", run.admitted);
                prop_assert!(run.total() <= MAX_CONNS as usize);
            }
            Ok(())
        })?;
    }

    #[test]
    fn counts_are_true_after_the_faults(
        members in 2..5_usize, exact: bool, faults in all_faults(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mode = if exact { SharedLimits::Exact } else { SharedLimits::Fast };
        paused(async {
            let mut run = Run::new(members, mode, faults).await;
            let limits = limits(Some((RATE, BURST)), Some(MAX_CONNS));
            for step in steps {
                run.step(step, &limits).await;
            }
            run.fleet.server.stop_faults();
            millis(25_000).await;
            prop_assert_eq!(run.stored() as usize, run.total());
            run.open.clear();
            millis(5_000).await;
            prop_assert_eq!(run.stored(), 0);
            prop_assert_eq!(run.fleet.server.clients(), 0, "no key is left");
            millis(60_000).await;
            for member in &run.fleet.members {
                member.admission.limiters.forget_idle(net::now());
                prop_assert!(member.admission.limiters.is_empty());
            }
            Ok(())
        })?;
    }
}
