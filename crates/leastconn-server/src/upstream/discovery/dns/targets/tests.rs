use hickory_resolver::proto::rr::RecordType;

use super::*;
use crate::upstream::discovery::{
    dns::{
        DnsClient,
        tests::{Reply, SERVFAIL, client, found, ip, ips, srv},
    },
    members::UnknownServers,
};

#[test]
fn a_target_with_both_families_is_one_server() {
    let all =
        |list: &[&str]| -> BTreeSet<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
    let v4 = all(&["10.0.0.1", "10.0.0.2"]);
    let both = all(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
    assert_eq!(one_family(&both), Vec::from_iter(v4));
    assert_eq!(
        one_family(&all(&["fd00::1"])),
        Vec::from_iter(all(&["fd00::1"]))
    );
}

#[tokio::test]
async fn srv_target_without_address_leaves_answer_complete() {
    let targets = [("web-0.site.", 80), ("gone.site.", 80), (".", 80)];
    let replies = [
        ("_http._tcp.site.", RecordType::SRV, srv(&targets)),
        ("web-0.site.", RecordType::A, ips(&["10.0.0.1"])),
    ];
    let mut client = client(&replies, AddressFamily::Any).await;
    let mut names = SrvNames::default();
    let answer = client.records("_http._tcp.site.", &mut names).await;
    let answer = answer.unwrap();
    assert_eq!(found(&answer), ["web-0=10.0.0.1:80"]);
    assert_eq!((answer.unknown, answer.problem), (vec![], None));
}

#[tokio::test]
async fn failed_srv_target_and_port_zero_are_reported() {
    let targets = [("web-0.site.", 80), ("web-1.site.", 80), ("web-2.site.", 0)];
    let ok = [
        ("_http._tcp.site.", RecordType::SRV, srv(&targets)),
        ("web-0.site.", RecordType::A, ips(&["10.0.0.1"])),
        ("web-1.site.", RecordType::A, ips(&["10.0.0.2"])),
        ("web-2.site.", RecordType::A, ips(&["10.0.0.3"])),
    ];
    let mut failing = ok.clone();
    failing[2].2 = SERVFAIL;
    let mut names = SrvNames::default();
    let mut client_ok = client(&ok, AddressFamily::V4).await;
    let answer = client_ok.records("_http._tcp.site.", &mut names).await;
    let answer = answer.unwrap();
    assert_eq!(found(&answer), ["web-0=10.0.0.1:80", "web-1=10.0.0.2:80"]);
    assert_eq!(answer.unknown, []);
    assert_eq!(answer.problem.as_deref(), Some("web-2.site: the port is 0"));

    let mut client_failing = client(&failing, AddressFamily::V4).await;
    let answer = client_failing.records("_http._tcp.site.", &mut names).await;
    let answer = answer.unwrap();
    assert_eq!(found(&answer), ["web-0=10.0.0.1:80"]);
    assert_eq!(answer.unknown, [UnknownServers::Target("web-1".to_owned())]);
    let problem = answer.problem.unwrap();
    assert!(problem.ends_with("(and 1 more)"), "{problem}");
}

#[tokio::test]
async fn srv_records_without_usable_targets_are_a_failure() {
    let targets = [("web-0.site.", 80), ("web-1.site.", 80)];
    let replies = [
        ("_http._tcp.site.", RecordType::SRV, srv(&targets)),
        ("web-0.site.", RecordType::A, SERVFAIL),
        ("web-1.site.", RecordType::A, ips(&["255.255.255.255"])),
    ];
    let mut client = client(&replies, AddressFamily::V4).await;
    let mut names = SrvNames::default();
    let error = client.records("_http._tcp.site.", &mut names).await;
    let error = error.unwrap_err();
    assert!(matches!(error, DnsError::NoUsableRecords(_)), "{error}");
}

const NAME: &str = "_http._tcp.site.";

/// The reply to the query for [`NAME`], with addresses of the targets in the additional section.
fn with_additional(targets: &[(&str, u16)], addresses: &[(&str, &str)]) -> Reply {
    let Reply::Records(records) = srv(targets) else {
        unreachable!("`srv` returns records");
    };
    let additional = addresses
        .iter()
        .map(|(target, address)| (Name::from_ascii(target).unwrap(), ip(address)));
    Reply::WithAdditional(records, additional.collect())
}

async fn servers(client: &mut DnsClient, names: &mut SrvNames) -> Vec<String> {
    found(&client.records(NAME, names).await.unwrap())
}

#[tokio::test]
async fn complete_additional_section_needs_no_lookup() {
    let targets = [("web-0.site.", 80)];
    let additional = [
        ("web-0.site.", "fd00::1"),
        ("web-0.site.", "10.0.0.1"),
        ("other.site.", "10.0.0.9"),
    ];
    let replies = [
        (
            NAME,
            RecordType::SRV,
            with_additional(&targets, &additional),
        ),
        ("web-0.site.", RecordType::A, SERVFAIL),
    ];
    let mut client = client(&replies, AddressFamily::Any).await;
    let found = servers(&mut client, &mut SrvNames::default()).await;
    assert_eq!(found, ["web-0=10.0.0.1:80"]);
}

#[tokio::test]
async fn addresses_missing_from_the_additional_section_are_looked_up() {
    let targets = [
        ("web-0.site.", 80),
        ("web-1.site.", 80),
        ("web-2.site.", 80),
    ];
    let addresses = [
        ("web-0.site.", RecordType::A, ips(&["10.0.0.1"])),
        ("web-1.site.", RecordType::A, ips(&["10.0.0.2", "10.0.0.3"])),
        ("web-2.site.", RecordType::AAAA, ips(&["fd00::2"])),
    ];
    let all = [
        "web-0=10.0.0.1:80",
        "web-1=10.0.0.2:80",
        "web-1-10.0.0.3=10.0.0.3:80",
        "web-2=[fd00::2]:80",
    ];
    let mut names = SrvNames::default();
    for additional in [
        &[][..],
        // The IPv4 address of `web-0` and both addresses of `web-2` are missing.
        &[("web-0.site.", "fd00::1")],
        // One address of `web-1` is missing.
        &[("web-0.site.", "10.0.0.1"), ("web-1.site.", "10.0.0.3")],
    ] {
        let mut replies = addresses.to_vec();
        let reply = with_additional(&targets, additional);
        replies.push((NAME, RecordType::SRV, reply));
        let mut client = client(&replies, AddressFamily::Any).await;
        assert_eq!(servers(&mut client, &mut names).await, all);
    }
}

#[tokio::test]
async fn failed_lookup_leaves_server_at_its_ipv4_address() {
    let targets = [("web-0.site.", 80), ("web-1.site.", 80)];
    let replies = |v4| {
        [
            (NAME, RecordType::SRV, srv(&targets)),
            ("web-0.site.", RecordType::A, v4),
            ("web-0.site.", RecordType::AAAA, ips(&["fd00::1"])),
            ("web-1.site.", RecordType::A, ips(&["10.0.0.2"])),
        ]
    };
    let mut names = SrvNames::default();
    let mut failing = client(&replies(SERVFAIL), AddressFamily::Any).await;
    // No address is known yet, so the IPv6 address is better than none.
    let all = ["web-0=[fd00::1]:80", "web-1=10.0.0.2:80"];
    assert_eq!(servers(&mut failing, &mut names).await, all);

    let mut working = client(&replies(ips(&["10.0.0.1"])), AddressFamily::Any).await;
    let all = ["web-0=10.0.0.1:80", "web-1=10.0.0.2:80"];
    assert_eq!(servers(&mut working, &mut names).await, all);

    let answer = failing.records(NAME, &mut names).await.unwrap();
    assert_eq!(found(&answer), ["web-1=10.0.0.2:80"]);
    assert_eq!(answer.unknown, [UnknownServers::Target("web-0".to_owned())]);
}

#[tokio::test]
async fn records_above_twice_the_maximum_are_not_looked_up() {
    let targets = ["a.site.", "b.site.", "c.site.", "d.site.", "e.site."];
    let records = targets.map(|target| (target, 80));
    let mut replies = vec![(NAME, RecordType::SRV, srv(&records))];
    let address = ips(&["10.0.0.1"]);
    // A look-up of the last target would fail, and the failure would be reported.
    let of_target = |(index, target)| match index {
        4 => (target, RecordType::A, SERVFAIL),
        _ => (target, RecordType::A, address.clone()),
    };
    replies.extend(targets.into_iter().enumerate().map(of_target));
    let mut client = client(&replies, AddressFamily::V4).await;
    client.max = 2;
    let answer = client.records(NAME, &mut SrvNames::default()).await;
    let answer = answer.unwrap();
    assert_eq!((answer.servers.len(), answer.omitted), (4, 1));
    assert_eq!(answer.problem, None);
}
