//! One connection, from accept to the access log.
//!
//! Each step needs the result of the previous step: dialling a server requires a [`Grant`] from
//! [`authorize`](crate::authorization::authorize) and a [`Permit`] from the client's limits. Every
//! connection ends with one reason code in its [`AccessRecord`].
//!
//! A task is as large as its largest future, and a connection spends most of its lifetime relaying.
//! The futures of all other phases are therefore boxed.

pub mod acceptor;
pub mod access_record;
mod deadline;
mod ended;
mod proxy_header;
mod proxy_protocol;
pub mod reaper;
pub mod reauthorize;

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use leastconn::{
    Lease, Permit,
    net::{self, Attempts, Connect, RelayPolicy, Stream},
};
use leastconn_config::StartTls;
use leastconn_tls::{TlsStream, client_chain::Unreadable};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};

use crate::{
    authorization::shadow,
    context::{ConnectionSlot, ServerContext},
    fleet::clients::{ClientDecision, ClientRefusal},
    policy::Grant,
    reason_code::ReasonCode,
    snapshot::{Listener, Snapshot},
    starttls,
    telemetry::metrics::GaugeGuard,
    upstream::{ServerStream, WithProxyHeader},
};
use access_record::AccessRecord;
use deadline::before_deadline;
use ended::Ended;
use reauthorize::{authorize_new, reauthorize};

/// Serves an accepted socket until it is closed. `listener` must belong to `snapshot`. The slot of
/// the process is held until then.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn stores each argument twice, in every open connection"
)]
pub fn serve(
    mut socket: TcpStream,
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
    context: Arc<ServerContext>,
    mut record: AccessRecord,
    slot: ConnectionSlot,
) -> impl Future<Output = ()> {
    async move {
        // Part of the future, so that it is dropped with it.
        let _ = &slot;
        let deadline = record.accepted_at() + listener.timeouts.handshake;
        if let Some(proxies) = &listener.trusted_proxies {
            let header =
                proxy_protocol::receive_client_address(&mut socket, proxies, deadline, &record);
            if let Err(ended) = Box::pin(header).await {
                // No alert can be sent before the TLS handshake starts.
                return record.end(ended.reason, ended.detail.as_deref());
            }
            // Check the rate here, because the client's address was not known when the socket was
            // accepted.
            let source = record.connection().source().ip();
            if let Err(error) = listener.check_source_rate(source, net::now()) {
                record.end(error.reason(), Some(&error.to_string()));
                return socket.abort();
            }
        }
        if listener.tls.is_none() {
            return proxy(socket, snapshot, listener, context, &mut record).await;
        }
        let accepted = accept_tls(socket, deadline, &listener, &context, &mut record);
        if let Some(stream) = Box::pin(accepted).await {
            proxy(stream, snapshot, listener, context, &mut record).await;
        }
    }
}

/// Performs the TLS handshake. If it fails, ends the record, closes the connection and returns
/// `None`.
async fn accept_tls(
    socket: TcpStream,
    deadline: Instant,
    listener: &Listener,
    context: &ServerContext,
    record: &mut AccessRecord,
) -> Option<TlsStream> {
    match handshake(socket, deadline, listener, context, record).await {
        Ok(stream) => Some(stream),
        Err((ended, stream)) => {
            record.end_handshake(ended.reason, ended.detail.as_deref(), ended.diagnostics);
            match stream {
                Some(FailedStream::Tcp(mut socket)) => lingering_close(&mut socket).await,
                Some(FailedStream::Tls(mut stream)) => lingering_close(&mut stream).await,
                None => {}
            }
            None
        }
    }
}

/// The stream of a failed handshake, kept so that the client can read the alert.
enum FailedStream {
    Tcp(TcpStream),
    Tls(TlsStream),
}

