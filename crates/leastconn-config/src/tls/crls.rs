//! Reads the revocation lists (CRLs) of a `tls` table and checks their signatures: each
//! list must be signed by an authority of the table.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;

use leastconn_tls::{
    crl::{EncodedList, Loaded, SignatureError},
    distinguished_name, error_text,
};

use super::{
    file_error::Wanted,
    inspect,
    loader::{Loader, ReadCrl},
};
use crate::raw::value::At;

impl Loader<'_> {
    /// Reads the CRLs of one file. `authorities` is `None` if the table names no
    /// authorities, and `Some(None)` if they could not be read.
    pub(super) fn crls(
        &mut self,
        text: &At<&str>,
        authorities: Option<Option<&[CertificateDer<'static>]>>,
    ) {
        let Some(authorities) = authorities else {
            self.problems
                .error(format!(
                    "a CRL needs `{}` with the authority that signed it",
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
            let position = (count > 1).then(|| format!("CRL {} of {count}", at + 1));
            let encoded = match EncodedList::parse(der) {
                Ok(encoded) => encoded,
                Err(error) => {
                    let position = position.map_or(String::new(), |text| format!(" ({text})"));
                    self.problems
                        .error(format!(
                            "{:?}: the CRL{position} cannot be read: {error}",
                            text.value
                        ))
                        .at(text.span.clone());
                    continue;
                }
            };
            let of_name = by_name.as_ref().map(|by_name| {
                let of_name = by_name.get(encoded.list().canonical_issuer());
                of_name.map_or(&[][..], Vec::as_slice)
            });
            let structure = structure(encoded.der());
            let keys = of_name.map(|of_name| self.signing_keys(&encoded, of_name));
            // Frees the memory of the encoding.
            let list = Arc::new(encoded.into_list());
            let mut read = ReadCrl {
                loaded: Loaded {
                    list,
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
            self.check_form(&read, structure);
            if let (Some(keys), Some(of_name)) = (keys, of_name) {
                match keys {
                    Ok(keys) => read.loaded.keys = keys,
                    Err(why) => self.report_unsigned(&read, &why),
                }
                read.signers_expired = read.loaded.list.has_expired(self.now)
                    && self.all_expired(&read.loaded.keys, of_name);
            }
            self.lists.push(read);
        }
    }

    /// Checks everything except the signature. `structure`: whether the verifier supports the CRL.
    fn check_form(&mut self, read: &ReadCrl, structure: Result<(), webpki::Error>) {
        let (list, what) = (&read.loaded.list, read.describe());
        let span = read.place.span.clone();
        if !list.is_version_2 {
            self.problems
                .error(format!("{what} has version 1, which is not supported"))
                .at(span)
                .note("it lacks the required extensions")
                .help(
                    "issue it again with `crlnumber` and `crl_extensions` in the configuration of \
                    `openssl ca`",
                );
        } else if list.next_update.is_none() {
            self.problems
                .error(format!(
                    "{what} has no `nextUpdate`, the time of its expiry"
                ))
                .at(span)
                .help("issue it again with `nextUpdate`: `openssl ca -gencrl -crldays 7`");
        } else if let Err(error) = structure {
            self.problems
                .error(format!(
                    "{what} cannot be used: {}",
                    error_text::crl(&error)
                ))
                .at(span);
        } else if list.this_update > self.now {
            self.problems
                .warning(format!(
                    "{what} was issued at {}, which is in the future",
                    list.this_update
                ))
                .at(span)
                .note(
                    "it is used nevertheless: check the clocks of the issuer and of this machine",
                );
        }
    }

    /// Returns the public keys of the authorities that signed the CRL. `of_name` are the
    /// authorities that have the name of the CRL's issuer.
    ///
    /// # Errors
    /// If no authority signed the CRL.
    fn signing_keys(
        &self,
        list: &EncodedList,
        of_name: &[&CertificateDer<'static>],
    ) -> Result<Vec<Box<[u8]>>, SignatureError> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let mut keys = Vec::new();
        let mut worst = SignatureError::OtherName;
        for authority in of_name {
            match list.signed_by(authority, algorithms) {
                Ok(key) => keys.push(key),
                // Keep the most specific error: `SignatureError` is ordered by specificity.
                Err(error) => worst = worst.max(error),
            }
        }
        if keys.is_empty() {
            return Err(worst);
        }
        Ok(keys)
    }

    /// Whether all authorities with one of `keys` have expired. Returns `false` if there is no
    /// such authority.
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

    fn report_unsigned(&mut self, read: &ReadCrl, why: &SignatureError) {
        let (list, what, ca) = (&read.loaded.list, read.describe(), self.ca);
        let issuer = &list.issuer;
        let (message, help) = match why {
            SignatureError::OtherName => (
                format!("{what} is not signed by any authority of `{ca}`"),
                format!(
                    "if {issuer} is an intermediate that issues certificates, add its certificate \
                    to `{ca}`; otherwise remove the list"
                ),
            ),
            SignatureError::OtherKey => (
                format!("{what} is not signed with the key that {issuer} has in `{ca}`"),
                format!(
                    "download the list again, it may be damaged; or, if the authority has a new key, \
                    add its certificate with that key to `{ca}`"
                ),
            ),
            SignatureError::Algorithm(name) => (
                format!("{what} is signed with {name}, which is not supported"),
                "sign it with SHA-256 or better: `default_md = sha256` in the configuration of \
                `openssl ca`"
                    .to_owned(),
            ),
            SignatureError::NoCrlSign => (
                format!("{what} is signed by an authority whose key usage lacks cRLSign"),
                format!(
                    "issue the certificate of {issuer} again with `keyUsage = critical, \
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
                problem.note(format!("its authority key identifier is {}", id.join(":")));
            }
            _ => {}
        }
    }
}

/// Groups the authorities by canonical subject. Comparing every CRL with every authority
/// would take time proportional to the product of their numbers.
fn by_name<'a>(
    authorities: &'a [CertificateDer<'static>],
) -> HashMap<Vec<u8>, Vec<&'a CertificateDer<'static>>> {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for authority in authorities {
        let subject =
            |parsed: &X509Certificate<'_>| distinguished_name::canonical(parsed.subject().as_raw());
        if let Some(subject) = inspect::parsed(authority, subject) {
            by_name.entry(subject).or_default().push(authority);
        }
    }
    by_name
}

/// Checks that the verifier supports the CRL and all its entries.
fn structure(der: &CertificateRevocationListDer<'_>) -> Result<(), webpki::Error> {
    let list = webpki::BorrowedCertRevocationList::from_der(der)?;
    list.into_iter().try_for_each(|entry| entry.map(drop))
}
