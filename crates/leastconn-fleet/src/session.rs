//! The member's side of the exchanges: turns a report into a request, and an answer into a view.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    codec,
    events::Events,
    exchange::{
        Answer, Beat, BeatAnswer, BlobVersion, EntryChange, Limit, Operate, Request, SlotClaim,
        Slots, micros,
    },
    keys::ServerKey,
    member::{MemberId, MemberStatus},
    operator::Command,
    operator_history::OperatorHistory,
    operator_log::OperatorLog,
    report::{Counts, Facts, Report},
    settings::FleetSettings,
    view::{MemberView, View},
};

/// Everything is sent this often, in case the store has lost some of it.
const REPEAT_AFTER: u64 = 20 * 1_000_000;
/// A member that was cut off for longer takes the operator states of the store as they are.
const STALE_AFTER: u64 = 12 * 3600 * 1_000_000;
/// The version of the operator states of a store that has never had any.
const NO_OPERATORS: &str = "0.0";
/// Requests of one exchange. Two are needed if another member has just changed the same state.
const ROUNDS: u32 = 4;

pub(crate) struct Session {
    id: u64,
    gone_after: u64,
    /// Serving members in the last answer of a store that did not settle.
    members: u32,
    sequence: u64,
    /// The sequence of the last request that was answered.
    acknowledged: u64,
    /// The time of the last answer.
    now: Option<u64>,
    /// Whether `now` is from the current connection. A command is signed only then: after an
    /// outage, the earlier time is too old.
    time_is_current: bool,
    /// The next request carries everything.
    repeat: bool,
    repeated_at: u64,
    sent_counts: Option<BlobVersion>,
    facts: Option<Vec<u8>>,
    sent_facts: bool,
    peers: BTreeMap<MemberId, Peer>,
    log: OperatorLog,
    history: OperatorHistory,
    /// The time of the last answer to the previous session.
    resumed: Option<u64>,
    operators_version: String,
    events: Events,
    last_event: String,
    held: BTreeMap<ServerKey, u32>,
    held_at: u64,
    /// The time of the first answer after the connection was lost. Until all known members were
    /// heard after it, or are gone, this member takes no slots: a failover may have lost those of
    /// others.
    reconnected: Option<u64>,
    rounds: u32,
    /// Commands that are not applied yet.
    commands: VecDeque<Command>,
    /// Commands of the request, with the fields that they change.
    requested: Vec<(String, Command)>,
    restore: Vec<EntryChange>,
    /// What the caller has not received yet. If an exchange fails after its first request, the
    /// next one delivers what that request has found.
    view: View,
    /// What the caller has received last, without members, clients and slots.
    delivered: View,
    /// The version of the operator states that the view has or had.
    states: Option<u64>,
}

struct Peer {
    heard: u64,
    counts_version: BlobVersion,
    status: MemberStatus,
    counts: Arc<Counts>,
    facts_version: BlobVersion,
    facts: Option<Arc<Facts>>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            heard: 0,
            // No blob has this version.
            counts_version: [u8::MAX; 8],
            status: MemberStatus::Serving,
            counts: Arc::default(),
            facts_version: [u8::MAX; 8],
            facts: None,
        }
    }
}

