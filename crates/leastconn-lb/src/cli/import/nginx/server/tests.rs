use super::super::{
    super::model::{Kind, Service},
    import,
};

fn imported(text: &str) -> Service {
    let mut services = import(&"t".into(), text, None).unwrap().services;
    services.remove(0)
}

/// Returns the number of notes with this text.
fn notes(service: &Service, text: &str) -> usize {
    let tls = service.tls.iter().flat_map(|tls| &tls.notes);
    let notes = service.table.notes.iter().chain(tls);
    let notes = notes.filter(|note| note.kind != Kind::Remark && note.reason.contains(text));
    notes.count()
}

/// Without a trusted proxy, nginx compares the address of the proxy.
#[test]
fn rules_by_proxy_address_are_not_translated() {
    let blocks = "geo $geo { 127.0.0.5 127.0.0.1:1; default ''; }
        geo $remote_addr $named { 127.0.0.5 127.0.0.1:1; }
        map $remote_addr $map { 127.0.0.5 127.0.0.1:1; default 127.0.0.1:2; }
        map $geo $outer { 127.0.0.1:1 127.0.0.1:2; }
        map $ssl_server_name $inner { a.x $geo; default 127.0.0.1:2; }
        map $ssl_server_name $sni { a.x 127.0.0.1:1; default 127.0.0.1:2; }
        limit_conn_zone $binary_remote_addr zone=a:1m;
        limit_conn_zone $remote_addr zone=b:1m;";
    let ssl = "ssl_certificate a.pem; ssl_certificate_key a.key;";
    for (lines, is_closed) in [
        ("proxy_pass $geo;", true),
        ("proxy_pass $named;", true),
        ("proxy_pass $map;", true),
        ("proxy_pass $outer;", true),
        ("proxy_pass $inner;", true),
        ("limit_conn a 3; proxy_pass 127.0.0.1:1;", true),
        ("limit_conn b 3; proxy_pass 127.0.0.1:1;", true),
        ("deny 10.0.0.1; proxy_pass 127.0.0.1:1;", true),
        ("proxy_pass $sni;", false),
        ("proxy_pass 127.0.0.1:1;", false),
    ] {
        for (options, trusted, is_closed) in [
            ("proxy_protocol", "", is_closed),
            ("proxy_protocol", "set_real_ip_from lb.x;", is_closed),
            ("proxy_protocol", "set_real_ip_from 10.0.0.0/8;", false),
            ("", "", false),
        ] {
            let text =
                format!("{blocks} server {{ listen 1 ssl {options}; {ssl} {trusted} {lines} }}");
            let service = imported(&text);
            assert_eq!(
                !service.refused.is_empty(),
                is_closed,
                "{options} {trusted} {lines}"
            );
            let noted = notes(&service, "the address of the proxy");
            assert_eq!(noted > 0, is_closed, "{options} {trusted} {lines}");
        }
    }
}

#[test]
fn trusted_proxies_that_are_not_networks_are_noted() {
    let service = imported(
        "server { listen 1 proxy_protocol; set_real_ip_from 10.0.0.0/8; set_real_ip_from lb.x;
            set_real_ip_from unix:; proxy_pass 127.0.0.1:1; }",
    );
    assert_eq!(notes(&service, "is not an IP network"), 2);
    assert!(service.table.get("proxy_protocol_from").is_some());
}

#[test]
fn both_files_of_authorities_are_noted() {
    for (trusted, count) in [
        ("ssl_trusted_certificate b.crt;", 1),
        ("ssl_trusted_certificate ca.crt;", 0),
        ("", 0),
    ] {
        let service = imported(&format!(
            "server {{ listen 1 ssl; ssl_certificate a.pem; ssl_certificate_key a.key;
                ssl_client_certificate ca.crt; {trusted} ssl_verify_client on;
                proxy_pass 127.0.0.1:1; }}"
        ));
        assert_eq!(notes(&service, "join both files"), count, "{trusted}");
    }
}
