use crate::{
    openssl::{REQUEST, s_client},
    program::{Input, replace, run, run_with, tool},
    site::{RecordLayer, Site, both_record_layers, set_record_layer},
};

both_record_layers! {
    #[tokio::test]
    openssl_resumption_is_logged,
    #[tokio::test]
    resumption_needs_the_extended_master_secret,
    #[tokio::test]
    early_data_is_ignored,
    #[tokio::test]
    client_keys_of_every_type_work,
}

async fn resuming(layer: RecordLayer) -> Site {
    Site::start_with(|config| {
        let config = set_record_layer(layer, &config);
        replace(
            &config,
            "[listener.tls]\n",
            "[listener.tls]\nresumption = \"on\"\n",
        )
    })
    .await
}

/// Sends a request with s_client and `args`; returns whether the session was resumed.
async fn reused(site: &Site, args: &[&str]) -> bool {
    let before = site.balancer.records().len();
    let mut openssl = s_client(&site.certs, site.address(), Some("client1"));
    openssl.args(args).current_dir(site.certs.dir());
    let config = site.certs.dir().join("openssl.cnf");
    if config.exists() {
        openssl.env("OPENSSL_CONF", config);
    }
    let output = run_with(&mut openssl, Input::Open(REQUEST)).await.ok();
    assert!(output.stdout.contains("\nwebapp"), "{output:#?}");
    let reused = output.stdout.contains("\nReused, ");
    assert_ne!(output.stdout.contains("\nNew, "), reused, "{output:#?}");
    let record = site.balancer.wait_records(before + 1).await.pop().unwrap();
    assert_eq!(record["outcome"], "ok", "{record}");
    assert_eq!(record["resumed"] == true, reused, "{record}");
    assert_eq!(record["identity"], "cn:client1.lb.com", "{record}");
    reused
}

async fn openssl_resumption_is_logged(layer: RecordLayer) {
    let site = resuming(layer).await;
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!reused(&site, &[version, "-sess_out", "session"]).await);
        let args = [version, "-sess_in", "session", "-sess_out", "next"];
        assert!(reused(&site, &args).await, "{version}");
        // In TLS 1.3, the new ticket can be used. The first ticket was single-use and
        // cannot be used again.
        let next = [version, "-sess_in", "next"];
        if version == "-tls1_3" {
            assert!(reused(&site, &next).await, "{version}");
            assert!(!reused(&site, &args).await, "{version}");
        }
    }
    site.finish().await;
}

/// OpenSSL configuration that disables the extended master secret. s_client has no option for
/// this.
const NO_EXTENDED_MASTER_SECRET: &str = "
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = system
[system]
Options = -ExtendedMasterSecret
";

async fn resumption_needs_the_extended_master_secret(layer: RecordLayer) {
    let site = resuming(layer).await;
    std::fs::write(
        site.certs.dir().join("openssl.cnf"),
        NO_EXTENDED_MASTER_SECRET,
    )
    .unwrap();
    let first = ["-tls1_2", "-sess_out", "weak"];
    assert!(!reused(&site, &first).await);
    // Without a session, s_client writes no file. If it writes one, resumption must fail.
    if site.certs.dir().join("weak").exists() {
        assert!(!reused(&site, &["-tls1_2", "-sess_in", "weak"]).await);
    }
    // TLS 1.3 does not use the extension.
    assert!(!reused(&site, &["-tls1_3", "-sess_out", "session"]).await);
    assert!(reused(&site, &["-tls1_3", "-sess_in", "session"]).await);
    site.finish().await;
}

async fn early_data_is_ignored(layer: RecordLayer) {
    let site = resuming(layer).await;
    std::fs::write(
        site.certs.dir().join("early"),
        "GET /early HTTP/1.0\r\n\r\n",
    )
    .unwrap();
    assert!(!reused(&site, &["-tls1_3", "-sess_out", "session"]).await);
    let mut openssl = s_client(&site.certs, site.address(), Some("client1"));
    openssl
        .args(["-tls1_3", "-sess_in", "session", "-early_data", "early"])
        .current_dir(site.certs.dir());
    let output = run_with(&mut openssl, Input::Open(REQUEST)).await.ok();
    assert!(output.stdout.contains("\nReused, "), "{output:#?}");
    assert!(
        !output.stdout.contains("Early data was accepted"),
        "{output:#?}"
    );
    site.balancer.wait_records(2).await;
    site.finish().await;
}

/// Arguments of `openssl req -newkey`.
const KINDS: [(&str, &[&str]); 6] = [
    ("rsa2048", &["rsa:2048"]),
    ("rsa3072", &["rsa:3072"]),
    ("rsa4096", &["rsa:4096"]),
    ("p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ("ed25519", &["ed25519"]),
];

async fn issue(site: &Site, kind: &str, key: &[&str], subject: &str, usage: &str) -> String {
    let name = format!("kinds/{kind}-{usage}");
    let file = |end: &str| site.certs.path(&format!("{name}.{end}"));
    std::fs::create_dir_all(site.certs.path("kinds")).unwrap();
    let extensions = format!("subjectAltName=DNS:{subject}\nextendedKeyUsage={usage}\n");
    std::fs::write(file("ext"), extensions).unwrap();
    let mut request = tool("openssl");
    request
        .args(["req", "-nodes", "-subj", &format!("/CN={subject}")])
        .arg("-newkey")
        .args(key)
        .arg("-keyout")
        .arg(file("key.pem"))
        .arg("-out")
        .arg(file("csr"));
    run(&mut request).await.ok();
    let mut sign = tool("openssl");
    sign.args(["x509", "-req", "-days", "2", "-CAcreateserial", "-CA"])
        .arg(site.certs.path("ca/ca.crt"))
        .arg("-CAkey")
        .arg(site.certs.path("ca/ca.key.pem"))
        .arg("-in")
        .arg(file("csr"))
        .arg("-extfile")
        .arg(file("ext"))
        .arg("-out")
        .arg(file("crt"));
    run(&mut sign).await.ok();
    name
}

async fn client_keys_of_every_type_work(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    let config = crate::site::example(site.web1.address(), site.web2.address());
    let config = set_record_layer(layer, &config);
    for (kind, key) in KINDS {
        let server = issue(&site, kind, key, "lb.com", "serverAuth").await;
        let client = issue(&site, kind, key, "client1.lb.com", "clientAuth").await;
        let config = config.replace("/server/server.", &format!("/{server}."));
        let lb = crate::site::start_in(&format!("conf-{kind}"), &config, &site.certs).await;
        for (n, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
            let mut openssl = s_client(&site.certs, lb.address("main"), Some(&client));
            let output = run_with(openssl.arg(version), Input::Open(REQUEST)).await;
            let output = output.ok();
            assert!(output.stdout.contains("\nwebapp"), "{kind}: {output:#?}");
            let record = lb.wait_records(n + 1).await.pop().unwrap();
            assert_eq!(record["outcome"], "ok", "{kind}: {record}");
        }
        crate::site::stop(&lb).await;
    }
    site.finish().await;
}
