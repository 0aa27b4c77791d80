use std::{net::IpAddr, num::NonZeroUsize, time::Duration};

use leastconn::{Limits, Reason, ServerId};
use proptest::prelude::*;

use super::*;
use crate::{
    config::{
        self, Access, AccessFilter, Allow, Client, CnPattern, DnsPattern, ExactText, Format, IpNet,
        Level, Log, Prefixes, Process, Spki, UriPattern,
    },
    identity::Certificate,
};
use upstream::upstream;

mod upstream;

/// A rule as a test writes it down: patterns as text.
#[derive(Clone, Debug, Default)]
struct Written {
    cn: Vec<&'static str>,
    dns: Vec<&'static str>,
    uri: Vec<&'static str>,
    spki: Vec<&'static str>,
    ou: Vec<&'static str>,
    issuer_cn: Vec<&'static str>,
    source: Vec<&'static str>,
    /// In seconds since 1970.
    expires: Option<i64>,
    mode: Mode,
}

fn each<T, E: std::fmt::Debug>(
    texts: &[&'static str],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Vec<T> {
    texts.iter().map(|text| parse(text).unwrap()).collect()
}

fn client(position: usize, written: &Written, allow: Vec<Allow>) -> Client {
    Client {
        name: position.to_string(),
        cn: each(&written.cn, CnPattern::parse),
        dns: each(&written.dns, DnsPattern::parse),
        uri: each(&written.uri, UriPattern::parse),
        spki: each(&written.spki, Spki::parse),
        ou: each(&written.ou, ExactText::parse),
        issuer_cn: each(&written.issuer_cn, ExactText::parse),
        source: each(&written.source, IpNet::parse),
        allow,
        limits: Limits::default(),
        expires: written.expires.map(at),
        mode: written.mode,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn config(clients: Vec<Client>) -> Config {
    Config {
        path: "leastconn.toml".into(),
        process: Process {
            auto_workers: true,
            watch: Default::default(),
            workers: NonZeroUsize::MIN,
            max_connections: None,
            max_handshakes: NonZeroUsize::MIN,
            memory_limit: config::MemoryLimit::Off,
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
        listeners: Vec::new(),
        upstreams: Vec::new(),
        clients: Arc::new(clients.into_iter().collect()),
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn peer(cn: Option<&str>, dns: &[&str], source: &str) -> RuleInput<'static> {
    showing(
        Certificate {
            cn: cn.map(str::to_owned),
            dns: owned(dns),
            ..Certificate::default()
        },
        source,
    )
}

fn showing(certificate: Certificate, source: &str) -> RuleInput<'static> {
    RuleInput {
        source: source.parse().unwrap(),
        prefixes: Prefixes::default(),
        certificate: Some(Box::leak(Box::new(certificate))),
    }
}

/// What a wildcard means, once more and in another way.
fn stands_for(pattern: &str, name: &str) -> bool {
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

/// The same for URIs.
fn uri_stands_for(pattern: &str, uri: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == uri;
    }
    // Of those that tests have, all that is unclear.
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

/// What a network means, bit by bit.
fn is_in(net: &str, address: IpAddr) -> bool {
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

/// The first rule that holds and decides, by trying all of them in order; and the
/// first that holds, if it decides nothing.
fn naive(rules: &[Written], peer: &RuleInput<'_>, now: i64) -> [Option<(usize, String)>; 2] {
    type StandsFor = fn(&str, &str) -> bool;
    let nobody = Certificate::default();
    let cert = peer.certificate.unwrap_or(&nobody);
    let equal: StandsFor = |pattern, text| pattern == text;
    let shown = |spki: &str| !spki.is_empty();
    let mut found = [None, None];
    for (position, rule) in rules.iter().enumerate() {
        let keys: [(&str, &[&str], Vec<&str>, StandsFor); 6] = [
            (
                "cn",
                &rule.cn,
                cert.cn.iter().map(|s| &**s).collect(),
                stands_for,
            ),
            (
                "dns",
                &rule.dns,
                cert.dns.iter().map(|s| &**s).collect(),
                stands_for,
            ),
            (
                "uri",
                &rule.uri,
                cert.uri.iter().map(|s| &**s).collect(),
                uri_stands_for,
            ),
            (
                "spki",
                &rule.spki,
                Some(&*cert.spki).into_iter().filter(|s| shown(s)).collect(),
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
        let mut holds =
            rule.source.is_empty() || rule.source.iter().any(|net| is_in(net, peer.source));
        let mut name = None;
        for (key, patterns, texts, stands_for) in keys {
            if patterns.is_empty() {
                continue;
            }
            match texts
                .iter()
                .find(|text| patterns.iter().any(|p| stands_for(p, text)))
            {
                Some(text) if !key.is_empty() => drop(name.get_or_insert(format!("{key}:{text}"))),
                Some(_) => {}
                None => holds = false,
            }
        }
        if !holds || rule.expires.is_some_and(|expires| expires <= now) {
            continue;
        }
        let identity = name.unwrap_or_else(|| peer.identity().as_str().to_owned());
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

const NAMES: [&str; 7] = ["a.x", "b.x", "a.y", "a.b.x", "x", "*.x", "a."];
const PATTERNS: [&str; 7] = ["a.x", "b.x", "a.y", "x", "*.x", "a.*", "*.*.x"];
const URIS: [&str; 14] = [
    "spiffe://t/a",
    "spiffe://t/b",
    "spiffe://t/a/b",
    "spiffe://t",
    "urn:x",
    "https://t/a",
    "https://t/a/b",
    "https://T/a",
    "https://t/a/b?c",
    "https://t/a//b",
    "https://t/a/..",
    "https://t/a%2Fb",
    "https://t/*",
    "https://t/**",
];
const URI_PATTERNS: [&str; 13] = [
    "spiffe://t/a",
    "spiffe://t/*",
    "spiffe://t/**",
    "spiffe://t/a/**",
    "spiffe://t",
    "urn:x",
    "https://t/*",
    "https://t/**",
    "https://t/*/b",
    "https://t/a/**",
    "https://t/a",
    "https://t/a/..",
    "https://t/a/b?c",
];
const TEXTS: [&str; 3] = ["one", "two", "a.x"];
const KEYS: [&str; 2] = [
    "0000000000000000000000000000000000000000000000000000000000000001",
    "0000000000000000000000000000000000000000000000000000000000000002",
];
const NETS: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.2/31",
    "10.1.2.3",
    "::ffff:10.1.0.0/112",
    "::ffff:192.0.2.1",
    "::/0",
    "::/64",
    "2001:db8::/32",
    "2001:db8::1",
];
const SOURCES: [&str; 8] = [
    "10.1.2.3",
    "::ffff:10.1.2.3",
    "10.1.9.9",
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "2001:db8::1",
    "2001:db9::1",
    "::10.1.2.3",
];

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(all), 0..3)
}

/// Mostly none.
fn few_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(Vec::new()), 1 => some_of(all)]
}

prop_compose! {
    fn rule()(
        cn in few_of(&PATTERNS),
        dns in few_of(&PATTERNS),
        uri in few_of(&URI_PATTERNS),
        spki in few_of(&KEYS),
        ou in few_of(&TEXTS),
        issuer_cn in few_of(&TEXTS),
        source in few_of(&NETS),
        expires in prop::option::weighted(0.3, 0_i64..6),
        shadow in prop::bool::weighted(0.2),
    ) -> Written {
        let mut rule = Written { cn, dns, uri, spki, ou, issuer_cn, source, expires, ..Written::default() };
        rule.mode = if shadow { Mode::Shadow } else { Mode::Enforce };
        let names = [&rule.cn, &rule.dns, &rule.uri, &rule.spki, &rule.ou, &rule.issuer_cn];
        // A rule without any key is not to be had.
        if names.iter().all(|list| list.is_empty()) && rule.source.is_empty() {
            rule.source = vec!["10.0.0.0/8"];
        }
        rule
    }
}

prop_compose! {
    fn certificate()(
        cn in prop::option::of(prop::sample::select(&NAMES[..])),
        dns in some_of(&NAMES),
        uri in some_of(&URIS),
        spki in prop::sample::select(&KEYS[..]),
        ou in some_of(&TEXTS),
        issuer_cn in prop::option::of(prop::sample::select(&TEXTS[..])),
    ) -> Certificate {
        Certificate {
            cn: cn.map(str::to_owned),
            dns: owned(&dns),
            uri: owned(&uri),
            spki: spki.to_owned(),
            ou: owned(&ou),
            issuer_cn: issuer_cn.map(str::to_owned),
            ..Certificate::default()
        }
    }
}

prop_compose! {
    fn anybody()(
        certificate in prop::option::of(certificate()),
        source in prop::sample::select(&SOURCES[..]),
    ) -> RuleInput<'static> {
        let peer = showing(Certificate::default(), source);
        RuleInput { certificate: certificate.map(|certificate| &*Box::leak(Box::new(certificate))), ..peer }
    }
}

fn seen(matched: &Matched<'_>) -> (usize, String) {
    let position = matched.client().parse::<usize>().unwrap();
    (position, matched.identity().as_str().to_owned())
}

fn clients(rules: &[Written]) -> Vec<Client> {
    let rules = rules.iter().enumerate();
    rules.map(|(n, rule)| client(n, rule, Vec::new())).collect()
}

fn finds_as_by_trying_all(
    rules: &[Written],
    peer: &RuleInput<'_>,
    now: i64,
) -> Result<(), TestCaseError> {
    let policy = Policy::new(&config(clients(rules)), &HashMap::new());
    let [decides, shadow] = naive(rules, peer, now);
    let found = policy.identify(peer, at(now)).ok();
    prop_assert_eq!(found.as_ref().map(seen), decides);
    let found = policy.shadow(peer, at(now));
    prop_assert_eq!(found.as_ref().map(seen), shadow);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn finding_a_rule_by_search_is_trying_all_in_order(
        rules in prop::collection::vec(rule(), 0..12),
        peer in anybody(),
        now in 0_i64..6,
    ) {
        finds_as_by_trying_all(&rules, &peer, now)?;
    }

    /// What one rule is said to cover, the other never decides.
    #[test]
    fn covering_keeps_its_word(
        rules in prop::collection::vec(rule(), 2),
        peer in anybody(),
        now in 0_i64..6,
    ) {
        let clients: Clients = clients(&rules).into_iter().collect();
        let covers = clients.rule(0).covers(&clients.rule(1));
        let [decides, shadow] = naive(&rules, &peer, now);
        let later = |found: Option<(usize, String)>| found.is_some_and(|(rule, _)| rule == 1);
        prop_assert!(!covers || !later(decides) && !later(shadow));
    }
}

#[test]
fn a_rule_that_expired_is_named_when_nothing_else_matches() {
    let by_cn = |expires, mode| Written {
        cn: vec!["a.x"],
        expires,
        mode,
        ..Written::default()
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
    let somebody = peer(Some("a.x"), &[], "::1");
    let who = |now| {
        policy
            .identify(&somebody, at(now))
            .map(|m| m.client().to_owned())
    };
    assert_eq!(who(9).unwrap(), "1");
    // At the very moment, it has expired.
    assert_eq!(who(10).unwrap(), "2");
    let denied = who(20).unwrap_err();
    assert_eq!(denied.reason(), Reason::UnknownClient);
    assert_eq!(
        denied.to_string(),
        "no client rule matches any more: the rule of client `1` expired at 1970-01-01T00:00:10Z"
    );
    let other = policy.identify(&peer(Some("b.x"), &[], "::1"), at(20));
    assert_eq!(other.unwrap_err(), Denied::UnknownClient);
    let next = [4, 5, 10, 19, 20].map(|now| policy.next_expiry(at(now)));
    assert_eq!(
        next,
        [Some(at(5)), Some(at(10)), Some(at(20)), Some(at(20)), None]
    );
}

fn allow(upstream: &str, server: Option<&str>) -> Allow {
    Allow {
        upstream: upstream.into(),
        server: server.map(ServerId::from),
    }
}

/// The one rule of a policy with two upstreams, for a client that may `allow`.
fn policy(allow: Vec<Allow>) -> Policy {
    let upstreams = [upstream("web", &["w1", "w2"]), upstream("db", &["d1"])].into();
    let rule = Written {
        cn: vec!["a.x"],
        ..Written::default()
    };
    Policy::new(&config(vec![client(0, &rule, allow)]), &upstreams)
}

fn matched(policy: &Policy) -> Matched<'_> {
    policy
        .identify(&peer(Some("a.x"), &[], "::1"), Timestamp::now())
        .unwrap()
}

fn routing(upstream: Option<&str>, routes: &[(&str, &str)]) -> Routing {
    let route = |(sni, upstream): &(&str, &str)| config::Route {
        sni: DnsPattern::parse(sni).unwrap(),
        upstream: (*upstream).into(),
    };
    Routing {
        routes: routes.iter().map(route).collect(),
        upstream: upstream.map(UpstreamId::from),
    }
}

fn leads(policy: &Policy, routing: &Routing, sni: Option<&str>) -> Result<String, Reason> {
    let grant = matched(policy).grant(routing, sni);
    let upstream = |grant: Grant| grant.upstream().pool().id().to_string();
    grant.map(upstream).map_err(|denied| denied.reason())
}

#[test]
fn a_route_comes_before_the_upstream_and_both_before_allow() {
    let all = policy(vec![allow("web", None), allow("db", None)]);
    let routing = routing(Some("web"), &[("*.db", "db"), ("a.db", "web")]);
    assert_eq!(leads(&all, &routing, Some("a.db")), Ok("db".to_owned()));
    assert_eq!(leads(&all, &routing, Some("A.DB")), Ok("db".to_owned()));
    assert_eq!(leads(&all, &routing, Some("b.a.db")), Ok("web".to_owned()));
    assert_eq!(leads(&all, &routing, None), Ok("web".to_owned()));
    let web = policy(vec![allow("web", None)]);
    let denied = leads(&web, &routing, Some("a.db"));
    assert_eq!(denied, Err(Reason::NotAllowed));
}

#[test]
fn without_a_way_allow_decides_if_it_is_for_one_upstream() {
    let open = routing(None, &[]);
    let db = policy(vec![allow("db", Some("d1"))]);
    assert_eq!(leads(&db, &open, None), Ok("db".to_owned()));
    let both = policy(vec![allow("web", None), allow("db", None)]);
    assert_eq!(leads(&both, &open, None), Err(Reason::NotAllowed));
    assert_eq!(leads(&policy(vec![]), &open, None), Err(Reason::NotAllowed));
    // The same where there are routes, and none leads to anything.
    let routes = routing(None, &[("a.db", "db")]);
    assert_eq!(leads(&db, &routes, Some("b.db")), Ok("db".to_owned()));
    let said = |policy: &Policy, sni| {
        let denied = matched(policy).grant(&routes, sni).unwrap_err();
        (denied.reason(), denied.to_string())
    };
    assert_eq!(
        said(&both, Some("b.db")),
        (
            Reason::NotAllowed,
            "the rule of client `0` allows servers of 2 upstreams, and the listener does not say \
             of which: no route takes this connection, and it has no `upstream`"
                .to_owned()
        )
    );
    let none = "the rule of client `0` allows no server".to_owned();
    assert_eq!(said(&policy(vec![]), None), (Reason::NotAllowed, none));
    let web = policy(vec![allow("web", None)]);
    let other = "the rule of client `0` allows no server of upstream `db`".to_owned();
    assert_eq!(said(&web, Some("a.db")), (Reason::NotAllowed, other));
}

#[test]
fn a_grant_reaches_the_named_servers_only() {
    let limiter = leastconn::Limiter::new(10, leastconn::net::now());
    for (allowed, servers) in [
        (vec![allow("web", Some("w2"))], vec!["w2"]),
        (
            vec![allow("web", Some("w2")), allow("web", Some("w1"))],
            vec!["w1", "w2"],
        ),
        (
            vec![allow("web", Some("w1")), allow("web", None)],
            vec!["w1", "w2"],
        ),
    ] {
        let policy = policy(allowed);
        let grant = matched(&policy)
            .grant(&routing(Some("web"), &[]), None)
            .unwrap();
        let now = leastconn::net::now();
        let permit = limiter
            .admit(grant.identity(), grant.limits(), now)
            .unwrap();
        let (pool, selector) = grant.servers(&permit);
        let candidates = pool.candidates(selector);
        // Held, so that each pick is another server.
        let mut leases = Vec::new();
        for _ in 0..servers.len() {
            let lease = pool.pick(&candidates, &leastconn::Tried::default(), now);
            leases.push(lease.unwrap());
        }
        let mut picked: Vec<_> = leases.iter().map(|l| l.server().id().as_str()).collect();
        picked.sort_unstable();
        assert_eq!(picked, servers);
    }
}

mod many;
