//! Identities as operators write them.

use jiff::Timestamp;
use leastconn_config::{Clients, IpNet, MatchKey, Mode, Rule, Spki, suggest, text::escape};
use leastconn_tls::spiffe;

/// Converts an identity to the form in which it is displayed and compared: names in lower case
/// where case does not matter, `spki` without colons, and `source` as a network. Also accepts
/// `cn=NAME`, as `ctl clients` lists it.
///
/// # Errors
/// Returns a message if no client can have this identity.
pub fn normalize_identity(text: &str) -> Result<String, String> {
    let (key, value) = text.split_once([':', '=']).unwrap_or_default();
    let key = key_of_identity(key).filter(|_| !value.is_empty());
    let Some(key) = key else {
        return Err(invalid(
            text,
            "expected cn:NAME, dns:NAME, uri:URI, spki:HASH or source:ADDRESS, as listed by `ctl \
             connections`",
        ));
    };
    let value = match key {
        MatchKey::Cn if value.chars().any(char::is_control) => {
            return Err(invalid(text, "a name has no control characters"));
        }
        MatchKey::Dns | MatchKey::Uri if !is_visible(value) => {
            return Err(invalid(
                text,
                "DNS names and URIs consist of visible ASCII characters, without spaces",
            ));
        }
        MatchKey::Dns => value.to_ascii_lowercase(),
        MatchKey::Uri if spiffe::has_spiffe_scheme(value) && !is_cut(value) => {
            spiffe::check(value).map_err(|error| invalid(text, &error.to_string()))?;
            value.to_owned()
        }
        MatchKey::Spki => {
            let hash = Spki::parse(value).map_err(|error| invalid(text, &error.to_string()))?;
            hash.as_str().to_owned()
        }
        MatchKey::Source => {
            let network = IpNet::parse(value).map_err(|error| invalid(text, &error.to_string()))?;
            network.to_string()
        }
        MatchKey::Cn | MatchKey::Uri | MatchKey::Ou | MatchKey::IssuerCn => value.to_owned(),
    };
    Ok(escape(&format!("{}:{value}", key.as_str())))
}

/// Returns why no client has `identity`, which is [normalized](normalize_identity), while these rules
/// are in force. `None`: a rule may give a client this identity. Rules in shadow mode, and those
/// that have expired at `now`, give no identity.
pub fn unmatched(identity: &str, rules: &Clients, now: Timestamp) -> Option<String> {
    const HINT: &str = "use an identity of `ctl connections`, or --serial";
    let (name, value) = identity.split_once(':')?;
    let key = key_of_identity(name)?;
    let in_force = |rule: &Rule<'_>| {
        rule.mode() == Mode::Enforce && rule.expires().is_none_or(|expires| now < expires)
    };
    let rules = || rules.iter().filter(in_force);
    if rules().any(|rule| gives(&rule, key, |pattern| key.matches(pattern, value))) {
        return None;
    }
    Some(if rules().any(|rule| gives(&rule, key, |_| true)) {
        (!is_cut(value)).then(|| {
            let patterns = rules().flat_map(|rule| rule.texts(key));
            let meant = suggest::nearest(value, patterns);
            let meant = meant.map(|meant| format!("did you mean `{name}:{meant}`? Otherwise "));
            format!(
                "no rule matches {identity}: {}{HINT}",
                meant.unwrap_or_default()
            )
        })?
    } else {
        format!("no rule identifies clients by {name}: {HINT}")
    })
}

/// Whether `rule` identifies clients by `key`, with a pattern for which `is_match` holds. A rule
/// without keys of an identity identifies a client by any name in its certificate, or by its
/// address.
fn gives(rule: &Rule<'_>, key: MatchKey, is_match: impl Fn(&str) -> bool) -> bool {
    let mut own = MatchKey::TEXTS.into_iter();
    match own.find(|own| own.is_identity() && rule.texts(*own).len() > 0) {
        Some(own) => own == key && rule.texts(key).any(is_match),
        None => key != MatchKey::Source || !rule.needs_certificate(),
    }
}

/// The key with this name, if its values are identities.
fn key_of_identity(name: &str) -> Option<MatchKey> {
    MatchKey::all()
        .find(|known| known.as_str() == name)
        .filter(|&key| key.is_identity() || key == MatchKey::Source)
}

/// The network of an identity such as `source:10.0.0.0/24`.
pub(super) fn source_network(identity: &str) -> Option<IpNet> {
    let (key, value) = identity.split_once(':')?;
    let value = (key == MatchKey::Source.as_str()).then_some(value)?;
    IpNet::parse(value).ok()
}

