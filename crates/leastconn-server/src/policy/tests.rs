use std::{net::IpAddr, num::NonZeroUsize, time::Duration};

use leastconn_config::{
    Access, AccessFilter, Allow, Client, DnsPattern, Format, Level, Log, Prefixes, Process, Target,
};
use leastconn_tls::certificate::{Ambiguous, Certificate};
use proptest::prelude::*;

use super::*;
use crate::reason_code::ReasonCode;
use generate::{any_input, rule};
use reference::try_all;

mod generate;
mod grant;
mod index;
mod reference;
mod upstream;

/// A client rule with its patterns as text.
#[derive(Clone, Debug, Default)]
struct RuleText {
    cn: Vec<&'static str>,
    dns: Vec<&'static str>,
    uri: Vec<&'static str>,
    spki: Vec<&'static str>,
    ou: Vec<&'static str>,
    issuer_cn: Vec<&'static str>,
    source: Vec<&'static str>,
    /// The expiry of the rule, as UNIX time.
    expires: Option<i64>,
    mode: Mode,
}

fn client(position: usize, rule: &RuleText, allow: Vec<Allow>) -> Client {
    let mut client = Client {
        name: position.to_string(),
        allow,
        expires: rule.expires.map(at),
        mode: rule.mode,
        ..Client::default()
    };
    for (key, values) in [
        (MatchKey::Cn, &rule.cn),
        (MatchKey::Dns, &rule.dns),
        (MatchKey::Uri, &rule.uri),
        (MatchKey::Spki, &rule.spki),
        (MatchKey::Ou, &rule.ou),
        (MatchKey::IssuerCn, &rule.issuer_cn),
        (MatchKey::Source, &rule.source),
    ] {
        for value in values {
            client.require(key, value).unwrap();
        }
    }
    client
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn config(clients: Vec<Client>) -> Config {
    Config {
        path: "leastconn.toml".into(),
        digest: String::new(),
        process: Process {
            auto_workers: true,
            zone: None,
            watch: Default::default(),
            workers: NonZeroUsize::MIN,
            max_connections: None,
            max_handshakes: NonZeroUsize::MIN,
            memory_limit: leastconn_config::MemoryLimit::Off,
            drain_timeout: Duration::ZERO,
            tls_records: Default::default(),
            sandbox: None,
        },
        log: Log {
            level: Level::Info,
            format: Format::Text,
            access: Access::Off,
            access_filter: AccessFilter::All,
        },
        admin: None,
        fleet: None,
        listeners: Vec::new(),
        upstreams: Vec::new(),
        clients: Arc::new(clients.into_iter().collect()),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn input(cn: Option<&str>, dns: &[&str], source: &str) -> RuleInput<'static> {
    input_with(
        Certificate {
            cn: cn.map(str::to_owned),
            dns: owned(dns),
            ..Certificate::default()
        },
        source,
    )
}

fn input_with(certificate: Certificate, source: &str) -> RuleInput<'static> {
    RuleInput {
        source: source.parse().unwrap(),
        prefixes: Prefixes::default(),
        certificate: Some(Box::leak(Box::new(certificate))),
    }
}

fn rule_and_identity(matched: &Matched<'_>) -> (usize, String) {
    let position = matched.client().parse::<usize>().unwrap();
    (position, matched.identity().as_str().to_owned())
}

fn clients(rules: &[RuleText]) -> Vec<Client> {
    let rules = rules.iter().enumerate();
    rules.map(|(n, rule)| client(n, rule, Vec::new())).collect()
}

fn check_against_try_all(
    rules: &[RuleText],
    input: &RuleInput<'_>,
    now: i64,
) -> Result<(), TestCaseError> {
    let policy = Policy::new(&config(clients(rules)), &HashMap::new());
    let [enforced, shadow] = try_all(rules, input, now);
    let found = policy.identify(input, at(now)).ok();
    prop_assert_eq!(found.as_ref().map(rule_and_identity), enforced);
    let found = policy.shadow(input, at(now));
    prop_assert_eq!(found.as_ref().map(rule_and_identity), shadow);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn index_finds_the_first_matching_rule(
        rules in prop::collection::vec(rule(), 0..12),
        input in any_input(),
        now in 0_i64..6,
    ) {
        check_against_try_all(&rules, &input, now)?;
    }

    #[test]
    fn covered_rule_never_decides(
        rules in prop::collection::vec(rule(), 2),
        input in any_input(),
        now in 0_i64..6,
    ) {
        let clients: Clients = clients(&rules).into_iter().collect();
        let covers = clients.rule(0).covers(&clients.rule(1));
        let [enforced, shadow] = try_all(&rules, &input, now);
        let is_later = |found: Option<(usize, String)>| found.is_some_and(|(rule, _)| rule == 1);
        prop_assert!(!covers || !is_later(enforced) && !is_later(shadow));
    }
}

#[test]
fn refusal_names_the_first_expired_rule() {
    let by_cn = |expires, mode| RuleText {
        cn: vec!["a.x"],
        expires,
        mode,
        ..RuleText::default()
    };
    let rules = [
        by_cn(Some(5), Mode::Shadow),
        by_cn(Some(10), Mode::Enforce),
        by_cn(Some(20), Mode::Enforce),
        by_cn(Some(20), Mode::Enforce),
    ];
    let clients = rules.iter().enumerate();
    let clients = clients
        .map(|(n, rule)| client(n, rule, Vec::new()))
        .collect();
    let policy = Policy::new(&config(clients), &HashMap::new());
    let client = input(Some("a.x"), &[], "::1");
    let rule_at = |now| {
        policy
            .identify(&client, at(now))
            .map(|m| m.client().to_owned())
    };
    assert_eq!(rule_at(9).unwrap(), "1");
    // A rule is already expired at the time `expires`, not only after it.
    assert_eq!(rule_at(10).unwrap(), "2");
    let denied = rule_at(20).unwrap_err();
    assert_eq!(denied.reason(), ReasonCode::UnknownClient);
    assert_eq!(
        denied.to_string(),
        "no client rule matches: the rule of client `1` expired at 1970-01-01T00:00:10Z"
    );
    let other = policy.identify(&input(Some("b.x"), &[], "::1"), at(20));
    assert_eq!(other.unwrap_err(), Denied::UnknownClient);
    let next = [4, 5, 10, 19, 20].map(|now| policy.next_expiry(at(now)));
    assert_eq!(
        next,
        [Some(at(5)), Some(at(10)), Some(at(20)), Some(at(20)), None]
    );
}

#[test]
fn unreadable_name_matters_only_to_rules_using_it() {
    let rule = |cn: &'static str, dns: &'static str, mode| RuleText {
        cn: [cn].into_iter().filter(|text| !text.is_empty()).collect(),
        dns: [dns].into_iter().filter(|text| !text.is_empty()).collect(),
        mode,
        ..RuleText::default()
    };
    let unreadable = |dns: &str| {
        input_with(
            Certificate {
                dns: owned(&[dns]),
                unreadable: vec![Ambiguous::UndecodableCommonName],
                ..Certificate::default()
            },
            "10.0.0.1",
        )
    };
    let enforce = Mode::Enforce;
    for (rules, dns, expected) in [
        (vec![rule("", "a.example", enforce)], "a.example", Ok("0")),
        (
            vec![rule("", "a.example", enforce), rule("x", "", enforce)],
            "a.example",
            Ok("0"),
        ),
        (
            vec![rule("x", "", enforce), rule("", "a.example", enforce)],
            "a.example",
            Err(ReasonCode::AmbiguousIdentity),
        ),
        (
            vec![rule("x", "", Mode::Shadow), rule("", "a.example", enforce)],
            "a.example",
            Ok("1"),
        ),
        (
            vec![rule("", "a.example", enforce)],
            "b.example",
            Err(ReasonCode::UnknownClient),
        ),
        (
            vec![rule("x", "", enforce)],
            "b.example",
            Err(ReasonCode::AmbiguousIdentity),
        ),
    ] {
        let policy = Policy::new(&config(clients(&rules)), &HashMap::new());
        let found = policy.identify(&unreadable(dns), at(0));
        let found = found.map(|matched| matched.client().to_owned());
        assert_eq!(
            found.as_deref().map_err(Denied::reason),
            expected,
            "{rules:?} {dns}"
        );
    }
}
