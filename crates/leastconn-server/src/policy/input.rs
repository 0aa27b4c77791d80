//! The input of client rules.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use leastconn::ClientId;
use leastconn_config::{IpNet, MatchKey, Prefixes};
use leastconn_tls::certificate::Certificate;

/// What client rules match against.
#[derive(Clone, Copy, Debug)]
pub struct RuleInput<'a> {
    pub source: IpAddr,
    /// Prefix lengths that turn an address into its source network.
    pub prefixes: Prefixes,
    /// The verified certificate; `None` if the listener requires no certificate.
    pub certificate: Option<&'a Certificate>,
}

impl RuleInput<'_> {
    /// The default identity of a client: taken from its certificate or, without one, its source
    /// network.
    pub fn identity(&self) -> ClientId {
        self.certificate
            .map_or_else(|| self.source_identity(), MatchKey::default_identity)
    }

    fn source_identity(&self) -> ClientId {
        let source = match self.source {
            // The loopback address is one host, not part of a /64.
            IpAddr::V6(Ipv6Addr::LOCALHOST) => IpNet::only(self.source),
            source => IpNet::of(source, self.prefixes),
        };
        // Long enough for most texts: growing the string would cost several allocations.
        let mut identity = String::with_capacity(64);
        // Writing to a string cannot fail.
        let _ = write!(identity, "source:{source}");
        ClientId::from(identity.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use leastconn_testkit::{TestCa, pki::LeafBuilder};

    use super::*;

    static CA: LazyLock<TestCa> = LazyLock::new(|| TestCa::new("CA"));

    fn leaf(cn: &str) -> LeafBuilder<'static> {
        CA.leaf(cn)
    }

    fn read(leaf: LeafBuilder<'_>) -> Certificate {
        Certificate::from_der(leaf.build().der()).unwrap()
    }

    fn input(certificate: &Certificate) -> RuleInput<'_> {
        RuleInput {
            source: "10.0.0.7".parse().unwrap(),
            prefixes: Prefixes::default(),
            certificate: Some(certificate),
        }
    }

    #[test]
    fn default_identity_is_the_most_specific_name() {
        let name = |leaf| input(&read(leaf)).identity().as_str().to_owned();
        assert_eq!(name(leaf("a").dns("b").uri("urn:c")), "cn:a");
        assert_eq!(
            name(leaf("a").no_cn().uri("urn:c").dns("b").dns("d")),
            "dns:b"
        );
        assert_eq!(
            name(leaf("a").no_cn().uri("urn:c").uri("urn:d")),
            "uri:urn:c"
        );
        let cert = leaf("a").no_cn().ou("x").build();
        let read = Certificate::from_der(cert.der()).unwrap();
        assert_eq!(
            MatchKey::default_identity(&read).as_str(),
            format!("spki:{}", read.spki)
        );
        let source = |address: &str, prefixes| {
            let input = RuleInput {
                source: address.parse().unwrap(),
                prefixes,
                certificate: None,
            };
            input.identity().to_string()
        };
        let usual = Prefixes::default();
        assert_eq!(source("10.0.0.7", usual), "source:10.0.0.7");
        assert_eq!(source("::ffff:10.0.0.7", usual), "source:10.0.0.7");
        assert_eq!(source("2001:db8::1:2", usual), "source:2001:db8::/64");
        let wide = Prefixes { v4: 24, v6: 48 };
        assert_eq!(source("10.0.0.7", wide), "source:10.0.0.0/24");
        assert_eq!(source("2001:db8:0:1::2", wide), "source:2001:db8::/48");
        let each = Prefixes { v4: 32, v6: 128 };
        assert_eq!(source("2001:db8::1", each), "source:2001:db8::1");
        assert_eq!(source("::1", usual), "source:::1");
    }
}
