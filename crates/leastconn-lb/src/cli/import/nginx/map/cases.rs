//! The cases of a `map`, in the order in which nginx evaluates them.

use super::{
    super::{
        super::{
            access::{Condition, Key, List, Predicate, Verdict, always, covers, intersection},
            dn,
            model::{Kind, Note},
        },
        parser::Directive,
    },
    Reason, refuses,
};

/// A case of a map.
pub(super) struct Case {
    pub(super) order: Order,
    pub(super) condition: Condition,
    pub(super) targets: List,
    pub(super) spelling: Spelling,
    /// The entry, with its number in the map. `None` if the case only refuses clients of others.
    pub(super) line: Option<(usize, Directive)>,
    /// Set if the source matches more names than the condition.
    pub(super) others: Option<OtherNames>,
    /// How the rule differs from the entry.
    pub(super) differences: Vec<(Kind, Reason)>,
}

impl Case {
    /// Refuses all clients that match no earlier case.
    pub(super) fn closing(order: Order) -> Self {
        Self {
            order,
            condition: Condition::Constant(true),
            targets: always(Verdict::Refuse),
            spelling: Spelling::Exact,
            line: None,
            others: None,
            differences: Vec::new(),
        }
    }

    fn text(&self) -> &str {
        self.line.as_ref().map_or("", |(_, line)| line.name())
    }
}

/// How nginx compares the case of letters. Client rules are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Exact,
    /// A text that nginx compares with the whole name, ignoring case.
    WholeName,
    /// A part of the name that nginx compares ignoring case.
    Part,
}

/// Names that the source matches, but the translation does not.
pub(super) struct OtherNames {
    /// Describes them.
    pub(super) matched: String,
    /// How to change the source so that it does not match them.
    pub(super) advice: String,
}

/// The order in which nginx evaluates the cases of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Exact,
    /// More specific networks and longer names come first.
    Specific(std::cmp::Reverse<usize>),
    /// Masks with a wildcard at the end.
    Trailing,
    Expression,
    /// A case without an equivalent. All clients that match no earlier case are refused.
    Unknown,
}

/// Adds to each case-insensitive case the other spellings of its name that occur in the map.
/// Otherwise, a later case with another spelling would decide for clients of the earlier case.
pub(super) fn add_spellings(cases: &mut [Case]) {
    let all: Vec<(Key, String)> = cases
        .iter()
        .filter_map(|case| match &case.condition {
            Condition::Is(predicate) => Some(predicate),
            _ => None,
        })
        .flat_map(|predicate| predicate.keys())
        .flat_map(|(key, names)| names.iter().map(move |name| (key, name.clone())))
        .collect();
    for case in cases {
        let Condition::Is(predicate) = &mut case.condition else {
            continue;
        };
        if case.spelling == Spelling::Exact {
            continue;
        }
        let with_spellings: Vec<_> = predicate
            .keys()
            .map(|(key, names)| {
                let mut names = names.to_vec();
                for (other, spelling) in &all {
                    if *other == key
                        && !names.contains(spelling)
                        && names.iter().any(|name| name.eq_ignore_ascii_case(spelling))
                    {
                        names.push(spelling.clone());
                    }
                }
                (key, names)
            })
            .collect();
        let mut widened = Predicate::default();
        for (key, names) in with_spellings {
            widened.require(key, names);
        }
        *predicate = widened;
    }
}

