//! `max_conns` of servers that are in several upstreams.

use super::{
    super::model::{Backend, ServerLine},
    Rule,
};

/// Adds a note to each upstream that counts the connections of a server separately, although the
/// source counts them together. `merged` has the backends in merged upstreams.
pub(super) fn note_separate_counts(
    backends: &[Backend],
    upstreams: &mut [Backend],
    merged: &[(String, String)],
    rules: &[Rule],
) {
    let is_used = |name: &str| {
        let mut allowed = rules.iter().flat_map(|rule| &rule.allow);
        allowed.any(|allow| allow.split('/').next() == Some(name))
    };
    let mut noted = Vec::new();
    for backend in backends {
        let Some(place) = backend.place.as_ref().filter(|_| has_max_conns(backend)) else {
            continue;
        };
        if noted.contains(&place) {
            continue;
        }
        noted.push(place);
        // All backends with this place are copies of one in the source.
        let is_copy = |name: &String| {
            let mut copies = backends.iter();
            copies.any(|other| other.name == *name && other.place.as_ref() == Some(place))
        };
        let holds = |upstream: &&mut Backend| {
            let mut parts = merged.iter().filter(|(_, into)| *into == upstream.name);
            let is_merged = merged.iter().any(|(_, into)| *into == upstream.name);
            let is_holder = if is_merged {
                parts.any(|(part, _)| is_copy(part))
            } else {
                upstream.place.as_ref() == Some(place)
            };
            is_holder && is_used(&upstream.name)
        };
        let mut holders: Vec<_> = upstreams.iter_mut().filter(holds).collect();
        if holders.len() < 2 {
            continue;
        }
        let names: Vec<_> = holders
            .iter()
            .map(|holder| format!("`{}`", holder.name))
            .collect();
        for (at, holder) in holders.iter_mut().enumerate() {
            let others = names.iter().enumerate().filter(|(other, _)| *other != at);
            let others: Vec<_> = others.map(|(_, name)| name.as_str()).collect();
            holder.table.note(place.differs(format!(
                "`{}` counts `max_conns` of its servers separately from {}: together, a server can \
                 have more connections than in the source",
                holder.name,
                others.join(" and ")
            )));
        }
    }
}

fn has_max_conns(backend: &Backend) -> bool {
    let mut lines = backend.servers.iter();
    lines.any(
        |line| matches!(line, ServerLine::Server { table, .. } if table.get("max_conns").is_some()),
    )
}
