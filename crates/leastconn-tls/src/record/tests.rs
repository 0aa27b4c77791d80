//! The record layer against a client that behaves arbitrarily.

use super::{
    drive::{Peer, drive},
    *,
};
use proptest::prelude::*;

const UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
const UPDATE_BOTH: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];

fn peers() -> impl Iterator<Item = Peer> {
    [(true, false), (true, true), (false, false), (false, true)]
        .into_iter()
        .map(|(tls13, chacha)| Peer::new(tls13, chacha).unwrap())
}

fn peer13() -> Peer {
    Peer::new(true, false).unwrap()
}

fn given(peer: &mut Peer, kind: u8, plaintext: &[u8]) -> Result<Content, Violation> {
    let record = peer.client.seal(kind, plaintext).unwrap();
    peer.give(&record).map(|(content, _)| content)
}

#[test]
fn every_flipped_bit_is_an_error() {
    for mut peer in peers() {
        let record = peer
            .client
            .seal(content::DATA, b"forty-two bytes, or something like that")
            .unwrap();
        for bit in 0..record.len() * 8 {
            // The version of a TLS 1.3 record must be ignored (RFC 8446, 5.1).
            if peer.records.is_tls13() && (16..24).contains(&bit) {
                continue;
            }
            let mut forged = record.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(peer.give(&forged).is_err(), "bit {bit}");
        }
        // A refused record does not change the sequence number.
        assert!(peer.give(&record).is_ok());
    }
}

#[test]
fn records_are_opened_once_and_in_order() {
    for mut peer in peers() {
        let first = peer.client.seal(content::DATA, b"first").unwrap();
        let second = peer.client.seal(content::DATA, b"second").unwrap();
        assert_eq!(peer.give(&second), Err(Violation::BadRecord));
        for end in 0..first.len() {
            assert_eq!(peer.give(&first[..end]), Err(Violation::BadRecord));
        }
        assert_eq!(peer.give(&first).unwrap().1, b"first");
        assert_eq!(peer.give(&first), Err(Violation::BadRecord));
        assert_eq!(peer.give(&second).unwrap().1, b"second");
    }
}

#[test]
fn record_sizes_are_limited() {
    for mut peer in peers() {
        let most = vec![1; MAX_PLAINTEXT];
        assert_eq!(
            given(&mut peer, content::DATA, &most),
            Ok(Content::Data(MAX_PLAINTEXT))
        );
        let more = vec![1; MAX_PLAINTEXT + 1];
        assert_eq!(
            given(&mut peer, content::DATA, &more),
            Err(Violation::Oversized)
        );
    }
    let peer = peer13();
    assert_eq!(
        peer.records.length(&[23, 3, 3, 0x41, 0]),
        Ok(Some(5 + 16384 + 256))
    );
    assert_eq!(
        peer.records.length(&[23, 3, 3, 0x41, 1]),
        Err(Violation::Oversized)
    );
    for odd in [
        [19, 3, 3, 0, 30],
        [20, 3, 3, 0, 1],
        [24, 3, 3, 0, 30],
        [23, 2, 3, 0, 30],
    ] {
        assert_eq!(peer.records.length(&odd), Err(Violation::Unexpected));
    }
    // The payload is shorter than a tag.
    assert_eq!(
        peer.records.length(&[23, 3, 3, 0, 15]),
        Err(Violation::BadRecord)
    );
}

#[test]
fn padding_is_removed_and_padding_alone_refused() {
    let mut peer = peer13();
    // `seal` with type 0 appends a zero byte, which is padding.
    let record = peer
        .client
        .seal(0, &[b'a', b'b', content::DATA, 0, 0, 0])
        .unwrap();
    assert_eq!(peer.give(&record).unwrap().1, b"ab");
    let record = peer.client.seal(0, &[0; 100]).unwrap();
    assert_eq!(peer.give(&record), Err(Violation::Unexpected));
}

