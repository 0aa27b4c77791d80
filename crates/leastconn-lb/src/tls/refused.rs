//! What the certificate said that was refused.
//!
//! rustls asks a listener's verifier, which all its connections share, and hands
//! back the error alone; the certificate is gone by then. A verifier for each
//! connection would have to be made for those as well that are let in. So what was
//! refused is put down where it happens and picked up right behind the call into
//! rustls that failed, on the same thread and without waiting in between: nobody
//! else can have come by.

use std::{borrow::Cow, cell::Cell};

use jiff::Timestamp;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, x509::X509Name};

use crate::identity;

thread_local! {
    static REFUSED: Cell<Option<Box<Claimed>>> = const { Cell::new(None) };
}

/// Characters of a name that are kept: certificates may hold any number.
const LONGEST: usize = 256;

/// What a certificate says that nobody vouches for. None of it is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The serial number in hex, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// Whose it claims to be.
    pub subject: String,
    /// Who it claims to be issued by.
    pub issuer: String,
    /// Until when it is valid, if that can be told.
    pub not_after: Option<Timestamp>,
}

impl Claimed {
    pub(super) fn from_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let not_after = certificate.validity().not_after.timestamp();
        Some(Self {
            serial: bounded(&identity::serial(certificate.raw_serial())).into_owned(),
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

/// Puts down whose certificate was refused.
pub(super) fn put(der: &[u8]) {
    REFUSED.set(Claimed::from_der(der).map(Box::new));
}

/// Picks it up.
pub(super) fn take() -> Option<Box<Claimed>> {
    REFUSED.take()
}

#[cfg(test)]
mod tests {
    use leastconn_testkit::TestCa;

    use super::*;

    #[test]
    fn a_certificate_is_described_and_long_names_are_cut() {
        let ca = TestCa::new("some CA");
        let leaf = ca.leaf("x").ou(&"y".repeat(5000)).build();
        let presented = Claimed::from_der(leaf.der()).unwrap();
        assert_eq!(presented.serial, leaf.serial_hex.to_uppercase());
        assert_eq!(presented.issuer, "CN=some CA");
        assert!(
            presented.subject.starts_with("CN=x, OU=yyy"),
            "{presented:?}"
        );
        assert_eq!(presented.subject.chars().count(), LONGEST + 1);
        let wide = ca.leaf(&"ä".repeat(1000)).build();
        assert!(
            Claimed::from_der(wide.der())
                .unwrap()
                .subject
                .ends_with("ä…")
        );
        assert_eq!(Claimed::from_der(&leaf.der()[1..]), None);
    }

    #[test]
    fn it_is_picked_up_once() {
        let ca = TestCa::new("some CA");
        put(ca.leaf("one").build().der());
        put(ca.leaf("two").build().der());
        assert_eq!(take().unwrap().subject, "CN=two");
        assert_eq!(take(), None);
    }
}
