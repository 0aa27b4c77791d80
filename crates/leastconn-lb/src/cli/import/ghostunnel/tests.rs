use super::{
    super::model::{Imported, Kind, Note, Value},
    import,
};

fn imported(text: &str) -> Imported {
    import(&"t".into(), text).unwrap()
}

/// Returns the notes of the first listener with this kind.
fn notes(imported: &Imported, kind: Kind) -> Vec<Note> {
    let service = &imported.services[0];
    let tls = service.tls.iter().flat_map(|tls| &tls.notes);
    let notes = service.table.notes.iter().chain(tls);
    notes.filter(|note| note.kind == kind).cloned().collect()
}

const SERVER: &str = "ghostunnel server --listen 127.0.0.1:1 --target localhost:2";

#[test]
fn notes_show_one_flag_instead_of_the_command_line() {
    let text = format!(
        "{SERVER} --keystore s.pem --cacert ca.crt --allow-cn a --allow-dns '*.x' --allow-ip 10.0.0.1 \
         --allow-policy p --pkcs11-pin secret"
    );
    let imported = imported(&text);
    let left_out = notes(&imported, Kind::LeftOut);
    let places: Vec<_> = left_out
        .iter()
        .map(|note| (note.place.line, note.place.text.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (1, "--pkcs11-pin"),
            (1, "ghostunnel server"),
            (1, "--allow-dns *.x"),
            (1, "--allow-ip 10.0.0.1"),
            (1, "--allow-policy p"),
        ]
    );
    let remarks = notes(&imported, Kind::Remark);
    assert!(
        remarks
            .iter()
            .all(|note| note.place.text == "ghostunnel server")
    );
}

#[test]
fn variables_of_units_are_replaced_in_paths() {
    let text = format!(
        "[Service]\nEnvironment=CERTS=/etc/lb\nExecStart=/usr/bin/{SERVER} \\\n  \
         --cert ${{CERTS}}/server.crt --key ${{CERTS}}/server.key --cacert=$CERTS/ca.crt --allow-all"
    );
    let imported = imported(&text);
    let tls = imported.services[0].tls.as_ref().unwrap();
    for (key, file) in [
        ("cert", "server.crt"),
        ("key", "server.key"),
        ("client_ca", "ca.crt"),
    ] {
        assert_eq!(tls.get(key), Some(&Value::text(format!("/etc/lb/{file}"))));
    }
    assert_eq!(notes(&imported, Kind::LeftOut), []);
}

#[test]
fn status_address_is_used_for_the_admin_table() {
    for (status, bind) in [
        ("127.0.0.1:9951", Some("127.0.0.1:9951")),
        ("http://localhost:9951", Some("127.0.0.1:9951")),
        ("https://[::1]:9951", Some("[::1]:9951")),
        ("unix:/run/status", None),
        ("systemd:status", None),
    ] {
        let admin = imported(&format!("{SERVER} --status {status}")).admin;
        assert_eq!(
            admin.get("bind"),
            bind.map(Value::text).as_ref(),
            "{status}"
        );
        assert_eq!(admin.notes.len(), 1, "{status}");
    }
}

#[test]
fn keystores_keep_the_listener_with_a_conversion_command() {
    for (keystore, cert, key, command) in [
        (
            "/etc/s.p12",
            "/etc/s.pem",
            None,
            "`openssl pkcs12 -in /etc/s.p12 -nodes -out /etc/s.pem`",
        ),
        (
            "s --storepass x",
            "s.pem",
            None,
            "`openssl pkcs12 -in s -nodes -out s.pem`",
        ),
        (
            "$D/s.PFX",
            "\u{1}D\u{2}/s.pem",
            None,
            "`openssl pkcs12 -in ${D}/s.PFX -nodes -out ${D}/s.pem`",
        ),
        (
            "s.jceks",
            "s.pem",
            None,
            "`openssl pkcs12 -in s.p12 -nodes -out s.pem`",
        ),
        (
            "s.pem --storepass x",
            "s.pem",
            Some("s-decrypted.key"),
            "`openssl pkey -in s.pem -out s-decrypted.key`",
        ),
    ] {
        let text = format!("{SERVER} --cacert ca.crt --allow-cn a --keystore {keystore}");
        let imported = imported(&text);
        let service = &imported.services[0];
        assert_eq!(service.binds, ["127.0.0.1:1"], "{keystore}");
        assert!(service.refused.is_empty(), "{keystore}");
        let tls = service.tls.as_ref().unwrap();
        assert_eq!(tls.get("cert"), Some(&Value::text(cert)), "{keystore}");
        assert_eq!(tls.get("key"), key.map(Value::text).as_ref(), "{keystore}");
        assert_eq!(notes(&imported, Kind::LeftOut), [], "{keystore}");
        let left_out = notes(&imported, Kind::Differs);
        assert_eq!(left_out.len(), 1, "{keystore}");
        assert!(left_out[0].reason.contains(command), "{left_out:?}");
        let shown = format!("{left_out:?}");
        assert!(!shown.contains("storepass"), "{shown}");
    }
}

#[test]
fn servers_without_allow_flags_refuse_all_clients() {
    let text = format!("{SERVER} --keystore s.pem --cacert ca.crt");
    for (flags, is_closed) in [
        ("", true),
        ("--allow-unsafe-cipher-suites", true),
        ("--allow-cn a", false),
        ("--allow-all", false),
        ("--disable-authentication", false),
    ] {
        let imported = imported(&format!("{text} {flags}"));
        assert_eq!(
            !imported.services[0].refused.is_empty(),
            is_closed,
            "{flags}"
        );
        let left_out = notes(&imported, Kind::LeftOut);
        let mut reasons = left_out.iter().map(|note| note.reason.as_str());
        assert_eq!(
            reasons.any(|reason| reason.starts_with("ghostunnel does not start without")),
            is_closed,
            "{flags}"
        );
    }
}

#[test]
fn servers_without_authorities_still_require_certificates() {
    let text = format!("{SERVER} --keystore s.pem --allow-cn a --allow-policy p --allow-query q");
    let imported = imported(&text);
    let service = &imported.services[0];
    let tls = service.tls.as_ref().unwrap();
    assert!(service.certificates);
    assert_eq!(tls.get("client_auth"), None);
    assert_eq!(tls.get("client_pins"), Some(&Value::text("0".repeat(64))));
    assert_eq!(service.access.len(), 2);
    let left_out = notes(&imported, Kind::LeftOut);
    let places: Vec<_> = left_out
        .iter()
        .map(|note| note.place.text.as_str())
        .collect();
    let server = "ghostunnel server";
    assert_eq!(places, [server, "--allow-policy p", server]);
    assert!(left_out[2].reason.contains("`client_ca = \"FILE\"`"));
}
