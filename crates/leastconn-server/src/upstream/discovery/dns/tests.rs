use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, rdata::SRV},
};
use tokio::net::UdpSocket;

use super::*;

fn candidates(name: &str, ndots: usize) -> Vec<String> {
    let search = ["default.svc.cluster.local", "cluster.local"];
    let (config, mut options) = configured(&["127.0.0.1:53".parse().unwrap()]);
    options.ndots = ndots;
    let search = search.iter().map(|name| Name::from_ascii(name).unwrap());
    let config = ResolverConfig::from_parts(None, search.collect(), config.name_servers);
    let resolver = Resolver::new(config, options, AddressFamily::Any).unwrap();
    let names = resolver.candidates(name).unwrap();
    names.iter().map(Name::to_ascii).collect()
}

#[tokio::test]
async fn search_domains_apply_as_in_the_c_library() {
    let (short, first, second) = (
        "web.",
        "web.default.svc.cluster.local.",
        "web.cluster.local.",
    );
    assert_eq!(candidates("web", 5), [first, second, short]);
    assert_eq!(candidates("web", 0), [short, first, second]);
    assert_eq!(candidates("web.", 5), [short]);
    assert_eq!(candidates("a.b", 1)[0], "a.b.");
    assert_eq!(candidates("a.b", 2)[2], "a.b.");
}

#[tokio::test]
async fn query_timeout_is_between_one_and_two_seconds() {
    for (configured, used) in [(0, 1), (1, 1), (30, 2)] {
        let resolv_conf = format!("nameserver 127.0.0.1\noptions timeout:{configured}\n");
        let (config, options) = parse_resolv_conf(&resolv_conf).unwrap();
        let resolver = Resolver::new(config, options, AddressFamily::Any).unwrap();
        assert_eq!(resolver.dns.options().timeout, Duration::from_secs(used));
    }
}

#[test]
fn addresses_that_no_server_can_have_are_rejected() {
    let is_usable = |address: &str| is_usable(address.parse().unwrap());
    for address in ["10.0.0.1", "127.0.0.1", "fd00::1", "::1", "::ffff:10.0.0.1"] {
        assert!(is_usable(address), "{address}");
    }
    for address in [
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ] {
        assert!(!is_usable(address), "{address}");
    }
}

/// What the DNS server of a test answers to one query.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Records(Vec<RData>),
    /// Contains records of other names as well, in the additional section.
    WithAdditional(Vec<RData>, Vec<(Name, RData)>),
    Code(ResponseCode),
}

pub(super) fn ip(address: &str) -> RData {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

pub(super) fn ips(addresses: &[&str]) -> Reply {
    Reply::Records(addresses.iter().map(|address| ip(address)).collect())
}

pub(super) fn srv(targets: &[(&str, u16)]) -> Reply {
    let data = |&(target, port): &(&str, u16)| {
        RData::SRV(SRV::new(0, 0, port, Name::from_ascii(target).unwrap()))
    };
    Reply::Records(targets.iter().map(data).collect())
}

/// A client of a DNS server with these replies. The server knows no other names, and no other
/// records of these names.
pub(super) async fn client(
    replies: &[(&str, RecordType, Reply)],
    family: AddressFamily,
) -> DnsClient {
    let replies: Vec<_> = replies
        .iter()
        .map(|(name, kind, reply)| (Name::from_ascii(name).unwrap(), *kind, reply.clone()))
        .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let mut message = Message::from_vec(&packet[..length])
                .unwrap()
                .into_response();
            let query = message.queries[0].clone();
            let name = query.name().to_lowercase();
            let is_same = |(known, kind, _): &&(Name, RecordType, Reply)| {
                *known == name && *kind == query.query_type()
            };
            match replies.iter().find(is_same).map(|(_, _, reply)| reply) {
                Some(Reply::Records(records)) => {
                    let record = |data: &RData| Record::from_rdata(name.clone(), 60, data.clone());
                    message.answers = records.iter().map(record).collect();
                }
                Some(Reply::WithAdditional(records, others)) => {
                    let record = |name: &Name, data: &RData| {
                        Record::from_rdata(name.clone(), 60, data.clone())
                    };
                    message.answers = records.iter().map(|data| record(&name, data)).collect();
                    let others = others.iter().map(|(name, data)| record(name, data));
                    message.additionals = others.collect();
                }
                Some(Reply::Code(code)) => message.metadata.response_code = *code,
                None if replies.iter().any(|(known, ..)| *known == name) => {}
                None => message.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&message.to_vec().unwrap(), from).await;
        }
    });
    DnsClient::new(&Discovery {
        resolvers: vec![address],
        family,
        ..Discovery::default()
    })
}

