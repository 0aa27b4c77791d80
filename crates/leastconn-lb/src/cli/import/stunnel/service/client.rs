//! Services with `client = yes`: plain TCP from clients, TLS to the servers.

use std::path::Path;

use super::{
    super::{
        super::model::{Backend, Service, Table, Value},
        options::Section,
    },
    protocol,
    tls::{Verify, authorities, certificate, common, pins},
};

pub(super) fn client(
    section: &Section,
    service: &mut Service,
    backend: &mut Backend,
    dir: Option<&Path>,
) {
    let mut tls = Table::default();
    common(section, &mut tls);
    if let Some(cert) = section.one("cert") {
        certificate(cert, section, &mut tls);
    }
    let host = section.one("checkhost").or(section.one("checkip"));
    let verify = Verify::of(section);
    let ca = section.one("cafile");
    let is_optional = section
        .one("verify")
        .is_some_and(|option| option.value == "1");
    let (true, Some(ca)) = (verify != Verify::None && !is_optional, ca) else {
        return refuse(
            section,
            backend,
            "TLS without verification of the server is not supported",
        );
    };
    if verify.verifies_chain() {
        authorities("ca", ca, section, &mut tls);
    }
    if verify.verifies_peer() {
        match pins(ca, dir) {
            Some(pins) => tls.set("pin", Value::strings(&pins)),
            None => {
                return refuse(
                    section,
                    backend,
                    "`verifyPeer` needs a `CAfile` that can be read",
                );
            }
        }
    }
    match host {
        Some(host) => tls.set("server_name", Value::text(&host.value)),
        None if tls.get("pin").is_none() => tls.note(section.place.left_out(
            "the name of a server is always verified; without `checkHost` it is the host of \
             `connect`",
        )),
        None => {}
    }
    if section.all("checkhost").len() > 1 {
        tls.note(
            section
                .place
                .left_out("one name is verified: the last `checkHost`"),
        );
    }
    backend.tls = Some(tls);
    protocol(section, service, backend);
}

fn refuse(section: &Section, backend: &mut Backend, reason: &str) {
    backend.refused.push(reason.to_owned());
    backend.table.note(section.place.left_out(reason));
}
