//! Which rules were tried, and why each did or did not match.

use jiff::Timestamp;
use serde::Serialize;

use leastconn_server::{
    config::{MatchKey, Rule, suggest},
    policy::{Policy, RuleInput, RuleMatch},
};

/// So many are all shown.
const FEW: usize = 12;

/// Of more, so many of those that come near.
const NEAR: usize = 10;

/// Texts of a rule that are shown.
const TEXTS: usize = 3;

/// The rules that were tried.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    /// In the file's order, the one that decides last; not all of them.
    pub(super) shown: Vec<Line>,
    /// How many more were tried and did not come near.
    pub(super) left_out: usize,
    /// How many come after the one that decides.
    pub(super) not_tried: usize,
}

/// One rule.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// Its place among the file's, from 1.
    pub(super) number: usize,
    pub(super) client: String,
    /// `matches`, `shadow`, `expired` or `differs`.
    pub(super) result: &'static str,
    pub(super) why: String,
}

/// Tries each rule, as the policy does, until one decides.
pub(super) fn tried(policy: &Policy, input: &RuleInput<'_>, now: Timestamp) -> Tried {
    let rules = policy.clients();
    let judged = |number| policy.try_rule(number, input, now);
    let decides = (0..rules.len()).find(|&n| matches!(judged(n), RuleMatch::Enforced(_)));
    let tried = decides.map_or(rules.len(), |decides| decides + 1);
    let shown: Vec<usize> = if tried <= FEW {
        (0..tried).collect()
    } else {
        let near = (0..tried).filter(|&n| match judged(n) {
            RuleMatch::Mismatch(key) => key != first_key(&rules.rule(n)),
            RuleMatch::Shadow(_) | RuleMatch::Expired(_) => true,
            RuleMatch::Enforced(_) => false,
        });
        let mut near: Vec<_> = near.take(NEAR).collect();
        if near.is_empty() && decides.is_none() {
            near.extend(alike(policy, input));
        }
        near.extend(decides);
        near
    };
    Tried {
        left_out: tried - shown.len(),
        not_tried: rules.len() - tried,
        shown: shown
            .into_iter()
            .map(|number| line(number, rules.rule(number), &judged(number), input))
            .collect(),
    }
}

/// What a rule asks for first.
fn first_key(rule: &Rule<'_>) -> MatchKey {
    let mut asked = MatchKey::TEXTS.into_iter();
    asked
        .find(|&key| rule.texts(key).len() > 0)
        .unwrap_or(MatchKey::Source)
}

/// The rule whose text is spelled the most like one of the certificate's.
fn alike(policy: &Policy, input: &RuleInput<'_>) -> Option<usize> {
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

fn line(position: usize, rule: Rule<'_>, judged: &RuleMatch<'_>, input: &RuleInput<'_>) -> Line {
    let (result, why) = match judged {
        RuleMatch::Enforced(matched) => ("matches", format!("matches, as {}", matched.identity())),
        RuleMatch::Shadow(matched) => (
            "shadow",
            format!(
                "matches, as {}, and decides nothing: shadow mode",
                matched.identity()
            ),
        ),
        RuleMatch::Expired(at) => ("expired", format!("would match, and expired at {at}")),
        RuleMatch::Mismatch(key) => ("differs", differs(*key, &rule, input)),
    };
    Line {
        number: position + 1,
        client: rule.name().to_owned(),
        result,
        why,
    }
}

fn differs(key: MatchKey, rule: &Rule<'_>, input: &RuleInput<'_>) -> String {
    let wanted = match key {
        MatchKey::Source => some(rule.sources().iter().map(ToString::to_string), " or "),
        key => some(rule.texts(key).map(str::to_owned), " or "),
    };
    let has = match (key, input.certificate) {
        (MatchKey::Source, _) => format!("it is {}", input.source),
        (_, None) => "there is no certificate".to_owned(),
        (key, Some(certificate)) => match key.values_in(certificate) {
            [] => "it has none".to_owned(),
            texts => format!("it has {}", some(texts.iter().cloned(), ", ")),
        },
    };
    format!("asks for {} {wanted}, and {has}", key.as_str())
}

/// The first few, in quotes.
fn some(texts: impl ExactSizeIterator<Item = String>, between: &str) -> String {
    let more = texts.len().saturating_sub(TEXTS);
    let shown: Vec<_> = texts.take(TEXTS).map(|text| format!("`{text}`")).collect();
    match more {
        0 => shown.join(between),
        more => format!("{}{between}{more} more", shown.join(between)),
    }
}
