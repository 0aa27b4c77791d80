//! Services with `client = yes`: plain TCP from clients, TLS to the servers.

use std::path::Path;

use super::{
    super::{
        super::{
            address::{is_host, is_ip},
            model::{Backend, Service, Table, Value},
        },
        options::{Section, Setting},
    },
    protocol,
    tls::{PINNED, Verify, authorities, certificate, common, pins, revoked_pins},
};

pub(super) fn client(
    section: &Section,
    service: &mut Service,
    backend: &mut Backend,
    dir: Option<&Path>,
) {
    let mut tls = Table::default();
    common(section, &mut tls);
    if let Some(cert) = section.file("cert")
        && let Err(reason) = certificate(cert, section, &mut tls, dir)
    {
        return refuse(section, backend, &reason);
    }
    let sni = section.file("sni");
    let host = section
        .file("checkhost")
        .or(section.file("checkip"))
        .or(sni);
    let verify = Verify::of(section);
    let bundle = section.file("capath").and_then(|path| bundle(path, dir));
    let ca = section.file("cafile").or(bundle.as_ref());
    let is_optional = section
        .one("verify")
        .is_some_and(|option| option.value == "1");
    let (true, Some(ca)) = (verify.is_on() && !is_optional, ca) else {
        let reason = match section.file("capath") {
            Some(_) if verify.is_on() => {
                "directories of certificates are not supported: name a file of certificates with \
                 `CAfile`"
            }
            _ => "TLS without verification of the server is not supported",
        };
        return refuse(section, backend, reason);
    };
    if let Some(bundle) = &bundle {
        let reason = format!(
            "all certificates of this directory are in {:?}",
            bundle.value
        );
        tls.note(bundle.place.remark(reason));
    }
    if verify.chain {
        authorities("ca", ca, section, &mut tls);
    }
    if let Some((_, reason)) = revoked_pins(section, verify) {
        return refuse(section, backend, reason);
    }
    if verify.peer {
        match pins(ca, dir) {
            Some(pins) => {
                tls.note(ca.place.remark(PINNED));
                tls.set("pin", Value::strings(&pins));
            }
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
        Some(host) if !is_host(&host.value) => {
            return refuse(
                section,
                backend,
                "the name of the server is not a host name",
            );
        }
        Some(host) => {
            tls.set("server_name", Value::text(&host.value));
            if host.name == "checkhost" && is_ip(&host.value) {
                tls.note(host.place.differs(
                    "`server_name` verifies an IP address among the alternative names, `checkHost` \
                     compares names only",
                ));
            }
            if host.name == "sni" && verify.chain {
                tls.note(
                    host.place
                        .differs("the name of a server is always verified"),
                );
            }
        }
        None if tls.get("pin").is_none() => tls.note(section.place.differs(
            "the name of a server is always verified; without `checkHost` it is the host of \
             `connect`",
        )),
        None => {}
    }
    if section.all("checkhost").len() > 1 {
        tls.note(
            section
                .place
                .differs("one name is verified: the last `checkHost`"),
        );
    }
    backend.tls = Some(tls);
    protocol(section, service, backend);
}

/// Returns `CAfile` with the bundle that Debian keeps in the directory of `CApath`.
fn bundle(path: &Setting, dir: Option<&Path>) -> Option<Setting> {
    let file = format!("{}/ca-certificates.crt", path.value.trim_end_matches('/'));
    let exists = dir.unwrap_or(Path::new("")).join(&file).is_file();
    exists.then(|| Setting {
        value: file,
        ..path.clone()
    })
}

fn refuse(section: &Section, backend: &mut Backend, reason: &str) {
    backend.refused.push(reason.to_owned());
    backend.table.note(section.place.left_out(reason));
}
