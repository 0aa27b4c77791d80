//! Represents access rules of the source programs as decision lists. As with `[[client]]` rules,
//! the first entry that matches a client decides.

use std::collections::BTreeMap;

use super::networks::network;

/// Maximum number of entries in a list. A negated condition can double the number.
const LARGEST: usize = 5_000;

/// The property of a client that a predicate compares. All except [`Self::Sni`] are keys of
/// `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Cn,
    Ou,
    Dns,
    Uri,
    Spki,
    IssuerCn,
    Source,
    Sni,
}

impl Key {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cn => "cn",
            Self::Ou => "ou",
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Spki => "spki",
            Self::IssuerCn => "issuer_cn",
            Self::Source => "source",
            Self::Sni => "sni",
        }
    }
}

/// A condition on a client: for each key, the client must match one of the values. Without keys,
/// the predicate matches all clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Predicate(BTreeMap<Key, Vec<String>>);

/// Conjunction of two predicates.
enum Both {
    Never,
    Exactly(Predicate),
    /// The conjunction cannot be expressed. This predicate matches all clients of the conjunction,
    /// but also others.
    Within(Predicate),
}

impl Predicate {
    pub(crate) fn new(key: Key, values: Vec<String>) -> Self {
        Self(BTreeMap::from([(key, values)]))
    }

    /// Sets the values of a key.
    pub(crate) fn require(&mut self, key: Key, values: Vec<String>) {
        self.0.insert(key, values);
    }

    pub(crate) fn matches_all(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, key: Key) -> Option<&[String]> {
        self.0.get(&key).map(Vec::as_slice)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, &[String])> {
        self.0.iter().map(|(key, values)| (*key, values.as_slice()))
    }

    /// Whether only clients with a certificate can match.
    pub(crate) fn needs_certificate(&self) -> bool {
        self.0.keys().any(|key| *key < Key::Source)
    }

    fn and(&self, other: &Self) -> Both {
        let mut both = self.clone();
        let mut exact = true;
        for (key, values) in &other.0 {
            let Some(own) = both.0.get(key) else {
                both.0.insert(*key, values.clone());
                continue;
            };
            match meet(*key, own, values) {
                None => exact = false,
                Some(common) if common.is_empty() => return Both::Never,
                Some(common) => {
                    both.0.insert(*key, common);
                }
            }
        }
        if exact {
            Both::Exactly(both)
        } else {
            Both::Within(both)
        }
    }

    /// Whether every client that matches `other` also matches this predicate. Returns `false` if
    /// this is uncertain.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, values)| {
            other.0.get(key).is_some_and(|narrow| {
                narrow
                    .iter()
                    .all(|value| values.iter().any(|wide| covers(*key, wide, value)))
            })
        })
    }
}

/// Whether each text that matches `value` also matches `pattern`.
pub(crate) fn covers(key: Key, pattern: &str, value: &str) -> bool {
    match key {
        _ if pattern == value => true,
        Key::Source => match (network(pattern), network(value)) {
            (Some(pattern), Some(value)) => pattern.covers(&value),
            _ => false,
        },
        Key::Cn | Key::Dns | Key::Sni if pattern.contains('*') => {
            let (pattern, value): (Vec<_>, Vec<_>) =
                (pattern.split('.').collect(), value.split('.').collect());
            let mut pairs = pattern.iter().zip(&value);
            pattern.len() == value.len() && pairs.all(|(p, v)| *p == "*" || p == v)
        }
        _ => false,
    }
}

/// Returns the pattern that matches exactly the texts that match both patterns. Returns `None` if
/// there are none.
pub(crate) fn intersection(a: &str, b: &str) -> Option<String> {
    let (a, b): (Vec<_>, Vec<_>) = (a.split('.').collect(), b.split('.').collect());
    let labels = a.iter().zip(&b).map(|(a, b)| match (*a, *b) {
        ("*", label) | (label, "*") => Some(label),
        (a, b) => (a == b).then_some(a),
    });
    let labels: Vec<_> = labels.collect::<Option<_>>()?;
    (a.len() == b.len()).then(|| labels.join("."))
}

