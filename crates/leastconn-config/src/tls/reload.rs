//! Loads the files of a `tls` table again while the balancer runs.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use leastconn::ServerSpec;
use serde::de::DeserializeOwned;

use leastconn_tls::{alpn::Alpn, crl::CrlStore};

use super::{Tls, TlsTable, UpstreamTls, listener, upstream};
use crate::{
    Problems,
    raw::{
        RawTls, RawUpstreamTls,
        value::{At, OneOrMany},
    },
    surroundings::Surroundings,
};

impl TlsTable {
    /// Loads the files of the table again with `load`. Problems refer to the table by `name`,
    /// or to a file by its path. `files` returns the files of the table.
    fn load<Raw: DeserializeOwned, T>(
        &self,
        name: &str,
        running: &Arc<CrlStore>,
        now: Timestamp,
        files: impl FnOnce(&Raw) -> (Vec<&At<String>>, Option<&At<OneOrMany>>),
        load: impl FnOnce(&At<Raw>, &Surroundings<'_>, &mut Problems) -> Option<T>,
    ) -> Result<(T, Problems), Problems> {
        let mut problems = Problems::new(name, &self.text);
        problems.set_running_lists(vec![Arc::clone(running)]);
        let raw = match toml::from_str::<Raw>(&self.text) {
            Ok(value) => At { value, span: 0..0 },
            Err(error) => {
                // This error cannot occur, because the text was generated from a valid table.
                problems.syntax(&[error]);
                return Err(problems);
            }
        };
        let surroundings = Surroundings {
            base_dir: &self.base_dir,
            now,
            pruned: &HashSet::new(),
        };
        let loaded = load(&raw, &surroundings, &mut problems);
        problems.sort();
        let (single, lists) = files(&raw.value);
        let single = single.into_iter().map(|at| (at.span.clone(), &*at.value));
        let lists = lists.into_iter().flat_map(At::each);
        let files: Vec<_> = single
            .chain(lists.map(|at| (at.span.clone(), at.value)))
            .collect();
        problems.replace_spans_by_files(|span| {
            let of_that_place = files.iter().find(|(of, _)| of == span);
            of_that_place.map(|(_, file)| self.base_dir.join(file).display().to_string())
        });
        match loaded {
            Some(loaded) => Ok((loaded, problems)),
            None => Err(problems),
        }
    }
}

impl Tls {
    /// Loads the files of the table again and returns their warnings at `now`. Problems
    /// refer to files, because the text of the table exists in memory only.
    ///
    /// # Errors
    /// Returns all problems if any is an error.
    pub fn load_again(&self, listener: &str, now: Timestamp) -> Result<(Self, Problems), Problems> {
        self.table.load(
            &format!("`tls` of listener `{listener}`"),
            &self.settings.material.crls,
            now,
            |raw: &RawTls| {
                let single = [&raw.cert, &raw.key, &raw.client_ca];
                (single.into_iter().flatten().collect(), raw.crl.as_ref())
            },
            // The stored table already contains the ALPN protocols, including the defaults.
            |raw, surroundings, problems| {
                listener::load(raw, surroundings, Alpn::default(), problems)
            },
        )
    }
}

impl UpstreamTls {
    /// Loads the files of the table again and returns their warnings at `now`.
    ///
    /// # Errors
    /// Returns all problems if any is an error.
    pub fn load_again(
        &self,
        upstream: &str,
        servers: &[ServerSpec],
        now: Timestamp,
    ) -> Result<(Self, Problems), Problems> {
        self.table.load(
            &format!("`tls` of upstream `{upstream}`"),
            &self.settings.material.crls,
            now,
            |raw: &RawUpstreamTls| {
                let single = [&raw.ca, &raw.cert, &raw.key];
                (single.into_iter().flatten().collect(), raw.crl.as_ref())
            },
            |raw, surroundings, problems| upstream::load(raw, servers, surroundings, problems),
        )
    }
}
