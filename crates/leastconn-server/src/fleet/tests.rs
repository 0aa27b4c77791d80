//! The exchange with a scripted store, in paused time.

use std::{
    collections::VecDeque, future::pending, num::NonZeroU32, sync::Arc, time::Duration,
    time::Instant,
};

use leastconn_fleet::{
    Counts, MemberId, MemberStatus, MemberView, Report, ServerKey, SlotReport, Store, StoreError,
    View,
};
use tokio::time::{Instant as TokioInstant, sleep};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{shared::Shared, state::Machine, *};

/// What the store does with an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// After a millisecond.
    Good,
    Error,
    Never,
}

#[derive(Debug)]
struct Scripted {
    answer: watch::Receiver<Answer>,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    /// When exchanges began, in milliseconds since the start of the test.
    exchanges: VecDeque<u64>,
    answered: u32,
    status: MemberStatus,
    left: u32,
}

impl Store for Scripted {
    async fn exchange(&mut self, report: &Report) -> Result<View, StoreError> {
        {
            let mut log = self.log.lock();
            log.exchanges.push_back(elapsed());
            log.status = report.status;
        }
        let answer = *self.answer.borrow();
        match answer {
            Answer::Good => sleep(Duration::from_millis(1)).await,
            Answer::Error => return Err(StoreError::Unavailable("connection refused".to_owned())),
            Answer::Never => pending().await,
        }
        self.log.lock().answered += 1;
        let other = |name, status| MemberView {
            id: MemberId::new(name, 1),
            status,
            last_heard: Duration::ZERO,
            counts: Arc::<Counts>::default(),
            facts: None,
        };
        Ok(View {
            members: vec![
                other("lb2", MemberStatus::Serving),
                other("lb3", MemberStatus::Leaving),
            ],
            ..View::default()
        })
    }

    async fn leave(&mut self, _member: &MemberId) -> Result<(), StoreError> {
        self.log.lock().left += 1;
        Ok(())
    }

    fn server(&self) -> Option<&str> {
        None
    }

    fn disconnect(&mut self) {}
}

thread_local! {
    static START: TokioInstant = leastconn::net::now().into();
}

