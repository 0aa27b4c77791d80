//! Reads the files of a `tls` table and checks that they fit together.

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer},
    server::{VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{
    CertificateFile, ClientAuth, MinVersion, Resumption, Tls, TlsMaterial, Written,
    file::{Pem, Wanted},
    inspect::{self, Crl, Purpose},
};
use crate::{
    config::{
        Problem, Problems, defaults, duration,
        raw::{
            RawTls,
            value::{At, DurationText},
        },
    },
    unfit,
};

/// rustls tells clients that tickets of TLS 1.3 are good for a day, whatever we do.
const LONGEST_RESUMPTION: Duration = Duration::from_hours(24);

/// What the table says, if nothing of it is an error.
pub(crate) fn load(
    raw: &At<RawTls>,
    base_dir: &Path,
    now: Timestamp,
    problems: &mut Problems,
) -> Option<Tls> {
    let mut loader = Loader::new("client_ca", base_dir, now, problems);
    let errors = loader.problems.errors();
    let RawTls {
        cert,
        key,
        client_ca,
        crl,
        min_version,
        client_auth,
        resumption,
        resumption_lifetime,
        alpn,
    } = &raw.value;
    let client_auth_at = client_auth.as_ref();
    let client_auth = client_auth_at.map_or(ClientAuth::Required, |at| at.value);
    let chain = cert
        .as_ref()
        .and_then(|at| loader.chain(at, Purpose::Server));
    let key = key.as_ref().and_then(|at| {
        let key = loader.key(at)?;
        loader.fits(chain.as_deref()?, &key, [&cert.as_ref()?.span, &at.span]);
        Some(key)
    });
    let authorities = client_ca.as_ref().map(|at| loader.authorities(at, None));
    let mut crls = Vec::new();
    for text in crl.iter().flat_map(At::each) {
        crls.extend(loader.crls(&text, authorities.as_ref().map(|list| list.as_deref())));
    }
    match (client_auth, client_ca) {
        (ClientAuth::Required, None) => {
            let place = client_auth_at.map_or(&raw.span, |at| &at.span);
            loader
                .problems
                .error("clients must show a certificate, and no `client_ca` says whose are good")
                .at(place.clone())
                .note("the system's own authorities are never used for clients")
                .help("add `client_ca`, or write `client_auth = \"none\"` to ask for none");
        }
        (ClientAuth::None, Some(at)) => {
            loader
                .problems
                .warning(
                    "`client_ca` does nothing: `client_auth = \"none\"` asks for no certificate",
                )
                .at(at.span.clone());
        }
        _ => {}
    }
    let authorities = authorities.flatten();
    if let (Some(authorities), Some(at)) = (&authorities, client_ca)
        && loader.problems.errors() == errors
    {
        loader.every_authority_is_covered(authorities, &crls, at);
        loader.verifier_accepts(authorities, &crls, &raw.span);
    }
    let resumption = loader.resumption(resumption.as_ref(), resumption_lifetime.as_ref());
    let alpn = loader.alpn(alpn.as_ref());
    if loader.problems.errors() > errors {
        return None;
    }
    let min_version = min_version
        .as_ref()
        .map_or(MinVersion::Tls12, |at| at.value);
    Some(Tls {
        min_version,
        client_auth,
        written: Written::new(
            &raw.value,
            base_dir,
            (min_version, client_auth, resumption),
            &alpn,
        ),
        resumption,
        alpn,
        material: Arc::new(TlsMaterial {
            cert_chain: chain?,
            key: key?,
            client_ca: authorities.unwrap_or_default(),
            crls,
            files: loader.files,
        }),
    })
}

pub(super) struct Loader<'a> {
    /// The key that names the authorities, for messages.
    ca: &'static str,
    base_dir: &'a Path,
    now: Timestamp,
    pub(super) problems: &'a mut Problems,
    pub(super) files: Vec<CertificateFile>,
    /// Where each list of [`Self::crls`] stands, in the order of those.
    lists: Vec<At<String>>,
    provider: CryptoProvider,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        ca: &'static str,
        base_dir: &'a Path,
        now: Timestamp,
        problems: &'a mut Problems,
    ) -> Self {
        Self {
            ca,
            base_dir,
            now,
            problems,
            files: Vec::new(),
            lists: Vec::new(),
            provider: aws_lc_rs::default_provider(),
        }
    }
}

