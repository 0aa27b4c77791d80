//! Parts of printed configurations and summaries.

use super::super::{Program, Translation, translate_text};

pub(super) fn translated(program: Program, text: &str) -> Translation {
    translate_text(program, &"t".into(), text, None).unwrap()
}

pub(super) fn summary(translation: &Translation) -> String {
    translation.summary("t")
}

/// Returns the client rules.
pub(super) fn rules(translation: &Translation) -> Vec<String> {
    let tables = translation.toml.split("[[client]]\n").skip(1);
    let rules = tables.map(|table| {
        let lines = table.lines();
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines: Vec<_> = lines.filter(|line| !line.starts_with("name")).collect();
        lines.join(" ")
    });
    rules.collect()
}

const SERVERS: &str = "
backend web
    server web1 10.0.0.1:80
backend db
    server db1 10.0.0.2:80";

const MTLS: &str = "bind :1 ssl crt server.pem ca-file ca.crt verify required";

#[test]
fn refused_clients_need_no_server() {
    let source = format!(
        "frontend f
            {MTLS}
            use_backend web if {{ ssl_fc_sni web.x }}
            use_backend db if {{ ssl_fc_sni db.x }} {{ ssl_c_s_dn(cn) -m str a }}
        frontend closed
            bind :2 ssl crt server.pem strict-sni
            default_backend web{SERVERS}"
    );
    let translation = translated(Program::Haproxy, &source);
    let toml = &translation.toml;
    assert_eq!(toml.matches("upstream = false").count(), 2, "{toml}");
    assert_eq!(toml.matches("[[upstream]]").count(), 2, "{toml}");
    assert!(!toml.contains("placeholder"), "{toml}");
    let source = "stream {
        map $ssl_server_name $target { a.x web; b.x ''; default web; }
        upstream web { server 10.0.0.1:80; }
        server {
            listen 1 ssl;
            ssl_certificate a.pem;
            ssl_certificate_key a.pem;
            proxy_pass $target;
        }
    }";
    let toml = translated(Program::Nginx, source).toml;
    assert!(
        toml.contains("{ sni = \"b.x\", upstream = false }"),
        "{toml}"
    );
    assert_eq!(toml.matches("[[upstream]]").count(), 1, "{toml}");
}

#[test]
fn rules_of_limited_clients_have_the_limit() {
    let source = format!(
        "frontend f
            {MTLS}
            stick-table type string len 64 size 10k store conn_cur
            acl reports ssl_c_s_dn(cn) -m str r1 r2
            tcp-request content track-sc0 ssl_c_s_dn(cn) if reports
            tcp-request content reject if {{ sc0_conn_cur gt 2 }}
            tcp-request content accept if reports
            tcp-request content accept if {{ ssl_c_s_dn(cn) -m str a }}
            tcp-request content accept if {{ ssl_c_s_dn(cn) -m str b }}
            tcp-request content reject
            default_backend web{SERVERS}"
    );
    let translation = translated(Program::Haproxy, &source);
    assert_eq!(
        rules(&translation),
        [
            "match = { cn = [\"r1\", \"r2\"] } allow = [\"web\"] max_conns = 2",
            "match = { cn = [\"a\", \"b\"] } allow = [\"web\"]",
        ]
    );
    assert_eq!(translation.left_out(), 0, "{}", summary(&translation));
    let plain = "frontend f
            bind :1
            stick-table type ip size 10k store conn_rate(10s)
            acl office src 10.0.0.0/8
            tcp-request connection track-sc0 src
            tcp-request connection accept if office
            tcp-request connection reject if { sc0_conn_rate gt 20 }
            default_backend web";
    let translation = translated(Program::Haproxy, &format!("{plain}{SERVERS}"));
    assert_eq!(
        rules(&translation),
        [
            "match = { source = \"10.0.0.0/8\" } allow = [\"web\"]",
            "match = { source = [\"0.0.0.0/0\", \"::/0\"] } allow = [\"web\"] rate_limit = { rate = 2, burst \
             = 20 }",
        ]
    );
    assert_eq!(translation.left_out(), 0, "{}", summary(&translation));
    // The server name is no part of a rule.
    let by_name = source.replacen("if reports\n", "if { ssl_fc_sni a.x }\n", 1);
    let by_name = by_name.replace(
        "default_backend",
        "use_backend db if { ssl_fc_sni a.x }\ndefault_backend",
    );
    let translation = translated(Program::Haproxy, &by_name);
    assert!(!rules(&translation).join(" ").contains("max_conns"));
    assert!(summary(&translation).contains("depends on the server name"));
}

#[test]
fn peers_are_replaced_by_a_fleet() {
    let source = format!(
        "peers balancers
            peer lb1 10.0.0.1:1024
        frontend f
            bind :1
            stick-table type ip size 10k store conn_cur peers balancers
            tcp-request connection track-sc0 src
            tcp-request connection reject if {{ sc0_conn_cur gt 2 }}
            default_backend web
        backend t
            stick-table type ip size 1k store conn_cur peers balancers{SERVERS}"
    );
    let summary = summary(&translated(Program::Haproxy, &source));
    for line in [1, 5, 10] {
        let start = format!("t:{line}: ");
        let mut lines = summary.lines();
        assert!(
            lines.any(|line| line.starts_with(&start)),
            "{line}: {summary}"
        );
    }
    assert!(
        summary.contains("`[fleet]` with a Valkey or Redis server"),
        "{summary}"
    );
}

