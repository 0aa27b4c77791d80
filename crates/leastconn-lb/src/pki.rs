//! A small certificate authority, for tests, demonstrations and small sites.
//!
//! One self-signed P-256 CA in one directory: `ca.crt`, `ca.key`, `ca.crl`, and
//! beside them the leaves it issued. There is no database: the CRL is the only
//! state, so nothing can disagree with what the balancer enforces. Whoever changes it
//! holds a [`Lock`] from reading it to writing it.
//!
//! Profile: RFC 5280. Serial numbers are random and positive (20 bytes), so a CA
//! restored from a backup cannot issue one twice. `notBefore` lies five minutes in
//! the past, because the machines of a small site do not agree on the time.

mod files;
mod lock;
mod names;
mod revocation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::time::ASN1Time;

pub use files::{Overwrite, refuse_existing, write_private, write_public};
pub use lock::Lock;
pub use names::{file_stem, validate_stem};
pub use revocation::RevocationList;

/// The CA certificate's file name.
pub const CA_CERT: &str = "ca.crt";
/// The CA key's file name.
pub const CA_KEY: &str = "ca.key";
/// The revocation list's file name.
pub const CA_CRL: &str = "ca.crl";

/// Longest validity accepted: a hundred years. Past that, date arithmetic reaches
/// years that certificates cannot express.
pub const MAX_DAYS: u32 = 36_500;

/// A revocation list of a million certificates has some 40 MB.
const LARGEST: u64 = 64 * 1024 * 1024;

const KEEP_CA: &str = "choose another directory, or move the old CA away first";

const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why the authority could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory could not be locked.
    #[error("cannot lock {path} against other `pki` commands: {source}")]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing would destroy something that cannot be had back.
    #[error("{path} exists and would be overwritten: {hint}")]
    Exists {
        /// Which.
        path: PathBuf,
        /// What to do instead.
        hint: &'static str,
    },
    /// There is no authority in the directory.
    #[error("{dir} holds no CA ({missing} is missing): make one with `pki init {dir}`")]
    NoAuthority {
        /// The directory looked at.
        dir: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// A file does not contain what its name says.
    #[error("{path} is not a usable {what}: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// `ca.crt` and `ca.key` come from different authorities.
    #[error("{dir}/ca.key is not the key of {dir}/ca.crt: restore the pair that belongs together")]
    KeyMismatch {
        /// The directory looked at.
        dir: PathBuf,
    },
    /// The certificate to revoke comes from another authority.
    #[error("{path} was not issued by the CA in {dir}: a CA can revoke its own certificates only")]
    NotIssuedHere {
        /// The certificate.
        path: PathBuf,
        /// The authority's directory.
        dir: PathBuf,
    },
    /// The certificate to revoke is the authority itself.
    #[error(
        "{path} is the CA itself, which no list can revoke: take it out of `client_ca` instead"
    )]
    RevokesItself {
        /// The certificate.
        path: PathBuf,
    },
    /// A name that a certificate cannot carry, or that the balancer would refuse.
    #[error("{kind} {value:?} cannot be used: {reason}")]
    Name {
        /// Which kind of name: `--cn`, `--dns`, `--uri`, `--out`.
        kind: &'static str,
        /// The name given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A validity that is zero or beyond what certificates can express.
    #[error("{0} days is no usable validity: give 1 to {MAX_DAYS}")]
    Days(u32),
    /// The authority's own certificate has expired.
    #[error(
        "the CA's own certificate has expired: make a new one with `pki init` in another directory"
    )]
    AuthorityExpired,
    /// The cryptographic library refused.
    #[error("cannot make the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// What a leaf certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Usage {
    /// Both ends of a connection.
    #[default]
    Both,
    /// Servers only.
    Server,
    /// Clients only.
    Client,
}

/// What a leaf certificate should say.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    /// The common name.
    pub cn: String,
    /// DNS names. One leading `*.` is allowed, for servers.
    pub dns: Vec<String>,
    /// URIs, for example a SPIFFE ID.
    pub uris: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Days until it expires; never later than the authority itself.
    pub days: u32,
    /// Extended key usage.
    pub usage: Usage,
}