/// Refuses the clients of each later case that admits another spelling of a case-insensitive case,
/// if nginx treats these clients differently.
pub(super) fn close_other_spellings(cases: &mut [Case], rest: &mut List) {
    for at in 0..cases.len() {
        let case = &cases[at];
        let (Condition::Is(predicate), false) = (&case.condition, case.spelling == Spelling::Exact)
        else {
            continue;
        };
        let (predicate, targets) = (predicate.clone(), case.targets.clone());
        let is_whole = case.spelling == Spelling::WholeName;
        let admits_others = |list: &List| *list != targets && !refuses(list);
        let mut closed = Vec::new();
        let mut reaches_rest = true;
        for later in &mut cases[at + 1..] {
            let is_reached = match &later.condition {
                Condition::Constant(true) => {
                    reaches_rest = false;
                    break;
                }
                Condition::Is(other) => may_match_spelling(&predicate, is_whole, other),
                _ => false,
            };
            if is_reached && admits_others(&later.targets) {
                closed.push(format!("{:?}", later.text()));
                later.targets = always(Verdict::Refuse);
                let reason = "no rule admits its clients: another spelling of an earlier entry \
                     could match this entry";
                later.differences.push((Kind::LeftOut, reason.to_owned()));
            }
        }
        let closes_rest = reaches_rest && admits_others(rest);
        if closes_rest {
            *rest = always(Verdict::Refuse);
        }
        let difference = match (closed.is_empty(), closes_rest) {
            (true, true) => format!("{}; clients that match no case are refused", dn::CASE),
            (true, false) if refuses(&targets) => continue,
            (true, false) => dn::CASE.to_owned(),
            (false, _) => {
                let default = if closes_rest {
                    " and clients that match no case"
                } else {
                    ""
                };
                format!(
                    "{}; other spellings could match later entries, so the clients of {}{default} \
                     are refused",
                    dn::CASE,
                    closed.join(", ")
                )
            }
        };
        cases[at].differences.push((Kind::Differs, difference));
    }
}

/// Whether a name that differs from `own` only in case can match `later`. If `is_whole` is set,
/// `own` has all attributes of the name.
fn may_match_spelling(own: &Predicate, is_whole: bool, later: &Predicate) -> bool {
    let is_only_key = own.keys().count() == 1;
    later.keys().all(|(key, names)| match own.get(key) {
        None => !is_whole,
        // A certificate can have several units.
        Some(_) if key == Key::Ou && !is_whole => true,
        Some(own) => names.iter().any(|name| {
            let meets = own.iter().any(|own| {
                intersection(&own.to_ascii_lowercase(), &name.to_ascii_lowercase()).is_some()
            });
            let is_covered = is_only_key && own.iter().any(|own| covers(key, own, name));
            meets && !is_covered
        }),
    })
}

/// Returns the notes about all cases, with the numbers of their entries.
pub(super) fn notes(cases: &[Case]) -> Vec<(usize, Note)> {
    let mut notes = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let Some((number, line)) = &case.line else {
            continue;
        };
        let earlier = &cases[..at];
        let is_closed = earlier
            .iter()
            .any(|earlier| earlier.condition == Condition::Constant(true));
        let is_covered = match &case.condition {
            Condition::Is(predicate) => earlier.iter().any(|earlier| {
                matches!(&earlier.condition, Condition::Is(wide) if wide.includes(predicate))
            }),
            _ => false,
        };
        if is_closed && !matches!(case.condition, Condition::Constant(false)) {
            if !refuses(&case.targets) {
                let reason = "no rule: all clients that match no case before it are refused, see \
                     the other entries of this map";
                notes.push((*number, line.place.left_out(reason)));
            }
        } else if is_covered && !case.differences.is_empty() {
            let reason = "no rule: the rule of an earlier entry matches all its clients";
            notes.push((*number, line.place.left_out(reason)));
        } else {
            let reasons = case.differences.iter();
            notes.extend(reasons.map(|(kind, reason)| (*number, line.place.note(*kind, reason))));
        }
    }
    notes
}

/// Adds a case that refuses all later clients after each case that matches more names in the source
/// than in the translation, if these names would be treated differently.
pub(super) fn close_other_names(cases: &mut Vec<Case>, rest: &List) {
    let mut at = 0;
    while at < cases.len() {
        let case = &cases[at];
        at += 1;
        let Some(OtherNames { matched, advice }) = &case.others else {
            continue;
        };
        let later = cases[at..].iter();
        let later = later.filter(|later| later.condition != Condition::Constant(false));
        let later: Vec<_> = later.map(|later| &later.targets).chain([rest]).collect();
        if later.iter().all(|targets| **targets == case.targets) {
            continue;
        }
        let closes = !later.into_iter().all(refuses);
        let who = if closes {
            "clients that match no earlier case"
        } else {
            "these clients"
        };
        let difference = format!("{matched}; {who} are refused. {advice}");
        cases[at - 1].differences.push((Kind::Differs, difference));
        if closes {
            cases.insert(at, Case::closing(Order::Expression));
            at += 1;
        }
    }
}
