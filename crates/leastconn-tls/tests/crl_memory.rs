//! Tests that a large CRL takes little memory: CRLs can have a million entries.
//!
//! The test has its own binary, because the allocator counts the memory of the whole process.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use leastconn_tls::crl::EncodedList;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const ENTRIES: usize = 200_000;
const SERIAL: usize = 20;

fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

/// A CRL without extensions, and with a signature of zeros.
fn crl() -> Vec<u8> {
    const ECDSA_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    const TIME: &[u8] = b"\x17\x0d260101000000Z";
    const NAME: &[u8] = b"\x30\x0d\x31\x0b\x30\x09\x06\x03\x55\x04\x03\x0c\x02ca";
    let mut entries = Vec::new();
    for number in 0..ENTRIES as u64 {
        let mut serial = [0x5a; SERIAL];
        serial[1..9].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        entries.extend([0x30, 2 + SERIAL as u8 + 15, 0x02, SERIAL as u8]);
        entries.extend(serial);
        entries.extend(TIME);
    }
    let entries = encode(0x30, &entries);
    let version: &[u8] = &[2, 1, 1];
    let signed = [version, ECDSA_SHA256, NAME, TIME, TIME, &entries].concat();
    let signature: &[u8] = &[3, 3, 0, 0, 0];
    let content = [&encode(0x30, &signed), ECDSA_SHA256, signature].concat();
    encode(0x30, &content)
}

#[test]
fn memory_of_a_large_crl_is_bounded() {
    let der = crl();
    let size = der.len();
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let encoded = EncodedList::parse(der.into()).unwrap();
    let peak = (ALLOCATED.peak_usage() - before) / ENTRIES;
    let list = encoded.into_list();
    assert_eq!(list.serials().count(), ENTRIES);
    // Without the encoding, which was allocated before.
    let kept = (ALLOCATED.current_usage() + size - before) / ENTRIES;
    assert!(kept <= SERIAL + 4, "{kept} bytes for each entry");
    assert!(
        peak <= 2 * SERIAL + 40,
        "{peak} bytes for each entry while parsing"
    );
}