/// A leaf certificate and its key.
pub struct Issued {
    /// The leaf, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS #8, PEM.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key: this ends up in logs and test failures.
        f.debug_struct("Issued")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate authority: a certificate and the key that signs with it.
#[derive(Debug)]
pub struct Authority {
    cert: CertificateDer<'static>,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new self-signed authority, P-256, path length unrestricted.
    ///
    /// # Errors
    /// [`PkiError::Name`] or [`PkiError::Days`] for unusable arguments.
    pub fn create(cn: &str, days: u32) -> Result<Self, PkiError> {
        names::validate_cn(cn)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        let now = ASN1Time::now().to_datetime();
        params.not_before = now - BACKDATE;
        params.not_after = now + validity(days)?;
        let cert = params.self_signed(&key)?;
        Ok(Self {
            cert_pem: cert.pem(),
            cert: cert.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority that [`Authority::save`] left in `dir`. A pair made by other
    /// means, `openssl` for example, will do too.
    ///
    /// # Errors
    /// When a file is missing or not what it should be, or the two do not belong together.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let read = |name: &'static str| {
            let path = dir.join(name);
            match read_text(&path) {
                Ok(text) => Ok((path, text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Err(PkiError::NoAuthority {
                    dir: dir.to_owned(),
                    missing: name,
                }),
                Err(source) => Err(PkiError::Read { path, source }),
            }
        };
        let (cert_path, cert_text) = read(CA_CERT)?;
        let (key_path, key_text) = read(CA_KEY)?;
        let cert = certificate_from_pem(&cert_path, cert_text.as_bytes())?;
        let key = KeyPair::from_pem(&key_text).map_err(|e| PkiError::Malformed {
            path: key_path,
            what: "private key",
            reason: e.to_string(),
        })?;

        let malformed = |reason: String| PkiError::Malformed {
            path: cert_path.clone(),
            what: "CA certificate",
            reason,
        };
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&cert).map_err(|e| malformed(e.to_string()))?;
        if !parsed.is_ca() {
            return Err(malformed("it is a leaf, not a CA".into()));
        }
        let public = rcgen::PublicKeyData::subject_public_key_info(&key);
        if parsed.public_key().raw != public {
            return Err(PkiError::KeyMismatch {
                dir: dir.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key).map_err(|e| malformed(e.to_string()))?;
        Ok(Self {
            cert,
            cert_pem: cert_text,
            issuer,
        })
    }

    /// Writes `ca.key` and `ca.crt` into `dir`, which is made if need be. Returns
    /// what was written.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if either is there already: an overwritten CA key makes
    /// every certificate it issued unusable, and nothing brings it back.
    pub fn save(&self, dir: &Path) -> Result<Vec<PathBuf>, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| PkiError::Write {
            path: dir.to_owned(),
            source,
        })?;
        let (key, cert) = (dir.join(CA_KEY), dir.join(CA_CERT));
        for path in [&key, &cert] {
            refuse_existing(path, KEEP_CA)?;
        }
        let overwrite = Overwrite::Refuse { hint: KEEP_CA };
        write_private(&key, &self.issuer.key().serialize_pem(), overwrite)?;
        write_public(&cert, &self.cert_pem, overwrite)?;
        Ok(vec![cert, key])
    }

    /// The authority's certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's certificate, DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// A leaf certificate with a new P-256 key.
    ///
    /// # Errors
    /// [`PkiError::Name`] for a name that cannot be used.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, PkiError> {
        names::validate_cn(&leaf.cn)?;
        let now = ASN1Time::now().to_datetime();
        // A leaf that outlives its issuer only moves the surprise to a later day.
        let (_, ca) = x509_parser::parse_x509_certificate(&self.cert)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let ca_ends = ca.validity().not_after.to_datetime();
        if ca_ends <= now {
            return Err(PkiError::AuthorityExpired);
        }

        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, leaf.cn.as_str());
        for name in &leaf.dns {
            names::validate_dns(name)?;
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into()?));
        }
        names::validate_together(&leaf.uris)?;
        if let Some(name) = names::server_name(leaf)? {
            params.subject_alt_names.push(name);
        }
        for uri in &leaf.uris {
            names::validate_uri(uri)?;
            params
                .subject_alt_names
                .push(SanType::URI(uri.as_str().try_into()?));
        }
        params
            .subject_alt_names
            .extend(leaf.ips.iter().copied().map(SanType::IpAddress));
        // Not `NoCa`: that would leave out the subject key identifier as well.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match leaf.usage {
            Usage::Both => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        params.not_before = now - BACKDATE;
        params.not_after = (now + validity(leaf.days)?).min(ca_ends);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs `list`, valid for `days` from now; PEM.
    ///
    /// # Errors
    /// [`PkiError::Days`], or [`PkiError::Crypto`] when this CA may not sign CRLs.
    pub fn crl(&self, list: &RevocationList, days: u32) -> Result<String, PkiError> {
        list.sign(self, days)
    }
}

/// Reads the first certificate of a PEM file.
///
/// # Errors
/// [`PkiError::Read`] or [`PkiError::Malformed`].
pub fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, PkiError> {
    let pem = read_file(path).map_err(|source| PkiError::Read {
        path: path.to_owned(),
        source,
    })?;
    certificate_from_pem(path, &pem)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    leastconn_server::files::read(path, LARGEST).map(|contents| contents.bytes)
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(io::Error::other)
}

fn certificate_from_pem(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem).map_err(|e| PkiError::Malformed {
        path: path.to_owned(),
        what: "certificate (PEM)",
        reason: e.to_string(),
    })
}

fn validity(days: u32) -> Result<Duration, PkiError> {
    if days == 0 || days > MAX_DAYS {
        return Err(PkiError::Days(days));
    }
    Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// RFC 5280 allows 20 bytes and wants them positive and non-zero.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 20];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| PkiError::Random)?;
    // The top bit clear makes it positive; the next one set keeps the length fixed.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
