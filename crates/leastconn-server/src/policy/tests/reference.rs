//! Straightforward implementations to compare the index with.

use super::*;

/// Reference implementation of CN and DNS patterns.
fn name_matches(pattern: &str, name: &str) -> bool {
    if name.contains('*') {
        return false;
    }
    if !pattern.contains('*') {
        return pattern == name;
    }
    let (wanted, labels): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), name.split('.').collect());
    wanted.len() == labels.len()
        && wanted
            .iter()
            .zip(&labels)
            .all(|(wanted, label)| wanted == label || (*wanted == "*" && !label.is_empty()))
}

/// Reference implementation of URI patterns.
fn uri_matches(pattern: &str, uri: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == uri;
    }
    // Patterns with `*` never match these ambiguous URIs, which occur in `generate.rs`.
    if ["..", "*", "?", "%2F", "a//"]
        .iter()
        .any(|part| uri.contains(part))
    {
        return false;
    }
    let (wanted, segments): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), uri.split('/').collect());
    let (wanted, segments) = match wanted.split_last() {
        Some((&"**", wanted)) if segments.len() > wanted.len() => {
            (wanted.to_vec(), segments[..wanted.len()].to_vec())
        }
        _ => (wanted, segments),
    };
    let mut pairs = wanted.iter().zip(&segments);
    wanted.len() == segments.len()
        && pairs.all(|(&wanted, &segment)| wanted == segment || wanted == "*")
}

/// Reference implementation of networks: compares bit by bit.
fn net_contains(net: &str, address: IpAddr) -> bool {
    fn bits(address: IpAddr) -> Vec<bool> {
        let octets = match address.to_canonical() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bit = |octet: u8| (0..8).rev().map(move |bit| octet >> bit & 1 == 1);
        octets.into_iter().flat_map(bit).collect()
    }
    let (network, prefix) = net.split_once('/').unwrap_or((net, "128"));
    let network: IpAddr = network.parse().unwrap();
    let mapped = network != network.to_canonical();
    let prefix = prefix.parse::<usize>().unwrap() - if mapped { 96 } else { 0 };
    let (network, address) = (bits(network), bits(address));
    network.len() == address.len()
        && network
            .iter()
            .zip(&address)
            .take(prefix)
            .all(|(a, b)| a == b)
}

/// Reference implementation: tries all rules in order. Returns the first enforced rule that
/// matches, and the first matching shadow rule before it, each with the client's identity.
pub(super) fn try_all(
    rules: &[RuleText],
    input: &RuleInput<'_>,
    now: i64,
) -> [Option<(usize, String)>; 2] {
    type Matches = fn(&str, &str) -> bool;
    let none = Certificate::default();
    let cert = input.certificate.unwrap_or(&none);
    let equal: Matches = |pattern, text| pattern == text;
    let is_present = |spki: &str| !spki.is_empty();
    let mut found = [None, None];
    for (position, rule) in rules.iter().enumerate() {
        let keys: [(&str, &[&str], Vec<&str>, Matches); 6] = [
            (
                "cn",
                &rule.cn,
                cert.cn.iter().map(|s| &**s).collect(),
                name_matches,
            ),
            (
                "dns",
                &rule.dns,
                cert.dns.iter().map(|s| &**s).collect(),
                name_matches,
            ),
            (
                "uri",
                &rule.uri,
                cert.uri.iter().map(|s| &**s).collect(),
                uri_matches,
            ),
            (
                "spki",
                &rule.spki,
                Some(&*cert.spki)
                    .into_iter()
                    .filter(|s| is_present(s))
                    .collect(),
                equal,
            ),
            ("", &rule.ou, cert.ou.iter().map(|s| &**s).collect(), equal),
            (
                "",
                &rule.issuer_cn,
                cert.issuer_cn.iter().map(|s| &**s).collect(),
                equal,
            ),
        ];
        let mut matches = rule.source.is_empty()
            || rule
                .source
                .iter()
                .any(|net| net_contains(net, input.source));
        let mut name = None;
        for (key, patterns, texts, text_matches) in keys {
            if patterns.is_empty() {
                continue;
            }
            match texts
                .iter()
                .find(|text| patterns.iter().any(|p| text_matches(p, text)))
            {
                Some(text) if !key.is_empty() => drop(name.get_or_insert(format!("{key}:{text}"))),
                Some(_) => {}
                None => matches = false,
            }
        }
        if !matches || rule.expires.is_some_and(|expires| expires <= now) {
            continue;
        }
        let identity = name.unwrap_or_else(|| input.identity().as_str().to_owned());
        match rule.mode {
            Mode::Enforce => {
                found[0] = Some((position, identity));
                break;
            }
            Mode::Shadow => drop(found[1].get_or_insert((position, identity))),
        }
    }
    found
}
