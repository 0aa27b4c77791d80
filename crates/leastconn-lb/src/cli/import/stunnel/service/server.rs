//! Services with TLS from clients.

use std::path::Path;

use super::{
    super::{
        super::{
            access::{Key, Predicate, Verdict},
            address::is_host,
            model::{Backend, Service, Table, Value},
            regex::Pattern,
        },
        options::{Section, Setting},
    },
    protocol,
    tls::{PINNED, Verify, authorities, certificate, common, pins},
};

/// Translates a service with TLS from clients.
pub(super) fn server(
    section: &Section,
    service: &mut Service,
    backend: &mut Backend,
    dir: Option<&Path>,
) {
    let mut tls = Table::default();
    let Some(cert) = section.one("cert") else {
        if section.one("accept").is_some() {
            service
                .table
                .note(section.place.left_out("the service has no certificate"));
        }
        service.binds.clear();
        return;
    };
    certificate(cert, section, &mut tls);
    common(section, &mut tls);
    let verify = Verify::of(section);
    let ca = section.one("cafile");
    let is_optional = section
        .one("verify")
        .is_some_and(|option| option.value == "1")
        || section
            .one("requirecert")
            .is_some_and(|option| option.value == "no");
    match (verify, ca) {
        (Verify::None, _) if !section.is_on("requirecert") => {
            tls.set("client_auth", Value::text("none"));
        }
        (Verify::None, _) | (_, None) => {
            tls.set("client_auth", Value::text("none"));
            let reason = match ca {
                Some(_) => "`requireCert` alone does not verify clients: set `verifyChain`",
                None => "clients cannot be verified without `CAfile`",
            };
            tls.note(section.place.left_out(reason));
            service.refused.push(reason.to_owned());
        }
        (verify, Some(ca)) => {
            service.certificates = true;
            if is_optional {
                tls.note(
                    section.place.left_out(
                        "client certificates are required: clients without one are refused",
                    ),
                );
            }
            if verify.verifies_chain() {
                authorities("client_ca", ca, section, &mut tls);
            }
            if verify.verifies_peer() {
                peers(service, &mut tls, ca, dir, verify);
            }
        }
    }
    names(section, service, backend);
    protocol(section, service, backend);
    service.tls = Some(tls);
}

/// Accepts only clients with the public keys of the certificates in `CAfile`.
fn peers(service: &mut Service, tls: &mut Table, ca: &Setting, dir: Option<&Path>, verify: Verify) {
    let Some(pins) = pins(ca, dir) else {
        tls.set("client_auth", Value::text("none"));
        tls.remove("client_ca");
        tls.remove("crl");
        service.certificates = false;
        let reason = "`verifyPeer` needs the certificates in `CAfile`, which cannot be read";
        tls.note(ca.place.left_out(reason));
        service.refused.push(reason.to_owned());
        return;
    };
    tls.note(ca.place.remark(PINNED));
    if !verify.verifies_chain() {
        tls.set("client_pins", Value::strings(&pins));
    }
    service.access = vec![
        (
            Predicate::new(Key::Spki, pins),
            Verdict::To(service.name.clone()),
        ),
        (Predicate::default(), Verdict::Refuse),
    ];
}

/// Translates `checkHost` for clients: a DNS name in the subject alternative names.
fn names(section: &Section, service: &mut Service, backend: &Backend) {
    let hosts: Vec<_> = section
        .all("checkhost")
        .iter()
        .map(|option| option.value.clone())
        .collect();
    if let Some(option) = section.one("checkip") {
        service.table.note(
            option
                .place
                .left_out("IP addresses in certificates are not compared"),
        );
        service
            .refused
            .push("`checkIP` has no equivalent".to_owned());
    }
    if hosts.is_empty() || !service.certificates {
        return;
    }
    for option in section.all("checkhost") {
        service.table.note(option.place.left_out(
            "`dns` compares alternative names only; stunnel also accepts a certificate without \
             alternative names by its common name: for such clients, add a rule with `cn`",
        ));
    }
    let mut names = Vec::new();
    for (host, option) in hosts.into_iter().zip(section.all("checkhost")) {
        // A dot at the start stands for all subdomains. OpenSSL compares other names literally.
        let pattern = match host.strip_prefix('.') {
            Some(domain) => Pattern::Below(domain.to_owned()),
            None => Pattern::Exact(host),
        };
        let names_of_host = pattern.names(Key::Dns);
        let is_valid = |list: &Vec<String>| {
            let mut names = list.iter().map(|name| name.trim_start_matches("*."));
            names.all(is_host)
        };
        match names_of_host.filter(is_valid) {
            Some(list) => names.extend(list),
            None => service
                .table
                .note(option.place.left_out("the name has no equivalent")),
        }
    }
    if names.is_empty() {
        service
            .refused
            .push("the names in `checkHost` have no equivalent".to_owned());
        return;
    }
    let mut predicate = Predicate::new(Key::Dns, names);
    if let Some((earlier, _)) = service.access.first()
        && let Some(pins) = earlier.get(Key::Spki)
    {
        predicate.require(Key::Spki, pins.to_vec());
    }
    service.access = vec![
        (predicate, Verdict::To(backend.name.clone())),
        (Predicate::default(), Verdict::Refuse),
    ];
}
