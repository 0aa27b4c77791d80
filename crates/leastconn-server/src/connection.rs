//! The life of one connection, top to bottom.
//!
//! Nothing is dialled before the client is known, authorized and admitted; the
//! types of each step are the proof that the step before was taken. Whatever
//! ends a connection on the way is a reason in its [`Record`].
//!
//! Most of a connection's life is relaying, so what only other phases need is
//! boxed: a task is as large as its largest phase, for all of its life.

mod proxy_header;

use std::{
    borrow::Cow,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::{
    Balance, ClientId, Lease, Permit, Reason, Refusal,
    net::{self, Attempts, ConnectError, Departed, RelayOutcome, Stream},
};
use leastconn_proxy_protocol::{ClientTls, Endpoints, Header, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Sleep, sleep_until, timeout},
};

use crate::{
    access_record::Record,
    client_chain::{Presented, Unread},
    config::{Senders, StartTls},
    instead::Instead,
    judge::Refused,
    listener::Listener,
    policy::Grant,
    running::Running,
    starttls::{self, StartTlsError},
    telemetry::metrics::Counted,
    tls::{self, Clues, Failed, TlsStream},
    upstream::{ServerStream, WithProxyHeader},
};
use proxy_header::ReceiveError;

/// A connection ended before anything was relayed.
#[derive(Debug)]
struct Ended {
    reason: Reason,
    detail: Option<String>,
    clues: Option<Box<Clues>>,
}

/// Serves a socket that was accepted at `start`, until its end.
pub async fn serve(
    mut socket: TcpStream,
    start: Instant,
    listener: Arc<Listener>,
    running: Arc<Running>,
    mut record: Record,
) {
    let deadline = start + listener.timeouts.handshake;
    if let Some(senders) = &listener.senders {
        let announced = announced(&mut socket, senders, deadline, &record);
        let source = match Box::pin(announced).await {
            Ok(source) => source,
            // There is no protocol yet in which to say good-bye.
            Err(ended) => return record.end(ended.reason, ended.detail.as_deref()),
        };
        // Whom it counts against was not known before.
        if let Err(error) = listener.admit_source(source, net::now()) {
            record.end(error.reason(), Some(&error.to_string()));
            return socket.abort();
        }
    }
    if listener.tls.is_none() {
        record.identified(None, listener.prefixes);
        return carry(socket, listener, running, &mut record).await;
    }
    let source = record.live().known().seen.source;
    match Box::pin(handshake(socket, source, deadline, &listener, &mut record)).await {
        Ok(mut stream) => match identify(&mut stream, &listener) {
            Ok(presented) => {
                record.identified(presented, listener.prefixes);
                carry(stream, listener, running, &mut record).await;
            }
            Err(Unread { why, chain }) => {
                let leaf = chain.first().map_or(&[][..], |leaf| &**leaf);
                record.refused(Box::new(Clues::of(leaf)));
                record.end(why.reason(), Some(&why.to_string()));
                Box::pin(close_politely(stream)).await;
            }
        },
        Err((ended, socket)) => {
            if let Some(clues) = ended.clues {
                record.refused(clues);
            }
            record.end(ended.reason, ended.detail.as_deref());
            if let Some(socket) = socket {
                Box::pin(close_politely(socket)).await;
            }
        }
    }
}

/// Whose connection it is, from the PROXY header that comes before anything else,
/// within the deadline.
async fn announced(
    socket: &mut TcpStream,
    senders: &Senders,
    deadline: Instant,
    record: &Record,
) -> Result<IpAddr, Ended> {
    let peer = record.live().source().ip();
    if !senders.include(peer) {
        return Err(Ended {
            reason: Reason::HandshakeFailed,
            detail: Some(format!(
                "{} is not in `proxy_protocol_from`",
                peer.to_canonical()
            )),
            clues: None,
        });
    }
    let mut received = Vec::new();
    let header = phase(
        record,
        pin!(sleep_until(deadline.into())),
        Reason::HandshakeTimeout,
        proxy_header::receive(socket, &mut received),
    )
    .await;
    let header = header.map_err(|ended| Ended {
        detail: (ended.reason == Reason::HandshakeTimeout)
            .then(|| proxy_header::timeout_detail(received.len())),
        ..ended
    })?;
    if let Header::Proxied(ends) = header? {
        record.live().announce(ends);
    }
    Ok(record.live().source().ip())
}