pub(super) fn found(answer: &Answer) -> Vec<String> {
    let servers = answer.servers.iter();
    servers
        .map(|server| format!("{}={}", server.id, server.address))
        .collect()
}

pub(super) const SERVFAIL: Reply = Reply::Code(ResponseCode::ServFail);

#[tokio::test]
async fn one_family_may_have_no_records() {
    let replies = [("web.", RecordType::A, ips(&["10.0.0.1"]))];
    let mut client = client(&replies, AddressFamily::Any).await;
    let answer = client.addresses("web.", 80).await.unwrap();
    assert_eq!(found(&answer), ["10.0.0.1:80=10.0.0.1:80"]);
    assert_eq!((answer.unknown, answer.problem), (vec![], None));
}

#[tokio::test]
async fn failed_family_leaves_only_its_servers_unknown() {
    let replies = [
        ("web.", RecordType::A, ips(&["10.0.0.1"])),
        ("web.", RecordType::AAAA, SERVFAIL),
    ];
    let mut any = client(&replies, AddressFamily::Any).await;
    let answer = any.addresses("web.", 80).await.unwrap();
    assert_eq!(answer.unknown, [UnknownServers::V6]);
    let problem = answer.problem.unwrap();
    assert!(problem.starts_with("AAAA: "), "{problem}");
    let mut v4 = client(&replies, AddressFamily::V4).await;
    let answer = v4.addresses("web.", 80).await.unwrap();
    assert_eq!((answer.unknown, answer.problem), (vec![], None));
}

#[tokio::test]
async fn invalid_addresses_are_not_servers() {
    let replies = [
        ("web.", RecordType::A, ips(&["0.0.0.0", "10.0.0.1"])),
        ("blocked.", RecordType::A, ips(&["0.0.0.0"])),
    ];
    let mut client = client(&replies, AddressFamily::Any).await;
    let answer = client.addresses("web.", 80).await.unwrap();
    assert_eq!(found(&answer), ["10.0.0.1:80=10.0.0.1:80"]);
    let problem = answer.problem.unwrap();
    assert!(problem.contains("0.0.0.0"), "{problem}");
    let error = client.addresses("blocked.", 80).await.unwrap_err();
    assert!(matches!(error, DnsError::InvalidAddress(_)), "{error}");
    assert!(!error.is_empty_answer());
}

#[tokio::test]
async fn hosts_file_takes_precedence_over_dns() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    std::fs::write(&path, "10.0.0.1 web\nfd00::1 web\n").unwrap();
    let client = |family| DnsClient {
        hosts: path.clone(),
        ..DnsClient::new(&Discovery {
            family,
            ..Discovery::default()
        })
    };
    let mut any = client(AddressFamily::Any);
    let answer = any.addresses("web", 80).await.unwrap();
    let both = ["10.0.0.1:80=10.0.0.1:80", "[fd00::1]:80=[fd00::1]:80"];
    assert_eq!(found(&answer), both);
    assert_eq!((answer.ttl, answer.problem), (None, None));
    let answer = client(AddressFamily::V6).addresses("web", 80).await;
    assert_eq!(found(&answer.unwrap()), both[1..]);
    // Changes apply at the next look-up.
    std::fs::write(&path, "10.0.0.2 WEB\n").unwrap();
    let answer = any.addresses("web", 80).await.unwrap();
    assert_eq!(found(&answer), ["10.0.0.2:80=10.0.0.2:80"]);
}

#[tokio::test]
async fn dns_servers_and_absolute_names_bypass_hosts_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    std::fs::write(&path, "10.0.0.1 web web.\n").unwrap();
    let replies = [("web.", RecordType::A, ips(&["10.0.0.9"]))];
    let mut configured = client(&replies, AddressFamily::V4).await;
    configured.hosts = path.clone();
    let answer = configured.addresses("web", 80).await.unwrap();
    assert_eq!(found(&answer), ["10.0.0.9:80=10.0.0.9:80"]);

    let mut system = DnsClient::new(&Discovery::default());
    system.hosts = path;
    assert!(system.addresses_in_hosts("web.").await.unwrap().is_empty());
    assert!(!system.addresses_in_hosts("web").await.unwrap().is_empty());
}

#[tokio::test]
async fn missing_hosts_file_is_no_error() {
    let mut system = DnsClient::new(&Discovery::default());
    system.hosts = PathBuf::from("/nonexistent/hosts");
    assert!(system.addresses_in_hosts("web").await.unwrap().is_empty());
}
