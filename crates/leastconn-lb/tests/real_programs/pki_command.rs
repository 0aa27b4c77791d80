use leastconn_testkit::TempDir;
use tokio::process::Command;

use crate::{
    nginx::Nginx,
    program::{LB, Output, lb, run, tool},
    site,
};

async fn pki(dir: &TempDir, args: &[&str]) -> Output {
    run(lb(["pki"]).args(args).current_dir(dir.path())).await
}

fn verify(dir: &TempDir, purpose: &str, file: &str) -> Command {
    let mut openssl = tool("openssl");
    openssl
        .args(["verify", "-x509_strict", "-CAfile", "ca/ca.crt"])
        .args([
            "-crl_check",
            "-CRLfile",
            "ca/ca.crl",
            "-purpose",
            purpose,
            file,
        ])
        .current_dir(dir.path());
    openssl
}

#[tokio::test]
async fn pki_certificates_work_with_openssl_and_nginx() {
    let dir = TempDir::new().unwrap();
    pki(&dir, &["init", "ca"]).await.ok();
    for args in [
        &[
            "--cn", "lb.com", "--dns", "lb.com", "--server", "--out", "server",
        ][..],
        &["--cn", "one", "--client", "--days", "7"],
        &[
            "--cn",
            "two",
            "--dns",
            "two.lb.com",
            "--uri",
            "spiffe://lb.com/two",
        ],
    ] {
        pki(&dir, &[&["issue", "ca"], args].concat()).await.ok();
    }
    run(&mut verify(&dir, "sslserver", "ca/server.crt"))
        .await
        .ok();
    run(&mut verify(&dir, "sslclient", "ca/one.crt")).await.ok();
    run(&mut verify(&dir, "sslclient", "ca/two.crt")).await.ok();
    let wrong = run(&mut verify(&dir, "sslclient", "ca/server.crt")).await;
    assert_ne!(wrong.code, 0, "{wrong:?}");
    for key in ["ca.key", "server.key", "one.key"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = dir
            .path()
            .join("ca")
            .join(key)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    // Files are overwritten only with --force.
    let again = pki(&dir, &["issue", "ca", "--cn", "one"]).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again.stderr.contains("one.key") && again.stderr.contains("--force"),
        "{again:?}"
    );

    let web = Nginx::start("web", dir.path()).await;
    let config = format!(
        r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"
tls = {{ cert = "ca/server.crt", key = "ca/server.key", client_ca = "ca/ca.crt", crl = "ca/ca.crl" }}

[[upstream]]
name = "web"
servers = ["{}"]

[[client]]
name = "one"
match = {{ cn = "one" }}
allow = ["web"]

[[client]]
name = "two"
match = {{ dns = "two.lb.com" }}
allow = ["web"]
"#,
        web.address()
    );
    let curl = |name: &str, balancer: &leastconn_testkit::Balancer| {
        let mut curl = tool("curl");
        curl.args(["-q", "-sS", "--fail", "--noproxy", "*", "--max-time", "20"])
            .args(["--cacert", "ca/ca.crt"])
            .args([
                "--connect-to",
                &format!("lb.com:443:{}", balancer.address("main")),
            ])
            .args([
                "--cert",
                &format!("ca/{name}.crt"),
                "--key",
                &format!("ca/{name}.key"),
            ])
            .arg("https://lb.com/")
            .current_dir(dir.path());
        curl
    };
    let start = async || {
        leastconn_testkit::Balancer::start(LB, &config, dir.path())
            .await
            .unwrap()
    };
    let balancer = start().await;
    for name in ["one", "two"] {
        assert_eq!(run(&mut curl(name, &balancer)).await.ok().stdout, "web\n");
    }
    site::stop(&balancer).await;

    pki(&dir, &["revoke", "ca", "ca/one.crt"]).await.ok();
    let revoked = run(&mut verify(&dir, "sslclient", "ca/one.crt")).await;
    assert!(revoked.all().contains("certificate revoked"), "{revoked:?}");
    run(&mut verify(&dir, "sslclient", "ca/two.crt")).await.ok();
    let balancer = start().await;
    assert_ne!(run(&mut curl("one", &balancer)).await.code, 0);
    assert_eq!(run(&mut curl("two", &balancer)).await.ok().stdout, "web\n");
    let records = balancer.wait_records(2).await;
    assert_eq!(
        records[0]["outcome"], "revoked_certificate",
        "{}",
        records[0]
    );
    assert_eq!(records[1]["identity"], "dns:two.lb.com", "{}", records[1]);
    site::stop(&balancer).await;
}