#[test]
fn unencrypted_record_after_handshake_is_refused() {
    for plain in [
        [20, 3, 3, 0, 1, 1].as_slice(),
        &[21, 3, 3, 0, 2, 1, 0],
        &[22, 3, 3, 0, 1, 24],
    ] {
        for mut peer in peers() {
            assert!(peer.give(plain).is_err());
        }
    }
}

#[test]
fn key_update_is_processed_and_answered_once() {
    let mut peer = peer13();
    for _ in 0..3 {
        assert_eq!(
            given(&mut peer, content::HANDSHAKE, &UPDATE_BOTH),
            Ok(Content::Nothing)
        );
        peer.client.rekey().unwrap();
    }
    assert_eq!(
        given(&mut peer, content::DATA, b"new"),
        Ok(Content::Data(3))
    );
    let mut out = [0; 200];
    let length = peer.records.seal(b"answer", &mut out).unwrap();
    let seen = peer.client.back(&out[..length]).unwrap();
    assert_eq!(
        seen,
        [
            (content::HANDSHAKE, UPDATE.to_vec()),
            (content::DATA, b"answer".to_vec())
        ]
    );
    assert_eq!(
        given(&mut peer, content::HANDSHAKE, &UPDATE),
        Ok(Content::Nothing)
    );
    assert!(!peer.records.has_pending_control());
    // This record is sealed under the old keys.
    assert_eq!(
        given(&mut peer, content::DATA, b"old"),
        Err(Violation::BadRecord)
    );
}

#[test]
fn fragmented_key_update_is_accepted_alone_only() {
    let mut peer = peer13();
    for byte in UPDATE {
        assert_eq!(
            given(&mut peer, content::HANDSHAKE, &[byte]),
            Ok(Content::Nothing)
        );
    }
    peer.client.rekey().unwrap();
    assert_eq!(
        given(&mut peer, content::DATA, b"new"),
        Ok(Content::Data(3))
    );
    assert_eq!(
        given(&mut peer, content::HANDSHAKE, &UPDATE[..3]),
        Ok(Content::Nothing)
    );
    assert_eq!(
        given(&mut peer, content::DATA, b"between"),
        Err(Violation::Unexpected)
    );

    let mut two = UPDATE.to_vec();
    two.extend(UPDATE);
    let refused: [(&[u8], Violation); 7] = [
        (&two, Violation::Unexpected),
        (&[], Violation::Unexpected),
        (&[KEY_UPDATE, 0, 0, 1, 2], Violation::IllegalKeyUpdate),
        (&[KEY_UPDATE, 0, 0, 2, 0], Violation::MalformedKeyUpdate),
        (&[KEY_UPDATE, 0, 0, 0], Violation::MalformedKeyUpdate),
        (&[CLIENT_HELLO, 0, 0, 0], Violation::Unexpected),
        // A session ticket, which only servers send.
        (&[4, 0, 0, 1, 0], Violation::Unexpected),
    ];
    for (message, violation) in refused {
        let mut peer = peer13();
        assert_eq!(
            given(&mut peer, content::HANDSHAKE, message),
            Err(violation),
            "{message:?}"
        );
    }
}

#[test]
fn control_record_floods_end_the_connection() {
    let mut peer = peer13();
    let mut followed = 0;
    let ended = loop {
        match given(&mut peer, content::HANDSHAKE, &UPDATE_BOTH) {
            Ok(_) => followed += 1,
            Err(why) => break why,
        }
        peer.client.rekey().unwrap();
        assert_eq!(given(&mut peer, content::DATA, b"x"), Ok(Content::Data(1)));
        assert!(followed < 10_000);
    };
    assert_eq!(ended, Violation::TooManyControlRecords);
    assert!(followed >= 100);

    for mut peer in peers() {
        let mut empty = || given(&mut peer, content::DATA, b"");
        let followed = (0..100).take_while(|_| empty().is_ok()).count();
        assert_eq!(followed, usize::from(EMPTY_IN_A_ROW));
    }
}

