//! `explain` agrees with handshakes of the OpenSSL client about keys of all kinds and key
//! usages.

use std::path::Path;
use std::process::{Command, Stdio};

use leastconn_testkit::Upstream;

use crate::support::{BIN, NO_PROBES, Running, Site, cn, entries};

const CLIENT: &str = "c1.lb.com";

fn sh(dir: &Path, command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Outcome and detail that `explain` predicts for `c.crt`.
fn explained(lb: &Running) -> (String, String) {
    let output = Command::new(BIN)
        .args(["explain", "--json", "--config"])
        .arg(lb.dir().join("leastconn.toml"))
        .arg("--cert")
        .arg(lb.dir().join("c.crt"))
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |key: &str| {
        let text = answer["listeners"][0][key].as_str();
        text.unwrap_or_default().to_owned()
    };
    (of("outcome"), of("detail"))
}

#[tokio::test]
async fn explain_agrees_on_keys_and_usages() {
    let Ok(version) = Command::new("openssl").arg("version").output() else {
        return;
    };
    assert!(version.status.success());
    let web = Upstream::named("web1").await;
    let site = Site::new();
    let dir = site.dir.path().to_owned();
    sh(
        &dir,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout o.key \
         -out o.crt -days 30 -subj '/CN=openssl CA'",
    );
    let lb = site
        .listener(
            "main",
            &[
                "upstream = \"web\"",
                r#"tls = { cert = "server.crt", key = "server.key", client_ca = "o.crt" }"#,
            ],
        )
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("c1", &cn(CLIENT), "web", "")
        .start()
        .await;
    let usages = "extendedKeyUsage=clientAuth\n";
    let ec = |curve: &str| format!("openssl ecparam -genkey -noout -name {curve}");
    let cases: Vec<(String, &str, &str)> = vec![
        (ec("prime256v1"), usages, ""),
        (ec("secp384r1"), usages, ""),
        (ec("secp521r1"), usages, ""),
        (ec("secp224r1"), usages, "an ECDSA key on the curve P-224"),
        (ec("secp256k1"), usages, "on the curve secp256k1"),
        (
            ec("brainpoolP256r1"),
            usages,
            "on the curve brainpoolP256r1",
        ),
        (
            format!("{} -param_enc explicit", ec("prime256v1")),
            usages,
            "explicit curve parameters",
        ),
        ("openssl genpkey -algorithm ED25519".to_owned(), usages, ""),
        (
            "openssl genpkey -algorithm ED448".to_owned(),
            usages,
            "an Ed448 key",
        ),
        (
            "openssl genrsa 1024".to_owned(),
            usages,
            "an RSA key of 1024 bits",
        ),
        (
            "openssl genrsa 2047".to_owned(),
            usages,
            "an RSA key of 2047 bits",
        ),
        ("openssl genrsa 2048".to_owned(), usages, ""),
        ("openssl genrsa 3072".to_owned(), usages, ""),
        (
            "openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048".to_owned(),
            usages,
            "an RSA-PSS key",
        ),
        (
            format!("{} | openssl ec -conv_form compressed", ec("prime256v1")),
            usages,
            "?",
        ),
        (
            ec("prime256v1"),
            "keyUsage=keyEncipherment\n",
            "key usage lacks digitalSignature",
        ),
        (ec("prime256v1"), "keyUsage=digitalSignature\n", ""),
        (
            ec("prime256v1"),
            "extendedKeyUsage=serverAuth\n",
            "lacks clientAuth",
        ),
        (
            ec("prime256v1"),
            "certificatePolicies=critical,1.2.3.4\n",
            "",
        ),
        (
            ec("prime256v1"),
            "1.2.3.4=critical,DER:0500\n",
            "not supported: 1.2.3.4",
        ),
        (
            ec("prime256v1"),
            "policyConstraints=critical,requireExplicitPolicy:0\n",
            "not supported: 2.5.29.36",
        ),
        (
            ec("prime256v1"),
            "basicConstraints=critical,CA:TRUE\n",
            "CA:TRUE",
        ),
    ];
    let mut seen = 0;
    for (key, extensions, expected) in cases {
        std::fs::write(dir.join("ext"), extensions).unwrap();
        let made = sh(
            &dir,
            &format!(
                "{key} > c.key && openssl req -new -key c.key -subj /CN={CLIENT} -out c.csr && \
                 openssl x509 -req -in c.csr -CA o.crt -CAkey o.key -set_serial 7 -days 5 -extfile \
                 ext -out c.crt"
            ),
        );
        let (outcome, detail) = explained(&lb);
        if expected != "?" {
            assert_eq!(
                outcome == "ok",
                expected.is_empty(),
                "{key}: {outcome} {detail} {made}"
            );
            assert!(
                detail.contains(expected),
                "{key}: {detail}\n  should say: {expected}"
            );
        }
        for version in ["-tls1_3", "-tls1_2"] {
            let shown = sh(
                &dir,
                &format!(
                    "echo | openssl s_client -connect {} -cert c.crt -key c.key -cipher \
                     DEFAULT:@SECLEVEL=0 {version} -quiet -no_ign_eof",
                    lb.main()
                ),
            );
            let record = lb.wait_records(seen + 1).await.swap_remove(seen);
            seen += 1;
            // OpenSSL sends no certificate if it knows that the server would not accept
            // it.
            if record["outcome"] == "no_certificate" {
                assert_ne!(outcome, "ok", "{key} {version}: {shown}");
                continue;
            }
            // How an admitted connection ends depends on OpenSSL.
            if outcome == "ok" {
                assert_eq!(record["client"], "c1", "{key} {version}: {record} {shown}");
            } else {
                assert_eq!(
                    record["outcome"],
                    outcome.as_str(),
                    "{key} {version}: {record} {shown}"
                );
            }
            if outcome != "ok" {
                let logged = record["detail"].as_str().unwrap();
                assert!(
                    logged.contains(expected) || expected == "?",
                    "{key} {version}: {logged}"
                );
            }
        }
    }
    lb.quiet().await;
}
