//! With `resumption = "on"`, clients can resume sessions at the same listener. Rules and
//! limits also apply to resumed sessions.

use leastconn_testkit::{TlsClient, Upstream};
use rustls::HandshakeKind;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, refused, talk,
};

both_record_layers! {
    #[tokio::test]
    returning_client_resumes,
    #[tokio::test]
    session_is_bound_to_its_listener,
    #[tokio::test]
    limits_and_rules_apply_to_resumed_sessions,
    #[tokio::test]
    revoked_client_cannot_resume,
}

fn resuming() -> String {
    TLS.replace(" }", ", resumption = \"on\" }")
}

/// Connects once, and returns whether the session was resumed. Asserts that the client and the
/// access record agree.
async fn resumes(lb: &Running, client: &TlsClient, listener: &str) -> bool {
    let before = lb.records().len();
    let mut stream = client.connect(lb.address(listener)).await.unwrap();
    // Any session tickets arrive before the greeting.
    talk(&mut stream).await.unwrap();
    let record = lb.expect_record(before, "ok").await;
    assert_eq!(record["identity"], "cn:client1.lb.com", "{record}");
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    assert_eq!(record["resumed"] == true, resumed, "{record}");
    assert_eq!(record.get("resumed").is_some(), resumed, "{record}");
    resumed
}

async fn returning_client_resumes(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &resuming()])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1).with_resumption();
    for client in [client.clone().tls12(), client.tls13()] {
        assert!(!resumes(&lb, &client, "main").await);
        for _ in 0..3 {
            assert!(resumes(&lb, &client, "main").await);
        }
    }
    // Clients need not support resumption.
    assert!(!resumes(&lb, &lb.client(CLIENT1), "main").await);
    lb.quiet().await;
}

async fn session_is_bound_to_its_listener(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &resuming()])
        .listener("other", &["upstream = \"web\"", &resuming()])
        .listener("without", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    for version in [TlsClient::tls12, TlsClient::tls13] {
        for elsewhere in ["other", "without"] {
            let client = version(client.clone()).with_resumption();
            assert!(!resumes(&lb, &client, "main").await);
            // The client considers both listeners to be one server, and offers its session to
            // the second listener.
            assert!(!resumes(&lb, &client, elsewhere).await, "{elsewhere}");
        }
    }
    lb.quiet().await;
}

async fn limits_and_rules_apply_to_resumed_sessions(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &resuming()])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client(
            "client1",
            &cn(CLIENT1),
            "web",
            "rate_limit = { rate = 0.001, burst = 2 }",
        )
        .start()
        .await;
    let client = lb.client(CLIENT1).with_resumption().tls12();
    assert!(!resumes(&lb, &client, "main").await);
    assert!(resumes(&lb, &client, "main").await);
    assert_eq!(refused(&client, lb.main()).await, None);
    let record = lb.expect_record(2, "rate_limited").await;
    assert_eq!(record["resumed"], true, "{record}");
    // A client that matches no rule, with and without a session.
    let stranger = lb.client("stranger").with_resumption().tls12();
    for (n, resumed) in [(3, false), (4, true)] {
        assert_eq!(refused(&stranger, lb.main()).await, None);
        let record = lb.expect_record(n, "unknown_client").await;
        assert_eq!(record["resumed"] == true, resumed, "{record}");
    }
    assert_eq!(web.accepted(), 2);
    lb.quiet().await;
}

/// After a revocation by CRL or by removing the authority, old sessions are not resumed,
/// and the full handshake fails.
async fn revoked_client_cannot_resume(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::new()
        .records(records)
        .process("watch = \"off\"")
        .listener("main", &["upstream = \"web\"", &resuming()])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let ca = lb.ca();
    let cert = ca.leaf(CLIENT1).build();
    let versions = [TlsClient::tls12, TlsClient::tls13];
    let clients = versions.map(|version| version(lb.client_with(&cert)).with_resumption());
    for client in &clients {
        assert!(!resumes(&lb, client, "main").await);
        assert!(resumes(&lb, client, "main").await);
    }
    // A reload that does not change the listener keeps its sessions.
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    for client in &clients {
        assert!(resumes(&lb, client, "main").await);
    }
    ca.write_crl(lb.dir(), &[&cert]);
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    for (n, client) in (6..).zip(&clients) {
        let _ = refused(client, lb.main()).await;
        lb.expect_record(n, "revoked_certificate").await;
    }
    let other = leastconn_testkit::TestCa::new("another CA");
    std::fs::write(lb.dir().join("ca.crt"), other.cert_pem()).unwrap();
    other.write_crl(lb.dir(), &[]);
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    for (n, client) in (8..).zip(&clients) {
        let _ = refused(client, lb.main()).await;
        lb.expect_record(n, "untrusted_certificate").await;
    }
    assert_eq!(web.accepted(), 6);
    lb.quiet().await;
}
