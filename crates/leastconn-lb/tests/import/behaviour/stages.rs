//! The stages of rules in HAProxy.

use std::fs;

use leastconn_testkit::TlsClient;

use super::{Site, served};

/// Rules for the senders of PROXY headers, and rules of a `listen` section for the clients of another
/// section.
const HAPROXY_STAGES: &str = "
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend behind
    bind PORT2 accept-proxy
    tcp-request connection reject if !{ src 127.0.0.2 127.0.0.4 }
    tcp-request session reject if { src 10.0.0.2 }
    tcp-request content reject if { nbsrv(shared) lt 1 }
    default_backend shared
listen shared
    bind PORT1 ssl crt server.pem ca-file ca.crt verify required
    tcp-request connection reject if { src 127.0.0.4 }
    tcp-request content reject if { src 10.0.0.3 }
    use_backend %[ssl_c_s_dn(cn),lower,map(names.map)]
    server web1 WEB1
backend two
    server web2 WEB2
";

#[tokio::test]
async fn haproxy_and_the_balancer_apply_rules_alike() {
    let mut site = Site::new().await;
    site.headers = vec![
        "PROXY TCP4 127.0.0.2 127.0.0.1 1 2\r\n",
        "PROXY TCP4 10.0.0.2 127.0.0.1 1 2\r\n",
        "PROXY TCP4 10.0.0.3 127.0.0.1 1 2\r\n",
    ];
    let capital = site.ca.leaf("Mallory.example.com").build();
    let client = TlsClient::new(&site.ca, Some(&capital));
    site.tls = vec![("Mallory", client), site.tls.remove(1)];
    let map = "Mallory.example.com two\nbob.example.com two\n";
    fs::write(site.dir.path().join("names.map"), map).unwrap();
    let reached = site.compare_haproxy(HAPROXY_STAGES).await;
    assert_eq!(
        served(&reached),
        [
            "Mallory to localhost: web1",
            "Mallory to db.example.com: web1",
            "bob to localhost: web2",
            "bob to db.example.com: web2",
            "from 127.0.0.2 127.0.0.2: web1",
            "from 127.0.0.4 127.0.0.2: web1",
        ]
    );
}
