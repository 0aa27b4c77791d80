//! Lists the rules that were evaluated, and why each did or did not match.

use jiff::Timestamp;
use serde::Serialize;

use leastconn_config::{MatchKey, Rule, suggest};
use leastconn_server::policy::{Policy, RuleInput, RuleMatch};

/// If at most this many rules were evaluated, all of them are listed.
const LIST_ALL: usize = 12;

/// If more than [`LIST_ALL`] rules were evaluated, at most this many near misses are listed.
const MAX_NEAR_MISSES: usize = 10;

/// Maximum number of values listed per rule and key.
const MAX_VALUES: usize = 3;

#[derive(Debug, Serialize)]
pub(super) struct RuleTrace {
    /// Listed rules in the order of the file. The deciding rule is last.
    pub(super) shown: Vec<RuleLine>,
    /// Number of evaluated rules that are not listed. None of them matches.
    pub(super) left_out: usize,
    /// Number of rules after the deciding rule. They are not evaluated.
    pub(super) not_tried: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct RuleLine {
    /// Position in the file, starting at 1.
    pub(super) number: usize,
    pub(super) client: String,
    /// `matches`, `shadow`, `expired` or `differs`.
    pub(super) result: &'static str,
    pub(super) why: String,
}

/// Evaluates the rules in order until one decides.
pub(super) fn trace(policy: &Policy, input: &RuleInput<'_>, now: Timestamp) -> RuleTrace {
    let rules = policy.clients();
    let rule_match = |number| policy.try_rule(number, input, now);
    let decides = (0..rules.len()).find(|&n| matches!(rule_match(n), RuleMatch::Enforced(_)));
    let tried = decides.map_or(rules.len(), |decides| decides + 1);
    let shown: Vec<usize> = if tried <= LIST_ALL {
        (0..tried).collect()
    } else {
        let near = (0..tried).filter(|&n| match rule_match(n) {
            RuleMatch::Mismatch(key) => key != first_key(&rules.rule(n)),
            RuleMatch::Shadow(_) | RuleMatch::Expired(_) => true,
            RuleMatch::Enforced(_) => false,
        });
        let mut near: Vec<_> = near.take(MAX_NEAR_MISSES).collect();
        if near.is_empty() && decides.is_none() {
            near.extend(closest_spelling(policy, input));
        }
        near.extend(decides);
        near
    };
    RuleTrace {
        left_out: tried - shown.len(),
        not_tried: rules.len() - tried,
        shown: shown
            .into_iter()
            .map(|number| line(number, rules.rule(number), &rule_match(number), input))
            .collect(),
    }
}

/// Returns the first key, in evaluation order, that the rule requires.
fn first_key(rule: &Rule<'_>) -> MatchKey {
    let mut keys = MatchKey::TEXTS.into_iter();
    keys.find(|&key| rule.texts(key).len() > 0)
        .unwrap_or(MatchKey::Source)
}

/// Finds the rule with the value whose spelling is closest to one of the certificate's
/// names.
fn closest_spelling(policy: &Policy, input: &RuleInput<'_>) -> Option<usize> {
    let certificate = input.certificate?;
    let rules = policy.clients();
    [MatchKey::Cn, MatchKey::Dns, MatchKey::Uri]
        .into_iter()
        .find_map(|key| {
            let text = key.values_in(certificate).first()?;
            let near = suggest::nearest(text, rules.iter().flat_map(|rule| rule.texts(key)))?;
            rules
                .iter()
                .position(|rule| rule.texts(key).any(|other| other == near))
        })
}

fn line(
    position: usize,
    rule: Rule<'_>,
    rule_match: &RuleMatch<'_>,
    input: &RuleInput<'_>,
) -> RuleLine {
    let (result, why) = match rule_match {
        RuleMatch::Enforced(matched) => ("matches", format!("matches as {}", matched.identity())),
        RuleMatch::Shadow(matched) => (
            "shadow",
            format!(
                "matches as {}, but does not decide: shadow mode",
                matched.identity()
            ),
        ),
        RuleMatch::Expired(at) => ("expired", format!("matches, but expired at {at}")),
        RuleMatch::Mismatch(key) => ("differs", differs(*key, &rule, input)),
    };
    RuleLine {
        number: position + 1,
        client: rule.name().to_owned(),
        result,
        why,
    }
}

fn differs(key: MatchKey, rule: &Rule<'_>, input: &RuleInput<'_>) -> String {
    let required = match key {
        MatchKey::Source => quoted(rule.sources().iter().map(ToString::to_string), " or "),
        key => quoted(rule.texts(key).map(str::to_owned), " or "),
    };
    let actual = match (key, input.certificate) {
        (MatchKey::Source, _) => format!("the source is {}", input.source),
        (_, None) => "there is no certificate".to_owned(),
        (key, Some(certificate)) => match key.values_in(certificate) {
            [] => "the certificate has none".to_owned(),
            texts => format!(
                "the certificate has {}",
                quoted(texts.iter().cloned(), ", ")
            ),
        },
    };
    format!("requires {} {required}; {actual}", key.as_str())
}

/// Puts the first [`MAX_VALUES`] texts in backquotes and joins them with `separator`.
fn quoted(texts: impl ExactSizeIterator<Item = String>, separator: &str) -> String {
    let more = texts.len().saturating_sub(MAX_VALUES);
    let shown: Vec<_> = texts
        .take(MAX_VALUES)
        .map(|text| format!("`{text}`"))
        .collect();
    match more {
        0 => shown.join(separator),
        more => format!("{}{separator}{more} more", shown.join(separator)),
    }
}
