//! The index of client rules: only a few of many rules are tried for a client.

use super::{
    generate::{NETS, PATTERNS},
    *,
};

prop_compose! {
    /// Rules that differ mostly in their source networks.
    fn by_source()(
        cn in prop::option::weighted(0.2, prop::sample::select(&PATTERNS[..])),
        source in prop::collection::vec(prop::sample::select(&NETS[..]), 1..4),
        expires in prop::option::weighted(0.2, 0_i64..6),
        shadow in prop::bool::weighted(0.2),
    ) -> RuleText {
        RuleText {
            cn: cn.into_iter().collect(),
            source,
            expires,
            mode: if shadow { Mode::Shadow } else { Mode::Enforce },
            ..RuleText::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn index_finds_the_first_rule_by_source(
        rules in prop::collection::vec(by_source(), 0..24),
        input in any_input(),
        now in 0_i64..6,
    ) {
        check_against_try_all(&rules, &input, now)?;
    }

    #[test]
    fn may_cover_returns_every_covering_rule(
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

fn client_matching(values: &[(MatchKey, &str)]) -> Client {
    let mut client = Client::default();
    for (key, value) in values {
        client.require(*key, value).unwrap();
    }
    client
}

/// A name, a function that makes 1,000 different rules, and an input that rule 700 matches.
type Kind = (
    &'static str,
    fn(usize) -> Client,
    fn() -> RuleInput<'static>,
);

#[test]
fn one_rule_of_a_thousand_is_tried() {
    fn address(number: usize) -> String {
        format!("10.0.{}.{}", number / 256, number % 256)
    }
    fn with_names(cn: &str, dns: &str, uri: &str) -> RuleInput<'static> {
        let certificate = Certificate {
            uri: owned(&[uri]),
            ou: owned(&["staff"]),
            ..input(Some(cn), &[dns], "::1").certificate.unwrap().clone()
        };
        input_with(certificate, "::ffff:10.0.2.188")
    }
    fn with_usual_names() -> RuleInput<'static> {
        with_names("a", "x.d700.org", "spiffe://td/ns/n700/sa/b")
    }
    let kinds: [Kind; 8] = [
        (
            "address",
            |n| client_matching(&[(MatchKey::Source, &address(n))]),
            with_usual_names,
        ),
        (
            "network",
            |n| {
                client_matching(&[(
                    MatchKey::Source,
                    &format!("10.{}.{}.0/24", n / 256, n % 256),
                )])
            },
            || input(None, &[], "10.2.188.9"),
        ),
        (
            "IPv6 network",
            |n| client_matching(&[(MatchKey::Source, &format!("2001:db8:{n:x}::/48"))]),
            || input(None, &[], "2001:db8:2bc::1"),
        ),
        (
            "wildcard",
            |n| client_matching(&[(MatchKey::Dns, &format!("*.d{n}.org"))]),
            with_usual_names,
        ),
        (
            "path",
            |n| client_matching(&[(MatchKey::Uri, &format!("spiffe://td/*/n{n}/**"))]),
            with_usual_names,
        ),
        (
            "path of an https URI",
            |n| client_matching(&[(MatchKey::Uri, &format!("https://a/n{n}/*/b/**"))]),
            || with_names("a", "b", "https://a/n700/x/b/c/d"),
        ),
        (
            "address and ou",
            |n| client_matching(&[(MatchKey::Ou, "staff"), (MatchKey::Source, &address(n))]),
            with_usual_names,
        ),
        (
            "address and any cn",
            |n| client_matching(&[(MatchKey::Cn, "*"), (MatchKey::Source, &address(n))]),
            with_usual_names,
        ),
    ];
    for (kind, client, input) in kinds {
        let rules = (0..1000).map(|n| Client {
            name: n.to_string(),
            ..client(n)
        });
        let policy = Policy::new(&config(rules.collect()), &HashMap::new());
        let input = input();
        let tried: Vec<_> = policy.candidates(&input).collect();
        assert_eq!(tried, [700], "{kind}");
        assert_eq!(policy.identify(&input, at(0)).unwrap().client(), "700");
        let compared: Vec<_> = policy
            .clients
            .may_cover(&policy.clients.rule(700))
            .collect();
        assert_eq!(compared, [700], "{kind}");
    }
}
