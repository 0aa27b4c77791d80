//! Reads the files of a `tls` table and checks that they fit together.

mod bundle;
mod pins;

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

use leastconn_tls::{
    alpn::Alpn,
    pattern::Spki,
    settings::{
        ClientAuth, MAX_CA_NAMES, MinVersion, ServerMaterial, ServerSettings, ca_names_length,
    },
    unfit,
};

use super::{
    CertificateFile, Dated, FileKind, Tls, Written,
    file::{Pem, Wanted},
    inspect::{self, Purpose},
    lists::Read,
};
use crate::{
    Problem, Problems, defaults, duration,
    raw::{
        RawTls, Resumption,
        value::{At, DurationText},
    },
};

/// rustls tells clients that tickets of TLS 1.3 are good for a day, whatever we do.
const LONGEST_RESUMPTION: Duration = Duration::from_hours(24);

/// What the table says, if nothing of it is an error. `default_alpn`: the protocols where
/// it names none.
pub(crate) fn load(
    raw: &At<RawTls>,
    base_dir: &Path,
    now: Timestamp,
    default_alpn: Alpn,
    problems: &mut Problems,
) -> Option<Tls> {
    let mut loader = Loader::new("client_ca", base_dir, now, problems);
    let errors = loader.problems.errors();
    let RawTls {
        cert,
        key,
        client_ca,
        client_pins,
        crl,
        min_version,
        client_auth,
        resumption,
        resumption_lifetime,
        groups,
        ciphers,
        alpn,
    } = &raw.value;
    let client_auth_at = client_auth.as_ref();
    let client_auth = client_auth_at.map_or(ClientAuth::Required, |at| at.value.into());
    let chain = cert
        .as_ref()
        .and_then(|at| loader.chain(at, Purpose::Server));
    let key = key.as_ref().and_then(|at| {
        let key = loader.key(at)?;
        loader.fits(chain.as_deref()?, &key, [&cert.as_ref()?.span, &at.span]);
        Some(key)
    });
    let authorities = client_ca.as_ref().map(|at| loader.authorities(at, None));
    loader.lists_among_authorities(crl.as_ref());
    for text in crl.iter().flat_map(At::each) {
        loader.crls(&text, authorities.as_ref().map(|list| list.as_deref()));
    }
    let crls = loader.crl_store();
    let pins_at = client_pins.as_ref();
    let client_pins = loader.pins("client_pins", pins_at);
    if let Some(at) = pins_at {
        loader.pins_are_used(at, client_auth, client_ca.is_some());
    }
    match (client_auth, client_ca) {
        (ClientAuth::Required, None) if pins_at.is_none() => {
            let place = client_auth_at.map_or(&raw.span, |at| &at.span);
            loader
                .problems
                .error("clients must show a certificate, and no `client_ca` says whose are good")
                .at(place.clone())
                .note("the system's own authorities are never used for clients")
                .help(
                    "add `client_ca` or `client_pins`, or write `client_auth = \"none\"` to ask \
                     for none",
                );
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
        loader.anchors(authorities, &raw.span);
        loader.names_fit(authorities, at);
    }
    let resumption = loader.resumption(resumption.as_ref(), resumption_lifetime.as_ref());
    let min_version = min_version
        .as_ref()
        .map_or(MinVersion::Tls12, |at| at.value.into());
    let algorithms =
        loader.algorithms(groups.as_ref(), ciphers.as_ref(), min_version, key.as_ref());
    let alpn = match alpn {
        Some(at) => loader.alpn(Some(at)),
        None => default_alpn,
    };
    if loader.problems.errors() > errors {
        return None;
    }
    Some(Tls {
        written: Written::of_listener(
            &raw.value,
            base_dir,
            (min_version, client_auth, resumption),
            &alpn,
            &algorithms,
        )
        .list("client_pins", client_pins.iter().map(Spki::as_str)),
        settings: ServerSettings {
            min_version,
            client_auth,
            client_pins,
            resumption,
            algorithms,
            alpn,
            material: Arc::new(ServerMaterial {
                cert_chain: chain?,
                key: key?,
                client_ca: authorities.unwrap_or_default(),
                crls: Arc::new(crls),
            }),
        },
        files: loader.files.into(),
    })
}

pub(super) struct Loader<'a> {
    /// The key that names the authorities, for messages.
    pub(super) ca: &'static str,
    base_dir: &'a Path,
    pub(super) now: Timestamp,
    pub problems: &'a mut Problems,
    pub(super) files: Vec<CertificateFile>,
    /// All revocation lists that were read so far.
    pub(super) lists: Vec<Read>,
    /// The file of authorities, and the line of the first revocation list in it.
    list_among_authorities: Option<(At<String>, usize)>,
    pub(super) provider: CryptoProvider,
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
            list_among_authorities: None,
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

    pub(super) fn read(&mut self, text: &At<&str>, wanted: Wanted) -> Option<Pem> {
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

    pub(super) fn remember(&mut self, text: &At<&str>, dated: Vec<Dated>, kind: FileKind) {
        if !dated.is_empty() {
            self.files.push(CertificateFile {
                name: text.value.to_owned(),
                path: self.base_dir.join(text.value),
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
        let certificates = self.parsed(&pem.certificates, &text)?;
        let dated = certificates.iter().map(inspect::Facts::dated).collect();
        self.remember(&text, dated, FileKind::Chain);
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

    /// The authorities of a file. What is none is left out: nothing else would keep what
    /// its key signed from being accepted. One that has expired, or is not valid yet,
    /// stays: the verifier looks at its dates in each handshake, and a client that it
    /// issued is refused as `expired_certificate`.
    ///
    /// `alone` gets what is no authority and stands for itself; without it, nothing may.
    pub(super) fn authorities(
        &mut self,
        at: &At<String>,
        mut alone: Option<&mut Vec<CertificateDer<'static>>>,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let text = borrowed(at);
        let pem = self.read(&text, Wanted::Certificates)?;
        if let Some(line) = pem.first_crl {
            self.list_among_authorities = Some((at.clone(), line));
        }
        let facts = self.parsed(&pem.certificates, &text)?;
        let issuers = facts.iter().filter(|facts| facts.may_issue());
        let dated = issuers.map(inspect::Facts::dated).collect();
        self.remember(&text, dated, FileKind::Authorities);
        let mut kept = Vec::new();
        let mut any_current = false;
        for (certificate, facts) in pem.certificates.into_iter().zip(&facts) {
            let alone = alone.as_mut().filter(|_| facts.is_self_issued());
            for remark in inspect::authority(facts, self.ca, alone.is_some(), self.now) {
                remark.apply(
                    self.problems
                        .warning(remark.message.clone())
                        .at(at.span.clone()),
                );
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
        let message = format!("{:?} holds no authority that is in force", text.value);
        if facts.iter().any(inspect::Facts::may_issue) {
            self.problems.expired(message).at(text.span);
            return Some(kept);
        }
        self.problems
            .error(message)
            .at(text.span)
            .help("put the certificate of the authority that issues them there");
        None
    }

    /// Checks that rustls takes the authorities.
    pub(super) fn anchors(&mut self, authorities: &[CertificateDer<'static>], span: &Range<usize>) {
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
    }

    /// Warns of more authorities than a CertificateRequest has room for.
    fn names_fit(&mut self, authorities: &[CertificateDer<'static>], at: &At<String>) {
        let names = authorities
            .iter()
            .filter_map(|der| inspect::parsed(der, |parsed| parsed.subject().as_raw().len()));
        let bytes = ca_names_length(names);
        if bytes > MAX_CA_NAMES {
            self.problems
                .warning(format!(
                    "{:?} holds {} authorities, whose names take {bytes} bytes: clients are not \
                     told them",
                    at.value,
                    authorities.len()
                ))
                .at(at.span.clone())
                .note(format!(
                    "above {MAX_CA_NAMES} bytes some clients (Java) refuse the handshake; a client \
                     that has several certificates now has to know which one to show"
                ));
        }
    }
}

pub(super) fn borrowed(at: &At<String>) -> At<&str> {
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