/// TLS, within the deadline. A client gets a place only once it has said hello, so
/// silent sockets keep nobody else from theirs.
async fn handshake(
    mut socket: TcpStream,
    source: IpAddr,
    deadline: Instant,
    listener: &Listener,
    record: &mut Record,
) -> Result<TlsStream, (Ended, Option<TcpStream>)> {
    let Some(server) = &listener.tls else {
        return Err((Ended::from(Reason::HandshakeFailed), None));
    };
    let _counted = Counted::new(&listener.metrics.handshakes);
    // One for all steps: setting a timer and taking it back is not for nothing.
    let mut deadline = pin!(sleep_until(deadline.into()));
    let mut received = Vec::new();
    if listener.starttls == StartTls::Postgres {
        let asked = phase(
            record,
            deadline.as_mut(),
            Reason::HandshakeTimeout,
            starttls::postgres::negotiate(&mut socket, &mut received),
        );
        match asked.await {
            Ok(Ok(())) => received.clear(),
            Ok(Err(error)) => return Err((error.into(), Some(socket))),
            Err(ended) => return Err((ended.after(&received), None)),
        }
    }
    let hello = phase(
        record,
        deadline.as_mut(),
        Reason::HandshakeTimeout,
        tls::read_hello(&mut socket, &mut received),
    )
    .await;
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(failed)) => return Err((failed.into(), Some(socket))),
        Err(ended) => return Err((ended.after(&received), None)),
    };
    record.server_name(hello.server_name());
    let place = phase(
        record,
        deadline.as_mut(),
        Reason::Overloaded,
        listener
            .turns
            .enter(listener.source(source), &listener.metrics.waiting),
    )
    .await;
    let place = place.map_err(|ended| (ended, None))?;
    let accepted = tls::accept(socket, hello, server, &place);
    let accepted = phase(
        record,
        deadline.as_mut(),
        Reason::HandshakeTimeout,
        accepted,
    );
    match accepted.await {
        Ok(Ok(stream)) => {
            let (version, cipher) = tls::negotiated(&stream);
            record.handshake_done(version, cipher, stream.is_resumed());
            record.set_alpn(stream.alpn());
            Ok(stream)
        }
        Ok(Err((failed, socket))) => Err((failed.into(), Some(socket))),
        Err(ended) => Err((ended, None)),
    }
}

/// Runs one step, unless the deadline passes or somebody ends the connection.
async fn phase<T>(
    record: &Record,
    deadline: Pin<&mut Sleep>,
    late: Reason,
    step: impl Future<Output = T>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        reason = record.live().stopped() => Err(reason.into()),
        done = step => Ok(done),
        () = deadline => Err(late.into()),
    }
}

fn identify(stream: &mut TlsStream, listener: &Listener) -> Result<Option<Arc<Presented>>, Unread> {
    let chain = stream.take_peer_chain();
    chain.map(|chain| listener.chains.intern(chain)).transpose()
}

/// Why a connection that is open is ended as overloaded.
const SHED: &str =
    "the memory limit is reached (`memory_limit`), and this connection held much buffered data";

/// What a connection is relayed with.
struct Admitted {
    upstream: ServerStream,
    _lease: Lease,
    _permit: Permit,
    relay: net::RelayPolicy,
}