/// Performs the TLS handshake before `deadline`. The client gets a permit from the handshake
/// scheduler only after it has sent its ClientHello, so silent sockets do not delay handshakes.
async fn handshake(
    mut socket: TcpStream,
    deadline: Instant,
    listener: &Listener,
    context: &ServerContext,
    record: &mut AccessRecord,
) -> Result<TlsStream, (Ended, Option<FailedStream>)> {
    let Some(server) = &listener.tls else {
        return Err((ReasonCode::HandshakeFailed.into(), None));
    };
    let _active = GaugeGuard::new(&listener.metrics.handshakes);
    // Use one timer for all steps: re-arming a timer in each step would cost CPU time.
    let mut deadline = pin!(sleep_until(deadline.into()));
    let mut received = Vec::new();

    if listener.starttls == StartTls::Postgres {
        let request = starttls::postgres::negotiate(&mut socket, &mut received);
        let answered = before_deadline(
            record,
            deadline.as_mut(),
            ReasonCode::HandshakeTimeout,
            pin!(request),
        )
        .await;
        match answered {
            Ok(Ok(())) => received.clear(),
            Ok(Err(error)) => return Err((error.into(), Some(FailedStream::Tcp(socket)))),
            Err(ended) => return Err((ended.after_partial_hello(&received), None)),
        }
    }

    let hello = leastconn_tls::read_hello(&mut socket, &mut received);
    let hello = before_deadline(
        record,
        deadline.as_mut(),
        ReasonCode::HandshakeTimeout,
        pin!(hello),
    )
    .await;
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(failed)) => return Err((failed.into(), Some(FailedStream::Tcp(socket)))),
        Err(ended) => return Err((ended.after_partial_hello(&received), None)),
    };
    if let Some(sni) = hello.server_name() {
        record.connection().set_sni(sni);
    }

    let source = listener.source_net(record.connection().source_ip());
    let permit = context
        .handshakes
        .acquire(source, &listener.metrics.waiting);
    let permit = pin!(permit);
    let permit = before_deadline(record, deadline.as_mut(), ReasonCode::Overloaded, permit)
        .await
        .map_err(|ended| (ended, None))?;

    let accept = pin!(leastconn_tls::accept(socket, hello, server, &permit));
    let accepted = before_deadline(record, deadline, ReasonCode::HandshakeTimeout, accept).await;
    let mut stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err((failed, socket))) => {
            return Err((failed.into(), Some(FailedStream::Tcp(socket))));
        }
        Err(ended) => return Err((ended, None)),
    };
    let (version, cipher) = leastconn_tls::negotiated(&stream);
    record.handshake_done(version, cipher, stream.is_resumed());
    record.set_alpn(stream.alpn());

    if let Some(chain) = stream.take_peer_chain() {
        match context.chains.intern(chain) {
            Ok(chain) => record.connection().set_chain(chain),
            Err(Unreadable { error, chain }) => {
                let ended = Ended::ambiguous(error, chain.first());
                return Err((ended, Some(FailedStream::Tls(stream))));
            }
        }
    }
    Ok(stream)
}

/// Authorizes the client, connects to a server and relays until the end.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn stores each argument twice, in every open connection"
)]
fn proxy<S: Stream>(
    mut stream: S,
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
    context: Arc<ServerContext>,
    record: &mut AccessRecord,
) -> impl Future<Output = ()> {
    async move {
        // `connect` takes ownership of the snapshot, because a long-lived connection must not keep old
        // rules and upstreams alive.
        let connecting = connect_or_close(&mut stream, snapshot, listener, &context, record);
        let Some(mut connected) = Box::pin(connecting).await else {
            return;
        };
        let connection = record.connection();
        let ended = {
            let (server, policy) = (&mut connected.stream, &connected.relay);
            let (lease, traffic) = (&connected.lease, &connection.traffic);
            let relay = pin!(net::relay_leased(
                &mut stream,
                server,
                lease,
                policy,
                traffic
            ));
            connection.unless_stopped(relay).await
        };
        let (reason, detail) = match ended {
            Ok(outcome) => (outcome.reason.into(), ended::relay_detail(&outcome)),
            Err(reason) => {
                // Reset both connections, so that neither peer mistakes this for an orderly close.
                stream.abort();
                connected.stream.abort();
                (reason, ended::stop_detail(reason))
            }
        };
        // Release the lease and the permit before the access record ends: a client that reads the log
        // may reconnect immediately, and must not be refused because its previous connection is still
        // counted.
        drop(connected);
        record.end(reason, detail.as_deref());
    }
}

/// An established connection to a server.
struct Connected {
    stream: ServerStream,
    lease: Lease,
    _permit: Permit,
    relay: RelayPolicy,
}

/// Connects the client to a server. If that fails, ends the record, closes the client's connection
/// and returns `None`.
async fn connect_or_close<S: Stream>(
    stream: &mut S,
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
    context: &ServerContext,
    record: &mut AccessRecord,
) -> Option<Connected> {
    match connect(stream, snapshot, listener, context, record).await {
        Ok(connected) => Some(connected),
        Err(ended) => {
            record.end_handshake(ended.reason, ended.detail.as_deref(), ended.diagnostics);
            lingering_close(stream).await;
            None
        }
    }
}

