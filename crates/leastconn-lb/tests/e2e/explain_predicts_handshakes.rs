//! `explain` predicts the outcome of handshakes of the OpenSSL client, for certificates
//! with all kinds of keys and key usages.

use std::path::Path;
use std::process::{Command, Stdio};

use leastconn_testkit::Upstream;

use crate::support::{NO_PROBES, Running, Site, TLS, cn, entries};

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

/// Returns the outcome and the detail that `explain` predicts for `c.crt`.
fn explained(lb: &Running) -> (String, String) {
    let answer = lb.explain(&lb.dir().join("c.crt"));
    let of = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    (of("outcome"), of("detail"))
}

/// The OpenSSL command that creates the key, the extensions of the certificate, and a part of the
/// expected detail. An empty detail means that the certificate must be accepted. `?` means that
/// acceptance and refusal are both correct.
type Case = (String, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let usages = "extendedKeyUsage=clientAuth\n";
    let ec = |curve: &str| format!("openssl ecparam -genkey -noout -name {curve}");
    vec![
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
            "unsupported critical extension: 1.2.3.4",
        ),
        (
            ec("prime256v1"),
            "policyConstraints=critical,requireExplicitPolicy:0\n",
            "unsupported critical extension: 2.5.29.36",
        ),
        (
            ec("prime256v1"),
            "basicConstraints=critical,CA:TRUE\n",
            "CA:TRUE",
        ),
    ]
}

/// Creates the key `c.key` and a certificate for it, `c.crt`. Returns the output of
/// OpenSSL.
fn make_certificate(dir: &Path, key: &str, extensions: &str) -> String {
    std::fs::write(dir.join("ext"), extensions).unwrap();
    let command = format!(
        "{key} > c.key && openssl req -new -key c.key -subj /CN={CLIENT} -out c.csr && \
         openssl x509 -req -in c.csr -CA o.crt -CAkey o.key -set_serial 7 -days 5 -extfile \
         ext -out c.crt"
    );
    sh(dir, &command)
}

/// Connects with the certificate, and compares record number `n` with the prediction.
async fn assert_predicted(lb: &Running, n: usize, version: &str, outcome: &str, expected: &str) {
    let command = format!(
        "echo | openssl s_client -connect {} -cert c.crt -key c.key -cipher \
         DEFAULT:@SECLEVEL=0 {version} -quiet -no_ign_eof",
        lb.main()
    );
    let output = sh(lb.dir(), &command);
    let record = lb.wait_records(n + 1).await.swap_remove(n);
    // OpenSSL sends no certificate if the server's request shows that it would be refused.
    if record["outcome"] == "no_certificate" {
        assert_ne!(outcome, "ok", "{version}: {output}");
        return;
    }
    // OpenSSL determines how an admitted connection ends, so its outcome is not checked.
    if outcome == "ok" {
        assert_eq!(record["client"], "c1", "{version}: {record} {output}");
        return;
    }
    assert_eq!(record["outcome"], outcome, "{version}: {record} {output}");
    let detail = record["detail"].as_str().unwrap();
    assert!(
        expected == "?" || detail.contains(expected),
        "{version}: {detail}"
    );
}

#[tokio::test]
async fn explain_agrees_on_keys_and_usages() {
    let version = Command::new("openssl").arg("version").output();
    let version = version.expect("this test needs `openssl`: run scripts/setup.sh --test");
    assert!(version.status.success());
    let web = Upstream::named("web1").await;
    let site = Site::new();
    sh(
        site.dir.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout o.key \
         -out o.crt -days 30 -subj '/CN=openssl CA'",
    );
    let tls = TLS
        .replace("ca.crt", "o.crt")
        .replace(", crl = \"ca.crl\"", "");
    let lb = site
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("c1", &cn(CLIENT), "web", "")
        .start()
        .await;
    let mut n = 0;
    for (key, extensions, expected) in cases() {
        let made = make_certificate(lb.dir(), &key, extensions);
        let (outcome, detail) = explained(&lb);
        if expected != "?" {
            assert_eq!(
                outcome == "ok",
                expected.is_empty(),
                "{key}: {outcome} {detail} {made}"
            );
            assert!(
                detail.contains(expected),
                "{key}: {detail}\n  should contain: {expected}"
            );
        }
        for version in ["-tls1_3", "-tls1_2"] {
            assert_predicted(&lb, n, version, &outcome, expected).await;
            n += 1;
        }
    }
    lb.quiet().await;
}
