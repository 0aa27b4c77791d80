//! Verification of certificate chains. rustls-webpki finds a path and verifies its signatures,
//! dates and constraints. For each path that rustls-webpki finds, this module checks the dates of
//! the authority, checks revocation, and applies the checks in `path`.

use std::{cell::RefCell, sync::Arc};

use jiff::Timestamp;
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    ChainError, IssuerError, IssuerProblem, Usage, Validity,
    explain::explain,
    issuer_selection::{Failures, IssuerSelection, Signatures},
    path::{self, AnchorLimits},
    rewrite::{Rewritten, parseable},
    seconds, unix_time,
};
use crate::crl::{self, CrlStore, Revocation, Role, Status};

/// Which expired objects do not cause an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tolerance {
    pub(crate) crls: bool,
    /// Whether the authority at the top of the path may have expired.
    pub(crate) authorities: bool,
}

/// The issuer of a certificate on a path.
struct Issuer<'a> {
    /// The issuer's SubjectPublicKeyInfo.
    key: &'a [u8],
    /// Whether the issuer is a configured authority, not an intermediate.
    is_authority: bool,
}

#[derive(Debug)]
struct Authority {
    name: String,
    /// The authority's SubjectPublicKeyInfo.
    key: Box<[u8]>,
    not_before: i64,
    not_after: i64,
    limits: AnchorLimits,
    revoked: Option<Revocation>,
}

/// Why an attempt to verify a chain failed.
enum Failure {
    /// The signatures of a path are valid, but a check of this crate failed.
    Path(ChainError),
    /// There is no path with valid signatures.
    Webpki(webpki::Error),
}

/// Verifies chains against authorities and CRLs.
#[derive(Debug)]
pub(crate) struct ChainVerifier {
    roots: RootCertStore,
    /// The authorities, in the order of `roots`.
    authorities: Vec<Authority>,
    /// The anchors in `roots`, without the constraints that this crate checks itself.
    anchors: Vec<TrustAnchor<'static>>,
    /// `anchors` with names in canonical form, for rewritten chains.
    canonical_anchors: Vec<TrustAnchor<'static>>,
    crls: Arc<CrlStore>,
    algorithms: WebPkiSupportedAlgorithms,
    usage: Usage,
    issuers: IssuerSelection,
}

impl ChainVerifier {
    /// Creates a verifier that trusts only chains below `authorities`.
    ///
    /// # Errors
    /// If an authority cannot be used as a trust anchor.
    pub(crate) fn new(
        authorities: &[CertificateDer<'static>],
        crls: Arc<CrlStore>,
        algorithms: WebPkiSupportedAlgorithms,
        usage: Usage,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let mut parsed_authorities = Vec::new();
        let revoked = crls.revoked_authorities(authorities, algorithms.all);
        for (der, revoked) in authorities.iter().zip(revoked) {
            roots.add(der.clone())?;
            let (_, parsed) =
                X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
            let name = crl::display_name(parsed.subject());
            parsed_authorities.push(Authority {
                limits: AnchorLimits::new(&name, &parsed, usage),
                name,
                key: parsed.public_key().raw.into(),
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
                revoked,
            });
        }
        let anchors = |is_canonical: bool| {
            let pairs = roots.roots.iter().zip(&parsed_authorities);
            pairs
                .map(|(root, authority)| authority.limits.anchor(root, is_canonical))
                .collect()
        };
        Ok(Self {
            anchors: anchors(false),
            canonical_anchors: anchors(true),
            issuers: IssuerSelection::new(authorities),
            roots,
            authorities: parsed_authorities,
            crls,
            algorithms,
            usage,
        })
    }

    /// The subjects of the authorities, for the CertificateRequest.
    pub(super) fn authority_names(&self) -> Vec<rustls::DistinguishedName> {
        self.roots.subjects()
    }

    /// The signature schemes that the peer may use.
    pub(crate) fn supported_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    /// Verifies the peer's signature over a TLS 1.2 handshake.
    ///
    /// # Errors
    /// If the certificate is malformed or the signature is wrong.
    pub(crate) fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = parseable(certificate);
        verify_tls12_signature(message, &readable, signature, &self.algorithms)
    }

