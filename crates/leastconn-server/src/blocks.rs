//! Clients that operators have blocked: by identity, or by the serial number of their certificate.

mod expiry;
mod identity;

use std::{collections::BTreeMap, fmt, time::Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use leastconn::ClientId;
use leastconn_config::{IpNet, Prefixes, text::escape};
use leastconn_fleet::BlockTarget;
use leastconn_tls::certificate::Certificate;

pub use expiry::Expiry;
use identity::source_network;
pub use identity::{normalize_identity, unmatched};

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

/// Blocks, each with its end. `None` means that it does not expire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList(pub BTreeMap<BlockTarget, Option<Expiry>>);

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

    /// Returns the block that applies to this client. Reads the `clock` only if a block of this
    /// client can expire.
    pub fn find(
        &self,
        identity: &ClientId,
        certificate: Option<&Certificate>,
        clock: fn() -> Instant,
    ) -> Option<BlockedBy> {
        let in_force = self.0.load();
        in_force.as_ref()?.find(identity, certificate, clock)
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
        clock: fn() -> Instant,
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
            let expiry = *self.list.0.get(&target)?;
            let applies = expiry.is_none_or(|expiry| !expiry.is_over(clock()));
            applies.then(|| BlockedBy {
                target,
                until: expiry.map(|expiry| expiry.until()),
            })
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

/// Converts a serial number to lower-case hexadecimal without leading zeros. Accepts the format of
/// `openssl x509 -serial`, with or without colons and the prefix `0x`, and the formats of
/// `openssl x509 -text`: hexadecimal with colons, or `4096 (0x1000)`. A decimal number alone cannot
/// be distinguished from a hexadecimal number; see [`may_be_decimal`]. Returns `None` if the text is
/// not a serial number.
pub fn normalize_serial(text: &str) -> Option<String> {
    let text = match text.split_once(" (") {
        Some((decimal, rest)) => {
            let hex = rest.strip_suffix(')')?.strip_prefix("0x")?;
            let value = u64::from_str_radix(hex, 16).ok();
            value.filter(|value| decimal.parse() == Ok(*value))?;
            hex
        }
        None => text.strip_prefix("0x").unwrap_or(text),
    };
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

/// Whether `openssl x509 -text` could have printed these digits in decimal, as it does for short
/// serial numbers.
pub fn may_be_decimal(serial: &str) -> bool {
    serial.parse::<i64>().is_ok_and(|number| number > 9)
}

/// Formats a normalized serial number as in the access log: upper case, whole bytes.
pub fn display_serial(serial: &str) -> String {
    let pad = if serial.len() % 2 == 1 { "0" } else { "" };
    format!("{pad}{}", serial.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leastconn::net;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn two_hours_later() -> Instant {
        net::now() + 2 * HOUR
    }

    #[test]
    fn serial_numbers_are_normalized() {
        for (text, expected) in [
            ("0A1B", Some("a1b")),
            ("0a:1b", Some("a1b")),
            ("00", Some("0")),
            ("", None),
            (":", None),
            ("0x1f", Some("1f")),
            ("4096 (0x1000)", Some("1000")),
            ("4097 (0x1000)", None),
            ("4096 (1000)", None),
            ("0x", None),
            ("client1", None),
        ] {
            assert_eq!(normalize_serial(text).as_deref(), expected, "{text}");
        }
        assert_eq!(display_serial("a1b"), "0A1B");
        assert_eq!(display_serial("1f"), "1F");
        for (text, expected) in [
            ("4096", true),
            ("9", false),
            ("1f", false),
            ("0x4096", false),
            ("10:96", false),
            ("12345678901234567890", false),
        ] {
            assert_eq!(may_be_decimal(text), expected, "{text}");
        }
    }

    #[test]
    fn block_applies_until_it_expires() {
        let blocks = Blocks::default();
        let identity = ClientId::from("cn:web1");
        assert_eq!(blocks.find(&identity, None, net::now), None);
        let target = BlockTarget::Identity("cn:web1".to_owned());
        let expiry = Expiry::after(HOUR);
        blocks.replace(BlockList([(target.clone(), Some(expiry))].into()));
        let found = blocks.find(&identity, None, net::now).unwrap();
        assert_eq!(
            found.to_string(),
            format!("identity cn:web1 is blocked until {:.0}", expiry.until())
        );
        assert_eq!(blocks.find(&identity, None, two_hours_later), None);
        assert_eq!(
            blocks.find(&ClientId::from("cn:web2"), None, net::now),
            None
        );
        blocks.replace(BlockList::default());
        assert_eq!(blocks.find(&identity, None, net::now), None);
    }

    #[test]
    fn blocked_network_applies_to_sources_that_overlap_with_it() {
        let blocks = Blocks::default();
        let is_blocked = |block: &str, source: &str| {
            let target = normalize_identity(&format!("source:{block}")).unwrap();
            blocks.replace(BlockList(
                [(BlockTarget::Identity(target), Some(Expiry::after(HOUR)))].into(),
            ));
            let client = ClientId::from(format!("source:{source}"));
            let expired = blocks.find(&client, None, two_hours_later);
            assert_eq!(expired, None, "expired");
            blocks.find(&client, None, net::now).is_some()
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
        assert_eq!(blocks.find(&client, None, net::now), None);
    }
}
