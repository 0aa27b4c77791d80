//! Certificates in a directory (`crt DIRECTORY/`) and in a list (`crt-list FILE`).

use std::{fs, path::Path};

use super::{super::acl::read, Bases};

/// Endings of files in a directory that are no certificates.
const OTHERS: [&str; 6] = [".key", ".dh", ".issuer", ".ocsp", ".sctl", ".txt"];

/// The content of a list of certificates.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct CertificateList {
    pub(in super::super) files: Vec<String>,
    /// The options in square brackets.
    pub(in super::super) options: Vec<String>,
}

/// Returns the files that `crt` names: the file itself, or all files of a directory in the order of
/// their names.
pub(in super::super) fn files(value: &str, bases: &Bases) -> Vec<String> {
    let dir = bases.dir.as_deref().unwrap_or(Path::new(""));
    let entries = match fs::read_dir(dir.join(bases.crt(value))) {
        Ok(entries) => entries,
        Err(_) if value.ends_with('/') => return Vec::new(),
        Err(_) => return vec![value.to_owned()],
    };
    let names = entries.filter_map(|entry| {
        let entry = entry.ok().filter(|entry| entry.path().is_file())?;
        entry.file_name().into_string().ok()
    });
    let is_certificate =
        |name: &String| !name.starts_with('.') && !OTHERS.iter().any(|end| name.ends_with(end));
    let mut names: Vec<_> = names.filter(is_certificate).collect();
    names.sort();
    let path = |name: String| format!("{}/{name}", value.trim_end_matches('/'));
    names.into_iter().map(path).collect()
}

/// Reads a list. Each line is `FILE [OPTIONS] NAME …`.
pub(in super::super) fn list(file: &str, bases: &Bases) -> Option<CertificateList> {
    let mut list = CertificateList {
        files: Vec::new(),
        options: Vec::new(),
    };
    for line in read(bases.dir.as_deref(), file)? {
        let (file, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let options = rest.trim_start().strip_prefix('[');
        let options = options.and_then(|rest| rest.split_once(']'));
        list.files.push(file.to_owned());
        list.options
            .extend(options.map(|(options, _)| options.trim().to_owned()));
    }
    Some(list)
}
