//! Encoding of counts and facts. Both start with a version of 8 bytes.

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    exchange::BlobVersion,
    keys::ServerKey,
    member::MemberStatus,
    report::{Counts, Facts, ServerCount},
};

const COUNT_LENGTH: usize = 16;

/// The version of the counts together with the status.
pub(crate) fn counts_version(counts: &Counts, status: MemberStatus) -> BlobVersion {
    let leaving = u64::from(status == MemberStatus::Leaving);
    (counts.version.wrapping_mul(2) | leaving).to_be_bytes()
}

/// Version, status (1: leaving), then for each server: key, connections, dials per second.
/// All numbers are big endian.
pub(crate) fn encode_counts(counts: &Counts, status: MemberStatus) -> Vec<u8> {
    let mut blob = Vec::with_capacity(9 + COUNT_LENGTH * counts.servers.len());
    blob.extend_from_slice(&counts_version(counts, status));
    blob.push(u8::from(status == MemberStatus::Leaving));
    for count in &counts.servers {
        blob.extend_from_slice(&count.server.0.to_be_bytes());
        blob.extend_from_slice(&count.open.to_be_bytes());
        blob.extend_from_slice(&count.dials_per_second.to_be_bytes());
    }
    blob
}

/// `None` if the encoding is invalid.
pub(crate) fn decode_counts(blob: &[u8]) -> Option<(BlobVersion, MemberStatus, Counts)> {
    let (version, rest) = blob.split_first_chunk::<8>()?;
    let (status, mut rest) = rest.split_first()?;
    let status = match status {
        0 => MemberStatus::Serving,
        _ => MemberStatus::Leaving,
    };
    let mut servers = Vec::with_capacity(rest.len() / COUNT_LENGTH);
    while !rest.is_empty() {
        let (server, tail) = rest.split_first_chunk::<8>()?;
        let (open, tail) = tail.split_first_chunk::<4>()?;
        let (dials, tail) = tail.split_first_chunk::<4>()?;
        let dials = f32::from_be_bytes(*dials);
        servers.push(ServerCount {
            server: ServerKey(u64::from_be_bytes(*server)),
            open: u32::from_be_bytes(*open),
            dials_per_second: if dials.is_finite() {
                dials.max(0.0)
            } else {
                0.0
            },
        });
        rest = tail;
    }
    let counts = Counts {
        version: u64::from_be_bytes(*version) >> 1,
        servers,
    };
    Some((*version, status, counts))
}

/// Version (a digest), then JSON.
pub(crate) fn encode_facts(facts: &Facts) -> Vec<u8> {
    // Strings and integers can always be written as JSON.
    let json = serde_json::to_vec(facts).unwrap_or_default();
    [&digest(&SHA256, &json).as_ref()[..8], &json].concat()
}

pub(crate) fn decode_facts(blob: &[u8]) -> Option<(BlobVersion, Facts)> {
    let (version, json) = blob.split_first_chunk::<8>()?;
    Some((*version, serde_json::from_slice(json).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_encoding() {
        let counts = Counts {
            version: 7,
            servers: vec![
                ServerCount {
                    server: ServerKey(u64::MAX),
                    open: 3,
                    dials_per_second: 12.5,
                },
                ServerCount {
                    server: ServerKey(0),
                    open: u32::MAX,
                    dials_per_second: 0.0,
                },
            ],
        };
        for status in [MemberStatus::Serving, MemberStatus::Leaving] {
            let blob = encode_counts(&counts, status);
            let version = counts_version(&counts, status);
            assert_eq!(
                decode_counts(&blob),
                Some((version, status, counts.clone()))
            );
            assert_eq!(decode_counts(&blob[..blob.len() - 1]), None);
        }
        assert_eq!(decode_counts(b""), None);
    }

    #[test]
    fn facts_survive_encoding() {
        let facts = Facts {
            version: "0.1.0".into(),
            host: "lb1\n\u{1b}".into(),
            config_digest: "9f86".into(),
            config_since: -1,
            connections: u64::MAX,
        };
        let blob = encode_facts(&facts);
        assert_eq!(decode_facts(&blob).map(|(_, facts)| facts), Some(facts));
        assert_eq!(decode_facts(&blob[..20]), None);
    }
}
