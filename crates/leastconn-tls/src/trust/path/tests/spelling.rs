//! Names that are equal under RFC 5280 but are encoded differently.

use super::*;

#[test]
fn issuer_names_are_compared_as_in_rfc_5280() {
    for spelling in Spelling::ALL {
        let chain = Chain::new(root(), client("c1"), spelling);
        let is_same = spelling != Spelling::OtherName;
        assert_eq!(chain.verify().is_ok(), is_same, "{spelling:?}");
        assert_eq!(chain.handshake(), is_same, "{spelling:?}");
    }
}

#[test]
fn intermediate_with_other_spelling_is_found() {
    let mut chain = Chain::simple(client("unused"));
    let root_key = KeyPair::generate().unwrap();
    chain.root = root().self_signed(&root_key).unwrap().der().clone();
    let mut issuer = root();
    issuer.distinguished_name = named("Field Enc CA", Spelling::Printable).distinguished_name;
    let key = KeyPair::generate().unwrap();
    let middle = authority("Middle CA", Spelling::Same);
    let middle_der = middle
        .signed_by(&key, &Issuer::new(issuer, root_key))
        .unwrap();
    let issuer = Issuer::new(authority("Middle CA", Spelling::OtherCase), key);
    let leaf = client("c1").signed_by(&chain.key, &issuer).unwrap();
    chain.leaf = leaf.der().clone();
    chain.above = vec![middle_der.der().clone()];
    chain.verify().unwrap();
    assert!(chain.handshake());
}

#[test]
fn signature_of_another_spelling_is_not_accepted() {
    // The forged certificate has the signature of a certificate for `alice`, but the name `ALICE`.
    // Under RFC 5280, the two names are equal.
    let good = Chain::simple(client("alice"));
    let forged: Vec<u8> = {
        let bytes = good.leaf.to_vec();
        let at = bytes.windows(5).position(|w| w == b"alice").unwrap();
        let mut bytes = bytes;
        bytes[at..at + 5].copy_from_slice(b"ALICE");
        bytes
    };
    let forged = CertificateDer::from(forged);
    for above in [vec![], vec![good.leaf.clone()]] {
        let chain = Chain {
            root: good.root.clone(),
            above,
            leaf: forged.clone(),
            key: KeyPair::generate().unwrap(),
        };
        assert!(chain.verify().is_err());
    }
    // The forged certificate must also be refused if the chain is rewritten because of the
    // encoding of the issuer's name.
    let good = Chain::new(root(), client("alice"), Spelling::OtherCase);
    good.verify().unwrap();
    let mut bytes = good.leaf.to_vec();
    let at = bytes.windows(5).position(|w| w == b"alice").unwrap();
    bytes[at..at + 5].copy_from_slice(b"ALICE");
    for above in [vec![], vec![good.leaf.clone()]] {
        let chain = Chain {
            root: good.root.clone(),
            above,
            leaf: CertificateDer::from(bytes.clone()),
            key: KeyPair::generate().unwrap(),
        };
        assert!(chain.verify().is_err());
    }
}
