//! `map` and `geo` blocks: variables whose value depends on the client.

use super::{
    super::{
        access::{Condition, Key, List, Predicate, TooMany, Verdict, always, first_of},
        dn,
        networks::network,
        regex::{self, Pattern},
    },
    parser::Directive,
};

/// Maximum depth of maps whose values refer to other variables.
const DEEPEST: usize = 8;

/// The context in which variables are evaluated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    /// The directives of `stream`.
    pub(crate) stream: &'a [Directive],
    /// Whether the listener terminates TLS.
    pub(crate) tls: bool,
    /// Whether clients present verified certificates.
    pub(crate) certificates: bool,
}

/// Why a variable cannot be translated.
pub(crate) type Reason = String;

/// Returns the value of `$name` for each client, as a target of `proxy_pass`. Clients are refused
/// if their value is empty or cannot be translated. In the second case, `notes` gets the reason.
pub(crate) fn values(
    name: &str,
    scope: Scope<'_>,
    notes: &mut Vec<(Directive, Reason)>,
) -> Result<List, Reason> {
    list(name, scope, notes, 0)
}

fn list(
    name: &str,
    scope: Scope<'_>,
    notes: &mut Vec<(Directive, Reason)>,
    depth: usize,
) -> Result<List, Reason> {
    let unknown = || format!("the variable {name} has no equivalent");
    if depth > DEEPEST {
        return Err(format!("the variable {name} refers to itself"));
    }
    let found = scope.stream.iter().find(|directive| {
        let names: &[String] = directive.arguments();
        matches!(directive.name(), "map" | "geo") && names.last().is_some_and(|last| last == name)
    });
    let map = found.ok_or_else(unknown)?;
    let source = match (map.name(), map.arguments()) {
        ("geo", [_]) => "$remote_addr",
        (_, [source, _]) => source.as_str(),
        _ => return Err(unknown()),
    };
    if map.name() == "geo" && source != "$remote_addr" {
        return Err(format!("`geo` of {source} has no equivalent"));
    }
    let key = Source::of(source, map.name() == "geo", scope)?;
    let hostnames = map.children().iter().any(|line| line.name() == "hostnames");
    let mut cases: Vec<Case> = Vec::new();
    let mut rest = always(Verdict::Refuse);
    let default = map
        .children()
        .iter()
        .find(|line| line.name() == "default")
        .map_or("", |line| line.word(1));
    for line in map.children() {
        let value = match line.arguments() {
            [value] => value,
            _ => continue,
        };
        let targets = match value.strip_prefix('$') {
            Some(_) => match list(value, scope, notes, depth + 1) {
                Ok(targets) => targets,
                Err(reason) => {
                    notes.push((line.clone(), format!("{reason}; these clients are refused")));
                    always(Verdict::Refuse)
                }
            },
            None if value.is_empty() => always(Verdict::Refuse),
            None => always(Verdict::To(value.clone())),
        };
        if line.name() == "default" {
            rest = targets;
            continue;
        }
        let refuses = refuses(&targets);
        if key.never_matches(line.name(), hostnames) {
            notes.push((line.clone(), NEVER_MATCHES.to_owned()));
            continue;
        }
        let (order, condition) = key.case(line.name(), hostnames, refuses);
        match condition {
            Ok(condition) => {
                if key.is_widened(line.name()) {
                    notes.push((line.clone(), dn::WIDER.to_owned()));
                }
                let ignores_case = key.ignores_case(line.name(), &condition);
                let others = key.other_names(line.name(), &condition);
                cases.push(Case {
                    order,
                    condition,
                    targets,
                    ignores_case,
                    others: others.map(|others| (line.clone(), others)),
                });
                // Clients whose names differ in case get the default value instead. The default
                // must not admit them if the source refuses them or sends them elsewhere.
                if ignores_case && !default.is_empty() && default != value {
                    notes.push((
                        line.clone(),
                        format!("{}; clients that match no case are refused", dn::CASE),
                    ));
                    cases.push(Case::closing(Order::Unknown));
                } else if ignores_case && !refuses {
                    notes.push((line.clone(), dn::CASE.to_owned()));
                }
            }
            Err(reason) => {
                let hint = key.hint(line.name());
                notes.push((
                    line.clone(),
                    format!("{reason}; clients that match no earlier case are refused{hint}"),
                ));
                // An expression must not admit clients with an exact entry that is refused.
                if let Some(subject) = key.superset(line.name()) {
                    cases.push(Case {
                        condition: Condition::Is(subject),
                        ignores_case: true,
                        ..Case::closing(Order::Exact)
                    });
                }
                cases.push(Case::closing(order));
            }
        }
    }
    // Sorting is stable: cases of the same kind keep their order.
    cases.sort_by_key(|case| case.order);
    add_spellings(&mut cases);
    close_other_names(&mut cases, &rest, notes);
    let cases: Vec<_> = cases
        .into_iter()
        .filter_map(|case| match case.condition {
            Condition::Is(predicate) => Some((predicate, case.targets)),
            Condition::Constant(true) => Some((Predicate::default(), case.targets)),
            _ => None,
        })
        .collect();
    first_of(&cases, &rest).map_err(|TooMany| "the maps have too many cases".to_owned())
}

