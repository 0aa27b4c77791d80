//! Values of the checked configuration.

use std::{num::NonZeroU32, path::Path, time::Duration};

use leastconn::{
    Address, Balance, PanicPolicy, QueuePolicy, ServerId, UpstreamId, Weight, ZoneId,
    health::{PassivePolicy, Ratio},
};

use super::{PLAIN, changed, config, reading};
use crate::{
    Access, Allow, Format, Granted, HealthCheck, IpNet, Level, MatchKey, Mode, OnExpiry, Prefixes,
    ProbeKind, Sandbox, StatusSet, TrustedProxies, Watch, schema,
};
use leastconn_proxy_protocol::Version;
use leastconn_tls::settings::RecordLayer;

#[test]
fn omitted_keys_have_defaults() {
    let config = config(PLAIN);
    assert_eq!(config.process.max_connections, None);
    assert_eq!(config.process.max_handshakes.get(), 256);
    assert_eq!(config.process.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.process.tls_records, RecordLayer::Direct);
    assert_eq!(config.process.watch, Watch::On);
    assert_eq!(config.process.sandbox, None);
    assert_eq!(config.log.level, Level::Info);
    assert_eq!(config.log.format, Format::Text);
    assert_eq!(config.log.access, Access::Stdout);
    assert_eq!(config.admin, None);
    let listener = &config.listeners[0];
    assert_eq!(listener.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(listener.timeouts.idle, Duration::from_secs(3600));
    assert_eq!(listener.timeouts.half_close, Duration::from_secs(60));
    assert_eq!(listener.keepalive, Some(Duration::from_secs(60)));
    assert_eq!(listener.trusted_proxies, None);
    assert_eq!(listener.tls, None);
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.connect_timeout, Duration::from_secs(5));
    assert_eq!(upstream.proxy_protocol, None);
    assert_eq!(upstream.retries, 2);
    assert_eq!(upstream.keepalive, Some(Duration::from_secs(60)));
    assert_eq!(upstream.passive, PassivePolicy::default());
    let health = upstream.health_check.as_ref().unwrap();
    assert_eq!(health.interval, Duration::from_secs(10));
    assert_eq!(health.timeout, Duration::from_secs(1));
    assert_eq!((health.policy.rise.get(), health.policy.fall.get()), (2, 3));
    let tcp = ProbeKind::Tcp {
        send: None,
        expect: None,
    };
    assert_eq!(health.kind, tcp);
    assert_eq!(
        *config.clients.rule(0).limits(),
        leastconn::Limits::default()
    );
}

