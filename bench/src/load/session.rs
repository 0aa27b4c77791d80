//! A session of load: connections are opened, workers use them, and a period of
//! it is counted.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Duration, Instant, timeout},
};

use super::{
    LoadError, Mode,
    client::{Connection, Failure, Target},
    pace::Pace,
    tally::Tally,
    work::{self, Worker},
};

/// Connections that are being opened at the same time.
const OPENERS: usize = 64;

/// What load.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What the connections do.
    pub mode: Mode,
    /// How many there are.
    pub connections: usize,
    /// On how many of them at the same time something is going on: each worker
    /// goes round its share.
    pub busy: usize,
    /// Bytes of an echo.
    pub size: usize,
    /// Operations a second; `None`: as many as there can be.
    pub rate: Option<f64>,
    /// Of each worker, after each echo.
    pub pause: Option<Duration>,
    /// At most so many operations in the period that is counted.
    pub count: Option<u64>,
}

/// What the workers share. All of it lives in one thread.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: Target,
    pub(super) spec: Spec,
    pub(super) payload: Vec<u8>,
    pub(super) pace: Pace,
    pub(super) stop: Cell<bool>,
    counting: Cell<bool>,
    tally: RefCell<Tally>,
    done: Notify,
}

impl Shared {
    /// An operation has ended well; counts it if the period has begun.
    pub(super) fn succeeded(&self, took: Duration, bytes: u64) {
        if !self.counting.get() {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        tally.succeeded(took, bytes);
        self.check_count(&tally);
    }

    /// The next to succeed went on with a TLS session of before.
    pub(super) fn resumed(&self) {
        if self.counting.get() {
            self.tally.borrow_mut().resumed += 1;
        }
    }

    /// So many bytes of a stream went by.
    pub(super) fn streamed(&self, bytes: u64) {
        if self.counting.get() {
            self.tally.borrow_mut().bytes += bytes;
        }
    }

    /// An operation has failed; that counts at any time.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut tally = self.tally.borrow_mut();
        tally.failed(failure);
        self.check_count(&tally);
    }

    fn check_count(&self, tally: &Tally) {
        let Some(most) = self.spec.count else { return };
        if tally.operations + tally.errors.values().sum::<u64>() >= most {
            self.counting.set(false);
            self.stop.set(true);
            self.done.notify_waiters();
        }
    }
}

/// Load that is going on. Dropping it ends it, and closes the connections.
#[derive(Debug)]
pub struct Session {
    shared: Rc<Shared>,
    workers: JoinSet<()>,
    /// Of mode idle, which has no workers.
    idle: Vec<Connection>,
    began: Cell<Instant>,
    open: usize,
}

impl Session {
    /// Opens the connections, and starts to work on them.
    ///
    /// # Errors
    /// If any of them cannot be opened.
    pub async fn start(target: Target, spec: Spec) -> Result<Self, LoadError> {
        let negotiated = Rc::new(RefCell::new(String::new()));
        let payload: Vec<u8> = (0..spec.size).map(|i| b'a' + (i % 26) as u8).collect();
        let connections = match spec.mode {
            Mode::Connect | Mode::FirstEcho | Mode::Refused | Mode::Stall => Vec::new(),
            _ => open(&target, spec, &payload, &negotiated).await?,
        };
        let mut tally = Tally::default();
        tally.negotiated = negotiated.take();
        let now = Instant::now();
        let shared = Rc::new(Shared {
            target,
            spec,
            payload,
            pace: Pace::new(now, spec.rate),
            stop: Cell::new(false),
            counting: Cell::new(false),
            tally: RefCell::new(tally),
            done: Notify::new(),
        });
        let mut session = Self {
            shared,
            workers: JoinSet::new(),
            idle: Vec::new(),
            began: Cell::new(now),
            open: connections.len(),
        };
        session.put_to_work(connections);
        Ok(session)
    }