#[test]
fn alerts_depend_on_the_version() {
    for mut peer in peers() {
        let tls13 = peer.records.is_tls13();
        assert_eq!(
            given(&mut peer, content::ALERT, &[1, 90]),
            Ok(Content::Nothing)
        );
        // Description 41 is no_certificate.
        let warning = given(&mut peer, content::ALERT, &[1, 41]);
        let expected = if tls13 {
            Err(Violation::Alerted(41))
        } else {
            Ok(Content::Nothing)
        };
        assert_eq!(warning, expected);
        assert_eq!(
            given(&mut peer, content::ALERT, &[2, 40]),
            Err(Violation::Alerted(40))
        );
        assert_eq!(
            given(&mut peer, content::ALERT, &[]),
            Err(Violation::Unexpected)
        );
        for odd in [[1].as_slice(), &[3, 0], &[1, 0, 0]] {
            assert_eq!(
                given(&mut peer, content::ALERT, odd),
                Err(Violation::IllegalAlert)
            );
        }
        assert_eq!(given(&mut peer, content::ALERT, &[1, 0]), Ok(Content::End));
    }
}

#[test]
fn renegotiation_is_refused_once() {
    let mut peer = Peer::new(false, false).unwrap();
    let hello = [CLIENT_HELLO, 0, 0, 2, 3, 3];
    assert_eq!(
        given(&mut peer, content::HANDSHAKE, &hello),
        Ok(Content::Nothing)
    );
    let mut out = [0; 200];
    let length = peer.records.seal(b"goes on", &mut out).unwrap();
    let seen = peer.client.back(&out[..length]).unwrap();
    assert_eq!(seen[0], (content::ALERT, vec![WARNING, 100]));
    assert_eq!(seen[1], (content::DATA, b"goes on".to_vec()));
    assert_eq!(
        given(&mut peer, content::HANDSHAKE, &hello),
        Err(Violation::Unexpected)
    );
}

#[test]
fn key_limits_are_enforced() {
    let mut peer = peer13();
    peer.records.limit = 4;
    let mut updates = 0;
    for _ in 0..30 {
        let mut out = [0; 200];
        let length = peer.records.seal(b"data", &mut out).unwrap();
        let seen = peer.client.back(&out[..length]).unwrap();
        updates += seen
            .iter()
            .filter(|(kind, _)| *kind == content::HANDSHAKE)
            .count();
        assert_eq!(seen.last().unwrap().1, b"data");
        assert!(peer.records.sent < 4);
    }
    // A key seals four records: three with data and the KeyUpdate.
    assert_eq!(updates, 9);

    let mut peer = Peer::new(false, false).unwrap();
    peer.records.limit = 4;
    let mut out = [0; 200];
    for _ in 0..3 {
        peer.records.seal(b"data", &mut out).unwrap();
    }
    assert_eq!(
        peer.records.seal(b"data", &mut out),
        Err(Violation::Exhausted)
    );
}

proptest! {
    /// The property that the fuzz target checks, with data that is likely to pass the first
    /// checks.
    #[test]
    fn arbitrary_client_does_not_break_the_records(
        setting in 0_u8..4,
        ops in prop::collection::vec(
            (
                prop_oneof![4 => 0x74_u8..0x78, 1 => Just(0x60_u8), 2 => any::<u8>()],
                prop_oneof![
                    Just(UPDATE.to_vec()),
                    Just(UPDATE_BOTH.to_vec()),
                    prop::collection::vec(any::<u8>(), 0..40),
                ],
            ),
            0..40,
        ),
    ) {
        let mut data = vec![setting];
        for (op, body) in ops {
            data.push(op);
            data.push(body.len() as u8);
            data.extend(body);
        }
        drive(&data);
    }
}
