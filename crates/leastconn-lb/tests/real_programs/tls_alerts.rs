use crate::{
    openssl::s_client,
    program::{Input, run_with},
    site::{Records, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    refusals_send_specific_alerts,
}

async fn refusals_send_specific_alerts(records: Records) {
    let mut site = Site::with_records(records).await;
    site.certs.revoke("client2").await;
    site.restart().await;

    let mut records = 0;
    for version in ["-tls1_2", "-tls1_3"] {
        for (client, alert, reason) in [
            (None, "alert certificate required", "no_certificate"),
            (
                Some("alt/client1"),
                "alert unknown ca",
                "untrusted_certificate",
            ),
            (
                Some("expired"),
                "alert certificate expired",
                "expired_certificate",
            ),
            (
                Some("client2"),
                "alert certificate revoked",
                "revoked_certificate",
            ),
        ] {
            let mut openssl = s_client(&site.certs, site.address(), client);
            let ended = run_with(openssl.arg(version), Input::Open(b"")).await;
            assert_ne!(ended.code, 0, "{version} {client:?}: {ended:#?}");
            assert!(
                ended.all().contains(alert),
                "{version} {client:?}: {ended:#?}"
            );
            records += 1;
            let all = site.balancer.wait_records(records).await;
            assert_eq!(
                all.last().unwrap()["outcome"],
                reason,
                "{version} {client:?}"
            );
        }
        // Policy says no after the handshake: an orderly end, without an alert.
        let mut openssl = s_client(&site.certs, site.address(), Some("stranger"));
        let ended = run_with(openssl.arg(version), Input::Open(b"")).await.ok();
        assert!(!ended.all().contains("alert"), "{version}: {ended:#?}");
        records += 1;
        let all = site.balancer.wait_records(records).await;
        assert_eq!(
            all.last().unwrap()["outcome"],
            "unknown_client",
            "{version}"
        );
    }
    site.finish().await;
}
