//! Servers that can fail in different ways. They count the connections of clients, but not those
//! of health checks.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::{Rc, Weak},
    time::Duration,
};

use leastconn_sim::{meter::Meter, meter::Outcome, site::Watched};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, spawn_local},
    time::Instant,
};

/// The first byte of a health check, and the server's answer.
const PROBE: (u8, u8) = (b'P', b'K');

/// How a server treats new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Answers each connection with the number of the server.
    Serve,
    /// Closes each connection immediately.
    Close,
    /// Resets each connection immediately.
    Reset,
}

/// The servers of one balancer.
pub(super) struct Servers {
    servers: Vec<Rc<Server>>,
    log: Rc<Log>,
}

/// Counts the connections to all servers.
struct Log {
    meter: RefCell<Option<(Instant, Meter)>>,
    open: RefCell<Vec<u32>>,
}

struct Server {
    number: u8,
    address: SocketAddr,
    behaviour: Cell<Behaviour>,
    listener: RefCell<Option<Rc<TcpListener>>>,
    accepting: RefCell<Option<AbortHandle>>,
    connections: RefCell<Vec<AbortHandle>>,
    log: Rc<Log>,
}

impl Servers {
    /// Starts servers on loopback.
    ///
    /// # Errors
    /// If a port cannot be bound.
    pub(super) async fn start(count: u8) -> io::Result<Self> {
        let log = Rc::new(Log {
            meter: RefCell::new(None),
            open: RefCell::new(vec![0; count.into()]),
        });
        let mut servers = Vec::new();
        for number in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let server = Rc::new(Server {
                number,
                address: listener.local_addr()?,
                behaviour: Cell::new(Behaviour::Serve),
                listener: RefCell::new(Some(Rc::new(listener))),
                accepting: RefCell::new(None),
                connections: RefCell::new(Vec::new()),
                log: Rc::clone(&log),
            });
            server.accept();
            servers.push(server);
        }
        Ok(Self { servers, log })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// Starts measuring after `warm_up`.
    pub(super) fn measure(&self, warm_up: Duration, watched: Option<Watched>) {
        let count = self.servers.len();
        let mut meter = Meter::new(vec![1.0; count], vec![true; count], warm_up, watched);
        for (server, &open) in self.log.open.borrow().iter().enumerate() {
            for _ in 0..open {
                meter.opened(Duration::ZERO, server);
            }
        }
        *self.log.meter.borrow_mut() = Some((Instant::now(), meter));
    }

    /// Ends the measurement and returns its outcome.
    pub(super) fn finish(&self) -> Outcome {
        let meter = self.log.meter.borrow_mut().take();
        meter.map_or_else(Outcome::default, |(start, meter)| {
            meter.finish(start.elapsed())
        })
    }

    /// Number of open connections.
    pub(super) fn open(&self) -> u32 {
        self.log.open.borrow().iter().sum()
    }

    pub(super) fn set(&self, server: usize, behaviour: Behaviour) {
        self.servers[server].behaviour.set(behaviour);
    }

    /// Stops accepting and serving, like a process that is stopped by SIGSTOP: the kernel still
    /// accepts connections.
    pub(super) fn freeze(&self, server: usize) {
        self.servers[server].stop_accepting();
    }

    /// Closes the listener and all connections, like a process that exits.
    pub(super) fn exit(&self, server: usize) {
        let server = &self.servers[server];
        server.stop_accepting();
        server.listener.borrow_mut().take();
        for connection in server.connections.borrow_mut().drain(..) {
            connection.abort();
        }
    }

    /// Restarts a server that has exited.
    ///
    /// # Errors
    /// If the port cannot be bound.
    pub(super) async fn restart(&self, server: usize) -> io::Result<()> {
        let server = &self.servers[server];
        let listener = TcpListener::bind(server.address).await?;
        *server.listener.borrow_mut() = Some(Rc::new(listener));
        server.accept();
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in 0..self.servers.len() {
            self.exit(server);
        }
    }
}

impl Server {
    fn accept(self: &Rc<Self>) {
        let Some(listener) = self.listener.borrow().clone() else {
            return;
        };
        let server = Rc::downgrade(self);
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(server) = Weak::upgrade(&server) else {
                    return;
                };
                server.start(stream);
            }
        });
        *self.accepting.borrow_mut() = Some(task.abort_handle());
    }

    fn stop_accepting(&self) {
        if let Some(task) = self.accepting.borrow_mut().take() {
            task.abort();
        }
    }

    fn start(self: &Rc<Self>, stream: TcpStream) {
        match self.behaviour.get() {
            Behaviour::Close => return,
            Behaviour::Reset => {
                // An error means that the connection has already ended.
                let _ = stream.set_zero_linger();
                return;
            }
            Behaviour::Serve => {}
        }
        let server = Rc::clone(self);
        let task = spawn_local(async move {
            // Errors caused by clients are not reported.
            let _ = server.serve(stream).await;
        });
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_finished());
        connections.push(task.abort_handle());
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        if byte[0] == PROBE.0 {
            return stream.write_all(&[PROBE.1]).await;
        }
        let _open = Open::new(&self.log, self.number.into());
        stream.write_all(&[self.number]).await?;
        while stream.read(&mut byte).await? != 0 {}
        Ok(())
    }
}

/// Counts a connection as open until dropped.
struct Open<'a> {
    log: &'a Log,
    server: usize,
}

impl<'a> Open<'a> {
    fn new(log: &'a Log, server: usize) -> Self {
        log.open.borrow_mut()[server] += 1;
        log.record(|now, meter| {
            meter.opened(now, server);
            meter.accepted(now, now, server);
        });
        Self { log, server }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.log.open.borrow_mut()[self.server] -= 1;
        self.log.record(|now, meter| meter.closed(now, self.server));
    }
}

impl Log {
    fn record(&self, change: impl FnOnce(Duration, &mut Meter)) {
        if let Some((start, meter)) = &mut *self.meter.borrow_mut() {
            change(start.elapsed(), meter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        balance::client::{Clients, Tally},
        machine,
    };
    use leastconn_sim::workload::{Hold, Workload};
    use tokio::time::sleep;

    /// Runs ten clients that connect directly to the server.
    async fn tally(address: SocketAddr) -> Tally {
        let workload = Workload {
            initial: 10,
            process: None,
            hold: Hold::Fixed(Duration::from_secs(60)),
            sources: 1,
        };
        let clients = Clients {
            answer_timeout: Duration::from_millis(200),
            warm_up: Duration::ZERO,
        };
        let arrivals = workload.arrivals(Duration::from_secs(1), 1, 1);
        let tally = clients.start(arrivals, vec![address]);
        while tally.borrow().clients() < 10 {
            sleep(Duration::from_millis(5)).await;
        }
        *tally.borrow()
    }

    #[test]
    fn servers_fail_as_requested() {
        machine::block_on(async {
            let servers = Servers::start(1).await?;
            let address = servers.addresses()[0];
            assert_eq!(tally(address).await.served, 10);
            assert_eq!(servers.open(), 10);
            for behaviour in [Behaviour::Close, Behaviour::Reset] {
                servers.set(0, behaviour);
                assert_eq!(tally(address).await.failed, 10, "{behaviour:?}");
            }
            servers.set(0, Behaviour::Serve);
            servers.freeze(0);
            assert_eq!(tally(address).await.timed_out, 10);
            servers.exit(0);
            assert_eq!(tally(address).await.failed, 10);
            assert_eq!(servers.open(), 0);
            servers.restart(0).await?;
            assert_eq!(tally(address).await.served, 10);
            io::Result::Ok(())
        })
        .unwrap();
    }
}
