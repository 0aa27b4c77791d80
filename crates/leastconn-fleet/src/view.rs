//! What a member receives in an exchange.

use std::{sync::Arc, time::Duration};

use crate::{
    keys::ServerKey,
    member::{MemberId, MemberStatus},
    operator::{Acknowledgement, Command, CommandRecord, OperatorState},
    report::{Counts, Facts},
};

#[derive(Clone, Debug, Default)]
pub struct View {
    /// The other members that are alive.
    pub members: Vec<MemberView>,
    /// The clients of the batch, in its order. Empty if the report had no batch.
    pub clients: Vec<ClientView>,
    /// The servers of `slots`, in their order.
    pub slots: Vec<SlotView>,
    /// What operators have set. `None`: unchanged since the last exchange.
    pub operators: Option<Arc<OperatorState>>,
    /// Kills that are new since the last exchange, by any member but this one.
    pub kills: Vec<CommandRecord>,
    /// Acknowledgements of kills that this member has sent, since the last exchange.
    pub acknowledgements: Vec<(MemberId, Acknowledgement)>,
    /// The store does not have the numbers of earlier batches of this member: it was restarted,
    /// a failover lost writes, or the member was silent for longer than `gone_after`. Also true
    /// in the first view of a process. The member must report all its limited clients again.
    pub forgotten: bool,
    /// Serving members to assume at least. After the store has lost data, other members may not
    /// have returned yet.
    pub least_members: u32,
    /// Commands of the report that were not applied, because the store always had a newer entry.
    pub refused: Vec<Command>,
    /// Operator states and kills that were found for the first time in this exchange and ignored,
    /// because their signature is wrong.
    pub invalid_signatures: usize,
}

#[derive(Clone, Debug)]
pub struct MemberView {
    pub id: MemberId,
    pub status: MemberStatus,
    /// Time since its last exchange, by the clock of the store.
    pub last_heard: Duration,
    pub counts: Arc<Counts>,
    pub facts: Option<Arc<Facts>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientView {
    /// How many of the connections that asked are admitted.
    pub granted: u32,
    /// Tokens in use at the time of the answer, at most twice the burst.
    pub used: f64,
    /// Open connections of the other members.
    pub others_open: u32,
    /// Time until the next token is free. Zero: there is one now.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    pub server: ServerKey,
    /// Slots that this member holds.
    pub held: u32,
    /// Slots that no member holds.
    pub free: u32,
    /// Slots that other members want beyond those that they hold: the sum of `want` − held over
    /// the other members that are alive, each difference at least 0. A member that holds more
    /// than its fair share then returns slots.
    pub unmet: u32,
}