impl Loader<'_> {
    /// How long sessions may be resumed, if they may.
    fn resumption(
        &mut self,
        resumption: Option<&At<Resumption>>,
        lifetime: Option<&At<DurationText>>,
    ) -> Option<Duration> {
        let on = resumption.is_some_and(|at| at.value == Resumption::On);
        let Some(At { value, span }) = lifetime else {
            return on.then_some(defaults::RESUMPTION_LIFETIME);
        };
        let wrong = match duration::parse(&value.0) {
            Ok(Duration::ZERO) => "cannot be zero: `resumption = \"off\"` is for that".to_owned(),
            Ok(lifetime) if lifetime > LONGEST_RESUMPTION => {
                "cannot be longer than a day: clients forget their sessions then".to_owned()
            }
            Ok(lifetime) => {
                if !on {
                    self.problems
                        .warning("`resumption_lifetime` does nothing without `resumption = \"on\"`")
                        .at(span.clone());
                }
                return on.then_some(lifetime);
            }
            Err(error) => error.to_string(),
        };
        let default = duration::text(defaults::RESUMPTION_LIFETIME);
        self.problems
            .error(format!("`resumption_lifetime` {wrong}"))
            .at(span.clone())
            .help(format!("the default is {default:?}"));
        None
    }

    fn read(&mut self, text: &At<&str>, wanted: Wanted) -> Option<Pem> {
        match Pem::read(&self.base_dir.join(text.value), wanted) {
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

    fn remember(
        &mut self,
        text: &At<&str>,
        not_after: impl Iterator<Item = Timestamp>,
        is_list: bool,
    ) {
        if let Some(not_after) = not_after.min() {
            self.files.push(CertificateFile {
                name: text.value.to_owned(),
                path: self.base_dir.join(text.value),
                not_after,
                is_list,
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
        let certificates = self.parsed(&pem.certificates, &text)?;
        self.remember(&text, certificates.iter().map(|c| c.not_after), false);
        let now = self.now;
        if let Some(own) = certificates.first() {
            for remark in inspect::own_certificate(own, &certificates[1..], purpose, now) {
                remark.apply(
                    self.problems
                        .warning(remark.message.clone())
                        .at(at.span.clone()),
                );
            }
        }
        Some(pem.certificates)
    }

    fn parsed(
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

    pub(super) fn key(&mut self, at: &At<String>) -> Option<PrivateKeyDer<'static>> {
        let text = borrowed(at);
        let mut pem = self.read(&text, Wanted::Key)?;
        if pem.keys.len() > 1 {
            self.problems
                .error(format!(
                    "{:?} holds {} private keys, and only one can be meant",
                    text.value,
                    pem.keys.len()
                ))
                .at(text.span);
            return None;
        }
        pem.keys.pop()
    }

    pub(super) fn fits(
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
                        unfit::error(&error)
                    ))
                    .at(span.clone())
                    .note("RSA from 2048 bits, ECDSA P-256, P-384 and P-521, and Ed25519 can");
            }
            Ok(signer) => {
                let pair = CertifiedKey::new(chain.to_vec(), signer);
                match pair.keys_match() {
                    Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
                    Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                        self.problems
                            .error("the key does not belong to the certificate")
                            .at(span.clone())
                            .note("the first certificate of `cert` has another public key");
                    }
                    // Of whatever else rustls would refuse when a listener starts.
                    Err(error) => {
                        self.problems
                            .error(unfit::error(&error))
                            .at(cert_span.clone());
                    }
                }
            }
        }
    }

    /// The authorities that are in force. One that has expired is left out, and so is
    /// what is none: nothing else would keep what its key signed from being accepted.
    ///
    /// `alone` gets what is no authority and stands for itself; without it, nothing may.
    pub(super) fn authorities(
        &mut self,
        at: &At<String>,
        mut alone: Option<&mut Vec<CertificateDer<'static>>>,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let text = borrowed(at);
        let pem = self.read(&text, Wanted::Certificates)?;
        let facts = self.parsed(&pem.certificates, &text)?;
        self.remember(&text, facts.iter().map(|c| c.not_after), false);
        let mut kept = Vec::new();
        let mut any_alone = false;
        for (certificate, facts) in pem.certificates.into_iter().zip(&facts) {
            let alone = alone.as_mut().filter(|_| facts.is_self_issued());
            for remark in inspect::authority(facts, self.ca, alone.is_some(), self.now) {
                remark.apply(
                    self.problems
                        .warning(remark.message.clone())
                        .at(at.span.clone()),
                );
            }
            if !facts.is_current(self.now) {
                continue;
            }
            if facts.may_issue() {
                kept.push(certificate);
            } else if let Some(alone) = alone {
                any_alone = true;
                alone.push(certificate);
            }
        }
        if kept.is_empty() && !any_alone {
            let problem = self
                .problems
                .error(format!(
                    "{:?} holds no authority that is in force",
                    text.value
                ))
                .at(text.span);
            if !facts.iter().any(inspect::Facts::may_issue) {
                problem.help("put the certificate of the authority that issues them there");
            }
            return None;
        }
        Some(kept)
    }

    /// The lists of one file. `authorities`: outer `None`, there is no
    /// `client_ca`; inner `None`, it could not be read.
    pub(super) fn crls(
        &mut self,
        text: &At<&str>,
        authorities: Option<Option<&[CertificateDer<'static>]>>,
    ) -> Vec<CertificateRevocationListDer<'static>> {
        let Some(authorities) = authorities else {
            self.problems
                .error(format!(
                    "a revocation list needs the `{}` that signed it",
                    self.ca
                ))
                .at(text.span.clone());
            return Vec::new();
        };
        let Some(pem) = self.read(text, Wanted::Crls) else {
            return Vec::new();
        };
        let mut ends = Vec::new();
        for der in &pem.crls {
            match Crl::parse(der.as_ref()) {
                Err(error) => {
                    self.problems
                        .error(format!(
                            "{:?}: the list cannot be read: {error}",
                            text.value
                        ))
                        .at(text.span.clone());
                }
                Ok(crl) => {
                    ends.extend(crl.next_update);
                    if let Some(authorities) = authorities {
                        self.crl(&crl, authorities, text);
                    }
                }
            }
        }
        self.remember(text, ends.into_iter(), true);
        let here = At {
            value: text.value.to_owned(),
            span: text.span.clone(),
        };
        self.lists.extend(pem.crls.iter().map(|_| here.clone()));
        pem.crls
    }

    fn crl(&mut self, crl: &Crl<'_>, authorities: &[CertificateDer<'static>], text: &At<&str>) {
        let algorithms = self.provider.signature_verification_algorithms.all;
        if !authorities
            .iter()
            .any(|authority| crl.is_signed_by(authority, algorithms))
        {
            self.problems
                .error(format!(
                    "{:?} is not signed by any authority of `{}`",
                    text.value, self.ca
                ))
                .at(text.span.clone())
                .note(format!("its issuer is {}", crl.issuer));
        }
        if !crl.is_version_2 {
            self.problems
                .error(format!(
                    "{:?} is of version 1, which is not supported",
                    text.value
                ))
                .at(text.span.clone())
                .note("it has none of the extensions that a list must have")
                .help(
                    "make it anew, with `crlnumber` and `crl_extensions` in the configuration of \
                     `openssl ca`",
                );
        }
        if crl.next_update.is_none() {
            self.problems
                .error(format!(
                    "{:?} does not say until when it is good",
                    text.value
                ))
                .at(text.span.clone())
                .help("make it anew, with `nextUpdate`: `openssl ca -gencrl -crldays 7`");
        }
        if crl.this_update > self.now {
            self.problems
                .warning(format!(
                    "{:?} is from {}, which is yet to come",
                    text.value, crl.this_update
                ))
                .at(text.span.clone())
                .note("it is in force all the same: look at its issuer's clock, and at this one");
        }
        if let Some(end) = crl.next_update.filter(|end| *end < self.now) {
            self.problems
                .error(format!("{:?} expired at {end}", text.value))
                .at(text.span.clone())
                .note("an expired list would refuse every certificate of its issuer")
                .help("put the issuer's current list there");
        }
    }

    /// Where one authority has a list, all need one: of what nothing is known
    /// counts as revoked. And none may be on one: what is in `client_ca` is
    /// trusted as it stands, and nothing would look at who issued it.
    pub(super) fn every_authority_is_covered(
        &mut self,
        authorities: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
        at: &At<String>,
    ) {
        if crls.is_empty() {
            return;
        }
        let lists: Vec<_> = crls
            .iter()
            .filter_map(|der| Crl::parse(der.as_ref()).ok())
            .collect();
        for authority in authorities {
            let Ok(facts) = inspect::facts(authority) else {
                continue;
            };
            if lists.iter().any(|list| list.revokes(&facts)) {
                self.problems
                    .error(format!(
                        "`{}` holds {}, which a revocation list revokes",
                        self.ca, facts.subject
                    ))
                    .at(at.span.clone())
                    .note("its certificates would be accepted all the same")
                    .help("take it out of the file");
            }
            if !lists.iter().any(|list| list.is_of(&facts)) {
                self.problems
                    .warning(format!("no revocation list is of {}", facts.subject))
                    .at(at.span.clone())
                    .note("with lists for others, all its certificates will be refused");
            }
        }
    }

    /// What the handshake will be checked with has the last word.
    pub(super) fn verifier_accepts(
        &mut self,
        authorities: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
        span: &Range<usize>,
    ) {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            if let Err(error) = roots.add(authority.clone()) {
                self.problems
                    .error(format!(
                        "an authority of `{}` cannot be used: {}",
                        self.ca,
                        unfit::error(&error)
                    ))
                    .at(span.clone());
            }
        }
        if roots.is_empty() {
            return;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(self.provider.clone());
        let build = |crls: &[CertificateRevocationListDer<'static>]| {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .with_crls(crls.to_vec())
                .build()
        };
        let Err(all) = build(crls) else {
            return;
        };
        // It does not say which: each alone does.
        let places = std::mem::take(&mut self.lists);
        let mut blamed = false;
        for (crl, place) in crls.iter().zip(places) {
            if let Err(VerifierBuilderError::InvalidCrl(error)) = build(std::slice::from_ref(crl)) {
                blamed = true;
                self.problems
                    .error(format!(
                        "{:?}: the list cannot be used: {}",
                        place.value,
                        unfit::list(&error)
                    ))
                    .at(place.span);
            }
        }
        if !blamed {
            self.problems.error(unfit::verifier(&all)).at(span.clone());
        }
    }
}

fn borrowed(at: &At<String>) -> At<&str> {
    At {
        value: &at.value,
        span: at.span.clone(),
    }
}

impl inspect::Remark {
    fn apply(&self, problem: &mut Problem) {
        if let Some(note) = &self.note {
            problem.note(note.clone());
        }
    }
}
