//! stunnel configurations.

mod options;
mod service;

use std::{path::Path, rc::Rc};

use super::{
    access::{Condition, Key, Predicate, TooMany, Verdict, admits_no_more, always, when},
    model::{Backend, Imported, Place, Service},
    names::Names,
    regex::Pattern,
};
use options::{Section, sections};

/// Imports the text of a file in `dir`.
///
/// # Errors
/// If the text contains no service.
pub(crate) fn import(file: &Rc<str>, text: &str, dir: Option<&Path>) -> Result<Imported, String> {
    let sections = sections(file, text, dir.unwrap_or(Path::new("")))?;
    if sections.services.is_empty() {
        return Err(format!(
            "{file}: there is no service, such as `[web]` with `accept` and `connect`; is this a \
             stunnel configuration?"
        ));
    }
    let mut imported = Imported::default();
    for option in &sections.global {
        service::global(option, &mut imported);
    }
    let mut names = Names::default();
    let mut translated: Vec<(Section, Service, Backend)> = Vec::new();
    let mut originals = Vec::new();
    for mut section in sections.services {
        originals.push(section.name.clone());
        section.name = names.unique(&section.name);
        let (service, backend) = service::translate(&section, dir);
        translated.push((section, service, backend));
    }
    // Services with `sni = MASTER:PATTERN` define server names of another service.
    let virtual_services: Vec<_> = translated
        .iter()
        .filter_map(|(section, service, _)| {
            let option = section.one("sni")?;
            let (master, pattern) = option.value.split_once(':')?;
            let virtual_service = VirtualService {
                pattern: pattern.to_owned(),
                place: option.place.clone(),
                service: service.clone(),
            };
            (section.one("accept").is_none()).then(|| (master.to_owned(), virtual_service))
        })
        .collect();
    for (master, virtual_service) in virtual_services.into_iter().rev() {
        let number = originals.iter().position(|name| *name == master);
        let Some((_, service, _)) = number.and_then(|number| translated.get_mut(number)) else {
            let place = &virtual_service.place;
            imported
                .notes
                .push(place.left_out("there is no such service"));
            continue;
        };
        virtual_service
            .add_to(service)
            .map_err(|TooMany| format!("{file}: too many services"))?;
    }
    for (section, service, backend) in translated {
        if section.one("accept").is_some() {
            imported.services.push(service);
        }
        imported.backends.push(backend);
    }
    Ok(imported)
}

/// A service for some server names of another service.
struct VirtualService {
    pattern: String,
    place: Place,
    service: Service,
}

impl VirtualService {
    fn add_to(self, master: &mut Service) -> Result<(), TooMany> {
        let Self {
            pattern,
            place,
            service,
        } = self;
        if master.tls.is_none() {
            master.table.note(place.left_out(
                "the other service has no TLS, so a client sends no server name: no client reaches \
                 this service",
            ));
            return Ok(());
        }
        // A `*` at the start stands for any text.
        let pattern = match pattern.strip_prefix("*.") {
            Some(domain) => Pattern::Below(domain.to_owned()),
            None => Pattern::Exact(pattern),
        };
        let verification = ["client_auth", "client_ca", "crl", "client_pins"];
        let is_verified_alike = master.has_same_tls(&service, &verification);
        let refused = if service.certificates && !is_verified_alike {
            Some("clients are verified in the same way for all server names".to_owned())
        } else {
            let reasons = service.refused.join("; ");
            (!reasons.is_empty()).then_some(reasons)
        };
        let access = match refused {
            Some(reason) => {
                let reason = format!("{reason}; the clients with this server name are refused");
                master.table.note(place.left_out(reason));
                always(Verdict::Refuse)
            }
            None => {
                if !master.has_same_tls(&service, &["cert"]) {
                    master.table.note(
                        place.left_out("a listener has one certificate: that of the other service"),
                    );
                }
                if master.certificates && !service.certificates {
                    master
                        .table
                        .note(place.differs("clients need a certificate as in the other service"));
                }
                let others = ["min_version", "ciphers", "groups"];
                if !master.has_same_tls(&service, &others) {
                    master.table.note(place.differs(
                        "TLS versions, cipher suites and groups are those of the other service",
                    ));
                }
                let timeouts = ["handshake_timeout", "idle_timeout", "half_close_timeout"];
                let has_same = |key: &&str| master.table.get(key) == service.table.get(key);
                if !timeouts.iter().all(has_same) {
                    let reason = "timeouts are those of the other service";
                    master.table.note(place.differs(reason));
                }
                if master.table.get("starttls") != service.table.get("starttls") {
                    let reason = "`protocol` is that of the other service";
                    master.table.note(place.left_out(reason));
                }
                service.access
            }
        };
        master.table.notes.extend(service.table.notes);
        master
            .table
            .notes
            .extend(service.tls.into_iter().flat_map(|tls| tls.notes));
        let names = pattern.names(Key::Sni);
        let is_narrower = matches!(pattern, Pattern::Below(_)) && names.is_some();
        if is_narrower && access != master.access {
            master.table.note(place.differs(
                "the pattern also matches names with more than three further labels: they are those \
                 of the other service",
            ));
        }
        if names.is_none() && admits_no_more(&master.access, &access) {
            master.table.note(place.differs(
                "the server name has no equivalent: its clients are those of the other service",
            ));
        } else if names.is_none() {
            master.table.note(place.left_out(
                "the server name has no equivalent: clients that match no earlier pattern are \
                 refused",
            ));
            master.access = always(Verdict::Refuse);
        }
        if let Some(names) = names {
            let named = Condition::Is(Predicate::new(Key::Sni, names));
            master.access = when(&named, &access, &master.access)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
