//! Backends whose names depend on the client: `use_backend PREFIX%[FETCH,map(FILE,DEFAULT)]SUFFIX`.

use super::super::{
    super::{
        access::{Key, Predicate},
        networks::network,
        regex::Pattern,
    },
    acl::{ANY_CASE, FIRST_UNIT, Scope, patterns, read},
};

/// The backend of each client.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    /// The first case that matches decides. `None` is the default backend of the section.
    pub(super) cases: Vec<(Predicate, Option<String>)>,
    /// The backend of the other clients.
    pub(super) default: Option<String>,
    /// Why some clients have another backend than in the source.
    pub(super) omitted: Vec<String>,
}

/// The parts of an expression.
struct Expression<'a> {
    prefix: &'a str,
    suffix: &'a str,
    key: Key,
    /// Whether the value of the client is converted to lower case.
    is_lower: bool,
    map: Option<Map<'a>>,
}

struct Map<'a> {
    /// The matching method.
    method: &'a str,
    file: &'a str,
    default: Option<&'a str>,
}

/// Translates the name of a dynamic backend. Only names in `backends` exist.
pub(super) fn dynamic_backends(
    text: &str,
    scope: &Scope<'_>,
    backends: &[&str],
) -> Result<Dynamic, String> {
    let unknown = || format!("{text:?} has no equivalent");
    let expression = parse(text, scope).ok_or_else(unknown)?;
    let mut found = match &expression.map {
        Some(map) => mapped(&expression, map, scope, backends)?,
        None => named(&expression, backends).ok_or_else(unknown)?,
    };
    if expression.is_lower && expression.key == Key::Cn {
        found.omitted.push(ANY_CASE.to_owned());
    }
    if expression.key == Key::Ou {
        found.omitted.push(FIRST_UNIT.to_owned());
    }
    Ok(found)
}

fn parse<'a>(text: &'a str, scope: &Scope<'_>) -> Option<Expression<'a>> {
    let (prefix, rest) = text.split_once("%[")?;
    let (inner, suffix) = rest.split_once(']')?;
    if suffix.contains("%[") {
        return None;
    }
    let (fetch, map) = match inner.find(",map") {
        Some(at) => (&inner[..at], Some(&inner[at + 1..])),
        None => (inner, None),
    };
    let (fetch, is_lower) = match fetch.strip_suffix(",lower") {
        Some(fetch) => (fetch, true),
        None => (fetch, false),
    };
    let key = match fetch.to_ascii_lowercase().as_str() {
        "ssl_fc_sni" if scope.tls => Key::Sni,
        "ssl_c_s_dn(cn)" if scope.certificates => Key::Cn,
        "ssl_c_s_dn(ou)" if scope.certificates => Key::Ou,
        "src" => Key::Source,
        _ => return None,
    };
    let map = match map {
        Some(map) => {
            let (method, arguments) = map.split_once('(')?;
            let arguments = arguments.strip_suffix(')')?;
            let (file, default) = match arguments.split_once(',') {
                Some((file, default)) => (file, Some(default)),
                None => (arguments, None),
            };
            let method = match method {
                "map" => "str",
                method => method.strip_prefix("map_")?,
            };
            Some(Map {
                method,
                file,
                default,
            })
        }
        None => None,
    };
    Some(Expression {
        prefix,
        suffix,
        key,
        is_lower,
        map,
    })
}

/// Returns the cases of an expression without a map: the value of the client is a part of the name
/// of the backend.
fn named(expression: &Expression<'_>, backends: &[&str]) -> Option<Dynamic> {
    let mut found = Dynamic::default();
    for backend in backends {
        let value = backend.strip_prefix(expression.prefix);
        let Some(value) = value.and_then(|rest| rest.strip_suffix(expression.suffix)) else {
            continue;
        };
        let is_other_case = expression.is_lower && value.contains(|c: char| c.is_ascii_uppercase());
        if value.is_empty() || is_other_case {
            continue;
        }
        let predicate = match expression.key {
            Key::Source => match network(value) {
                Some(network) if !value.contains('/') => {
                    Predicate::new(Key::Source, vec![network.to_string()])
                }
                _ => continue,
            },
            key => Predicate::new(key, Pattern::Exact(value.to_owned()).names(key)?),
        };
        found.cases.push((predicate, Some((*backend).to_owned())));
    }
    Some(found)
}