/// From an identified client to the end: authorize, admit, connect, relay.
async fn carry<S: Stream>(
    mut stream: S,
    listener: Arc<Listener>,
    running: Arc<Running>,
    record: &mut Record,
) {
    // The listener goes no further: a connection that lives for long must not keep
    // the rules and the upstreams of its youth.
    let mut admitted = match Box::pin(admit(&mut stream, listener, running, record)).await {
        Ok(admitted) => admitted,
        Err(ended) => {
            record.end(ended.reason, ended.detail.as_deref());
            return Box::pin(close_politely(stream)).await;
        }
    };
    let Admitted {
        upstream, relay, ..
    } = &mut admitted;
    let live = record.live();
    let relaying = net::relay(&mut stream, upstream, relay, &live.traffic);
    let (reason, detail) = match live.unless_stopped(relaying).await {
        Ok(outcome) => (outcome.reason, detail(&outcome)),
        Err(reason) => {
            // Cut off in the middle: neither side may take it for the end.
            stream.abort();
            upstream.abort();
            let shed = reason == Reason::Overloaded;
            (reason, shed.then(|| SHED.to_owned()))
        }
    };
    // Before the record ends: a client that reads it may connect again at once, and
    // must not meet its own lease and permit.
    drop(admitted);
    record.end(reason, detail.as_deref());
}

/// What the access log says of the error that broke a relayed connection, where that
/// is more than the reason says.
fn detail(outcome: &RelayOutcome) -> Option<String> {
    let explained = |error: &&io::Error| {
        error.get_ref().is_some()
            || !matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
    };
    let client = outcome.client_error.as_ref().filter(explained);
    let server = outcome.server_error.as_ref().filter(explained);
    match outcome.reason {
        Reason::ClientReset | Reason::ClientTruncated => client.map(ToString::to_string),
        Reason::ServerReset | Reason::ServerTruncated => server.map(ToString::to_string),
        Reason::TlsError | Reason::HalfCloseTimeout => {
            let client = client.map(|error| format!("client: {error}"));
            client.or_else(|| server.map(|error| format!("server: {error}")))
        }
        _ => None,
    }
}

async fn admit<S: Stream>(
    stream: &mut S,
    listener: Arc<Listener>,
    running: Arc<Running>,
    record: &mut Record,
) -> Result<Admitted, Ended> {
    let (listener, grant) = authorize(listener, &running, record)?;
    let permit = listener
        .limiter
        .admit(grant.identity(), grant.limits(), net::now())?;
    let (pool, candidates) = grant.servers(&permit);
    let candidates = match pool.balance() {
        Balance::SourceHash => Cow::Owned(candidates.from_source(record.live().source().ip())),
        _ => Cow::Borrowed(candidates),
    };
    let start = net::now();
    let upstream = grant.upstream();
    let header = upstream.proxy_protocol();
    let header = header.map(|version| header_for(version, stream.socket(), record));
    let opening = upstream.opening().for_client(record.alpn());
    let step = WithProxyHeader::new(header.transpose()?, opening);
    let (policy, attempts) = (upstream.connect_policy(), Attempts::default());
    let connecting = net::connect_observed(pool, &candidates, policy, &step, &attempts);
    let connected = tokio::select! {
        biased;
        connected = record.live().unless_stopped(connecting) => connected.map_err(Ended::from),
        departed = net::departed(stream) => Err(departed.into()),
    };
    let took = net::now().saturating_duration_since(start);
    let connected = connected.inspect_err(|_| record.connected(None, attempts.get(), took))?;
    match connected {
        Ok(connected) => {
            record.connected(Some(&connected.lease), connected.attempts, took);
            // The rules may have changed before it was known which server it is.
            if running.epoch() != listener.state.epoch {
                record.judged_again(&running)?;
            }
            record.live().lives_for(listener.max_lifetime);
            Ok(Admitted {
                upstream: connected.stream,
                _lease: connected.lease,
                _permit: permit,
                relay: listener.relay_policy(),
            })
        }
        Err(error) => {
            record.connected(None, error.attempts(), took);
            Err(error.into())
        }
    }
}

