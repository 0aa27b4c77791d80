//! Verifies certificate chains. rustls-webpki verifies signatures, dates and constraints;
//! this module verifies the dates of the CA, and revocation, on the path that it found.

mod errors;

use std::{cell::RefCell, sync::Arc};

use jiff::Timestamp;
use rustls::{
    CertificateError, RootCertStore,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    nom::Parser as _,
    prelude::FromDer,
};

use super::{
    chain_error::ChainError,
    intermediates::{Failures, IssuerSelection},
    path::{self, AnchorLimits, rewrite::Rewritten},
    usage::Usage,
};

use crate::crl::{self, CrlStore, Revocation, Role, Status};
use errors::certificate_error;

/// What may have expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tolerance {
    /// CRLs.
    pub(super) lists: bool,
    /// The CA at the end of the path.
    pub(super) authorities: bool,
}

/// When a verified chain is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// First second of the certificates on the path.
    pub(super) from: i64,
    /// Last second of the certificates on the path, the CA included.
    pub(super) until: i64,
    /// First second in which a CRL that was used has expired.
    pub(super) lists_until: i64,
}

/// The issuer of a certificate on a path.
struct Issuer<'a> {
    /// SubjectPublicKeyInfo.
    key: &'a [u8],
    /// Whether it is a configured CA, not a certificate that the peer sent.
    is_authority: bool,
}

/// A configured CA.
#[derive(Debug)]
struct Authority {
    name: String,
    /// SubjectPublicKeyInfo.
    key: Box<[u8]>,
    not_before: i64,
    not_after: i64,
    limits: AnchorLimits,
    revoked: Option<Revocation>,
}

/// Why an attempt failed.
enum Failure {
    /// On a path with valid signatures.
    Path(ChainError),
    /// No such path was found.
    Webpki(webpki::Error),
}

/// Verifies chains against CAs and CRLs.
#[derive(Debug)]
pub(super) struct ChainVerifier {
    roots: RootCertStore,
    /// In the order of `anchors`.
    authorities: Vec<Authority>,
    /// The CAs for rustls-webpki, without constraints that are checked here.
    anchors: Vec<TrustAnchor<'static>>,
    /// The same with names in canonical form, for rewritten chains.
    canonical_anchors: Vec<TrustAnchor<'static>>,
    lists: Arc<CrlStore>,
    algorithms: WebPkiSupportedAlgorithms,
    usage: Usage,
    issuers: IssuerSelection,
}

impl ChainVerifier {
    /// Trusts chains that lead to one of `authorities`, and nothing else.
    ///
    /// # Errors
    /// If a CA cannot be used as a trust anchor.
    pub(super) fn new(
        authorities: &[CertificateDer<'static>],
        lists: Arc<CrlStore>,
        algorithms: WebPkiSupportedAlgorithms,
        usage: Usage,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let mut kept = Vec::new();
        let revoked = lists.revoked_authorities(authorities, algorithms.all);
        for (der, revoked) in authorities.iter().zip(revoked) {
            roots.add(der.clone())?;
            let (_, parsed) =
                X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
            let name = crl::display_name(parsed.subject());
            kept.push(Authority {
                limits: AnchorLimits::of(&name, &parsed, usage),
                name,
                key: parsed.public_key().raw.into(),
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
                revoked,
            });
        }
        let anchors = |is_canonical: bool| {
            let both = roots.roots.iter().zip(&kept);
            both.map(|(root, kept)| kept.limits.anchor(root, is_canonical))
                .collect()
        };
        Ok(Self {
            anchors: anchors(false),
            canonical_anchors: anchors(true),
            issuers: IssuerSelection::new(authorities),
            roots,
            authorities: kept,
            lists,
            algorithms,
            usage,
        })
    }

    /// The names of the CAs, for the CertificateRequest.
    pub(super) fn names(&self) -> Vec<rustls::DistinguishedName> {
        self.roots.subjects()
    }

    pub(super) const fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// Verifies a chain as of `now`.
    ///
    /// # Errors
    /// The error of the most relevant path.
    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        if self.roots.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let algorithms = self.algorithms.all;
        let (mut failures, at) = (Failures::default(), (now, tolerance));
        let as_sent = self.attempt(
            end_entity,
            intermediates,
            None,
            algorithms,
            &mut failures,
            at,
        );
        let error = match as_sent {
            Ok(validity) => return Ok(validity),
            Err(Failure::Path(error)) => return Err(error),
            Err(Failure::Webpki(error)) => error,
        };
        let rewritten = path::needs_rewriting(&error, end_entity, intermediates);
        let again = rewritten.as_ref().and_then(|rewritten| {
            let (own, above) = rewritten.chain.split_first()?;
            let algorithms = rewritten.algorithms(algorithms);
            let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
                algorithms.iter().map(|one| one as _).collect();
            Some(self.attempt(own, above, Some(rewritten), &algorithms, &mut failures, at))
        });
        match again {
            Some(Ok(validity)) => Ok(validity),
            Some(Err(Failure::Path(error))) => Err(error),
            Some(Err(Failure::Webpki(error))) => {
                Err(self.explained(&error, end_entity, intermediates))
            }
            None => Err(self.explained(&error, end_entity, intermediates)),
        }
    }