async fn connect<S: Stream>(
    stream: &mut S,
    snapshot: Arc<Snapshot>,
    listener: Arc<Listener>,
    context: &ServerContext,
    record: &mut AccessRecord,
) -> Result<Connected, Ended> {
    let (snapshot, listener, grant) = authorize_newest(snapshot, listener, context, record)?;
    let permit = admit(stream, &grant, context, record).await?;
    let (pool, selector) = grant.servers(&permit);
    let upstream = grant.upstream();
    let header = upstream.proxy_protocol().map(|version| {
        proxy_protocol::header_for_server(version, stream.socket(), grant.identity(), record)
    });
    let connector = upstream.connector().for_client(record.alpn());
    let step = WithProxyHeader::new(header.transpose()?, connector);

    let start = net::now();
    let attempts = Attempts::default();
    let policy = upstream.connect_policy();
    let dial = Connect::new(pool, selector, policy)
        .source(record.connection().source().ip())
        .client(grant.identity())
        .prepare(&step)
        .attempts(&attempts)
        .run();
    let dial = pin!(dial);
    let connected = tokio::select! {
        biased;
        connected = record.connection().unless_stopped(dial) => connected.map_err(Ended::from),
        departed = net::departed(stream) => Err(departed.into()),
        () = drained_while_queued(&attempts, context) => Err(ReasonCode::Drained.into()),
    };
    record.set_queued(attempts.queued());
    let took = net::now().saturating_duration_since(start);
    let took = took.saturating_sub(attempts.queued().unwrap_or_default());
    let connected = connected.inspect_err(|_| record.connect_failed(attempts.get()))?;
    let connected = connected.map_err(|error| {
        record.connect_failed(error.attempts());
        Ended::from(error)
    })?;
    record.connected(&connected.lease, connected.attempts, took);
    // If a reload ran while this task was connecting, it did not know the server yet.
    let newest = context.snapshots.load();
    if newest.generation != snapshot.generation {
        let metrics = &context.telemetry.metrics;
        let now = jiff::Timestamp::now();
        if let Some(reason) = reauthorize(record.connection(), &newest, metrics, now) {
            return Err(reason.into());
        }
    }
    record.connection().set_max_lifetime(listener.max_lifetime);
    let mut relay = listener.relay_policy();
    relay.server_keepalive = upstream.keepalive();
    Ok(Connected {
        stream: connected.stream,
        lease: connected.lease,
        _permit: permit,
        relay,
    })
}

/// Admits the client. In a fleet, waits for the store if the client is near a limit.
async fn admit<S: Stream>(
    stream: &mut S,
    grant: &Grant,
    context: &ServerContext,
    record: &AccessRecord,
) -> Result<Permit, Ended> {
    let clients = &context.clients;
    let now = net::now();
    // This also covers the servers that are picked next.
    context.member.fence(now);
    let limits = grant.limits();
    let max_conns = limits.max_conns;
    let refused = |refusal: ClientRefusal| Ended::client_limit(&refusal, max_conns);
    let decision = clients.admit(grant.identity(), limits, now);
    match decision.map_err(refused)? {
        ClientDecision::Admitted(permit) => Ok(permit),
        ClientDecision::Ask(ask) => {
            let answer = pin!(ask.wait());
            tokio::select! {
                biased;
                permit = record.connection().unless_stopped(answer) => permit?.map_err(refused),
                departed = net::departed(stream) => Err(departed.into()),
            }
        }
    }
}

/// Completes when draining begins while the connection waits in its upstream's queue: a client that
/// has no server yet can then connect to another balancer immediately.
///
/// Costs nothing unless the connection waits. Must be polled after the future that connects.
async fn drained_while_queued(attempts: &Attempts, context: &ServerContext) {
    let mut draining = None;
    poll_fn(|cx| {
        if !attempts.is_waiting() {
            return Poll::Pending;
        }
        let draining = draining.get_or_insert_with(|| Box::pin(context.lifecycle.draining()));
        draining.as_mut().poll(cx)
    })
    .await;
}

/// Authorizes the client under the snapshot with which it was accepted, and authorizes it again if
/// that snapshot is no longer the newest. The documentation of [`mod@reauthorize`] explains why no
/// reload is missed.
fn authorize_newest(
    mut snapshot: Arc<Snapshot>,
    mut listener: Arc<Listener>,
    context: &ServerContext,
    record: &mut AccessRecord,
) -> Result<(Arc<Snapshot>, Arc<Listener>, Grant), Ended> {
    let metrics = &context.telemetry.metrics;
    // Evaluate shadow rules only once: a retry under a newer snapshot must not count the connection
    // against the limits of a shadow rule again.
    let input = record.connection().auth_input();
    let now = jiff::Timestamp::now();
    let shadow = shadow::evaluate(&snapshot, &input, context.clients.limiters(), now);
    record.set_shadow(shadow);
    loop {
        let grant = authorize_new(record.connection(), &snapshot, metrics)
            .map_err(|refusal| Ended::refused(&refusal, record.connection()))?;
        if context.snapshots.generation() == snapshot.generation {
            return Ok((snapshot, listener, grant));
        }
        snapshot = context.snapshots.load();
        // A removed listener stays in the snapshot for as long as it has connections.
        let newest = snapshot.listener(&listener.name).map(Arc::clone);
        listener = newest.ok_or(ReasonCode::PolicyChanged)?;
    }
}

/// Lingering close: sends FIN, then reads until the client closes, for at most one second
/// and 64 KiB. Closing with unread bytes would send an RST, which can overtake the alert
/// that tells the client what is wrong.
async fn lingering_close<S: Stream>(stream: &mut S) {
    const MAX_TIME: Duration = Duration::from_secs(1);
    const MAX_BYTES: usize = 64 * 1024;
    let _ = timeout(MAX_TIME, async {
        stream.shutdown().await?;
        // On the heap: this future is part of those for the handshake and for connecting.
        let mut ignored = vec![0; 4096];
        let mut total = 0;
        while total < MAX_BYTES {
            match stream.read(&mut ignored).await? {
                0 => break,
                count => total += count,
            }
        }
        io::Result::Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests;
