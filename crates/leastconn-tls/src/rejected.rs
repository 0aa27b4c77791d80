//! The certificate for which a handshake was refused.
//!
//! All connections of a listener share one verifier, which can return only an error to
//! rustls. The verifier leaves further details in a task-local slot of the handshake's
//! future. The slot exists only while that future is polled. Therefore verification outside
//! a handshake (re-authorization, resumption) leaves nothing, and details of different
//! clients cannot be mixed up.
//!
//! A verifier per connection would achieve the same, but would need a `ServerConfig` per
//! connection.

use std::{borrow::Cow, cell::RefCell};

use jiff::Timestamp;
use x509_parser::{certificate::X509CertificateParser, nom::Parser, x509::X509Name};

use crate::certificate;

tokio::task_local! {
    static REJECTED: RefCell<Option<Rejected>>;
}

/// Maximum length of a name in characters.
const LONGEST: usize = 256;

/// A rejected certificate and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    /// The contents of the certificate, if it can be parsed.
    pub(super) certificate: Option<Box<RejectedCertificate>>,
    /// The error text, if it says more than the error of rustls.
    pub(super) detail: Option<String>,
}

/// The contents of a certificate that was not verified: none of them can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedCertificate {
    /// The serial number in hex, as `openssl x509 -serial` prints it.
    pub serial: String,
    pub subject: String,
    pub issuer: String,
    /// `notAfter`, if it is a valid time.
    pub not_after: Option<Timestamp>,
}

impl RejectedCertificate {
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        // Do not parse the contents of extensions: parsing tens of thousands of names takes
        // milliseconds.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (_, certificate) = parser.parse(der).ok()?;
        let not_after = certificate.validity().not_after.timestamp();
        Some(Self {
            serial: bounded(&certificate::serial(certificate.raw_serial())).into_owned(),
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            not_after: Timestamp::from_second(not_after).ok(),
        })
    }
}

fn name(name: &X509Name<'_>) -> String {
    bounded(&name.to_string()).into_owned()
}

fn bounded(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Runs a handshake with a slot for the rejected certificate.
pub(super) async fn with_slot<F: Future>(handshake: F) -> F::Output {
    REJECTED.scope(RefCell::default(), handshake).await
}

/// Stores a rejected certificate in the slot of the handshake that is being polled, if
/// there is a slot. Replaces an earlier certificate.
pub(super) fn put(der: &[u8], detail: Option<String>) {
    let _ = REJECTED.try_with(|slot| {
        slot.replace(Some(Rejected {
            certificate: RejectedCertificate::from_der(der).map(Box::new),
            detail,
        }));
    });
}

/// Takes the rejected certificate of the handshake that is being polled.
pub(super) fn take() -> Option<Rejected> {
    REJECTED.try_with(RefCell::take).ok().flatten()
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::TestCa;

    use super::*;

    #[test]
    fn long_names_are_cut() {
        let ca = TestCa::new("some CA");
        let leaf = ca.leaf("x").ou(&"y".repeat(5000)).build();
        let presented = RejectedCertificate::from_der(leaf.der()).unwrap();
        assert_eq!(presented.serial, leaf.serial_hex.to_uppercase());
        assert_eq!(presented.issuer, "CN=some CA");
        assert!(
            presented.subject.starts_with("CN=x, OU=yyy"),
            "{presented:?}"
        );
        assert_eq!(presented.subject.chars().count(), LONGEST + 1);
        let wide = ca.leaf(&"ä".repeat(1000)).build();
        assert!(
            RejectedCertificate::from_der(wide.der())
                .unwrap()
                .subject
                .ends_with("ä…")
        );
        assert_eq!(RejectedCertificate::from_der(&leaf.der()[1..]), None);
    }

    fn subject() -> Option<String> {
        Some(take()?.certificate?.subject)
    }

    #[tokio::test]
    async fn slot_belongs_to_one_handshake() {
        let ca = TestCa::new("some CA");
        let [one, two, three] = ["one", "two", "three"].map(|name| ca.leaf(name).build());
        // There is no slot outside a handshake, for example in re-authorization.
        put(one.der(), None);
        let handshake = |cert: leastconn_testkit::pki::Cert| async move {
            assert_eq!(take(), None);
            put(cert.der(), None);
            // Another handshake runs on this thread meanwhile.
            tokio::task::yield_now().await;
            subject()
        };
        let both = tokio::join!(
            with_slot(handshake(two)),
            with_slot(handshake(three)),
            async { assert_eq!(take(), None) }
        );
        assert_eq!(both.0.as_deref(), Some("CN=two"));
        assert_eq!(both.1.as_deref(), Some("CN=three"));
    }
}
