//! Clients that operators have blocked: by identity, or by the serial number of their certificate.

mod identity;

use std::{collections::BTreeMap, fmt};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use leastconn::ClientId;
use leastconn_config::{IpNet, Prefixes, text::escape};
use leastconn_fleet::BlockTarget;
use leastconn_tls::certificate::Certificate;

pub use identity::normalize_identity;
use identity::source_network;

/// The blocks in force. Authorization reads them without a lock. If there are none, this costs one
/// atomic load.
#[derive(Debug, Default)]
pub struct Blocks(ArcSwapOption<InForce>);

#[derive(Debug)]
struct InForce {
    list: BlockList,
    /// The blocked source networks.
    sources: BTreeMap<IpNet, BlockTarget>,
}

/// Blocks, each with the time at which it expires. `None` means that it does not expire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList(pub BTreeMap<BlockTarget, Option<Timestamp>>);

/// The block that applies to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedBy {
    pub target: BlockTarget,
    pub until: Option<Timestamp>,
}

impl Blocks {
    pub fn replace(&self, list: BlockList) {
        let in_force = (!list.0.is_empty()).then(|| InForce::new(list).into());
        self.0.store(in_force);
    }

    /// Returns the block that applies to this client at `now`.
    pub fn find(
        &self,
        identity: &ClientId,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Option<BlockedBy> {
        let in_force = self.0.load();
        in_force.as_ref()?.find(identity, certificate, now)
    }
}

impl InForce {
    fn new(list: BlockList) -> Self {
        let sources = list.0.keys().filter_map(|target| match target {
            BlockTarget::Identity(identity) => Some((source_network(identity)?, target.clone())),
            BlockTarget::Serial(_) => None,
        });
        Self {
            sources: sources.collect(),
            list,
        }
    }

    fn find(
        &self,
        identity: &ClientId,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Option<BlockedBy> {
        let source = source_network(identity.as_str());
        let of_source = source.into_iter().flat_map(|source| self.of_source(source));
        let identity = BlockTarget::Identity(escape(identity.as_str()));
        let serial = certificate.and_then(|certificate| {
            let serial = normalize_serial(&certificate.serial)?;
            Some(BlockTarget::Serial(serial))
        });
        let of_client = [Some(identity), serial].into_iter().flatten();
        of_client.chain(of_source.cloned()).find_map(|target| {
            let until = *self.list.0.get(&target)?;
            let applies = until.is_none_or(|until| until > now);
            applies.then_some(BlockedBy { target, until })
        })
    }

    /// The blocked networks that contain `source` or are part of it. All addresses of `source` are
    /// one client, so a block of one address blocks this client.
    fn of_source(&self, source: IpNet) -> impl Iterator<Item = &BlockTarget> {
        let wider = (0..source.prefix()).rev().filter_map(move |prefix| {
            let prefixes = Prefixes {
                v4: prefix,
                v6: prefix,
            };
            self.sources.get(&IpNet::of(source.address(), prefixes))
        });
        // Networks are sorted by address, then by prefix.
        let narrower = self.sources.range(source..);
        let narrower = narrower.take_while(move |(network, _)| source.covers(network));
        narrower.map(|(_, target)| target).chain(wider)
    }
}

impl fmt::Display for BlockedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            BlockTarget::Identity(identity) => write!(f, "identity {identity}")?,
            BlockTarget::Serial(serial) => {
                write!(f, "certificate serial number {}", display_serial(serial))?;
            }
        }
        match self.until {
            Some(until) => write!(f, " is blocked until {until:.0}"),
            None => f.write_str(" is blocked"),
        }
    }
}

/// Converts a serial number to lower-case hexadecimal without leading zeros. Accepts the formats of
/// `openssl x509 -serial` and `-text`: upper or lower case, with or without colons. Returns `None`
/// if the text is not hexadecimal.
pub fn normalize_serial(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let is_hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| {
        let digits = digits.to_ascii_lowercase();
        match digits.trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_owned(),
        }
    })
}

/// Formats a normalized serial number as in the access log: upper case, whole bytes.
pub fn display_serial(serial: &str) -> String {
    let pad = if serial.len() % 2 == 1 { "0" } else { "" };
    format!("{pad}{}", serial.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn serial_numbers_are_normalized() {
        for (text, expected) in [
            ("0A1B", Some("a1b")),
            ("0a:1b", Some("a1b")),
            ("00", Some("0")),
            ("", None),
            (":", None),
            ("0x1f", None),
            ("client1", None),
        ] {
            assert_eq!(normalize_serial(text).as_deref(), expected, "{text}");
        }
        assert_eq!(display_serial("a1b"), "0A1B");
        assert_eq!(display_serial("1f"), "1F");
    }

    #[test]
    fn block_applies_until_it_expires() {
        let blocks = Blocks::default();
        let identity = ClientId::from("cn:web1");
        assert_eq!(blocks.find(&identity, None, at(0)), None);
        let target = BlockTarget::Identity("cn:web1".to_owned());
        blocks.replace(BlockList([(target.clone(), Some(at(10)))].into()));
        let found = blocks.find(&identity, None, at(9)).unwrap();
        assert_eq!(
            found.to_string(),
            "identity cn:web1 is blocked until 1970-01-01T00:00:10Z"
        );
        assert_eq!(blocks.find(&identity, None, at(10)), None);
        assert_eq!(blocks.find(&ClientId::from("cn:web2"), None, at(9)), None);
        blocks.replace(BlockList::default());
        assert_eq!(blocks.find(&identity, None, at(9)), None);
    }

    #[test]
    fn blocked_network_applies_to_sources_that_overlap_with_it() {
        let blocks = Blocks::default();
        let is_blocked = |block: &str, source: &str| {
            let target = normalize_identity(&format!("source:{block}")).unwrap();
            blocks.replace(BlockList(
                [(BlockTarget::Identity(target), Some(at(10)))].into(),
            ));
            let client = ClientId::from(format!("source:{source}"));
            assert_eq!(blocks.find(&client, None, at(10)), None, "expired");
            blocks.find(&client, None, at(9)).is_some()
        };
        for (block, source, expected) in [
            ("10.0.0.7/32", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.8", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "10.1.2.3", true),
            ("0.0.0.0/0", "2001:db8::/64", false),
            // The listener counts a /24 as one client.
            ("10.0.0.7", "10.0.0.0/24", true),
            ("10.0.1.7", "10.0.0.0/24", false),
            ("2001:db8::1", "2001:db8::/64", true),
            ("2001:db8:0:1::1", "2001:db8::/64", false),
            ("2001:db8::/32", "2001:db8:0:1::/64", true),
            ("::1", "::1", true),
        ] {
            assert_eq!(is_blocked(block, source), expected, "{block} {source}");
        }
        let client = ClientId::from("cn:10.0.0.7");
        assert_eq!(blocks.find(&client, None, at(9)), None);
    }
}
