//! Loading the files of a `tls` table again, long after the configuration was read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use leastconn::ServerSpec;
use serde::de::DeserializeOwned;

use leastconn_tls::{
    algorithms::Algorithms,
    alpn::Alpn,
    crl::CrlStore,
    settings::{ClientAuth, MinVersion},
};

use super::{Tls, UpstreamTls, load, upstream};
use crate::{
    Problems,
    raw::{
        self, RawTls, RawUpstreamTls,
        value::{At, OneOrMany},
    },
};

/// A `tls` table by itself, with environment variables replaced and defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    base_dir: PathBuf,
    text: String,
    files: Vec<PathBuf>,
}

impl Written {
    /// The table with its defaults, to be read again.
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

    /// Adds a key that names a file.
    pub(super) fn file(mut self, key: &str, file: Option<&At<String>>) -> Self {
        let Some(At { value, .. }) = file else {
            return self;
        };
        self.files.push(self.base_dir.join(value));
        self.text(key, value)
    }

    /// Adds a key that names any number of files.
    pub(super) fn files_of(mut self, key: &str, files: Option<&At<OneOrMany>>) -> Self {
        let files: Vec<_> = files.into_iter().flat_map(At::each).collect();
        let paths = files.iter().map(|at| self.base_dir.join(at.value));
        self.files.extend(paths);
        self.list(key, files.iter().map(|at| at.value))
    }

    /// Adds a key with a text.
    pub(super) fn text(mut self, key: &str, text: &str) -> Self {
        self.text.push_str(&format!("{key} = {}\n", quoted(text)));
        self
    }

    /// Adds a key with a list of texts, unless it is empty.
    pub(super) fn list<'a>(mut self, key: &str, texts: impl Iterator<Item = &'a str>) -> Self {
        let list: Vec<_> = texts.map(quoted).collect();
        if !list.is_empty() {
            let list = list.join(", ");
            self.text.push_str(&format!("{key} = [{list}]\n"));
        }
        self
    }

    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.files.iter().cloned()
    }

    /// Reads the table again with `load`. `name` is what problems call it; `files` are
    /// the files that it names, so that a problem with one shows its path.
    fn load<Raw: DeserializeOwned, T>(
        &self,
        name: &str,
        running: &Arc<CrlStore>,
        files: impl FnOnce(&Raw) -> (Vec<&At<String>>, Option<&At<OneOrMany>>),
        load: impl FnOnce(&At<Raw>, &Path, &mut Problems) -> Option<T>,
    ) -> Result<(T, Problems), Problems> {
        let mut problems = Problems::new(name, &self.text);
        problems.set_running_lists(vec![Arc::clone(running)]);
        let raw = match toml::from_str::<Raw>(&self.text) {
            Ok(value) => At { value, span: 0..0 },
            Err(error) => {
                // It was read before, from other text.
                problems.syntax(&[error]);
                return Err(problems);
            }
        };
        let loaded = load(&raw, &self.base_dir, &mut problems);
        problems.sort();
        let (single, lists) = files(&raw.value);
        let single = single.into_iter().map(|at| (at.span.clone(), &*at.value));
        let lists = lists.into_iter().flat_map(At::each);
        let files: Vec<_> = single
            .chain(lists.map(|at| (at.span.clone(), at.value)))
            .collect();
        problems.say_files(|span| {
            let of_that_place = files.iter().find(|(of, _)| of == span);
            of_that_place.map(|(_, file)| self.base_dir.join(file).display().to_string())
        });
        match loaded {
            Some(loaded) => Ok((loaded, problems)),
            None => Err(problems),
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl Tls {
    /// What the files that the table of `listener` names hold now, with warnings of
    /// them at `now`.
    ///
    /// Problems name their file: the table's text exists in memory only.
    ///
    /// # Errors
    /// With all problems, if any is an error.
    pub fn load_again(&self, listener: &str, now: Timestamp) -> Result<(Self, Problems), Problems> {
        self.written.load(
            &format!("`tls` of listener `{listener}`"),
            &self.settings.material.crls,
            |raw: &RawTls| {
                let single = [&raw.cert, &raw.key, &raw.client_ca];
                (single.into_iter().flatten().collect(), raw.crl.as_ref())
            },
            // The text names the default protocols, too.
            |raw, base_dir, problems| load::load(raw, base_dir, now, Alpn::default(), problems),
        )
    }
}

impl UpstreamTls {
    /// The same for the table of `upstream`, which has these `servers`.
    ///
    /// # Errors
    /// With all problems, if any is an error.
    pub fn load_again(
        &self,
        upstream: &str,
        servers: &[ServerSpec],
        now: Timestamp,
    ) -> Result<(Self, Problems), Problems> {
        self.written.load(
            &format!("`tls` of upstream `{upstream}`"),
            &self.settings.material.crls,
            |raw: &RawUpstreamTls| {
                let single = [&raw.ca, &raw.cert, &raw.key];
                (single.into_iter().flatten().collect(), raw.crl.as_ref())
            },
            |raw, base_dir, problems| upstream::load(raw, servers, base_dir, now, problems),
        )
    }
}
