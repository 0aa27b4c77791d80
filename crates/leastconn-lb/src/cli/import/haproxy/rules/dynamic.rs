//! Backends that `use_backend` looks up in a map file.

use super::super::{
    super::{
        access::{Key, Predicate},
        networks::network,
    },
    acl::{Scope, read},
};

/// Returns the cases of `%[FETCH,map(FILE,DEFAULT)]`.
pub(super) fn dynamic_backends(
    expression: &str,
    scope: &Scope<'_>,
) -> Result<Vec<(Predicate, String)>, String> {
    let unknown = || format!("{expression:?} has no equivalent");
    let inner = expression
        .strip_prefix("%[")
        .and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.ok_or_else(unknown)?;
    let at = inner.find(",map").ok_or_else(unknown)?;
    let (fetch, map) = inner.split_at(at);
    let (method, arguments) = map[1..].split_once('(').ok_or_else(unknown)?;
    let arguments = arguments.strip_suffix(')').ok_or_else(unknown)?;
    let (file, default) = match arguments.split_once(',') {
        Some((file, default)) => (file, Some(default)),
        None => (arguments, None),
    };
    let (fetch, _) = fetch.split_once(",lower").unwrap_or((fetch, ""));
    let key = match fetch.to_ascii_lowercase().as_str() {
        "ssl_fc_sni" if scope.tls => Key::Sni,
        "ssl_c_s_dn(cn)" if scope.certificates => Key::Cn,
        "src" => Key::Source,
        _ => return Err(unknown()),
    };
    let is_exact = matches!((key, method), (Key::Sni | Key::Cn, "map" | "map_str"));
    let is_network = key == Key::Source && method == "map_ip";
    if !(is_exact || is_network) {
        return Err(unknown());
    }
    let lines = read(scope.dir, file).ok_or_else(|| format!("cannot read {file:?}"))?;
    let mut cases = Vec::new();
    for line in lines {
        let (value, backend) = line.split_once(char::is_whitespace).ok_or_else(unknown)?;
        let value = match key {
            Key::Source => network(value).ok_or_else(unknown)?.to_string(),
            Key::Sni => value.to_ascii_lowercase(),
            _ => value.to_owned(),
        };
        cases.push((Predicate::new(key, vec![value]), backend.trim().to_owned()));
    }
    // The most specific network decides.
    if key == Key::Source {
        cases.sort_by_key(|(predicate, _)| {
            let network = predicate.get(Key::Source).and_then(<[String]>::first);
            let prefix = network.and_then(|network| network.split_once('/'));
            std::cmp::Reverse(
                prefix
                    .and_then(|(_, prefix)| prefix.parse().ok())
                    .unwrap_or(u32::MAX),
            )
        });
    }
    if let Some(default) = default {
        cases.push((Predicate::default(), default.to_owned()));
    }
    Ok(cases)
}
