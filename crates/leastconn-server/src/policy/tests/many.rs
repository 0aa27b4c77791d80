//! Very many rules: few are tried for a client, and few compared with a later one.

use super::*;
use crate::identity::Ambiguous;

prop_compose! {
    /// Rules that differ in their addresses, as a rule.
    fn by_source()(
        cn in prop::option::weighted(0.2, prop::sample::select(&PATTERNS[..])),
        source in prop::collection::vec(prop::sample::select(&NETS[..]), 1..4),
        expires in prop::option::weighted(0.2, 0_i64..6),
        shadow in prop::bool::weighted(0.2),
    ) -> Written {
        Written {
            cn: cn.into_iter().collect(),
            source,
            expires,
            mode: if shadow { Mode::Shadow } else { Mode::Enforce },
            ..Written::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn finding_a_rule_by_source_is_trying_all_in_order(
        rules in prop::collection::vec(by_source(), 0..24),
        peer in anybody(),
        now in 0_i64..6,
    ) {
        finds_as_by_trying_all(&rules, &peer, now)?;
    }

    /// Whatever covers a rule is among those that it is compared with.
    #[test]
    fn no_rule_that_covers_is_passed_over(
        rules in prop::collection::vec(prop_oneof![rule(), by_source()], 0..12),
    ) {
        let clients: Clients = clients(&rules).into_iter().collect();
        for later in clients.iter() {
            let compared: Vec<_> = clients.may_cover(&later).collect();
            prop_assert!(compared.is_sorted_by(|a, b| a < b), "{compared:?}");
            for (number, earlier) in clients.iter().enumerate() {
                prop_assert!(compared.contains(&number) || !earlier.covers(&later));
            }
        }
    }
}

/// A thousand rules, what the one of number 700 is for, and how it is written.
type Kind = (
    &'static str,
    fn(usize) -> Client,
    fn() -> RuleInput<'static>,
);

#[test]
fn of_a_thousand_rules_few_are_tried_whatever_they_go_by() {
    fn address(number: usize) -> String {
        format!("10.0.{}.{}", number / 256, number % 256)
    }
    fn shown(cn: &str, dns: &str, uri: &str) -> RuleInput<'static> {
        let certificate = Certificate {
            uri: owned(&[uri]),
            ou: owned(&["staff"]),
            ..peer(Some(cn), &[dns], "::1").certificate.unwrap().clone()
        };
        showing(certificate, "::ffff:10.0.2.188")
    }
    fn anyone() -> RuleInput<'static> {
        shown("a", "x.d700.org", "spiffe://td/ns/n700/sa/b")
    }
    let kinds: [Kind; 8] = [
        (
            "address",
            |n| Client {
                source: vec![IpNet::parse(&address(n)).unwrap()],
                ..Client::default()
            },
            anyone,
        ),
        (
            "network",
            |n| Client {
                source: vec![IpNet::parse(&format!("10.{}.{}.0/24", n / 256, n % 256)).unwrap()],
                ..Client::default()
            },
            || peer(None, &[], "10.2.188.9"),
        ),
        (
            "network of IPv6",
            |n| Client {
                source: vec![IpNet::parse(&format!("2001:db8:{n:x}::/48")).unwrap()],
                ..Client::default()
            },
            || peer(None, &[], "2001:db8:2bc::1"),
        ),
        (
            "wildcard",
            |n| Client {
                dns: vec![DnsPattern::parse(&format!("*.d{n}.org")).unwrap()],
                ..Client::default()
            },
            anyone,
        ),
        (
            "path",
            |n| Client {
                uri: vec![UriPattern::parse(&format!("spiffe://td/*/n{n}/**")).unwrap()],
                ..Client::default()
            },
            anyone,
        ),
        (
            "path of another URI",
            |n| Client {
                uri: vec![UriPattern::parse(&format!("https://a/n{n}/*/b/**")).unwrap()],
                ..Client::default()
            },
            || shown("a", "b", "https://a/n700/x/b/c/d"),
        ),
        (
            "address within a unit",
            |n| Client {
                ou: vec![ExactText::parse("staff").unwrap()],
                source: vec![IpNet::parse(&address(n)).unwrap()],
                ..Client::default()
            },
            anyone,
        ),
        (
            "address, and any name",
            |n| Client {
                cn: vec![CnPattern::parse("*").unwrap()],
                source: vec![IpNet::parse(&address(n)).unwrap()],
                ..Client::default()
            },
            anyone,
        ),
    ];
    for (kind, client, who) in kinds {
        let rules = (0..1000).map(|n| Client {
            name: n.to_string(),
            ..client(n)
        });
        let policy = Policy::new(&config(rules.collect()), &HashMap::new());
        let who = who();
        let tried: Vec<_> = policy.candidates(&who).collect();
        assert_eq!(tried, [700], "{kind}");
        assert_eq!(policy.identify(&who, at(0)).unwrap().client(), "700");
        let compared: Vec<_> = policy
            .clients
            .may_cover(&policy.clients.rule(700))
            .collect();
        assert_eq!(compared, [700], "{kind}");
    }
}

#[test]
fn unreadable_names_matter_to_rules_that_ask_for_them() {
    let rule = |cn: &'static str, dns: &'static str, mode| Written {
        cn: [cn].into_iter().filter(|text| !text.is_empty()).collect(),
        dns: [dns].into_iter().filter(|text| !text.is_empty()).collect(),
        mode,
        ..Written::default()
    };
    let unreadable = |dns: &str| {
        showing(
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
            Err(Reason::AmbiguousIdentity),
        ),
        (
            vec![rule("x", "", Mode::Shadow), rule("", "a.example", enforce)],
            "a.example",
            Ok("1"),
        ),
        (
            vec![rule("", "a.example", enforce)],
            "b.example",
            Err(Reason::UnknownClient),
        ),
        (
            vec![rule("x", "", enforce)],
            "b.example",
            Err(Reason::AmbiguousIdentity),
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
