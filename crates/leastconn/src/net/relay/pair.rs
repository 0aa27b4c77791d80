//! Both directions of a relayed connection, and how the end of one direction affects the
//! opposite direction.

use std::{
    task::Context,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    super::{Fault, Stream, set_keepalive},
    OnTruncation, RelayOutcome, Traffic,
    flow::{Flow, Phase, Progress},
};
use crate::Reason;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Both streams and both flows. When the pair is dropped, it aborts each connection whose peer
/// would otherwise mistake the failure for a complete transfer.
pub(super) struct Pair<'a, D: Stream, U: Stream> {
    downstream: &'a mut D,
    upstream: &'a mut U,
    client_to_server: Flow<'a>,
    server_to_client: Flow<'a>,
    on_truncation: OnTruncation,
    /// The side that failed first.
    first: Option<Side>,
    /// Whether a timeout expired after all received data had been delivered. Both sides are then
    /// closed cleanly.
    is_complete: bool,
}

impl<'a, D: Stream, U: Stream> Pair<'a, D, U> {
    pub(super) fn new(
        downstream: &'a mut D,
        upstream: &'a mut U,
        on_truncation: OnTruncation,
        traffic: &'a Traffic,
    ) -> Self {
        let [to_server, to_client] = &traffic.buffered;
        Self {
            downstream,
            upstream,
            client_to_server: Flow::new(&traffic.received, on_truncation, to_server),
            server_to_client: Flow::new(&traffic.sent, on_truncation, to_client),
            on_truncation,
            first: None,
            is_complete: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) {
        let (to_server, to_client) = (&mut self.client_to_server, &mut self.server_to_client);
        to_server.is_opposite_done = to_client.phase == Phase::Done;
        to_server.poll(cx, self.downstream, self.upstream, scratch);
        to_client.is_opposite_done = to_server.phase == Phase::Done;
        to_client.reader_is_gone |= to_server.writer_is_gone;
        to_client.poll(cx, self.upstream, self.downstream, scratch);
        let mut changed = false;
        if to_client.writer_is_gone && !to_server.reader_is_gone {
            to_server.reader_is_gone = true;
            changed = true;
        }
        let [client, server] = self.faults();
        if client.is_some() || server.is_some() || self.is_cut_short() {
            changed |= self.settle(client, server);
        }
        if changed {
            // Both flows were polled before this change, so they must be polled again.
            cx.waker().wake_by_ref();
        }
        self.reset_early();
    }

    /// Resets the connection to a side as soon as nothing more will be sent to it. The relay may
    /// still wait for the opposite side to acknowledge its data.
    fn reset_early(&mut self) {
        let (to_server, to_client) = (&mut self.client_to_server, &mut self.server_to_client);
        if to_server.phase == Phase::Broken && to_client.phase == Phase::Breaking {
            to_server.reset_writer(self.upstream);
        }
        if to_client.phase == Phase::Broken && to_server.phase == Phase::Breaking {
            to_client.reset_writer(self.downstream);
        }
    }

    /// Updates both flows after a fault on either side. Returns whether a flow's phase has changed.
    fn settle(&mut self, client: Option<Fault>, server: Option<Fault>) -> bool {
        let breaks = |fault| match fault {
            Some(Fault::Truncated) => self.on_truncation == OnTruncation::Reset,
            fault => fault.is_some(),
        };
        if self.first.is_none() {
            if breaks(client) {
                self.first = Some(Side::Client);
            } else if breaks(server) {
                self.first = Some(Side::Server);
            }
        }
        let (to_server, to_client) = (&mut self.client_to_server, &mut self.server_to_client);
        let before = (to_server.phase, to_client.phase);
        settle_side(client, to_server, to_client);
        settle_side(server, to_client, to_server);
        before != (to_server.phase, to_client.phase)
    }

    /// Whether a flow has ended without a clean end of its reader.
    fn is_cut_short(&self) -> bool {
        self.client_to_server.is_cut_short() || self.server_to_client.is_cut_short()
    }

    /// Returns the first fault of the client's stream and the first fault of the server's stream.
    fn faults(&self) -> [Option<Fault>; 2] {
        let (to_server, to_client) = (&self.client_to_server, &self.server_to_client);
        [
            to_server.read_fault.or(to_client.write_fault),
            to_client.read_fault.or(to_server.write_fault),
        ]
    }

    pub(super) const fn progress(&self) -> [Progress; 2] {
        [
            self.client_to_server.progress(),
            self.server_to_client.progress(),
        ]
    }

    /// Whether the server has sent any byte.
    pub(super) fn has_server_sent(&self) -> bool {
        self.server_to_client.has_moved()
    }

    /// Whether the server has finished sending or its connection has failed.
    pub(super) fn is_server_ended(&self) -> bool {
        self.server_to_client.is_reader_ended() || self.client_to_server.is_writer_ended()
    }

    /// Whether the client has finished sending or its connection has failed.
    pub(super) fn is_client_ended(&self) -> bool {
        self.client_to_server.is_reader_ended() || self.server_to_client.is_writer_ended()
    }

    /// Whether the half-close timeout applies instead of the idle timeout.
    pub(super) const fn is_half_closed(&self) -> bool {
        self.client_to_server.is_half_closed() || self.server_to_client.is_half_closed()
    }

    /// Returns the client's and the server's socket if they must be watched for errors. This is the
    /// case while the flow that reads from the socket waits for its writer.
    pub(super) fn watched_sockets(&self) -> [Option<&TcpStream>; 2] {
        let (client, server) = (&self.client_to_server, &self.server_to_client);
        [
            client
                .needs_watch()
                .then(|| self.downstream.socket())
                .flatten(),
            server
                .needs_watch()
                .then(|| self.upstream.socket())
                .flatten(),
        ]
    }

    /// Enables TCP keepalive on the server's socket, if it has one.
    pub(super) fn enable_server_keepalive(&self, idle: Duration) {
        if let Some(socket) = self.upstream.socket()
            && let Err(error) = set_keepalive(socket, idle)
        {
            // Not fatal. If the connection was reset, a later read or write reports that.
            tracing::debug!(%error, "failed to enable TCP keepalive");
        }
    }

    /// Handles errors on the client's and the server's socket.
    pub(super) fn sockets_failed(&mut self, [client, server]: [bool; 2]) {
        if client {
            self.client_to_server.socket_failed(self.downstream);
        }
        if server {
            self.server_to_client.socket_failed(self.upstream);
        }
    }

    /// Returns the time at which the pair must be polled even without a wake-up.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let checks = [&self.client_to_server, &self.server_to_client].map(Flow::next_check);
        checks.into_iter().flatten().min()
    }

