//! The certificate that caused a handshake to be refused.
//!
//! All connections of a listener share one verifier, which can return only an error to
//! rustls. The verifier stores further details in a task-local slot, which is set only while
//! the future of a handshake is polled. Therefore details of different clients cannot be
//! mixed up, and verification outside a handshake stores nothing.
//!
//! A verifier per connection would need no slot, but each connection would then need its own
//! `ServerConfig`.

use std::{borrow::Cow, cell::RefCell};

use jiff::Timestamp;
use x509_parser::{certificate::Validity, prelude::FromDer, x509::X509Name};

use crate::{
    certificate,
    der::{INTEGER, Reader, SEQUENCE, SET, encode},
};

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
    /// An error text with details that rustls' error does not contain.
    pub(super) detail: Option<String>,
}

/// The contents of a certificate that was not verified. Use them only for messages.
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
        // Parse only the fields that are reported: a certificate can have thousands of
        // extensions.
        let certificate = Reader(der).content(SEQUENCE)?;
        let mut fields = Reader::certificate_fields(certificate)?;
        let serial = fields.content(INTEGER)?;
        let _algorithm = fields.content(SEQUENCE)?;
        let issuer = name(fields.content(SEQUENCE)?)?;
        let (_, validity) = Validity::from_der(fields.whole(SEQUENCE)?).ok()?;
        let subject = name(fields.content(SEQUENCE)?)?;
        Some(Self {
            serial: bounded(&certificate::serial(serial)).into_owned(),
            subject,
            issuer,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok(),
        })
    }
}

/// Formats a name, given the content of its SEQUENCE.
fn name(content: &[u8]) -> Option<String> {
    let shortened = encode(SEQUENCE, &first_attributes(content)?);
    let (_, name) = X509Name::from_der(&shortened).ok()?;
    Some(bounded(&name.to_string()).into_owned())
}

/// The first part of a name. If the text of the whole name has more than [`LONGEST`] characters, so
/// has the text of this part: each relative name and each attribute adds at least two characters.
fn first_attributes(content: &[u8]) -> Option<Vec<u8>> {
    let mut relative_names = Reader(content);
    let mut kept = Vec::new();
    let mut left = LONGEST;
    while left > 0 && relative_names.peek().is_some() {
        let all = relative_names.content(SET)?;
        left -= 1;
        let mut attributes = Reader(all);
        while left > 0 && attributes.peek().is_some() {
            attributes.next()?;
            left -= 1;
        }
        let cut = all.len() - attributes.0.len();
        kept.extend(encode(SET, &all[..cut]));
    }
    Some(kept)
}

fn bounded(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Runs a handshake with a slot for the rejected certificate.
pub(super) fn with_slot<F: Future>(handshake: F) -> impl Future<Output = F::Output> {
    REJECTED.scope(RefCell::default(), handshake)
}

/// Stores a rejected certificate in the slot of the current handshake. Replaces any certificate
/// that was stored earlier. Does nothing outside a handshake.
pub(super) fn put(der: &[u8], detail: Option<String>) {
    let _ = REJECTED.try_with(|slot| {
        slot.replace(Some(Rejected {
            certificate: RejectedCertificate::from_der(der).map(Box::new),
            detail,
        }));
    });
}

/// Takes the rejected certificate from the slot of the current handshake.
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

    #[test]
    fn names_with_many_attributes_are_cut() {
        let ca = TestCa::new("some CA");
        for joined in [false, true] {
            let leaf = (0..2000).fold(ca.leaf("x"), |leaf, _| match joined {
                false => leaf.ou("y"),
                true => leaf.joined_ou("y"),
            });
            let presented = RejectedCertificate::from_der(leaf.build().der()).unwrap();
            let separator = if joined { " + " } else { ", " };
            let begin = format!("CN=x{separator}OU=y{separator}OU=y");
            assert!(presented.subject.starts_with(&begin), "{presented:?}");
            assert_eq!(presented.subject.chars().count(), LONGEST + 1);
            assert!(presented.subject.ends_with('…'));
        }
        let version_1 = ca.leaf("x").version_1().build();
        let presented = RejectedCertificate::from_der(version_1.der()).unwrap();
        assert_eq!(presented.subject, "CN=x");
        assert_eq!(presented.serial, version_1.serial_hex.to_uppercase());
    }

    fn subject() -> Option<String> {
        Some(take()?.certificate?.subject)
    }

    #[tokio::test]
    async fn slot_belongs_to_one_handshake() {
        let ca = TestCa::new("some CA");
        let [one, two, three] = ["one", "two", "three"].map(|name| ca.leaf(name).build());
        // Outside a handshake, `put` must do nothing.
        put(one.der(), None);
        let handshake = |cert: leastconn_testkit::pki::Cert| async move {
            assert_eq!(take(), None);
            put(cert.der(), None);
            // Let the other handshake run on this thread.
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
