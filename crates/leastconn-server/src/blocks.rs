//! Clients that operators have blocked: by identity, or by the serial number of their certificate.

use std::{collections::BTreeMap, fmt};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use leastconn::ClientId;
use leastconn_config::text::escape;
use leastconn_fleet::BlockTarget;
use leastconn_tls::certificate::Certificate;

/// The blocks in force. Authorization reads them without a lock. If there are none, this costs one
/// atomic load.
#[derive(Debug, Default)]
pub struct Blocks(ArcSwapOption<BlockList>);

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
        let list = (!list.0.is_empty()).then(|| list.into());
        self.0.store(list);
    }

    /// Returns the block that applies to this client at `now`.
    pub fn find(
        &self,
        identity: &ClientId,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Option<BlockedBy> {
        let list = self.0.load();
        list.as_ref()?.find(identity, certificate, now)
    }
}

impl BlockList {
    fn find(
        &self,
        identity: &ClientId,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Option<BlockedBy> {
        let identity = BlockTarget::Identity(escape(identity.as_str()));
        let serial = certificate.and_then(|certificate| {
            let serial = normalize_serial(&certificate.serial)?;
            Some(BlockTarget::Serial(serial))
        });
        [Some(identity), serial]
            .into_iter()
            .flatten()
            .find_map(|target| {
                let until = *self.0.get(&target)?;
                let applies = until.is_none_or(|until| until > now);
                applies.then_some(BlockedBy { target, until })
            })
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
}
