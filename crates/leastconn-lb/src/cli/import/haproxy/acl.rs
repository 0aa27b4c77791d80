//! HAProxy conditions: `acl` lines and anonymous ACLs.

mod criterion;
mod limits;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::super::{
    access::{Condition, Key, Predicate, SNI_NEEDS_TLS},
    networks::network,
    regex::{self, Pattern},
};
use criterion::Criterion;
use limits::limit;
pub(crate) use limits::{Counters, Limit, Limited, Periods, Tracked, periods, tracked};

/// Why a rule that accepts clients by organizational unit differs from the source.
pub(crate) const FIRST_UNIT: &str = "HAProxy compares only the first OU of a certificate: the rule \
    also matches certificates in which another OU has this name";

/// Why a rule differs from a test that ignores case.
pub(crate) const ANY_CASE: &str = "client rules compare `cn`, `ou` and `issuer_cn` with case, the \
    source ignores it: the rule matches only this spelling, and for clients with another spelling, the \
    later rules and the default backend decide. List the spellings that certificates have; names \
    among the alternative names can be matched by `dns`, which ignores case";

/// The context of a condition.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    /// For each ACL, the words after its name on each of its lines.
    pub(crate) acls: HashMap<String, Vec<Vec<String>>>,
    /// The expression of each variable. `None` if the variable depends on a condition.
    pub(crate) variables: &'a HashMap<String, Option<String>>,
    /// Whether the listener terminates TLS.
    pub(crate) tls: bool,
    /// Whether clients present verified certificates.
    pub(crate) certificates: bool,
    /// Keys and tables of the `track-sc` rules, by counter.
    pub(crate) tracked: Counters,
    /// Directory of the source, for relative files.
    pub(crate) dir: Option<&'a Path>,
    /// The periods of the rates of each stick table.
    pub(crate) tables: &'a HashMap<String, Periods>,
    /// The ports of the listener.
    pub(crate) ports: &'a [u16],
    /// The name of the proxy and of its stick table.
    pub(crate) proxy: &'a str,
    /// The backend of all clients. `None` if they may have different ones.
    pub(crate) target: Option<&'a str>,
    /// Whether clients must send a PROXY header.
    pub(crate) has_header: bool,
    /// Whether the current rule is in the stage `connection`, which precedes the PROXY header and the
    /// TLS handshake.
    pub(crate) is_early: bool,
}

/// A parsed condition.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) condition: Option<Condition>,
    pub(crate) limits: Vec<Limited>,
    /// Reasons why parts of the condition are unknown.
    pub(crate) unknown: Vec<String>,
    /// Whether an unknown part depends on the client.
    pub(crate) client_dependent: bool,
    /// Whether a test compares a whole subject, of which client rules compare only a part.
    pub(crate) compares_subject: bool,
    /// Whether a test ignores case in the source, but the translated condition does not.
    pub(crate) ignores_case: bool,
    /// Whether a test compares an organizational unit, so that clients are accepted.
    pub(crate) compares_unit: bool,
    /// Names that the source matches, but the translated condition does not.
    pub(crate) omitted: Vec<String>,
    /// Whether the clients that fulfil the current test are refused. The test must then not match
    /// fewer clients than in the source.
    refuses: bool,
}

/// Parses `if` or `unless` and the words after it. A rule without a condition always applies.
/// `refuses` specifies whether the rule refuses the clients that fulfil the condition.
pub(crate) fn condition(words: &[String], refuses: bool, scope: &Scope<'_>) -> Parsed {
    let mut parsed = Parsed::default();
    let (negated, words) = match words.first().map(String::as_str) {
        Some("if") => (false, &words[1..]),
        Some("unless") => (true, &words[1..]),
        _ => {
            parsed.condition = Some(Condition::Constant(true));
            return parsed;
        }
    };
    let mut alternatives = Vec::new();
    let mut terms = Vec::new();
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        if word == "or" || word == "||" {
            alternatives.push(Condition::All(std::mem::take(&mut terms)));
            continue;
        }
        let plain = word.trim_start_matches('!');
        let is_negated = (word.len() - plain.len()) % 2 == 1;
        // `! name` is also allowed.
        let (plain, is_negated) = match (plain, rest.split_first()) {
            ("", Some((next, after))) => {
                rest = after;
                (next.as_str(), is_negated)
            }
            _ => (plain, is_negated),
        };
        parsed.refuses = refuses != (negated != is_negated);
        let term = if plain == "{" {
            let end = rest.iter().position(|word| word == "}");
            let end = end.unwrap_or(rest.len());
            let criterion = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or(&[]);
            test(criterion, scope, &mut parsed)
        } else {
            named(plain, scope, &mut parsed)
        };
        terms.push(if is_negated {
            Condition::Not(Box::new(term))
        } else {
            term
        });
    }
    alternatives.push(Condition::All(terms));
    let condition = Condition::Any(alternatives);
    parsed.condition = Some(if negated {
        Condition::Not(Box::new(condition))
    } else {
        condition
    });
    parsed
}

