//! Sources that the source program rejects, or whose direct translation `check` would reject.

use std::path::Path;

use super::{
    super::{Program, Translation, translate_text},
    check_errors, site,
};

const HAPROXY: &str = "listen l\nmode tcp\nserver s 10.0.0.1:1\n";

fn stunnel(services: &str) -> (Program, String) {
    (
        Program::Stunnel,
        format!("cert = server.pem\nCAfile = ca.crt\n{services}"),
    )
}

fn nginx(server: &str) -> (Program, String) {
    let server = format!("server {{ listen 1 ssl; proxy_pass 10.0.0.1:1; {server} }}");
    (
        Program::Nginx,
        format!("stream {{ {server} server {{ listen 2; proxy_pass 10.0.0.1:2; }} }}"),
    )
}

fn ghostunnel(flags: &str) -> (Program, String) {
    let other = "ghostunnel client --listen localhost:9 --target lb.example.com:1 --cacert ca.crt \
        --disable-authentication";
    (
        Program::Ghostunnel,
        format!("{other}\nghostunnel server {flags} --cacert ca.crt --allow-all\n"),
    )
}

fn translated(program: Program, source: &str, dir: &Path) -> Translation {
    translate_text(program, &"t".into(), source, Some(dir)).unwrap()
}

#[test]
fn check_accepts_what_is_left_of_invalid_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/haproxy");
    let dir = site(&root);
    let haproxy = |bind: &str| {
        (
            Program::Haproxy,
            format!("{HAPROXY}bind :1\nbind :2 {bind}\n"),
        )
    };
    for (program, source) in [
        stunnel(
            "[m]\nclient = yes\naccept = 1\nconnect = lb.example.com:2\nverifyChain = yes\n\
             [s]\nsni = m:a.example.com\nconnect = 3\n",
        ),
        stunnel("[m]\naccept = 1\nconnect = 2\nverifyChain = yes\ncheckHost = 10.0.0.1\n"),
        stunnel("[m]\naccept = 1\nconnect = 2\nverifyChain = yes\ncheckHost =\n"),
        stunnel(
            "[m]\nclient = yes\naccept = 1\nconnect = 10.0.0.1:2\nverifyChain = yes\n\
             checkHost = 10.0.0.1\n",
        ),
        stunnel("[m]\naccept = 1\nconnect = 2\n[n]\naccept = 3\nconnect = 4\ncert = server.crt\n"),
        haproxy("ssl crt server.crt"),
        haproxy("ssl crt"),
        haproxy("ssl crt server.pem ca-file"),
        haproxy("ssl crt server.pem ca-file ca.crt verify"),
        haproxy("ssl crt server.pem alpn"),
        nginx("ssl_certificate server.crt;"),
        nginx("ssl_certificate; ssl_certificate_key server.key;"),
        nginx(
            "ssl_certificate server.pem; ssl_certificate_key server.pem; proxy_ssl on; \
             proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.crt; proxy_ssl_name a.x; \
             proxy_ssl_certificate client.crt;",
        ),
        ghostunnel("--listen '' --target localhost:2 --keystore server.pem"),
        ghostunnel("--listen unix: --target localhost:2 --keystore server.pem"),
        ghostunnel("--listen localhost:1 --target '' --keystore server.pem"),
        ghostunnel("--listen localhost:1 --target unix: --keystore server.pem"),
        ghostunnel("--listen localhost:1 --target localhost:2 --keystore ''"),
        ghostunnel("--listen localhost:1 --target localhost:2 --cert server.crt"),
    ] {
        let translation = translated(program, &source, dir.path());
        assert!(translation.counts[0] > 0, "{source}: {}", translation.toml);
        assert_ne!(translation.left_out(), 0, "{source}: {}", translation.toml);
        let errors = check_errors(&translation, dir.path());
        assert!(
            errors.is_empty(),
            "{source}: {errors:?}\n{}",
            translation.toml
        );
    }
}

#[test]
fn keys_beside_certificates_are_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import/haproxy");
    let dir = site(&root);
    std::fs::copy(
        dir.path().join("server.key"),
        dir.path().join("server.crt.key"),
    )
    .unwrap();
    let source = format!("{HAPROXY}bind :2 ssl crt server.crt\n");
    let translation = translated(Program::Haproxy, &source, dir.path());
    let toml = &translation.toml;
    assert!(toml.contains("key = \"server.crt.key\""), "{toml}");
    assert_eq!(translation.left_out(), 0, "{toml}");
    assert!(check_errors(&translation, dir.path()).is_empty(), "{toml}");
}
