mod missing_files;
mod openssl_database;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use clap::Parser;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore};

use super::*;
use crate::cli::pki::{PkiCommand, run_to};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: PkiCommand,
}

/// Runs `pki ARGS…` with `DIR` replaced by `dir`, and returns the output.
fn pki(dir: &Path, args: &[&str]) -> Result<String, PkiError> {
    pki_with_warnings(dir, args).map(|(out, _)| out)
}

/// Returns the output and the warnings.
fn pki_with_warnings(dir: &Path, args: &[&str]) -> Result<(String, String), PkiError> {
    let dir = dir.to_str().unwrap();
    let args = args.iter().map(|arg| arg.replace("DIR", dir));
    let cli = Cli::try_parse_from(std::iter::once("pki".to_owned()).chain(args)).unwrap();
    let (mut out, mut warnings) = (Vec::new(), Vec::new());
    run_to(cli.command, &mut out, &mut warnings)?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((text(out), text(warnings)))
}

fn new_ca() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    pki(dir.path(), &["init", "DIR", "--cn", "leastconn CA"]).unwrap();
    dir
}

/// Verifies the certificate `name` like a balancer whose `client_ca` and `crl` are the
/// files in `dir`.
fn verify(dir: &Path, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(read_certificate(&dir.join(CA_CERT)).unwrap())
        .unwrap();
    let crl = CertificateRevocationListDer::from_pem_file(dir.join(CA_CRL)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls([crl])
        .enforce_revocation_expiration()
        .build()
        .unwrap();
    let leaf = read_certificate(&dir.join(name)).unwrap();
    verifier
        .verify_client_cert(&leaf, &[], UnixTime::now())
        .map(drop)
}

/// Runs `openssl`. Returns whether it succeeded, and its output.
fn openssl(dir: &Path, args: &[&str]) -> (bool, String) {
    let out = Command::new("openssl").args(args).current_dir(dir).output();
    let out = out.expect("this test needs `openssl`: run scripts/setup.sh --test");
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn certificate_is_valid_until_revoked() {
    let dir = new_ca();
    let dir = dir.path();
    for cn in ["client1.lb.com", "client2.lb.com"] {
        pki(dir, &["issue", "DIR", "--cn", cn, "--client"]).unwrap();
        verify(dir, &format!("{cn}.crt")).unwrap();
    }
    for cn in ["client1.lb.com", "client2.lb.com"] {
        let cert = format!("DIR/{cn}.crt");
        assert!(
            pki(dir, &["revoke", "DIR", &cert])
                .unwrap()
                .contains("wrote")
        );
        // Revoking again has no effect.
        assert!(
            pki(dir, &["revoke", "DIR", &cert])
                .unwrap()
                .contains("already")
        );
    }
    // The second revocation keeps the first.
    for name in ["client1.lb.com.crt", "client2.lb.com.crt"] {
        let refused = verify(dir, name).unwrap_err();
        assert_eq!(
            refused,
            rustls::Error::InvalidCertificate(CertificateError::Revoked)
        );
    }
    let list = RevocationList::load(dir, &Authority::load(dir).unwrap()).unwrap();
    assert_eq!(list.len(), 2);
}

#[test]
fn concurrent_revocations_are_all_kept() {
    let dir = new_ca();
    let dir = dir.path();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for cn in names {
        pki(dir, &["issue", "DIR", "--cn", cn]).unwrap();
    }
    let start = &std::sync::Barrier::new(names.len() + 1);
    std::thread::scope(|scope| {
        for cn in names {
            scope.spawn(move || {
                start.wait();
                pki(dir, &["revoke", "DIR", &format!("DIR/{cn}.crt")]).unwrap();
            });
        }
        scope.spawn(|| {
            start.wait();
            pki(dir, &["crl", "DIR"]).unwrap();
        });
    });
    let list = RevocationList::load(dir, &Authority::load(dir).unwrap()).unwrap();
    assert_eq!(list.len(), names.len());
}

#[test]
fn commands_wait_for_the_lock() {
    let dir = new_ca();
    let dir = dir.path();
    for args in [
        &["issue", "DIR", "--cn", "a", "--force"][..],
        &["revoke", "DIR", "DIR/a.crt"],
        &["crl", "DIR"],
        &["init", "DIR"],
    ] {
        let held = Lock::take(dir).unwrap();
        let (done, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = pki(dir, args);
                done.send(()).unwrap();
            });
            let early = ended.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "{args:?}");
            drop(held);
            ended.recv_timeout(Duration::from_secs(60)).unwrap();
        });
    }
}

