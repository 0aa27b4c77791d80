//! Loads the files that the `tls` tables of listeners and upstreams have in common.

use std::ops::Range;

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

use leastconn_tls::{crl::Loaded, error_text};

use super::{
    CertificateFile, Dated, FileKind,
    file::Pem,
    file_error::Wanted,
    inspect::{self, Purpose},
};
use crate::{
    Problems,
    raw::value::{At, OneOrMany},
    surroundings::Surroundings,
};

pub(super) struct Loader<'a> {
    /// The configuration key that names the CA file, for messages: `client_ca` or `ca`.
    pub(super) ca: &'static str,
    surroundings: &'a Surroundings<'a>,
    pub(super) now: Timestamp,
    pub(super) problems: &'a mut Problems,
    pub(super) files: Vec<CertificateFile>,
    /// All CRLs that were read so far.
    pub(super) lists: Vec<ReadCrl>,
    /// If the CA file contains a CRL: the file, and the line of the first CRL.
    crl_in_ca_file: Option<(At<String>, usize)>,
    pub(super) provider: CryptoProvider,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        ca: &'static str,
        surroundings: &'a Surroundings<'a>,
        problems: &'a mut Problems,
    ) -> Self {
        Self {
            ca,
            surroundings,
            now: surroundings.now,
            problems,
            files: Vec::new(),
            lists: Vec::new(),
            crl_in_ca_file: None,
            provider: aws_lc_rs::default_provider(),
        }
    }
}

