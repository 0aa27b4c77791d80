//! A load session opens connections, runs workers on them, and counts the workers' operations
//! during a period.

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
    LoadError, Mode, Spec, Target,
    client::Connection,
    schedule::Schedule,
    shared::Shared,
    tally::Tally,
    work::{self, Worker},
};

/// Maximum number of connections that are opened concurrently.
const OPENERS: usize = 64;

/// A running load. On drop, the load stops and its connections are closed.
#[derive(Debug)]
pub struct Session {
    shared: Rc<Shared>,
    workers: JoinSet<()>,
    /// Connections of mode `idle`, which has no workers.
    idle: Vec<Connection>,
    began: Cell<Instant>,
    open: usize,
}

impl Session {
    /// Opens the connections, and starts the workers.
    ///
    /// # Errors
    /// If a connection cannot be opened.
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
            schedule: Schedule::new(now, spec.rate),
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
        session.spawn_workers(connections);
        Ok(session)
    }

    fn spawn_workers(&mut self, connections: Vec<Connection>) {
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

    /// Starts counting operations. Errors are counted even before this call.
    pub fn start_counting(&self) {
        self.began.set(Instant::now());
        self.shared.counting.set(true);
    }

    /// Whether the number of operations in [`Spec::count`] has been reached.
    pub fn is_done(&self) -> bool {
        self.shared.stop.get()
    }

    /// Waits until [`Self::is_done`].
    pub async fn done(&self) {
        if !self.is_done() {
            self.shared.done.notified().await;
        }
    }

    /// Formats the progress line.
    pub fn progress(&self, end: Instant) -> String {
        let tally = self.shared.tally.borrow();
        let seconds = self.began.get().elapsed().as_secs_f64().max(1e-3);
        let errors: u64 = tally.errors.values().sum();
        let rate = if tally.operations > 0 {
            format!("{:.0}/s", tally.operations as f64 / seconds)
        } else {
            format!("{:.1} MiB/s", tally.bytes as f64 / seconds / 1_048_576.0)
        };
        let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
        format!("{left:.0} s left: {rate}, {errors} errors")
    }

    /// Stops counting, and returns the counts. The load continues until the session is
    /// stopped or dropped.
    pub fn stop_counting(&self) -> Tally {
        self.shared.counting.set(false);
        let negotiated = self.shared.tally.borrow().negotiated.clone();
        let mut tally = self.shared.tally.replace(Tally::default());
        self.shared.tally.borrow_mut().negotiated = negotiated;
        tally.elapsed = self.began.get().elapsed();
        tally.open = self.open;
        tally
    }

    /// Stops the load. Operations in progress are completed, but streams are aborted.
    pub async fn stop(mut self) {
        const GRACE: Duration = Duration::from_secs(2);
        self.shared.stop.set(true);
        if !self.shared.spec.mode.is_stream() {
            let _ = timeout(GRACE, async {
                while self.workers.join_next().await.is_some() {}
            })
            .await;
        }
        self.workers.shutdown().await;
    }

    /// Stops counting, and then stops the load.
    pub async fn finish(self) -> Tally {
        let tally = self.stop_counting();
        self.stop().await;
        tally
    }
}

/// Opens all connections, several of them at a time.
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
            // Stop after a few failures, because the remaining connections would probably also
            // time out.
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