/// The key file matches the certificate file, even with `--force`.
#[test]
fn concurrently_issued_certificates_keep_their_keys() {
    let dir = new_ca();
    let dir = dir.path();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| pki(dir, &["issue", "DIR", "--cn", "a", "--force"]).unwrap());
        }
    });
    let key = std::fs::read_to_string(dir.join("a.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap();
    let cert = read_certificate(&dir.join("a.crt")).unwrap();
    let (_, cert) = x509_parser::parse_x509_certificate(&cert).unwrap();
    assert_eq!(
        cert.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&key)
    );
}

#[test]
fn crl_can_be_renewed_without_a_revocation() {
    let dir = new_ca();
    let before = std::fs::read(dir.path().join(CA_CRL)).unwrap();
    pki(dir.path(), &["crl", "DIR", "--days", "7"]).unwrap();
    assert_ne!(before, std::fs::read(dir.path().join(CA_CRL)).unwrap());
    pki(dir.path(), &["issue", "DIR", "--cn", "a"]).unwrap();
    verify(dir.path(), "a.crt").unwrap();
}

#[test]
fn copies_of_the_crl_are_replaced() {
    let dir = new_ca();
    pki(dir.path(), &["issue", "DIR", "--cn", "a"]).unwrap();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    std::fs::write(dir.path().join("copy.crl"), "an older one").unwrap();
    pki(dir.path(), &["crl", "DIR", "--copy", "DIR/copy.crl"]).unwrap();
    assert_eq!(read(CA_CRL), read("copy.crl"));
    let revoke = ["revoke", "DIR", "DIR/a.crt", "--copy", "DIR/copy.crl"];
    pki(dir.path(), &revoke).unwrap();
    assert_eq!(read(CA_CRL), read("copy.crl"));
    assert!(verify(dir.path(), "a.crt").is_err());
}

#[test]
fn server_certificate_is_not_valid_for_clients() {
    let dir = new_ca();
    pki(
        dir.path(),
        &["issue", "DIR", "--cn", "s", "--dns", "s.lb.com", "--server"],
    )
    .unwrap();
    assert!(matches!(
        verify(dir.path(), "s.crt").unwrap_err(),
        rustls::Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
    ));
}

#[test]
fn openssl_verifies_certificates_and_crl() {
    let dir = new_ca();
    let dir = dir.path();
    let issue = "issue DIR --cn web --dns web.lb.com --dns *.web.lb.com --ip 127.0.0.1 --ip ::1 \
                 --uri spiffe://lb.com/web";
    pki(dir, &issue.split_whitespace().collect::<Vec<_>>()).unwrap();
    let check = [
        "verify",
        "-x509_strict",
        "-crl_check",
        "-CRLfile",
        "ca.crl",
        "-CAfile",
        "ca.crt",
        "web.crt",
    ];
    let (ok, text) = openssl(dir, &check);
    assert!(ok, "{text}");
    let (_, text) = openssl(dir, &["x509", "-in", "web.crt", "-noout", "-text"]);
    for part in [
        "DNS:*.web.lb.com",
        "IP Address:127.0.0.1",
        "URI:spiffe://lb.com/web",
        "CA:FALSE",
    ] {
        assert!(text.contains(part), "{part} missing in {text}");
    }
    pki(dir, &["revoke", "DIR", "DIR/web.crt"]).unwrap();
    let (ok, text) = openssl(dir, &check);
    assert!(!ok && text.contains("revoked"), "{text}");
    let (_, text) = openssl(dir, &["crl", "-in", "ca.crl", "-noout", "-crlnumber"]);
    assert!(text.contains("0x02"), "{text}");
}

#[test]
fn keys_have_mode_0600_and_temporary_files_are_removed() {
    let dir = new_ca();
    let dir = dir.path();
    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    assert_eq!(mode(&dir.join("ca.key")), 0o600);
    assert_eq!(mode(&dir.join("a.key")), 0o600);
    assert_eq!(
        names_in(dir),
        ["a.crt", "a.key", "ca.crl", "ca.crt", "ca.key"]
    );
}

