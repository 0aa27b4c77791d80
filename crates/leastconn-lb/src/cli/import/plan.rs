//! Turns listeners with decision lists into listeners, upstreams and client rules.
//!
//! Client rules apply to all listeners, and a listener has one upstream per server name.
//! Therefore, an upstream that two listeners make available to different clients is written
//! twice. The rules are the product of the decision lists of all listeners.

mod lost;
mod rules;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    access::{List, TooMany, Verdict, at_sni, server_names},
    model::{Backend, Imported, Service},
};
pub(crate) use rules::Rule;
use rules::rules;
pub(crate) use upstreams::REFUSED;
use upstreams::{Planner, Target};

/// A listener with its upstream and routes.
#[derive(Debug)]
pub(crate) struct PlannedListener {
    pub(crate) service: Service,
    pub(crate) upstream: Option<String>,
    /// Upstreams by server name.
    pub(crate) routes: Vec<(String, String)>,
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
        units.extend(split(number, service));
    }
    let mut planner = Planner::new(&imported.backends);
    let by_client = units.len() == 1;
    let mut targets = Vec::new();
    for unit in &mut units {
        targets.push(planner.target(unit, &mut imported.services, by_client));
    }
    let rules = rules(&units, &imported.services)?;
    let shared: BTreeSet<_> = rules.iter().flat_map(|rule| &rule.shared_by).collect();
    for service in shared {
        let service = &mut imported.services[*service];
        for place in &service.limited_by {
            service.table.note(place.left_out(
                "the limit of a client rule counts the connections to all listeners together",
            ));
        }
    }
    let mut listeners: Vec<_> = imported
        .services
        .iter()
        .map(|service| PlannedListener {
            service: service.clone(),
            upstream: None,
            routes: Vec::new(),
        })
        .collect();
    for (unit, target) in units.iter().zip(targets) {
        let listener = &mut listeners[unit.service];
        match (target, &unit.sni) {
            (Target::One(upstream), Some(sni)) => listener.routes.push((sni.clone(), upstream)),
            (Target::One(upstream), None) => listener.upstream = Some(upstream),
            (Target::ByClient, _) => {}
        }
    }
    let (upstreams, merged) = planner.finish();
    Ok(Plan {
        listeners,
        upstreams,
        rules,
        merged,
    })
}

/// Returns one unit per server name, followed by one for all other connections.
fn split(number: usize, service: &Service) -> Vec<Unit> {
    let names = server_names(&service.access);
    let all = names.iter().map(Some).chain([None]);
    let unit = |sni: Option<&String>| Unit {
        service: number,
        sni: sni.cloned(),
        list: at_sni(&service.access, sni.map(String::as_str)),
        allow: BTreeMap::new(),
    };
    all.map(unit).collect()
}