fn invalid(identity: &str, reason: &str) -> String {
    format!("invalid identity {:?}: {reason}", escape(identity))
}

fn is_visible(value: &str) -> bool {
    is_cut(value) || value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the value was cut because of its length when it was displayed.
fn is_cut(value: &str) -> bool {
    value.contains("…[cut, ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::test_config::PLAIN;

    #[test]
    fn identities_are_normalized() {
        let hash = "0123456789abcdef".repeat(4);
        let upper = hash.to_uppercase();
        for (text, expected) in [
            ("cn:Web 1", "cn:Web 1"),
            ("cn=a=b:c", "cn:a=b:c"),
            ("uri=urn:a", "uri:urn:a"),
            ("cn:a\u{202e}b", r"cn:a\u{202e}b"),
            ("dns:DB.Example.com", "dns:db.example.com"),
            ("uri:spiffe://lb.com/Web", "uri:spiffe://lb.com/Web"),
            (&format!("spki:{upper}"), &format!("spki:{hash}")),
            ("source:10.0.0.7/32", "source:10.0.0.7"),
            ("source:2001:DB8::1", "source:2001:db8::1"),
            ("source:::ffff:10.0.0.7", "source:10.0.0.7"),
            ("source:10.0.0.0/8", "source:10.0.0.0/8"),
        ] {
            let normal = normalize_identity(text).unwrap();
            assert_eq!(normal, expected, "{text}");
            assert_eq!(normalize_identity(&normal).unwrap(), normal, "{text}");
        }
        let long = escape(&format!("uri:spiffe://lb.com/{}", "a".repeat(2000)));
        assert_eq!(normalize_identity(&long).unwrap(), long);
    }

    #[test]
    fn identities_that_no_rule_gives_are_found() {
        let rules = |rules: &[&str]| {
            let rules = rules.iter().enumerate().map(|(n, rule)| {
                format!("[[client]]\nname = \"{n}\"\nmatch = {{ {rule} }}\nallow = \"web\"\n")
            });
            let text = PLAIN.to_owned() + &rules.collect::<String>();
            let without_last = text.replace(
                "match = { source = \"0.0.0.0/0\" }",
                "match = { cn = \"a\" }",
            );
            let loaded = leastconn_config::load_text("test.toml", &without_last, Path::new("/"));
            let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
            loaded.config.clients
        };
        let now = Timestamp::now();
        let by_name = rules(&[r#"dns = "*.lb.com""#]);
        for (identity, expected) in [
            ("cn:a", None),
            ("dns:web.lb.com", None),
            ("cn:b", Some("no rule matches cn:b: ")),
            ("dns:lb.com", Some("no rule matches dns:lb.com: ")),
            ("uri:urn:a", Some("no rule identifies clients by uri: ")),
            (
                "source:10.0.0.1",
                Some("no rule identifies clients by source: "),
            ),
        ] {
            let reason = unmatched(identity, &by_name, now);
            let is_expected = match (&reason, expected) {
                (Some(reason), Some(expected)) => reason.starts_with(expected),
                (reason, expected) => reason.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{identity}: {reason:?}");
        }
        // Such rules identify a client by its default identity.
        let by_unit = rules(&[r#"ou = "ops""#]);
        assert_eq!(unmatched("uri:urn:a", &by_unit, now), None);
        assert!(unmatched("source:10.0.0.1", &by_unit, now).is_some());
        let by_source = rules(&[r#"source = "10.0.0.0/8""#]);
        assert_eq!(unmatched("source:10.0.0.1", &by_source, now), None);
        for not_in_force in ["mode = \"shadow\"", "expires = 1971-01-01T00:00:00Z"] {
            let shadow = rules(&["dns = \"b\"", &format!("cn = \"b\" }}\n{not_in_force}\n#")]);
            assert!(unmatched("cn:b", &shadow, now).is_some(), "{not_in_force}");
        }
    }

    #[test]
    fn identities_that_no_client_can_have_are_rejected() {
        for text in [
            "",
            "client1",
            "cn:",
            "ou:x",
            "CN:a",
            "cn:a\n",
            "dns:db.example.com ",
            "uri:urn:ä",
            "uri:spiffe://lb.com/*",
            "spki:abcd",
            "source:localhost",
            "source:10.0.0.7/24",
            "source:10.0.0.7 ",
        ] {
            let error = normalize_identity(text).unwrap_err();
            assert!(error.starts_with("invalid identity "), "{error}");
        }
    }
}
