//! Servers that are verified by URI or public key instead of a name.

use leastconn_testkit::client::{read_line, read_to_close};
use leastconn_testkit::{Behaviour, Cert, Upstream};
use tokio::io::AsyncWriteExt;

use crate::support::tls_servers::{Servers, VERSIONS};
use crate::support::{NO_PROBES, entry, spki, tcp};

const ID: &str = "spiffe://lb.com/web";

#[tokio::test]
async fn servers_are_verified_by_uri_or_pin() {
    let servers = Servers::new();
    let leaf = || servers.ca.leaf("web").uri(ID);
    let good = leaf().build();
    let other = servers.ca.leaf("web").uri("spiffe://lb.com/db").build();
    let nameless = servers.ca.leaf("web").dns("web.internal").build();
    let two = leaf().uri("spiffe://lb.com/db").build();
    let alone = leaf().self_signed().build();
    let expired = leaf().self_signed().validity(-7200, -3600).build();
    let by_uri = format!("ca = \"servers.crt\", uri = \"{ID}\"");
    let pin = |cert: &Cert| format!("pin = [\"{}\"]", spki(cert));
    let with_ca = |cert: &Cert| format!("ca = \"servers.crt\", {}", pin(cert));
    let cases: Vec<(&Cert, String, Option<&str>)> = vec![
        (&good, by_uri.clone(), None),
        (&good, by_uri.replace("/web", "/*"), None),
        (
            &other,
            by_uri.clone(),
            Some("is not for `spiffe://lb.com/web`: it is for spiffe://lb.com/db"),
        ),
        (
            &nameless,
            by_uri.clone(),
            Some("is not for `spiffe://lb.com/web`: it has no URI"),
        ),
        (&two, by_uri.clone(), Some("is ambiguous")),
        (
            &alone,
            by_uri.clone(),
            Some("was not issued by an authority of `ca`"),
        ),
        (&alone, pin(&alone), None),
        (&good, pin(&good), None),
        (
            &good,
            pin(&alone),
            Some("has a key that `pin` does not name"),
        ),
        (&expired, pin(&expired), Some("expired at")),
        (&good, with_ca(&good), None),
        (
            &alone,
            with_ca(&alone),
            Some("was not issued by an authority of `ca`"),
        ),
        (
            &good,
            with_ca(&other),
            Some("has a key that `pin` does not name"),
        ),
        (
            &good,
            format!("{}, server_name = \"web.internal\"", with_ca(&good)),
            Some("is not for `web.internal`"),
        ),
    ];
    for (position, (cert, keys, expected)) in cases.into_iter().enumerate() {
        let (_, version) = VERSIONS[position % 2];
        let web = Upstream::start_tls_versions(
            Behaviour::Named("web1".to_owned()),
            cert,
            None,
            &[version],
        )
        .await;
        let tls = format!("tls = {{ {keys} }}");
        let lines = [
            NO_PROBES,
            "passive = { max_fails = 0 }",
            "retry_for = \"0s\"",
            &tls,
        ];
        let lb = servers
            .site(&lines, &[entry("web1", web.addr(), "")])
            .start()
            .await;
        let mut stream = tcp(lb.address("plain")).await;
        match expected {
            None => {
                assert_eq!(read_line(&mut stream).await.unwrap(), "web1", "{keys}");
                stream.shutdown().await.unwrap();
                read_to_close(&mut stream).await.unwrap();
                lb.expect_record(0, "ok").await;
            }
            Some(expected) => {
                let _ = read_to_close(&mut stream).await;
                let record = lb.expect_record(0, "connect_failed").await;
                let detail = record["detail"].as_str().unwrap();
                assert!(
                    detail.contains(expected),
                    "{keys}: {detail}\n  should contain: {expected}"
                );
            }
        }
        lb.quiet().await;
    }
}
