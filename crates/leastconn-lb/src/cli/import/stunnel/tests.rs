use leastconn_testkit::{TempDir, TestCa};

use super::{
    super::{
        access::{Key, Verdict},
        model::{Imported, Kind},
    },
    import,
};

fn imported(text: &str) -> Imported {
    import(&"t".into(), text, None).unwrap()
}

/// Returns the decisions of the first service.
fn decisions(text: &str, key: Key) -> Vec<String> {
    let service = imported(text).services.remove(0);
    let access = service.access.iter().map(|(predicate, verdict)| {
        let names = predicate.get(key).map(|names| names.join("|"));
        let names = names.unwrap_or_default();
        match verdict {
            Verdict::To(target) => format!("{names} {target}"),
            _ => format!("{names} refused"),
        }
    });
    access.collect()
}

#[test]
fn services_for_server_names_keep_their_verification() {
    let verified = "verifyChain = yes\nCAfile = ca.crt";
    for (master, other, expected) in [
        ("", "", "a.x second,  My-Web"),
        // In the source, clients need a certificate for this name.
        ("", verified, "a.x refused,  My-Web"),
        (verified, verified, "a.x second,  My-Web"),
        (verified, "", "a.x second,  My-Web"),
        (
            verified,
            "verifyChain = yes\nCAfile = other.crt",
            "a.x refused,  My-Web",
        ),
        ("", "libwrap = yes", "a.x refused,  My-Web"),
    ] {
        let text = format!(
            "cert = a.pem\n[My Web]\naccept = 1\nconnect = 2\n{master}\n\
             [second]\nsni = My Web:A.x\nconnect = 3\n{other}"
        );
        assert_eq!(decisions(&text, Key::Sni).join(", "), expected, "{text}");
    }
    let text = "cert = a.pem\n[m]\naccept = 1\nconnect = 2\n[s]\nsni = m:*.x\nconnect = 3";
    assert_eq!(decisions(text, Key::Sni), ["*.x|*.*.x|*.*.*.x s", " m"]);
}

#[test]
fn settings_of_services_for_server_names_are_noted() {
    for (option, expected) in [
        ("TIMEOUTidle = 9", "timeouts are those"),
        ("TIMEOUTbusy = 9", "timeouts are those"),
        ("TIMEOUTclose = 9", "timeouts are those"),
        ("sslVersionMin = TLSv1.3", "TLS versions"),
        ("", ""),
    ] {
        let text = format!(
            "cert = a.pem\n[m]\naccept = 1\nconnect = 2\n[s]\nsni = m:a.x\nconnect = 3\n{option}"
        );
        let service = imported(&text).services.remove(0);
        let mut notes = service.table.notes.iter();
        let noted = notes.find(|note| note.kind == Kind::Differs);
        let reason = noted.map_or("", |note| &note.reason);
        assert!(reason.starts_with(expected), "{option}: {reason}");
        assert_eq!(noted.is_some(), !expected.is_empty(), "{option}: {reason}");
    }
}

#[test]
fn untranslated_patterns_admit_no_client_of_another_service() {
    for (pattern, option, expected) in [
        ("*.x", "libwrap = yes", "*.x|*.*.x|*.*.*.x refused,  m"),
        ("*a.x", "libwrap = yes", " refused"),
        ("*a.x", "", " m"),
    ] {
        let text = format!(
            "cert = a.pem\n[m]\naccept = 1\nconnect = 2\n\
             [s]\nsni = m:{pattern}\nconnect = 3\n{option}"
        );
        assert_eq!(decisions(&text, Key::Sni).join(", "), expected, "{text}");
    }
}

#[test]
fn names_of_certificates_are_compared_as_openssl_does() {
    for (hosts, expected) in [
        (&["a.x"][..], &["a.x s", " refused"][..]),
        (&[".x"], &["*.x|*.*.x|*.*.*.x s", " refused"]),
        (&["*.x", "a.x"], &["a.x s", " refused"]),
    ] {
        let hosts: String = hosts
            .iter()
            .map(|host| format!("checkHost = {host}\n"))
            .collect();
        let text = format!(
            "[s]\ncert = a.pem\naccept = 1\nconnect = 2\nverifyChain = yes\nCAfile = ca.crt\n{hosts}"
        );
        assert_eq!(decisions(&text, Key::Dns), expected, "{hosts}");
    }
    let text = "[s]\ncert = a.pem\naccept = 1\nconnect = 2\nverifyChain = yes\nCAfile = ca.crt\n\
        checkHost = *.x";
    assert!(!imported(text).services[0].refused.is_empty());
}

