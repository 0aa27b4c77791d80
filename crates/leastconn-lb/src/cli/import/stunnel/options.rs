//! Sections and options of an stunnel configuration.

use std::rc::Rc;

use super::super::{model::Place, units};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) place: Place,
    /// Name of the option, in lower case.
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A service with its options. Service options before the first section are the defaults.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) options: Vec<Setting>,
}

impl Section {
    /// Returns the last value of an option.
    pub(crate) fn one(&self, name: &str) -> Option<&Setting> {
        self.options.iter().rev().find(|option| option.name == name)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&Setting> {
        self.options
            .iter()
            .filter(|option| option.name == name)
            .collect()
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.one(name)
            .is_some_and(|option| option.value.eq_ignore_ascii_case("yes"))
    }

    /// Returns a number of seconds as milliseconds.
    pub(crate) fn seconds(&self, name: &str, default: u64) -> u64 {
        let value = self
            .one(name)
            .and_then(|option| units::milliseconds(&option.value, 1000));
        value.unwrap_or(default * 1000)
    }
}

/// Options that apply to the whole process, not to a service.
const GLOBAL: [&str; 21] = [
    "chroot",
    "compression",
    "egd",
    "engine",
    "enginectrl",
    "enginedefault",
    "fips",
    "foreground",
    "iconactive",
    "iconerror",
    "iconidle",
    "include",
    "log",
    "output",
    "pid",
    "rndbytes",
    "rndfile",
    "rndoverwrite",
    "service",
    "syslog",
    "taskbar",
];

/// Parses a configuration into global options and services.
///
/// # Errors
/// If a line has no `=`.
pub(crate) fn sections(file: &Rc<str>, text: &str) -> Result<(Vec<Setting>, Vec<Section>), String> {
    let (mut global, mut defaults) = (Vec::new(), Vec::new());
    let mut sections: Vec<Section> = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let place = Place {
            file: file.clone(),
            line: number + 1,
            text: line.to_owned(),
        };
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            sections.push(Section {
                name: name.trim().to_owned(),
                place,
                options: defaults.clone(),
            });
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("{file}:{}: there is no `=`", number + 1))?;
        let option = Setting {
            place,
            name: name.trim().to_ascii_lowercase(),
            value: value.trim().to_owned(),
        };
        match sections.last_mut() {
            Some(section) => section.options.push(option),
            None if GLOBAL.contains(&option.name.as_str()) || is_process(&option.name) => {
                global.push(option);
            }
            None => defaults.push(option),
        }
    }
    Ok((global, sections))
}

fn is_process(name: &str) -> bool {
    matches!(
        name,
        "setuid" | "setgid" | "debug" | "socket" | "sessioncachesize"
    )
}