#[test]
fn all_keys_are_read() {
    let config = config(
        r#"
        [process]
        workers = 3
        max_connections = 1_000
        max_handshakes = 10
        drain_timeout = "1m30s"
        tls_records = "rustls"
        watch = "off"
        zone = "b"
        sandbox = "on"

        [log]
        level = "debug"
        format = "json"
        access = "/dev/access.log"

        [admin]
        bind = "[::1]:9901"

        [[listener]]
        name = "main"
        bind = ["127.0.0.1:${PORT}", "[::1]:9443"]
        idle_timeout = "2h"
        max_lifetime = "8h"
        on_expiry = "keep"
        proxy_protocol = "required"
        proxy_protocol_from = ["10.0.0.5", "::ffff:10.1.0.0/112"]

        [[upstream]]
        name = "web"
        balance = "p2c"
        connect_timeout = "250ms"
        retries = 0
        retry_for = "250ms"
        panic = "refuse"
        queue = { size = 100, timeout = "2s" }
        slow_start = "1m30s"
        proxy_protocol = "v2-tls"
        health_check = { type = "http", path = "/up?x=1", status = [200, 204], port = 8080, rise = 1, fall = 1 }
        max_connecting = 16
        passive = { max_fails = 0, max_early = 2, fail_timeout = "1s", max_ejected = 1 }
        servers = [
          "webapp1:80",
          { name = "webapp2", address = "10.0.0.2:80", weight = 65535, max_conns = 5, backup = true },
          { address = "webapp3:80", max_conns = 0, zone = "b" },
        ]

        [[client]]
        name = "one"
        match = { source = ["10.0.0.0/8", "::1"] }
        allow = ["web/webapp2", "web/webapp1:80"]
        rate_limit = { rate = 2.5 }
        max_conns = 7
        mode = "enforce"

        [[client]]
        name = "two"
        match = { source = "0.0.0.0/0" }
        allow = "web"

        [defaults.client]
        rate_limit = { rate = 20, burst = 1 }
        max_conns = 9
        "#,
    );
    assert_eq!(config.process.workers.get(), 3);
    assert_eq!(config.process.max_connections.unwrap().get(), 1000);
    assert_eq!(config.process.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.process.tls_records, RecordLayer::Rustls);
    assert_eq!(config.process.watch, Watch::Off);
    assert_eq!(config.process.sandbox, Some(Sandbox::On));
    assert_eq!(config.log.access, Access::File("/dev/access.log".into()));
    assert_eq!(
        config.admin.as_ref().unwrap().bind.unwrap().to_string(),
        "[::1]:9901"
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.binds[0].port(), 9443);
    assert_eq!(listener.max_lifetime, Some(Duration::from_secs(8 * 3600)));
    assert_eq!(listener.on_expiry, OnExpiry::Keep);
    let networks = ["10.0.0.5", "10.1.0.0/16"].map(|text| IpNet::parse(text).unwrap());
    assert_eq!(
        listener.trusted_proxies,
        Some(TrustedProxies::Only(networks.to_vec()))
    );

    let upstream = config.upstream(&UpstreamId::from("web")).unwrap();
    assert_eq!(upstream.proxy_protocol, Some(Version::V2Tls));
    assert_eq!(upstream.balance, Balance::P2c);
    assert_eq!(upstream.slow_start, Duration::from_secs(90));
    assert_eq!(upstream.retry_for, Duration::from_millis(250));
    assert_eq!(upstream.panic, PanicPolicy::Refuse);
    let two_seconds = Duration::from_secs(2);
    assert_eq!(upstream.queue, QueuePolicy::new(100, two_seconds));
    assert_eq!(upstream.passive.max_ejected, Ratio::ALL);
    assert_eq!(upstream.passive.max_early, 2);
    assert_eq!(upstream.max_connecting, NonZeroU32::new(16));
    let names: Vec<_> = upstream.servers.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(names, ["webapp1:80", "webapp2", "webapp3:80"]);
    let second = &upstream.servers[1];
    assert_eq!(second.weight, Weight::new(65535).unwrap());
    assert_eq!(second.max_conns, NonZeroU32::new(5));
    assert!(second.backup);
    assert_eq!(upstream.servers[2].max_conns, None);
    let zone = Some(ZoneId::from("b"));
    assert_eq!((&second.zone, &upstream.servers[2].zone), (&None, &zone));
    assert_eq!((&config.process.zone, &upstream.own_zone), (&zone, &zone));
    assert!(matches!(upstream.servers[2].address, Address::Name { .. }));
    let HealthCheck { kind, port, .. } = upstream.health_check.as_ref().unwrap();
    assert_eq!(*port, Some(8080));
    let http = ProbeKind::Http {
        path: "/up?x=1".into(),
        status: StatusSet::OneOf(vec![200, 204]),
    };
    assert_eq!(*kind, http);

    let [one, two] = config.clients.iter().collect::<Vec<_>>()[..] else {
        panic!("expected two clients");
    };
    let rate = one.limits().rate.unwrap();
    assert_eq!((rate.per_second(), rate.burst().get()), (2.5, 3));
    assert_eq!(one.limits().max_conns, NonZeroU32::new(7));
    assert_eq!(two.limits().rate.unwrap().burst().get(), 1);
    assert_eq!(two.limits().max_conns, NonZeroU32::new(9));
    let web = UpstreamId::from("web");
    assert_eq!(
        Granted::of(one.allow(), &web),
        Some(Granted::Only(vec![
            ServerId::from("webapp2"),
            ServerId::from("webapp1:80")
        ]))
    );
    assert_eq!(Granted::of(two.allow(), &web), Some(Granted::All));
    assert_eq!(Granted::of(two.allow(), &UpstreamId::from("db")), None);
    assert_eq!(
        *two.allow(),
        [Allow {
            upstream: web,
            server: None
        }]
    );
}

