//! Merges neighbouring client rules.

use super::{
    super::access::{Key, Predicate, covers},
    Rule,
};

/// Merges neighbouring rules that decide the same, if one list of values expresses both. Removes
/// values and rules that have no effect.
pub(super) fn merge(rules: Vec<Rule>) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    for mut rule in rules {
        if !remove_unreachable(&merged, &mut rule.predicate) {
            continue;
        }
        // A rule that refuses clients is redundant before a wider one that also refuses them.
        let is_redundant = |last: &Rule| {
            last.allow.is_empty()
                && rule.allow.is_empty()
                && rule.predicate.includes(&last.predicate)
        };
        while merged.last().is_some_and(is_redundant) {
            merged.pop();
        }
        let decides_the_same = |last: &Rule| {
            last.allow == rule.allow
                && last.limits == rule.limits
                && last.shared_by == rule.shared_by
        };
        if let Some(last) = merged.last_mut().filter(|last| decides_the_same(last))
            && let Some(predicate) = union(last, &rule)
        {
            last.predicate = predicate;
            continue;
        }
        merged.push(rule);
    }
    merged
}

/// Removes values that only clients of an earlier rule have. Returns whether the rule still matches
/// clients.
fn remove_unreachable(earlier: &[Rule], predicate: &mut Predicate) -> bool {
    for rule in earlier {
        let mut keys = rule.predicate.keys();
        let (Some((key, wide)), None) = (keys.next(), keys.next()) else {
            continue;
        };
        let Some(values) = predicate.get(key) else {
            continue;
        };
        let is_reachable = |value: &&String| !wide.iter().any(|wide| covers(key, wide, value));
        let values: Vec<_> = values.iter().filter(is_reachable).cloned().collect();
        if values.is_empty() {
            return false;
        }
        predicate.require(key, values);
    }
    true
}

/// Returns the predicate that matches exactly the clients of both rules, which differ in the values
/// of one key.
fn union(a: &Rule, b: &Rule) -> Option<Predicate> {
    let refuses = b.allow.is_empty();
    let (a, b) = (&a.predicate, &b.predicate);
    if !a
        .keys()
        .map(|(key, _)| key)
        .eq(b.keys().map(|(key, _)| key))
    {
        return None;
    }
    let mut differing = a.keys().filter(|(key, values)| b.get(*key) != Some(values));
    let (key, values) = differing.next().filter(|_| differing.next().is_none())?;
    // The name that matches is the identity of the client, which limits count and which servers get
    // in PROXY headers. A certificate can have several of these names, and one rule could choose
    // another one than two rules.
    if !refuses && matches!(key, Key::Dns | Key::Uri) {
        return None;
    }
    let mut values = values.to_vec();
    for value in b.get(key).unwrap_or(&[]) {
        if !values.iter().any(|wide| covers(key, wide, value)) {
            values.retain(|narrow| !covers(key, value, narrow));
            values.push(value.clone());
        }
    }
    let mut union = a.clone();
    union.require(key, values);
    Some(union)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::super::model::Limits, Key, Predicate, Rule, merge};

    const LIMITED: Limits = Limits {
        rate: None,
        max_conns: Some(5),
    };

    fn rule(keys: &[(Key, &str)], allow: &str, limits: Limits) -> Rule {
        let mut predicate = Predicate::default();
        for (key, value) in keys {
            predicate.require(*key, vec![(*value).to_owned()]);
        }
        Rule {
            name: String::new(),
            predicate,
            allow: Some(allow.to_owned())
                .filter(|allow| !allow.is_empty())
                .into_iter()
                .collect(),
            limits,
            shared_by: BTreeSet::new(),
        }
    }

    fn merged(rules: Vec<Rule>) -> Vec<String> {
        let rules = merge(rules);
        let rules = rules.iter().map(|rule| {
            let keys: Vec<_> = rule
                .predicate
                .keys()
                .map(|(key, values)| format!("{}={}", key.name(), values.join("|")))
                .collect();
            format!("{} {}", keys.join("&"), rule.allow.join(" "))
        });
        rules.collect()
    }

    #[test]
    fn neighbours_that_decide_the_same_are_merged() {
        let none = Limits::default();
        let rules = vec![
            rule(&[(Key::Cn, "a")], "x", none),
            rule(&[(Key::Cn, "b")], "x", none),
            rule(&[(Key::Cn, "c")], "y", none),
            rule(&[(Key::Cn, "d")], "x", none),
            rule(&[(Key::Ou, "e")], "x", none),
            rule(&[(Key::Cn, "f"), (Key::Source, "10.0.0.1")], "x", none),
            rule(&[(Key::Cn, "g"), (Key::Source, "10.0.0.1")], "x", none),
            rule(&[(Key::Cn, "h"), (Key::Source, "10.0.0.2")], "x", none),
        ];
        let expected = [
            "cn=a|b x",
            "cn=c y",
            "cn=d x",
            "ou=e x",
            "cn=f|g&source=10.0.0.1 x",
            "cn=h&source=10.0.0.2 x",
        ];
        assert_eq!(merged(rules), expected);
    }

    #[test]
    fn limits_and_identities_do_not_change() {
        let none = Limits::default();
        for (key, first, second, count) in [
            (Key::Cn, LIMITED, none, 2),
            (Key::Cn, LIMITED, LIMITED, 1),
            (Key::Dns, LIMITED, LIMITED, 2),
            (Key::Uri, LIMITED, LIMITED, 2),
            (Key::Dns, none, none, 2),
            (Key::Ou, none, none, 1),
        ] {
            let rules = vec![
                rule(&[(key, "a")], "x", first),
                rule(&[(key, "b")], "x", second),
            ];
            assert_eq!(merged(rules).len(), count, "{key:?} {first:?}");
        }
    }

    #[test]
    fn values_and_rules_without_effect_are_removed() {
        let none = Limits::default();
        let mut both = rule(&[(Key::Dns, "a")], "y", none);
        both.predicate
            .require(Key::Dns, vec!["a".to_owned(), "b".to_owned()]);
        let rules = vec![
            rule(&[(Key::Dns, "a")], "x", none),
            both,
            rule(&[(Key::Dns, "b"), (Key::Source, "10.0.0.1")], "x", none),
            rule(&[(Key::Cn, "c"), (Key::Source, "10.0.0.1")], "", none),
            rule(&[(Key::Source, "10.0.0.1")], "", none),
            rule(&[(Key::Source, "10.0.0.1"), (Key::Cn, "d")], "x", none),
            rule(&[(Key::Source, "10.0.0.2")], "x", none),
            rule(&[(Key::Source, "10.0.0.0/8")], "x", none),
        ];
        let expected = [
            "dns=a x",
            "dns=b y",
            "source=10.0.0.1 ",
            "source=10.0.0.0/8 x",
        ];
        assert_eq!(merged(rules), expected);
    }
}