fn elapsed() -> u64 {
    START.with(|start| u64::try_from(start.elapsed().as_millis()).unwrap())
}

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn record(&self, event: impl Into<String>) {
        self.0.lock().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Participant for Recorder {
    fn report(&self, _report: &mut Report, _now: Instant) {}

    fn apply(&self, exchange: &Exchange<'_>) {
        self.record(format!("apply {}", exchange.members));
    }

    fn failed(&self, _report: &Report) {
        self.record("failed");
    }

    fn cut_off(&self, members: NonZeroU32) {
        self.record(format!("cut off {members} at {}", elapsed()));
    }

    fn forget_others(&self) {
        self.record(format!("forget at {}", elapsed()));
    }

    fn leave(&self) {
        self.record("leave");
    }
}

struct Running {
    shared: Arc<Shared>,
    membership: Arc<SharedMembership>,
    recorder: Arc<Recorder>,
    answer: watch::Sender<Answer>,
    log: Arc<Mutex<Log>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn start(answer: Answer) -> Running {
    let now = leastconn::net::now();
    START.with(|_| {});
    let membership = Arc::new(SharedMembership::new(now));
    let recorder = Arc::new(Recorder::default());
    let size = NonZeroU32::new(5).unwrap();
    let shared = Arc::new(Shared::new(
        MemberId::new("lb1", 0),
        Machine::new(size, Duration::from_secs(3), now),
        Arc::clone(&membership),
        Arc::default(),
        vec![Arc::clone(&recorder) as Arc<dyn Participant>],
    ));
    let (answer, receiver) = watch::channel(answer);
    let log = Arc::<Mutex<Log>>::default();
    let mut store = Scripted {
        answer: receiver,
        log: Arc::clone(&log),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let member = Arc::clone(&shared);
    let task = tokio::spawn(async move { exchange::run(&mut store, &member, stopped).await });
    Running {
        shared,
        membership,
        recorder,
        answer,
        log,
        stop,
        task,
    }
}

impl Running {
    fn exchanges(&self) -> Vec<u64> {
        std::mem::take(&mut self.log.lock().exchanges).into()
    }

    fn membership(&self) -> Membership {
        self.membership.get(leastconn::net::now())
    }
}

/// Sleeps until `millis` after the start of the test.
async fn until(millis: u64) {
    let time = START.with(|start| *start) + Duration::from_millis(millis);
    tokio::time::sleep_until(time).await;
}

fn members(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

#[tokio::test(start_paused = true)]
async fn exchanges_at_intervals_and_earlier_after_changes() {
    let running = start(Answer::Good);
    until(250).await;
    assert_eq!(running.exchanges(), [0, 100, 200]);
    assert_eq!(
        running.membership(),
        Membership::Joined {
            members: members(2),
            can_ask: true
        }
    );
    // A change is reported at once if the last exchange is long ago, then every 10 ms.
    running.shared.wake().changed();
    until(253).await;
    running.shared.wake().changed();
    until(263).await;
    assert_eq!(running.exchanges(), [250, 260]);
    // A waiting client needs an answer at once, but not more often than every 2 ms.
    running.shared.wake().changed();
    running.shared.wake().urgent();
    until(264).await;
    assert_eq!(running.exchanges(), [263]);
    running.shared.wake().urgent();
    until(300).await;
    assert_eq!(running.exchanges(), [265]);
}

#[tokio::test(start_paused = true)]
async fn silent_store_cuts_the_member_off_and_back() {
    let running = start(Answer::Good);
    until(150).await;
    running.recorder.take();
    running.exchanges();
    running.answer.send_replace(Answer::Never);
    until(5_000).await;
    let exchanges = running.exchanges();
    // The exchange at 200 ms fails after 250 ms; the later ones have to connect.
    assert_eq!(exchanges[0], 200);
    assert!((450..=500).contains(&exchanges[1]), "{exchanges:?}");
    assert!(exchanges.len() >= 4, "{exchanges:?}");
    let mut events = running.recorder.take();
    events.dedup();
    let expected = [
        "failed",
        "cut off 2 at 1100",
        "failed",
        "forget at 3100",
        "failed",
    ];
    assert_eq!(events, expected);
    let members = members(2);
    assert_eq!(running.membership(), Membership::CutOff { members });

    running.answer.send_replace(Answer::Good);
    until(7_000).await;
    let can_ask = true;
    assert_eq!(
        running.membership(),
        Membership::Joined { members, can_ask }
    );
    let since = running.shared.status().since;
    let rejoined = since - START.with(|start| start.into_std());
    assert!(rejoined < Duration::from_millis(6_600), "{rejoined:?}");
    assert_eq!(running.shared.status().error, None);
}

#[tokio::test(start_paused = true)]
async fn unreachable_store_leaves_the_configured_size() {
    let running = start(Answer::Error);
    until(900).await;
    let members = members(5);
    assert_eq!(running.membership(), Membership::CutOff { members });
    assert_eq!(running.shared.status().state, FleetState::Joining);
    until(1_050).await;
    assert_eq!(running.shared.status().state, FleetState::CutOff);
    // Retries slow down to one in 250 to 500 ms.
    running.exchanges();
    until(11_050).await;
    let retries = running.exchanges().len();
    assert!((20..=42).contains(&retries), "{retries}");
}

#[derive(Debug)]
struct OneSlot;

impl Participant for OneSlot {
    fn report(&self, report: &mut Report, _now: Instant) {
        report.slots.push(SlotReport {
            server: ServerKey::new("web", "a"),
            max: 1,
            want: 1,
            open: 0,
        });
    }

    fn apply(&self, _exchange: &Exchange<'_>) {}
}

#[test]
fn report_after_leaving_is_empty() {
    let now = leastconn::net::now();
    let shared = Shared::new(
        MemberId::new("lb1", 0),
        Machine::new(members(2), Duration::from_secs(3), now),
        Arc::new(SharedMembership::new(now)),
        Arc::default(),
        vec![Arc::new(OneSlot)],
    );
    assert_eq!(shared.report(now).slots.len(), 1);
    shared.leave();
    assert_eq!(shared.report(now).slots, []);
}

#[tokio::test(start_paused = true)]
async fn failed_exchange_ends_waiting_before_the_cut_off() {
    let running = start(Answer::Good);
    until(50).await;
    running.answer.send_replace(Answer::Error);
    until(110).await;
    let can_ask = false;
    let members = members(2);
    assert_eq!(
        running.membership(),
        Membership::Joined { members, can_ask }
    );
    assert_eq!(running.recorder.take().last().unwrap(), "failed");
}

/// Before that, it reports itself as leaving.
#[tokio::test(start_paused = true)]
async fn leaving_member_is_removed_at_the_end() {
    let running = start(Answer::Good);
    until(50).await;
    assert_eq!(running.log.lock().status, MemberStatus::Serving);
    running.shared.begin_leaving();
    until(52).await;
    assert_eq!(running.log.lock().status, MemberStatus::Leaving);
    let _ = running.stop.send(());
    running.task.await.unwrap();
    assert_eq!(running.log.lock().left, 1);
}

#[tokio::test(start_paused = true)]
async fn decision_after_a_pause_cuts_off_by_itself() {
    let running = start(Answer::Good);
    until(50).await;
    running.recorder.take();
    // Stop the exchanges, as if the process were paused.
    running.task.abort();
    until(1_000).await;
    let (membership, shared) = (Arc::clone(&running.membership), Arc::clone(&running.shared));
    let member = FleetMember::without_thread(membership, shared);
    member.fence(leastconn::net::now());
    assert_eq!(running.recorder.take(), ["cut off 2 at 1000"]);
    member.fence(leastconn::net::now());
    assert!(running.recorder.take().is_empty());
    assert_eq!(running.shared.status().state, FleetState::CutOff);
}

/// The connection can then be used for leaving.
#[tokio::test(start_paused = true)]
async fn exchange_is_finished_before_leaving() {
    let running = start(Answer::Good);
    until(150).await;
    running.shared.wake().urgent();
    // The exchange takes a millisecond.
    tokio::task::yield_now().await;
    assert_eq!(running.log.lock().exchanges.len(), 3);
    assert_eq!(running.log.lock().answered, 2);
    let _ = running.stop.send(());
    running.task.await.unwrap();
    let log = running.log.lock();
    assert_eq!((log.answered, log.left), (3, 1));
}
