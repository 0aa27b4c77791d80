//! `dns`, `srv` and `file` in `servers`, and `[upstream.discovery]`.

use std::{path::Path, time::Duration};

use super::*;
use crate::{AddressFamily, OnRemoval, SourceKind, StartMode, Upstream};

fn with(upstream: &str) -> String {
    format!(
        r#"
[[listener]]
name = "main"
bind = "127.0.0.1:9443"
upstream = "web"

[[client]]
name = "a"
match = {{ source = "10.0.0.0/8" }}
allow = ["web"]

[[upstream]]
name = "web"
{upstream}
"#
    )
}

fn upstream(text: &str) -> Upstream {
    config(&with(text)).upstreams[0].clone()
}

/// All problems of the configuration, one line each.
fn problems(text: &str) -> String {
    lines(&with(text)).join("\n")
}

#[test]
fn sources_stand_beside_servers() {
    let upstream = upstream(
        r#"servers = ["webapp1:80", { dns = "web:80" }, { srv = "_http._tcp.web.internal" },
            { file = "web.json", weight = 2, max_conns = 10, backup = true }]"#,
    );
    assert_eq!(upstream.servers.len(), 1);
    let kinds: Vec<_> = upstream
        .sources
        .iter()
        .map(|s| s.kind.to_string())
        .collect();
    assert_eq!(
        kinds,
        [
            "dns web:80",
            "srv _http._tcp.web.internal",
            "file /nowhere/web.json"
        ]
    );
    let file = &upstream.sources[2];
    assert_eq!((file.weight.get(), file.backup), (2, true));
    assert_eq!(file.max_conns.map(std::num::NonZero::get), Some(10));
    assert_eq!(
        upstream.server_files().collect::<Vec<_>>(),
        [Path::new("/nowhere/web.json")]
    );
}

#[test]
fn discovery_has_defaults() {
    let discovery = upstream(r#"servers = [{ dns = "web:80" }]"#).discovery;
    assert_eq!(discovery.refresh, Duration::from_secs(10));
    assert_eq!(discovery.hold, Duration::from_secs(30));
    assert_eq!(discovery.max, 256);
    assert_eq!(discovery.removed, OnRemoval::Drain);
    assert_eq!(discovery.family, AddressFamily::Any);
    assert_eq!(discovery.start, StartMode::Wait);
    assert!(discovery.resolvers.is_empty());
}

#[test]
fn discovery_can_be_configured() {
    let upstream = upstream(
        r#"servers = [{ dns = "web:80" }]
        [upstream.discovery]
        refresh = "1s"
        hold = "0s"
        removed = "close"
        max = 5
        resolver = ["10.0.0.2", "10.0.0.3:5353", "[::1]:53"]
        family = "v4"
        start = "empty""#,
    );
    let discovery = upstream.discovery;
    assert_eq!(discovery.hold, Duration::ZERO);
    assert_eq!(discovery.removed, OnRemoval::Close);
    assert_eq!(discovery.family, AddressFamily::V4);
    assert_eq!(discovery.start, StartMode::Empty);
    let resolvers: Vec<_> = discovery
        .resolvers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(resolvers, ["10.0.0.2:53", "10.0.0.3:5353", "[::1]:53"]);
}

#[test]
fn allow_may_name_servers_that_are_discovered_later() {
    let text = with(r#"servers = [{ srv = "_http._tcp.web.internal" }]"#);
    let text = text.replace("allow = [\"web\"]", "allow = [\"web/web-0\"]");
    config(&text);
}

#[test]
fn invalid_sources_are_reported() {
    for (servers, expected) in [
        (
            r#"[{ weight = 2 }]"#,
            "a server needs `address`, `dns`, `srv` or `file`",
        ),
        (
            r#"[{ dns = "web:80", srv = "_a._tcp.b" }]"#,
            "`dns` and `srv` cannot be combined",
        ),
        (
            r#"[{ dns = "web" }]"#,
            "`dns` takes a host name and a port, not \"web\"",
        ),
        (
            r#"[{ dns = "10.0.0.1:80" }]"#,
            "`dns` takes a host name and a port",
        ),
        (
            r#"[{ srv = "web:80" }]"#,
            "\"web:80\" is not the name of SRV records",
        ),
        (
            r#"[{ dns = "web:80", name = "a" }]"#,
            "discovered servers cannot be named",
        ),
        (
            r#"[{ dns = "web:80" }, { dns = "web:80" }]"#,
            "`dns web:80` is listed twice",
        ),
        (r#"[{ dsn = "web:80" }]"#, "unknown key `dsn`"),
    ] {
        let problems = problems(&format!("servers = {servers}"));
        assert!(problems.contains(expected), "{servers}: {problems}");
    }
}

#[test]
fn invalid_discovery_settings_are_reported() {
    for (setting, expected) in [
        (r#"refresh = "900ms""#, "`refresh` must be at least \"1s\""),
        (
            r#"resolver = ["dns.internal:53"]"#,
            "\"dns.internal:53\" is not the address of a DNS server",
        ),
        (r#"resolver = []"#, "`resolver` is an empty list"),
        (r#"max = 0"#, "`max` must be from 1 to 65535"),
        (r#"removed = "kill""#, "`removed` cannot be \"kill\""),
        (r#"family = "v5""#, "`family` cannot be \"v5\""),
    ] {
        let text = format!("servers = [{{ dns = \"web:80\" }}]\n[upstream.discovery]\n{setting}");
        let problems = problems(&text);
        assert!(problems.contains(expected), "{setting}: {problems}");
    }
    let unused = problems("servers = [\"web:80\"]\n[upstream.discovery]\nhold = \"1s\"");
    assert!(unused.contains("`discovery` has no effect"), "{unused}");
}

#[test]
fn files_of_servers_are_readable_in_the_sandbox() {
    let text = with(r#"servers = [{ file = "web.json" }]"#);
    let config = config(&text);
    let files: Vec<_> = config.files().collect();
    assert!(files.contains(&Path::new("/nowhere/web.json").to_path_buf()));
    assert!(matches!(
        config.upstreams[0].sources[0].kind,
        SourceKind::File(_)
    ));
}
