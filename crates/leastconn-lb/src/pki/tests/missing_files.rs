//! Errors for directories that are not those of a complete CA.

use super::*;

/// Runs `pki ARGS…`, and returns the error with `DIR` in place of the directory.
fn error(dir: &Path, args: &[&str]) -> String {
    let error = pki(dir, args).unwrap_err().to_string();
    error.replace(dir.to_str().unwrap(), "DIR")
}

#[test]
fn missing_crl_is_explained() {
    let dir = new_ca();
    let dir = dir.path();
    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    std::fs::remove_file(dir.join(CA_CRL)).unwrap();
    let expected = "the CA in DIR has no CRL (ca.crl is missing): copy its current CRL to DIR/ca.crl. If \
                    it has never signed a CRL, create an empty one with `pki crl DIR --new`";
    for args in [&["revoke", "DIR", "DIR/a.crt"][..], &["crl", "DIR"]] {
        assert_eq!(error(dir, args), expected);
    }
    pki(dir, &["crl", "DIR", "--new"]).unwrap();
    verify(dir, "a.crt").unwrap();
    pki(dir, &["revoke", "DIR", "DIR/a.crt"]).unwrap();
    assert!(verify(dir, "a.crt").is_err());

    // A new CRL would lose the revocation.
    let refused = error(dir, &["crl", "DIR", "--new"]);
    assert!(refused.contains("renew it without --new"), "{refused}");
    assert!(verify(dir, "a.crt").is_err());
}

#[test]
fn directory_without_a_ca_is_explained() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("pki");
    let expected = "there is no CA in DIR (ca.crt is missing): name the directory of a CA, or create a \
                    CA with `pki init DIR`";
    let revoke = ["revoke", "DIR", "DIR/a.crt"];
    assert_eq!(error(&dir, &revoke), expected);
    std::fs::create_dir(&dir).unwrap();
    assert_eq!(error(&dir, &revoke), expected);

    pki(&dir, &["init", "DIR"]).unwrap();
    std::fs::remove_file(dir.join(CA_KEY)).unwrap();
    let refused = error(&dir, &revoke);
    assert!(
        refused.starts_with("the CA in DIR has no key (ca.key is missing): restore"),
        "{refused}"
    );
    // The arguments in the wrong order.
    let certificate = dir.join(CA_CERT);
    let refused = error(&certificate, &["revoke", "DIR", "pki"]);
    assert!(
        refused.starts_with("DIR is not a directory: name the directory of a CA"),
        "{refused}"
    );
}