#[test]
fn match_keys_are_read() {
    let key = "AB".repeat(32);
    let text = changed(
        "source = \"10.0.0.0/8\" }",
        &format!(
            "cn = \"a\", ou = [\"Staff\", \"two\"], dns = \"*.LB.com\", uri = \"spiffe://td/**\", \
             spki = \"{key}\", issuer_cn = \"My CA\", source = \"10.0.0.0/8\" }}\n\
             expires = 2027-01-31T01:00:00.5+01:00\nmode = \"shadow\""
        ),
    );
    let reading = reading(&text, Path::new("/nowhere"));
    let config = reading.config.unwrap();
    let rule = config.clients.rule(0);
    let texts = |key| rule.texts(key).collect::<Vec<_>>();
    assert_eq!(texts(MatchKey::Cn), ["a"]);
    assert_eq!(texts(MatchKey::Ou), ["Staff", "two"]);
    assert_eq!(texts(MatchKey::Dns), ["*.lb.com"]);
    assert_eq!(texts(MatchKey::Uri), ["spiffe://td/**"]);
    assert_eq!(texts(MatchKey::Spki), [key.to_lowercase()]);
    assert_eq!(texts(MatchKey::IssuerCn), ["My CA"]);
    assert_eq!(rule.sources().len(), 1);
    assert_eq!(
        rule.expires().unwrap().to_string(),
        "2027-01-31T00:00:00.5Z"
    );
    assert_eq!(rule.mode(), Mode::Shadow);
    assert!(config.clients.has_shadows());
    let plain = super::config(PLAIN);
    assert_eq!(plain.clients.rule(0).expires(), None);
    assert_eq!(plain.clients.rule(0).mode(), Mode::Enforce);
    assert!(!plain.clients.has_shadows());
}

#[test]
fn source_limit_has_default_prefixes() {
    let with = |table: &str| {
        let line = format!("upstream = \"web\"\nsource_rate_limit = {{ {table} }}\n");
        let config = config(&changed("upstream = \"web\"\n", &line));
        let limit = config.listeners[0].source_rate_limit.unwrap();
        let (rate, Prefixes { v4, v6 }) = (limit.rate, limit.prefixes);
        (rate.per_second(), rate.burst().get(), v4, v6)
    };
    assert_eq!(with("rate = 2.5"), (2.5, 3, 32, 64));
    assert_eq!(
        with("rate = 50, burst = 100, prefix_v4 = 24, prefix_v6 = 48"),
        (50.0, 100, 24, 48)
    );
    assert_eq!(config(PLAIN).listeners[0].source_rate_limit, None);
}

#[test]
fn proxy_protocol_to_servers_has_five_values() {
    for (word, version) in [
        ("off", None),
        ("v1", Some(Version::V1)),
        ("v2", Some(Version::V2)),
        ("v2-tls", Some(Version::V2Tls)),
        ("v2-tls-full", Some(Version::V2TlsFull)),
    ] {
        let key = format!("name = \"web\"\nproxy_protocol = \"{word}\"\n");
        let config = config(&changed("name = \"web\"\n", &key));
        assert_eq!(config.upstreams[0].proxy_protocol, version);
    }
}

