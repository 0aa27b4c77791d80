//! Error texts for the errors of rustls and rustls-webpki, whose own texts are the names of
//! their types.

use std::fmt::Debug;

use rustls::{CertificateError, Error, InvalidMessage};

/// The text for an error in the certificate of `whose` or of one of its issuers, with a
/// remedy. Errors that concern CAs, CRLs or names have better texts where those are known.
pub fn certificate(whose: &str, error: &CertificateError) -> String {
    use CertificateError as C;
    let itself = format!("{whose} certificate");
    let any = format!("{itself}, or one above it,");
    match error {
        C::BadEncoding => format!("{any} is not well-formed"),
        C::UnhandledCriticalExtension => critical(&any),
        C::UnsupportedSignatureAlgorithmContext { .. } => format!(
            "{any} is signed with an algorithm that is not supported: issue it anew, with SHA-256 \
             or better"
        ),
        C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            format!("{any} is signed with an algorithm that is not for its issuer's key")
        }
        // The text of webpki's errors is their name.
        C::Other(other) => match &*other.0.to_string() {
            "UnsupportedCertVersion" => format!(
                "{any} is of X.509 version 1, which is not supported: issue it anew, with \
                 extensions (`openssl x509 -req -extfile ...`)"
            ),
            "CaUsedAsEndEntity" => format!(
                "{itself} is an authority's (CA:TRUE): issue one with CA:FALSE, and show that"
            ),
            "EndEntityUsedAsCa" => {
                format!("{itself} was issued with a certificate that is no authority's (CA:FALSE)")
            }
            "PathLenConstraintViolated" => format!(
                "there are more authorities above {itself} than one of them allows (path length)"
            ),
            "NameConstraintViolation" => format!(
                "name constraints of an authority above {itself} do not allow its names, or cannot \
                 be checked"
            ),
            "UnsupportedCriticalExtension" => critical(&any),
            "EmptyEkuExtension" => {
                format!("{any} has an extended key usage that is empty, and so is for nothing")
            }
            // A text, not the name of an error.
            sentence if sentence.contains(' ') => sentence.to_owned(),
            other => format!("{any} cannot be used: {}", spelled(other)),
        },
        other => format!("{any} cannot be used: {}", spelled(&format!("{other:?}"))),
    }
}

fn critical(any: &str) -> String {
    format!("{any} has an extension that is marked critical and not supported")
}

/// Why a CRL cannot be used.
pub fn crl(error: &webpki::Error) -> String {
    use webpki::Error as E;
    match error {
        E::UnsupportedDeltaCrl => {
            "it is a delta, which says only what has changed: a complete one is needed".to_owned()
        }
        E::UnsupportedIndirectCrl => {
            "it is of certificates of other issuers too, which is not supported: every issuer \
             needs a list of its own"
                .to_owned()
        }
        E::UnsupportedRevocationReasonsPartitioning => {
            "it is of some revocation reasons only, which is not supported".to_owned()
        }
        E::UnsupportedCrlIssuingDistributionPoint => {
            "it is of a part of its issuer's certificates and names no distribution point by its \
             full name, which is not supported"
                .to_owned()
        }
        E::UnsupportedCriticalExtension => {
            "it has an extension that is marked critical and not supported".to_owned()
        }
        E::BadDer | E::BadDerTime | E::MalformedExtensions | E::TrailingData(_) => {
            "it is not well-formed".to_owned()
        }
        other => spelled(&format!("{other:?}")),
    }
}

/// The text for an error of rustls.
pub fn error(error: &Error) -> String {
    match error {
        Error::InvalidMessage(why) => format!("what it sent is no TLS: {}", message(why)),
        Error::InappropriateMessage { got_type, .. } => {
            format!("a message came out of turn: {}", spelled_as(got_type))
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("a message came out of turn: {}", spelled_as(got_type))
        }
        Error::PeerIncompatible(why) => {
            format!("it has nothing in common with us: {}", spelled_as(why))
        }
        Error::PeerMisbehaved(why) => {
            format!("it does not keep to the protocol: {}", spelled_as(why))
        }
        Error::InvalidCertificate(error) => certificate("the", error),
        Error::InvalidEncryptedClientHello(why) => spelled_as(why),
        Error::InconsistentKeys(why) => spelled_as(why),
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The text for an invalid message.
pub fn message(why: &InvalidMessage) -> String {
    spelled_as(why)
}

/// The name of an error in words: `NoCipherSuitesInCommon` becomes "no cipher suites in
/// common".
pub fn spelled_as(what: &impl Debug) -> String {
    spelled(&format!("{what:?}"))
}

fn spelled(name: &str) -> String {
    // The fields follow the name.
    let end = name.find(|c: char| !c.is_ascii_alphanumeric());
    let mut words: Vec<String> = Vec::new();
    for c in name[..end.unwrap_or(name.len())].chars() {
        match words.last_mut() {
            Some(word) if !c.is_ascii_uppercase() => word.push(c),
            _ => words.push(c.to_ascii_lowercase().into()),
        }
    }
    let words: Vec<_> = words
        .iter()
        .map(|word| match &**word {
            "tls" => "TLS",
            "tls12" => "TLS 1.2",
            "tls13" => "TLS 1.3",
            "kx" => "key exchange",
            "psk" => "PSK",
            "ccs" => "ChangeCipherSpec",
            other => other,
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::{fmt, sync::Arc};

    use rustls::{OtherError, PeerIncompatible};

    use super::*;

    /// Displayed like webpki's errors.
    #[derive(Debug)]
    struct Named(&'static str);

    impl fmt::Display for Named {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Named {}

    fn of(name: &'static str) -> String {
        let error = CertificateError::Other(OtherError(Arc::new(Named(name))));
        certificate("the client's", &error)
    }

    #[test]
    fn what_has_no_sentence_of_its_own_is_spelled() {
        assert_eq!(
            of("MaximumPathDepthExceeded"),
            "the client's certificate, or one above it, cannot be used: maximum path depth \
             exceeded"
        );
        assert_eq!(
            of("TrailingData(Certificate)"),
            "the client's certificate, or one above it, cannot be used: trailing data"
        );
        assert_eq!(
            error(&Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled
            )),
            "it has nothing in common with us: TLS 1.2 not offered or enabled"
        );
        assert_eq!(
            error(&Error::InvalidMessage(InvalidMessage::MissingData("Hello"))),
            "what it sent is no TLS: missing data"
        );
    }

    #[test]
    fn what_happens_often_says_what_to_do() {
        for (name, said) in [
            (
                "UnsupportedCertVersion",
                "version 1, which is not supported: issue it anew",
            ),
            (
                "CaUsedAsEndEntity",
                "is an authority's (CA:TRUE): issue one with CA:FALSE",
            ),
            ("EndEntityUsedAsCa", "is no authority's (CA:FALSE)"),
            ("NameConstraintViolation", "do not allow its names"),
        ] {
            assert!(of(name).contains(said), "{}", of(name));
            assert!(!of(name).contains(name), "{}", of(name));
        }
    }
}