/// Returns the intersection of two lists of values. `None` if no list expresses the
/// intersection.
fn meet(key: Key, a: &[String], b: &[String]) -> Option<Vec<String>> {
    let subset = |narrow: &[String], wide: &[String]| {
        let mut values = narrow.iter();
        values.all(|value| wide.iter().any(|pattern| covers(key, pattern, value)))
    };
    if subset(a, b) {
        return Some(a.to_vec());
    }
    if subset(b, a) {
        return Some(b.to_vec());
    }
    // A certificate can have several values for these keys, and can match each list with a
    // different one.
    if matches!(key, Key::Ou | Key::Dns | Key::Uri) {
        return None;
    }
    let mut common = Vec::new();
    for x in a {
        for y in b {
            if covers(key, x, y) {
                common.push(y.clone());
            } else if covers(key, y, x) {
                common.push(x.clone());
            } else if matches!(key, Key::Cn | Key::Sni) {
                common.extend(intersection(x, y));
            }
        }
    }
    Some(common)
}

/// The decision for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refuse,
    /// The rules do not refuse the client. Later rules may.
    Accept,
    To(String),
}

/// A decision list. The first matching entry decides. The last entry matches all clients.
pub(crate) type List = Vec<(Predicate, Verdict)>;

/// Returns a list with the same verdict for all clients.
pub(crate) fn always(verdict: Verdict) -> List {
    vec![(Predicate::default(), verdict)]
}

/// Why a condition on the server name has no equivalent at a listener without TLS.
pub(crate) const SNI_NEEDS_TLS: &str =
    "routing by SNI needs TLS at the listener; TLS is never passed through";

/// A condition in the source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Constant(bool),
    Is(Predicate),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
    /// A condition without an equivalent.
    Unknown,
}

impl Condition {
    /// Replaces each [`Self::Unknown`] with a constant. If `holds` is set, the result is true
    /// whenever the condition may be true. Otherwise, it is true only if the condition is
    /// certainly true.
    pub(crate) fn resolved(&self, holds: bool) -> Self {
        let all = |list: &[Self]| list.iter().map(|part| part.resolved(holds)).collect();
        match self {
            Self::Unknown => Self::Constant(holds),
            Self::Not(inner) => Self::Not(Box::new(inner.resolved(!holds))),
            Self::All(list) => Self::All(all(list)),
            Self::Any(list) => Self::Any(all(list)),
            Self::Constant(_) | Self::Is(_) => self.clone(),
        }
    }
}

/// A decision list would have too many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Returns a list that applies `then` to clients that fulfil the condition, and `otherwise` to all
/// others. [`Condition::Unknown`] counts as not fulfilled.
pub(crate) fn when(condition: &Condition, then: &List, otherwise: &List) -> Result<List, TooMany> {
    let list = match condition {
        Condition::Constant(true) => then.clone(),
        Condition::Constant(false) | Condition::Unknown => otherwise.clone(),
        Condition::Not(inner) => when(inner, otherwise, then)?,
        Condition::Is(predicate) => {
            let mut list = within(predicate, then);
            list.extend(otherwise.iter().cloned());
            list
        }
        Condition::All(list) => match list.split_first() {
            None => then.clone(),
            Some((first, rest)) => {
                let then = when(&Condition::All(rest.to_vec()), then, otherwise)?;
                when(first, &then, otherwise)?
            }
        },
        Condition::Any(list) => match list.split_first() {
            None => otherwise.clone(),
            Some((first, rest)) => {
                let otherwise = when(&Condition::Any(rest.to_vec()), then, otherwise)?;
                when(first, then, &otherwise)?
            }
        },
    };
    let list = simplified(list);
    if list.len() > LARGEST {
        return Err(TooMany);
    }
    Ok(list)
}

/// Returns a list that applies the first matching case, or `rest` if no case matches. Faster than
/// one [`when`] per case.
pub(crate) fn first_of(cases: &[(Predicate, List)], rest: &List) -> Result<List, TooMany> {
    let mut all = Vec::new();
    for (predicate, list) in cases {
        all.extend(within(predicate, list));
        if all.len() > LARGEST {
            return Err(TooMany);
        }
    }
    all.extend(rest.iter().cloned());
    Ok(simplified(all))
}

/// Restricts the entries of a list to clients that match a predicate. If a restriction cannot be
/// expressed, the entry refuses its clients.
fn within(predicate: &Predicate, list: &List) -> List {
    let mut narrowed = Vec::new();
    for (also, verdict) in list {
        match predicate.and(also) {
            Both::Never => {}
            Both::Exactly(both) => narrowed.push((both, verdict.clone())),
            Both::Within(both) => narrowed.push((both, Verdict::Refuse)),
        }
    }
    narrowed
}