fn named(name: &str, scope: &Scope<'_>, parsed: &mut Parsed) -> Condition {
    if let Some(lines) = scope.acls.get(name) {
        let tests = lines.iter().map(|words| test(words, scope, parsed));
        return Condition::Any(tests.collect());
    }
    match name {
        // `WAIT_END` becomes true at the end of `inspect-delay`.
        "TRUE" | "WAIT_END" => Condition::Constant(true),
        "FALSE" => Condition::Constant(false),
        "LOCALHOST" => networks(&["127.0.0.0/8".to_owned(), "::1".to_owned()], parsed),
        _ => unknown(parsed, format!("the ACL {name:?} is not known"), true),
    }
}

fn unknown(parsed: &mut Parsed, reason: String, client_dependent: bool) -> Condition {
    parsed.unknown.push(reason);
    parsed.client_dependent |= client_dependent;
    Condition::Unknown
}

/// Translates one test: a fetch, flags and values.
fn test(words: &[String], scope: &Scope<'_>, parsed: &mut Parsed) -> Condition {
    let replaced = without_variable(words, scope);
    let words = replaced.as_deref().unwrap_or(words);
    let criterion = match Criterion::parse(words, scope.dir) {
        Ok(criterion) => criterion,
        Err(reason) => return unknown(parsed, reason, true),
    };
    if let Some(limit) = limit(&criterion, scope) {
        parsed.limits.push(limit);
        return Condition::Unknown;
    }
    let Criterion {
        fetch,
        argument,
        converters,
        values,
        ..
    } = &criterion;
    let text = words.first().map_or("", String::as_str);
    if scope.is_early && fetch.starts_with("ssl_") {
        let reason =
            format!("the stage `connection` is before the TLS handshake, without {text:?}");
        return unknown(parsed, reason, true);
    }
    let is_text = match (*fetch, argument.to_ascii_lowercase().as_str()) {
        ("ssl_fc_sni", "") => scope.tls,
        ("ssl_c_s_dn", "cn" | "ou") | ("ssl_c_i_dn", "cn") => true,
        _ => false,
    };
    let is_lower = is_text && *converters == "lower";
    if !converters.is_empty() && !is_lower {
        let reason = format!("the converters of {text:?} have no equivalent");
        return unknown(parsed, reason, true);
    }
    if is_text && criterion.compares_number() {
        let reason = format!("the comparison of {text:?} with a number has no equivalent");
        return unknown(parsed, reason, true);
    }
    let has_capital = |value: &String| value.chars().any(|c| c.is_ascii_uppercase());
    if is_lower && !criterion.ignores_case && values.iter().any(has_capital) {
        let reason = format!("a value with capital letters never equals {text:?}");
        return unknown(parsed, reason, true);
    }
    let lowered = is_lower || criterion.ignores_case;
    let method = criterion.method.unwrap_or("str");
    let has_method = |name: &str| criterion.method.is_none_or(|method| method == name);
    let no_equivalent = || format!("{:?} has no equivalent", words.join(" "));
    match (*fetch, argument.to_ascii_lowercase().as_str()) {
        ("always_true" | "wait_end", _) => Condition::Constant(true),
        ("always_false", _) => Condition::Constant(false),
        ("src", "") if has_method("ip") => networks(values, parsed),
        ("dst_port", "") if has_method("int") => {
            ports(values, scope.ports).unwrap_or_else(|| unknown(parsed, no_equivalent(), true))
        }
        // Without a server, the clients are refused anyway.
        ("nbsrv", _)
            if parsed.refuses
                && scope.target
                    == Some(if argument.is_empty() {
                        scope.proxy
                    } else {
                        argument
                    })
                && matches!(values.join(" ").as_str(), "0" | "eq 0" | "lt 1" | "le 0") =>
        {
            Condition::Constant(false)
        }
        ("ssl_fc" | "ssl_c_used" | "ssl_fc_has_crt", _)
            if criterion.method.is_some() || !values.is_empty() =>
        {
            unknown(parsed, no_equivalent(), true)
        }
        ("ssl_fc", _) => Condition::Constant(scope.tls),
        // True with `verify required`, and with `verify optional`, which is imported as `required`.
        ("ssl_c_used", _) | ("ssl_fc_has_crt", _) => Condition::Constant(scope.certificates),
        ("ssl_c_verify", "") if scope.certificates && criterion.number().is_some() => {
            Condition::Constant(criterion.number() == Some("0"))
        }
        ("ssl_fc_sni", _) if scope.tls => texts(Key::Sni, method, values, true, parsed),
        (
            "ssl_fc_sni" | "req.ssl_sni" | "req_ssl_sni" | "req.ssl_hello_type"
            | "req_ssl_hello_type" | "req.ssl_ver" | "req_ssl_ver",
            _,
        ) => {
            let reason = if scope.tls {
                "behind `bind … ssl` it sees decrypted bytes and never matches; use `ssl_fc_sni`"
            } else {
                SNI_NEEDS_TLS
            };
            unknown(parsed, reason.to_owned(), true)
        }
        ("ssl_c_s_dn" | "ssl_c_i_dn", _) if !scope.certificates => Condition::Constant(false),
        ("ssl_c_s_dn", "cn") => texts(Key::Cn, method, values, lowered, parsed),
        ("ssl_c_s_dn", "ou") => {
            parsed.compares_unit |= !parsed.refuses;
            texts(Key::Ou, method, values, lowered, parsed)
        }
        ("ssl_c_i_dn", "cn") => texts(Key::IssuerCn, method, values, lowered, parsed),
        ("ssl_c_s_dn", "") if method == "reg" => unknown(
            parsed,
            "regular expressions on the whole subject have no equivalent".to_owned(),
            true,
        ),
        ("ssl_c_s_dn", "") if matches!(method, "sub" | "beg" | "end" | "dom" | "dir") => {
            let reason = "substrings of the whole subject have no equivalent; use `ou = \"…\"` in \
                a client rule";
            unknown(parsed, reason.to_owned(), true)
        }
        ("ssl_c_s_dn", "") => {
            let names = values.iter().map(|value| super::super::dn::subject(value));
            match names.collect::<Result<Vec<_>, _>>() {
                Ok(names) if method == "str" && !lowered => {
                    parsed.compares_subject |= !names.is_empty();
                    Condition::Any(names.into_iter().map(Condition::Is).collect())
                }
                Ok(_) => unknown(parsed, no_equivalent(), true),
                Err(reason) => unknown(parsed, reason, true),
            }
        }
        _ => {
            let state = [
                "nbsrv",
                "be_",
                "fe_",
                "srv_",
                "queue",
                "avg_queue",
                "connslots",
            ];
            let by_client = !state.iter().any(|prefix| fetch.starts_with(prefix));
            unknown(parsed, format!("{text:?} has no equivalent"), by_client)
        }
    }
}

