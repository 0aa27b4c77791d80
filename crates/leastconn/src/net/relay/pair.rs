//! Both directions of a relayed connection, and how they end together.

use std::{task::Context, time::Instant};

use super::{
    super::{Fault, Stream},
    OnTruncation, RelayOutcome, Traffic,
    flow::{Flow, Phase, Progress},
};
use crate::Reason;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Both streams and both flows. However it is dropped, the sides that would take
/// a broken connection for a complete one are aborted.
pub(super) struct Pair<'a, D: Stream, U: Stream> {
    downstream: &'a mut D,
    upstream: &'a mut U,
    client_to_server: Flow<'a>,
    server_to_client: Flow<'a>,
    on_truncation: OnTruncation,
    /// The side that broke off first.
    first: Option<Side>,
    /// Neither side waits for anything: both are closed in order.
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
        let (forth, back) = (&mut self.client_to_server, &mut self.server_to_client);
        forth.is_last = back.phase == Phase::Done;
        forth.poll(cx, self.downstream, self.upstream, scratch);
        back.is_last = forth.phase == Phase::Done;
        back.reader_is_gone |= forth.writer_is_gone;
        back.poll(cx, self.upstream, self.downstream, scratch);
        let mut changed = false;
        if back.writer_is_gone && !forth.reader_is_gone {
            forth.reader_is_gone = true;
            changed = true;
        }
        let [client, server] = self.faults();
        if client.is_some() || server.is_some() || self.is_cut_short() {
            changed |= self.settle(client, server);
        }
        if changed {
            // The flows were polled before this was known.
            cx.waker().wake_by_ref();
        }
        self.reset_early();
    }

    /// Resets a side that gets nothing more, where the other one has yet to
    /// acknowledge what it was sent: it need not wait for that.
    fn reset_early(&mut self) {
        let (forth, back) = (&mut self.client_to_server, &mut self.server_to_client);
        if forth.phase == Phase::Broken && back.phase == Phase::Breaking {
            forth.reset_writer(self.upstream);
        }
        if back.phase == Phase::Broken && forth.phase == Phase::Breaking {
            back.reset_writer(self.downstream);
        }
    }

    /// Has each flow end as the faults of both sides demand. Returns whether
    /// anything changed.
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
        let (forth, back) = (&mut self.client_to_server, &mut self.server_to_client);
        let before = (forth.phase, back.phase);
        settle_side(client, forth, back);
        settle_side(server, back, forth);
        before != (forth.phase, back.phase)
    }

    /// A flow ended before its reader had.
    fn is_cut_short(&self) -> bool {
        self.client_to_server.is_cut_short() || self.server_to_client.is_cut_short()
    }

    /// What broke each stream first.
    fn faults(&self) -> [Option<Fault>; 2] {
        let (forth, back) = (&self.client_to_server, &self.server_to_client);
        [
            forth.read_fault.or(back.write_fault),
            back.read_fault.or(forth.write_fault),
        ]
    }

    pub(super) const fn progress(&self) -> [Progress; 2] {
        [
            self.client_to_server.progress(),
            self.server_to_client.progress(),
        ]
    }

    /// The half-close time-out holds, not the idle time-out.
    pub(super) const fn is_half_closed(&self) -> bool {
        self.client_to_server.is_half_closed() || self.server_to_client.is_half_closed()
    }

    /// When a flow wants to be polled next without being woken.
    pub(super) fn next_check(&self) -> Option<Instant> {
        let checks = [&self.client_to_server, &self.server_to_client].map(Flow::next_check);
        checks.into_iter().flatten().min()
    }

    /// How the connection ended, if it has.
    pub(super) fn ending(&self) -> Option<Reason> {
        let (forth, back) = (&self.client_to_server, &self.server_to_client);
        let [client, server] = self.faults();
        // Nothing more can be delivered to a side that was reset.
        let is_over = forth.is_over() && back.is_over()
            || forth.phase == Phase::Broken && client == Some(Fault::Reset)
            || back.phase == Phase::Broken && server == Some(Fault::Reset);
        is_over.then(|| self.reason())
    }

    fn reason(&self) -> Reason {
        let (forth, back) = (&self.client_to_server, &self.server_to_client);
        let [client, server] = self.faults();
        match self.first {
            Some(Side::Client) => client_reason(client),
            Some(Side::Server) => server_reason(server),
            None if forth.phase == Phase::WriterBroke => server_reason(server),
            None if back.phase == Phase::WriterBroke => client_reason(client),
            None if client.is_some() => client_reason(client),
            None if server.is_some() => server_reason(server),
            None => Reason::Ok,
        }
    }

    /// The reason when the time-out that `reason` names has passed.
    pub(super) fn timed_out(&mut self, reason: Reason) -> Reason {
        let (forth, back) = (&self.client_to_server, &self.server_to_client);
        let delivered = match self.first {
            Some(Side::Client) => forth.is_over(),
            Some(Side::Server) => back.is_over(),
            None => false,
        };
        self.is_complete = forth.is_idle() && back.is_idle();
        if delivered { self.reason() } else { reason }
    }

    pub(super) fn into_outcome(mut self, reason: Reason) -> RelayOutcome {
        let (forth, back) = (&mut self.client_to_server, &mut self.server_to_client);
        RelayOutcome {
            reason,
            client_error: forth.read_error.take().or(back.write_error.take()),
            server_error: back.read_error.take().or(forth.write_error.take()),
        }
    }
}

/// Applies what became of one side's stream, which broke by `fault` if it did, to
/// the flow that reads it (`from`) and the one that writes it (`to`).
fn settle_side(fault: Option<Fault>, from: &mut Flow<'_>, to: &mut Flow<'_>) {
    match fault {
        // Nothing may follow but the alert.
        Some(Fault::Protocol) => {
            from.stop();
            to.abandon();
        }
        Some(Fault::Reset) => to.give_up(),
        Some(Fault::Truncated) | None => {}
    }
    if from.phase == Phase::Broken {
        // Everything that the side had sent was delivered, or cannot be.
        to.stop();
    }
    if from.is_cut_short() && fault != Some(Fault::Reset) {
        to.confirm();
    }
}

const fn client_reason(fault: Option<Fault>) -> Reason {
    match fault {
        Some(Fault::Truncated) => Reason::ClientTruncated,
        Some(Fault::Protocol) => Reason::TlsError,
        Some(Fault::Reset) | None => Reason::ClientReset,
    }
}

const fn server_reason(fault: Option<Fault>) -> Reason {
    match fault {
        Some(Fault::Truncated) => Reason::ServerTruncated,
        Some(Fault::Protocol) => Reason::TlsError,
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
