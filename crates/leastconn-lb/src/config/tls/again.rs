//! Loading the files of a `tls` table again, long after the configuration was read.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{Alpn, ClientAuth, MinVersion, Tls, load};
use crate::config::{
    Problems,
    raw::{RawTls, value::At},
};

/// A `tls` table as it was written, by itself: environment variables are replaced,
/// and every default is there. Problems point into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    base_dir: PathBuf,
    text: String,
    files: Vec<PathBuf>,
}

impl Written {
    pub(super) fn new(
        raw: &RawTls,
        base_dir: &Path,
        (min_version, client_auth, resumption): (MinVersion, ClientAuth, Option<Duration>),
        alpn: &Alpn,
    ) -> Self {
        let crls: Vec<_> = raw.crl.iter().flat_map(At::each).collect();
        let single = [
            ("cert", &raw.cert),
            ("key", &raw.key),
            ("client_ca", &raw.client_ca),
        ];
        let single = single
            .into_iter()
            .filter_map(|(key, at)| at.as_ref().map(|at| (key, &*at.value)));
        let mut text = String::new();
        let mut files = Vec::new();
        for (key, file) in single.chain(crls.iter().map(|at| ("", at.value))) {
            files.push(base_dir.join(file));
            if !key.is_empty() {
                text.push_str(&format!("{key} = {}\n", quoted(file)));
            }
        }
        if !crls.is_empty() {
            let list: Vec<_> = crls.iter().map(|at| quoted(at.value)).collect();
            text.push_str(&format!("crl = [{}]\n", list.join(", ")));
        }
        let version = match min_version {
            MinVersion::Tls12 => "1.2",
            MinVersion::Tls13 => "1.3",
        };
        let auth = match client_auth {
            ClientAuth::Required => "required",
            ClientAuth::None => "none",
        };
        text.push_str(&format!(
            "min_version = \"{version}\"\nclient_auth = \"{auth}\"\n"
        ));
        if let Some(lifetime) = resumption {
            let lifetime = lifetime.as_millis();
            text.push_str(&format!(
                "resumption = \"on\"\nresumption_lifetime = \"{lifetime}ms\"\n"
            ));
        }
        if !alpn.is_empty() {
            let list: Vec<_> = alpn.names().map(quoted).collect();
            text.push_str(&format!("alpn = [{}]\n", list.join(", ")));
        }
        Self {
            base_dir: base_dir.to_owned(),
            text,
            files,
        }
    }

    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.files.iter().cloned()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl Tls {
    /// What the files that the table of `listener` names hold now, and what is odd
    /// about them at `now`.
    ///
    /// Problems say which file they are about: the table itself is nowhere to be read.
    ///
    /// # Errors
    /// With all problems, if any is an error.
    pub fn load_again(&self, listener: &str, now: Timestamp) -> Result<(Self, Problems), Problems> {
        let name = format!("`tls` of listener `{listener}`");
        let mut problems = Problems::new(&name, &self.written.text);
        let raw = match toml::from_str::<RawTls>(&self.written.text) {
            Ok(raw) => raw,
            Err(error) => {
                // It was read before, from other text.
                problems.syntax(&[error]);
                return Err(problems);
            }
        };
        let raw = At {
            value: raw,
            span: 0..0,
        };
        // The text names those of the default, too.
        let tls = load::load(
            &raw,
            &self.written.base_dir,
            now,
            Alpn::default(),
            &mut problems,
        );
        problems.sort();
        let RawTls {
            cert,
            key,
            client_ca,
            crl,
            ..
        } = &raw.value;
        let named = [cert, key, client_ca].into_iter().flatten();
        let named = named.map(|at| (at.span.clone(), &*at.value));
        let lists = crl.iter().flat_map(At::each);
        let files: Vec<_> = named
            .chain(lists.map(|at| (at.span.clone(), at.value)))
            .collect();
        problems.say_files(|span| {
            let of_that_place = files.iter().find(|(of, _)| of == span);
            of_that_place.map(|(_, file)| self.written.base_dir.join(file).display().to_string())
        });
        match tls {
            Some(tls) => Ok((tls, problems)),
            None => Err(problems),
        }
    }
}
