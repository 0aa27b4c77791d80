use super::{Progress, State, Superseded};
use crate::exchange::{BeatAnswer, MemberAnswer, Request};

/// Events of one answer. More follow in the next.
const EVENTS: usize = 64;

impl State {
    /// Registers the member and its counts, removes members that are gone, and returns what has
    /// changed.
    pub(super) fn beat(&mut self, now: u64, request: &Request) -> Result<BeatAnswer, Superseded> {
        let (member, beat) = (&request.member, &request.beat);
        let last = self.progress.get(member).copied().unwrap_or_default();
        if last.session == request.session && last.sequence > request.sequence {
            return Err(Superseded);
        }
        self.members
            .retain(|_, heard| now.saturating_sub(*heard) < beat.gone_after);
        for heard in self.members.values_mut() {
            // A replica whose clock is behind was promoted.
            *heard = now.min(*heard);
        }
        let members = &self.members;
        self.counts.retain(|id, _| members.contains_key(id));
        self.facts.retain(|id, _| members.contains_key(id));
        self.progress.retain(|id, _| members.contains_key(id));
        if self.members.is_empty() {
            self.since = Some(now);
        }

        self.members.insert(member.clone(), now);
        let progress = self.progress.entry(member.clone()).or_default();
        let previous = match progress.session == request.session {
            true => progress.sequence,
            false => 0,
        };
        *progress = Progress {
            session: request.session,
            sequence: request.sequence,
            batch: progress.batch,
        };
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
        })
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