#[test]
fn balance_has_five_values() {
    for (word, balance) in [
        ("least_conn", Balance::LeastConn),
        ("p2c", Balance::P2c),
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("source_hash", Balance::SourceHash),
    ] {
        let key = format!("name = \"web\"\nbalance = \"{word}\"\n");
        let config = config(&changed("name = \"web\"\n", &key));
        assert_eq!(config.upstreams[0].balance, balance);
        assert_eq!(balance.as_str(), word);
    }
    let plain = &config(PLAIN).upstreams[0];
    assert_eq!(plain.balance, Balance::LeastConn);
    assert_eq!(plain.queue, QueuePolicy::new(0, Duration::from_secs(5)));
    assert_eq!(plain.slow_start, Duration::ZERO);
    assert_eq!(plain.retry_for, Duration::from_secs(3));
    assert_eq!(plain.panic, PanicPolicy::Dial);
    assert_eq!(plain.passive, PassivePolicy::default());
    assert_eq!(plain.max_connecting, None);
}

/// A configuration that disabled ejection before `max_early` existed still disables it.
#[test]
fn max_early_defaults_to_zero_without_max_fails() {
    for (passive, max_early) in [
        ("{}", 5),
        ("{ max_fails = 3 }", 5),
        ("{ max_fails = 0 }", 0),
        ("{ max_fails = 0, max_early = 7 }", 7),
        ("{ max_early = 0 }", 0),
    ] {
        let key = format!("name = \"web\"\npassive = {passive}\n");
        let config = config(&changed("name = \"web\"\n", &key));
        assert_eq!(
            config.upstreams[0].passive.max_early, max_early,
            "{passive}"
        );
    }
}

#[test]
fn trusting_all_proxies_needs_an_explicit_list() {
    let text = changed(
        "upstream = \"web\"\n",
        "upstream = \"web\"\nproxy_protocol = \"required\"\n",
    );
    let reading = reading(&text, Path::new("/nowhere"));
    assert_eq!(reading.problems.errors(), 0);
    assert_eq!(reading.problems.lines().count(), 1);
    let config = reading.config.unwrap();
    assert_eq!(
        config.listeners[0].trusted_proxies,
        Some(TrustedProxies::Anyone)
    );
    // An explicit list of all addresses causes no warning.
    let everyone = "\nproxy_protocol_from = [\"0.0.0.0/0\", \"::/0\"]\n";
    let text = text.replace("\"required\"\n", &format!("\"required\"{everyone}"));
    let config = super::config(&text);
    let trusted_proxies = config.listeners[0].trusted_proxies.as_ref().unwrap();
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert!(trusted_proxies.contains(address.parse().unwrap()));
    }
}

#[test]
fn no_health_check_is_none() {
    let text = changed(
        "name = \"web\"\n",
        "name = \"web\"\nhealth_check = { type = \"none\" }\n",
    );
    assert_eq!(config(&text).upstreams[0].health_check, None);
}

#[test]
fn schema_defaults_match_the_code() {
    let default =
        |table: &str, key: &str| schema()["$defs"][table]["properties"][key]["default"].clone();
    let written = changed(
        "upstream = \"web\"\n",
        &format!(
            "upstream = \"web\"\nhandshake_timeout = {}\nidle_timeout = {}\nhalf_close_timeout = {}\nkeepalive = {}\nmax_lifetime = {}\non_expiry = {}\n",
            default("listener", "handshake_timeout"),
            default("listener", "idle_timeout"),
            default("listener", "half_close_timeout"),
            default("listener", "keepalive"),
            default("listener", "max_lifetime"),
            default("listener", "on_expiry"),
        ),
    );
    let mut written = config(&written);
    // The digest is that of the file, which is not the same.
    written.digest = config(PLAIN).digest;
    assert_eq!(written, config(PLAIN));
}

#[test]
fn paths_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    std::fs::write(
        &path,
        format!("log = {{ access = \"access.log\" }}\n{PLAIN}"),
    )
    .unwrap();
    let loaded = crate::load(&path).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.path, path);
    assert_eq!(
        loaded.config.log.access,
        Access::File(dir.path().join("access.log"))
    );
}

