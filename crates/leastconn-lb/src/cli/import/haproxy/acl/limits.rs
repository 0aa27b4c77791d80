//! Limits in conditions, and the stick tables that they refer to.

use std::collections::HashMap;

use super::{
    super::{
        super::{
            access::{Condition, Key},
            units,
        },
        lexer::Line,
    },
    Criterion, Scope,
};

/// The key and the table of a `track-sc` rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracking {
    pub(crate) key: Tracked,
    /// `None` is the table of the section itself.
    table: Option<String>,
    /// The clients to which the rule applies. `None` if they are not known.
    pub(crate) applies: Option<Condition>,
}

/// Key of a stick table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    Source,
    /// The address from which the PROXY header comes.
    Proxy,
    CommonName,
    Other,
}

impl Tracked {
    fn parse(fetch: &str, argument: &str, scope: &Scope<'_>) -> Self {
        match (fetch, argument.to_ascii_lowercase().as_str()) {
            ("src", "") => scope.source(),
            ("ssl_c_s_dn", "cn") => Self::CommonName,
            _ => Self::Other,
        }
    }
}

/// The periods of the rates in a stick table, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Periods {
    conn_rate: Option<u64>,
    sess_rate: Option<u64>,
}

/// A limit in a condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limited {
    pub(crate) limit: Limit,
    /// The clients whose connections the source counts. `None` if they are not known.
    pub(crate) applies: Option<Condition>,
}

/// The kind and the number of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// More than this number of new connections in a period, which is given in milliseconds.
    Rate(Tracked, u64, u64),
    /// More than this number of open connections.
    Open(Tracked, u64),
}

/// The counters of a section.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(HashMap<String, Tracking>);

impl Counters {
    /// Adds a `track-sc` rule. The rules must come in the order in which HAProxy evaluates them.
    pub(crate) fn add(&mut self, counter: String, tracking: Tracking) {
        match self.0.get_mut(&counter) {
            None => {
                self.0.insert(counter, tracking);
            }
            // The first rule that applies sets the key, and this one applies to all clients.
            Some(first) if is_always(&first.applies) => {}
            Some(first) if first.key == tracking.key && first.table == tracking.table => {
                first.applies = either(first.applies.take(), tracking.applies);
            }
            Some(first) => first.key = Tracked::Other,
        }
    }
}

/// Translates a comparison of a counter with a number.
pub(super) fn limit(criterion: &Criterion<'_>, scope: &Scope<'_>) -> Option<Limited> {
    let number = match criterion.values.as_slice() {
        [operator, number] => {
            let number: u64 = number.parse().ok()?;
            match operator.as_str() {
                "gt" => number,
                "ge" => number.checked_sub(1)?,
                _ => return None,
            }
        }
        _ => return None,
    };
    let (tracking, what) = counter(criterion, scope)?;
    let table = tracking.table.as_deref().unwrap_or(scope.proxy);
    let rate = |period: Option<u64>| Some(Limit::Rate(tracking.key, number, period?));
    let limit = match what {
        "conn_rate" => rate(scope.tables.get(table)?.conn_rate)?,
        "sess_rate" => rate(scope.tables.get(table)?.sess_rate)?,
        "conn_cur" => Limit::Open(tracking.key, number),
        _ => return None,
    };
    Some(Limited {
        limit,
        applies: tracking.applies,
    })
}

fn is_always(applies: &Option<Condition>) -> bool {
    *applies == Some(Condition::Constant(true))
}

/// Returns the clients of both.
fn either(a: Option<Condition>, b: Option<Condition>) -> Option<Condition> {
    if is_always(&a) || is_always(&b) {
        return Some(Condition::Constant(true));
    }
    Some(Condition::Any(vec![a?, b?]))
}

/// Whether a condition compares nothing but the key of the table, so that all connections with the
/// same entry are counted, or none.
fn compares_only(condition: &Condition, tracked: Tracked) -> bool {
    match condition {
        Condition::Constant(_) => true,
        Condition::Unknown => false,
        Condition::Is(predicate) => predicate.keys().all(|(key, _)| {
            matches!(
                (key, tracked),
                (Key::Source, Tracked::Source) | (Key::Cn, Tracked::CommonName)
            )
        }),
        Condition::Not(inner) => compares_only(inner, tracked),
        Condition::All(list) | Condition::Any(list) => {
            list.iter().all(|part| compares_only(part, tracked))
        }
    }
}