fn mapped(
    expression: &Expression<'_>,
    map: &Map<'_>,
    scope: &Scope<'_>,
    backends: &[&str],
) -> Result<Dynamic, String> {
    let key = expression.key;
    let method = map.method;
    let unknown = |value: &str| format!("{value:?} in {:?} has no equivalent", map.file);
    let is_supported = match key {
        Key::Source => method == "ip",
        Key::Ou => method == "str",
        _ => method != "ip",
    };
    if !is_supported {
        return Err(format!("`map_{method}` has no equivalent"));
    }
    let lines = read(scope.dir, map.file).ok_or_else(|| format!("cannot read {:?}", map.file))?;
    let backend = |value: &str| {
        let name = format!("{}{value}{}", expression.prefix, expression.suffix);
        backends.contains(&name.as_str()).then_some(name)
    };
    let mut found = Dynamic {
        default: map.default.and_then(backend),
        ..Dynamic::default()
    };
    let mut cases = Vec::new();
    for line in lines {
        let parts = line.split_once(char::is_whitespace);
        let (value, target) = parts.ok_or_else(|| unknown(&line))?;
        let target = backend(target.trim());
        if key == Key::Source {
            let network = network(value).ok_or_else(|| unknown(value))?;
            let prefix = network.to_string();
            let prefix = prefix
                .split_once('/')
                .and_then(|(_, bits)| bits.parse().ok());
            let length: usize = prefix.unwrap_or(usize::MAX);
            let predicate = Predicate::new(key, vec![network.to_string()]);
            cases.push((length, predicate, target, None));
            continue;
        }
        // Only a certificate or server name with this literal text matches.
        if method == "str" && value.contains('*') {
            let reason = format!(
                "{value:?} in {:?} is not a pattern: the entry is omitted",
                map.file
            );
            found.omitted.push(reason);
            continue;
        }
        let (mut patterns, others) = patterns(key, method, value).ok_or_else(|| unknown(value))?;
        patterns.retain(|pattern| !expression.is_lower || !pattern.has_capital());
        if patterns.is_empty() {
            found.omitted.push(format!(
                "{value:?} in {:?} never matches a name in lower case: the entry is omitted",
                map.file
            ));
            continue;
        }
        if method == "end" && !value.starts_with('.') {
            let others = others.iter();
            found
                .omitted
                .extend(others.map(|names| format!("{value:?} does not match {names}")));
        }
        let names = patterns.iter().map(|pattern| pattern.names(key));
        let names = names
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| unknown(value))?;
        // The longest prefix decides.
        let length = if method == "beg" { value.len() } else { 0 };
        cases.push((length, Predicate::new(key, names.concat()), target, others));
    }
    // Sorting is stable: of other cases, the first one decides.
    cases.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
    for (number, (_, _, target, others)) in cases.iter().enumerate() {
        // A name with a longer prefix matches no shorter prefix with more labels than that.
        let later = cases[number + 1..].iter().filter(|_| method != "beg");
        let mut later = later
            .map(|(_, _, target, _)| target)
            .chain([&found.default]);
        if let (None, Some(others)) = (target, others)
            && later.any(Option::is_some)
        {
            return Err(format!(
                "an entry of {:?} is for a backend that does not exist, and {others} cannot be matched",
                map.file
            ));
        }
    }
    let cases = cases
        .into_iter()
        .map(|(_, predicate, target, _)| (predicate, target));
    found.cases = cases.collect();
    Ok(found)
}
