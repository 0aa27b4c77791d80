//! The grant that a matching rule gives.

use leastconn::ServerId;

use super::{upstream::upstream, *};

fn allow(upstream: &str, server: Option<&str>) -> Allow {
    Allow {
        upstream: upstream.into(),
        server: server.map(ServerId::from),
    }
}

/// A policy with the upstreams `web` and `db`, and with one rule that has this `allow` list.
fn policy(allow: Vec<Allow>) -> Policy {
    let upstreams = [upstream("web", &["w1", "w2"]), upstream("db", &["d1"])].into();
    let rule = RuleText {
        cn: vec!["a.x"],
        ..RuleText::default()
    };
    Policy::new(&config(vec![client(0, &rule, allow)]), &upstreams)
}

fn matched(policy: &Policy) -> Matched<'_> {
    policy
        .identify(&input(Some("a.x"), &[], "::1"), Timestamp::now())
        .unwrap()
}

fn routing(upstream: Option<&str>, routes: &[(&str, &str)]) -> Routing {
    let route = |(sni, upstream): &(&str, &str)| leastconn_config::Route {
        sni: DnsPattern::parse(sni).unwrap(),
        upstream: target(upstream),
    };
    Routing {
        routes: routes.iter().map(route).collect(),
        upstream: upstream.map(target),
    }
}

fn target(upstream: &str) -> Target {
    match upstream {
        "" => Target::Refuse,
        name => Target::Upstream(name.into()),
    }
}

fn upstream_for(
    policy: &Policy,
    routing: &Routing,
    sni: Option<&str>,
) -> Result<String, ReasonCode> {
    let grant = matched(policy).grant(routing, sni);
    let upstream = |grant: Grant| grant.upstream().pool().id().to_string();
    grant.map(upstream).map_err(|denied| denied.reason())
}

#[test]
fn routes_precede_the_upstream_and_allow_restricts_both() {
    let all = policy(vec![allow("web", None), allow("db", None)]);
    let routing = routing(Some("web"), &[("*.db", "db"), ("a.db", "web")]);
    assert_eq!(
        upstream_for(&all, &routing, Some("a.db")),
        Ok("db".to_owned())
    );
    assert_eq!(
        upstream_for(&all, &routing, Some("A.DB")),
        Ok("db".to_owned())
    );
    assert_eq!(
        upstream_for(&all, &routing, Some("b.a.db")),
        Ok("web".to_owned())
    );
    assert_eq!(upstream_for(&all, &routing, None), Ok("web".to_owned()));
    let web = policy(vec![allow("web", None)]);
    let denied = upstream_for(&web, &routing, Some("a.db"));
    assert_eq!(denied, Err(ReasonCode::NotAllowed));
}

#[test]
fn allow_chooses_the_upstream_without_routing() {
    let open = routing(None, &[]);
    let db = policy(vec![allow("db", Some("d1"))]);
    assert_eq!(upstream_for(&db, &open, None), Ok("db".to_owned()));
    let both = policy(vec![allow("web", None), allow("db", None)]);
    assert_eq!(
        upstream_for(&both, &open, None),
        Err(ReasonCode::NotAllowed)
    );
    assert_eq!(
        upstream_for(&policy(vec![]), &open, None),
        Err(ReasonCode::NotAllowed)
    );
    // `allow` also chooses the upstream if no route matches.
    let routes = routing(None, &[("a.db", "db")]);
    assert_eq!(
        upstream_for(&db, &routes, Some("b.db")),
        Ok("db".to_owned())
    );
    let denial = |policy: &Policy, sni| {
        let denied = matched(policy).grant(&routes, sni).unwrap_err();
        (denied.reason(), denied.to_string())
    };
    assert_eq!(
        denial(&both, Some("b.db")),
        (
            ReasonCode::NotAllowed,
            "the rule of client `0` allows servers of 2 upstreams, but no route matches and the \
             listener has no `upstream`"
                .to_owned()
        )
    );
    let none = "the rule of client `0` allows no server: its `allow` is empty".to_owned();
    assert_eq!(
        denial(&policy(vec![]), None),
        (ReasonCode::NotAllowed, none)
    );
    let web = policy(vec![allow("web", None)]);
    let other = "the rule of client `0` allows no server of upstream `db`, to which the listener routes the connection: it allows only `web`".to_owned();
    assert_eq!(denial(&web, Some("a.db")), (ReasonCode::NotAllowed, other));
}

#[test]
fn refusing_routes_refuse_every_client() {
    let all = policy(vec![allow("web", None), allow("db", None)]);
    let web = policy(vec![allow("web", None)]);
    let rest = routing(Some(""), &[("a.web", "web")]);
    let name = routing(Some("web"), &[("a.web", ""), ("*.web", "web")]);
    for policy in [&all, &web] {
        assert_eq!(
            upstream_for(policy, &rest, Some("a.web")),
            Ok("web".to_owned())
        );
        for sni in [None, Some("b.web")] {
            let denied = upstream_for(policy, &rest, sni);
            assert_eq!(denied, Err(ReasonCode::NotAllowed), "{sni:?}");
            assert_eq!(upstream_for(policy, &name, sni), Ok("web".to_owned()));
        }
        let denied = upstream_for(policy, &name, Some("A.web"));
        assert_eq!(denied, Err(ReasonCode::NotAllowed));
        let denied = matched(policy).grant(&rest, None).unwrap_err();
        assert!(denied.to_string().contains("`upstream = false`"));
    }
}

#[test]
fn grant_is_limited_to_named_servers() {
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
        // Hold the leases, so that each pick returns another server.
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
