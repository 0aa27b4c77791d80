//! Loads the revocation lists of a `tls` table: each must be signed by an authority of
//! the table, and of each issuer and partition the newest one is in force.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;

use leastconn_tls::{
    crl::{CrlStore, Loaded, Revocation, RevocationList, SignatureError, Superseded},
    names, unfit,
};

use super::{
    Dated, FileKind,
    file::Wanted,
    inspect,
    load::{Loader, borrowed},
};
use crate::raw::value::At;

/// A list that was read, and where its file is named.
pub(super) struct Read {
    loaded: Loaded,
    place: At<String>,
    /// "list 2 of 7", if its file has several.
    position: Option<String>,
    /// All authorities that signed it have expired.
    signers_expired: bool,
}

impl Read {
    /// The file and the list, as messages begin.
    fn what(&self) -> String {
        let issuer = &self.loaded.list.issuer;
        match &self.position {
            Some(position) => format!("{:?}: the list of {issuer} ({position})", self.place.value),
            None => format!("{:?}: the list of {issuer}", self.place.value),
        }
    }
}

impl Loader<'_> {
    /// Reads the lists of one file. `authorities`: outer `None`, the table names none;
    /// inner `None`, they could not be read.
    pub(super) fn crls(
        &mut self,
        text: &At<&str>,
        authorities: Option<Option<&[CertificateDer<'static>]>>,
    ) {
        let Some(authorities) = authorities else {
            self.problems
                .error(format!(
                    "a revocation list needs the `{}` that signed it",
                    self.ca
                ))
                .at(text.span.clone());
            return;
        };
        let Some(pem) = self.read(text, Wanted::Crls) else {
            return;
        };
        let by_name = authorities.map(by_name);
        let count = pem.crls.len();
        let file: Arc<str> = text.value.into();
        for (at, der) in pem.crls.into_iter().enumerate() {
            let position = (count > 1).then(|| format!("list {} of {count}", at + 1));
            let list = match RevocationList::parse(der) {
                Ok(list) => list,
                Err(error) => {
                    let position = position.map_or(String::new(), |text| format!(" ({text})"));
                    self.problems
                        .error(format!(
                            "{:?}: the list{position} cannot be read: {error}",
                            text.value
                        ))
                        .at(text.span.clone());
                    continue;
                }
            };
            let mut read = Read {
                loaded: Loaded {
                    list: Arc::new(list),
                    file: Arc::clone(&file),
                    keys: Vec::new(),
                },
                place: At {
                    value: text.value.to_owned(),
                    span: text.span.clone(),
                },
                position,
                signers_expired: false,
            };
            self.form(&read);
            if let Some(by_name) = &by_name {
                let of_name = by_name.get(read.loaded.list.canonical_issuer());
                let of_name = of_name.map_or(&[][..], Vec::as_slice);
                read.loaded.keys = self.signers(&read, of_name);
                read.signers_expired = read.loaded.list.has_expired(self.now)
                    && self.all_expired(&read.loaded.keys, of_name);
            }
            self.lists.push(read);
        }
    }

    /// What a list must have, whoever signed it.
    fn form(&mut self, read: &Read) {
        let (list, what) = (&read.loaded.list, read.what());
        let span = read.place.span.clone();
        if !list.is_version_2 {
            self.problems
                .error(format!("{what} is of version 1, which is not supported"))
                .at(span)
                .note("it has none of the extensions that a list must have")
                .help(
                    "make it anew, with `crlnumber` and `crl_extensions` in the configuration of \
                     `openssl ca`",
                );
        } else if list.next_update.is_none() {
            self.problems
                .error(format!("{what} does not say until when it is good"))
                .at(span)
                .help("make it anew, with `nextUpdate`: `openssl ca -gencrl -crldays 7`");
        } else if let Err(error) = structure(list.der()) {
            self.problems
                .error(format!("{what} cannot be used: {}", unfit::crl(&error)))
                .at(span);
        } else if list.this_update > self.now {
            self.problems
                .warning(format!(
                    "{what} is from {}, which is yet to come",
                    list.this_update
                ))
                .at(span)
                .note("it is in force all the same: look at its issuer's clock, and at this one");
        }
    }

    /// The public keys of the authorities that signed a list, of those with its issuer's
    /// name; empty if none did, which is an error.
    fn signers(&mut self, read: &Read, of_name: &[&CertificateDer<'static>]) -> Vec<Box<[u8]>> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let list = &read.loaded.list;
        let mut keys = Vec::new();
        let mut worst = SignatureError::OtherName;
        for authority in of_name {
            match list.signed_by(authority, algorithms) {
                Ok(key) => keys.push(key),
                // In ascending order of how much it explains.
                Err(error) => worst = worst.max(error),
            }
        }
        if keys.is_empty() {
            self.not_signed(read, &worst);
        }
        keys
    }

    /// Whether all authorities with these keys have expired; there is at least one.
    fn all_expired(&self, keys: &[Box<[u8]>], authorities: &[&CertificateDer<'static>]) -> bool {
        let has_key = |authority: &&&CertificateDer<'static>| {
            let key = inspect::parsed(authority, |parsed| parsed.public_key().raw.into());
            key.is_some_and(|key| keys.contains(&key))
        };
        let mut signers = authorities.iter().filter(has_key).peekable();
        signers.peek().is_some()
            && signers.all(|authority| {
                inspect::facts(authority).is_ok_and(|facts| facts.dated().until <= self.now)
            })
    }

    fn not_signed(&mut self, read: &Read, why: &SignatureError) {
        let (list, what, ca) = (&read.loaded.list, read.what(), self.ca);
        let issuer = &list.issuer;
        let (message, help) = match why {
            SignatureError::OtherName => (
                format!("{what} is not signed by any authority of `{ca}`"),
                format!(
                    "if {issuer} is an intermediate that issues certificates, put its certificate \
                     into `{ca}` too; otherwise take the list out"
                ),
            ),
            SignatureError::OtherKey => (
                format!("{what} is not signed with the key that {issuer} has in `{ca}`"),
                format!(
                    "get the list again, it may be damaged; or, if the authority has a new key, \
                     put its certificate with that key into `{ca}` too"
                ),
            ),
            SignatureError::Algorithm(name) => (
                format!("{what} is signed with {name}, which is not supported"),
                "have it signed with SHA-256 or better: `default_md = sha256` in the \
                 configuration of `openssl ca`"
                    .to_owned(),
            ),
            SignatureError::MayNotSign => (
                format!("{what} is signed by an authority whose key usage lacks cRLSign"),
                format!(
                    "issue the certificate of {issuer} anew with `keyUsage = critical, \
                     keyCertSign, cRLSign`"
                ),
            ),
        };
        let problem = self.problems.error(message);
        problem.at(read.place.span.clone()).help(help);
        match (why, list.key_id()) {
            (SignatureError::OtherName, _) => {
                problem.note(format!("{issuer} is not in `{ca}`"));
            }
            (SignatureError::OtherKey, Some(id)) => {
                let id: Vec<_> = id.iter().map(|byte| format!("{byte:02X}")).collect();
                problem.note(format!(
                    "it names the key with the identifier {}",
                    id.join(":")
                ));
            }
            _ => {}
        }
    }

    /// The lists that are in force of all that were read.
    pub(super) fn crl_store(&mut self) -> CrlStore {
        let read = std::mem::take(&mut self.lists);
        let (store, superseded) =
            CrlStore::new(read.iter().map(|read| read.loaded.clone()).collect());
        for superseded in &superseded {
            self.superseded(superseded, &read);
        }
        let mut by_list = HashMap::new();
        for read in &read {
            by_list
                .entry(read.loaded.list.der().as_ref())
                .or_insert(read);
        }
        for one in store.lists() {
            if let Some(read) = by_list.get(one.list.der().as_ref()) {
                self.expiry(read);
                self.replaces_newer(read);
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
            self.remember(&borrowed(file), dated.collect(), FileKind::Lists);
        }
        store
    }

    fn superseded(&mut self, superseded: &Superseded, read: &[Read]) {
        let Superseded {
            ignored,
            by,
            is_younger_by_date,
        } = superseded;
        let Some(of) = read.iter().find(|read| read.loaded == *ignored) else {
            return;
        };
        let age = if *is_younger_by_date {
            "has a lower number, although it is of a later date"
        } else {
            "is an older one"
        };
        let problem = self.problems.warning(format!(
            "{} {age} and is ignored: {}",
            of.what(),
            ignored.list.describe()
        ));
        problem.at(of.place.span.clone()).note(format!(
            "in force is {} in {:?}",
            by.list.describe(),
            by.file
        ));
        if *is_younger_by_date {
            problem.help(
                "if its issuer has started numbering anew, take the list with the higher number out",
            );
        }
    }

    /// Warns of a list that is older than the one in force that it will replace.
    fn replaces_newer(&mut self, read: &Read) {
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
                read.what(),
                list.describe()
            ))
            .at(read.place.span.clone())
            .note(format!("the list before is {in_force}"));
    }

    /// Whether an expired list is no reason to reject the others: nothing that it signs
    /// is accepted any more, or the running balancer has no current list in its place.
    fn tolerates_expired(&self, read: &Read) -> bool {
        let replaces_current = |running: &[Arc<CrlStore>]| {
            let mut like = running.iter().flat_map(|store| store.like(&read.loaded));
            like.any(|one| !one.list.has_expired(self.now))
        };
        let running = self.problems.running_lists();
        read.signers_expired || running.is_some_and(|running| !replaces_current(running))
    }

    /// A list that has expired, or will soon.
    fn expiry(&mut self, read: &Read) {
        let list = &read.loaded.list;
        let Some(end) = list.next_update else {
            return;
        };
        let span = read.place.span.clone();
        if list.has_expired(self.now) {
            let message = format!("{} expired at {end}", read.what());
            let problem = if self.tolerates_expired(read) {
                self.problems.warning(message)
            } else {
                self.problems.expired(message)
            };
            problem
                .at(span)
                .note("an expired list refuses every certificate of its issuer (`crl_expired`)")
                .help("put the issuer's current list there");
        } else if (Dated {
            name: String::new(),
            from: list.this_update,
            until: end,
        })
        .urgency(self.now)
        .is_warning()
        {
            self.problems
                .warning(format!("{} expires at {end}", read.what()))
                .at(span)
                .note("from then on every certificate of its issuer is refused (`crl_expired`)")
                .help("renew it before: `leastconn-lb pki crl DIR`, or your authority's own way");
        }
    }

    /// Where one authority has a list, all need one: a certificate without one is
    /// refused. An authority that is revoked is kept, so that its clients are refused
    /// with the true reason.
    pub(super) fn every_authority_is_covered(
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
                        "`{}` holds {subject}, which the list of {issuer} in {file:?} revokes",
                        self.ca
                    ))
                    .at(at.span.clone())
                    .note("every certificate below it is refused (`revoked_certificate`)");
            } else if !covered && is_current {
                self.problems
                    .warning(format!("no revocation list is of {subject}"))
                    .at(at.span.clone())
                    .note("with lists for others, all its certificates will be refused");
            }
        }
    }
}

/// The authorities by their subjects in canonical form. Looked for anew for each list, the
/// time would grow with the product of lists and authorities.
fn by_name<'a>(
    authorities: &'a [CertificateDer<'static>],
) -> HashMap<Vec<u8>, Vec<&'a CertificateDer<'static>>> {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for authority in authorities {
        let subject = |parsed: &X509Certificate<'_>| names::canonical(parsed.subject().as_raw());
        if let Some(subject) = inspect::parsed(authority, subject) {
            by_name.entry(subject).or_default().push(authority);
        }
    }
    by_name
}

/// Whether a list uses only what RFC 5280 allows and the verifier understands.
fn structure(der: &CertificateRevocationListDer<'_>) -> Result<(), webpki::Error> {
    let list = webpki::BorrowedCertRevocationList::from_der(der)?;
    list.into_iter().try_for_each(|entry| entry.map(drop))
}
