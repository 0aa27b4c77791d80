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
        let settling = Self::is_settling(self.since, slots.settle, now);
        // Slots expire at the member after this time, and other members may hold them now.
        let is_recent = now.abs_diff(slots.answered) < slots.settle;
        let views = slots.claims.iter().map(|claim| {
            let own = match is_recent {
                true => claim.held,
                false => claim.held.min(claim.share),
            };
            self.claim(member, claim, settling.then_some(own))
        });
        views.collect()
    }

    /// `most`: if the fleet settles, what the member may hold at most.
    fn claim(&mut self, member: &MemberId, claim: &SlotClaim, most: Option<u32>) -> SlotView {
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
        held = held.min(most.unwrap_or(u32::MAX)).max(claim.open);
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