/// Replaces `var(NAME)` at the start of a test by the expression of the variable.
fn without_variable(words: &[String], scope: &Scope<'_>) -> Option<Vec<String>> {
    let (first, rest) = words.split_first()?;
    let (name, converters) = first.strip_prefix("var(")?.split_once(')')?;
    let expression = scope.variables.get(name)?.as_ref()?;
    let replaced = vec![format!("{expression}{converters}")];
    Some([replaced, rest.to_vec()].concat())
}

fn networks(values: &[String], parsed: &mut Parsed) -> Condition {
    let networks: Option<Vec<_>> = values
        .iter()
        .map(|value| network(value).map(|network| network.to_string()))
        .collect();
    match networks {
        Some(networks) if !networks.is_empty() => {
            Condition::Is(Predicate::new(Key::Source, networks))
        }
        _ => unknown(parsed, "an address is not an IP network".to_owned(), true),
    }
}

/// Returns whether all ports of the listener are among the values, or `None` if only some are.
fn ports(values: &[String], ports: &[u16]) -> Option<Condition> {
    let ranges = match values {
        [operator, number] if operator.chars().all(char::is_alphabetic) => {
            let number: u16 = number.parse().ok()?;
            vec![match operator.as_str() {
                "eq" => (number, number),
                "ge" => (number, u16::MAX),
                "gt" => (number.checked_add(1)?, u16::MAX),
                "le" => (0, number),
                "lt" => (0, number.checked_sub(1)?),
                _ => return None,
            }]
        }
        values => {
            let ranges = values.iter().map(|value| {
                let (first, last) = value.split_once(':').unwrap_or((value, value));
                Some((first.parse().ok()?, last.parse().ok()?))
            });
            ranges.collect::<Option<Vec<(u16, u16)>>>()?
        }
    };
    let is_matched = |port: &u16| {
        ranges
            .iter()
            .any(|(first, last)| first <= port && port <= last)
    };
    let matched = ports.iter().filter(|port| is_matched(port)).count();
    let is_known = !ports.is_empty() && (matched == 0 || matched == ports.len());
    is_known.then_some(Condition::Constant(matched > 0))
}

