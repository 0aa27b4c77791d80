//! Client rules: the product of the decision lists of all listeners.

use std::collections::BTreeSet;

use super::{
    super::{
        access::{self, Condition, Key, Predicate, TooMany, Verdict, always},
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

/// Returns the client rules for all units. At listeners without client certificates, only rules
/// by source address can match, so only these are combined with the lists of such listeners.
pub(super) fn rules(units: &[Unit], services: &[Service]) -> Result<Vec<Rule>, TooMany> {
    type Combined = Vec<(Predicate, Vec<Verdict>)>;
    let combine = |certificates: bool| -> Result<(Combined, Vec<&Unit>), TooMany> {
        let mut rules: Combined = vec![(Predicate::default(), Vec::new())];
        let chosen: Vec<_> = units
            .iter()
            .filter(|unit| services[unit.service].certificates == certificates)
            .collect();
        for unit in &chosen {
            rules = access::product(&rules, &unit.list)?;
        }
        Ok((rules, chosen))
    };
    let (with, with_units) = combine(true)?;
    let (without, without_units) = combine(false)?;
    let units: Vec<_> = with_units.iter().chain(&without_units).collect();
    let mut all: Combined = Vec::new();
    for (predicate, verdicts) in with {
        if predicate.needs_certificate() {
            let none = without_units.iter().map(|_| Verdict::Refuse);
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
    let mut names = Names::default();
    for (predicate, verdicts) in all {
        let mut allow: Vec<String> = Vec::new();
        let mut limits = Limits::default();
        let mut used = BTreeSet::new();
        for (verdict, unit) in verdicts.iter().zip(&units) {
            if let Verdict::To(backend) = verdict {
                limits = limits.stricter(services[unit.service].limits);
                used.insert(unit.service);
                for name in unit.allow.get(backend).into_iter().flatten() {
                    if !allow.contains(name) {
                        allow.push(name.clone());
                    }
                }
            }
        }
        rules.push(Rule {
            name: names.unique(&rule_name(&predicate)),
            predicate,
            allow,
            limits,
            shared_by: if counts_together(&used, services) {
                BTreeSet::new()
            } else {
                used
            },
        });
    }
    // Rules that refuse are redundant at the end: clients without a matching rule are refused.
    while rules.last().is_some_and(|rule| rule.allow.is_empty()) {
        rules.pop();
    }
    Ok(rules)
}

/// Whether the source also counts the connections of a client to all these services together, so
/// that the limits of one rule have the same effect.
fn counts_together(used: &BTreeSet<usize>, services: &[Service]) -> bool {
    let mut used = used.iter().map(|&number| &services[number]);
    let Some(first) = used.next() else {
        return true;
    };
    let is_unlimited = first.limits == Limits::default();
    used.all(|other| {
        other.limits == first.limits
            && (is_unlimited || (first.counter.is_some() && other.counter == first.counter))
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