/// Applies `next` to the clients for which the verdict of `list` is `from`.
pub(crate) fn chain(list: &List, from: &Verdict, next: &List) -> Result<List, TooMany> {
    let mut all = Vec::new();
    for (predicate, verdict) in list {
        if verdict == from {
            all.extend(within(predicate, next));
        } else {
            all.push((predicate.clone(), verdict.clone()));
        }
    }
    let all = simplified(all);
    if all.len() > LARGEST {
        return Err(TooMany);
    }
    Ok(all)
}

/// Whether `list` admits only clients that `other` admits. Returns `false` if this is uncertain.
pub(crate) fn admits_no_more(list: &List, other: &List) -> bool {
    let refuses = |(_, verdict): &(Predicate, Verdict)| *verdict == Verdict::Refuse;
    let has_same = || {
        let mut pairs = list.iter().zip(other);
        list.len() == other.len() && pairs.all(|(a, b)| a.0 == b.0 && refuses(a) == refuses(b))
    };
    list.iter().all(refuses) || !other.iter().any(refuses) || has_same()
}

/// Removes redundant entries.
pub(crate) fn simplified(list: List) -> List {
    let mut kept: List = Vec::new();
    for (predicate, verdict) in list {
        if kept.iter().any(|(earlier, _)| earlier.includes(&predicate)) {
            continue;
        }
        kept.push((predicate, verdict));
    }
    // Remove entries directly before the last one if they have the same verdict.
    while let [.., (_, before), (_, last)] = kept.as_slice()
        && before == last
    {
        kept.remove(kept.len() - 2);
    }
    kept
}

/// Returns the entries that apply to clients whose server name (SNI) is covered by `name`. If
/// `name` is `None`, returns the entries for clients whose server name is not in the list.
pub(crate) fn at_sni(list: &List, name: Option<&str>) -> List {
    let applies = list.iter().filter_map(|(predicate, verdict)| {
        let mut predicate = predicate.clone();
        if let Some(patterns) = predicate.0.remove(&Key::Sni) {
            let mut patterns = patterns.iter();
            let name = name?;
            if !patterns.any(|pattern| covers(Key::Sni, pattern, name)) {
                return None;
            }
        }
        Some((predicate, verdict.clone()))
    });
    simplified(applies.collect())
}

/// Returns the server names in a list, with those that match several patterns of the list, so that
/// one decision applies to all clients of each name. The first entry that matches a server name
/// decides: names with fewer wildcards come first.
pub(crate) fn server_names(list: &List) -> Result<Vec<String>, TooMany> {
    let mut names: Vec<String> = Vec::new();
    for value in list
        .iter()
        .filter_map(|(predicate, _)| predicate.get(Key::Sni))
        .flatten()
    {
        if !names.contains(value) {
            names.push(value.clone());
        }
    }
    let mut at = 0;
    while at < names.len() {
        let more = names[..at]
            .iter()
            .filter_map(|earlier| intersection(earlier, &names[at]));
        for name in more.collect::<Vec<_>>() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        at += 1;
        if names.len() > LARGEST {
            return Err(TooMany);
        }
    }
    names.sort_by_key(|name| name.matches('*').count());
    Ok(names)
}

/// Adds the list of another listener to the combined rules. Each entry of the result has one
/// verdict per listener.
pub(crate) fn product(
    rules: &[(Predicate, Vec<Verdict>)],
    list: &List,
) -> Result<Vec<(Predicate, Vec<Verdict>)>, TooMany> {
    let mut all: Vec<(Predicate, Vec<Verdict>)> = Vec::new();
    for (predicate, verdicts) in rules {
        for (also, verdict) in list {
            let (both, verdict) = match predicate.and(also) {
                Both::Never => continue,
                Both::Exactly(both) => (both, verdict.clone()),
                Both::Within(both) => (both, Verdict::Refuse),
            };
            if all.iter().any(|(earlier, _)| earlier.includes(&both)) {
                continue;
            }
            let mut verdicts = verdicts.clone();
            verdicts.push(verdict);
            all.push((both, verdicts));
            if all.len() > LARGEST {
                return Err(TooMany);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
