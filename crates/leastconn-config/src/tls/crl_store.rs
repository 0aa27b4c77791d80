//! Selects the CRLs in force: the newest CRL for each issuer and partition.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::CertificateDer;

use leastconn_tls::crl::{CrlStore, Revocation, Superseded};

use super::{
    Dated, FileKind, inspect,
    loader::{Loader, ReadCrl, borrowed},
};
use crate::raw::value::At;

impl Loader<'_> {
    /// Selects the CRLs in force from all CRLs that were read.
    pub(super) fn crl_store(&mut self) -> CrlStore {
        let read = std::mem::take(&mut self.lists);
        let (store, superseded) =
            CrlStore::new(read.iter().map(|read| read.loaded.clone()).collect());
        for superseded in &superseded {
            self.report_superseded(superseded, &read);
        }
        let mut by_list = HashMap::new();
        for read in &read {
            by_list.entry(read.loaded.list.digest()).or_insert(read);
        }
        for one in store.lists() {
            if let Some(read) = by_list.get(one.list.digest()) {
                self.check_expiry(read);
                self.warn_if_older(read);
            }
        }
        let mut files: Vec<&At<String>> = Vec::new();
        for read in &read {
            if !files.iter().any(|file| file.value == read.place.value) {
                files.push(&read.place);
            }
        }
        for file in files {
            let in_file = store.lists().iter().filter(|one| *one.file == *file.value);
            let dated = in_file.filter_map(|one| {
                Some(Dated {
                    name: one.list.issuer.clone(),
                    from: one.list.this_update,
                    until: one.list.next_update?,
                })
            });
            self.record_file(&borrowed(file), dated.collect(), FileKind::Lists);
        }
        store
    }

    fn report_superseded(&mut self, superseded: &Superseded, read: &[ReadCrl]) {
        let Superseded {
            ignored,
            by,
            is_younger_by_date,
        } = superseded;
        let Some(of) = read.iter().find(|read| read.loaded == *ignored) else {
            return;
        };
        let age = if *is_younger_by_date {
            "has a lower number, although its date is later"
        } else {
            "is older than another one"
        };
        let problem = self.problems.warning(format!(
            "{} {age} and is ignored: {}",
            of.describe(),
            ignored.list.describe()
        ));
        problem.at(of.place.span.clone()).note(format!(
            "the list in force is {} in {:?}",
            by.list.describe(),
            by.file
        ));
        if *is_younger_by_date {
            problem.help(
                "if its issuer has restarted the numbering, remove the list with the higher number",
            );
        }
    }

    /// Warns about a CRL that is older than the CRL of the running balancer that it will replace.
    fn warn_if_older(&mut self, read: &ReadCrl) {
        let list = &read.loaded.list;
        let running = self.problems.running_lists().unwrap_or_default();
        let like = running.iter().flat_map(|store| store.like(&read.loaded));
        let like: Vec<_> = like.collect();
        if !list.is_version_2 || like.iter().any(|one| one.list == *list) {
            return;
        }
        let Some(newer) = like.iter().find(|one| list.is_older_than(&one.list)) else {
            return;
        };
        let in_force = newer.list.describe();
        self.problems
            .warning(format!(
                "{} is older than the list that it replaces: {}",
                read.describe(),
                list.describe()
            ))
            .at(read.place.span.clone())
            .note(format!("the list in force is {in_force}"));
    }

    /// Whether an expired CRL causes only a warning. This is the case if all its signers have
    /// expired, too. In a running balancer it is also the case if the CRL does not replace a CRL
    /// that has not expired.
    fn tolerates_expired(&self, read: &ReadCrl) -> bool {
        let replaces_current = |running: &[Arc<CrlStore>]| {
            let mut like = running.iter().flat_map(|store| store.like(&read.loaded));
            like.any(|one| !one.list.has_expired(self.now))
        };
        let running = self.problems.running_lists();
        read.signers_expired || running.is_some_and(|running| !replaces_current(running))
    }

    /// Reports a CRL that has expired or will expire soon.
    fn check_expiry(&mut self, read: &ReadCrl) {
        let list = &read.loaded.list;
        let Some(end) = list.next_update else {
            return;
        };
        let span = read.place.span.clone();
        if list.has_expired(self.now) {
            let message = format!("{} expired at {end}", read.describe());
            let problem = if self.tolerates_expired(read) {
                self.problems.warning(message)
            } else {
                self.problems.expired(message)
            };
            problem
                .at(span)
                .note("every certificate of its issuer is refused (`crl_expired`)")
                .help("replace it with the current CRL of the issuer");
        } else if (Dated {
            name: String::new(),
            from: list.this_update,
            until: end,
        })
        .urgency(self.now)
        .is_warning()
        {
            self.problems
                .warning(format!("{} expires at {end}", read.describe()))
                .at(span)
                .note("from then on every certificate of its issuer is refused (`crl_expired`)")
                .help("renew it before then, with `leastconn-lb pki crl DIR` or the tools of your authority");
        }
    }

    /// Warns about authorities without a CRL and about revoked authorities. If any authority has a
    /// CRL, every authority needs a CRL, because certificates of an issuer without a CRL are
    /// refused. Revoked authorities stay in the trust store, so that their clients are refused with
    /// the reason `revoked_certificate`.
    pub(super) fn check_crl_coverage(
        &mut self,
        authorities: &[CertificateDer<'static>],
        store: &CrlStore,
        at: &At<String>,
    ) {
        if store.is_empty() {
            return;
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let revoked = store.revoked_authorities(authorities, algorithms);
        for (authority, revoked) in authorities.iter().zip(revoked) {
            let is_current =
                inspect::facts(authority).is_ok_and(|facts| facts.is_current(self.now));
            let Some((subject, covered)) = inspect::parsed(authority, |parsed| {
                let key = parsed.public_key().raw;
                (
                    inspect::display_subject(parsed),
                    store
                        .of_issuer(parsed.subject().as_raw(), key)
                        .next()
                        .is_some(),
                )
            }) else {
                continue;
            };
            if let Some(Revocation { issuer, file }) = revoked {
                self.problems
                    .warning(format!(
                        "`{}` holds {subject}, which the CRL of {issuer} in {file:?} revokes",
                        self.ca
                    ))
                    .at(at.span.clone())
                    .note("every certificate below it is refused (`revoked_certificate`)");
            } else if !covered && is_current {
                self.problems
                    .warning(format!("there is no CRL of {subject}"))
                    .at(at.span.clone())
                    .note("other authorities have one, so all certificates of this authority will be refused");
            }
        }
    }
}
