use super::{Slot, State};
use crate::{
    exchange::{SlotClaim, Slots},
    member::MemberId,
    view::SlotView,
};

impl State {
    /// Divides the slots of servers with `max_conns`. A member gets what it wants as long as
    /// slots are free. It keeps slots until it wants fewer, because it may be using them.
    pub(super) fn slots(&mut self, now: u64, member: &MemberId, slots: &Slots) -> Vec<SlotView> {
        let since = self.since.filter(|since| *since <= now);
        let settling = since.is_some_and(|since| now - since < slots.settle);
        let views = slots
            .claims
            .iter()
            .map(|claim| self.claim(member, claim, settling));
        views.collect()
    }

    fn claim(&mut self, member: &MemberId, claim: &SlotClaim, settling: bool) -> SlotView {
        let members = &self.members;
        let server = self.slots.entry(claim.server).or_default();
        server.retain(|id, _| members.contains_key(id));
        server.remove(member);
        let (mut others, mut unmet) = (0_u32, 0_u32);
        for slot in server.values() {
            others = others.saturating_add(slot.held);
            unmet = unmet.saturating_add(slot.want.saturating_sub(slot.held));
        }
        let mut held = claim.want.min(claim.max.saturating_sub(others));
        if settling {
            held = held.min(claim.held);
        }
        held = held.max(claim.open);
        let want = claim.want;
        if held > 0 || want > 0 {
            server.insert(member.clone(), Slot { held, want });
        }
        SlotView {
            server: claim.server,
            held,
            free: claim.max.saturating_sub(others).saturating_sub(held),
            unmet,
        }
    }
}