impl Session {
    /// `id` differs from the IDs of other sessions of the process.
    pub(crate) fn new(settings: &FleetSettings, id: u64) -> Self {
        let mut log = OperatorLog::new(&settings.name, settings.secret.clone());
        let earlier = settings.history.known();
        log.resume(earlier.entries);
        let events = Events::new(&settings.name, settings.secret.clone());
        Self {
            id,
            gone_after: micros(settings.gone_after),
            members: settings.size.max(1),
            sequence: 0,
            acknowledged: 0,
            now: None,
            time_is_current: false,
            repeat: true,
            repeated_at: 0,
            sent_counts: None,
            facts: None,
            sent_facts: false,
            peers: BTreeMap::new(),
            log,
            history: settings.history.clone(),
            resumed: earlier.now,
            operators_version: String::new(),
            events,
            last_event: String::new(),
            held: BTreeMap::new(),
            held_at: 0,
            reconnected: None,
            rounds: 0,
            commands: VecDeque::new(),
            requested: Vec::new(),
            restore: Vec::new(),
            view: View::default(),
            delivered: View::default(),
            states: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn set_gone_after(&mut self, time: Duration) {
        self.gone_after = micros(time);
    }

    /// The connection was lost: the store may have applied the last request or not, and may be
    /// another one now.
    pub(crate) fn disconnected(&mut self) {
        self.repeat = true;
        self.time_is_current = false;
    }

    /// The member leaves. Returns session and sequence, which later requests do not have.
    pub(crate) fn leave(&mut self) -> (u64, u64) {
        self.sequence += 1;
        self.acknowledged = 0;
        (self.id, self.sequence)
    }

    /// The first request of an exchange.
    pub(crate) fn request(&mut self, report: &Report) -> Request {
        self.rounds = 0;
        self.view.clients.clear();
        self.view.slots.clear();
        self.view.refused.clear();
        self.commands = report.commands.iter().cloned().collect();
        self.restore.clear();
        let mut operate = self.operate(report);
        let acknowledgements = report.acknowledgements.iter();
        operate
            .events
            .extend(acknowledgements.filter_map(|acknowledgement| {
                self.events.acknowledgement(&report.member, acknowledgement)
            }));
        let may_grow =
            self.acknowledged == 0 || (self.time_is_current && self.reconnected.is_none());
        let claims = report.slots.iter().map(|slot| {
            let share = slot.max / self.members;
            let held = self.held.get(&slot.server).copied().unwrap_or(share);
            let want = match may_grow {
                true => slot.want,
                false => slot.want.min(held),
            };
            SlotClaim {
                server: slot.server,
                max: slot.max,
                want: want.max(slot.open),
                open: slot.open,
                held,
                share,
            }
        });
        let slots = Slots {
            settle: self.gone_after,
            answered: self.held_at,
            claims: claims.collect(),
        };
        if let Some(facts) = &report.facts {
            self.facts = Some(codec::encode_facts(facts));
            self.sent_facts = false;
        }
        let mut request = self.build(report, operate);
        request.limit = report.batch.clone().map(|batch| Limit {
            settle: self.gone_after,
            members: self.members,
            batch,
        });
        request.slots = (!report.slots.is_empty()).then_some(slots);
        request
    }

    /// A further request that the exchange needs: commands that could not be signed before the
    /// time of the store was known, commands whose entry was just changed by another member,
    /// and entries that the store has lost.
    pub(crate) fn follow_up(&mut self, report: &Report) -> Option<Request> {
        if self.commands.is_empty() && self.restore.is_empty() {
            return None;
        }
        self.rounds += 1;
        if self.rounds >= ROUNDS {
            self.view.refused = self.commands.drain(..).collect();
            return None;
        }
        let operate = self.operate(report);
        Some(self.build(report, operate))
    }

    fn operate(&mut self, report: &Report) -> Operate {
        let mut operate = Operate::default();
        self.requested.clear();
        operate.entries.append(&mut self.restore);
        let Some(now) = self.now.filter(|_| self.time_is_current) else {
            return operate;
        };
        for command in std::mem::take(&mut self.commands) {
            if let Some(kill) = self.events.kill(now, &report.member, &command) {
                operate.events.push(kill);
            } else if let Some(change) = self.log.change(now, &command) {
                // Of several commands for one field, the last one wins.
                self.requested.retain(|(field, _)| *field != change.field);
                operate.entries.retain(|other| other.field != change.field);
                self.requested.push((change.field.clone(), command));
                operate.entries.push(change);
            }
        }
        operate
    }

    fn build(&mut self, report: &Report, operate: Operate) -> Request {
        let due = self
            .now
            .is_some_and(|now| now.abs_diff(self.repeated_at) >= REPEAT_AFTER);
        let repeat = std::mem::take(&mut self.repeat) || due;
        if repeat {
            self.repeated_at = self.now.unwrap_or(0);
            self.sent_counts = None;
            self.sent_facts = false;
            self.operators_version.clear();
        }
        let counts_version = codec::counts_version(&report.counts, report.status);
        let counts = (self.sent_counts != Some(counts_version))
            .then(|| codec::encode_counts(&report.counts, report.status));
        let facts = self.facts.clone().filter(|_| !self.sent_facts);
        let peers = self.peers.iter();
        self.sequence += 1;
        Request {
            member: report.member.clone(),
            session: self.id,
            sequence: self.sequence,
            operate: (!operate.entries.is_empty() || !operate.events.is_empty()).then_some(operate),
            beat: Beat {
                gone_after: self.gone_after,
                acknowledged: self.acknowledged,
                answered: self.now.unwrap_or(0),
                is_leaving: report.status == MemberStatus::Leaving,
                extend: repeat,
                counts,
                counts_version,
                facts,
                operators_version: self.operators_version.clone(),
                last_event: self.last_event.clone(),
                known: peers
                    .map(|(id, peer)| (id.clone(), peer.counts_version, peer.facts_version))
                    .collect(),
            },
            limit: None,
            slots: None,
        }
    }

    /// The view of an exchange whose requests were all answered.
    pub(crate) fn finish(&mut self) -> View {
        let view = std::mem::take(&mut self.view);
        self.delivered = View {
            operators: view.operators.clone(),
            kills: view.kills.clone(),
            acknowledgements: view.acknowledgements.clone(),
            forgotten: view.forgotten,
            ..View::default()
        };
        view
    }

    /// The caller has not used the last view: the next one contains the same again.
    pub(crate) fn deliver_again(&mut self) {
        let last = std::mem::take(&mut self.delivered);
        let view = &mut self.view;
        view.operators = view.operators.take().or(last.operators);
        view.kills.splice(0..0, last.kills);
        view.acknowledgements.splice(0..0, last.acknowledgements);
        view.forgotten |= last.forgotten;
    }

    /// Takes the answer to a request.
    pub(crate) fn accept(&mut self, request: &Request, answer: Answer) {
        let beat = answer.beat;
        let absent = self
            .now
            .or(self.resumed)
            .is_some_and(|last| beat.now.saturating_sub(last) > STALE_AFTER);
        // A store that has restarted empty has nothing newer.
        let has_states = beat
            .operators
            .as_ref()
            .is_some_and(|(version, _)| version != NO_OPERATORS);
        if absent && has_states {
            self.log.clear();
        }
        if !self.time_is_current && self.acknowledged > 0 {
            self.reconnected = Some(beat.now);
        }
        self.now = Some(beat.now);
        self.time_is_current = true;
        if self.repeated_at == 0 {
            self.repeated_at = beat.now;
        }
        let lost = beat.previous < self.acknowledged;
        self.view.forgotten |= lost || self.acknowledged == 0;
        self.acknowledged = request.sequence;
        self.sent_counts = beat.has_counts.then_some(request.beat.counts_version);
        self.sent_facts = beat.has_facts;

        let mut has_learnt = false;
        for rejected in &answer.rejected {
            has_learnt |= self.log.learn(beat.now, rejected);
        }
        for (field, command) in self.requested.drain(..) {
            if answer.rejected.iter().any(|one| one.field == field) {
                self.commands.push_front(command);
            }
        }
        self.accept_members(&beat);
        self.accept_number(request, &beat);
        if let Some((version, entries)) = &beat.operators {
            let merge = self.log.merge(beat.now, entries);
            self.view.invalid_signatures += merge.invalid;
            self.restore = merge.changes;
            self.operators_version.clone_from(version);
            self.update_states(beat.now);
        } else if self.log.expire(beat.now) || has_learnt {
            self.update_states(beat.now);
        }
        self.history.update(beat.now, None);
        self.events
            .receive(beat.now, &request.member, &beat.events, &mut self.view);
        // A new store may have smaller IDs, and keys without expiry.
        self.repeat |= lost;
        self.last_event = match lost {
            true => "0-0".to_owned(),
            false => beat.last_event,
        };

        if request.limit.is_some() {
            self.view.clients = answer.clients;
        }
        if request.slots.is_some() {
            self.held = answer
                .slots
                .iter()
                .map(|slot| (slot.server, slot.held))
                .collect();
            self.held_at = beat.now;
            self.view.slots = answer.slots;
        }
    }

    /// Determines the number of serving members to assume, and whether all members are back after
    /// this one has connected again.
    fn accept_number(&mut self, request: &Request, beat: &BeatAnswer) {
        let peers = self.peers.values();
        let others = peers.filter(|peer| peer.status == MemberStatus::Serving);
        let own = usize::from(!request.beat.is_leaving);
        let members = u32::try_from(others.count() + own).unwrap_or(u32::MAX);
        (self.members, self.view.least_members) = if beat.settles {
            let members = self.members.max(members);
            (members, members)
        } else {
            (members.max(1), 0)
        };
        if let Some(since) = self.reconnected {
            let is_over = beat.now.abs_diff(since) >= self.gone_after;
            let are_back = self.peers.values().all(|peer| peer.heard > since);
            if is_over || are_back {
                self.reconnected = None;
            }
        }
    }

    fn update_states(&mut self, now: u64) {
        let state = self.log.state(now);
        self.history.update(now, Some(self.log.entries()));
        if self.states != Some(state.version) {
            self.states = Some(state.version);
            self.view.operators = Some(Arc::new(state));
        }
    }

    fn accept_members(&mut self, beat: &BeatAnswer) {
        let mut previous = std::mem::take(&mut self.peers);
        for member in &beat.members {
            let mut peer = previous.remove(&member.id).unwrap_or_default();
            peer.heard = member.heard;
            let counts = member.counts.as_deref().and_then(codec::decode_counts);
            if let Some((version, status, counts)) = counts {
                peer.counts_version = version;
                peer.status = status;
                peer.counts = Arc::new(counts);
            }
            let facts = member.facts.as_deref().and_then(codec::decode_facts);
            if let Some((version, facts)) = facts {
                peer.facts_version = version;
                peer.facts = Some(Arc::new(facts));
            }
            self.peers.insert(member.id.clone(), peer);
        }
        let members = self.peers.iter().map(|(id, peer)| MemberView {
            id: id.clone(),
            status: peer.status,
            last_heard: Duration::from_micros(beat.now.saturating_sub(peer.heard)),
            counts: peer.counts.clone(),
            facts: peer.facts.clone(),
        });
        self.view.members = members.collect();
    }
}
