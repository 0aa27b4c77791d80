//! A small certificate authority, for tests, demonstrations and small sites.
//!
//! A directory holds one self-signed P-256 CA (`ca.crt`, `ca.key`, `ca.crl`) and the
//! certificates that it issued. There is no database: the CRL is the only state, so it
//! always agrees with what the balancer enforces. If `openssl ca` uses the same directory, the
//! revocations in its database are added to the CRL. Commands that change it hold a [`Lock`]
//! from reading it to writing it.
//!
//! Profile: RFC 5280. Serial numbers are 20 random bytes, so a CA restored from a backup
//! does not reuse a serial number. `notBefore` is five minutes in the past, to allow for clock
//! skew.

mod files;
mod lock;
mod names;
mod openssl;
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

pub const CA_CERT: &str = "ca.crt";
pub const CA_KEY: &str = "ca.key";
pub const CA_CRL: &str = "ca.crl";

/// Maximum validity period: one hundred years. A certificate cannot express dates after the year
/// 9999.
pub const MAX_DAYS: u32 = 36_500;

/// Maximum file size. A CRL with a million entries takes about 40 MB.
const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;

const KEEP_CA: &str = "choose another directory, or move the old CA away first";

const BACKDATE: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot lock {path} against other `pki` commands: {source}")]
    Lock { path: PathBuf, source: io::Error },
    /// Writing would overwrite a file that cannot be restored.
    #[error("{path} exists and would be overwritten: {hint}")]
    Exists {
        path: PathBuf,
        /// What to do instead.
        hint: &'static str,
    },
    #[error(
        "there is no CA in {dir} ({CA_CERT} is missing): name the directory of a CA, or create a CA with \
         `pki init {dir}`"
    )]
    NoAuthority { dir: PathBuf },
    #[error(
        "{path} is not a directory: name the directory of a CA, as created with `pki init DIR`"
    )]
    NotDirectory { path: PathBuf },
    #[error(
        "the CA in {dir} has no key ({CA_KEY} is missing): restore the key from a backup, or name the \
         directory that has it"
    )]
    NoKey { dir: PathBuf },
    /// A new CRL would lose the revocations of the missing one.
    #[error(
        "the CA in {dir} has no CRL ({CA_CRL} is missing): copy its current CRL to {dir}/{CA_CRL}. If it \
         has never signed a CRL, create an empty one with `pki crl {dir} --new`"
    )]
    NoCrl { dir: PathBuf },
    /// A file has unexpected content.
    #[error("{path} is not a usable {what}: {reason}")]
    Malformed {
        path: PathBuf,
        /// Expected content.
        what: &'static str,
        reason: String,
    },
    #[error("{dir}/ca.key is not the key of {dir}/ca.crt: restore the matching pair")]
    KeyMismatch { dir: PathBuf },
    #[error("{path} was not issued by the CA in {dir}: a CA can only revoke its own certificates")]
    NotIssuedHere { path: PathBuf, dir: PathBuf },
    #[error(
        "{path} is the CA certificate, which a CRL cannot revoke: remove it from `client_ca` instead"
    )]
    RevokesItself { path: PathBuf },
    /// A name that a certificate cannot contain, or that the balancer would refuse.
    #[error("{kind} {value:?} cannot be used: {reason}")]
    Name {
        /// Kind of name, such as "the DNS name".
        kind: &'static str,
        value: String,
        reason: String,
    },
    #[error("{0} days is not a valid validity period: use 1 to {MAX_DAYS}")]
    Days(u32),
    #[error("the CA certificate has expired: create a new CA with `pki init` in another directory")]
    AuthorityExpired,
    #[error("cannot create the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
    #[error("the system provides no random numbers")]
    Random,
}

/// Extended key usage of a leaf certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Usage {
    #[default]
    Both,
    Server,
    Client,
}

/// Content of a leaf certificate.
#[derive(Debug, Clone, Default)]
pub struct Leaf {
    pub cn: String,
    /// DNS names. A leading `*.` is allowed.
    pub dns: Vec<String>,
    /// URIs, such as a SPIFFE ID.
    pub uris: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// Validity of the certificate in days. It never outlasts the CA.
    pub days: u32,
    pub usage: Usage,
}

/// A leaf certificate and its key.
pub struct Issued {
    /// Certificate, PEM.
    pub cert_pem: String,
    /// Private key, PKCS #8, PEM.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Omit the key, which must not appear in logs.
        f.debug_struct("Issued")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate authority: certificate and private key.
#[derive(Debug)]
pub struct Authority {
    cert: CertificateDer<'static>,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates a self-signed P-256 CA without a path length constraint.
    ///
    /// # Errors
    /// [`PkiError::Name`] or [`PkiError::Days`] for invalid arguments.
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

    /// Loads the CA from `dir`. The files may have been written by [`Authority::save`] or by
    /// another program such as `openssl`.
    ///
    /// # Errors
    /// If a file is missing or invalid, or the key does not match the certificate.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let read = |name: &'static str| {
            let path = dir.join(name);
            match read_text(&path) {
                Ok(text) => Ok((path, text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let dir = dir.to_owned();
                    Err(match name {
                        CA_KEY => PkiError::NoKey { dir },
                        _ => PkiError::NoAuthority { dir },
                    })
                }
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

    /// Writes `ca.key` and `ca.crt` to `dir`, which is created if necessary. Returns the
    /// paths.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if one of them exists: a CA key that was overwritten cannot be
    /// restored.
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

    /// CA certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// CA certificate, DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// Issues a leaf certificate with a new P-256 key.
    ///
    /// # Errors
    /// [`PkiError::Name`] for an invalid name.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, PkiError> {
        names::validate_cn(&leaf.cn)?;
        let now = ASN1Time::now().to_datetime();
        // Limit the leaf's validity to that of the CA: once the CA has expired, the leaf is
        // rejected although its own expiry date is later.
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
        // `NoCa` would also omit the subject key identifier.
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

    /// Signs `list`, valid for `days` from now. Returns the PEM.
    ///
    /// # Errors
    /// [`PkiError::Days`], or [`PkiError::Crypto`] if this CA must not sign CRLs.
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
    leastconn_config::files::read(path, MAX_FILE_SIZE).map(|contents| contents.bytes)
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(io::Error::other)
}

fn certificate_from_pem(path: &Path, pem: &[u8]) -> Result<CertificateDer<'static>, PkiError> {
    use rustls::pki_types::pem::Error;
    CertificateDer::from_pem_slice(pem).map_err(|e| PkiError::Malformed {
        path: path.to_owned(),
        what: "certificate (PEM)",
        reason: match e {
            Error::NoItemsFound => "there is no certificate in it".to_owned(),
            other => other.to_string(),
        },
    })
}

fn validity(days: u32) -> Result<Duration, PkiError> {
    if days == 0 || days > MAX_DAYS {
        return Err(PkiError::Days(days));
    }
    Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// Returns a random serial number. RFC 5280 requires a positive number of at most 20 bytes.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 20];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| PkiError::Random)?;
    // Clear the top bit, so that the number is positive. Set the next bit, so that the
    // number always has 20 bytes.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