#[test]
fn logs_to_the_network_are_left_out() {
    for (target, left_out) in [
        ("10.0.0.9:514 local0", 1),
        ("logs.example.com:514 local0", 1),
        ("127.0.0.1 local0 notice", 1),
        ("tcp@10.0.0.9:514 local0", 1),
        ("\"${LOG_HOST}:514\" local0", 1),
        ("/dev/log local0", 0),
        ("stdout format raw local0", 0),
        ("fd@2 local0", 0),
        ("ring@buffer local0", 0),
    ] {
        for place in ["global", "frontend"] {
            let (global, frontend) = match place {
                "global" => (format!("global\n log {target}\n"), String::new()),
                _ => (String::new(), format!("log {target}\n")),
            };
            let source =
                format!("{global}frontend f\n bind :1\n {frontend} default_backend web{SERVERS}");
            let translation = translated(Program::Haproxy, &source);
            assert_eq!(translation.left_out(), left_out, "{target} in {place}");
        }
    }
    let stream =
        "error_log syslog:server=10.0.0.9; stream { server { listen 1; proxy_pass 10.0.0.1:2; } }";
    let translation = translated(Program::Nginx, stream);
    assert_eq!(translation.left_out(), 1, "{}", summary(&translation));
    let tunnel = "ghostunnel client --listen localhost:1 --target a.x:2 --cacert ca.crt \
        --disable-authentication --metrics-graphite 10.0.0.9:2003 --metrics-prefix a";
    let translation = translated(Program::Ghostunnel, tunnel);
    assert_eq!(translation.left_out(), 1, "{}", summary(&translation));
}

#[test]
fn differences_between_servers_have_values() {
    let source = "listen l
            bind :1
            server a 10.0.0.1:80 check inter 2s fall 2
            server b 10.0.0.2:80 check inter 5s fall 2 port 8080
            server c 10.0.0.3:80 slowstart 10s
            server d 10.0.0.4:80 check inter 2s fall 2 agent-check agent-port 9000";
    let summary = summary(&translated(Program::Haproxy, source));
    for text in [
        "t:4: server b 10.0.0.2:80 check inter 5s fall 2 port 8080: all servers of an upstream have \
         the same health check: \"inter 2s rise 2 fall 2\" of `a`, not \"inter 5s rise 2 fall 2 port \
         8080\"",
        "all servers of an upstream are checked: this one too, with \"inter 2s rise 2 fall 2\" of `a`",
        "\"no observe slowstart 0s\" of `a`, not \"no observe slowstart 10s\"",
        "\"agent-check agent-port 9000\" of `d`, not none",
    ] {
        assert!(summary.contains(text), "{text}: {summary}");
    }
}

#[test]
fn long_reasons_are_written_once() {
    let service = |name: &str| {
        format!(
            "[{name}]\naccept = {0}\nconnect = 2\ncert = a.pem\nverifyChain = yes\nCAfile = ca.crt\n\
             checkHost = {name}.x\n",
            name.len()
        )
    };
    let source = [service("a"), service("bb"), service("ccc")].concat();
    let translation = translated(Program::Stunnel, &source);
    let explanation = "stunnel also accepts a certificate";
    let toml = translation.toml.replace("\n#   ", " ");
    assert_eq!(toml.matches(explanation).count(), 1, "{toml}");
    assert_eq!(
        toml.matches("differs: as explained at t:7").count(),
        2,
        "{toml}"
    );
    let summary = summary(&translation);
    assert_eq!(summary.matches(explanation).count(), 1, "{summary}");
    assert!(summary.contains("left out: 3"), "{summary}");
}

#[test]
fn keystores_have_commands() {
    let stunnel = "[a]\naccept = 1\nconnect = 2\ncert = /etc/stunnel/a.p12\n\
        [b]\naccept = 3\nconnect = 4\ncert = /etc/stunnel/a.p12\n";
    let translation = translated(Program::Stunnel, stunnel);
    let command = "openssl pkcs12 -in /etc/stunnel/a.p12 -nodes -out /etc/stunnel/a.pem";
    let head = format!("# Run these commands before `check`:\n#   {command}\n\n");
    let toml = &translation.toml;
    assert!(toml.contains(&head), "{toml}");
    assert!(toml.contains("cert = \"/etc/stunnel/a.pem\""), "{toml}");
    let line = format!("t: run before `check`: {command}\n");
    let summary = summary(&translation);
    assert_eq!(summary.matches(&line).count(), 1, "{summary}");
    assert_eq!(translation.left_out(), 2, "{summary}");
}

/// ghostunnel does not start with these flags.
#[test]
fn conflicting_flags_of_ghostunnel_admit_nobody() {
    let command = "ghostunnel server --listen :1 --target localhost:2 --cert a.crt --key a.key \
        --cacert ca.crt";
    for (flags, is_open) in [
        ("--allow-all", true),
        ("--allow-cn a --allow-ou b", true),
        ("--disable-authentication", true),
        ("--allow-all --allow-cn a", false),
        ("--allow-all --allow-policy p --allow-query q", false),
        ("--disable-authentication --allow-dns a.x", false),
        ("--disable-authentication --allow-all", false),
        ("--allow-cn a --allow-policy p --allow-query q", false),
        ("--allow-all=false", false),
        ("", false),
    ] {
        let translation = translated(Program::Ghostunnel, &format!("{command} {flags}"));
        assert_eq!(!rules(&translation).is_empty(), is_open, "{flags}");
        assert_eq!(translation.closed.is_empty(), is_open, "{flags}");
        assert_eq!(translation.left_out() == 0, is_open, "{flags}");
    }
}
