use leastconn_testkit::TestCa;

use super::*;
use crate::{
    certificate::MAX_NAMES,
    der::{VERSION, encode},
};

/// A certificate without a valid signature. Key and signature are empty.
fn certificate(issuer: &[u8], subject: &[u8], extensions: usize) -> CertificateDer<'static> {
    let extension = encode(SEQUENCE, &[0x06, 2, 0x2a, 3, 0x04, 0]);
    let extensions = encode(SEQUENCE, &extension.repeat(extensions));
    let fields = [
        encode(VERSION, &[2, 1, 2]),
        encode(0x02, &[1]),
        encode(SEQUENCE, &[]),
        issuer.to_vec(),
        encode(SEQUENCE, &[]),
        subject.to_vec(),
        encode(SEQUENCE, &[]),
        encode(EXTENSIONS, &extensions),
    ];
    encode(SEQUENCE, &encode(SEQUENCE, &fields.concat())).into()
}

/// A name with `relative_names` relative names, each of which has `attributes` attributes.
fn name(relative_names: usize, attributes: usize) -> Vec<u8> {
    let attribute = encode(SEQUENCE, &[0x06, 1, 0x2a, 0x0c, 0]);
    let relative_name = encode(SET, &attribute.repeat(attributes));
    encode(SEQUENCE, &relative_name.repeat(relative_names))
}

fn elements(der: &[u8]) -> Elements {
    let mut elements = Elements::default();
    elements.count(der);
    elements
}

#[test]
fn elements_of_a_certificate_are_counted() {
    let ca = TestCa::new("some CA");
    let leaf = ca.leaf("a").ou("b").joined_ou("c").dns("d.example").build();
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf.der()).unwrap();
    let expected = Elements {
        extensions: parsed.extensions().len(),
        attributes: 4,
    };
    assert_eq!(elements(leaf.der()), expected);
    let version_1 = ca.leaf("a").version_1().build();
    assert_eq!(elements(version_1.der()).attributes, 2);
}

#[test]
fn extensions_of_every_certificate_are_limited() {
    let plain = certificate(&name(1, 1), &name(1, 1), MAX_EXTENSIONS);
    let large = certificate(&name(1, 1), &name(1, 1), MAX_EXTENSIONS + 1);
    assert_eq!(check(&plain, &[plain.clone(), plain.clone()]), Ok(()));
    let count = MAX_EXTENSIONS + 1;
    let error = check(&large, std::slice::from_ref(&plain)).unwrap_err();
    assert_eq!(error, TooManyElements::Extensions { count });
    assert_eq!(
        error.to_string(),
        "the client's certificate has 65 extensions; at most 64 are accepted"
    );
    let error = check(&plain, &[plain.clone(), large]).unwrap_err();
    assert_eq!(error, TooManyElements::IntermediateExtensions { count });
}

#[test]
fn attributes_of_a_chain_are_limited() {
    let one = certificate(&name(1, 1), &name(MAX_ATTRIBUTES / 2 - 1, 1), 0);
    assert_eq!(check(&one, std::slice::from_ref(&one)), Ok(()));
    let two = certificate(&name(1, 1), &name(1, 1), 0);
    let count = MAX_ATTRIBUTES + 2;
    assert_eq!(
        check(&one, &[one.clone(), two]),
        Err(TooManyElements::Attributes { count })
    );
    // One relative name with many attributes, and many empty relative names.
    for subject in [name(1, MAX_ATTRIBUTES), name(MAX_ATTRIBUTES, 0)] {
        let count = MAX_ATTRIBUTES + 1;
        assert_eq!(
            check(&certificate(&name(1, 1), &subject, 0), &[]),
            Err(TooManyElements::Attributes { count })
        );
    }
}

#[test]
fn largest_accepted_identity_is_within_the_limits() {
    let ca = TestCa::new("some CA");
    let leaf = (0..MAX_NAMES).fold(ca.leaf("a"), |leaf, n| {
        leaf.ou(&format!("{n}")).dns(&format!("{n}.example"))
    });
    assert_eq!(
        check(leaf.build().der(), &[ca.cert().der().clone()]),
        Ok(())
    );
}

#[test]
fn elements_before_an_encoding_error_are_counted() {
    let mut der = certificate(&name(1, 1), &name(1, 1), 3000).to_vec();
    for invalid in [0, 1, 10] {
        let cut = CertificateDer::from(der[..invalid].to_vec());
        assert_eq!(check(&cut, &[]), Ok(()));
    }
    // Damage the last extension.
    let last = der.len() - 7;
    der[last] = 0x7f;
    assert_eq!(
        check(&CertificateDer::from(der), &[]),
        Err(TooManyElements::Extensions { count: 2999 })
    );
}
