//! stunnel configurations.

mod options;
mod service;

use std::{path::Path, rc::Rc};

use super::{
    access::{Condition, Key, Predicate, Verdict, always, when},
    model::{Backend, Imported, Service},
    names::Names,
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
    for mut section in sections.services {
        section.name = names.unique(&section.name);
        let (service, backend) = service::translate(&section, dir);
        translated.push((section, service, backend));
    }
    // Services with `sni = MASTER:PATTERN` define server names of another service.
    let virtual_services: Vec<_> = translated
        .iter()
        .filter_map(|(section, service, backend)| {
            let option = section.one("sni")?;
            let (master, pattern) = option.value.split_once(':')?;
            let is_server = section.one("accept").is_none();
            is_server.then(|| {
                let refused = service.refused.clone();
                (
                    master.to_owned(),
                    pattern.to_owned(),
                    backend.name.clone(),
                    option.place.clone(),
                    refused,
                )
            })
        })
        .collect();
    for (master, pattern, backend, place, refused) in virtual_services.into_iter().rev() {
        let found = translated
            .iter_mut()
            .find(|(section, ..)| section.name == master);
        let Some((_, service, _)) = found else {
            imported
                .notes
                .push(place.left_out("there is no such service"));
            continue;
        };
        let verdict = if refused.is_empty() {
            Verdict::To(backend)
        } else {
            service.table.note(place.left_out(refused.join("; ")));
            Verdict::Refuse
        };
        let name = Predicate::new(Key::Sni, vec![pattern.to_ascii_lowercase()]);
        service.access = when(&Condition::Is(name), &always(verdict), &service.access)
            .map_err(|_| format!("{file}: too many services"))?;
    }
    for (section, service, backend) in translated {
        if section.one("accept").is_some() {
            imported.services.push(service);
        }
        imported.backends.push(backend);
    }
    Ok(imported)
}
