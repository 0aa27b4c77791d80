use std::{net::IpAddr, num::NonZeroUsize, time::Duration};

use leastconn::{Limits, ServerId};
use proptest::prelude::*;

use super::*;
use crate::config::{
    Access, Allow, Client, CnPattern, DnsPattern, Format, IpNet, Level, Log, Process, TlsRecords,
};

/// A rule as a test writes it down: patterns as text.
#[derive(Clone, Debug, Default)]
struct Written {
    cn: Vec<&'static str>,
    dns: Vec<&'static str>,
    source: Vec<&'static str>,
}

fn client(position: usize, written: &Written, allow: Vec<Allow>) -> Client {
    let cn = written
        .cn
        .iter()
        .map(|text| CnPattern::parse(text).unwrap());
    let dns = written
        .dns
        .iter()
        .map(|text| DnsPattern::parse(text).unwrap());
    let source = written
        .source
        .iter()
        .map(|text| IpNet::parse(text).unwrap());
    Client {
        name: position.to_string(),
        cn: cn.collect(),
        dns: dns.collect(),
        source: source.collect(),
        allow,
        limits: Limits::default(),
    }
}

fn config(clients: Vec<Client>) -> Config {
    Config {
        path: "leastconn.toml".into(),
        process: Process {
            workers: NonZeroUsize::MIN,
            max_connections: None,
            max_handshakes: NonZeroUsize::MIN,
            drain_timeout: Duration::ZERO,
            tls_records: TlsRecords::default(),
        },
        log: Log {
            level: Level::Info,
            format: Format::Text,
            access: Access::Off,
        },
        admin: None,
        listeners: Vec::new(),
        upstreams: Vec::new(),
        clients: Arc::new(clients.into_iter().collect()),
    }
}

fn peer(cn: Option<&str>, dns: &[&str], source: &str) -> Peer {
    Peer {
        source: source.parse().unwrap(),
        certificate: Some(Certificate {
            cn: cn.map(str::to_owned),
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
            serial: "01".to_owned(),
        }),
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

/// The first rule that holds, by trying all of them in order.
fn naive(rules: &[Written], peer: &Peer) -> Option<(usize, String)> {
    let cert = peer.certificate.as_ref();
    rules.iter().enumerate().find_map(|(position, rule)| {
        let cn = cert.and_then(|cert| cert.cn.as_deref());
        let cn = cn.filter(|cn| rule.cn.iter().any(|pattern| stands_for(pattern, cn)));
        let dns = cert.and_then(|cert| {
            cert.dns
                .iter()
                .find(|name| rule.dns.iter().any(|pattern| stands_for(pattern, name)))
        });
        let source = rule
            .source
            .iter()
            .any(|net| IpNet::parse(net).unwrap().contains(peer.source));
        let holds = (rule.cn.is_empty() || cn.is_some())
            && (rule.dns.is_empty() || dns.is_some())
            && (rule.source.is_empty() || source);
        let identity = match (rule.cn.is_empty(), rule.dns.is_empty()) {
            (false, _) => format!("cn:{}", cn.unwrap_or_default()),
            (true, false) => format!("dns:{}", dns.map_or("", String::as_str)),
            (true, true) => peer.identity().as_str().to_owned(),
        };
        holds.then_some((position, identity))
    })
}

const NAMES: [&str; 7] = ["a.x", "b.x", "a.y", "a.b.x", "x", "*.x", "a."];
const PATTERNS: [&str; 7] = ["a.x", "b.x", "a.y", "x", "*.x", "a.*", "*.*.x"];
const NETS: [&str; 4] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "::/0"];
const SOURCES: [&str; 4] = ["10.1.2.3", "10.1.9.9", "192.0.2.1", "2001:db8::1"];

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(all), 0..3)
}

prop_compose! {
    fn rule()(
        cn in some_of(&PATTERNS),
        dns in some_of(&PATTERNS),
        source in some_of(&NETS),
    ) -> Written {
        // A rule without any key is not to be had.
        let source = if cn.is_empty() && dns.is_empty() && source.is_empty() {
            vec!["10.0.0.0/8"]
        } else {
            source
        };
        Written { cn, dns, source }
    }
}

prop_compose! {
    fn anybody()(
        certificate in prop::option::of((
            prop::option::of(prop::sample::select(&NAMES[..])),
            some_of(&NAMES),
        )),
        source in prop::sample::select(&SOURCES[..]),
    ) -> Peer {
        match certificate {
            Some((cn, dns)) => peer(cn, &dns, source),
            None => Peer { source: source.parse::<IpAddr>().unwrap(), certificate: None },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn finding_a_rule_by_hash_is_trying_all_in_order(
        rules in prop::collection::vec(rule(), 0..12),
        peer in anybody(),
    ) {
        let clients = rules.iter().enumerate();
        let clients = clients.map(|(n, rule)| client(n, rule, Vec::new())).collect();
        let policy = Policy::new(&config(clients), &HashMap::new());
        let found = policy.identify(&peer).ok().map(|matched| {
            let position = matched.client().parse::<usize>().unwrap();
            (position, matched.identity().as_str().to_owned())
        });
        prop_assert_eq!(found, naive(&rules, &peer));
    }
}

fn upstream(name: &str, servers: &[&str]) -> (UpstreamId, Arc<Upstream>) {
    let id = UpstreamId::from(name);
    let spec = |server: &&str| {
        leastconn::ServerSpec::new(*server, std::net::SocketAddr::from(([127, 0, 0, 1], 1)))
    };
    let upstream = Upstream::start(&config::Upstream {
        id: id.clone(),
        servers: servers.iter().map(spec).collect(),
        connect_timeout: Duration::from_secs(1),
        retries: 0,
        keepalive: None,
        proxy_protocol: None,
        health_check: None,
        passive: leastconn::health::PassivePolicy::default(),
        tls: None,
    });
    (id, Arc::new(upstream.unwrap()))
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
    policy.identify(&peer(Some("a.x"), &[], "::1")).unwrap()
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
        let (pool, candidates) = grant.servers(&permit);
        // Held, so that each pick is another server.
        let mut leases = Vec::new();
        for _ in 0..servers.len() {
            let lease = pool.pick(candidates, &leastconn::Tried::default(), now);
            leases.push(lease.unwrap());
        }
        let mut picked: Vec<_> = leases.iter().map(|l| l.server().id().as_str()).collect();
        picked.sort_unstable();
        assert_eq!(picked, servers);
    }
}