#[test]
fn ca_files_are_never_overwritten() {
    let dir = new_ca();
    let dir = dir.path();
    let ca_key = std::fs::read(dir.join(CA_KEY)).unwrap();
    assert!(matches!(
        pki(dir, &["init", "DIR"]),
        Err(PkiError::Exists { .. })
    ));
    // A certificate without a key is not overwritten either.
    std::fs::remove_file(dir.join(CA_KEY)).unwrap();
    assert!(matches!(
        pki(dir, &["init", "DIR"]),
        Err(PkiError::Exists { .. })
    ));
    assert!(!dir.join(CA_KEY).exists());
    std::fs::write(dir.join(CA_KEY), &ca_key).unwrap();

    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    let key = std::fs::read(dir.join("a.key")).unwrap();
    let again = pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap_err();
    assert!(again.to_string().contains("--force"), "{again}");
    assert_eq!(key, std::fs::read(dir.join("a.key")).unwrap());
    pki(dir, &["issue", "DIR", "--cn", "a", "--force"]).unwrap();
    assert_ne!(key, std::fs::read(dir.join("a.key")).unwrap());
    assert_eq!(mode(&dir.join("a.key")), 0o600);

    // A leaf never overwrites the CA, even with --force.
    for name in ["--cn ca", "--cn .CA", "--cn x --out Ca"] {
        let args: Vec<_> = ["issue", "DIR", "--force"]
            .into_iter()
            .chain(name.split(' '))
            .collect();
        assert!(
            matches!(pki(dir, &args), Err(PkiError::Name { .. })),
            "{name}"
        );
    }
    assert_eq!(ca_key, std::fs::read(dir.join(CA_KEY)).unwrap());
}

#[test]
fn path_in_a_name_stays_in_the_directory() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("ca");
    pki(&dir, &["init", "DIR"]).unwrap();
    pki(&dir, &["issue", "DIR", "--cn", "../../x"]).unwrap();
    assert_eq!(names_in(outer.path()), ["ca"]);
    assert!(dir.join("_.._x.crt").exists(), "{:?}", names_in(&dir));
    assert_eq!(file_stem("/etc/passwd").unwrap(), "_etc_passwd");
    assert_eq!(file_stem("-rf *").unwrap(), "rf__");
    assert!(file_stem("..").is_err());
    for out in ["../x", "a/b", "", ".hidden", "-x", "a\nb"] {
        assert!(validate_stem(out).is_err(), "{out:?}");
    }
    for cn in ["", " ", "a\0b", "a\nb", "\u{85}", &"x".repeat(65)] {
        assert!(Authority::create(cn, 1).is_err(), "{cn:?}");
    }
}

#[test]
fn invalid_names_are_rejected() {
    for dns in [
        "a b", "", "*", "*.*.x", "a.*.x", "x.", "10.0.0.1", "ü.de", "-a.b", "a..b", "a/b",
    ] {
        assert!(names::validate_dns(dns).is_err(), "{dns:?}");
    }
    for dns in ["localhost", "*.lb.com", "a-b.lb.com", "xn--tda.de"] {
        names::validate_dns(dns).unwrap();
    }
    for uri in [
        "",
        "web",
        "/web",
        "1a:b",
        "spiffe:",
        "http://a b",
        "http://ü",
        "x:%2",
        "x:%zz",
        "SPIFFE://lb.com/a",
        "spiffe:///a",
        "spiffe://lb.com/",
        "spiffe://lb.com/a//b",
        "spiffe://lb.com/../a",
        "spiffe://lb.com:80/a",
        "spiffe://LB.com/a",
        "spiffe://lb.com/a?b",
        "spiffe://lb.com/%61",
    ] {
        assert!(names::validate_uri(uri).is_err(), "{uri:?}");
    }
    for uri in [
        "spiffe://lb.com",
        "spiffe://lb.com/ns/web",
        "https://a/b?c#d",
        "urn:uuid:1",
        "x:%2F",
    ] {
        names::validate_uri(uri).unwrap();
    }
}

#[test]
fn files_of_another_ca_are_rejected() {
    let (one, two) = (new_ca(), new_ca());
    pki(one.path(), &["issue", "DIR", "--cn", "a"]).unwrap();
    let foreign = one.path().join("a.crt");
    let refused = pki(two.path(), &["revoke", "DIR", foreign.to_str().unwrap()]).unwrap_err();
    assert!(
        matches!(refused, PkiError::NotIssuedHere { .. }),
        "{refused}"
    );
    let refused = pki(one.path(), &["revoke", "DIR", "DIR/ca.crt"]).unwrap_err();
    assert!(
        matches!(refused, PkiError::RevokesItself { .. }),
        "{refused}"
    );

    // Use the CRL of a CA that has the same name but another key.
    std::fs::copy(two.path().join(CA_CRL), one.path().join(CA_CRL)).unwrap();
    let refused = pki(one.path(), &["revoke", "DIR", "DIR/a.crt"]).unwrap_err();
    assert!(refused.to_string().contains("signature"), "{refused}");

    std::fs::copy(two.path().join(CA_KEY), one.path().join(CA_KEY)).unwrap();
    let refused = pki(one.path(), &["issue", "DIR", "--cn", "b"]).unwrap_err();
    assert!(matches!(refused, PkiError::KeyMismatch { .. }), "{refused}");
    let empty = tempfile::tempdir().unwrap();
    let refused = pki(empty.path(), &["issue", "DIR", "--cn", "b"]).unwrap_err();
    assert!(refused.to_string().contains("pki init"), "{refused}");
}

