//! Sections and options of an stunnel configuration.

use std::{fs, path::Path, rc::Rc};

use super::super::{model::Place, units};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) place: Place,
    /// Name of the option, in lower case.
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Setting {
    /// Returns the name as the source spells it.
    pub(crate) fn spelled(&self) -> &str {
        let name = self.place.text.split('=').next();
        name.unwrap_or(&self.name).trim()
    }
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

    /// Returns the last value of an option that names a file. An empty value removes the default.
    pub(crate) fn file(&self, name: &str) -> Option<&Setting> {
        self.one(name).filter(|option| !option.value.is_empty())
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
const GLOBAL: [&str; 20] = [
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

/// Global options and services of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    pub(crate) global: Vec<Setting>,
    pub(crate) services: Vec<Section>,
    /// Service options before the first service.
    defaults: Vec<Setting>,
}

/// Maximum depth of included directories.
const DEEPEST: usize = 8;

/// Parses a configuration in `dir`, with all files of included directories.
///
/// # Errors
/// If a line has no `=`, or an included directory cannot be read.
pub(crate) fn sections(file: &Rc<str>, text: &str, dir: &Path) -> Result<Sections, String> {
    let mut sections = Sections::default();
    sections.read(file, text, dir, 0)?;
    Ok(sections)
}

impl Sections {
    fn read(&mut self, file: &Rc<str>, text: &str, dir: &Path, depth: usize) -> Result<(), String> {
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
                self.services.push(Section {
                    name: name.trim().to_owned(),
                    place,
                    options: self.defaults.clone(),
                });
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| {
                let number = number + 1;
                format!("{file}:{number}: there is no `=`; is this a stunnel configuration?")
            })?;
            let option = Setting {
                place,
                name: name.trim().to_ascii_lowercase(),
                value: value.trim().to_owned(),
            };
            if option.name == "include" {
                self.include(&option, dir, depth)
                    .map_err(|error| format!("{file}:{}: {error}", number + 1))?;
                continue;
            }
            match self.services.last_mut() {
                Some(section) => section.options.push(option),
                None if GLOBAL.contains(&option.name.as_str()) || is_process(&option.name) => {
                    self.global.push(option);
                }
                None => self.defaults.push(option),
            }
        }
        Ok(())
    }

    /// Reads all files of a directory in the order of their names.
    fn include(&mut self, option: &Setting, dir: &Path, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err("too many nested directories".to_owned());
        }
        let path = dir.join(&option.value);
        let unreadable = |error| format!("cannot read {}: {error}", path.display());
        let entries = fs::read_dir(&path).map_err(unreadable)?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut files = entries.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        files.retain(|path| path.is_file());
        files.sort();
        for path in files {
            let name = path
                .strip_prefix(dir)
                .unwrap_or(&path)
                .display()
                .to_string();
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("cannot read {name}: {error}"))?;
            self.read(&name.into(), &text, dir, depth + 1)?;
        }
        Ok(())
    }
}

fn is_process(name: &str) -> bool {
    matches!(
        name,
        "setuid" | "setgid" | "debug" | "socket" | "sessioncachesize"
    )
}