    /// Like [`Self::verify_tls12_signature`], for TLS 1.3.
    ///
    /// # Errors
    /// As [`Self::verify_tls12_signature`].
    pub(crate) fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let readable = parseable(certificate);
        verify_tls13_signature(message, &readable, signature, &self.algorithms)
    }

    /// Verifies a chain as of `now`.
    ///
    /// # Errors
    /// If there is no valid path to an authority. The error is the most specific reason.
    pub(crate) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<Validity, ChainError> {
        if self.roots.is_empty() {
            return Err(ChainError::Issuer(IssuerError {
                problem: IssuerProblem::NoAuthority,
                error: CertificateError::UnknownIssuer,
            }));
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
        let rewritten = Rewritten::for_error(&error, end_entity, intermediates);
        let second = rewritten.as_ref().and_then(|rewritten| {
            let (own, above) = rewritten.chain.split_first()?;
            let algorithms = rewritten.algorithms(algorithms);
            let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
                algorithms.iter().map(|one| one as _).collect();
            Some(self.attempt(own, above, Some(rewritten), &algorithms, &mut failures, at))
        });
        let error = match second {
            Some(Ok(validity)) => return Ok(validity),
            Some(Err(Failure::Path(error))) => return Err(error),
            Some(Err(Failure::Webpki(error))) => error,
            None => error,
        };
        let authorities = self.authorities.iter();
        let authorities: Vec<_> = authorities.map(|one| (&one.limits, &*one.key)).collect();
        let mut signatures = Signatures::for_explanation(algorithms, &mut failures);
        Err(explain(
            &error,
            end_entity,
            intermediates,
            &authorities,
            &mut signatures,
        ))
    }

    /// Verifies a chain as the peer sent it, or its rewritten form.
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
        let failed = RefCell::new(None::<ChainError>);
        let validity = RefCell::new(None);
        let check =
            |path: &VerifiedPath<'_>| match self.check(path, anchors, rewritten, now, tolerance) {
                Ok(valid) => {
                    validity.replace(Some(valid));
                    Ok(())
                }
                Err(error) => {
                    ChainError::keep_most_specific(&mut failed.borrow_mut(), error);
                    // After any error, webpki tries the next path.
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
            // The error of a path with valid signatures is more specific than webpki's.
            (_, _, Some(error)) => Err(Failure::Path(error)),
            (Err(error), ..) => Err(Failure::Webpki(error)),
            (Ok(()), None, None) => Err(Failure::Webpki(webpki::Error::UnknownIssuer)),
        }
    }

    /// Checks a path with valid signatures for everything that rustls-webpki does not
    /// check.
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
        let chain = original_chain(path, rewritten).ok_or(CertificateError::UnknownIssuer)?;
        let chain: Vec<_> = chain
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::BadEncoding)?;
        let mut validity = Validity {
            from: authority.not_before,
            until: authority.not_after,
            crls_until: i64::MAX,
        };
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
            match self.check_revocation(certificate, &issuer, depth, now, tolerance) {
                Ok(until) => validity.crls_until = validity.crls_until.min(until),
                Err(error) => ChainError::keep_most_specific(&mut failed, error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        path::check(&chain, &authority.limits, self.usage)?;
        Ok(validity)
    }

    /// Returns the expiry of the CRL that covers the certificate, in seconds since 1970.
    /// Returns `i64::MAX` if no CRLs are configured.
    fn check_revocation(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &Issuer<'_>,
        depth: usize,
        now: UnixTime,
        tolerance: Tolerance,
    ) -> Result<i64, ChainError> {
        if self.crls.is_empty() {
            return Ok(i64::MAX);
        }
        let role = match depth {
            0 => Role::EndEntity,
            _ => Role::Issuer,
        };
        let at = Timestamp::from_second(seconds(now)).unwrap_or(Timestamp::MAX);
        match self.crls.status(certificate, issuer.key, role, at) {
            Status::Good { until } => Ok(until.as_second()),
            Status::Expired { .. } if tolerance.crls => Ok(i64::MAX),
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

/// The certificates of a path as the peer sent them, the peer's own certificate first.
fn original_chain(
    path: &VerifiedPath<'_>,
    rewritten: Option<&Rewritten>,
) -> Option<Vec<CertificateDer<'static>>> {
    let own = path.end_entity().der();
    let above = path.intermediate_certificates().map(|above| above.der());
    let original = |der: CertificateDer<'_>| match rewritten {
        Some(rewritten) => rewritten.original(&der).cloned(),
        None => Some(der.into_owned()),
    };
    std::iter::once(own).chain(above).map(original).collect()
}
