use super::{
    super::{
        access::{Key, Verdict},
        model::Imported,
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