fn refuses(targets: &List) -> bool {
    targets
        .iter()
        .all(|(_, verdict)| *verdict == Verdict::Refuse)
}

/// Returns the targets of a map of server names that are read without terminating TLS, in the order
/// of the file. Empty if `name` is not such a map.
pub(crate) fn preread_targets(name: &str, stream: &[Directive]) -> Vec<String> {
    let is_map = |line: &&Directive| {
        line.name() == "map"
            && line.word(1).starts_with("$ssl_preread_")
            && line.arguments().last().is_some_and(|last| last == name)
    };
    let Some(map) = stream.iter().find(is_map) else {
        return Vec::new();
    };
    let lines = map.children().iter();
    let mut targets: Vec<String> = lines
        .filter(|line| line.arguments().len() == 1)
        .map(|line| line.word(1).to_owned())
        .collect();
    if !map.children().iter().any(|line| line.name() == "default") {
        targets.push(String::new());
    }
    let mut seen = std::collections::HashSet::new();
    targets.retain(|target| seen.insert(target.clone()));
    targets
}

/// Adds a case that refuses all later clients after each case that matches more names in the source
/// than in the translation, if these names would be treated differently.
fn close_other_names(cases: &mut Vec<Case>, rest: &List, notes: &mut Vec<(Directive, Reason)>) {
    let mut at = 0;
    while at < cases.len() {
        let case = &cases[at];
        at += 1;
        let Some((line, others)) = &case.others else {
            continue;
        };
        let later = cases[at..].iter();
        let later = later.filter(|later| later.condition != Condition::Constant(false));
        let later: Vec<_> = later.map(|later| &later.targets).chain([rest]).collect();
        if later.iter().all(|targets| **targets == case.targets) {
            continue;
        }
        let OtherNames { matched, advice } = others;
        if later.into_iter().all(refuses) {
            notes.push((
                line.clone(),
                format!("{matched}; these clients are refused. {advice}"),
            ));
            continue;
        }
        notes.push((
            line.clone(),
            format!("{matched}; clients that match no earlier case are refused. {advice}"),
        ));
        cases.insert(at, Case::closing(Order::Expression));
        at += 1;
    }
}

/// Why an entry of a map without `hostnames` has no effect.
const NEVER_MATCHES: &str = "without `hostnames`, this is a literal text that no client has: the \
    entry has no effect";

/// A case of a map.
struct Case {
    order: Order,
    condition: Condition,
    targets: List,
    /// nginx compares the case case-insensitively, although client rules are case-sensitive.
    ignores_case: bool,
    /// The directive, if the source matches more names than the condition.
    others: Option<(Directive, OtherNames)>,
}

