//! A copy of a `tls` table, from which its files can be loaded again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use leastconn_tls::{
    algorithms::Algorithms,
    alpn::Alpn,
    settings::{ClientAuth, MinVersion},
};

use crate::raw::{
    self, RawTls,
    value::{At, OneOrMany},
};

/// A `tls` table as TOML, with environment variables replaced and defaults added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsTable {
    pub(super) base_dir: PathBuf,
    pub(super) text: String,
    files: Vec<PathBuf>,
}

impl TlsTable {
    pub(super) fn of_listener(
        raw: &RawTls,
        base_dir: &Path,
        (min_version, client_auth, resumption): (MinVersion, ClientAuth, Option<Duration>),
        alpn: &Alpn,
        algorithms: &Algorithms,
    ) -> Self {
        let written = Self::new(base_dir)
            .file("cert", raw.cert.as_ref())
            .file("key", raw.key.as_ref())
            .file("client_ca", raw.client_ca.as_ref())
            .files_of("crl", raw.crl.as_ref())
            .text("min_version", raw::MinVersion::from(min_version).as_str())
            .text("client_auth", raw::ClientAuth::from(client_auth).as_str())
            .list("groups", algorithms.group_names())
            .list("ciphers", algorithms.suite_names())
            .list("alpn", alpn.names());
        match resumption {
            None => written,
            Some(lifetime) => written.text("resumption", "on").text(
                "resumption_lifetime",
                &format!("{}ms", lifetime.as_millis()),
            ),
        }
    }

    pub(super) fn new(base_dir: &Path) -> Self {
        Self {
            base_dir: base_dir.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a key whose value is a file.
    pub(super) fn file(mut self, key: &str, file: Option<&At<String>>) -> Self {
        let Some(At { value, .. }) = file else {
            return self;
        };
        self.files.push(self.base_dir.join(value));
        self.text(key, value)
    }

    /// Adds a key whose value is a list of files.
    pub(super) fn files_of(mut self, key: &str, files: Option<&At<OneOrMany>>) -> Self {
        let files: Vec<_> = files.into_iter().flat_map(At::each).collect();
        let paths = files.iter().map(|at| self.base_dir.join(at.value));
        self.files.extend(paths);
        self.list(key, files.iter().map(|at| at.value))
    }

    /// Adds a key whose value is a string.
    pub(super) fn text(mut self, key: &str, text: &str) -> Self {
        self.text.push_str(&format!("{key} = {}\n", quoted(text)));
        self
    }

    /// Adds a key whose value is a list of strings, unless it is empty.
    pub(super) fn list<'a>(mut self, key: &str, texts: impl Iterator<Item = &'a str>) -> Self {
        let list: Vec<_> = texts.map(quoted).collect();
        if !list.is_empty() {
            let list = list.join(", ");
            self.text.push_str(&format!("{key} = [{list}]\n"));
        }
        self
    }

    /// The files that the table names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.files.iter().cloned()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