#[test]
fn leaf_expires_no_later_than_its_ca() {
    let authority = Authority::create("short", 2).unwrap();
    let leaf = Leaf {
        cn: "a".into(),
        days: 400,
        ..Leaf::default()
    };
    let issued = authority.issue(&leaf).unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let ends = |der| {
        let (_, cert) = x509_parser::parse_x509_certificate(der).unwrap();
        assert!(cert.serial.to_bytes_be().len() >= 16);
        cert.validity().not_after
    };
    assert_eq!(ends(&der), ends(authority.cert_der()));
    assert!(!format!("{issued:?}").contains("PRIVATE"));
    for days in [0, MAX_DAYS + 1] {
        assert!(matches!(
            Authority::create("x", days),
            Err(PkiError::Days(_))
        ));
    }
}

#[test]
fn ca_created_by_openssl_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key \
                -out ca.crt -subj /O=Acme/CN=Other -days 30";
    let (ok, text) = openssl(dir, &make.split_whitespace().collect::<Vec<_>>());
    assert!(ok, "{text}");
    let authority = Authority::load(dir).unwrap();
    let crl = authority.crl(&RevocationList::new(), 1).unwrap();
    write_public(&dir.join(CA_CRL), &crl, Overwrite::Allow).unwrap();
    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    verify(dir, "a.crt").unwrap();
    pki(dir, &["revoke", "DIR", "DIR/a.crt"]).unwrap();
    assert!(verify(dir, "a.crt").is_err());
}

#[test]
fn server_without_dns_names_gets_its_common_name() {
    use leastconn_tls::certificate::Certificate;
    let dir = new_ca();
    let issue = |args: &[&str]| {
        let all = [&["issue", "DIR", "--out", "x", "--force"], args].concat();
        pki(dir.path(), &all)?;
        read_certificate(&dir.path().join("x.crt"))
    };
    let dns = |args: &[&str]| -> Result<Vec<String>, PkiError> {
        Ok(Certificate::from_der(&issue(args)?).unwrap().dns)
    };
    assert_eq!(
        dns(&["--cn", "a.lb.com", "--server"]).unwrap(),
        ["a.lb.com"]
    );
    assert_eq!(dns(&["--cn", "a.lb.com"]).unwrap(), ["a.lb.com"]);
    assert_eq!(dns(&["--cn", "a.lb.com", "--client"]).unwrap(), [""; 0]);
    assert_eq!(
        dns(&["--cn", "a.lb.com", "--server", "--dns", "b.lb.com"]).unwrap(),
        ["b.lb.com"]
    );
    assert_eq!(dns(&["--cn", "Ann Other"]).unwrap(), [""; 0]);
    let refused = dns(&["--cn", "my server", "--server"]).unwrap_err();
    assert!(refused.to_string().contains("--dns NAME"), "{refused}");
    let der = issue(&["--cn", "127.0.0.1", "--server"]).unwrap();
    let parsed = rustls::server::ParsedCertificate::try_from(&der).unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    rustls::client::verify_server_name(&parsed, &name).unwrap();
}

#[test]
fn conflicting_spiffe_ids_are_not_issued() {
    let dir = new_ca();
    let issue = |uris: &[&str]| {
        let mut args = vec!["issue", "DIR", "--cn", "web", "--out", "x", "--force"];
        uris.iter().for_each(|uri| args.extend(["--uri", uri]));
        pki(dir.path(), &args)
    };
    for uris in [
        ["spiffe://lb.com/a", "spiffe://lb.com/b"],
        ["https://lb.com/a", "spiffe://lb.com/b"],
    ] {
        let refused = issue(&uris).unwrap_err();
        assert!(
            refused.to_string().contains("one certificate for each"),
            "{refused}"
        );
    }
    issue(&["https://lb.com/a", "https://lb.com/b"]).unwrap();
    let der = read_certificate(&dir.path().join("x.crt")).unwrap();
    leastconn_tls::certificate::Certificate::from_der(&der).unwrap();
}

#[test]
fn wrong_file_names_are_explained() {
    let dir = new_ca();
    let dir = dir.path();
    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    let error = |cert: &str| pki(dir, &["revoke", "DIR", cert]).unwrap_err().to_string();
    assert!(error("a").ends_with("/a.crt?"), "{}", error("a"));
    assert!(error("b").ends_with("(os error 2)"), "{}", error("b"));
    assert!(error("DIR/a.key").ends_with("there is no certificate in it"));
}