    fn put_to_work(&mut self, connections: Vec<Connection>) {
        let spec = self.shared.spec;
        if spec.mode == Mode::Idle {
            self.idle = connections;
            return;
        }
        let count = match spec.mode {
            Mode::Connect | Mode::FirstEcho | Mode::Refused | Mode::Stall => spec.connections,
            _ => spec.busy.clamp(1, spec.connections),
        };
        let mut shares: Vec<Vec<Connection>> = (0..count).map(|_| Vec::new()).collect();
        for (position, connection) in connections.into_iter().enumerate() {
            shares[position % count].push(connection);
        }
        for share in shares {
            let worker = Worker::new(Rc::clone(&self.shared), share);
            self.workers.spawn_local(worker.run());
        }
    }

    /// From now on, it counts. Errors until now count as well.
    pub fn begin(&self) {
        self.began.set(Instant::now());
        self.shared.counting.set(true);
    }

    /// The count that was asked for is reached.
    pub fn is_done(&self) -> bool {
        self.shared.stop.get()
    }

    /// Waits for that.
    pub async fn done(&self) {
        if !self.is_done() {
            self.shared.done.notified().await;
        }
    }

    /// For the progress display.
    pub fn peek(&self, end: Instant) -> String {
        let tally = self.shared.tally.borrow();
        let seconds = self.began.get().elapsed().as_secs_f64().max(1e-3);
        let errors: u64 = tally.errors.values().sum();
        let rate = if tally.operations > 0 {
            format!("{:.0} a second", tally.operations as f64 / seconds)
        } else {
            format!(
                "{:.1} MiB a second",
                tally.bytes as f64 / seconds / 1_048_576.0
            )
        };
        let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
        format!("{left:.0} s left: {rate}, {errors} errors")
    }

    /// Stops counting; load goes on until the session is stopped or dropped.
    pub fn end(&self) -> Tally {
        self.shared.counting.set(false);
        let negotiated = self.shared.tally.borrow().negotiated.clone();
        let mut tally = self.shared.tally.replace(Tally::default());
        self.shared.tally.borrow_mut().negotiated = negotiated;
        tally.elapsed = self.began.get().elapsed();
        tally.open = self.open;
        tally
    }

    /// Ends the load: what has begun is brought to its end, streams are cut.
    pub async fn stop(mut self) {
        const MOMENT: Duration = Duration::from_secs(2);
        self.shared.stop.set(true);
        if !self.shared.spec.mode.is_stream() {
            let _ = timeout(MOMENT, async {
                while self.workers.join_next().await.is_some() {}
            })
            .await;
        }
        self.workers.shutdown().await;
    }

    /// Both.
    pub async fn finish(self) -> Tally {
        let tally = self.end();
        self.stop().await;
        tally
    }
}

/// Opens all connections, several at once.
async fn open(
    target: &Target,
    spec: Spec,
    payload: &[u8],
    negotiated: &Rc<RefCell<String>>,
) -> Result<Vec<Connection>, LoadError> {
    let opened = Rc::new(RefCell::new(Vec::with_capacity(spec.connections)));
    let failures = Rc::new(RefCell::new(Vec::new()));
    let started = Rc::new(Cell::new(0));
    let mut openers = JoinSet::new();
    for _ in 0..OPENERS.min(spec.connections) {
        let (opened, failures, started) = (opened.clone(), failures.clone(), started.clone());
        let (target, payload) = (target.clone(), payload.to_vec());
        openers.spawn_local(async move {
            // After a few failures the rest would fail as well, slowly.
            while started.get() < spec.connections && failures.borrow().len() < 3 {
                started.set(started.get() + 1);
                match work::open(&target, spec.mode, &payload).await {
                    Ok(connection) => opened.borrow_mut().push(connection),
                    Err(failure) => failures.borrow_mut().push(failure),
                }
            }
        });
    }
    while openers.join_next().await.is_some() {}
    if let Some(failure) = failures.borrow().first() {
        let count = spec.connections - opened.borrow().len();
        return Err(LoadError::Open(
            count,
            spec.connections,
            failure.to_string(),
        ));
    }
    let connections = opened.take();
    if let Some(connection) = connections.first() {
        *negotiated.borrow_mut() = connection.negotiated();
    }
    Ok(connections)
}
