//! Services with TLS from clients.

use std::path::Path;

use super::{
    super::{
        super::{
            access::{Key, Predicate, Verdict},
            address::{is_host, is_ip},
            model::{Backend, Service, Table, Value},
            regex::Pattern,
        },
        options::{Section, Setting},
    },
    protocol,
    tls::{PINNED, Verify, authorities, certificate, common, pins, revoked_pins, verification},
};

/// Translates a service with TLS from clients.
pub(super) fn server(
    section: &Section,
    service: &mut Service,
    backend: &mut Backend,
    dir: Option<&Path>,
) {
    let mut tls = Table::default();
    let Some(cert) = section.file("cert") else {
        if section.one("accept").is_some() {
            service
                .table
                .note(section.place.left_out("the service has no certificate"));
        }
        service.binds.clear();
        return;
    };
    if let Err(reason) = certificate(cert, section, &mut tls, dir) {
        service.table.note(cert.place.left_out(reason));
        service.binds.clear();
        return;
    }
    common(section, &mut tls);
    let verify = Verify::of(section);
    match section.file("cafile") {
        _ if !verify.is_on() && !verify.requires_certificate => {
            tls.set("client_auth", Value::text("none"));
        }
        Some(ca) if verify.is_on() => {
            service.certificates = true;
            if !verify.requires_certificate {
                tls.note(
                    section.place.differs(
                        "client certificates are required: clients without one are refused",
                    ),
                );
            }
            if verify.chain {
                authorities("client_ca", ca, section, &mut tls);
            }
            if verify.peer {
                peers(section, service, &mut tls, ca, dir);
            }
        }
        ca => unverified(section, service, &mut tls, ca, verify),
    }
    names(section, service, backend);
    protocol(section, service, backend);
    service.tls = Some(tls);
}

/// Refuses all clients, because the service requires certificates that cannot be verified.
fn unverified(
    section: &Section,
    service: &mut Service,
    tls: &mut Table,
    ca: Option<&Setting>,
    verify: Verify,
) {
    match ca {
        // Require certificates, so that a rule that opens the listener does not admit all clients.
        Some(ca) => {
            service.certificates = true;
            authorities("client_ca", ca, section, tls);
        }
        None => tls.set("client_auth", Value::text("none")),
    }
    let reason = if verify.is_on() {
        "clients cannot be verified without `CAfile`"
    } else {
        "stunnel requires a certificate here, but accepts it from any authority: to verify clients, \
         set `verifyChain = yes`"
    };
    let place = match verification(section).last() {
        Some(option) if !verify.is_on() => &option.place,
        _ => &section.place,
    };
    tls.note(place.left_out(reason));
    service.refused.push(reason.to_owned());
}

/// Accepts only clients with the public keys of the certificates in `CAfile`.
fn peers(
    section: &Section,
    service: &mut Service,
    tls: &mut Table,
    ca: &Setting,
    dir: Option<&Path>,
) {
    let verify = Verify::of(section);
    if let Some((option, reason)) = revoked_pins(section, verify) {
        tls.note(option.place.left_out(reason));
        service.refused.push(reason.to_owned());
    }
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
    if !verify.chain {
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
    if !Verify::of(section).is_on()
        && let Some(option) = section.one("checkhost")
    {
        let reason =
            "stunnel does not start with `checkHost` without `verifyChain` or `verifyPeer`";
        service.table.note(option.place.left_out(reason));
        service.refused.push(reason.to_owned());
        return;
    }
    if hosts.is_empty() || !service.certificates {
        return;
    }
    for option in section.all("checkhost") {
        service.table.note(option.place.differs(
            "carried over as a rule with `dns`, except: stunnel also accepts a certificate without \
             alternative names by its common name. A rule with `cn` accepts such clients, but also \
             certificates with this common name and other alternative names. Insert it before \
             `any-client`, if there is such a rule: the first rule that matches a client decides",
        ));
    }
    let mut names = Vec::new();
    for (host, option) in hosts.into_iter().zip(section.all("checkhost")) {
        // A dot at the start stands for all subdomains. OpenSSL compares other names literally.
        let pattern = match host.strip_prefix('.') {
            Some(domain) => Pattern::Below(domain.to_owned()),
            None => Pattern::Exact(host),
        };
        // OpenSSL compares `checkHost` with names only.
        let names_of_host = pattern.names(Key::Dns).filter(|_| !is_ip(&option.value));
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
