//! Clients that connect at given times and hold their connections.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Duration};

use leastconn_sim::workload::Arrival;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
    time::{Instant, sleep, sleep_until, timeout},
};

/// The first byte that is sent on each connection.
const HELLO: u8 = b'E';

/// Outcomes of the clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) served: u64,
    /// Connections that were closed or reset without an answer.
    pub(super) failed: u64,
    /// Clients that got no answer in time.
    pub(super) timed_out: u64,
    /// The longest time from connect to answer.
    pub(super) longest_wait: Duration,
}

impl Tally {
    pub(super) fn clients(&self) -> u64 {
        self.served + self.failed + self.timed_out
    }
}

/// How clients behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// How long a client waits for an answer.
    pub(super) answer_timeout: Duration,
    /// Results of clients that arrive before this time are not counted.
    pub(super) warm_up: Duration,
}

impl Clients {
    /// Starts each client at its arrival time. Each arrival selects a balancer. The returned
    /// results are complete once the last client has finished.
    pub(super) fn start(
        self,
        arrivals: Vec<Arrival>,
        balancers: Vec<SocketAddr>,
    ) -> Rc<RefCell<Tally>> {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let results = Rc::clone(&tally);
        let start = Instant::now();
        spawn_local(async move {
            for arrival in arrivals {
                sleep_until(start + arrival.at).await;
                let address = balancers[arrival.balancer % balancers.len()];
                let tally = (arrival.at >= self.warm_up).then(|| Rc::clone(&tally));
                spawn_local(self.connect(address, arrival.hold, tally));
            }
        });
        results
    }

    /// Opens a connection and keeps it open for `hold`. If the connection ends early, the client
    /// reconnects for the remaining time.
    async fn connect(self, address: SocketAddr, hold: Duration, tally: Option<Rc<RefCell<Tally>>>) {
        let mut left = hold;
        loop {
            let began = Instant::now();
            let result = open(address, self.answer_timeout).await;
            if let Some(tally) = &tally {
                let mut tally = tally.borrow_mut();
                match &result {
                    Ok(_) => tally.served += 1,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => tally.timed_out += 1,
                    Err(_) => tally.failed += 1,
                }
                tally.longest_wait = tally.longest_wait.max(began.elapsed());
            }
            let Ok(mut stream) = result else {
                return;
            };
            let established = Instant::now();
            let mut byte = [0];
            tokio::select! {
                () = sleep(left) => return,
                _ = stream.read(&mut byte) => {}
            }
            left = left.saturating_sub(established.elapsed());
        }
    }
}

async fn open(address: SocketAddr, answer_timeout: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    greet(&mut stream, answer_timeout).await?;
    Ok(stream)
}

/// Sends the first byte and waits for the server's number.
///
/// # Errors
/// If the connection ends without an answer, or if there is no answer in time.
pub(super) async fn greet(stream: &mut TcpStream, answer_timeout: Duration) -> io::Result<u8> {
    stream.write_all(&[HELLO]).await?;
    timeout(answer_timeout, stream.read_u8())
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}
