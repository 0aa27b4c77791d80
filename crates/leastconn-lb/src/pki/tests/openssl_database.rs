//! Revocations by `openssl ca`.

use rustls::CertificateError;

use super::{new_ca, openssl, pki, pki_with_warnings, verify};

/// `openssl ca` keeps revocations in its database, and has its own CRL number.
#[test]
fn revocations_by_openssl_are_added_to_the_crl() {
    let dir = new_ca();
    let dir = dir.path();
    let config = "[ca]\ndefault_ca = c\n[c]\ndatabase = index.txt\nserial = serial\ncrlnumber = crlnumber\n\
                  certificate = ca.crt\nprivate_key = ca.key\ndefault_md = sha256\ndefault_crl_days = 30\n\
                  crl_extensions = e\n[e]\nauthorityKeyIdentifier = keyid\n";
    for (name, text) in [
        ("ca.cnf", config),
        ("index.txt", ""),
        ("crlnumber", "2000\n"),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    for cn in ["a", "b", "c"] {
        pki(dir, &["issue", "DIR", "--cn", cn]).unwrap();
    }
    let revoke = [
        "ca",
        "-config",
        "ca.cnf",
        "-revoke",
        "a.crt",
        "-crl_reason",
        "keyCompromise",
    ];
    let (done, text) = openssl(dir, &revoke);
    assert!(done, "{text}");

    let (out, warnings) = pki_with_warnings(dir, &["revoke", "DIR", "DIR/b.crt"]).unwrap();
    assert!(!out.contains("warning"), "{out}");
    assert!(
        warnings.contains("1 revocation added from it"),
        "{warnings}"
    );
    let revoked = rustls::Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(verify(dir, "a.crt"), Err(revoked.clone()));
    assert_eq!(verify(dir, "b.crt"), Err(revoked));
    verify(dir, "c.crt").unwrap();
    let (_, text) = openssl(dir, &["crl", "-in", "ca.crl", "-noout", "-text"]);
    assert!(text.contains("Key Compromise"), "{text}");
    let (_, number) = openssl(dir, &["crl", "-in", "ca.crl", "-noout", "-crlnumber"]);
    assert!(number.to_lowercase().contains("0x2000"), "{number}");

    // A CRL that `openssl ca` signed is a basis, too. The next number is higher.
    let (done, text) = openssl(
        dir,
        &["ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl"],
    );
    assert!(done, "{text}");
    let (done, text) = openssl(dir, &["ca", "-config", "ca.cnf", "-revoke", "c.crt"]);
    assert!(done, "{text}");
    let (_, warnings) = pki_with_warnings(dir, &["crl", "DIR"]).unwrap();
    assert!(
        warnings.contains("1 revocation added from it"),
        "{warnings}"
    );
    assert!(verify(dir, "a.crt").is_err() && verify(dir, "c.crt").is_err());

    std::fs::write(dir.join("index.txt"), "V\t1\nR\t300101000000Z\n").unwrap();
    let error = pki(dir, &["crl", "DIR"]).unwrap_err().to_string();
    assert!(
        error.contains("index.txt is not a usable database of `openssl ca`: line 2"),
        "{error}"
    );
}

/// A CRL with a lower number than an earlier one would be ignored by clients that compare them.
#[test]
fn damaged_files_of_openssl_are_errors() {
    let dir = new_ca();
    let dir = dir.path();
    pki(dir, &["issue", "DIR", "--cn", "a"]).unwrap();
    let crl = std::fs::read(dir.join("ca.crl")).unwrap();
    for (database, number, expected) in [
        ("", "zz\n", "crlnumber is not a usable file with the number"),
        ("", "", "\"\" is not a hexadecimal number"),
        ("", "-5\n", "is not a hexadecimal number"),
        (
            "r\t300101000000Z\t260101000000Z\t01\tunknown\t/CN=a\n",
            "05\n",
            "line 1 does not start",
        ),
        (
            "V\t300101000000Z\t\t01\tunknown\t/CN=a\nR\n",
            "05\n",
            "line 2 has no revocation date",
        ),
    ] {
        std::fs::write(dir.join("index.txt"), database).unwrap();
        std::fs::write(dir.join("crlnumber"), number).unwrap();
        for args in [&["crl", "DIR"][..], &["revoke", "DIR", "DIR/a.crt"]] {
            let error = pki(dir, args).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(std::fs::read(dir.join("ca.crl")).unwrap(), crl);
    }
    std::fs::write(dir.join("index.txt"), "# comment\n\n").unwrap();
    std::fs::remove_file(dir.join("crlnumber")).unwrap();
    pki(dir, &["crl", "DIR"]).unwrap();
}
