//! Turns listeners with decision lists into listeners, upstreams and client rules.
//!
//! Client rules apply to all listeners, and a listener has one upstream per server name.
//! Therefore, an upstream that two listeners make available to different clients is written
//! twice. The rules are the product of the decision lists of all listeners.

mod closed;
mod counts;
mod lost;
mod merge;
mod rules;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    access::{List, TooMany, Verdict, at_sni, server_names},
    model::{Backend, Imported, Service},
};
use merge::merge;
pub(crate) use rules::Rule;
use rules::{name_rules, rules};
use upstreams::Planner;
pub(crate) use upstreams::Target;

/// A listener with its upstream and routes.
#[derive(Debug)]
pub(crate) struct PlannedListener {
    pub(crate) service: Service,
    pub(crate) upstream: Target,
    /// Targets by server name.
    pub(crate) routes: Vec<(String, Target)>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) listeners: Vec<PlannedListener>,
    pub(crate) upstreams: Vec<Backend>,
    pub(crate) rules: Vec<Rule>,
    /// Backends whose servers are part of another upstream, with the name of the upstream.
    pub(crate) merged: Vec<(String, String)>,
}

/// The clients of one listener with one server name (SNI).
struct Unit {
    service: usize,
    sni: Option<String>,
    list: List,
    /// For each backend in `list`, the entries of `allow` in client rules.
    allow: BTreeMap<String, Vec<String>>,
}

/// Plans the configuration.
pub(crate) fn plan(imported: &mut Imported) -> Result<Plan, TooMany> {
    let mut units = Vec::new();
    remove_duplicate_addresses(&mut imported.services);
    let originals: Vec<_> = imported.services.iter().map(closed::decisions).collect();
    for (number, service) in imported.services.iter_mut().enumerate() {
        for (_, verdict) in &mut service.access {
            let usable = |name: &str| {
                let found = imported
                    .backends
                    .iter()
                    .find(|backend| backend.name == name);
                found.is_some_and(|backend| backend.refused.is_empty() && backend.has_servers())
            };
            let open = service.refused.is_empty() && !service.binds.is_empty();
            match verdict {
                Verdict::To(name) if open && usable(name) => {}
                Verdict::To(name) => {
                    service.home.get_or_insert_with(|| name.clone());
                    *verdict = Verdict::Refuse;
                }
                _ => *verdict = Verdict::Refuse,
            }
        }
        let certificates = service.certificates;
        service
            .access
            .retain(|(predicate, _)| certificates || !predicate.needs_certificate());
        let refuses = |(_, verdict): &(_, Verdict)| *verdict == Verdict::Refuse;
        if service.refused.is_empty() && service.access.iter().all(refuses) {
            service.refused.push(
                "the rules of the source refuse all clients, or have no equivalent".to_owned(),
            );
        }
        units.extend(split(number, service)?);
    }
    let mut planner = Planner::new(&imported.backends);
    let by_client = units.len() == 1;
    // Upstreams that clients may use get the names of the source.
    let is_closed = |unit: &Unit| !unit.list.iter().any(|(_, v)| matches!(v, Verdict::To(_)));
    let mut order: Vec<_> = (0..units.len()).collect();
    order.sort_by_key(|number| is_closed(&units[*number]));
    let mut targets: Vec<Option<Target>> = units.iter().map(|_| None).collect();
    for number in order {
        let target = planner.target(&mut units[number], &mut imported.services, by_client);
        targets[number] = Some(target);
    }
    let (rules, undecided) = rules(&units, &imported.services)?;
    let mut rules = merge(rules);
    name_rules(&mut rules);
    for (service, limit) in undecided {
        let service = &mut imported.services[service];
        let place = service.conditional[limit].place.clone();
        service.table.note(place.left_out(
            "the limit applies to some clients of a rule only: it depends on the server name (SNI) or on \
             several names of a certificate, which rules do not compare. These clients are not limited",
        ));
    }
    let shared: BTreeSet<_> = rules.iter().flat_map(|rule| &rule.shared_by).collect();
    for service in shared {
        let service = &mut imported.services[*service];
        for place in &service.limited_by {
            service.table.note(place.differs(
                "the limit of a client rule counts the connections to all listeners together",
            ));
        }
    }
    for (service, decisions) in imported.services.iter_mut().zip(originals) {
        if !service.refused.is_empty() {
            service.closed_rules = decisions;
        }
    }
    let mut listeners: Vec<_> = imported
        .services
        .iter()
        .map(|service| PlannedListener {
            service: service.clone(),
            upstream: Target::ByClient,
            routes: Vec::new(),
        })
        .collect();
    for (unit, target) in units.iter().zip(targets.into_iter().flatten()) {
        let listener = &mut listeners[unit.service];
        match &unit.sni {
            Some(sni) => listener.routes.push((sni.clone(), target)),
            None => listener.upstream = target,
        }
    }
    for PlannedListener {
        upstream, routes, ..
    } in &mut listeners
    {
        // Connections without a route have the same target.
        while routes.last().is_some_and(|(_, target)| target == upstream) {
            routes.pop();
        }
    }
    let (mut upstreams, merged) = planner.finish();
    counts::note_separate_counts(&imported.backends, &mut upstreams, &merged, &rules);
    Ok(Plan {
        listeners,
        upstreams,
        rules,
        merged,
    })
}

/// Removes addresses that an earlier listener has.
fn remove_duplicate_addresses(services: &mut [Service]) {
    let mut bound = HashSet::new();
    for service in services {
        let before = service.binds.len();
        service.binds.retain(|bind| bound.insert(bind.clone()));
        if service.binds.len() < before
            && let Some(place) = &service.place
        {
            let reason = "another listener has the same address";
            service.table.note(place.left_out(reason));
        }
    }
}

/// Returns one unit per server name, followed by one for all other connections.
fn split(number: usize, service: &Service) -> Result<Vec<Unit>, TooMany> {
    let names = server_names(&service.access)?;
    let all = names.iter().map(Some).chain([None]);
    let unit = |sni: Option<&String>| Unit {
        service: number,
        sni: sni.cloned(),
        list: at_sni(&service.access, sni.map(String::as_str)),
        allow: BTreeMap::new(),
    };
    Ok(all.map(unit).collect())
}
