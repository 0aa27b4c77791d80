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
    let key = Source::of(source, scope)?;
    let hostnames = map.children().iter().any(|line| line.name() == "hostnames");
    let mut cases = Vec::new();
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
        let refuses = targets
            .iter()
            .all(|(_, verdict)| *verdict == Verdict::Refuse);
        match key.case(line.name(), hostnames, refuses) {
            Ok((order, condition)) => {
                if key.is_widened(line.name()) {
                    notes.push((line.clone(), dn::WIDER.to_owned()));
                }
                let ignores_case = key.ignores_case(line.name(), &condition);
                cases.push((order, condition, targets, ignores_case));
                // Clients whose names differ in case get the default value instead. The default
                // must not admit them if the source refuses them or sends them elsewhere.
                if ignores_case && !default.is_empty() && default != value {
                    notes.push((
                        line.clone(),
                        format!("{}; clients that match no case are refused", dn::CASE),
                    ));
                    cases.push((
                        Order::Unknown,
                        Condition::Constant(true),
                        always(Verdict::Refuse),
                        false,
                    ));
                } else if ignores_case && !refuses {
                    notes.push((line.clone(), dn::CASE.to_owned()));
                }
            }
            Err(reason) => {
                notes.push((
                    line.clone(),
                    format!("{reason}; clients that match no earlier case are refused"),
                ));
                cases.push((
                    Order::Unknown,
                    Condition::Constant(true),
                    always(Verdict::Refuse),
                    false,
                ));
            }
        }
    }
    // Sorting is stable: cases of the same kind keep their order.
    cases.sort_by_key(|(order, ..)| *order);
    add_spellings(&mut cases);
    let cases: Vec<_> = cases
        .into_iter()
        .filter_map(|(_, condition, targets, _)| match condition {
            Condition::Is(predicate) => Some((predicate, targets)),
            Condition::Constant(true) => Some((Predicate::default(), targets)),
            _ => None,
        })
        .collect();
    first_of(&cases, &rest).map_err(|TooMany| "the maps have too many cases".to_owned())
}

/// A case of a map. The last value tells whether nginx compares it case-insensitively, although
/// client rules are case-sensitive.
type Case = (Order, Condition, List, bool);