/// Returns what a test counts, and the name of the counter in the stick table.
fn counter<'a>(criterion: &Criterion<'a>, scope: &Scope<'_>) -> Option<(Tracking, &'a str)> {
    let argument = criterion.argument.replace(' ', "");
    if !criterion.converters.is_empty() {
        return looked_up(criterion, scope);
    }
    if let Some(what) = criterion.fetch.strip_prefix("src_") {
        let table = (!argument.is_empty()).then_some(argument);
        let name = table.as_deref().unwrap_or(scope.proxy);
        let source = scope.source();
        let counted = scope.counted(source, name);
        let counted = counted.or_else(|| scope.counted(Tracked::Proxy, name));
        // Without a `track-sc` rule here, other sections count the clients.
        let everyone = Some(Condition::Constant(true));
        let tracking = Tracking {
            key: counted.as_ref().map_or(source, |tracking| tracking.key),
            table,
            applies: counted.map_or(everyone, |tracking| tracking.applies),
        };
        return Some((tracking, what));
    }
    let (prefix, what) = criterion.fetch.split_once('_')?;
    let (counter, table) = match prefix {
        "sc" => argument.split_once(',').unwrap_or((&argument, "")),
        _ => (prefix.strip_prefix("sc")?, argument.as_str()),
    };
    let tracking = scope.tracked.0.get(counter)?;
    let own = tracking.table.as_deref().unwrap_or(scope.proxy);
    // Only the rule for the same table counts.
    (table.is_empty() || table == own).then(|| (tracking.clone(), what))
}

/// Returns what a test with one converter counts, such as `src,table_conn_cur(TABLE)`.
fn looked_up<'a>(criterion: &Criterion<'a>, scope: &Scope<'_>) -> Option<(Tracking, &'a str)> {
    let (name, table) = criterion.converters.strip_suffix(')')?.split_once('(')?;
    let what = name.strip_prefix("table_")?;
    let key = Tracked::parse(criterion.fetch, criterion.argument, scope);
    let tracking = scope.counted(key, table)?;
    (key != Tracked::Other).then_some((tracking, what))
}

impl Scope<'_> {
    /// Returns what `src` is in the current rule.
    fn source(&self) -> Tracked {
        if self.is_early && self.has_header {
            Tracked::Proxy
        } else {
            Tracked::Source
        }
    }

    /// Returns the `track-sc` rules for a key of a table as one. A look-up of the key also concerns
    /// connections that are not counted. These are unknown, unless the condition of the rules
    /// compares only the key.
    fn counted(&self, key: Tracked, table: &str) -> Option<Tracking> {
        let counters = self.tracked.0.values().filter(|tracking| {
            tracking.key == key && tracking.table.as_deref().unwrap_or(self.proxy) == table
        });
        let mut counted = counters.cloned().reduce(|first, next| Tracking {
            applies: either(first.applies, next.applies),
            ..next
        })?;
        counted.applies = counted
            .applies
            .filter(|condition| compares_only(condition, key));
        Some(counted)
    }
}

/// Parses `tcp-request … track-scN KEY [table NAME]`. Returns the counter and what it counts.
/// `applies` are the clients to which the rule applies.
pub(crate) fn tracked(
    line: &Line,
    applies: Option<Condition>,
    scope: &Scope<'_>,
) -> Option<(String, Tracking)> {
    let counter = line.word(2).strip_prefix("track-sc")?;
    let (fetch, argument) = match line.word(3).strip_suffix(')') {
        Some(call) => call.split_once('(')?,
        None => (line.word(3), ""),
    };
    let table = line.words.iter().position(|word| word == "table");
    let table = table.and_then(|at| line.words.get(at + 1)).cloned();
    let tracking = Tracking {
        key: Tracked::parse(fetch, argument, scope),
        table,
        applies,
    };
    Some((counter.to_owned(), tracking))
}

/// Returns the periods in a `stick-table` or `table` line.
pub(crate) fn periods(line: &Line) -> Periods {
    let period = |name: &str| {
        let mut found = line.words.iter().filter_map(|word| {
            // It may come after other types of data, as in `conn_cur,conn_rate(30s)`.
            let mut parts = word.split(')').filter_map(|part| {
                let (kind, period) = part.rsplit(',').next()?.split_once('(')?;
                (kind == name).then_some(period)
            });
            parts.next()
        });
        units::milliseconds(found.next()?, 1).filter(|period| *period > 0)
    };
    Periods {
        conn_rate: period("conn_rate"),
        sess_rate: period("sess_rate"),
    }
}
