//! The life of one connection, top to bottom.
//!
//! Nothing is dialled before the client is known, authorized and admitted; the
//! types of each step are the proof that the step before was taken. Whatever
//! ends a connection on the way is a reason in its [`Record`].
//!
//! Most of a connection's life is relaying, so what only other phases need is
//! boxed: a task is as large as its largest phase, for all of its life.

use std::{
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use leastconn::{
    Lease, Permit, Reason, Refusal,
    net::{self, ConnectError, Stream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Sleep, sleep_until, timeout},
};

use crate::{
    config::Senders,
    identity::{Ambiguous, Certificate, Peer},
    listener::Listener,
    metrics::Counted,
    policy::Denied,
    proxy_protocol::{self, ClientTls, Endpoints, Headed, Header, ReceiveError, Version},
    record::Record,
    tls::{self, Clues, Failed, TlsStream},
    upstream::ServerStream,
};

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
    peer: SocketAddr,
    start: Instant,
    listener: Arc<Listener>,
    mut record: Record,
) {
    let deadline = start + listener.timeouts.handshake;
    if let Some(senders) = &listener.senders {
        let announced = announced(&mut socket, peer.ip(), senders, deadline, &record);
        if let Err(ended) = Box::pin(announced).await {
            // There is no protocol yet in which to say good-bye.
            return record.end(ended.reason, ended.detail.as_deref());
        }
    }
    let peer_ip = record.live().source().ip().to_canonical();
    if listener.tls.is_none() {
        let peer = Peer {
            source: peer_ip,
            certificate: None,
        };
        return carry(socket, peer, &listener, &mut record).await;
    }
    match Box::pin(handshake(socket, deadline, &listener, &mut record)).await {
        Ok(mut stream) => match identify(&mut stream, peer_ip) {
            Ok(peer) => carry(stream, peer, &listener, &mut record).await,
            Err(ambiguous) => {
                record.end(ambiguous.reason(), Some(&ambiguous.to_string()));
                Box::pin(close_politely(stream)).await;
            }
        },
        Err((ended, socket)) => {
            if let Some(clues) = ended.clues {
                record.handshake_failed(clues);
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
    peer: IpAddr,
    senders: &Senders,
    deadline: Instant,
    record: &Record,
) -> Result<(), Ended> {
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
    let mut taken = Vec::new();
    let header = phase(
        record,
        pin!(sleep_until(deadline.into())),
        Reason::HandshakeTimeout,
        proxy_protocol::receive(socket, &mut taken),
    )
    .await;
    let header = header.map_err(|ended| Ended {
        detail: (ended.reason == Reason::HandshakeTimeout)
            .then(|| proxy_protocol::late(taken.len())),
        ..ended
    })?;
    if let Header::Proxied(ends) = header? {
        record.live().announce(ends);
    }
    Ok(())
}

/// TLS, within the deadline. A client waits for a turn only once it has said
/// hello, so silent sockets keep nobody else from theirs.
async fn handshake(
    mut socket: TcpStream,
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
    let hello = phase(
        record,
        deadline.as_mut(),
        Reason::HandshakeTimeout,
        tls::read_hello(&mut socket),
    )
    .await;
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(failed)) => return Err((failed.into(), Some(socket))),
        Err(ended) => return Err((ended, None)),
    };
    record.server_name(hello.server_name());
    let turn = phase(
        record,
        deadline.as_mut(),
        Reason::Overloaded,
        listener.handshakes.acquire(),
    )
    .await;
    // The semaphore is never closed, so its own error does not occur.
    let _turn = turn.map_err(|ended| (ended, None))?;
    let accepted = tls::accept(socket, hello, server);
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

fn identify(stream: &mut TlsStream, source: IpAddr) -> Result<Peer, Ambiguous> {
    let certificate = stream
        .take_peer_certificate()
        .map(|leaf| Certificate::from_der(&leaf))
        .transpose()?;
    Ok(Peer {
        source,
        certificate,
    })
}

/// From an identified client to the end: authorize, admit, connect, relay.
async fn carry<S: Client>(mut stream: S, peer: Peer, listener: &Listener, record: &mut Record) {
    let admitting = admit(&peer, stream.socket(), listener, record);
    let (mut upstream, _lease, _permit) = match Box::pin(admitting).await {
        Ok(admitted) => admitted,
        Err(ended) => {
            record.end(ended.reason, ended.detail.as_deref());
            return Box::pin(close_politely(stream)).await;
        }
    };
    let live = record.live();
    let timeouts = listener.relay_timeouts();
    let relayed = net::relay(&mut stream, &mut upstream, &timeouts, &live.traffic);
    let reason = match live.unless_stopped(relayed).await {
        Ok(reason) => reason,
        Err(reason) => {
            // Cut off in the middle: neither side may take it for the end.
            stream.abort();
            upstream.abort();
            reason
        }
    };
    let trouble = upstream.trouble();
    record.end(reason, trouble.filter(|_| reason == Reason::ServerReset));
}

async fn admit(
    peer: &Peer,
    socket: &TcpStream,
    listener: &Listener,
    record: &mut Record,
) -> Result<(ServerStream, Lease, Permit), Ended> {
    let serial = peer
        .certificate
        .as_ref()
        .map(|certificate| certificate.serial.clone());
    record.identified(peer.identity(), serial);
    let matched = listener.state.policy.identify(peer)?;
    record.matched(matched.client().into(), matched.identity().clone());
    let grant = matched.grant(&listener.routing, record.sni())?;
    record.routed(grant.upstream().pool().id().clone());
    let permit = listener
        .limiter
        .admit(grant.identity(), grant.limits(), net::now())?;
    let (pool, candidates) = grant.servers(&permit);
    let start = net::now();
    let upstream = grant.upstream();
    let header = upstream.proxy_protocol();
    let header = header.map(|version| header_for(version, peer, socket, record));
    let step = Headed::new(header.transpose()?, upstream.opening());
    let connecting = net::connect_with(pool, candidates, upstream.connect_policy(), &step);
    let connected = record.live().unless_stopped(connecting).await?;
    let took = net::now().saturating_duration_since(start);
    match connected {
        Ok(connected) => {
            record.connected(Some(&connected.lease), connected.attempts, took);
            Ok((connected.stream, connected.lease, permit))
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
    peer: &Peer,
    socket: &TcpStream,
    record: &Record,
) -> Result<Vec<u8>, Ended> {
    let live = record.live();
    let ends = match live.announced() {
        Some(&ends) => ends,
        None => {
            let local = socket.local_addr().map_err(|error| Ended {
                reason: Reason::ClientReset,
                detail: Some(error.to_string()),
                clues: None,
            })?;
            Endpoints::new(live.source(), local)
        }
    };
    let certificate = peer.certificate.as_ref();
    let tls = record.tls().map(|(version, cipher)| ClientTls {
        version,
        cipher,
        resumed: record.is_resumed(),
        certificate: certificate.is_some(),
        cn: certificate.and_then(|certificate| certificate.cn.as_deref()),
        server_name: record.sni(),
    });
    Ok(version.proxied(ends, tls.as_ref()))
}

/// A client's side of a connection, with or without TLS.
trait Client: Stream {
    /// The TCP connection.
    fn socket(&self) -> &TcpStream;
}

impl Client for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Client for TlsStream {
    fn socket(&self) -> &TcpStream {
        self.socket()
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
        std::io::Result::Ok(())
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
    ($($error:ty),+) => {$(
        impl From<$error> for Ended {
            fn from(error: $error) -> Self {
                Self { reason: error.reason(), detail: Some(error.to_string()), clues: None }
            }
        }
    )+};
}

ended_from!(ReceiveError, Denied, Refusal, ConnectError);

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
mod tests {
    #[test]
    fn a_connection_s_task_is_small() {
        fn size<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(super::serve);
        assert!(
            size <= 2560,
            "{size} bytes: box what relaying does not need"
        );
    }
}
