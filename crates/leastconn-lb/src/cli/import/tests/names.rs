//! Names of servers and variables in HAProxy files.

use leastconn_testkit::{TempDir, TestCa};

use super::{
    super::{Program, translate_text},
    outputs::{rules, summary, translated},
};

#[test]
fn names_of_addresses_need_no_server_name() {
    let source = "listen l
        bind :1
        default-server ssl ca-file ca.crt verify required
        server a a.example.com:636 verifyhost a.example.com
        server b b.example.com:636 sni str(b.example.com)
        server c 10.0.0.3:636 verifyhost c.example.com";
    let translation = translated(Program::Haproxy, source);
    let toml = &translation.toml;
    assert!(toml.contains("tls = { ca = \"ca.crt\" }"), "{toml}");
    assert!(toml.contains("\"b.example.com:636\""), "{toml}");
    let summary = summary(&translation);
    let expected = "tls = { ca = \"ca.crt\" } and proxy_protocol = \"off\" as `a`. This server has tls = { \
        ca = \"ca.crt\", server_name = \"c.example.com\" }";
    assert!(summary.contains(expected), "{summary}");
    assert_eq!(translation.left_out(), 1, "{summary}");
}

#[test]
fn variables_are_replaced_by_their_expressions() {
    let start = "frontend f
        bind :1 ssl crt server.pem ca-file ca.crt verify required
        tcp-request content set-var(sess.cn) ssl_c_s_dn(cn)";
    let end = "tcp-request content reject unless { var(sess.cn) -m str alice }
        default_backend b
        backend b
        server s 10.0.0.1:1";
    let translation = translated(Program::Haproxy, &format!("{start}\n{end}"));
    let summary_text = summary(&translation);
    assert_eq!(
        rules(&translation),
        ["match = { cn = \"alice\" } allow = [\"b\"]"],
        "{summary_text}"
    );
    assert_eq!(translation.left_out(), 0, "{summary_text}");
    for more in [
        " if { src 10.0.0.0/8 }\n",
        "\ntcp-request content set-var(sess.cn) ssl_c_s_dn(ou)\n",
    ] {
        let translation = translated(Program::Haproxy, &format!("{start}{more}{end}"));
        assert!(rules(&translation).is_empty(), "{more}");
        assert_eq!(translation.closed, ["f"], "{more}");
    }
}

#[test]
fn addresses_for_ipv6_only_need_one_for_ipv4() {
    for (other, left_out) in [("bind :1", 0), ("bind :2", 1), ("bind 127.0.0.1:1", 1)] {
        let source = format!("listen l\nbind [::]:1 v6only\n{other}\nserver s 10.0.0.1:1\n");
        let translation = translated(Program::Haproxy, &source);
        assert_eq!(translation.left_out(), left_out, "{other}");
    }
}

#[test]
fn strict_names_are_those_of_the_certificate() {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("import test CA");
    ca.leaf("a.example.com")
        .dns("*.b.example.com")
        .build()
        .write(dir.path(), "server");
    let source = "listen l\nbind :1 ssl crt server.crt strict-sni\nserver s 10.0.0.1:1\n";
    std::fs::rename(
        dir.path().join("server.key"),
        dir.path().join("server.crt.key"),
    )
    .unwrap();
    let translation =
        translate_text(Program::Haproxy, &"t".into(), source, Some(dir.path())).unwrap();
    let toml = &translation.toml;
    for line in [
        "upstream = false\n",
        "{ sni = \"a.example.com\", upstream = \"l\" }",
        "{ sni = \"*.b.example.com\", upstream = \"l\" }",
    ] {
        assert!(toml.contains(line), "{line}: {toml}");
    }
    assert!(translation.closed.is_empty(), "{toml}");
    let closed = translated(Program::Haproxy, source);
    assert_eq!(closed.closed, ["l"]);
}
