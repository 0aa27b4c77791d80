use crate::{
    openssl::{REQUEST, s_client},
    program::{Input, replace, run, run_with, tool},
    site::{self, Certs, RecordLayer, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    openssl_negotiates_every_cipher_suite,
    #[tokio::test]
    older_versions_and_weaker_suites_are_refused,
}

/// OpenSSL names of cipher suites, and the IANA names that the access log uses.
const TLS13: [(&str, &str); 3] = [
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
];
const TLS12: [(&str, &str); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// Issues an RSA certificate with the site's CA.
async fn issue_rsa(certs: &Certs, name: &str, subject: &str, usage: &str) {
    let file = |end: &str| certs.path(&format!("{name}.{end}"));
    let extensions = format!("subjectAltName=DNS:{subject}\nextendedKeyUsage={usage}\n");
    std::fs::create_dir_all(file("ext").parent().unwrap()).unwrap();
    std::fs::write(file("ext"), extensions).unwrap();
    let mut request = tool("openssl");
    request
        .args([
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={subject}"),
        ])
        .arg("-keyout")
        .arg(file("key.pem"))
        .arg("-out")
        .arg(file("csr"));
    run(&mut request).await.ok();
    let mut sign = tool("openssl");
    sign.args(["x509", "-req", "-days", "2", "-set_serial", "0x4711", "-CA"])
        .arg(certs.path("ca/ca.crt"))
        .arg("-CAkey")
        .arg(certs.path("ca/ca.key.pem"))
        .arg("-in")
        .arg(file("csr"))
        .arg("-extfile")
        .arg(file("ext"))
        .arg("-out")
        .arg(file("crt"));
    run(&mut sign).await.ok();
}

async fn openssl_negotiates_every_cipher_suite(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    issue_rsa(&site.certs, "rsa-server/rsa-server", "lb.com", "serverAuth").await;
    issue_rsa(
        &site.certs,
        "rsa-client/rsa-client",
        "client1.lb.com",
        "clientAuth",
    )
    .await;
    let config = site::example(site.web1.address(), site.web2.address());
    let config = site::set_record_layer(layer, &config);
    let config = config.replace("/server/server.", "/rsa-server/rsa-server.");
    let config = replace(&config, "rate = 20, burst = 20", "rate = 20, burst = 40");
    let with_rsa = site::start_in("conf-rsa", &config, &site.certs).await;
    let rsa_address = with_rsa.address("main");

    for (openssl_name, name, version) in
        (TLS13.iter().map(|(o, n)| (o, n, "1.3"))).chain(TLS12.iter().map(|(o, n)| (o, n, "1.2")))
    {
        for client in ["client1", "rsa-client"] {
            let rsa = openssl_name.contains("-RSA-");
            let (balancer, address) = match rsa {
                true => (&with_rsa, rsa_address),
                false => (&site.balancer, site.address()),
            };
            let before = balancer.records().len();
            let mut openssl = s_client(&site.certs, address, Some(client));
            openssl.args(match version {
                "1.3" => ["-tls1_3", "-ciphersuites", openssl_name],
                _ => ["-tls1_2", "-cipher", openssl_name],
            });
            let output = run_with(&mut openssl, Input::Open(REQUEST)).await.ok();
            assert!(
                output.stdout.contains("\nwebapp"),
                "{openssl_name}: {output:#?}"
            );
            let records = balancer.wait_records(before + 1).await;
            let record = records.last().unwrap();
            assert_eq!(record["cipher"], *name, "{record}");
            assert_eq!(record["tls_version"], version, "{record}");
            assert_eq!(record["outcome"], "ok", "{record}");
            assert_eq!(record["identity"], "cn:client1.lb.com", "{record}");
        }
    }
    site::stop(&with_rsa).await;
    site.finish().await;
}

async fn older_versions_and_weaker_suites_are_refused(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    let weaker: [&[&str]; 5] = [
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"],
        &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
        &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
    ];
    for (count, args) in weaker.iter().enumerate() {
        let mut openssl = s_client(&site.certs, site.address(), Some("client1"));
        let output = run_with(openssl.args(*args), Input::Open(b"")).await;
        assert_ne!(output.code, 0, "{args:?}: {output:#?}");
        assert!(
            output.all().contains("alert handshake failure")
                || output.all().contains("alert protocol version"),
            "{args:?}: {output:#?}"
        );
        let records = site.balancer.wait_records(count + 1).await;
        let last = records.last().unwrap();
        assert_eq!(last["outcome"], "handshake_failed", "{args:?}: {last}");
    }
    site.finish().await;
}