#[test]
fn missing_or_binary_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    let problems = crate::load(&path).unwrap_err();
    assert_eq!(
        problems.lines().collect::<Vec<_>>(),
        [format!(
            "{0}: error: `{0}` cannot be read: No such file or directory (os error 2); create it with \
             `leastconn-lb init`, or name another file with --config",
            path.display()
        )]
    );
    let problems = crate::load(dir.path()).unwrap_err();
    let line = problems.lines().next().unwrap();
    let expected = format!(
        "error: `{}` cannot be read: it is a directory",
        dir.path().display()
    );
    assert!(line.contains(&expected), "{line}");
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    let problems = crate::load(&path).unwrap_err();
    assert_eq!(
        problems.lines().collect::<Vec<_>>(),
        [format!(
            "{}:2:6: error: the file is not UTF-8 text",
            path.display()
        )]
    );
}

#[test]
fn admin_needs_only_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let token = "0123456789abcdef";
    std::fs::write(dir.path().join("token"), format!("{token}\n")).unwrap();
    let admin = |table: &str| {
        let text = PLAIN.replace("[[listener]]", &format!("{table}\n[[listener]]"));
        let reading = reading(&text, dir.path());
        assert_eq!(reading.problems.errors(), 0, "{}", reading.problems);
        reading.config.unwrap().admin.unwrap()
    };
    let alone = admin("admin = { socket = \"lb.sock\" }");
    assert_eq!(alone.bind, None);
    assert_eq!(alone.socket, Some(dir.path().join("lb.sock")));
    let all = admin(
        "admin = { bind = \"127.0.0.1:1\", socket = \"/run/lb\", token = \"token\", hosts = [\"LB.internal.\"] }",
    );
    assert_eq!(all.bind, Some("127.0.0.1:1".parse().unwrap()));
    assert_eq!(all.socket.as_deref(), Some(Path::new("/run/lb")));
    assert_eq!(all.hosts, ["lb.internal"]);
    let kept = all.token.unwrap();
    assert!(kept.is(token.as_bytes()));
    for other in [
        "",
        "0123456789abcde",
        "0123456789abcdeg",
        "0123456789abcdef\n",
    ] {
        assert!(!kept.is(other.as_bytes()), "{other:?}");
    }
    assert!(!format!("{kept:?}").contains(token));
}

#[test]
fn digest_is_that_of_the_file() {
    let digest = |text: &str| config(text).digest;
    assert_eq!(digest(PLAIN).len(), 16);
    assert_eq!(digest(PLAIN), digest(PLAIN));
    assert_ne!(digest(PLAIN), digest(&format!("{PLAIN}# comment\n")));
}

#[test]
fn invalid_admin_tokens_and_hosts_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("empty", " \n"),
        ("short", "0123456789abcde\n"),
        ("words", "correct horse battery staple"),
        ("control", "0123456789\u{1b}abcdef"),
        ("long", &*"x".repeat(5000)),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    for (lines, says) in [
        ("token = \"missing\"", "No such file"),
        ("token = \"empty\"", "the file is empty"),
        ("token = \"short\"", "shorter than 16 characters"),
        ("token = \"words\"", "one word of printable ASCII"),
        ("token = \"control\"", "one word of printable ASCII"),
        ("token = \"long\"", "larger than 4096 bytes"),
        ("hosts = [\"a:1\"]", "\"a:1\" is not a host name"),
        ("hosts = [\"*\"]", "\"*\" is not a host name"),
        ("hosts = [\"\"]", "\"\" is not a host name"),
        ("socket = \"\"", "`socket` is empty"),
    ] {
        let table = format!("[admin]\nbind = \"127.0.0.1:1\"\n{lines}\n[[listener]]");
        let reading = reading(&PLAIN.replace("[[listener]]", &table), dir.path());
        let problems = reading.problems.to_string();
        assert_eq!(reading.problems.errors(), 1, "{lines}: {problems}");
        assert!(problems.contains(says), "{lines}: {problems}");
    }
    let table = "[admin]\nsocket = \"x\"\nhosts = [\"a\"]\n[[listener]]";
    let reading = reading(&PLAIN.replace("[[listener]]", table), dir.path());
    assert!(
        reading
            .problems
            .to_string()
            .contains("`hosts` has no effect without `bind`")
    );
}