impl Loader<'_> {
    /// See [`Surroundings::is_pruned`].
    pub(super) fn is_pruned(&self, span: &Range<usize>) -> bool {
        self.surroundings.is_pruned(span)
    }

    pub(super) fn read(&mut self, text: &At<&str>, wanted: Wanted) -> Option<Pem> {
        match Pem::read(&self.surroundings.base_dir.join(text.value), wanted) {
            Ok(pem) => Some(pem),
            Err(error) => {
                let problem = self
                    .problems
                    .error(format!("{:?}: {}", text.value, error.message))
                    .at(text.span.clone());
                if let Some(note) = error.note {
                    problem.note(note);
                }
                if let Some(help) = error.help {
                    problem.help(help);
                }
                None
            }
        }
    }

    pub(super) fn record_file(&mut self, text: &At<&str>, dated: Vec<Dated>, kind: FileKind) {
        if !dated.is_empty() {
            self.files.push(CertificateFile {
                name: text.value.to_owned(),
                path: self.surroundings.base_dir.join(text.value),
                kind,
                dated,
            });
        }
    }

    pub(super) fn chain(
        &mut self,
        at: &At<String>,
        purpose: Purpose,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let text = borrowed(at);
        let pem = self.read(&text, Wanted::Certificates)?;
        let certificates = self.all_facts(&pem.certificates, &text)?;
        let dated = certificates.iter().map(inspect::Facts::dated).collect();
        self.record_file(&text, dated, FileKind::Chain);
        let now = self.now;
        if let Some(own) = certificates.first() {
            for remark in inspect::own_certificate(own, &certificates[1..], purpose, now) {
                self.warn(remark, &at.span);
            }
        }
        Some(pem.certificates)
    }

    fn warn(&mut self, remark: inspect::Remark, span: &Range<usize>) {
        let problem = self.problems.warning(remark.message).at(span.clone());
        if let Some(note) = remark.note {
            problem.note(note);
        }
    }

    /// Returns the facts of all certificates. Reports a certificate that cannot be read.
    fn all_facts(
        &mut self,
        certificates: &[CertificateDer<'static>],
        text: &At<&str>,
    ) -> Option<Vec<inspect::Facts>> {
        let mut all = Vec::new();
        for (position, certificate) in certificates.iter().enumerate() {
            match inspect::facts(certificate) {
                Ok(facts) => all.push(facts),
                Err(error) => {
                    self.problems
                        .error(format!(
                            "{:?}: certificate {} of {} cannot be read: {error}",
                            text.value,
                            position + 1,
                            certificates.len()
                        ))
                        .at(text.span.clone());
                    return None;
                }
            }
        }
        Some(all)
    }

    /// Reads the private key from the file that `key` names or, without `key`, from the file that
    /// `cert` names. `table` is the position of the `tls` table. Returns the key with the position
    /// of the file name. `None` if a problem was reported.
    pub(super) fn key_of<'at>(
        &mut self,
        cert: Option<&'at At<String>>,
        key: Option<&'at At<String>>,
        table: &Range<usize>,
    ) -> Option<(PrivateKeyDer<'static>, &'at At<String>)> {
        if let Some(at) = key {
            return Some((self.key(at)?, at));
        }
        if self.surroundings.is_pruned(table) {
            return None;
        }
        let cert = cert?;
        // Problems with the file itself were reported when its certificates were read.
        let pem = Pem::read(
            &self.surroundings.base_dir.join(&cert.value),
            Wanted::Certificates,
        )
        .ok()?;
        if pem.keys.is_empty() {
            self.problems
                .error("`cert` without `key`")
                .at(cert.span.clone())
                .note(format!("{:?} contains no private key", cert.value))
                .help("add `key`, the file with the private key, or put the key into the file of `cert`");
            return None;
        }
        Some((self.key(cert)?, cert))
    }

    fn key(&mut self, at: &At<String>) -> Option<PrivateKeyDer<'static>> {
        let text = borrowed(at);
        let mut pem = self.read(&text, Wanted::Key)?;
        if pem.keys.len() > 1 {
            self.problems
                .error(format!(
                    "{:?} contains {} private keys, but there must be exactly one",
                    text.value,
                    pem.keys.len()
                ))
                .at(text.span);
            return None;
        }
        pem.keys.pop()
    }

    pub(super) fn check_key_pair(
        &mut self,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
        [cert_span, span]: [&Range<usize>; 2],
    ) {
        use rustls::{Error, InconsistentKeys};
        match self.provider.key_provider.load_private_key(key.clone_key()) {
            Err(error) => {
                self.problems
                    .error(format!(
                        "the private key cannot be used: {}",
                        error_text::error(&error)
                    ))
                    .at(span.clone())
                    .note("supported are RSA from 2048 bits, ECDSA P-256, P-384 and P-521, and Ed25519");
            }
            Ok(signer) => {
                let pair = CertifiedKey::new(chain.to_vec(), signer);
                match pair.keys_match() {
                    Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
                    Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                        self.problems
                            .error("the key does not match the certificate")
                            .at(span.clone())
                            .note("the first certificate of `cert` has another public key");
                    }
                    // rustls rejects the certificate or its key for another reason.
                    Err(error) => {
                        self.problems
                            .error(error_text::error(&error))
                            .at(cert_span.clone());
                    }
                }
            }
        }
    }

    /// Returns the CA certificates of a file, including CAs that have expired or are not valid yet:
    /// the verifier checks their dates in each handshake. Other certificates are left out, because
    /// the verifier would accept certificates signed with their keys.
    ///
    /// If `alone` is given, self-signed certificates that are not CA certificates are added to
    /// `alone`.
    pub(super) fn authorities(
        &mut self,
        at: &At<String>,
        mut alone: Option<&mut Vec<CertificateDer<'static>>>,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let text = borrowed(at);
        let pem = self.read(&text, Wanted::Certificates)?;
        if let Some(line) = pem.first_crl {
            self.crl_in_ca_file = Some((at.clone(), line));
        }
        let facts = self.all_facts(&pem.certificates, &text)?;
        let issuers = facts.iter().filter(|facts| facts.may_issue());
        let dated = issuers.map(inspect::Facts::dated).collect();
        self.record_file(&text, dated, FileKind::Authorities);
        let mut kept = Vec::new();
        let mut any_current = false;
        for (certificate, facts) in pem.certificates.into_iter().zip(&facts) {
            let alone = alone.as_mut().filter(|_| facts.is_self_issued());
            for remark in inspect::authority(facts, self.ca, alone.is_some(), self.now) {
                self.warn(remark, &at.span);
            }
            if facts.may_issue() {
                any_current |= facts.is_current(self.now);
                kept.push(certificate);
            } else if let Some(alone) = alone {
                any_current |= facts.is_current(self.now);
                alone.push(certificate);
            }
        }
        if any_current {
            return Some(kept);
        }
        let message = format!("{:?} contains no valid authority", text.value);
        if facts.iter().any(inspect::Facts::may_issue) {
            self.problems.expired(message).at(text.span);
            return Some(kept);
        }
        self.problems
            .error(message)
            .at(text.span)
            .help("add the certificate of the authority that issues the certificates");
        None
    }

    /// Checks that rustls accepts the authorities.
    pub(super) fn check_trust_anchors(
        &mut self,
        authorities: &[CertificateDer<'static>],
        span: &Range<usize>,
    ) {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            if let Err(error) = roots.add(authority.clone()) {
                self.problems
                    .error(format!(
                        "an authority of `{}` cannot be used: {}",
                        self.ca,
                        error_text::error(&error)
                    ))
                    .at(span.clone());
            }
        }
    }

    /// Warns about CRLs in the CA file if `crl` does not name the file.
    pub(super) fn warn_of_unused_crls(&mut self, crl: Option<&At<OneOrMany>>) {
        let Some((At { value, span }, line)) = self.crl_in_ca_file.take() else {
            return;
        };
        if !crl
            .into_iter()
            .flat_map(At::each)
            .any(|at| at.value == value)
        {
            self.problems
                .warning(format!("{value:?}: line {line}: the CRL is not used"))
                .at(span)
                .note(format!("only certificates are read from `{}`", self.ca))
                .help(format!("name the file in `crl` too: `crl = {value:?}`"));
        }
    }
}

pub(super) struct ReadCrl {
    pub(super) loaded: Loaded,
    pub(super) place: At<String>,
    /// Position of the CRL in the file, such as "CRL 2 of 7". `None` if the file contains
    /// only one CRL.
    pub(super) position: Option<String>,
    /// Whether the CRL and all authorities that signed it have expired.
    pub(super) signers_expired: bool,
}

impl ReadCrl {
    /// The file and the issuer of the CRL, for the start of a message.
    pub(super) fn describe(&self) -> String {
        let issuer = &self.loaded.list.issuer;
        match &self.position {
            Some(position) => format!("{:?}: the CRL of {issuer} ({position})", self.place.value),
            None => format!("{:?}: the CRL of {issuer}", self.place.value),
        }
    }
}

pub(super) fn borrowed(at: &At<String>) -> At<&str> {
    At {
        value: &at.value,
        span: at.span.clone(),
    }
}
