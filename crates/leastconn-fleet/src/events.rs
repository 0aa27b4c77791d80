//! Signed events of the store's stream: kills, and acknowledgements of kills.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    member::MemberId,
    operator::{Acknowledgement, Command, CommandId, CommandRecord},
    secret::Secret,
    view::View,
};

/// A kill that is older is not carried out: its clients may have reconnected since.
const KILL_LIFETIME: u64 = 60 * 1_000_000;
/// More than the stream has entries.
const REMEMBERED: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Event {
    Kill {
        member: String,
        id: CommandId,
        filter: String,
        /// Microseconds of the store's clock.
        issued: u64,
    },
    Acknowledgement {
        member: String,
        id: CommandId,
        killed: u64,
    },
}

/// Signs and verifies events. Delivers each event once: an event that is replayed is ignored.
pub(crate) struct Events {
    fleet: String,
    secret: Secret,
    seen: Remembered,
    /// IDs of kills that this member has sent.
    own: Remembered,
}

impl Events {
    pub(crate) fn new(fleet: &str, secret: Secret) -> Self {
        Self {
            fleet: fleet.to_owned(),
            secret,
            seen: Remembered::default(),
            own: Remembered::default(),
        }
    }

    /// `None`: the command is not a kill.
    pub(crate) fn kill(
        &mut self,
        now: u64,
        member: &MemberId,
        command: &Command,
    ) -> Option<String> {
        let Command::Kill { id, filter } = command else {
            return None;
        };
        self.own.insert(id.clone());
        self.sign(&Event::Kill {
            member: member.as_str().to_owned(),
            id: id.clone(),
            filter: filter.clone(),
            issued: now,
        })
    }

    pub(crate) fn acknowledgement(
        &self,
        member: &MemberId,
        acknowledgement: &Acknowledgement,
    ) -> Option<String> {
        self.sign(&Event::Acknowledgement {
            member: member.as_str().to_owned(),
            id: acknowledgement.id.clone(),
            killed: acknowledgement.killed,
        })
    }

    /// Adds events of other members to the view.
    pub(crate) fn receive(
        &mut self,
        now: u64,
        member: &MemberId,
        events: &[String],
        view: &mut View,
    ) {
        for text in events {
            match self.verified(text) {
                None => view.invalid_signatures += 1,
                Some(Event::Kill {
                    member: sender,
                    id,
                    filter,
                    issued,
                }) => {
                    let recent = now.saturating_sub(issued) <= KILL_LIFETIME;
                    if sender != member.as_str() && recent && self.seen.insert(id.clone()) {
                        view.kills.push(CommandRecord { id, filter });
                    }
                }
                Some(Event::Acknowledgement {
                    member: sender,
                    id,
                    killed,
                }) => {
                    if self.own.contains(&id) && self.seen.insert(format!("{id} {sender}")) {
                        view.acknowledgements
                            .push((MemberId::from_store(sender), Acknowledgement { id, killed }));
                    }
                }
            }
        }
    }

    fn sign(&self, event: &Event) -> Option<String> {
        let json = serde_json::to_string(event).ok()?;
        let signature = self.secret.sign(&[&self.fleet, "event", &json]);
        Some(format!("{signature} {json}"))
    }

    fn verified(&self, text: &str) -> Option<Event> {
        let (signature, json) = text.split_once(' ')?;
        let parts = [&self.fleet, "event", json];
        if !self.secret.verify(&parts, signature) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

/// A set that forgets its oldest items.
#[derive(Default)]
struct Remembered {
    set: HashSet<String>,
    order: VecDeque<String>,
}

impl Remembered {
    /// Returns whether the item is new.
    fn insert(&mut self, item: String) -> bool {
        if !self.set.insert(item.clone()) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }

    fn contains(&self, item: &str) -> bool {
        self.set.contains(item)
    }
}