#[test]
fn tcp_wrappers_close_the_service() {
    for (value, is_closed) in [("yes", true), ("no", false)] {
        let text = format!("[s]\ncert = a.pem\naccept = 1\nconnect = 2\nlibwrap = {value}");
        assert_eq!(
            !imported(&text).services[0].refused.is_empty(),
            is_closed,
            "{value}"
        );
    }
}

#[test]
fn verification_options_apply_in_their_order() {
    let (open, refused) = ("open", "refused");
    let chain = "chain";
    let ca = "CAfile = ca.crt\n";
    for (defaults, options, expected) in [
        ("", "", open),
        ("verifyChain = yes", "", chain),
        // A certificate is still required, but of any authority.
        ("verifyChain = yes", "verifyChain = no", refused),
        ("verifyPeer = yes", "verifyPeer = NO", refused),
        ("verify = 2", "verifyChain = no", refused),
        ("", "requireCert = yes", refused),
        ("", "verifyChain = no", open),
        (
            "verifyChain = yes",
            "verifyChain = no\nrequireCert = no",
            open,
        ),
        ("verifyChain = yes", "verify = 0", open),
        ("verify = 0", "verifyChain = YES", chain),
        ("verifyPeer = yes", "verify = 2", chain),
        ("requireCert = no", "verifyChain = yes", chain),
        ("verifyChain = yes", "CAfile =", refused),
        // stunnel does not start.
        ("verifyChain = yes\ncheckHost = a.x", "verify = 0", refused),
        ("checkHost = a.x", "", refused),
    ] {
        let text = format!("cert = a.pem\n{ca}{defaults}\n[s]\naccept = 1\nconnect = 2\n{options}");
        let service = imported(&text).services.remove(0);
        let tls = service.tls.unwrap();
        let found = match (service.refused.as_slice(), tls.get("client_ca")) {
            ([], None) => open,
            ([], Some(_)) => chain,
            _ => refused,
        };
        assert_eq!(found, expected, "{text}");
        let notes = service.table.notes.iter().chain(&tls.notes);
        let left_out = notes.filter(|note| note.kind != Kind::Remark).count();
        assert_eq!(left_out > 0, expected == refused, "{text}");
    }
}

#[test]
fn pinned_certificates_with_a_crl_close_the_service() {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("import test CA");
    ca.leaf("a.x").build().write(dir.path(), "client");
    for (options, is_closed) in [
        ("", false),
        ("CRLfile =", false),
        ("CRLfile = ca.crl", true),
        ("CRLfile = ca.crl\nverifyChain = yes", false),
    ] {
        for client in ["", "client = yes\ncheckHost = a.x"] {
            let text = format!(
                "cert = a.pem\nverifyPeer = yes\nCAfile = client.crt\n\
                 [s]\naccept = 1\nconnect = 2\n{options}\n{client}"
            );
            let imported = import(&"t".into(), &text, Some(dir.path())).unwrap();
            let refused = &imported.services[0].refused;
            let found = !refused.is_empty() || !imported.backends[0].refused.is_empty();
            assert_eq!(found, is_closed, "{text}");
        }
    }
}

#[test]
fn partly_translated_certificate_names_are_reported() {
    let text = "[s]\ncert = a.pem\naccept = 1\nconnect = 2\nverifyChain = yes\nCAfile = ca.crt\n\
        checkHost = a.x\nTIMEOUTidle = 5";
    let notes = imported(text).services.remove(0).table.notes;
    let partial = notes
        .iter()
        .find(|note| note.kind == Kind::Differs)
        .unwrap();
    for part in [
        "carried over as a rule with `dns`, except: ",
        "but also certificates with this common name and other alternative names",
        "Insert it before `any-client`",
    ] {
        assert!(partial.reason.contains(part), "{part}: {}", partial.reason);
    }
    assert!(notes.iter().all(|note| note.kind != Kind::LeftOut));
    let defaults = "without `TIMEOUTbusy`, `TIMEOUTclose`, stunnel's defaults apply: \
        `handshake_timeout`, `half_close_timeout`";
    let mut remarks = notes.iter().filter(|note| note.kind == Kind::Remark);
    assert!(remarks.any(|note| note.reason == defaults), "{notes:?}");
}
