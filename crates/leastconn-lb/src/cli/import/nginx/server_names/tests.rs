use super::super::{
    super::{
        access::Verdict,
        model::{Kind, Service},
    },
    import,
};

const SSL: &str = "ssl_certificate server.pem; ssl_certificate_key server.key;";

fn services(text: &str) -> Vec<Service> {
    import(&"t".into(), text, None).unwrap().services
}

/// Imports blocks with these directives and one address. The first has the target 127.0.0.1:1.
fn blocks(blocks: &[&str]) -> Service {
    let blocks = (1..).zip(blocks).map(|(port, lines)| {
        let listen = if lines.contains("listen") {
            ""
        } else {
            "listen 1 ssl;"
        };
        format!("server {{ {listen} {SSL} {lines} proxy_pass 127.0.0.1:{port}; }}")
    });
    let mut services = services(&blocks.collect::<String>());
    assert_eq!(services.len(), 1);
    services.remove(0)
}

/// Returns the decision for each server name, with the port of the target.
fn decisions(service: &Service) -> Vec<String> {
    let access = service.access.iter().map(|(predicate, verdict)| {
        let keys: Vec<_> = predicate.keys().map(|(_, names)| names.join("|")).collect();
        let keys = keys.join("&");
        match verdict {
            Verdict::To(target) => format!("{keys} {}", target.replace("127.0.0.1-", "")),
            _ => format!("{keys} refused"),
        }
    });
    access.collect()
}

fn has_note(service: &Service, text: &str) -> bool {
    let mut notes = service.table.notes.iter();
    notes.any(|note| note.kind != Kind::Remark && note.reason.contains(text))
}

#[test]
fn names_are_compared_in_the_order_of_nginx() {
    let service = blocks(&[
        "server_name a.x ~^r\\.z$;",
        "server_name ~^r\\.z$ ~^k\\.y$;",
        "server_name *.x;",
        "server_name b.x w.*;",
        "server_name *.c.x;",
        "listen 1 ssl default_server; server_name z.y;",
        "server_name .d.x q.*;",
        "server_name B.x;",
    ]);
    let below = |domain: &str| format!("*.{domain}|*.*.{domain}|*.*.*.{domain}");
    assert_eq!(
        decisions(&service),
        [
            "a.x 1".to_owned(),
            "b.x 4".to_owned(),
            "d.x 7".to_owned(),
            format!("{} 5", below("c.x")),
            format!("{} 7", below("d.x")),
            format!("{} 3", below("x")),
            "w.*|w.*.*|w.*.*.* 4".to_owned(),
            "q.*|q.*.*|q.*.*.* 7".to_owned(),
            "r.z 1".to_owned(),
            "k.y 2".to_owned(),
            " 6".to_owned(),
        ]
    );
}

#[test]
fn names_of_the_default_block_precede_wildcards() {
    let service = blocks(&["server_name a.x;", "server_name *.x;"]);
    let expected = ["a.x 1", "*.x|*.*.x|*.*.*.x 2", " 1"];
    assert_eq!(decisions(&service), expected);
    assert!(has_note(&service, "three further labels"));
    // Without an overlap, these names need no route.
    let service = blocks(&["server_name a.x;", "server_name b.x;"]);
    assert_eq!(decisions(&service), ["b.x 2", " 1"]);
}

/// nginx compares the rules of the default block only, before it reads the server name.
#[test]
fn restrictions_of_the_default_block_apply_to_all_names() {
    let service = blocks(&[
        "server_name a.x; allow 10.0.0.0/8; deny all;",
        "server_name b.x;",
        "server_name c.x; deny all;",
    ]);
    let expected = [
        "10.0.0.0/8&b.x 2",
        "b.x refused",
        "c.x refused",
        "10.0.0.0/8 1",
        " refused",
    ];
    assert_eq!(decisions(&service), expected);
    assert!(has_note(&service, "before it reads the server name"));
    let service = blocks(&[
        "server_name a.x;",
        "server_name b.x; deny all;",
        "server_name *.x;",
        "listen 1 ssl default_server; server_name z.y; deny all;",
    ]);
    assert!(
        decisions(&service)
            .iter()
            .all(|line| line.ends_with(" refused"))
    );
    // Inherited rules are those of both blocks.
    let text = format!(
        "stream {{ allow 10.0.0.0/8; deny all;
         server {{ listen 1 ssl; {SSL} server_name a.x; proxy_pass 127.0.0.1:1; }}
         server {{ listen 1 ssl; {SSL} server_name b.x; proxy_pass 127.0.0.1:2; }} }}"
    );
    assert!(!has_note(&services(&text)[0], "before it reads"));
}