    /// Verifies a chain in its original or rewritten form.
    fn attempt(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        rewritten: Option<&Rewritten>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        failures: &mut Failures,
        (now, tolerance): (UnixTime, Tolerance),
    ) -> Result<Validity, Failure> {
        let parsed = EndEntityCert::try_from(end_entity).map_err(Failure::Webpki)?;
        let anchors = match rewritten {
            Some(_) => &self.canonical_anchors,
            None => &self.anchors,
        };
        // Errors of paths with valid signatures.
        let failed = RefCell::new(None::<ChainError>);
        let validity = RefCell::new(None);
        let check =
            |path: &VerifiedPath<'_>| match self.check(path, anchors, rewritten, now, tolerance) {
                Ok(good) => {
                    validity.replace(Some(good));
                    Ok(())
                }
                Err(error) => {
                    ChainError::keep_worse(&mut failed.borrow_mut(), error);
                    // webpki tries further paths, whichever error is returned here.
                    Err(webpki::Error::UnknownIssuer)
                }
            };
        let usage = match self.usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let selected =
            self.issuers
                .select(end_entity, intermediates, anchors, algorithms, failures);
        let verified = parsed.verify_for_usage(
            algorithms,
            anchors,
            &selected,
            now,
            usage,
            None,
            Some(&check),
        );
        let verified = verified.map(drop);
        match (verified, validity.take(), failed.take()) {
            (Ok(()), Some(validity), _) => Ok(validity),
            // A path with valid signatures has the more relevant error.
            (_, _, Some(error)) => Err(Failure::Path(error)),
            (Err(error), ..) => Err(Failure::Webpki(error)),
            (Ok(()), None, None) => Err(Failure::Webpki(webpki::Error::UnknownIssuer)),
        }
    }

    /// Checks what rustls-webpki does not check on a path with valid signatures: the dates
    /// and limits of the CA, and revocation of each certificate.
    fn check(
        &self,
        path: &VerifiedPath<'_>,
        anchors: &[TrustAnchor<'static>],
        rewritten: Option<&Rewritten>,
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        let (_, authority) = anchors
            .iter()
            .zip(&self.authorities)
            .find(|(root, _)| std::ptr::eq(*root, path.anchor()))
            .ok_or(CertificateError::UnknownIssuer)?;
        if let Some(Revocation { issuer, file }) = authority.revoked.clone() {
            return Err(ChainError::Revoked {
                issuer,
                file,
                is_own: false,
            });
        }
        authority.check_dates(now, tolerance)?;
        let mut validity = Validity {
            from: authority.not_before,
            until: authority.not_after,
            lists_until: i64::MAX,
        };
        let above = path.intermediate_certificates().map(|above| above.der());
        let own = path.end_entity().der();
        let original = |der: CertificateDer<'_>| match rewritten {
            Some(rewritten) => rewritten.original(&der).cloned(),
            None => Some(der.into_owned()),
        };
        let chain: Option<Vec<_>> = std::iter::once(own).chain(above).map(original).collect();
        let chain = chain.ok_or(CertificateError::UnknownIssuer)?;
        let chain: Vec<_> = chain
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::BadEncoding)?;
        let mut failed: Option<ChainError> = None;
        for (depth, certificate) in chain.iter().enumerate() {
            let dates = certificate.validity();
            validity.from = validity.from.max(dates.not_before.timestamp());
            validity.until = validity.until.min(dates.not_after.timestamp());
            let above = chain.get(depth + 1);
            let issuer = Issuer {
                key: above.map_or(&*authority.key, |above| above.public_key().raw),
                is_authority: above.is_none(),
            };
            match self.revocation(certificate, &issuer, depth, now, tolerance) {
                Ok(until) => validity.lists_until = validity.lists_until.min(until),
                Err(error) => ChainError::keep_worse(&mut failed, error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        path::check(&chain, &authority.limits, self.usage).map_err(ChainError::Path)?;
        Ok(validity)
    }

    /// Returns when the CRLs expire that show that the certificate is not revoked.
    fn revocation(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &Issuer<'_>,
        depth: usize,
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<i64, ChainError> {
        if self.lists.is_empty() {
            return Ok(i64::MAX);
        }
        let role = match depth {
            0 => Role::EndEntity,
            _ => Role::Issuer,
        };
        let at = Timestamp::from_second(seconds(now)).unwrap_or(Timestamp::MAX);
        match self.lists.status(certificate, issuer.key, role, at) {
            Status::Good { until } => Ok(until.as_second()),
            Status::Expired { .. } if tolerance.lists => Ok(i64::MAX),
            Status::Expired { issuer, file, at } => {
                Err(ChainError::CrlExpired { issuer, file, at })
            }
            Status::Revoked { issuer, file } => Err(ChainError::Revoked {
                issuer,
                file,
                is_own: depth == 0,
            }),
            Status::Unknown(missing) => Err(ChainError::NoCrl {
                issuer: crl::display_name(certificate.issuer()),
                is_authority: issuer.is_authority,
                missing,
            }),
        }
    }

    /// The error of a chain without a path with valid signatures, with the name of the
    /// certificate if a date is wrong.
    fn explained(
        &self,
        error: &webpki::Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> ChainError {
        let (is_after, at) = match error {
            webpki::Error::CertExpired { not_after, .. } => (true, *not_after),
            webpki::Error::CertNotValidYet { not_before, .. } => (false, *not_before),
            other => {
                let chain = std::iter::once(end_entity).chain(intermediates);
                // Parse the contents of extensions only for the error that needs them: tens
                // of thousands of names take milliseconds.
                let is_deep = matches!(other, webpki::Error::UnsupportedCriticalExtension);
                let mut parser = X509CertificateParser::new().with_deep_parse_extensions(is_deep);
                let parsed = chain.filter_map(|der| parser.parse(der).ok());
                let chain: Vec<_> = parsed.map(|(_, parsed)| parsed).collect();
                let authorities = self.authorities.iter();
                let authorities = authorities.map(|one| (&one.limits, &*one.key));
                let explained = path::explain(other, &chain, authorities);
                return explained.map_or_else(|| general(other), ChainError::Path);
            }
        };
        let has_date = |der: &CertificateDer<'_>| {
            let (_, parsed) = X509Certificate::from_der(der).ok()?;
            let dates = parsed.validity();
            let date = if is_after {
                dates.not_after
            } else {
                dates.not_before
            };
            (date.timestamp() == seconds(at)).then(|| crl::display_name(parsed.subject()))
        };
        let rustls = certificate_error(error);
        if has_date(end_entity).is_some() {
            return rustls.into();
        }
        match intermediates.iter().find_map(has_date) {
            Some(name) => ChainError::IssuerDates {
                name,
                is_authority: false,
                error: rustls,
            },
            None => rustls.into(),
        }
    }
}

impl Authority {
    fn check_dates(&self, now: UnixTime, tolerance: Tolerance) -> Result<(), ChainError> {
        let at = seconds(now);
        let error = if at < self.not_before {
            CertificateError::NotValidYetContext {
                time: now,
                not_before: unix_time(self.not_before),
            }
        } else if at > self.not_after && !tolerance.authorities {
            CertificateError::ExpiredContext {
                time: now,
                not_after: unix_time(self.not_after),
            }
        } else {
            return Ok(());
        };
        Err(ChainError::IssuerDates {
            name: self.name.clone(),
            is_authority: true,
            error,
        })
    }
}

pub(super) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        seconds.try_into().unwrap_or(0),
    ))
}

pub(super) fn seconds(time: UnixTime) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}

pub(super) fn general(error: &webpki::Error) -> ChainError {
    certificate_error(error).into()
}