impl Case {
    /// Refuses all clients that match no earlier case.
    fn closing(order: Order) -> Self {
        Self {
            order,
            condition: Condition::Constant(true),
            targets: always(Verdict::Refuse),
            ignores_case: false,
            others: None,
        }
    }
}

/// Names that the source matches, but the translation does not.
struct OtherNames {
    /// Describes them.
    matched: String,
    /// How to change the source so that it does not match them.
    advice: String,
}

/// Adds to each case-insensitive case the other spellings of its name that occur in the map.
/// Otherwise, a later case with another spelling would decide for clients of the earlier case.
fn add_spellings(cases: &mut [Case]) {
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
        if !case.ignores_case {
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

/// The order in which nginx evaluates the cases of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Exact,
    /// More specific networks and longer names come first.
    Specific(std::cmp::Reverse<usize>),
    /// Masks with a wildcard at the end.
    Trailing,
    Expression,
    /// A case without an equivalent. All clients that match no earlier case are refused.
    Unknown,
}

/// The variable that a map compares.
enum Source {
    Names(Key),
    /// The distinguished name of the subject or, with the key `issuer_cn`, of the issuer.
    Subject(Key),
    /// The address of the client, in a `geo` block or, if not set, in a `map`.
    Address {
        geo: bool,
    },
    /// A constant text.
    Constant(&'static str),
}

impl Source {
    fn of(source: &str, geo: bool, scope: Scope<'_>) -> Result<Self, Reason> {
        Ok(match source {
            "$ssl_server_name" if scope.tls => Self::Names(Key::Sni),
            "$ssl_server_name" | "$ssl_client_s_dn" if !scope.tls => Self::Constant(""),
            "$ssl_client_s_dn" if scope.certificates => Self::Subject(Key::Cn),
            "$ssl_client_i_dn" if scope.certificates => Self::Subject(Key::IssuerCn),
            "$ssl_client_s_dn" | "$ssl_client_i_dn" => Self::Constant(""),
            "$ssl_client_verify" if scope.certificates => Self::Constant("SUCCESS"),
            "$ssl_client_verify" => Self::Constant("NONE"),
            "$remote_addr" => Self::Address { geo },
            "$ssl_preread_server_name"
            | "$ssl_preread_alpn_protocols"
            | "$ssl_preread_protocol" => {
                return Err(
                    "routing by SNI needs TLS at the listener; TLS is never passed through"
                        .to_owned(),
                );
            }
            other if !is_common_name(other, scope) => {
                return Err(format!("{other} has no equivalent"));
            }
            _ if scope.certificates => Self::Names(Key::Cn),
            _ => Self::Constant(""),
        })
    }

    /// Whether the condition of [`Self::case`] matches more clients than `text` in the source.
    fn is_widened(&self, text: &str) -> bool {
        let (Self::Subject(_), text) = (self, without_escape(text)) else {
            return false;
        };
        // A plain text is the whole subject.
        expression(text).is_none_or(|expression| {
            dn::common_names(expression).is_some_and(|found| found.is_wider)
        })
    }

    /// Whether nginx compares this case of the map case-insensitively, but the condition does not.
    fn ignores_case(&self, text: &str, condition: &Condition) -> bool {
        let (Self::Subject(_) | Self::Names(Key::Cn), Condition::Is(predicate)) = (self, condition)
        else {
            return false;
        };
        let text = without_escape(text);
        // nginx also ignores case in plain texts.
        let in_source = text.starts_with("~*") || expression(text).is_none();
        let has_letter = |name: &String| name.contains(|c: char| c.is_ascii_alphabetic());
        in_source
            && predicate
                .keys()
                .any(|(_, names)| names.iter().any(has_letter))
    }

    /// Returns the names that nginx matches in addition to the condition of [`Self::case`].
    fn other_names(&self, text: &str, condition: &Condition) -> Option<OtherNames> {
        let (text, Condition::Is(_)) = (without_escape(text), condition) else {
            return None;
        };
        match (self, expression(text)) {
            (Self::Subject(_), Some(expression)) => {
                let found = dn::common_names(expression).filter(|found| !found.is_exact)?;
                let (matched, exact) = dn::longer_names(expression, &found.names);
                Some(OtherNames {
                    matched: format!("\"{text}\" {matched}"),
                    advice: format!("Write {exact} for exactly this name"),
                })
            }
            (Self::Names(Key::Cn), found) => {
                let domain = match found {
                    Some(expression) => regex::patterns(expression)?
                        .iter()
                        .any(|pattern| matches!(pattern, Pattern::Below(_))),
                    None => text.starts_with(['*', '.']),
                };
                domain.then(|| OtherNames {
                    matched: format!(
                        "{text:?} also matches names with more than three further labels"
                    ),
                    advice: "Write the complete names".to_owned(),
                })
            }
            _ => None,
        }
    }

    /// Whether the entry is a literal text that no client can have.
    fn never_matches(&self, text: &str, hostnames: bool) -> bool {
        let text = without_escape(text);
        if expression(text).is_some() {
            return false;
        }
        match self {
            Self::Names(Key::Sni) if !hostnames => {
                text.contains('*') || (!text.is_empty() && text.split('.').any(str::is_empty))
            }
            Self::Address { geo: false } => text.contains('/'),
            _ => false,
        }
    }

    /// Returns a sentence about how to translate an entry that [`Self::case`] does not translate.
    fn hint(&self, text: &str) -> String {
        let unit = match (self, expression(without_escape(text))) {
            (Self::Subject(Key::Cn), Some(expression)) => dn::unit_in(expression),
            _ => None,
        };
        unit.map_or_else(String::new, |unit| {
            format!(". A rule with match = {{ ou = \"{unit}\" }} accepts exactly this unit")
        })
    }

    /// Returns a predicate that matches all clients of an exact entry that [`Self::case`] does not
    /// translate.
    fn superset(&self, text: &str) -> Option<Predicate> {
        let text = without_escape(text);
        match (self, expression(text)) {
            (Self::Subject(Key::Cn), None) => {
                dn::common_name(text).map(|name| Predicate::new(Key::Cn, vec![name]))
            }
            _ => None,
        }
    }

    /// Returns the order in which nginx evaluates a case.
    fn order(&self, text: &str, hostnames: bool) -> Order {
        let length = std::cmp::Reverse(text.len());
        match self {
            _ if expression(text).is_some() => Order::Expression,
            Self::Names(_) if hostnames && text.starts_with(['*', '.']) => Order::Specific(length),
            Self::Names(_) if hostnames && text.ends_with(".*") => Order::Trailing,
            _ => Order::Exact,
        }
    }

    /// Returns the condition for clients with this value, and when it is evaluated. If `refuses` is
    /// set, they are refused, so the condition must not match fewer clients than the source.
    fn case(
        &self,
        text: &str,
        hostnames: bool,
        refuses: bool,
    ) -> (Order, Result<Condition, Reason>) {
        let text = without_escape(text);
        let order = self.order(text, hostnames);
        match (self, network(text)) {
            (Self::Address { .. }, Some(network)) => {
                let network = network.to_string();
                let prefix = network
                    .split_once('/')
                    .and_then(|(_, bits)| bits.parse().ok());
                let order = Order::Specific(std::cmp::Reverse(prefix.unwrap_or(usize::MAX)));
                let predicate = Predicate::new(Key::Source, vec![network]);
                (order, Ok(Condition::Is(predicate)))
            }
            _ => match self.condition(text, hostnames, refuses) {
                // The exact entry concerns no client of another entry.
                Err(reason) if order == Order::Exact => (Order::Unknown, Err(reason)),
                condition => (order, condition),
            },
        }
    }

    fn condition(&self, text: &str, hostnames: bool, refuses: bool) -> Result<Condition, Reason> {
        let expression = expression(text);
        let unknown = || format!("{text:?} has no equivalent");
        let is = |key: Key, values: Vec<String>| Condition::Is(Predicate::new(key, values));
        match self {
            Self::Constant(value) => match expression {
                None => Ok(Condition::Constant(value.eq_ignore_ascii_case(text))),
                Some(_) if value.is_empty() => Ok(Condition::Constant(false)),
                Some(_) => Err(unknown()),
            },
            Self::Address { .. } => Err(unknown()),
            Self::Names(key) => {
                let patterns = match expression {
                    Some(expression) => regex::patterns(expression).ok_or_else(unknown)?,
                    None if hostnames && text.starts_with("*.") => {
                        vec![Pattern::Below(text[2..].to_owned())]
                    }
                    None if hostnames && text.starts_with('.') => vec![
                        Pattern::Exact(text[1..].to_owned()),
                        Pattern::Below(text[1..].to_owned()),
                    ],
                    None => vec![Pattern::Exact(text.to_owned())],
                };
                let is_narrower = |pattern: &Pattern| matches!(pattern, Pattern::Below(_));
                if refuses && patterns.iter().any(is_narrower) {
                    return Err(
                        "names with more than three further labels cannot be matched".to_owned(),
                    );
                }
                let names = patterns.iter().map(|pattern| pattern.names(*key));
                let names = names
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(unknown)?
                    .concat();
                let has_empty_label = |name: &String| name.split('.').any(str::is_empty);
                if names.iter().any(has_empty_label) {
                    return Err(unknown());
                }
                Ok(is(*key, names))
            }
            Self::Subject(key) => match expression {
                None if *key == Key::Cn => Ok(Condition::Is(dn::subject(text)?)),
                None => Err(unknown()),
                Some(expression) => {
                    if let Some(found) = dn::common_names(expression) {
                        return Ok(is(*key, found.names));
                    }
                    match dn::units(expression) {
                        Some(units) if *key == Key::Cn => Ok(is(Key::Ou, units)),
                        _ if expression.contains("OU=") => {
                            Err("import does not translate this expression".to_owned())
                        }
                        _ => Err(unknown()),
                    }
                }
            },
        }
    }
}

/// Whether each client with a certificate has its own value of this variable.
pub(crate) fn identifies_client(name: &str, scope: Scope<'_>) -> bool {
    match name {
        "$binary_remote_addr" | "$remote_addr" => !scope.certificates,
        "$ssl_client_s_dn"
        | "$ssl_client_serial"
        | "$ssl_client_fingerprint"
        | "$ssl_client_cert"
        | "$ssl_client_raw_cert" => scope.certificates,
        _ => scope.certificates && is_common_name(name, scope),
    }
}

/// Whether a `map` sets `$name` to the common name of the client's subject, and to nothing else:
///
/// ```text
/// map $ssl_client_s_dn $name {
///     default "";
///     ~CN=(?<cn>[^,]+) $cn;
/// }
/// ```
fn is_common_name(name: &str, scope: Scope<'_>) -> bool {
    let is_subject = |line: &&Directive| {
        line.name() == "map" && line.word(1) == "$ssl_client_s_dn" && line.word(2) == name
    };
    let Some(map) = scope.stream.iter().find(is_subject) else {
        return false;
    };
    let mut cases = map.children().iter().filter(|line| {
        let is_empty_default = line.name() == "default" && line.word(1).is_empty();
        !is_empty_default && line.name() != "volatile"
    });
    let Some(case) = cases.next().filter(|_| cases.next().is_none()) else {
        return false;
    };
    let captured = expression(case.name()).and_then(dn::captured_common_name);
    captured.is_some_and(|captured| case.word(1) == format!("${captured}"))
}

/// Returns the text of a case. A backslash escapes a first character that has a special meaning.
fn without_escape(text: &str) -> &str {
    text.strip_prefix('\\').unwrap_or(text)
}

/// Returns the regular expression of a case.
fn expression(text: &str) -> Option<&str> {
    text.strip_prefix("~*").or(text.strip_prefix('~'))
}