/// What the server is told of the client before anything else.
fn header_for(
    version: Version,
    socket: Option<&TcpStream>,
    record: &Record,
) -> Result<Vec<u8>, Ended> {
    let live = record.live();
    let known = live.known();
    let presented = known.seen.presented.as_ref();
    let certificate = presented.map(|presented| &presented.certificate);
    let tls = record.tls().map(|(tls_version, cipher)| {
        let mut tls = ClientTls::new(tls_version, cipher);
        tls.resumed = record.is_resumed();
        tls.certificate = certificate.is_some();
        tls.cn = certificate.and_then(|certificate| certificate.cn.as_deref());
        tls.server_name = known.seen.sni.as_deref();
        tls.alpn = record.alpn();
        // An identity by address would only repeat the header's source.
        tls.identity = known
            .identity
            .as_ref()
            .map(ClientId::as_str)
            .filter(|_| certificate.is_some());
        tls.der = presented.map(|presented| &**presented.leaf());
        tls
    });
    let ends = match live.announced() {
        Some(&ends) => ends,
        // It has no addresses.
        None if live.unix().is_some() => return Ok(version.encode_unspecified(tls.as_ref())),
        None => {
            let socket = socket.ok_or(Reason::ClientReset)?;
            let local = socket.local_addr().map_err(|error| Ended {
                reason: Reason::ClientReset,
                detail: Some(error.to_string()),
                clues: None,
            })?;
            Endpoints::new(live.source(), local)
        }
    };
    Ok(version.encode_proxied(ends, tls.as_ref()))
}

/// Judges the client by the newest rules: by those that it came with, and again if
/// they are not the newest any more. See [`crate::judge`] for why none is missed.
fn authorize(
    mut listener: Arc<Listener>,
    running: &Running,
    record: &mut Record,
) -> Result<(Arc<Listener>, Grant), Ended> {
    let mut again = false;
    loop {
        let grant = record.judged(&listener, again)?;
        if running.epoch() == listener.state.epoch {
            return Ok((listener, grant));
        }
        // Kept for as long as it has connections.
        let newest = running.listener(&listener.name);
        listener = newest.ok_or(Reason::PolicyChanged)?;
        again = true;
    }
}

/// Ends our side and waits a moment for the client to end its own: closing with
/// bytes unread would send a reset, which can overtake the alert that tells the
/// client what is wrong.
async fn close_politely<S: Stream>(mut stream: S) {
    const MOMENT: Duration = Duration::from_secs(1);
    const ENOUGH: usize = 64 * 1024;
    let _ = timeout(MOMENT, async {
        stream.shutdown().await?;
        let mut ignored = [0; 2048];
        let mut total = 0;
        while total < ENOUGH {
            match stream.read(&mut ignored).await? {
                0 => break,
                count => total += count,
            }
        }
        io::Result::Ok(())
    })
    .await;
}

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
            clues: None,
        }
    }
}

macro_rules! ended_from {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Ended {
            fn from(error: $error) -> Self {
                Self { reason: error.reason(), detail: Some(error.to_string()), clues: None }
            }
        }
    )+};
}

impl Ended {
    /// Adds what can be said of a client that had sent `received` when its time was over.
    fn after(mut self, received: &[u8]) -> Self {
        if self.reason == Reason::HandshakeTimeout {
            self.detail = Some(match Instead::unless_tls(received) {
                Some(instead) => instead.to_string(),
                None => format!(
                    "the deadline passed in the middle of the ClientHello, after {} bytes",
                    received.len()
                ),
            });
        }
        self
    }
}

ended_from!(
    StartTlsError,
    ReceiveError,
    Refused,
    Refusal,
    ConnectError,
    Departed,
);

impl From<Box<Failed>> for Ended {
    fn from(failed: Box<Failed>) -> Self {
        let detail = failed.to_string();
        let Failed { error, clues } = *failed;
        Self {
            reason: error.reason(),
            detail: Some(detail),
            clues: (clues != Clues::default()).then(|| Box::new(clues)),
        }
    }
}

#[cfg(test)]
mod tests;