/// Adds to each case-insensitive case the other spellings of its name that occur in the map.
/// Otherwise, a later case with another spelling would decide for clients of the earlier case.
fn add_spellings(cases: &mut [Case]) {
    let all: Vec<(Key, String)> = cases
        .iter()
        .filter_map(|(_, condition, ..)| match condition {
            Condition::Is(predicate) => Some(predicate),
            _ => None,
        })
        .flat_map(|predicate| predicate.keys())
        .flat_map(|(key, names)| names.iter().map(move |name| (key, name.clone())))
        .collect();
    for (_, condition, _, ignores_case) in cases {
        let Condition::Is(predicate) = condition else {
            continue;
        };
        if !*ignores_case {
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
    Expression,
    /// A case without an equivalent. All clients that match no earlier case are refused.
    Unknown,
}

/// The variable that a map compares.
enum Source {
    Names(Key),
    /// The distinguished name of the subject or, with the key `issuer_cn`, of the issuer.
    Subject(Key),
    Address,
    /// A constant text.
    Constant(&'static str),
}

impl Source {
    fn of(source: &str, scope: Scope<'_>) -> Result<Self, Reason> {
        Ok(match source {
            "$ssl_server_name" if scope.tls => Self::Names(Key::Sni),
            "$ssl_server_name" | "$ssl_client_s_dn" if !scope.tls => Self::Constant(""),
            "$ssl_client_s_dn" if scope.certificates => Self::Subject(Key::Cn),
            "$ssl_client_i_dn" if scope.certificates => Self::Subject(Key::IssuerCn),
            "$ssl_client_s_dn" | "$ssl_client_i_dn" => Self::Constant(""),
            "$ssl_client_verify" if scope.certificates => Self::Constant("SUCCESS"),
            "$ssl_client_verify" => Self::Constant("NONE"),
            "$remote_addr" => Self::Address,
            "$ssl_preread_server_name"
            | "$ssl_preread_alpn_protocols"
            | "$ssl_preread_protocol" => {
                return Err(
                    "routing by SNI needs TLS at the listener; TLS is never passed through"
                        .to_owned(),
                );
            }
            other => match common_name(other, scope) {
                Some(_) if scope.certificates => Self::Names(Key::Cn),
                Some(_) => Self::Constant(""),
                None => return Err(format!("{other} has no equivalent")),
            },
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

    /// Returns the condition for clients with this value. If `refuses` is set, they are refused,
    /// so the condition must not match fewer clients than the source.
    fn case(
        &self,
        text: &str,
        hostnames: bool,
        refuses: bool,
    ) -> Result<(Order, Condition), Reason> {
        let text = without_escape(text);
        let expression = expression(text);
        let unknown = || format!("{text:?} has no equivalent");
        let is = |key: Key, values: Vec<String>| Condition::Is(Predicate::new(key, values));
        match self {
            Self::Constant(value) => match expression {
                None => Ok((
                    Order::Exact,
                    Condition::Constant(value.eq_ignore_ascii_case(text)),
                )),
                Some(_) if value.is_empty() => Ok((Order::Expression, Condition::Constant(false))),
                Some(_) => Err(unknown()),
            },
            Self::Address => {
                let network = network(text).ok_or_else(unknown)?;
                let network = network.to_string();
                let prefix = network
                    .split_once('/')
                    .and_then(|(_, bits)| bits.parse().ok());
                let order = Order::Specific(std::cmp::Reverse(prefix.unwrap_or(usize::MAX)));
                Ok((order, is(Key::Source, vec![network])))
            }
            Self::Names(key) => {
                let (order, patterns) = match expression {
                    Some(expression) => {
                        let patterns = regex::patterns(expression).ok_or_else(unknown)?;
                        (Order::Expression, patterns)
                    }
                    None if hostnames && text.starts_with("*.") => (
                        Order::Specific(std::cmp::Reverse(text.len())),
                        vec![Pattern::Below(text[2..].to_owned())],
                    ),
                    None if hostnames && text.starts_with('.') => (
                        Order::Specific(std::cmp::Reverse(text.len())),
                        vec![
                            Pattern::Exact(text[1..].to_owned()),
                            Pattern::Below(text[1..].to_owned()),
                        ],
                    ),
                    None => (Order::Exact, vec![Pattern::Exact(text.to_owned())]),
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
                Ok((order, is(*key, names)))
            }
            Self::Subject(key) => match expression {
                None if *key == Key::Cn => Ok((Order::Exact, Condition::Is(dn::subject(text)?))),
                None => Err(unknown()),
                Some(expression) => {
                    let found = dn::common_names(expression).ok_or_else(unknown)?;
                    if refuses && !found.is_exact {
                        return Err(format!("{text:?} also matches longer names"));
                    }
                    Ok((Order::Expression, is(*key, found.names)))
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
        _ => scope.certificates && common_name(name, scope).is_some(),
    }
}

/// Returns the `map` that sets `$name` to the common name of the client's subject, and nothing
/// else:
///
/// ```text
/// map $ssl_client_s_dn $name {
///     default "";
///     ~CN=(?<cn>[^,]+) $cn;
/// }
/// ```
fn common_name<'a>(name: &str, scope: Scope<'a>) -> Option<&'a Directive> {
    let is_subject = |line: &&Directive| {
        line.name() == "map" && line.word(1) == "$ssl_client_s_dn" && line.word(2) == name
    };
    let map = scope.stream.iter().find(is_subject)?;
    let mut cases = map.children().iter().filter(|line| {
        let is_empty_default = line.name() == "default" && line.word(1).is_empty();
        !is_empty_default && line.name() != "volatile"
    });
    let case = cases.next().filter(|_| cases.next().is_none())?;
    let captured = dn::captured_common_name(expression(case.name())?)?;
    (case.word(1) == format!("${captured}")).then_some(map)
}

/// Returns the text of a case. A backslash escapes a first character that has a special meaning.
fn without_escape(text: &str) -> &str {
    text.strip_prefix('\\').unwrap_or(text)
}

/// Returns the regular expression of a case.
fn expression(text: &str) -> Option<&str> {
    text.strip_prefix("~*").or(text.strip_prefix('~'))
}