#[test]
fn untranslated_names_admit_no_client_of_another_block() {
    for name in ["*.x", "w.*", "~^.+\\.x$"] {
        let service = blocks(&[
            "server_name a.y;",
            &format!("server_name {name}; deny all;"),
        ]);
        assert_eq!(decisions(&service).last().unwrap(), " 1", "{name}");
        assert!(has_note(&service, "three further labels"), "{name}");
    }
    let service = blocks(&[
        "server_name a.y;",
        "server_name ~^[a-z]+\\.x$; deny all;",
        "server_name b.x;",
    ]);
    assert_eq!(decisions(&service), ["a.y 1", "b.x 3", " refused"]);
    assert!(has_note(&service, "no earlier name are refused"));
    // The default block has these clients, unless a later expression could match them.
    let default = "server_name ~^[a-z]+\\.x$;";
    let service = blocks(&[default, "server_name b.x;"]);
    assert_eq!(decisions(&service), ["b.x 2", " 1"]);
    let service = blocks(&[default, "server_name ~^b\\.x$;"]);
    assert_eq!(decisions(&service), [" refused"]);
}

#[test]
fn blocks_are_selected_for_each_address() {
    let text = format!(
        "server {{ listen 1 ssl; listen [::]:1 ssl; listen 2 ssl; {SSL} server_name a.x;
            proxy_pass 127.0.0.1:1; }}
         server {{ listen 0.0.0.0:1 ssl; {SSL} server_name db.x; proxy_pass 127.0.0.1:2; }}
         server {{ listen 2 ssl default_server; {SSL} server_name c.x; proxy_pass 127.0.0.1:3; }}"
    );
    let services = services(&text);
    let listeners: Vec<_> = services
        .iter()
        .map(|service| (service.binds.join(" "), decisions(service).join(", ")))
        .collect();
    let expected = [
        ("0.0.0.0:1", "db.x 2,  1"),
        ("[::]:1", " 1"),
        ("0.0.0.0:2", "a.x 1,  3"),
    ];
    let expected = expected.map(|(binds, access)| (binds.to_owned(), access.to_owned()));
    assert_eq!(listeners, expected);
}

#[test]
fn blocks_that_no_client_reaches_are_noted() {
    let service = blocks(&["server_name a.x;", ""]);
    assert_eq!(decisions(&service), [" 1"]);
    assert!(has_note(&service, "the same address and no name"));
    // nginx enables TLS for an address if one `listen` line has `ssl`.
    let service = blocks(&["server_name a.x;", "listen 1; server_name b.x;"]);
    assert_eq!(decisions(&service), ["b.x 2", " 1"]);
    let service = blocks(&[
        "listen 1; server_name a.x;",
        "listen 1; server_name b.x; deny all;",
    ]);
    assert_eq!(decisions(&service), [" 1"]);
    assert!(service.refused.is_empty());
    assert!(has_note(&service, "nginx does not read server names"));
    let service = blocks(&[
        "listen 1; ssl_preread on; server_name a.x;",
        "listen 1; server_name b.x; deny all;",
    ]);
    assert!(!service.refused.is_empty());
}

#[test]
fn tls_settings_of_other_blocks_are_noted() {
    let service = blocks(&[
        "server_name a.x;",
        "server_name b.x; ssl_protocols TLSv1.3;",
    ]);
    assert!(has_note(&service, "TLS versions"));
}

#[test]
fn server_names_select_the_server_block() {
    let service = blocks(&[
        "server_name a.x;",
        "server_name b.x .c.x;",
        "server_name d.x; ssl_client_certificate ca.crt; ssl_verify_client on;",
    ]);
    let expected = [
        "b.x 2",
        "c.x 2",
        // Clients need a certificate for this name only.
        "d.x refused",
        "*.c.x|*.*.c.x|*.*.*.c.x 2",
        " 1",
    ];
    assert_eq!(decisions(&service), expected);
}