/// Returns the names that a value matches with a matching method. `None` if they cannot be
/// expressed. The second value describes further names that the source matches.
pub(super) fn patterns(
    key: Key,
    method: &str,
    value: &str,
) -> Option<(Vec<Pattern>, Option<String>)> {
    let patterns = match method {
        "str" => vec![Pattern::Exact(value.to_owned())],
        "end" => match value.strip_prefix('.') {
            Some(domain) => vec![Pattern::Below(domain.to_owned())],
            None => {
                let patterns = vec![
                    Pattern::Exact(value.to_owned()),
                    Pattern::Below(value.to_owned()),
                ];
                return Some((patterns, Some(format!("names such as \"x{value}\""))));
            }
        },
        "beg" => vec![Pattern::After(value.strip_suffix('.')?.to_owned())],
        "dom" => vec![Pattern::Around(value.trim_matches('.').to_owned(), 0)],
        "sub" => {
            let text = value.strip_prefix('.')?.strip_suffix('.')?;
            vec![Pattern::Around(text.to_owned(), 1)]
        }
        "reg" => regex::patterns(value)?,
        _ => return None,
    };
    let others = patterns.iter().find_map(|pattern| pattern.others(key));
    let others = others.map(str::to_owned);
    Some((patterns, others))
}

/// Translates a test of a text. `any_case` means that the source ignores case.
fn texts(
    key: Key,
    method: &str,
    values: &[String],
    any_case: bool,
    parsed: &mut Parsed,
) -> Condition {
    let mut names = Vec::new();
    // Whether the source also matches texts that are not in `names`.
    let mut more = (any_case && key != Key::Sni).then(|| "differences in case".to_owned());
    let mut omitted = Vec::new();
    for value in values {
        let Some((patterns, others)) = patterns(key, method, value) else {
            return unknown(
                parsed,
                format!("{value:?} with `-m {method}` has no equivalent"),
                true,
            );
        };
        if method == "end" && !value.starts_with('.') {
            omitted.extend(others.clone());
        }
        more = others.or(more);
        for pattern in patterns {
            match pattern.names(key) {
                Some(list) => names.extend(list),
                None => return unknown(parsed, format!("{value:?} has no equivalent"), true),
            }
        }
    }
    if names.is_empty() {
        return unknown(parsed, "the condition has no value".to_owned(), true);
    }
    let is = Condition::Is(Predicate::new(key, names));
    match more {
        Some(what) if parsed.refuses => {
            let rest = unknown(parsed, format!("{what} cannot be matched"), true);
            Condition::Any(vec![is, rest])
        }
        _ => {
            parsed.ignores_case |= any_case && key != Key::Sni;
            parsed.omitted.append(&mut omitted);
            is
        }
    }
}

/// Returns the lines of a file of values, without comments.
pub(crate) fn read(dir: Option<&Path>, file: &str) -> Option<Vec<String>> {
    let candidates = [Some(PathBuf::from(file)), dir.map(|dir| dir.join(file))];
    let text = candidates
        .into_iter()
        .flatten()
        .find_map(|path| fs::read_to_string(path).ok())?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Some(lines.map(str::to_owned).collect())
}
