//! Who a client is: what its certificate says, read strictly.
//!
//! Nothing is guessed. A certificate that names its owner twice, or in text
//! that could be read in two ways, is refused as a whole, whichever rule might
//! have matched one of its readings. Types never mix: a DNS name matches `dns`
//! rules only, whatever its text looks like.
//!
//! What is here was verified by TLS before: trusted, in time, not revoked.

use std::net::IpAddr;

use leastconn::{ClientId, Reason};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What a certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, if it has one.
    pub cn: Option<String>,
    /// DNS names among the subject alternative names, in their order.
    pub dns: Vec<String>,
    /// The serial number in hex, as `openssl x509 -serial` prints it.
    pub serial: String,
}

/// A client, as far as it is known before any rule is looked at.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub source: IpAddr,
    /// What it has shown; `None` where no certificate is asked for.
    pub certificate: Option<Certificate>,
}

/// A certificate does not say one thing about who its owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It does not parse, although TLS took it.
    #[error("the certificate does not parse")]
    Unreadable,
    /// More than one common name.
    #[error("the certificate's subject has more than one common name")]
    SeveralCommonNames,
    /// A common name that is not text, or holds control characters.
    #[error("the certificate's common name is not plain text")]
    UnreadableCommonName,
    /// The same extension twice, or one that does not parse.
    #[error("the certificate's subject alternative names do not parse")]
    UnreadableAlternativeNames,
    /// A DNS name that holds what no DNS name may hold.
    #[error("a DNS name in the certificate holds control or non-ASCII characters")]
    UnreadableDnsName,
}

impl Ambiguous {
    /// The stable code.
    pub const fn reason(&self) -> Reason {
        Reason::AmbiguousIdentity
    }
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// If it is ambiguous.
    pub fn from_der(der: &[u8]) -> Result<Self, Ambiguous> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| Ambiguous::Unreadable)?;
        if !rest.is_empty() {
            return Err(Ambiguous::Unreadable);
        }
        Ok(Self {
            cn: common_name(&certificate)?,
            dns: dns_names(&certificate)?,
            serial: serial(certificate.raw_serial()),
        })
    }

    /// The certificate's own best name for itself, for connections that no rule
    /// names: the common name, else the first DNS name.
    pub fn identity(&self) -> Option<ClientId> {
        match (&self.cn, self.dns.first()) {
            (Some(cn), _) => Some(ClientId::from(format!("cn:{cn}"))),
            (None, Some(dns)) => Some(ClientId::from(format!("dns:{dns}"))),
            (None, None) => None,
        }
    }
}

impl Peer {
    /// The best name there is, for logs: the certificate's, else the address.
    pub fn identity(&self) -> ClientId {
        self.certificate
            .as_ref()
            .and_then(Certificate::identity)
            .unwrap_or_else(|| self.source_identity())
    }

    /// The address as an identity.
    pub fn source_identity(&self) -> ClientId {
        ClientId::from(format!("source:{}", self.source))
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<Option<String>, Ambiguous> {
    // Over all attributes of all relative names: `CN=a+CN=b` is two as well.
    let mut names = certificate.subject().iter_common_name();
    let Some(name) = names.next() else {
        return Ok(None);
    };
    if names.next().is_some() {
        return Err(Ambiguous::SeveralCommonNames);
    }
    let name = name.as_str().map_err(|_| Ambiguous::UnreadableCommonName)?;
    if name.chars().any(char::is_control) {
        return Err(Ambiguous::UnreadableCommonName);
    }
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

fn dns_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Ambiguous> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Ambiguous::UnreadableAlternativeNames)?;
    let mut dns = Vec::new();
    for name in names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) if name.bytes().all(|b| b.is_ascii_graphic()) => {
                dns.push(name.to_ascii_lowercase());
            }
            GeneralName::DNSName(_) => return Err(Ambiguous::UnreadableDnsName),
            GeneralName::Invalid(..) => return Err(Ambiguous::UnreadableAlternativeNames),
            _ => {}
        }
    }
    Ok(dns)
}

/// A serial number in hex, as `openssl x509 -serial` prints it.
pub fn serial(bytes: &[u8]) -> String {
    use std::fmt::Write;
    // DER puts a zero byte before a number whose first bit is set.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02X}");
            hex
        })
}

#[cfg(test)]
mod tests;
