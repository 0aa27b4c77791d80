//! Client rules: the product of the decision lists of all listeners.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    super::{
        access::{self, Condition, Key, List, Predicate, TooMany, Verdict, always, at_sni},
        model::{Limits, Service},
        names::{Names, valid},
    },
    Unit,
};

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) predicate: Predicate,
    pub(crate) allow: Vec<String>,
    pub(crate) limits: Limits,
    /// Numbers of the services that share the limits, although the source counts the connections
    /// to each of them separately.
    pub(crate) shared_by: BTreeSet<usize>,
}

/// Conditional limits that apply to some clients of a rule only: numbers of services and of their
/// limits. These rules do not have the limits.
pub(super) type Undecided = BTreeSet<(usize, usize)>;

/// Returns the client rules for all units, without names. At listeners without client certificates,
/// only rules by source address can match, so only these are combined with the lists of such
/// listeners.
pub(super) fn rules(
    units: &[Unit],
    services: &[Service],
) -> Result<(Vec<Rule>, Undecided), TooMany> {
    type Combined = Vec<(Predicate, Vec<Verdict>)>;
    let lanes: Vec<_> = units
        .iter()
        .flat_map(|unit| Lane::all(unit, services))
        .collect();
    let combine = |certificates: bool| -> Result<(Combined, Vec<&Lane<'_>>), TooMany> {
        let mut rules: Combined = vec![(Predicate::default(), Vec::new())];
        let chosen: Vec<_> = lanes
            .iter()
            .filter(|lane| services[lane.unit.service].certificates == certificates)
            .collect();
        for lane in &chosen {
            rules = access::product(&rules, &lane.list)?;
        }
        Ok((rules, chosen))
    };
    let (with, with_lanes) = combine(true)?;
    let (without, without_lanes) = combine(false)?;
    let lanes: Vec<_> = with_lanes.iter().chain(&without_lanes).copied().collect();
    let mut all: Combined = Vec::new();
    for (predicate, verdicts) in with {
        if predicate.needs_certificate() {
            let none = without_lanes.iter().map(|_| Verdict::Refuse);
            all.push((predicate, verdicts.into_iter().chain(none).collect()));
            continue;
        }
        for (also, more) in &without {
            let condition = Condition::All(vec![
                Condition::Is(predicate.clone()),
                Condition::Is(also.clone()),
            ]);
            let both = access::when(
                &condition,
                &always(Verdict::Accept),
                &always(Verdict::Refuse),
            )?;
            if let [(both, Verdict::Accept), ..] = both.as_slice() {
                all.push((both.clone(), [verdicts.clone(), more.clone()].concat()));
            }
        }
    }
    let mut rules = Vec::new();
    let mut undecided = BTreeSet::new();
    for (predicate, verdicts) in all {
        let mut allow: Vec<String> = Vec::new();
        // The limits of each service that the rule opens.
        let mut used: BTreeMap<usize, Limits> = BTreeMap::new();
        // Whether each conditional limit applies: `None` if it applies to some of the clients.
        let mut conditional: BTreeMap<(usize, usize), Option<bool>> = BTreeMap::new();
        let mut is_served = false;
        for (verdict, lane) in verdicts.iter().zip(&lanes) {
            let service = lane.unit.service;
            match (lane.limit, verdict) {
                (None, Verdict::To(backend)) => {
                    is_served = true;
                    used.insert(service, services[service].limits);
                    for name in lane.unit.allow.get(backend).into_iter().flatten() {
                        if !allow.contains(name) {
                            allow.push(name.clone());
                        }
                    }
                }
                (None, _) => is_served = false,
                (Some(limit), verdict) if is_served => {
                    let applies = match verdict {
                        Verdict::Accept => Some(true),
                        Verdict::To(_) => Some(false),
                        Verdict::Refuse => None,
                    };
                    conditional
                        .entry((service, limit))
                        .and_modify(|known| *known = known.filter(|_| *known == applies))
                        .or_insert(applies);
                }
                (Some(_), _) => {}
            }
        }
        for ((service, limit), applies) in conditional {
            match (applies, used.get_mut(&service)) {
                (Some(true), Some(limits)) => {
                    *limits = limits.stricter(services[service].conditional[limit].limits);
                }
                (None, _) => {
                    undecided.insert((service, limit));
                }
                _ => {}
            }
        }
        let limits = used.values().copied();
        rules.push(Rule {
            name: String::new(),
            predicate,
            allow,
            limits: limits.fold(Limits::default(), Limits::stricter),
            shared_by: if counts_together(&used, services) {
                BTreeSet::new()
            } else {
                used.into_keys().collect()
            },
        });
    }
    // Rules that refuse are redundant at the end: clients without a matching rule are refused.
    while rules.last().is_some_and(|rule| rule.allow.is_empty()) {
        rules.pop();
    }
    Ok((rules, undecided))
}

/// Gives each rule a unique name.
pub(super) fn name_rules(rules: &mut [Rule]) {
    let mut names = Names::default();
    for rule in rules {
        rule.name = names.unique(&rule_name(&rule.predicate));
    }
}

/// A decision list of a unit that takes part in the product.
struct Lane<'a> {
    unit: &'a Unit,
    /// The number of the conditional limit of the service that the list decides about. `None` for the
    /// list of the unit itself.
    limit: Option<usize>,
    list: Cow<'a, List>,
}

impl<'a> Lane<'a> {
    /// Returns the list of the unit, followed by those of its conditional limits. In these, limited
    /// clients are accepted and the others have a target, because the product refuses clients for
    /// whom it is uncertain.
    fn all(unit: &'a Unit, services: &[Service]) -> Vec<Self> {
        let mut lanes = vec![Self {
            unit,
            limit: None,
            list: Cow::Borrowed(&unit.list),
        }];
        let limits = services[unit.service].conditional.iter().enumerate();
        lanes.extend(limits.map(|(number, limit)| {
            let list = at_sni(&limit.applies, unit.sni.as_deref()).into_iter();
            let list = list.map(|(predicate, verdict)| {
                let verdict = match verdict {
                    Verdict::Accept => Verdict::Accept,
                    _ => Verdict::To(String::new()),
                };
                (predicate, verdict)
            });
            Self {
                unit,
                limit: Some(number),
                list: Cow::Owned(list.collect()),
            }
        }));
        lanes
    }
}

/// Whether the source also counts the connections of a client to all these services together, so
/// that the limits of one rule have the same effect.
fn counts_together(used: &BTreeMap<usize, Limits>, services: &[Service]) -> bool {
    let mut used = used.iter();
    let Some((&first, limits)) = used.next() else {
        return true;
    };
    let is_unlimited = *limits == Limits::default();
    let counter = &services[first].counter;
    used.all(|(&other, others)| {
        let has_same = counter.is_some() && services[other].counter == *counter;
        others == limits && (is_unlimited || has_same)
    })
}

/// Returns a name that describes the clients of the rule.
fn rule_name(predicate: &Predicate) -> String {
    let mut keys = predicate.keys();
    match (keys.next(), keys.next()) {
        (None, _) => "any-client".to_owned(),
        (Some((key, [value])), _) if key != Key::Source => valid(value),
        (Some((Key::Source, [value])), None) => valid(&format!("from-{value}")),
        (Some((Key::Source, _)), None) => "networks".to_owned(),
        (Some((key, _)), _) => format!("clients-by-{}", key.name()),
    }
}
