//! `map` and `geo` blocks: variables whose value depends on the client.

mod cases;
mod source;

use super::{
    super::{
        access::{Condition, List, Predicate, TooMany, Verdict, always, first_of},
        dn,
        model::{Kind, Note},
    },
    parser::Directive,
};
use cases::{Case, Order, Spelling};
use source::Source;

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
pub(crate) fn values(name: &str, scope: Scope<'_>, notes: &mut Vec<Note>) -> Result<List, Reason> {
    list(name, scope, notes, 0)
}

fn list(name: &str, scope: Scope<'_>, notes: &mut Vec<Note>, depth: usize) -> Result<List, Reason> {
    let unknown = || format!("the variable {name} has no equivalent");
    if depth > DEEPEST {
        return Err(format!("the variable {name} refers to itself"));
    }
    let map = definition(name, scope).ok_or_else(unknown)?;
    let source = match (map.name(), map.arguments()) {
        ("geo", [_]) => "$remote_addr",
        (_, [source, _]) => source.as_str(),
        _ => return Err(unknown()),
    };
    if map.name() == "geo" && source != "$remote_addr" {
        return Err(format!("`geo` of {source} has no equivalent"));
    }
    let key = match Source::of(source, map.name() == "geo", scope) {
        Ok(key) => key,
        Err(_) if definition(source, scope).is_some() => {
            return composed(map, source, scope, notes, depth);
        }
        Err(reason) => return Err(reason),
    };
    let hostnames = map.children().iter().any(|line| line.name() == "hostnames");
    let mut cases: Vec<Case> = Vec::new();
    let mut rest = always(Verdict::Refuse);
    let mut found = Vec::new();
    for (number, line) in map.children().iter().enumerate() {
        let value = match line.arguments() {
            [value] => value,
            _ => continue,
        };
        let targets = match value.strip_prefix('$') {
            Some(_) => match list(value, scope, notes, depth + 1) {
                Ok(targets) => targets,
                Err(reason) => {
                    let reason = format!("{reason}; these clients are refused");
                    found.push((number, line.place.left_out(reason)));
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
        let is_refused = refuses(&targets);
        if key.never_matches(line.name(), hostnames) {
            found.push((number, line.place.remark(NEVER_MATCHES)));
            continue;
        }
        let (order, condition) = key.case(line.name(), hostnames, is_refused);
        match condition {
            Ok(condition) => {
                let mut differences = Vec::new();
                if key.is_widened(line.name()) {
                    differences.push((Kind::Differs, dn::WIDER.to_owned()));
                }
                cases.push(Case {
                    order,
                    spelling: key.spelling(line.name(), &condition),
                    others: key.other_names(line.name(), &condition),
                    condition,
                    targets,
                    line: Some((number, line.clone())),
                    differences,
                });
            }
            Err(reason) => {
                let hint = key.hint(line.name());
                let reason =
                    format!("{reason}; clients that match no earlier case are refused{hint}");
                found.push((number, line.place.left_out(reason)));
                // An expression must not admit clients with an exact entry that is refused.
                if let Some(subject) = key.superset(line.name()) {
                    cases.push(Case {
                        condition: Condition::Is(subject),
                        spelling: Spelling::WholeName,
                        ..Case::closing(Order::Exact)
                    });
                }
                cases.push(Case::closing(order));
            }
        }
    }
    // Sorting is stable: cases of the same kind keep their order.
    cases.sort_by_key(|case| case.order);
    cases::add_spellings(&mut cases);
    cases::close_other_spellings(&mut cases, &mut rest);
    cases::close_other_names(&mut cases, &rest);
    let is_open = |case: &&mut Case| case.condition != Condition::Constant(true);
    let combined = cases.iter_mut().take_while(is_open).find(|case| {
        let text = case.line.as_ref().map(|(_, line)| line.name());
        case.targets != rest
            && !refuses(&case.targets)
            && text.is_some_and(|text| key.misses_combined_attributes(text))
    });
    if let Some(case) = combined {
        case.differences.push((Kind::Differs, COMBINED.to_owned()));
    }
    found.extend(cases::notes(&cases));
    found.sort_by_key(|(number, ..)| *number);
    notes.extend(found.into_iter().map(|(_, note)| note));
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

/// Returns the `map` or `geo` block that defines a variable.
fn definition<'a>(name: &str, scope: Scope<'a>) -> Option<&'a Directive> {
    scope.stream.iter().find(|directive| {
        let names: &[String] = directive.arguments();
        matches!(directive.name(), "map" | "geo") && names.last().is_some_and(|last| last == name)
    })
}

/// Whether the value of `$name` depends on the address of the client.
pub(crate) fn reads_address(name: &str, scope: Scope<'_>) -> bool {
    let mut names = vec![name];
    let mut at = 0;
    while let Some(name) = names.get(at).copied() {
        at += 1;
        if matches!(name, "$remote_addr" | "$binary_remote_addr") {
            return true;
        }
        let Some(map) = definition(name, scope) else {
            continue;
        };
        let source = match (map.name(), map.arguments()) {
            ("geo", [_]) => "$remote_addr",
            (_, [source, _]) => source.as_str(),
            _ => continue,
        };
        let values = map.children().iter().map(|line| line.word(1));
        let variables = values.filter(|value| value.starts_with('$'));
        for used in variables.chain([source]) {
            if !names.contains(&used) {
                names.push(used);
            }
        }
    }
    false
}

/// Returns the values of a map whose source is the variable of another map.
fn composed(
    map: &Directive,
    source: &str,
    scope: Scope<'_>,
    notes: &mut Vec<Note>,
    depth: usize,
) -> Result<List, Reason> {
    let inner = list(source, scope, notes, depth + 1)?;
    let mut cases = Vec::new();
    for (predicate, verdict) in inner {
        let targets = match verdict {
            Verdict::To(text) => value_of(map, &text, scope, notes, depth)?,
            Verdict::Accept | Verdict::Refuse => always(Verdict::Refuse),
        };
        cases.push((predicate, targets));
    }
    if !refuses(&value_of(map, "", scope, notes, depth)?) {
        let reason = format!(
            "clients for whom {source} is empty or was not translated are refused: give each entry \
             of that map a value"
        );
        notes.push(map.place.left_out(reason));
    }
    first_of(&cases, &always(Verdict::Refuse))
        .map_err(|TooMany| "the maps have too many cases".to_owned())
}

/// Returns the targets of a map for a source with this text.
fn value_of(
    map: &Directive,
    text: &str,
    scope: Scope<'_>,
    notes: &mut Vec<Note>,
    depth: usize,
) -> Result<List, Reason> {
    let is_exact = |line: &&Directive| {
        let name = line.name();
        let is_text = expression(name).is_none() && name != "default";
        is_text && without_escape(name).eq_ignore_ascii_case(text)
    };
    let entries: Vec<_> = map
        .children()
        .iter()
        .filter(|line| line.arguments().len() == 1)
        .collect();
    let mut entries = entries.iter().copied();
    let found = match entries.clone().find(is_exact) {
        Some(line) => Some(line),
        None => {
            let is_pattern = |name: &str| {
                expression(name).is_some() || name.contains('*') || name.starts_with('.')
            };
            if let Some(line) = entries.clone().find(|line| is_pattern(line.name())) {
                return Err(format!(
                    "{:?} compares the value of another map, which has no equivalent: write each \
                     value",
                    line.name()
                ));
            }
            entries.find(|line| line.name() == "default")
        }
    };
    match found.map_or("", |line| line.word(1)) {
        "" => Ok(always(Verdict::Refuse)),
        value if value.starts_with('$') => list(value, scope, notes, depth + 1),
        value => Ok(always(Verdict::To(value.to_owned()))),
    }
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

/// How rules differ from entries that compare a whole component of a subject.
const COMBINED: &str = "rules also match attributes in a component with several attributes, such as \
    `CN=a+OU=b`, which the expression does not match. This applies to all entries of this map";

/// Why an entry of a map without `hostnames` has no effect.
const NEVER_MATCHES: &str = "without `hostnames`, this is a literal text that no client has: the \
    entry has no effect";

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
