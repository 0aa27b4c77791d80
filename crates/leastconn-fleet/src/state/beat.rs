use super::{Progress, State, Superseded};
use crate::{
    exchange::{Beat, BeatAnswer, MemberAnswer, Request},
    member::MemberId,
};

/// Events of one answer. More follow in the next.
const EVENTS: usize = 64;
/// Lifetime of what is known of members that are gone.
const KEEP_GONE: u64 = 3600 * 1_000_000;

impl State {
    /// Registers the member and its counts, removes members that are gone, and returns what has
    /// changed.
    pub(super) fn beat(&mut self, now: u64, request: &Request) -> Result<BeatAnswer, Superseded> {
        let (member, beat) = (&request.member, &request.beat);
        let known = self.progress.get(member).copied();
        let gone = self.gone.get(member).map(|(_, last)| *last);
        let last = known.or(gone).unwrap_or_default();
        if last.session == request.session && last.sequence > request.sequence {
            return Err(Superseded);
        }
        if known.is_none() {
            self.gone.remove(member);
        }
        let heard = self.members.get(member).copied();
        let alive = heard.is_some_and(|heard| now.saturating_sub(heard) < beat.gone_after);
        self.forget_silent(now, member, alive);
        for heard in self.members.values_mut() {
            // A replica whose clock is behind was promoted.
            *heard = now.min(*heard);
        }
        let members = &self.members;
        self.counts.retain(|id, _| members.contains_key(id));
        self.facts.retain(|id, _| members.contains_key(id));
        self.progress.retain(|id, _| members.contains_key(id));
        let others = members.keys().filter(|id| *id != member).count();

        self.members.insert(member.clone(), now);
        let stored = match last.session == request.session {
            true => last.sequence,
            false => 0,
        };
        let previous = if alive { stored } else { 0 };
        let progress = Progress {
            session: request.session,
            sequence: request.sequence,
            batch: last.batch,
            gone_after: beat.gone_after,
        };
        self.progress.insert(member.clone(), progress);
        let settles = self.notice_loss(now, beat, (previous, stored), alive, others);
        if let Some(counts) = &beat.counts {
            self.counts.insert(member.clone(), counts.clone());
        }
        if let Some(facts) = &beat.facts {
            self.facts.insert(member.clone(), facts.clone());
        }

        let own = self.counts.get(member).and_then(|blob| blob.get(..8));
        let (operators, events) = (self.changed_operators(request), self.new_events(request));
        Ok(BeatAnswer {
            now,
            previous,
            has_counts: own == Some(&beat.counts_version),
            has_facts: self.facts.contains_key(member),
            members: self.other_members(request),
            operators,
            last_event: events.last().map_or_else(
                || match beat.last_event.is_empty() {
                    true => self.last_event(),
                    false => beat.last_event.clone(),
                },
                |((time, number), _)| format!("{time}-{number}"),
            ),
            events: events.into_iter().map(|(_, event)| event).collect(),
            settles,
        })
    }

    /// Removes members that were not heard for too long. The last batch of each is kept, so that
    /// it is not counted again if the member returns.
    fn forget_silent(&mut self, now: u64, own: &MemberId, own_is_alive: bool) {
        let progress = &self.progress;
        let lifetime = |id: &MemberId| progress.get(id).map_or(0, |last| last.gone_after);
        let silent = self.members.iter().filter(|(id, heard)| match *id == own {
            true => !own_is_alive,
            false => now.saturating_sub(**heard) >= lifetime(id),
        });
        let silent: Vec<_> = silent.map(|(id, heard)| (id.clone(), *heard)).collect();
        if silent.iter().any(|(id, _)| id != own) {
            self.gone
                .retain(|_, (heard, _)| now.saturating_sub(*heard) < KEEP_GONE);
        }
        for (id, heard) in silent {
            self.members.remove(&id);
            if let Some(last) = self.progress.get(&id).filter(|_| id != *own) {
                self.gone.insert(id, (heard, *last));
            }
        }
    }

    /// Whether members may be missing: the store was restarted, a failover lost writes, or no
    /// member has reached it for a while. `stored` is the sequence of the last request of the
    /// session, and `previous` as well, unless the member was gone since.
    fn notice_loss(
        &mut self,
        now: u64,
        beat: &Beat,
        (previous, stored): (u64, u64),
        alive: bool,
        others: usize,
    ) -> bool {
        let settles = Self::is_settling(self.lost, beat.gone_after, now);
        let is_kept = now.saturating_sub(beat.answered) < KEEP_GONE;
        // A loss that was noted after the last answer is not another one.
        let is_new = self.wiped.is_none_or(|wiped| beat.answered > wiped);
        let wiped = stored < beat.acknowledged && is_new && (others == 0 || is_kept);
        if wiped {
            self.wiped = Some(now);
        }
        if wiped || (previous < beat.acknowledged && others == 0) {
            if !settles {
                self.lost = Some(now);
                self.since = Some(now);
            }
            return true;
        }
        if !alive && others == 0 {
            self.since = Some(now);
        }
        settles
    }

    fn other_members(&self, request: &Request) -> Vec<MemberAnswer> {
        let others = self.members.iter().filter(|(id, _)| **id != request.member);
        let answers = others.map(|(id, heard)| {
            let known = request.beat.known.iter().find(|(known, ..)| known == id);
            let counts = self.counts.get(id);
            let facts = self.facts.get(id);
            MemberAnswer {
                id: id.clone(),
                heard: *heard,
                counts: counts
                    .filter(|blob| known.is_none_or(|(_, counts, _)| !blob.starts_with(counts)))
                    .cloned(),
                facts: facts
                    .filter(|blob| known.is_none_or(|(_, _, facts)| !blob.starts_with(facts)))
                    .cloned(),
            }
        });
        answers.collect()
    }

    fn new_events(&self, request: &Request) -> Vec<((u64, u64), String)> {
        let after = request.beat.last_event.split_once('-');
        let Some((time, number)) = after else {
            return Vec::new();
        };
        let after = (time.parse().unwrap_or(0), number.parse().unwrap_or(0));
        let events = self.events.iter().filter(|(id, _)| *id > after);
        events.take(EVENTS).cloned().collect()
    }

    fn last_event(&self) -> String {
        let (time, number) = self.events.last().map_or((0, 0), |(id, _)| *id);
        format!("{time}-{number}")
    }
}