    /// Returns how the connection ended, or `None` if it has not ended.
    pub(super) fn ending(&self) -> Option<Reason> {
        let (to_server, to_client) = (&self.client_to_server, &self.server_to_client);
        let [client, server] = self.faults();
        // Nothing more can be delivered to a side that was reset, so the connection may end before
        // the flow to that side has ended.
        let is_over = to_server.is_over() && to_client.is_over()
            || to_server.phase == Phase::Broken && client == Some(Fault::Reset)
            || to_client.phase == Phase::Broken && server == Some(Fault::Reset);
        is_over.then(|| self.reason())
    }

    fn reason(&self) -> Reason {
        let (to_server, to_client) = (&self.client_to_server, &self.server_to_client);
        let [client, server] = self.faults();
        match self.first {
            Some(Side::Client) => client_reason(client),
            Some(Side::Server) => server_reason(server),
            None if to_server.phase == Phase::WriterBroke => server_reason(server),
            None if to_client.phase == Phase::WriterBroke => client_reason(client),
            None if client.is_some() => client_reason(client),
            None if server.is_some() => server_reason(server),
            None => Reason::Ok,
        }
    }

    /// Returns the reason code of the connection after a timeout whose own code is `reason`.
    pub(super) fn timed_out(&mut self, reason: Reason) -> Reason {
        let (to_server, to_client) = (&self.client_to_server, &self.server_to_client);
        let delivered = match self.first {
            Some(Side::Client) => to_server.is_over(),
            Some(Side::Server) => to_client.is_over(),
            None => false,
        };
        self.is_complete = to_server.is_idle() && to_client.is_idle();
        if delivered { self.reason() } else { reason }
    }

    pub(super) fn into_outcome(mut self, reason: Reason) -> RelayOutcome {
        let (to_server, to_client) = (&mut self.client_to_server, &mut self.server_to_client);
        RelayOutcome {
            reason,
            client_error: to_server.read_error.take().or(to_client.write_error.take()),
            server_error: to_client.read_error.take().or(to_server.write_error.take()),
        }
    }
}

/// If there is a fault on one side, applies it to the flow that reads from that side (`from`) and
/// to the flow that writes to it (`to`).
fn settle_side(fault: Option<Fault>, from: &mut Flow<'_>, to: &mut Flow<'_>) {
    match fault {
        // Only the alert may still be sent to this side.
        Some(Fault::Protocol) => {
            from.stop();
            to.abandon();
        }
        Some(Fault::Reset) => to.give_up(),
        Some(Fault::Truncated) | None => {}
    }
    if from.phase == Phase::Broken {
        // All data that this side has sent was delivered, or can no longer be delivered.
        to.stop();
    }
    if from.is_cut_short() && fault != Some(Fault::Reset) {
        to.confirm();
    }
}

const fn client_reason(fault: Option<Fault>) -> Reason {
    match fault {
        Some(Fault::Truncated) => Reason::ClientTruncated,
        Some(Fault::Protocol) => Reason::ProtocolError,
        Some(Fault::Reset) | None => Reason::ClientReset,
    }
}

const fn server_reason(fault: Option<Fault>) -> Reason {
    match fault {
        Some(Fault::Truncated) => Reason::ServerTruncated,
        Some(Fault::Protocol) => Reason::ProtocolError,
        Some(Fault::Reset) | None => Reason::ServerReset,
    }
}

impl<D: Stream, U: Stream> Drop for Pair<'_, D, U> {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        if !self.server_to_client.is_passed_on() {
            self.downstream.abort();
        }
        if !self.client_to_server.is_passed_on() {
            self.upstream.abort();
        }
    }
}
